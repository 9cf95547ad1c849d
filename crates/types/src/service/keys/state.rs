//! States of keys, key changes and credentials, as the key service reports them. The transitions are the key service's.

use alloc::{string::String, vec::Vec};

use crate::{DeviceState, N16, SystemTitle, UtcTime};

/// Which key of a meter. The numbers are those of the security setup's key transfer.
///
/// # Source
/// DLMS fact sheet, section 6.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum KeyKind {
    /// Global unicast encryption key.
    #[n(0)]
    Guek,
    /// Authentication key.
    #[n(2)]
    Gak,
    /// Master key.
    #[n(3)]
    Kek,
}

impl KeyKind {
    /// All kinds, in the order of a key's change: the master key alone and last.
    pub const ALL: [Self; 3] = [Self::Guek, Self::Gak, Self::Kek];

    /// key_id of the key transfer.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Guek => 0,
            Self::Gak => 2,
            Self::Kek => 3,
        }
    }

    /// The kind with this key_id.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Guek),
            2 => Some(Self::Gak),
            3 => Some(Self::Kek),
            _ => None,
        }
    }

    /// Stable lower-case name, as printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guek => "guek",
            Self::Gak => "gak",
            Self::Kek => "kek",
        }
    }
}

/// One key in one version: a logical reference, never a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
pub struct KeyRef {
    /// Whose.
    #[n(0)]
    pub system_title: SystemTitle,
    /// Which key.
    #[n(1)]
    pub kind: KeyKind,
    /// Which version.
    #[n(2)]
    pub version: u32,
}

impl core::fmt::Display for KeyRef {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}/{}", self.system_title, self.kind.name(), self.version)
    }
}

/// State of one version of a key.
///
/// # Source
/// Key service specification, section 5.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum VersionState {
    /// Made; protects nothing, and opens only what a meter may already send under it.
    #[n(0)]
    PreActive,
    /// In use, the only one of its object.
    #[n(1)]
    Active,
    /// Held back; protects nothing.
    #[n(2)]
    Suspended,
    /// A newer version is active; opens what is still on its way until the recipient period ends.
    #[n(3)]
    Deactivated,
    /// Known to others, or suspected to be.
    #[n(4)]
    Compromised,
    /// Gone; what is known about it is kept.
    #[n(5)]
    Destroyed,
    /// Gone, and was compromised before.
    #[n(6)]
    DestroyedCompromised,
}

impl VersionState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::PreActive,
        Self::Active,
        Self::Suspended,
        Self::Deactivated,
        Self::Compromised,
        Self::Destroyed,
        Self::DestroyedCompromised,
    ];

    /// Stable lower-case name, as printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
            Self::DestroyedCompromised => "destroyed-compromised",
        }
    }
}

/// Phase of a key change.
///
/// # Source
/// Key service specification, section 7.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum ChangePhase {
    /// The new versions exist.
    #[n(0)]
    Created,
    /// They are wrapped for the meter; nothing has left.
    #[n(1)]
    Prepared,
    /// The transfer may have left.
    #[n(2)]
    Sent,
    /// Nobody knows whether the meter took it.
    #[n(3)]
    Unknown,
    /// The meter has answered a probe under the old keys: it may be sent again.
    #[n(4)]
    NotInstalled,
    /// An APDU under the new key was verified here.
    #[n(5)]
    Confirmed,
    /// The new versions are active.
    #[n(6)]
    Activated,
    /// The meter has refused it under a valid tag.
    #[n(7)]
    Refused,
    /// Given up; what was sent stays known.
    #[n(8)]
    Abandoned,
}

impl ChangePhase {
    /// All phases.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Prepared,
        Self::Sent,
        Self::Unknown,
        Self::NotInstalled,
        Self::Confirmed,
        Self::Activated,
        Self::Refused,
        Self::Abandoned,
    ];

    /// Stable lower-case name, as printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Prepared => "prepared",
            Self::Sent => "sent",
            Self::Unknown => "unknown",
            Self::NotInstalled => "not-installed",
            Self::Confirmed => "confirmed",
            Self::Activated => "activated",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether nothing more is expected of this change.
    #[must_use]
    pub const fn is_resolved(self) -> bool {
        matches!(self, Self::Activated | Self::Refused | Self::Abandoned)
    }
}

/// State of a device's credentials.
///
/// # Source
/// Key service specification, section 6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum ClaimState {
    /// Named in a verified shipment.
    #[n(0)]
    Announced,
    /// Received.
    #[n(1)]
    InStock,
    /// A first valid APDU was seen.
    #[n(2)]
    Installed,
    /// Its factory keys are being replaced.
    #[n(3)]
    Claiming,
    /// That has failed; it may be tried again.
    #[n(4)]
    ClaimFailed,
    /// No key in use is known to anybody else.
    #[n(5)]
    Claimed,
    /// Out of service.
    #[n(6)]
    Retired,
    /// Its secrets are gone.
    #[n(7)]
    Erased,
    /// Stolen or missing.
    #[n(8)]
    Lost,
}

impl ClaimState {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Announced,
        Self::InStock,
        Self::Installed,
        Self::Claiming,
        Self::ClaimFailed,
        Self::Claimed,
        Self::Retired,
        Self::Erased,
        Self::Lost,
    ];

    /// Stable lower-case name, as printed and recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::InStock => "in-stock",
            Self::Installed => "installed",
            Self::Claiming => "claiming",
            Self::ClaimFailed => "claim-failed",
            Self::Claimed => "claimed",
            Self::Retired => "retired",
            Self::Erased => "erased",
            Self::Lost => "lost",
        }
    }
}

/// Where a version comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum KeyOrigin {
    /// Drawn here.
    #[n(0)]
    Operator,
    /// Delivered by the manufacturer.
    #[n(1)]
    Vendor,
    /// Derived by the manufacturer from a master key; imported only.
    #[n(2)]
    Derived,
}

/// What is known of one version of a key.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct VersionStatus {
    /// Which key.
    #[n(0)]
    pub kind: KeyKind,
    /// Which version.
    #[n(1)]
    pub version: u32,
    /// State.
    #[n(2)]
    pub state: VersionState,
    /// Where it comes from.
    #[n(3)]
    pub origin: KeyOrigin,
    /// Whether it may ever have left for the meter.
    #[n(4)]
    pub sent: bool,
    /// When it was made.
    #[n(5)]
    pub created_at: UtcTime,
    /// When it was proven installed, if ever.
    #[n(6)]
    pub proven_at: Option<UtcTime>,
    /// When it was deactivated, if ever.
    #[n(7)]
    pub deactivated_at: Option<UtcTime>,
    /// Version of the master key that wrapped it for the meter.
    #[n(8)]
    pub wrapped_by: Option<u32>,
    /// Key change that made it.
    #[n(9)]
    pub change: Option<N16>,
    /// Counters protected with and not below this value are free; of encryption keys only.
    #[n(10)]
    pub next_counter: Option<u32>,
    /// Highest counter received; of encryption keys only.
    #[n(11)]
    pub received: Option<u32>,
    /// Policy wants it replaced: age, counter or site epoch.
    #[n(12)]
    pub rotation_due: bool,
    /// Security suite that it is a key of.
    #[cbor(n(13), default)]
    pub suite: u8,
}

/// What is known of one key change.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct ChangeStatus {
    /// Change.
    #[n(0)]
    pub change: N16,
    /// Keys it replaces.
    #[n(1)]
    pub items: Vec<KeyKind>,
    /// Phase.
    #[n(2)]
    pub phase: ChangePhase,
    /// How often the transfer was sent.
    #[n(3)]
    pub attempts: u32,
    /// When it was begun.
    #[n(4)]
    pub begun_at: UtcTime,
    /// When its phase changed last.
    #[n(5)]
    pub changed_at: UtcTime,
}

/// What is known of one meter's credentials; no secret.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct DeviceKeyStatus {
    /// Meter.
    #[n(0)]
    pub system_title: SystemTitle,
    /// Serial number.
    #[n(1)]
    pub serial: String,
    /// State of the device.
    #[n(2)]
    pub state: DeviceState,
    /// State of its credentials.
    #[n(3)]
    pub claim: ClaimState,
    /// Whether it proves its state by a root of trust of its own.
    #[n(4)]
    pub attested: bool,
    /// When its attestation was last verified, zero before.
    #[n(5)]
    pub attested_at: UtcTime,
    /// Versions of its keys, oldest first.
    #[n(6)]
    pub versions: Vec<VersionStatus>,
    /// Change that is not resolved.
    #[n(7)]
    pub change: Option<ChangeStatus>,
    /// Whether it was last heard under keys that are no longer active.
    #[n(8)]
    pub regressed: bool,
    /// Highest security suite that a key of its was proven in.
    #[cbor(n(9), default)]
    pub suite: u8,
}
