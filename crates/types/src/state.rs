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
        }
    }

    /// Whether onboarding may start: a device that operates needs an explicit ticket first.
    #[must_use]
    pub const fn may_onboard(self) -> bool {
        matches!(self, Self::Registered | Self::Installing)
    }

    /// Whether APDUs may be sealed and opened for a device in this state (rule S13).
    #[must_use]
    pub const fn may_exchange(self) -> bool {
        matches!(self, Self::Operating)
    }
}
