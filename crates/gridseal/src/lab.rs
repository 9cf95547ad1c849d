//! Lab files: one bench set-up of a DLMS client and a meter, with test keys, shared by `meter serve`, `dlms` and
//! `decode dlms`. No production subcommand reads one.
//!
//! [`Lab::load`] checks the whole file; an error says file, line, code and what is wrong, and quotes no value, which
//! may be a key. `docs/lab.md` describes the fields.

mod file;
mod keys;
mod object;
mod weak;

use std::{fs::File, io::Read, path::Path};

use anyhow::Result;
use gridseal_dlms::{
    acse::Mechanism,
    apdu::carrier::{self, KeyKind, Signing},
    assoc::Protection,
    suite::local::PeerQuirks,
};
use gridseal_trust::firmware::FirmwareTrust;
use gridseal_types::{ObisCode, SystemTitle};

pub use keys::Keys;
pub use object::LabObject;
pub use weak::{DEFAULT_PASSWORDS, KeyFault};

use crate::tools::Usage;

/// Largest lab file, bytes.
const SIZE_MAX: u64 = 1 << 20;

/// A set-up.
#[derive(Debug)]
pub struct Lab {
    /// Security suite, 0 to 2.
    pub suite: u8,
    /// Mechanism between client and server.
    pub mechanism: Mechanism,
    /// Protection of every APDU; [`Protection::None`] means the context without ciphering.
    pub protection: Protection,
    /// How protected APDUs are carried.
    pub carrier: carrier::Carrier,
    /// Whether and where protected APDUs are signed, in both directions.
    pub signing: Signing,
    /// Server's service access point.
    pub listen_sap: u16,
    /// Client's service access point.
    pub client_sap: u16,
    /// Largest APDU that either side takes, bytes; 0 = no limit.
    pub max_pdu: u16,
    /// The client.
    pub client: Party,
    /// The server.
    pub server: Party,
    /// Keys of both.
    pub keys: Keys,
    /// Where the peer differs from the standard.
    pub quirks: PeerQuirks,
    /// What the server offers to which client; an entry for [`Lab::client_sap`] is always there.
    pub associations: Vec<Association>,
    /// Objects that change or join the built-in set of the server.
    pub objects: Vec<LabObject>,
    /// Whether the server may rely on the clock of this machine (rule S14).
    pub trusted_clock: bool,
    /// Whose images the server takes.
    pub image: Option<Image>,
}

/// Whose images the server takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Keys that sign manifests, and the model.
    pub trust: FirmwareTrust,
    /// Version that runs at first.
    pub version: u32,
}

/// One of the two sides.
#[derive(Debug)]
pub struct Party {
    /// System title.
    pub system_title: SystemTitle,
    /// First value of its sending counter.
    pub invocation_counter: u32,
}

/// The sides, where one is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// How protected APDUs are carried, as a file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Carrier {
    /// One tag for each service, global key.
    Glo,
    /// One tag for each service, dedicated key.
    Ded,
    /// Any APDU, global key.
    GeneralGlo,
    /// Any APDU, dedicated key.
    GeneralDed,
    /// Any APDU, with a header of its own.
    GeneralCiphering,
}

impl Carrier {
    /// As the association machines name it; `key_info` counts for general-ciphering alone.
    const fn with(self, key_info: KeyInfo) -> carrier::Carrier {
        match self {
            Self::Glo => carrier::Carrier::Glo,
            Self::Ded => carrier::Carrier::Ded,
            Self::GeneralGlo => carrier::Carrier::GeneralGlo,
            Self::GeneralDed => carrier::Carrier::GeneralDed,
            Self::GeneralCiphering => carrier::Carrier::GeneralCiphering(match key_info {
                KeyInfo::Identified => KeyKind::Identified,
                KeyInfo::Wrapped => KeyKind::Wrapped,
                KeyInfo::AgreedOnePass => KeyKind::AgreedOnePass,
                KeyInfo::AgreedStatic => KeyKind::AgreedStatic,
            }),
        }
    }
}

/// Which key general-ciphering names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KeyInfo {
    /// A key that both have.
    Identified,
    /// A fresh key, wrapped.
    Wrapped,
    /// One-pass Diffie-Hellman.
    #[serde(rename = "agreed-1p")]
    AgreedOnePass,
    /// Static unified model.
    AgreedStatic,
}

/// Which reading of the standard a peer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reading {
    /// The normative one.
    #[default]
    Normative,
    /// Less is covered, as some implementations have it.
    Short,
}

/// Whether an APDU is signed before it is ciphered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SigningOrder {
    /// What is signed is ciphered.
    #[default]
    SignThenCipher,
    /// What is ciphered is signed.
    CipherThenSign,
}

/// What a server offers to one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Association {
    /// Client's service access point.
    pub sap: u16,
    /// What it is for.
    pub role: Role,
    /// How it authenticates itself.
    pub mechanism: Mechanism,
    /// What it may do.
    pub rights: Rights,
}

impl Association {
    /// What the client of a file may do without an entry of its own: everything.
    const fn of(sap: u16, mechanism: Mechanism) -> Self {
        let role = Role::Management;
        Self { sap, role, mechanism, rights: Rights::of(role) }
    }
}

/// What an association is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Anybody: the clock, the counters, who the meter is. Never ciphered, mechanism 0.
    Public,
    /// Reads.
    Reader,
    /// Everything.
    Management,
    /// No association is opened: APDUs under the broadcast key, to all, never answered.
    Broadcast,
}

/// What a client may do, beyond what everybody may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Read attributes.
    pub read: bool,
    /// Write attributes.
    pub write: bool,
    /// Invoke methods.
    pub invoke: bool,
}

impl Rights {
    /// Letters r, w and x, each at most once; `-` or nothing for none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rights = Self { read: false, write: false, invoke: false };
        for letter in text.chars().filter(|_| text != "-") {
            let right = match letter {
                'r' => &mut rights.read,
                'w' => &mut rights.write,
                'x' => &mut rights.invoke,
                _ => return None,
            };
            if core::mem::replace(right, true) {
                return None;
            }
        }
        Some(rights)
    }

    /// What a role may do unless the file says otherwise.
    const fn of(role: Role) -> Self {
        match role {
            Role::Public => Self { read: false, write: false, invoke: false },
            Role::Reader => Self { read: true, write: false, invoke: false },
            Role::Management => Self { read: true, write: true, invoke: true },
            Role::Broadcast => Self { read: false, write: false, invoke: true },
        }
    }
}

/// What is wrong with a lab file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabError {
    /// `lab-...`: stable name of the kind of error.
    pub code: &'static str,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong; quotes no value.
    pub message: String,
}

impl std::fmt::Display for LabError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.code, self.message)
    }
}

impl Lab {
    /// Reads a lab file.
    pub fn load(path: &Path) -> Result<Self> {
        let bad = |error: &dyn std::fmt::Display| Usage(format!("lab file {}: {error}", path.display()));
        let mut bytes = Vec::new();
        // A device or a pipe has no end.
        let read = File::open(path).and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes));
        let size = read.map_err(|error| bad(&format!("cannot be read: {error}")))?;
        if u64::try_from(size).unwrap_or(u64::MAX) > SIZE_MAX {
            return Err(bad(&"lab-syntax: more than 1 MiB").into());
        }
        let text = String::from_utf8(bytes).map_err(|_| bad(&"lab-syntax: not text"))?;
        Ok(Self::parse(&text).map_err(|error| bad(&error))?)
    }

    /// Reads the text of a lab file.
    pub fn parse(text: &str) -> Result<Self, LabError> {
        file::parse(text)
    }

    /// One of the sides.
    pub const fn party(&self, side: Side) -> &Party {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

/// An OBIS code, with dots (`1.0.1.8.0.255`) or as people write it (`1-0:1.8.0.255`).
pub fn obis(text: &str) -> Option<ObisCode> {
    let dotted = || {
        let groups: Option<Vec<u8>> = text.split('.').map(|group| group.parse().ok()).collect();
        Some(ObisCode::new(groups?.try_into().ok()?))
    };
    text.parse().ok().or_else(dotted)
}

#[cfg(test)]
mod tests;
