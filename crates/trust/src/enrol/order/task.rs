//! What an order asks for: the body of each kind.

use alloc::vec::Vec;

use gridseal_types::N16;

use super::super::{
    session::{
        Config,
        body::{read_commands, write_commands},
        payload::{ConfigMembers, read_tpm2b},
    },
    voucher::{ENTRIES_MAX, SECOND_SIZE_MAX},
    wire::{Read, Reader, Writer},
};

/// Kind of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum Kind {
    /// A new configuration, channel secrets included.
    #[n(1)]
    Provision,
    /// Quote and logs.
    #[n(2)]
    Attest,
    /// TPM sessions for the owner's commands.
    #[n(3)]
    Sessions,
    /// Tunnelled TPM commands.
    #[n(4)]
    Commands,
    /// Stop working.
    #[n(5)]
    Suspend,
    /// Work again.
    #[n(6)]
    Resume,
    /// Go to the next owner.
    #[n(7)]
    Release,
    /// Come to the end.
    #[n(8)]
    Decommission,
    /// Make a new TLS key, and a new storage key when told so.
    #[n(9)]
    Renew,
    /// The owner has a new key.
    #[n(10)]
    Rekey,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::Provision,
        Self::Attest,
        Self::Sessions,
        Self::Commands,
        Self::Suspend,
        Self::Resume,
        Self::Release,
        Self::Decommission,
        Self::Renew,
        Self::Rekey,
    ];

    /// Number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Provision => 1,
            Self::Attest => 2,
            Self::Sessions => 3,
            Self::Commands => 4,
            Self::Suspend => 5,
            Self::Resume => 6,
            Self::Release => 7,
            Self::Decommission => 8,
            Self::Renew => 9,
            Self::Rekey => 10,
        }
    }

    /// Name, as in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Attest => "attest",
            Self::Sessions => "sessions",
            Self::Commands => "commands",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Release => "release",
            Self::Decommission => "decommission",
            Self::Renew => "renew",
            Self::Rekey => "rekey",
        }
    }

    /// Whether the device belongs to this owner no longer once it is done: 7 and 8.
    #[must_use]
    pub const fn ends_ownership(self) -> bool {
        matches!(self, Self::Release | Self::Decommission)
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Read<Self> {
        let number = r.uint(1..=10)?;
        r.required(u8::try_from(number).ok().and_then(Self::from_number))
    }
}

/// Body of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// Kind 1.
    Provision(alloc::boxed::Box<Config>),
    /// Kind 2.
    Attest {
        /// TPML_PCR_SELECTION.
        pcr_selection: Vec<u8>,
        /// First IMA entry wanted.
        ima_next: u64,
    },
    /// Kind 3: one or two sessions, as many salts as nonces.
    Sessions {
        /// encryptedSalt of each session.
        salts: Vec<Vec<u8>>,
        /// nonceCaller of each session.
        nonce_callers: Vec<N16>,
    },
    /// Kind 4: one or two whole TPM commands, each in a session of the order before.
    Commands(Vec<Vec<u8>>),
    /// Kind 5.
    Suspend,
    /// Kind 6.
    Resume,
    /// Kind 7.
    Release {
        /// Encoded COSE_Sign1 of the voucher entry that names the next owner.
        entry: Vec<u8>,
        /// Its second signature as in [`super::super::voucher::Voucher::second`], empty when it names no second key; an
        /// extension of ours (member -1).
        second: Vec<u8>,
    },
    /// Kind 8.
    Decommission,
    /// Kind 9.
    Renew {
        /// Whether the storage key is to be renewed too.
        with_storage: bool,
    },
    /// Kind 10.
    Rekey {
        /// Encoded COSE_Sign1 of voucher entries of kind 2, in order.
        entries: Vec<Vec<u8>>,
        /// Their second signatures, one each, or none when no entry has one; an extension of ours (member -1).
        second: Vec<Vec<u8>>,
    },
}

impl Task {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Provision(_) => Kind::Provision,
            Self::Attest { .. } => Kind::Attest,
            Self::Sessions { .. } => Kind::Sessions,
            Self::Commands(_) => Kind::Commands,
            Self::Suspend => Kind::Suspend,
            Self::Resume => Kind::Resume,
            Self::Release { .. } => Kind::Release,
            Self::Decommission => Kind::Decommission,
            Self::Renew { .. } => Kind::Renew,
            Self::Rekey { .. } => Kind::Rekey,
        }
    }

    pub(super) fn write(&self, w: &mut Writer) {
        match self {
            Self::Provision(config) => config.write(w.map(Config::MEMBERS)),
            Self::Attest { pcr_selection, ima_next } => {
                w.map(2).key(1).bytes(pcr_selection).key(2).uint(*ima_next);
            }
            Self::Sessions { salts, nonce_callers } => {
                w.map(2).key(1).list(salts, |w, salt| {
                    w.bytes(salt);
                });
                w.key(2).list(nonce_callers, |w, nonce| {
                    w.bytes(nonce.as_bytes());
                });
            }
            Self::Commands(commands) => write_commands(w.map(1).key(1), commands),
            Self::Suspend | Self::Resume | Self::Decommission => {
                w.map(0);
            }
            Self::Release { entry, second } => {
                w.map(1 + usize::from(!second.is_empty())).key(1).bytes(entry);
                if !second.is_empty() {
                    w.key(-1).bytes(second);
                }
            }
            Self::Renew { with_storage } => {
                w.map(1).key(1).uint(u8::from(*with_storage));
            }
            Self::Rekey { entries, second } => {
                let write = |w: &mut Writer, key, list: &[Vec<u8>]| {
                    w.key(key).list(list, |w, item| {
                        w.bytes(item);
                    });
                };
                w.map(1 + usize::from(!second.is_empty()));
                write(w, 1, entries);
                if !second.is_empty() {
                    write(w, -1, second);
                }
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'_>, kind: Kind) -> Read<Self> {
        match kind {
            Kind::Provision => {
                let mut members = ConfigMembers::default();
                r.map(|r, key| members.take(r, key))?;
                Ok(Self::Provision(members.finish(r)?.into()))
            }
            Kind::Attest => {
                let (mut pcr_selection, mut ima_next) = (None, None);
                r.map(|r, key| {
                    match key {
                        1 => pcr_selection = Some(r.bytes(0..=256)?.to_vec()),
                        2 => ima_next = Some(r.uint(0..=u64::MAX)?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self::Attest {
                    pcr_selection: r.required(pcr_selection)?,
                    ima_next: r.required(ima_next)?,
                })
            }
            Kind::Sessions => read_sessions(r),
            Kind::Commands => only(r, |r| read_commands(r, 1)).map(Self::Commands),
            Kind::Suspend => nothing(r).map(|()| Self::Suspend),
            Kind::Resume => nothing(r).map(|()| Self::Resume),
            Kind::Release => read_release(r),
            Kind::Decommission => nothing(r).map(|()| Self::Decommission),
            Kind::Renew => only(r, |r| r.uint(0..=1)).map(|which| Self::Renew { with_storage: which == 1 }),
            Kind::Rekey => read_rekey(r),
        }
    }
}

fn read_sessions(r: &mut Reader<'_>) -> Read<Task> {
    let (mut salts, mut nonce_callers) = (None, None);
    r.map(|r, key| {
        match key {
            1 => salts = Some(r.list(1..=2, read_tpm2b)?),
            2 => nonce_callers = Some(r.list(1..=2, |r| r.fixed().map(N16))?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (salts, nonce_callers) = (r.required(salts)?, r.required(nonce_callers)?);
    if salts.len() == nonce_callers.len() {
        Ok(Task::Sessions { salts, nonce_callers })
    } else {
        r.fail("as many salts as nonces")
    }
}

fn read_release(r: &mut Reader<'_>) -> Read<Task> {
    let (mut entry, mut second) = (None, Vec::new());
    r.map(|r, key| {
        match key {
            1 => entry = Some(read_entry(r)?),
            -1 => second = r.bytes(1..=SECOND_SIZE_MAX)?.to_vec(),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Task::Release { entry: r.required(entry)?, second })
}

fn read_rekey(r: &mut Reader<'_>) -> Read<Task> {
    let (mut entries, mut second) = (None, Vec::new());
    r.map(|r, key| {
        match key {
            1 => entries = Some(r.list(1..=ENTRIES_MAX, read_entry)?),
            -1 => second = r.list(1..=ENTRIES_MAX, |r| Ok(r.bytes(0..=SECOND_SIZE_MAX)?.to_vec()))?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let entries = r.required(entries)?;
    if second.is_empty() || second.len() == entries.len() {
        Ok(Task::Rekey { entries, second })
    } else {
        r.fail("one second signature per entry")
    }
}

fn read_entry(r: &mut Reader<'_>) -> Read<Vec<u8>> {
    Ok(r.bytes(1..=1_024)?.to_vec())
}

/// A map with member 1 alone.
pub(super) fn only<'b, T>(r: &mut Reader<'b>, member: impl Fn(&mut Reader<'b>) -> Read<T>) -> Read<T> {
    let mut value = None;
    r.map(|r, key| match key {
        1 => member(r).map(|read| value = Some(read)).map(|()| true),
        _ => Ok(false),
    })?;
    r.required(value)
}

/// A map without members.
pub(super) fn nothing(r: &mut Reader<'_>) -> Read<()> {
    r.map(|_, _| Ok(false))
}
