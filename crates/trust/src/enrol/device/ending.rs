//! Release and decommissioning: what is left to do once the order is stored, and the last word to the owner before.
//!
//! Every step may be repeated; after a power cut the device goes on with the first that is not done. Until the response of
//! the Clear has arrived, the owner may clear again: it is the receipt. From the pin on, the owner before has no way in.
//!
//! # Source
//! Onboarding specification, sections 7.6 and 11.

use core::time::Duration;

use gridseal_types::{Epoch, Nonce, Tick, service::keys::Bytes};

use super::{
    Device, DeviceRecord, Ended, Ending, EndingStage, Event, Input, Output, Peer, State, Unexpected,
};
use crate::{
    enrol::{
        order::{Answer, Kind, ResultBody, seal_result},
        secrets::OwnerSecretExt,
    },
    root::{RootReply, RootRequest},
};

/// How long the last result is offered after power came.
pub const OFFER_TIME: Duration = Duration::from_secs(7 * 86_400);
/// Questions in a row that nobody answers before a device whose TPM is cleared goes on alone: about two days in the field.
/// A buyer must not wait for a seller who is gone.
const SILENCE_MAX: u32 = 14;
/// Questions in a row without an order, up to which the pause between them grows: 30 min in the field.
const IDLE_DOUBLINGS_MAX: u32 = 6;

/// The steps after the owner was told.
pub(super) enum Finishing {
    /// Pin of the next owner.
    Pinning,
    /// Epoch counter.
    Raising,
    /// N_e of the epoch that ends.
    Deriving,
    /// R2 of the last result.
    Naming(gridseal_crypto::Key<gridseal_crypto::role::OwnerSecret, 32>),
    /// The shell wipes what it keeps; the result is ready.
    Wiping(Bytes),
    /// Blobs and configuration go.
    Storing,
}

impl Finishing {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Pinning => "pinning-next-owner",
            Self::Raising => "raising-for-next-owner",
            Self::Deriving => "deriving-last-secret",
            Self::Naming(_) => "naming-last-result",
            Self::Wiping(_) => "wiping",
            Self::Storing => "storing-end",
        }
    }
}

impl Device {
    /// After a question to the owner, or after power came: the first step that is not done.
    pub(super) fn pursue_ending(&mut self, now: Tick, reached: bool) {
        self.unheard = if reached { 0 } else { self.unheard.saturating_add(1) };
        let Some(Ending { stage, .. }) = self.record.orders.ending else { return self.describe() };
        if stage == EndingStage::Told {
            return self.finish(now);
        }
        if self.unheard >= SILENCE_MAX && self.is_cleared() {
            if let Some(ending) = &mut self.record.orders.ending {
                ending.stage = EndingStage::Told;
            }
            self.outputs.push_back(Output::Persist);
            self.state = State::StoringEnding;
            return;
        }
        let doublings = if reached { self.idle.min(IDLE_DOUBLINGS_MAX) } else { self.unheard.min(20) };
        self.idle = self.idle.saturating_add(1);
        self.jitter(State::Off, doublings);
    }

    /// Pin, then counter, then the wipe: a device that has lost power in between refuses the old owner by its pin.
    pub(super) fn finish(&mut self, now: Tick) {
        let (Some(ending), Some(description)) = (&self.record.orders.ending, &self.description) else {
            return self.fetched(now, false);
        };
        let next_epoch = ending.epoch.saturating_add(1);
        match ending.next {
            Some(pin) if description.pin != Some(pin) => {
                self.root(RootRequest::WritePin(pin));
                self.state = State::Finishing(Finishing::Pinning);
            }
            Some(_) if description.epoch < next_epoch => {
                self.root(RootRequest::RaiseEpoch);
                self.state = State::Finishing(Finishing::Raising);
            }
            _ => {
                let epoch: Epoch = ending.epoch;
                self.root(RootRequest::OwnerSecret(epoch));
                self.state = State::Finishing(Finishing::Deriving);
            }
        }
    }

    /// One step after the owner was told.
    pub(super) fn finishing(
        &mut self,
        now: Tick,
        finishing: Finishing,
        input: Input<'_>,
    ) -> Result<(), Unexpected> {
        match (finishing, input) {
            (Finishing::Pinning, Input::Root(Ok(RootReply::Done))) => {
                let next = self.record.orders.ending.as_ref().and_then(|ending| ending.next);
                if let Some(description) = &mut self.description {
                    description.pin = next;
                }
                self.finish(now);
            }
            (Finishing::Raising, Input::Root(Ok(RootReply::Done))) => {
                if let Some(description) = &mut self.description {
                    description.epoch = description.epoch.saturating_add(1);
                }
                self.finish(now);
            }
            (Finishing::Deriving, Input::Root(Ok(RootReply::OwnerSecret(secret)))) => {
                self.outputs.push_back(Output::Random(32));
                self.state = State::Finishing(Finishing::Naming(secret));
            }
            (Finishing::Naming(secret), Input::Random(bytes)) => match self.last_result(&secret, bytes) {
                Some(result) => {
                    self.outputs.push_back(Output::Wipe);
                    self.state = State::Finishing(Finishing::Wiping(result));
                }
                None => self.describe(),
            },
            (Finishing::Wiping(result), Input::Wiped) => self.wipe(result),
            (Finishing::Storing, Input::Persisted) => {
                let kind = self.record.ended.as_ref().map_or(Kind::Release, |ended| ended.kind);
                self.event(Event::OwnershipEnded(kind));
                self.offer_or_go_on(now);
            }
            (Finishing::Pinning | Finishing::Raising | Finishing::Deriving, Input::Root(Err(error))) => {
                self.event(Event::RootFailed(error));
                self.unheard = self.unheard.saturating_add(1);
                self.jitter(State::Off, self.unheard.min(20));
            }
            (finishing, _) => {
                self.state = State::Finishing(finishing);
                return Err(Unexpected);
            }
        }
        Ok(())
    }

    fn last_result(
        &self,
        secret: &gridseal_crypto::Key<gridseal_crypto::role::OwnerSecret, 32>,
        random: &[u8],
    ) -> Option<Bytes> {
        let Ending { kind, seq, r, order, .. } = self.record.orders.ending.as_ref()?;
        let answer = match kind {
            Kind::Release => Answer::Released,
            _ => Answer::Decommissioned { identity_quote: None },
        };
        let r2 = Nonce::from_slice(random)?;
        let body = ResultBody { order: *order, outcome: Ok(answer) };
        seal_result(&secret.seal_result(*seq, r, &r2), *seq, &r2, &body).ok().map(Bytes)
    }

    /// Nothing of the owner stays but where to send its last result.
    fn wipe(&mut self, result: Bytes) {
        let kind = self.record.orders.ending.as_ref().map_or(Kind::Release, |ending| ending.kind);
        let (urls, pins) = self.config_servers().unwrap_or_default();
        self.record = DeviceRecord {
            suite: self.record.suite,
            ended: Some(Ended { kind, result: Some(result), urls, pins }),
            ..DeviceRecord::default()
        };
        self.verified = None;
        self.chain = None;
        self.sessions.clear();
        (self.failures, self.unheard, self.idle) = (0, 0, 0);
        (self.is_told, self.is_offered) = (false, false);
        self.outputs.push_back(Output::Persist);
        self.state = State::Finishing(Finishing::Storing);
    }

    /// The last result once, then the way to the next owner, or rest.
    pub(super) fn offer_or_go_on(&mut self, now: Tick) {
        let is_late = now.since(self.powered) >= OFFER_TIME;
        let result = self.record.ended.as_ref().and_then(|ended| ended.result.clone());
        match result {
            Some(Bytes(wire)) if !self.is_offered && !is_late => {
                self.is_offered = true;
                self.transmit(now, Peer::FormerOwner, wire);
                self.state = State::Offering;
            }
            _ => self.after_offer(now),
        }
    }

    /// The last result has arrived.
    pub(super) fn offer_taken(&mut self) {
        self.reply_due = None;
        self.failures = 0;
        if let Some(ended) = &mut self.record.ended {
            ended.result = None;
        }
        self.outputs.push_back(Output::Persist);
        self.state = State::StoringEnd;
    }

    /// Without an answer, or without anything to say.
    pub(super) fn after_offer(&mut self, now: Tick) {
        self.reply_due = None;
        let is_decommissioned =
            self.record.ended.as_ref().is_some_and(|ended| ended.kind == Kind::Decommission);
        if !is_decommissioned {
            return self.begin_onboarding();
        }
        let is_late = now.since(self.powered) >= OFFER_TIME;
        let is_said = self.record.ended.as_ref().is_none_or(|ended| ended.result.is_none());
        if is_said || is_late {
            self.event(Event::Decommissioned);
            self.state = State::Decommissioned;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.back_off(State::Off);
        }
    }
}
