//! What owners do with meters that are theirs: orders, suspension, doubt, theft.

use gridseal_crypto::sha256;
use gridseal_onboarding::endpoint_manager::orders::Job;
use gridseal_trust::{
    enrol::device::Peer,
    root::{DeviceRoot, RootReply, RootRequest},
};
use gridseal_types::{
    DeviceState, Digest, Tick, UtcTime,
    service::keys::{ClaimState, Denial, KeyKind, KeyRequest},
};

use super::{
    calendar::What,
    fleet::{Broken, Fleet, Stage, Step, asked_init, broken, found},
    report::Rule,
};
use crate::keys::Loss;

/// Days for which a meter is held back at most.
const HELD_DAYS: u64 = 30;
/// Seconds in an hour.
const HOUR_S: u64 = 3_600;
/// How long a device with other software tries, milliseconds.
const MISTRUSTED_MS: u64 = 600_000;

impl Fleet<'_> {
    /// The owner orders something of a meter at work.
    pub(super) fn ordered(&mut self, number: usize, job: Job, event: &'static str) -> Step {
        self.connect(number)?;
        self.asked(number, job)?;
        self.fetch(number, 1)?;
        let state = self.state_of(number);
        if !state.is_some_and(DeviceState::may_exchange) {
            return Err(broken(Rule::Contract, format!("after an order it is {state:?}")));
        }
        self.report.count(event);
        // It is still read.
        self.soon(number, 2, What::Reach(1));
        Ok(())
    }

    /// Keys change by order and by DLMS at once, each begun before or after the other, and the key service dies between them:
    /// neither makes the other forget a key.
    pub(super) fn crossed(&mut self, number: usize) -> Step {
        self.connect(number)?;
        let loss = match self.chance.below(3) {
            0 => Loss::Transfer,
            1 => Loss::Answer,
            _ => Loss::Nothing,
        };
        let order_first = self.chance.happens(500_000);
        let (meter, side) = self.of(number);
        (meter.is_untidy, meter.crossing) = (true, order_first.then_some(loss));
        if !order_first {
            let place = meter.place;
            side.keys.rekey(place, &[KeyKind::Guek, KeyKind::Gak], loss).map_err(found)?;
            side.keys.dies().map_err(found)?;
        }
        self.asked(number, Job::Rotate)?;
        self.fetch(number, 1)?;
        let (meter, side) = self.of(number);
        if meter.crossing.is_some() {
            return Err(broken(Rule::Contract, "a rotation that was ordered brings no keys"));
        }
        side.keys.dies().map_err(found)?;
        self.report.count("changes-crossed");
        self.soon(number, 2, What::Reach(1));
        Ok(())
    }

    /// Its software changes: it is `updating` until an attestation shows the next release. Some come back with half of it.
    pub(super) fn updated(&mut self, number: usize) -> Step {
        self.connect(number)?;
        self.asked(number, Job::Update)?;
        if self.state_of(number) != Some(DeviceState::Updating) {
            return Err(broken(Rule::Contract, "its software changes and it is not updating"));
        }
        self.fetch(number, 1)?;
        let fails = self.chance.happens(400_000);
        let now = self.tick();
        let (meter, _) = self.of(number);
        let was_updated = std::mem::replace(&mut meter.device.is_updated, true);
        meter.device.boot(now)?;
        if fails {
            meter.device.measure(4, &Digest(sha256(&[b"half of a boot loader"])))?;
        }
        self.settle_boot(number)?;
        self.set_now(UtcTime(self.now.0 + HOUR_S));
        self.fetch(number, 1)?;
        let state = self.state_of(number);
        if fails {
            return self.held_for_software(number, state);
        }
        let expected = if was_updated { DeviceState::Updating } else { DeviceState::Operating };
        if state != Some(expected) {
            return Err(broken(Rule::Contract, format!("it has shown its new software and is {state:?}")));
        }
        self.report.count("updated");
        self.meters[number].attested = self.now;
        self.connect(number)
    }

    /// It boots something else while it is held back, and is to work again: it goes into quarantine.
    pub(super) fn doubted_while_held(&mut self, number: usize) -> Step {
        self.connect(number)?;
        self.asked(number, Job::Suspend)?;
        self.fetch(number, 1)?;
        let now = self.tick();
        let (meter, _) = self.of(number);
        meter.device.boot(now)?;
        meter.device.measure(4, &Digest(sha256(&[b"another boot loader"])))?;
        self.settle_boot(number)?;
        self.asked(number, Job::Resume)?;
        self.fetch(number, 1)?;
        let state = self.state_of(number);
        self.held_for_software(number, state)
    }

    /// A meter with software that its owner does not know is in quarantine until a person has looked.
    fn held_for_software(&mut self, number: usize, state: Option<DeviceState>) -> Step {
        if state != Some(DeviceState::Quarantined) {
            return Err(broken(Rule::S13, format!("a meter with other software is {state:?}")));
        }
        self.meters[number].stage = Stage::Held;
        self.must_be_held(number, "in quarantine")?;
        self.report.count("quarantined");
        self.soon(number, HELD_DAYS, What::Trust);
        Ok(())
    }

    /// An operator's job, which must not be refused.
    pub(super) fn asked(&mut self, number: usize, job: Job) -> Step {
        let clock = self.clock();
        let name = job.name();
        let (meter, side) = self.of(number);
        if side.request(&meter.device.name, job, clock)? {
            Ok(())
        } else {
            Err(broken(Rule::Contract, format!("the register refuses to {name}")))
        }
    }

    pub(super) fn state_of(&mut self, number: usize) -> Option<DeviceState> {
        let (meter, side) = self.of(number);
        side.entry(&meter.device.name).map(|entry| entry.state)
    }

    /// Nothing is sealed for a meter that is held back, the head-end does not take it, and what it says is not opened.
    fn must_be_held(&mut self, number: usize, why: &str) -> Step {
        let (meter, side) = self.of(number);
        let place = meter.place;
        let denied = side.keys.seal_denied(place).map_err(found)?;
        if !matches!(denied, Some(Denial::StateForbids | Denial::AttestationStale)) {
            return Err(broken(
                Rule::S13,
                format!("a request is sealed for a meter that is {why}: {denied:?}"),
            ));
        }
        let says = side.keys.push_of(place).map_err(found)?;
        if side.keys.opens(says).map_err(found)? {
            return Err(broken(Rule::S13, format!("a meter that is {why} is listened to")));
        }
        if let Some(key) = meter.device.tls_key()
            && side.serves(&key)?
        {
            return Err(broken(Rule::S13, format!("the head-end takes a meter that is {why}")));
        }
        self.report.count("held-refused");
        Ok(())
    }

    /// Held back by its owner for some days.
    pub(super) fn suspended(&mut self, number: usize) -> Step {
        self.connect(number)?;
        self.asked(number, Job::Suspend)?;
        self.fetch(number, 1)?;
        if self.meters[number].device.is_at_work() {
            return Err(broken(Rule::Contract, "a suspended meter is at work"));
        }
        self.meters[number].stage = Stage::Held;
        self.must_be_held(number, "suspended")?;
        self.report.count("suspended");
        self.soon(number, HELD_DAYS, What::Resume);
        Ok(())
    }

    /// It comes with software that its owner does not know, before its first session and in the middle of one: he takes it
    /// only when a person has looked.
    pub(super) fn mistrusted(&mut self, number: usize) -> Step {
        self.mistrusted_in(DeviceState::Registered, number)?;
        // It has the right software, proves that, and then power fails. By then it may begin sessions again.
        self.set_now(UtcTime(self.now.0 + HOUR_S));
        let (clock, now) = (self.clock(), self.tick());
        let Self { meters, sides, init, .. } = self;
        let meter = &mut meters[number];
        let (side, name) = (&mut sides[meter.owner], meter.device.name);
        meter.device.boot(now)?;
        let mut exchange = |at: Tick, peer, wire: Vec<u8>| {
            let at = (at, UtcTime(clock.0 + (at.0 - now.0) / 1_000));
            let state = side.entry(&name).map(|entry| entry.state);
            match peer {
                _ if state == Some(DeviceState::Installing) => Ok(None),
                Peer::InitServer => Ok(Some(asked_init(init, at.1, &wire)?)),
                _ => side.exchange(at, wire),
            }
        };
        let end = meter.device.run(now, Tick(now.0 + MISTRUSTED_MS), &mut exchange)?;
        self.set_now(UtcTime(self.now.0 + (end.0 - now.0) / 1_000));
        self.mistrusted_in(DeviceState::Installing, number)
    }

    fn mistrusted_in(&mut self, state: DeviceState, number: usize) -> Step {
        if self.state_of(number) != Some(state) {
            return Err(broken(Rule::Contract, format!("a device is not {}", state.name())));
        }
        let (clock, now) = (self.clock(), self.tick());
        let Self { meters, sides, init, report, .. } = self;
        let meter = &mut meters[number];
        let side = &mut sides[meter.owner];
        meter.device.boot(now)?;
        meter.device.measure(0, &Digest(sha256(&[b"another firmware"])))?;
        let mut exchange = |at: Tick, peer, wire: Vec<u8>| {
            let at = (at, UtcTime(clock.0 + (at.0 - now.0) / 1_000));
            match peer {
                Peer::InitServer => Ok(Some(asked_init(init, at.1, &wire)?)),
                _ => side.exchange(at, wire),
            }
        };
        let until = Tick(now.0 + MISTRUSTED_MS);
        let end = meter.device.run(now, until, &mut exchange)?;
        if !side.readmit(&meter.device.name, clock)? {
            return Err(broken(Rule::S13, "a device with other software is not held"));
        }
        report.count("quarantined");
        self.set_now(UtcTime(self.now.0 + (end.0 - now.0) / 1_000));
        Ok(())
    }

    /// It may work again.
    pub(super) fn resumed(&mut self, number: usize) -> Step {
        self.asked(number, Job::Resume)?;
        self.fetch(number, 1)?;
        if !self.meters[number].device.is_at_work() {
            return Err(broken(Rule::Contract, "a resumed meter is not at work"));
        }
        (self.meters[number].stage, self.meters[number].attested) = (Stage::Serving, self.now);
        self.report.count("resumed");
        self.connect(number)
    }

    /// It has booted something that its owner does not know: it goes into quarantine.
    pub(super) fn doubted(&mut self, number: usize) -> Step {
        let now = self.tick();
        let (meter, _) = self.of(number);
        meter.device.boot(now)?;
        meter.device.measure(4, &Digest(sha256(&[b"another boot loader"])))?;
        self.settle_boot(number)?;
        self.asked(number, Job::Attest)?;
        self.fetch(number, 1)?;
        let state = self.state_of(number);
        self.held_for_software(number, state)
    }

    /// A person has put the right software back.
    pub(super) fn trusted(&mut self, number: usize) -> Step {
        let now = self.tick();
        self.meters[number].device.boot(now)?;
        self.settle_boot(number)?;
        self.report.count("power-cuts");
        self.resumed(number)
    }

    /// After power came a device that has an owner has nothing to ask for.
    fn settle_boot(&mut self, number: usize) -> Step {
        let now = self.tick();
        let nobody = &mut |_, _, _| Ok(None);
        self.meters[number].device.run(now, now, nobody).map(|_| ())
    }

    /// Somebody takes it away; the owner says so, and whoever has it gets nothing more with it.
    pub(super) fn stolen(&mut self, number: usize) -> Step {
        self.connect(number)?;
        let (meter, side) = self.of(number);
        let (place, system_title) = (meter.place, meter.device.title);
        let claim = ClaimState::Lost;
        side.keys.answered(KeyRequest::SetClaim { system_title, claim }).map_err(found)?;
        self.asked(number, Job::Suspend)?;
        self.must_be_held(number, "stolen")?;
        // The thief lets it ask for orders: it is told to stop.
        self.fetch(number, 1)?;
        if self.meters[number].device.is_at_work() {
            return Err(broken(Rule::Contract, "a stolen meter goes on working"));
        }
        self.must_be_held(number, "stolen")?;
        let (meter, side) = self.of(number);
        meter.stage = Stage::Gone;
        side.keys.lost(place);
        self.report.count("stolen");
        Ok(())
    }
}

/// For the description of a failure.
pub(super) fn described(root: &mut impl DeviceRoot) -> Result<u32, Broken> {
    match root.perform(RootRequest::Describe) {
        Ok(RootReply::Described(description)) => Ok(description.permanent),
        _ => Err(broken(Rule::Contract, "a root does not describe itself")),
    }
}
