//! Life of a device (design section 3).

/// State of a device in the register of its owner's endpoint manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
#[non_exhaustive]
pub enum DeviceState {
    /// In the owner's register, not yet seen.
    #[n(1)]
    Registered,
    /// A session has begun and its evidence passed.
    #[n(2)]
    Installing,
    /// Owned, provisioned, admitted at the head-end.
    #[n(3)]
    Operating,
    /// Held back; a person may resume it.
    #[n(4)]
    Suspended,
    /// A check failed; the reason is recorded; a person may release it, never override the check.
    #[n(5)]
    Quarantined,
    /// Its keys are being changed; it works as before.
    #[n(6)]
    Rekeying,
    /// Its software is being changed; it works as before.
    #[n(7)]
    Updating,
    /// Given up by its owner, with a verified receipt.
    #[n(8)]
    Released,
    /// Out of service for good, with a verified receipt.
    #[n(9)]
    Decommissioned,
}

impl DeviceState {
    /// Stable lower-case name, as printed and stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Installing => "installing",
            Self::Operating => "operating",
            Self::Suspended => "suspended",
            Self::Quarantined => "quarantined",
            Self::Rekeying => "rekeying",
            Self::Updating => "updating",
            Self::Released => "released",
            Self::Decommissioned => "decommissioned",
        }
    }

    /// Whether onboarding may start: a device that operates needs an explicit ticket first.
    #[must_use]
    pub const fn may_onboard(self) -> bool {
        matches!(self, Self::Registered | Self::Installing)
    }

    /// Whether only probes of its state may be sealed and opened for a device in this state.
    #[must_use]
    pub const fn may_probe(self) -> bool {
        matches!(self, Self::Suspended | Self::Quarantined)
    }

    /// Whether nothing of a device in this state is needed any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Released | Self::Decommissioned)
    }

    /// Whether APDUs may be sealed and opened for a device in this state (rule S13).
    #[must_use]
    pub const fn may_exchange(self) -> bool {
        matches!(self, Self::Operating | Self::Rekeying | Self::Updating)
    }
}
