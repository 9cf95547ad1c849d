//! States of a version of a key, and when it may be destroyed.
//!
//! # Source
//! Key service specification, section 5.

use gridseal_types::service::keys::VersionState;

/// What happens to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VersionEvent {
    /// It is proven installed.
    Activate,
    /// Another one is.
    Deactivate,
    /// It is held back.
    Suspend,
    /// That is lifted.
    Resume,
    /// It is known to others.
    Compromise,
    /// It is overwritten.
    Destroy,
}

impl VersionEvent {
    /// All events.
    pub const ALL: [Self; 6] =
        [Self::Activate, Self::Deactivate, Self::Suspend, Self::Resume, Self::Compromise, Self::Destroy];
}

/// The state does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not allowed in this state")]
pub struct IllegalTransition;

/// The state after an event.
///
/// Two transitions go beyond the picture of the standard, because a meter decides which key it uses: a deactivated
/// version that a meter was proven to have gone back to becomes active again, and a suspended one may be replaced.
///
/// # Errors
/// [`IllegalTransition`]: the state stays.
pub const fn after(state: VersionState, event: VersionEvent) -> Result<VersionState, IllegalTransition> {
    use VersionEvent as E;
    use VersionState as S;
    Ok(match (state, event) {
        (S::PreActive | S::Deactivated, E::Activate) | (S::Suspended, E::Resume) => S::Active,
        (S::Active | S::Suspended, E::Deactivate) => S::Deactivated,
        (S::Active, E::Suspend) => S::Suspended,
        (S::PreActive | S::Active | S::Suspended | S::Deactivated, E::Compromise) => S::Compromised,
        (S::PreActive | S::Deactivated, E::Destroy) => S::Destroyed,
        (S::Compromised, E::Destroy) => S::DestroyedCompromised,
        _ => return Err(IllegalTransition),
    })
}

/// What the destroy guard looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// It may have left for the meter.
    pub sent: bool,
    /// Another version of the same key is proven installed, later than this one was sent or proven.
    pub superseded: bool,
    /// The device is released or decommissioned.
    pub device_is_final: bool,
    /// Its recipient period is over, or two persons have consented.
    pub recipient_period_over: bool,
}

/// Whether a version may be destroyed (invariant I1).
#[must_use]
pub const fn may_destroy(standing: Standing) -> bool {
    if !standing.sent {
        return true;
    }
    (standing.superseded || standing.device_is_final) && standing.recipient_period_over
}

/// Whether a version in this state still opens what its meter sends.
#[must_use]
pub const fn opens(state: VersionState, sent: bool) -> bool {
    match state {
        VersionState::PreActive => sent,
        VersionState::Active | VersionState::Suspended | VersionState::Deactivated => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_version_never_comes_back_and_a_compromised_one_can_only_be_destroyed() {
        for event in VersionEvent::ALL {
            for gone in [VersionState::Destroyed, VersionState::DestroyedCompromised] {
                assert!(after(gone, event).is_err());
            }
            let compromised = after(VersionState::Compromised, event);
            assert_eq!(compromised.is_ok(), event == VersionEvent::Destroy);
        }
        assert!(after(VersionState::Active, VersionEvent::Destroy).is_err(), "the key in use");
        assert!(after(VersionState::Suspended, VersionEvent::Destroy).is_err());
    }

    #[test]
    fn what_was_sent_is_destroyed_only_when_superseded_and_its_period_is_over() {
        for bits in 0..16_u8 {
            let standing = Standing {
                sent: bits & 1 != 0,
                superseded: bits & 2 != 0,
                device_is_final: bits & 4 != 0,
                recipient_period_over: bits & 8 != 0,
            };
            let expected = bits & 1 == 0 || (bits & 8 != 0 && bits & 6 != 0);
            assert_eq!(may_destroy(standing), expected, "{standing:?}");
        }
    }
}
