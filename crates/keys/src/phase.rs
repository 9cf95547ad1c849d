//! Phases of a key change, and steps of a claim: pure transitions.
//!
//! # Source
//! Key service specification, sections 6 and 7.1.

use gridseal_types::{
    DeviceState,
    service::keys::{ChangePhase, ClaimState},
};

use crate::version::IllegalTransition;

/// What happens to a key change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeEvent {
    /// Its keys are wrapped for the meter.
    Prepare,
    /// The transfer leaves.
    Send,
    /// No answer came, or none that says anything.
    NoEvidence,
    /// A probe was answered under the old keys.
    OldProven,
    /// An APDU under the new keys was verified.
    NewProven,
    /// The new versions take over.
    Activate,
    /// The meter refused it under a valid tag.
    Refuse,
    /// The operator gives it up.
    Abandon,
}

impl ChangeEvent {
    /// All events.
    pub const ALL: [Self; 8] = [
        Self::Prepare,
        Self::Send,
        Self::NoEvidence,
        Self::OldProven,
        Self::NewProven,
        Self::Activate,
        Self::Refuse,
        Self::Abandon,
    ];
}

/// The phase after an event. Proof of the new key counts in every phase in which the transfer may have left, also after it
/// was refused or given up: the meter has the last word on what it uses.
///
/// # Errors
/// [`IllegalTransition`]: the phase stays.
pub const fn change_after(phase: ChangePhase, event: ChangeEvent) -> Result<ChangePhase, IllegalTransition> {
    use ChangeEvent as E;
    use ChangePhase as P;
    Ok(match (phase, event) {
        (P::Created, E::Prepare) => P::Prepared,
        (P::Prepared | P::NotInstalled, E::Send) => P::Sent,
        (P::Sent | P::Unknown | P::NotInstalled, E::NoEvidence) => P::Unknown,
        (P::Unknown | P::NotInstalled, E::OldProven) => P::NotInstalled,
        (P::Sent | P::Unknown | P::NotInstalled | P::Refused | P::Abandoned, E::NewProven) => P::Confirmed,
        (P::Confirmed, E::Activate) => P::Activated,
        (P::Sent | P::Unknown, E::Refuse) => P::Refused,
        (P::Prepared | P::Unknown | P::NotInstalled, E::Abandon) => P::Abandoned,
        _ => return Err(IllegalTransition),
    })
}

/// Whether a transfer of a change in this phase may have reached the meter, and what it uses is not proven.
#[must_use]
pub const fn may_have_arrived(phase: ChangePhase) -> bool {
    use ChangePhase as P;
    matches!(phase, P::Sent | P::Unknown | P::NotInstalled | P::Confirmed)
}

/// The state of a device in state `device`, where it works for its owner: `rekeying` while a key change may have reached it
/// or its keys are changed by order.
#[must_use]
pub const fn state_at_work(device: DeviceState, change: Option<ChangePhase>, by_order: bool) -> DeviceState {
    use DeviceState as D;
    let rekeys = by_order || matches!(change, Some(phase) if may_have_arrived(phase));
    match device {
        D::Operating | D::Rekeying if rekeys => D::Rekeying,
        D::Rekeying => D::Operating,
        other => other,
    }
}

/// The state of credentials after they are told to be `next`; the way of section 6, and `Lost` from everywhere.
///
/// # Errors
/// [`IllegalTransition`]: the state stays.
pub const fn claim_after(claim: ClaimState, next: ClaimState) -> Result<ClaimState, IllegalTransition> {
    use ClaimState as C;
    match (claim, next) {
        (C::Announced, C::InStock)
        | (C::Announced | C::InStock, C::Installed)
        | (C::Installed | C::ClaimFailed, C::Claiming)
        // By its root of trust a device goes from stock to claimed at once.
        | (C::Claiming | C::InStock, C::Claimed)
        | (C::Claiming, C::ClaimFailed)
        | (C::Claimed, C::Retired)
        | (C::Retired, C::Erased | C::InStock)
        | (_, C::Lost) => Ok(next),
        _ => Err(IllegalTransition),
    }
}

/// Whether credentials in this state go with a device in that one.
#[must_use]
pub const fn claim_fits(claim: ClaimState, device: DeviceState) -> bool {
    use DeviceState as D;
    match claim {
        ClaimState::Announced | ClaimState::InStock => matches!(device, D::Registered),
        ClaimState::Installed | ClaimState::Claiming | ClaimState::ClaimFailed => {
            matches!(device, D::Installing)
        }
        ClaimState::Claimed => {
            matches!(device, D::Operating | D::Rekeying | D::Updating | D::Suspended | D::Quarantined)
        }
        ClaimState::Lost => matches!(device, D::Quarantined),
        ClaimState::Retired => matches!(device, D::Released | D::Decommissioned),
        ClaimState::Erased => matches!(device, D::Decommissioned),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_leads_to_activated_but_over_proof_of_the_new_key() {
        for phase in ChangePhase::ALL {
            for event in ChangeEvent::ALL {
                let Ok(next) = change_after(phase, event) else { continue };
                if next == ChangePhase::Activated {
                    assert_eq!((phase, event), (ChangePhase::Confirmed, ChangeEvent::Activate));
                }
                if next == ChangePhase::Confirmed {
                    assert_eq!(event, ChangeEvent::NewProven);
                    assert!(
                        !matches!(phase, ChangePhase::Created | ChangePhase::Prepared),
                        "nothing has left"
                    );
                }
            }
        }
    }

    #[test]
    fn a_device_is_rekeying_exactly_while_a_change_may_have_arrived_or_an_order_says_so() {
        for phase in ChangePhase::ALL {
            let rekeys =
                !phase.is_resolved() && !matches!(phase, ChangePhase::Created | ChangePhase::Prepared);
            let state = if rekeys { DeviceState::Rekeying } else { DeviceState::Operating };
            for device in [DeviceState::Operating, DeviceState::Rekeying] {
                assert_eq!(state_at_work(device, Some(phase), false), state, "{phase}");
                assert_eq!(state_at_work(device, Some(phase), true), DeviceState::Rekeying);
            }
            for other in [DeviceState::Updating, DeviceState::Suspended, DeviceState::Quarantined] {
                assert_eq!(state_at_work(other, Some(phase), true), other);
            }
        }
    }

    #[test]
    fn a_change_is_sent_again_only_after_the_old_keys_have_answered() {
        for phase in ChangePhase::ALL {
            let sent = change_after(phase, ChangeEvent::Send).is_ok();
            assert_eq!(sent, matches!(phase, ChangePhase::Prepared | ChangePhase::NotInstalled), "{phase}");
        }
    }

    #[test]
    fn lost_is_reached_from_everywhere_and_left_to_nowhere() {
        for claim in ClaimState::ALL {
            assert_eq!(claim_after(claim, ClaimState::Lost), Ok(ClaimState::Lost));
            if claim != ClaimState::Lost {
                assert!(claim_after(ClaimState::Lost, claim).is_err());
            }
        }
    }
}
