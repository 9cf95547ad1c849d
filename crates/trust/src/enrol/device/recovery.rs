//! Recovery: the owner has vanished, the manufacturer's recovery key has named another one, and somebody holds the button.
//!
//! The redirect with the recovery entry is on record first. Then the epoch counter is raised to that entry: from there on
//! nothing of the owner before is accepted, by the root's own count. Then the root is cleared and the application wiped.
//! The pin stays what it was until the new owner has shown its signature *and* the secret that was delivered to it alone: a
//! second recovery entry that somebody signed beside the logged one locks nobody out.
//!
//! Every step may be repeated; after a power cut the device goes on with the first that is not done, without the button.
//!
//! # Source
//! Onboarding specification, sections 7.5 and 11; ADR 34.

use core::time::Duration;

use gridseal_types::{Code, Epoch, Tick};

use super::{Device, DeviceRecord, EPOCH_STEPS_MAX, EndingStage, Event, Input, Output, State, Unexpected};
use crate::{
    enrol::{init::VerifiedRedirect, order::Kind},
    root::{RootReply, RootRequest},
};

/// The button counts for this many first ceilings of the back-off: 10 min in the field.
const PRESENCE_CEILINGS: u32 = 20;

/// Where a recovery stands.
pub(super) enum Recovering {
    /// Epoch counter.
    Raising,
    /// TPM2_Clear.
    Clearing,
    /// The shell wipes what it keeps.
    Wiping,
    /// Blobs and configuration go.
    Storing,
}

impl Recovering {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Raising => "raising-for-recovery",
            Self::Clearing => "clearing",
            Self::Wiping => "wiping-for-recovery",
            Self::Storing => "storing-recovery",
        }
    }
}

impl Device {
    /// The button was held: whoever is named by a recovery entry may be asked for, now.
    pub(super) fn present(&mut self, now: Tick) {
        self.present_at = Some(now);
        if matches!(self.state, State::Operating | State::Waiting { .. }) {
            self.failures = 0;
            self.describe();
        }
    }

    /// Whether somebody has just held the button.
    pub(super) fn is_present(&self, now: Tick) -> bool {
        let window = self.firmware.pace.first.saturating_mul(PRESENCE_CEILINGS);
        self.present_at.is_some_and(|at| now.since(at) < window.max(Duration::from_millis(1)))
    }

    /// A recovery entry above the counter needs the button, and does not go past what the owner before has sold.
    pub(super) fn check_recovery(&self, now: Tick, verified: &VerifiedRedirect) -> Result<(), Code> {
        let Some(recovered) = self.recovery_in(verified) else { return Ok(()) };
        if !self.is_present(now) {
            return Err(Code::State);
        }
        let counter = self.description.as_ref().map_or(0, |description| description.epoch);
        if recovered.saturating_sub(counter) > EPOCH_STEPS_MAX {
            return Err(Code::EpochMismatch);
        }
        // A release that is on record has named the next owner: a recovery may only follow that one.
        match &self.record.orders.ending {
            Some(ending) => match &ending.next {
                Some(next) => verified.voucher.contains(next).map_err(|_| Code::Fork),
                None => Err(Code::State),
            },
            None => Ok(()),
        }
    }

    /// Nothing else was looked for than a recovery, and there is none: an owner is installed, or the device is at its end.
    pub(super) fn is_at_home(&self, verified: &VerifiedRedirect) -> bool {
        let is_installed = self.record.installed.is_some() && !self.is_renewing;
        let ended = self.record.ended.as_ref().map(|ended| ended.kind);
        (is_installed || ended == Some(Kind::Decommission)) && self.recovery_in(verified).is_none()
    }

    /// Whether an ending needs nobody else any more.
    pub(super) fn is_told_ending(&self) -> bool {
        let ending = self.record.orders.ending.as_ref();
        ending.is_some_and(|ending| ending.stage == EndingStage::Told)
    }

    /// Epoch of a recovery entry that this device has not taken yet.
    pub(super) fn recovery_in(&self, verified: &VerifiedRedirect) -> Option<Epoch> {
        let counter = self.description.as_ref().map_or(0, |description| description.epoch);
        verified.voucher.recovered().filter(|recovered| *recovered > counter)
    }

    /// The first step that is not done.
    pub(super) fn recover(&mut self, epoch: Epoch) {
        let counter = self.description.as_ref().map_or(0, |description| description.epoch);
        let (request, step) = if counter < epoch {
            (RootRequest::RaiseEpoch, Recovering::Raising)
        } else {
            (RootRequest::Clear, Recovering::Clearing)
        };
        self.root(request);
        self.state = State::Recovering(epoch, step);
    }

    /// One step of a recovery.
    pub(super) fn recovering(
        &mut self,
        (epoch, step): (Epoch, Recovering),
        input: Input<'_>,
    ) -> Result<(), Unexpected> {
        match (step, input) {
            (Recovering::Raising, Input::Root(Ok(RootReply::Done))) => {
                if let Some(description) = &mut self.description {
                    description.epoch = description.epoch.saturating_add(1);
                }
                self.recover(epoch);
            }
            (Recovering::Clearing, Input::Root(Ok(RootReply::Done))) => {
                self.outputs.push_back(Output::Wipe);
                self.state = State::Recovering(epoch, Recovering::Wiping);
            }
            (Recovering::Wiping, Input::Wiped) => self.forget_owner(epoch),
            (Recovering::Storing, Input::Persisted) => {
                self.present_at = None;
                self.event(Event::Recovered);
                // The root makes its keys anew.
                self.describe();
            }
            (Recovering::Raising | Recovering::Clearing, Input::Root(Err(error))) => {
                self.event(Event::RootFailed(error));
                self.failures = self.failures.saturating_add(1);
                self.back_off(State::Off);
            }
            (step, _) => {
                self.state = State::Recovering(epoch, step);
                return Err(Unexpected);
            }
        }
        Ok(())
    }

    /// Nothing of the owner before stays, not even where it was.
    fn forget_owner(&mut self, epoch: Epoch) {
        self.record = DeviceRecord {
            redirect: self.record.redirect.take(),
            redirect_seq: self.record.redirect_seq,
            suite: self.record.suite,
            ..DeviceRecord::default()
        };
        self.chain = None;
        self.sessions.clear();
        (self.failures, self.unheard, self.idle) = (0, 0, 0);
        (self.is_told, self.is_offered, self.is_renewing) = (false, false, false);
        self.seek_tries = None;
        self.outputs.push_back(Output::Persist);
        self.state = State::Recovering(epoch, Recovering::Storing);
    }
}
