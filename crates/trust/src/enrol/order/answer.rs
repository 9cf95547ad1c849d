//! What a device answers: the answer of each kind, and the body of a result.

use alloc::vec::Vec;

use gridseal_types::{Code, Digest, EkName, service::keys::TpmSession};

use super::{
    super::{
        document::{read_digest, read_name},
        session::{
            body::{
                read_attest, read_commands, read_pub, read_session, write_attest, write_commands,
                write_session,
            },
            payload::{read_pin, write_pin},
        },
        wire::{Read, Reader, Writer, encode},
    },
    Kind,
    task::{nothing, only},
};
use crate::{
    measured::{LOG_SIZE_MAX, Logs},
    root::{Attest, OwnerPin},
};

/// Answer to an order that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Kind 1: Names of the imported objects, in order.
    Provisioned(Vec<EkName>),
    /// Kind 2.
    Attested {
        /// Quote by the attestation key.
        quote: Attest,
        /// Event log and IMA list.
        logs: Logs,
        /// TPM_PT_PERMANENT.
        permanent: u32,
        /// Whether the platform hierarchy has an empty authorisation.
        platform_open: bool,
    },
    /// Kind 3.
    Sessions {
        /// In the order of the salts.
        sessions: Vec<TpmSession>,
        /// TPM_PT_PERMANENT: which authorisations are set.
        permanent: u32,
    },
    /// Kind 4.
    Responses {
        /// Whole responses; the first with rc != 0 ends the list.
        responses: Vec<Vec<u8>>,
        /// What the session of a Clear has audited, signed by the identity key: evidence that can be shown to others, an
        /// extension of ours (member -1). qualifyingData as for [`super::AUDIT_PURPOSE`].
        audit: Option<Attest>,
    },
    /// Kind 5.
    Suspended,
    /// Kind 6.
    Resumed,
    /// Kind 7: pin and counter are past this owner.
    Released,
    /// Kind 8: everything is wiped.
    Decommissioned {
        /// Quote by the identity key, second evidence that nothing depends on.
        identity_quote: Option<Attest>,
    },
    /// Kind 9.
    Renewed {
        /// TPMT_PUBLIC of the new TLS key.
        tls_pub: Vec<u8>,
        /// Its certification by the attestation key.
        certify_tls: Attest,
        /// PKCS#10 of it, DER.
        csr: Vec<u8>,
        /// The new storage key, when one was asked for.
        storage: Option<RenewedStorage>,
    },
    /// Kind 10: the pin as it is now.
    Rekeyed(OwnerPin),
}

/// A new storage key: no object is imported under it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewedStorage {
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Its certification by the attestation key.
    pub certify: Attest,
}

impl Answer {
    /// Kind of the order that it answers.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Provisioned(_) => Kind::Provision,
            Self::Attested { .. } => Kind::Attest,
            Self::Sessions { .. } => Kind::Sessions,
            Self::Responses { .. } => Kind::Commands,
            Self::Suspended => Kind::Suspend,
            Self::Resumed => Kind::Resume,
            Self::Released => Kind::Release,
            Self::Decommissioned { .. } => Kind::Decommission,
            Self::Renewed { .. } => Kind::Renew,
            Self::Rekeyed(_) => Kind::Rekey,
        }
    }

    fn write(&self, w: &mut Writer) {
        match self {
            Self::Provisioned(names) => {
                w.map(1).key(1).list(names, |w, name| {
                    w.bytes(name.as_bytes());
                });
            }
            Self::Attested { quote, logs, permanent, platform_open } => {
                write_attest(w.map(6).key(1), quote);
                let Logs { event_log, ima_first, ima_log } = logs;
                w.key(2).bytes(event_log).key(3).uint(*ima_first).key(4).bytes(ima_log);
                w.key(5).uint(*permanent).key(6).boolean(*platform_open);
            }
            Self::Sessions { sessions, permanent } => {
                w.map(2).key(1).list(sessions, write_session).key(2).uint(*permanent);
            }
            Self::Responses { responses, audit } => {
                write_commands(w.map(1 + usize::from(audit.is_some())).key(1), responses);
                if let Some(audit) = audit {
                    write_attest(w.key(-1), audit);
                }
            }
            Self::Suspended | Self::Resumed | Self::Released => {
                w.map(0);
            }
            Self::Decommissioned { identity_quote: None } => {
                w.map(0);
            }
            Self::Decommissioned { identity_quote: Some(quote) } => write_attest(w.map(1).key(9), quote),
            Self::Renewed { tls_pub, certify_tls, csr, storage } => {
                let optional = if storage.is_some() { 2 } else { 0 };
                write_attest(w.map(3 + optional).key(1).bytes(tls_pub).key(2), certify_tls);
                w.key(3).bytes(csr);
                if let Some(RenewedStorage { public, certify }) = storage {
                    write_attest(w.key(4).bytes(public).key(5), certify);
                }
            }
            Self::Rekeyed(pin) => write_pin(w.map(1).key(1), pin),
        }
    }

    fn read(r: &mut Reader<'_>, kind: Kind) -> Read<Self> {
        match kind {
            Kind::Provision => only(r, |r| r.list(0..=16, read_name)).map(Self::Provisioned),
            Kind::Attest => read_attested(r),
            Kind::Sessions => {
                let (mut sessions, mut permanent) = (None, None);
                r.map(|r, key| {
                    match key {
                        1 => sessions = Some(r.list(1..=2, read_session)?),
                        2 => permanent = Some(r.uint32()?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self::Sessions { sessions: r.required(sessions)?, permanent: r.required(permanent)? })
            }
            Kind::Commands => {
                let (mut responses, mut audit) = (None, None);
                r.map(|r, key| {
                    match key {
                        1 => responses = Some(read_commands(r, 1)?),
                        -1 => audit = Some(read_attest(r)?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self::Responses { responses: r.required(responses)?, audit })
            }
            Kind::Suspend => nothing(r).map(|()| Self::Suspended),
            Kind::Resume => nothing(r).map(|()| Self::Resumed),
            Kind::Release => nothing(r).map(|()| Self::Released),
            Kind::Decommission => {
                let mut identity_quote = None;
                r.map(|r, key| match key {
                    9 => read_attest(r).map(|quote| identity_quote = Some(quote)).map(|()| true),
                    _ => Ok(false),
                })?;
                Ok(Self::Decommissioned { identity_quote })
            }
            Kind::Renew => read_renewed(r),
            Kind::Rekey => only(r, read_pin).map(Self::Rekeyed),
        }
    }
}

fn read_attested(r: &mut Reader<'_>) -> Read<Answer> {
    let (mut quote, mut event_log, mut ima_first) = (None, None, None);
    let (mut ima_log, mut permanent, mut platform_open) = (None, None, None);
    r.map(|r, key| {
        match key {
            1 => quote = Some(read_attest(r)?),
            2 => event_log = Some(r.bytes(0..=LOG_SIZE_MAX)?.to_vec()),
            3 => ima_first = Some(r.uint(0..=u64::MAX)?),
            4 => ima_log = Some(r.bytes(0..=LOG_SIZE_MAX)?.to_vec()),
            5 => permanent = Some(r.uint32()?),
            6 => platform_open = Some(r.boolean()?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(Answer::Attested {
        quote: r.required(quote)?,
        logs: Logs {
            event_log: r.required(event_log)?,
            ima_first: r.required(ima_first)?,
            ima_log: r.required(ima_log)?,
        },
        permanent: r.required(permanent)?,
        platform_open: r.required(platform_open)?,
    })
}

fn read_renewed(r: &mut Reader<'_>) -> Read<Answer> {
    let (mut tls_pub, mut certify_tls, mut csr) = (None, None, None);
    let (mut public, mut certify) = (None, None);
    r.map(|r, key| {
        match key {
            1 => tls_pub = Some(read_pub(r)?),
            2 => certify_tls = Some(read_attest(r)?),
            3 => csr = Some(r.bytes(16..=4096)?.to_vec()),
            4 => public = Some(read_pub(r)?),
            5 => certify = Some(read_attest(r)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let storage = match (public, certify) {
        (Some(public), Some(certify)) => Some(RenewedStorage { public, certify }),
        (None, None) => None,
        _ => return r.fail("storage key and its certification come together"),
    };
    Ok(Answer::Renewed {
        tls_pub: r.required(tls_pub)?,
        certify_tls: r.required(certify_tls)?,
        csr: r.required(csr)?,
        storage,
    })
}

/// Body of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultBody {
    /// [`super::order_digest`] of the order.
    pub order: Digest,
    /// The answer, or why the order was not carried out.
    pub outcome: Result<Answer, Code>,
}

impl ResultBody {
    /// Encoded body. A refused order has a status that is not 0 and an empty answer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.map(3).key(1).bytes(self.order.as_bytes()).key(2);
            match &self.outcome {
                Ok(answer) => answer.write(w.uint(0u8).key(3)),
                Err(code) => {
                    w.uint(code.number()).key(3).map(0);
                }
            }
        })
    }

    /// Decodes a body; `kind` is that of the order with this sequence number.
    ///
    /// # Errors
    /// [`super::super::wire::FormatError`].
    pub fn decode(bytes: &[u8], kind: Kind) -> Read<Self> {
        let (mut order, mut status, mut outcome) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.map(|r, key| {
                match key {
                    1 => order = Some(read_digest(r)?),
                    2 => status = Some(r.uint(0..=u64::from(u8::MAX))?),
                    // Keys ascend, so the status is known before the answer.
                    3 => {
                        outcome = Some(match r.required(status)? {
                            0 => Ok(Answer::read(r, kind)?),
                            number => {
                                nothing(r)?;
                                Err(r.required(Code::from_number(number))?)
                            }
                        });
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            Ok(Self { order: r.required(order)?, outcome: r.required(outcome)? })
        })
    }
}
