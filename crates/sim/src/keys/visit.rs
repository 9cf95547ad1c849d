//! What another simulation asks of this one for a single meter: visits, key changes with lost messages, trials.

use std::collections::BTreeMap;

use gridseal_crypto::{Curve, Key, role::Role};
use gridseal_keys::{lease::CounterLayout, site::Standby};
use gridseal_types::{
    EkName, UtcTime,
    service::keys::{
        Carrier, Denial, ExchangeReply, KeyAct, KeyKind, KeyRef, KeyReply, KeyRequest, OpenVerdict, Seal,
        SiteMode, VersionState,
    },
};

use super::{
    headend::{Intent, Message, To, Why, denial},
    meter::{KeyBytes, Meter, MeterKeys, Mishap, Quirks},
    operator::approvals,
    report::Rule,
    watch::Broken,
    world::{Step, World, contract},
};
use crate::Schedule;

/// Messages that are kept of all that was carried.
const RECORDED_MAX: usize = 512;

/// What gets lost of a key change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Nothing,
    /// The transfer on its way to the meter.
    Transfer,
    /// The meter's answer.
    Answer,
    /// Nothing; the meter refuses the keys.
    Refused,
}

/// The bytes of a key, for a meter that keeps it in its flash.
pub(crate) fn bytes_of<R: Role>(key: &Key<R, 16>) -> KeyBytes {
    KeyBytes::of(key)
}

/// What a world has counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) pairs: u64,
    pub(crate) nonce_reuse: u64,
    pub(crate) coverage: BTreeMap<&'static str, u64>,
}

impl Quirks {
    /// Those of a meter whose keys are delivered in one piece.
    pub(crate) fn plain(schedule: &mut Schedule) -> Self {
        Self {
            one_by_one: schedule.happens(500_000),
            answers_under_new: schedule.happens(500_000),
            goes_on_counting: schedule.happens(300_000),
            layout: CounterLayout::Epoch24,
            carrier: Carrier::GeneralGlo,
            jump_max: None,
            lockout: 10,
        }
    }
}

impl World<'_> {
    /// What was counted, and what was broken; nothing comes after it.
    pub(crate) fn closed(&mut self, broke: Option<(&str, &str)>) -> Counted {
        match broke {
            Some((rule, detail)) => self.watch.tell_violation(rule, detail),
            None => self.watch.event("end", String::new),
        }
        Counted {
            pairs: self.watch.pair_count,
            nonce_reuse: self.watch.nonce_reuse,
            coverage: std::mem::take(&mut self.watch.coverage.0),
        }
    }

    /// Time, by the clock of the services, and as it really goes by.
    pub(crate) const fn set_time(&mut self, clock: UtcTime, real: UtcTime) {
        (self.now, self.tick) = (clock, real.0);
        self.watch.step += 1;
    }

    /// The site that serves.
    pub(crate) fn leader(&self) -> Result<usize, Broken> {
        let leader = self.serving().into_iter().max_by_key(|site| self.sites[*site].epoch());
        leader.ok_or_else(|| contract("no site serves"))
    }

    /// The same; where nobody follows it, two people say that they know.
    fn alone_or_not(&mut self) -> Result<usize, Broken> {
        let leader = self.leader()?;
        if self.sites[leader].standby == Standby::Lost {
            self.approve_degraded(leader)?;
        }
        Ok(leader)
    }

    /// One request to the site that serves, and its answer once it is durable.
    pub(crate) fn answered(&mut self, request: KeyRequest) -> Result<KeyReply, Broken> {
        let leader = self.alone_or_not()?;
        let reply = self.order(leader, request)?;
        reply.ok_or_else(|| contract("the site that serves does not answer"))
    }

    /// A meter that has got its keys comes into the field.
    pub(crate) fn mounted(
        &mut self,
        device: EkName,
        quirks: Quirks,
        keys: MeterKeys,
    ) -> Result<usize, Broken> {
        let Some(entry) = self.sites[self.leader()?].disk.view.device(&device) else {
            return Err(contract("a device comes into the field that the key service does not know"));
        };
        let title = entry.system_title;
        let rng = crate::HashRng::new(self.watch.seed, "meter", u64::from_be_bytes(title.0));
        let meter = self.add(device, Meter::new(title, quirks, keys, self.core, rng));
        if entry.slot as usize != meter {
            return Err(contract("meters come into the field in another order than into the register"));
        }
        self.tell_keys(meter);
        Ok(meter)
    }

    /// It gives no answer any more, and none is expected.
    pub(crate) fn lost(&mut self, meter: usize) {
        self.is_gone(meter);
    }

    /// Its keys come out of its root once more.
    pub(crate) fn replaced(&mut self, meter: usize, keys: MeterKeys) {
        if self.meters[meter].take(keys) {
            self.tell_keys(meter);
        }
    }

    /// Its keys are gone: it answers nobody.
    pub(crate) fn wiped(&mut self, meter: usize) {
        self.meters[meter].wipe();
    }

    /// A reading is asked for, and whatever key change is open comes to its end. False: not this time.
    pub(crate) fn visit(&mut self, meter: usize) -> Result<bool, Broken> {
        let leader = self.alone_or_not()?;
        (self.known[meter].read, self.known[meter].asked) = (false, false);
        self.contact(leader, meter)?;
        self.forget_messages();
        self.compare()?;
        Ok(self.is_well(meter))
    }

    /// What is known of a meter that gives no reading, or whose key change comes to no end.
    pub(crate) fn unreached(&mut self, meter: usize) -> Broken {
        let status = self.known[meter].status.as_ref();
        let phase = status.and_then(|status| status.change.as_ref()).map(|change| change.phase.name());
        let read = self.known[meter].read;
        self.unreachable += 1;
        (Rule::Reachable, format!("reading {read}, change {}", phase.unwrap_or("none")))
    }

    /// Highest suite that a meter was proven in, as the site that serves has it.
    pub(crate) fn suite(&self, meter: usize) -> u8 {
        let leader = self.leader().unwrap_or_default();
        self.sites[leader].disk.view.device(&self.devices[meter]).map_or(0, |entry| entry.suite)
    }

    /// Begins the key change that raises a meter's suite, and loses something of it.
    pub(crate) fn raise(&mut self, meter: usize, suite: u8, loss: Loss) -> Step {
        let system_title = self.meters[meter].title;
        let der = crate::works::meter_certificate(system_title, Curve::of_suite(suite));
        self.answered(KeyRequest::MeterCertificate { system_title, der })?;
        self.answered(KeyRequest::RaiseSuite { system_title, suite })?;
        self.rekey(meter, &[], loss)
    }

    /// Begins a key change, or goes on with the one that is prepared, and loses something of it.
    pub(crate) fn rekey(&mut self, meter: usize, items: &[KeyKind], loss: Loss) -> Step {
        let leader = self.alone_or_not()?;
        if loss == Loss::Refused {
            self.mishap = Mishap::Refuses(0);
        }
        self.begin_change(leader, meter, items.to_vec())?;
        if loss == Loss::Transfer {
            self.net.clear();
        } else if loss == Loss::Answer
            && let Some(transfer) = self.net.pop()
        {
            self.net.clear();
            self.deliver(transfer)?;
            self.net.clear();
        }
        self.settle()?;
        self.mishap = Mishap::None;
        self.status(leader, meter)?;
        self.forget_messages();
        self.compare()
    }

    /// The site that serves is killed, and starts again.
    pub(crate) fn dies(&mut self) -> Step {
        let leader = self.leader()?;
        self.restart(leader)
    }

    /// What the head-end is told that wants to send a reading's request.
    pub(crate) fn seal_denied(&mut self, meter: usize) -> Result<Option<Denial>, Broken> {
        let (system_title, carrier) = (self.meters[meter].title, self.meters[meter].quirks.carrier);
        let apdu = super::headend::get(1);
        let seal = Seal { system_title, apdu, carrier, idempotency: Seal::UNNAMED };
        let reply = self.answered(KeyRequest::Seal(seal))?;
        Ok(denial(&reply).cloned())
    }

    /// A request that is sealed for a meter, and held back by whoever wants to use it later.
    pub(crate) fn sealed(&mut self, meter: usize) -> Result<Option<Vec<u8>>, Broken> {
        let (system_title, carrier) = (self.meters[meter].title, self.meters[meter].quirks.carrier);
        let apdu = super::headend::get(2);
        let seal = Seal { system_title, apdu, carrier, idempotency: Seal::UNNAMED };
        match self.answered(KeyRequest::Seal(seal))? {
            KeyReply::Exchange(ExchangeReply::Sealed(sealed)) => Ok(Some(sealed.apdu)),
            _ => Ok(None),
        }
    }

    /// Whether a meter obeys bytes that somebody sends under the title of the head-ends.
    pub(crate) fn obeys(&mut self, meter: usize, bytes: &[u8]) -> bool {
        let (client, tick) = (self.sites[0].client, self.tick);
        self.meters[meter].handle(client, bytes, Mishap::None, tick).answer.is_some()
    }

    /// A reading that nobody asked for goes to the key service: opened once as new, and again as the same.
    pub(crate) fn pushed(&mut self, meter: usize) -> Result<(), Broken> {
        let leader = self.leader()?;
        let sent = self.meters[meter].push();
        let title = self.meters[meter].title;
        self.watch.meter_sent(meter, title, &sent)?;
        for expected in ["fresh", "duplicate"] {
            let request = KeyRequest::OpenApdu { apdu: sent.bytes.clone() };
            let intent = Intent::Open { why: Why::Push, bytes: sent.bytes.clone() };
            self.decide(leader, vec![(intent, request)])?;
            let reply = self.sites[leader].queue.back().and_then(|last| last.replies.last());
            let is_expected = match reply {
                Some((_, KeyReply::Apdu(OpenVerdict::Fresh { .. }))) => expected == "fresh",
                Some((_, KeyReply::Apdu(OpenVerdict::Duplicate { .. }))) => expected == "duplicate",
                _ => false,
            };
            if !is_expected {
                return Err((Rule::Window, format!("a push of meter {title} is not {expected}")));
            }
            self.flush(leader)?;
        }
        Ok(())
    }

    /// What a meter pushes, unasked.
    pub(crate) fn push_of(&mut self, meter: usize) -> Result<Vec<u8>, Broken> {
        let sent = self.meters[meter].push();
        let title = self.meters[meter].title;
        self.watch.meter_sent(meter, title, &sent)?;
        Ok(sent.bytes)
    }

    /// Whether this key service opens bytes of a meter.
    pub(crate) fn opens(&mut self, apdu: Vec<u8>) -> Result<bool, Broken> {
        let reply = self.answered(KeyRequest::OpenApdu { apdu })?;
        Ok(matches!(reply, KeyReply::Apdu(OpenVerdict::Fresh { .. } | OpenVerdict::Duplicate { .. })))
    }

    /// Answers a challenge by the keys in use, and destroys what was replaced and nothing was opened under any more.
    pub(crate) fn tidy(&mut self, meter: usize, before: UtcTime) -> Result<u64, Broken> {
        let leader = self.leader()?;
        self.associate(leader, meter, 0)?;
        self.settle()?;
        self.status(leader, meter)?;
        let Some(status) = self.known[meter].status.clone() else { return Ok(0) };
        let mut destroyed = 0;
        for version in status.versions.iter().filter(|version| version.state == VersionState::Deactivated) {
            if version.deactivated_at.is_none_or(|at| at >= before) {
                continue;
            }
            let key =
                KeyRef { system_title: status.system_title, kind: version.kind, version: version.version };
            let (act, reason) = (KeyAct::Destroy, "its period is over".into());
            let request = KeyRequest::KeyAct { key, act, approvals: approvals(), reason };
            let reply = self.answered(request)?;
            destroyed += u64::from(denial(&reply).is_none());
        }
        self.compare()?;
        Ok(destroyed)
    }

    /// A site burns down: the other one takes over, and nobody follows.
    pub(crate) fn site_burns(&mut self) -> Step {
        let lost = self.leader()?;
        self.linked = false;
        self.kill(lost);
        self.promote(1 - lost)?;
        match self.sites[1 - lost].mode() {
            Some(SiteMode::Active) => Ok(()),
            mode => Err(contract(format!("the other site is {mode:?}"))),
        }
    }

    /// The lost site is there again with the database that it had: its keys come in, and it follows.
    pub(crate) fn site_returns(&mut self) -> Step {
        self.linked = true;
        for site in 0..self.sites.len() {
            if self.sites[site].service.is_none() {
                self.restart(site)?;
            }
        }
        self.join()?;
        self.compare()
    }

    /// The site that follows takes over without a loss, and the other follows.
    pub(crate) fn site_changes(&mut self) -> Step {
        let leader = self.leader()?;
        self.replicate(leader, usize::MAX);
        self.promote(1 - leader)?;
        self.join()?;
        self.compare()
    }

    fn forget_messages(&mut self) {
        let excess = self.recorded.len().saturating_sub(RECORDED_MAX);
        self.recorded.drain(..excess);
    }

    /// Somebody sends a meter what it has got before.
    pub(crate) fn replay_to(&mut self, meter: usize) -> Result<bool, Broken> {
        let last = self.recorded.iter().rev().find(|sent| sent.meter == meter && sent.to == To::Meter);
        let Some(Message { bytes, .. }) = last.filter(|sent| !sent.bytes.is_empty()).cloned() else {
            return Ok(false);
        };
        if self.obeys(meter, &bytes) {
            return Err((Rule::S5, format!("meter {meter} obeys the same bytes twice")));
        }
        Ok(true)
    }
}
