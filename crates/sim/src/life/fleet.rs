//! One part of a fleet: its devices, its owners, and the calendar of their lives.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use gridseal_trust::enrol::device::Peer;
use gridseal_types::{
    DeviceState, Tick, UtcTime,
    records::{Commit, MemoryRecords},
    service::keys::{Denial, KeyKind, KeyRequest},
};

use super::{
    calendar::{Calendar, Due},
    device::Device,
    owner::{Papers, Side},
    report::{Fault, Plan, Report, Rule, Violation},
};
use crate::{
    Schedule,
    keys::{Evidence, Loss, Quirks, Watch, World},
    works::{START, owner, vendor},
};

/// What was broken, before it is known when.
pub(super) type Broken = (Rule, String);
pub(super) type Step = Result<(), Broken>;

pub(super) fn broken(rule: Rule, detail: impl Into<String>) -> Broken {
    (rule, detail.into())
}

impl From<crate::keys::Rule> for Rule {
    fn from(rule: crate::keys::Rule) -> Self {
        match rule {
            crate::keys::Rule::Reachable => Self::Reachable,
            crate::keys::Rule::Contract => Self::Contract,
            other => Self::Keys(other),
        }
    }
}

/// Carries what the key service's simulation found.
pub(super) fn found((rule, detail): (crate::keys::Rule, String)) -> Broken {
    (rule.into(), detail)
}

pub(super) const DAY_S: u64 = 86_400;
pub(super) const YEAR_S: u64 = 31_557_600;
/// Days between two visits.
const VISIT_DAYS: u64 = 45;
/// Key changes of a meter in its life, for each twenty years.
const CHANGES: u64 = 40;
/// Every so many changes the master key has its turn.
const KEK_EVERY: u32 = 8;
/// How long a session with an owner may take, milliseconds.
const SESSION_MS: u64 = 86_400_000;
/// How long what was replaced is kept.
const KEPT_S: u64 = 3 * YEAR_S;
/// Seconds between two tries to reach a meter: longer than any lock-out.
const AGAIN_S: u64 = 3 * DAY_S;
/// Tries after which a meter counts as stranded.
const TRIES: u32 = 24;
/// A person or a machine does something within so many days.
const SPREAD_DAYS: u64 = 30;

/// Who watches a run from outside.
#[derive(Default)]
#[allow(missing_debug_implementations, reason = "a port")]
pub struct Outside<'o> {
    /// Where evidence goes.
    pub evidence: Option<&'o mut dyn Evidence>,
    /// Counts visits.
    pub progress: Option<&'o AtomicU64>,
    /// Whether to stop.
    pub stop: Option<&'o AtomicBool>,
}

/// Evidence of several owners goes into one place.
struct Tap<'e, 'o>(&'e RefCell<Option<&'o mut dyn Evidence>>);

impl Evidence for Tap<'_, '_> {
    fn event(&mut self, line: &str) {
        if let Some(evidence) = self.0.borrow_mut().as_mut() {
            evidence.event(line);
        }
    }

    fn nonce(&mut self, line: &str) {
        if let Some(evidence) = self.0.borrow_mut().as_mut() {
            evidence.nonce(line);
        }
    }
}

/// Where a meter is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// In service with its owner.
    Serving,
    /// Stolen, or at its end.
    Gone,
}

pub(super) struct Meter {
    pub(super) device: Device,
    pub(super) papers: Papers,
    pub(super) owner: usize,
    /// Its place at its owner's.
    pub(super) place: usize,
    pub(super) stage: Stage,
    /// Since when its owner has it.
    pub(super) since: UtcTime,
    /// When its software was last vouched for, by the true clock.
    pub(super) attested: UtcTime,
    /// Keys that were replaced are still there.
    is_untidy: bool,
}

pub(super) struct Fleet<'e> {
    pub(super) plan: Plan,
    pub(super) chance: Schedule,
    /// The true time.
    pub(super) now: UtcTime,
    pub(super) calendar: Calendar,
    pub(super) init: MemoryRecords,
    pub(super) sides: Vec<Side<'e>>,
    pub(super) meters: Vec<Meter>,
    pub(super) report: Report,
    /// Of whom the last violation is.
    meter: Option<usize>,
}

/// Runs a plan to its end, or until it is to stop.
pub(super) fn run(plan: &Plan, outside: Outside<'_>) -> Report {
    let Outside { evidence, progress, stop } = outside;
    let is_watched = evidence.is_some();
    let evidence = RefCell::new(evidence);
    let mut taps: Vec<Tap<'_, '_>> = (0..plan.owners).map(|_| Tap(&evidence)).collect();
    let taps = taps.iter_mut().map(|tap| is_watched.then_some(tap as &mut dyn Evidence));
    let mut fleet = match Fleet::new(plan, taps) {
        Ok(fleet) => fleet,
        Err((rule, detail)) => {
            let mut report = Report::new();
            let (seed, at) = (plan.seed, START);
            report.violations.push(Violation { seed, meter: None, at, rule, detail });
            return report;
        }
    };
    let outcome = fleet.live(progress, stop);
    fleet.close(outcome)
}

impl<'e> Fleet<'e> {
    fn new(
        plan: &Plan,
        evidence: impl Iterator<Item = Option<&'e mut dyn Evidence>>,
    ) -> Result<Self, Broken> {
        let mut sides = Vec::new();
        for (number, evidence) in evidence.enumerate() {
            let owner = owner(number);
            let seed = plan.seed ^ (number as u64) << 56;
            let mut watch = Watch::new(seed, evidence);
            watch.lives = true;
            let fault = match plan.plant {
                Some(Fault::Confirm) => Some(crate::keys::Fault::Confirm),
                Some(Fault::Lease) => Some(crate::keys::Fault::Lease),
                Some(Fault::Epoch) => Some(crate::keys::Fault::Epoch),
                _ => None,
            };
            let keys = World::founded(&owner.keys, seed, fault, watch).map_err(found)?;
            sides.push(Side::new(seed, number, owner, keys));
        }
        let mut fleet = Self {
            plan: *plan,
            chance: Schedule::new(plan.seed),
            now: START,
            calendar: Calendar::default(),
            init: MemoryRecords::default(),
            sides,
            meters: Vec::new(),
            report: Report::new(),
            meter: None,
        };
        fleet.plan_lives();
        Ok(fleet)
    }

    /// When owners change, and when everything ends.
    fn plan_lives(&mut self) {
        for meter in 0..self.plan.meters as usize {
            let at = self.within(START, SPREAD_DAYS);
            self.calendar.enter(at, Due::Install(meter));
        }
        let owners = u64::from(self.plan.owners);
        let era = u64::from(self.plan.years) * YEAR_S / owners;
        for number in 0..self.plan.owners as usize {
            // In the middle of each owner's time a site burns down.
            let at = UtcTime(START.0 + number as u64 * era + era / 2);
            self.calendar.enter(at, Due::SiteBurns(number));
            self.calendar.enter(UtcTime(at.0 + 60 * DAY_S), Due::SiteReturns(number));
            self.calendar.enter(UtcTime(at.0 + 90 * DAY_S), Due::SiteChanges(number));
        }
    }

    pub(super) fn end(&self) -> UtcTime {
        UtcTime(START.0 + u64::from(self.plan.years) * YEAR_S)
    }

    /// Some time within so many days.
    pub(super) fn within(&mut self, from: UtcTime, days: u64) -> UtcTime {
        UtcTime(from.0 + self.chance.below(days * DAY_S))
    }

    /// What the services take for the time.
    pub(super) fn clock(&self) -> UtcTime {
        const NTP_EPOCH: u64 = 2_208_988_800;
        let UtcTime(now) = self.now;
        match self.plan.plant {
            Some(Fault::Clock2038) => UtcTime(now & 0x7FFF_FFFF),
            Some(Fault::Clock2036) => UtcTime(((now + NTP_EPOCH) & 0xFFFF_FFFF).saturating_sub(NTP_EPOCH)),
            _ => self.now,
        }
    }

    pub(super) fn tick(&self) -> Tick {
        Tick((self.now.0 - START.0) * 1_000)
    }

    fn set_now(&mut self, now: UtcTime) {
        self.now = now;
        let clock = self.clock();
        self.sides.iter_mut().for_each(|side| side.keys.set_time(clock, now));
    }

    fn live(&mut self, progress: Option<&AtomicU64>, stop: Option<&AtomicBool>) -> Step {
        while let Some((at, due)) = self.calendar.next() {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                self.report.stopped = true;
                return Ok(());
            }
            self.set_now(at.max(self.now));
            self.happen(due)?;
            if let (Some(progress), Due::Visit(_)) = (progress, due) {
                progress.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn happen(&mut self, due: Due) -> Step {
        self.meter = None;
        match due {
            Due::Install(meter) => self.installed(meter),
            Due::SiteBurns(owner) => self.site_burns(owner),
            Due::SiteReturns(owner) => self.site_returns(owner),
            Due::SiteChanges(owner) => self.site_changes(owner),
            Due::Visit(meter) => self.visited(meter),
            Due::Reach(meter, tries) => self.reached_again(meter, tries),
            Due::Rekey(meter, number) => self.rekeyed(meter, number),
        }
    }

    /// Closes the books.
    fn close(mut self, outcome: Step) -> Report {
        self.report.meters = self.meters.len() as u64;
        self.report.virtual_s = self.now.0 - START.0;
        if let Err((rule, detail)) = outcome {
            let meter = self.meter.and_then(|meter| self.meters.get(meter));
            let meter = meter.map(|meter| meter.device.title);
            let (seed, at) = (self.plan.seed, self.now);
            self.report.stranded += u64::from(matches!(rule, Rule::Reachable | Rule::Certificate));
            self.report.violations.push(Violation { seed, meter, at, rule, detail });
        }
        for side in &mut self.sides {
            let watch = side.keys.closed();
            self.report.pairs += watch.pairs;
            self.report.nonce_repeats += watch.nonce_reuse;
            for (name, count) in watch.coverage {
                *self.report.coverage.entry(name).or_default() += count;
            }
        }
        self.report
    }

    pub(super) fn of(&mut self, meter: usize) -> (&mut Meter, &mut Side<'e>) {
        let meter = &mut self.meters[meter];
        let side = &mut self.sides[meter.owner];
        (meter, side)
    }

    /// A meter is made, sold, mounted and switched on.
    fn installed(&mut self, number: usize) -> Step {
        let serial = self.plan.first + number as u32;
        let made = vendor().make(self.plan.seed, serial, owner(0));
        self.report.count("made");
        let papers = Papers {
            manifest: made.manifest.clone(),
            voucher: made.voucher.clone(),
            delivery: made.delivery.clone(),
        };
        let device = Device::new(self.plan.seed, made);
        self.meters.push(Meter {
            device,
            papers,
            owner: 0,
            place: 0,
            stage: Stage::Gone,
            since: self.now,
            attested: UtcTime(0),
            is_untidy: false,
        });
        // Meters are made in the order in which they are installed.
        let meter = self.meters.len() - 1;
        self.onboard(meter)
    }

    /// A device finds its owner, by its own machine and those of the owner, and its keys come into use.
    pub(super) fn onboard(&mut self, number: usize) -> Step {
        self.meter = Some(number);
        let (clock, now) = (self.clock(), self.tick());
        let seq = self.now.0;
        let loses = self.chance.happens(100_000);
        let Self { meters, sides, init, report, chance, .. } = self;
        let meter = &mut meters[number];
        let side = &mut sides[meter.owner];
        side.register((meter.device.name, meter.device.title), &meter.papers, (clock, seq), init)?;
        report.count("registered");
        meter.device.boot(now)?;
        report.count("power-cuts");
        let until = Tick(now.0 + SESSION_MS);
        let mut exchange = |at: Tick, peer, wire: Vec<u8>| {
            if loses && chance.happens(150_000) {
                report.count("answers-lost");
                return Ok(None);
            }
            let utc = UtcTime(clock.0 + (at.0 - now.0) / 1_000);
            match peer {
                Peer::InitServer => {
                    let answer = vendor().init.answer(init, utc, &wire);
                    let answer = answer.map_err(|error| broken(Rule::Contract, error.to_string()))?;
                    init.commit(answer.writes).expect("memory");
                    Ok(Some(answer.reply))
                }
                Peer::ConfigServer => side.exchange((at, utc), wire),
                Peer::HeadEnd | Peer::FormerOwner => Ok(None),
            }
        };
        let end = meter.device.run(now, until, &mut exchange)?;
        if !meter.device.is_operating() {
            let why = format!("it does not come to operate; quarantined: {:?}", side.quarantined);
            return Err(broken(Rule::Reachable, why));
        }
        let keys = meter.device.delivered_keys();
        let keys = keys.ok_or_else(|| broken(Rule::Contract, "it operates without its keys"))?;
        meter.place = side.keys.mounted(meter.device.name, Quirks::plain(chance), keys).map_err(found)?;
        let end = UtcTime(self.now.0 + (end.0 - now.0) / 1_000 + 1);
        (meter.stage, meter.since, meter.attested) = (Stage::Serving, end, end);
        self.report.count("onboarded");
        self.set_now(end);
        self.visited(number)?;
        self.plan_service(number);
        Ok(())
    }

    /// What is to come while this owner has the meter.
    fn plan_service(&mut self, number: usize) {
        let owners = u64::from(self.plan.owners);
        let all_s = u64::from(self.plan.years) * YEAR_S;
        let owner = self.meters[number].owner as u64;
        let until = START.0 + all_s * (owner + 1) / owners;
        let changes = CHANGES * u64::from(self.plan.years) / 20;
        let share = (changes * (owner + 1) / owners - changes * owner / owners).max(1);
        let span = until.saturating_sub(self.now.0);
        for change in 0..share {
            let at = UtcTime(self.now.0 + span * (change + 1) / (share + 1));
            let at = self.within(at, (span / (share + 1) / 2 / DAY_S).max(1));
            self.calendar.enter(at, Due::Rekey(number, change as u32));
        }
    }

    /// The head-end's side of TLS: its certificate is good, and its key is one that is admitted.
    pub(super) fn connects(&mut self, number: usize) -> Step {
        let now = self.now;
        let (meter, side) = self.of(number);
        let Some(key) = meter.device.tls_key() else {
            return Err(broken(Rule::Certificate, "it has no key"));
        };
        let Some((from, until)) = meter.device.validity() else {
            return Err(broken(Rule::Certificate, "it has no certificate"));
        };
        if now < from || now > until {
            let detail = format!("its certificate was good from {from} until {until}");
            return Err(broken(Rule::Certificate, detail));
        }
        if !side.serves(&key)? {
            return Err(broken(Rule::Certificate, "the head-end does not serve its key"));
        }
        self.report.count("connections");
        Ok(())
    }

    /// It is connected, vouched for, and read.
    fn visited(&mut self, number: usize) -> Step {
        if self.meters[number].stage != Stage::Serving {
            return Ok(());
        }
        self.meter = Some(number);
        self.connects(number)?;
        self.attested(number)?;
        let (meter, side) = self.of(number);
        let place = meter.place;
        // A first reading, under keys that nobody has proven yet, is the meter's own.
        side.keys.pushed(place).map_err(found)?;
        self.reached(number, 1)?;
        let (_, side) = self.of(number);
        let replayed = side.keys.replay_to(place).map_err(found)?;
        self.report.count_some("readings", 2);
        self.report.count_some("replays-refused", u64::from(replayed));
        let next = UtcTime(self.now.0 + VISIT_DAYS * DAY_S / 2);
        let next = self.within(next, VISIT_DAYS);
        if next < self.end() {
            self.calendar.enter(next, Due::Visit(number));
        }
        Ok(())
    }

    /// Its attestation is too old after so long a time: nothing is sealed for it until there is a new one.
    pub(super) fn attested(&mut self, number: usize) -> Step {
        let (now, clock) = (self.now, self.clock());
        let (meter, side) = self.of(number);
        let is_old = now.0 - meter.attested.0 > gridseal_keys::Core::ATTESTATION_AGE_DEFAULT_S;
        if !is_old {
            return Ok(());
        }
        let denied = side.keys.seal_denied(meter.place).map_err(found)?;
        if denied != Some(Denial::AttestationStale) {
            let days = (now.0 - meter.attested.0) / DAY_S;
            let detail = format!("a request is sealed {days} days after the last attestation: {denied:?}");
            return Err(broken(Rule::S13, detail));
        }
        let (device, state) = (meter.device.name, DeviceState::Operating);
        side.ask(KeyRequest::SetState { device, state, attested_at: clock })?;
        meter.attested = now;
        self.report.count("stale-refused");
        self.report.count("attested");
        Ok(())
    }

    /// Keys change; now and then a message of that is lost.
    fn rekeyed(&mut self, number: usize, change: u32) -> Step {
        if self.meters[number].stage != Stage::Serving {
            return Ok(());
        }
        self.meter = Some(number);
        self.connects(number)?;
        self.attested(number)?;
        let loss = match self.chance.below(12) {
            0 => Loss::Transfer,
            1 => Loss::Answer,
            2 => Loss::Refused,
            _ => Loss::Nothing,
        };
        let items: &[KeyKind] = match change % KEK_EVERY {
            7 => &[KeyKind::Kek],
            3 => &[KeyKind::Guek],
            5 => &[KeyKind::Gak],
            _ => &[KeyKind::Guek, KeyKind::Gak],
        };
        let (meter, side) = self.of(number);
        let place = meter.place;
        meter.is_untidy = true;
        side.keys.rekey(place, items, loss).map_err(found)?;
        self.report.count_some("key-changes", u64::from(loss != Loss::Refused));
        match loss {
            Loss::Transfer => self.report.count("transfers-lost"),
            Loss::Answer => self.report.count("transfer-answers-lost"),
            Loss::Refused => {
                self.report.count("transfers-refused");
                let again = self.within(self.now, SPREAD_DAYS);
                self.calendar.enter(again, Due::Rekey(number, change));
            }
            Loss::Nothing => {}
        }
        self.reached(number, 1)
    }

    /// A reading is asked for; whatever key change is open comes to its end, now or at another try some days later.
    fn reached(&mut self, number: usize, tries: u32) -> Step {
        let before = UtcTime(self.clock().0.saturating_sub(KEPT_S));
        let (meter, side) = self.of(number);
        let place = meter.place;
        if side.keys.visit(place).map_err(found)? {
            if std::mem::take(&mut meter.is_untidy) {
                let destroyed = side.keys.tidy(place, before).map_err(found)?;
                self.report.count_some("keys-destroyed", destroyed);
            }
            return Ok(());
        }
        if tries >= TRIES {
            return Err(found(side.keys.unreached(place)));
        }
        self.report.count("tries-again");
        self.calendar.enter(UtcTime(self.now.0 + AGAIN_S), Due::Reach(number, tries + 1));
        Ok(())
    }

    fn reached_again(&mut self, number: usize, tries: u32) -> Step {
        if self.meters[number].stage != Stage::Serving {
            return Ok(());
        }
        self.meter = Some(number);
        self.connects(number)?;
        self.attested(number)?;
        self.reached(number, tries)
    }

    fn site_burns(&mut self, owner: usize) -> Step {
        self.sides[owner].keys.site_burns().map_err(found)?;
        self.report.count("sites-lost");
        Ok(())
    }

    fn site_returns(&mut self, owner: usize) -> Step {
        self.sides[owner].keys.site_returns().map_err(found)?;
        self.report.count("sites-returned");
        Ok(())
    }

    fn site_changes(&mut self, owner: usize) -> Step {
        self.sides[owner].keys.site_changes().map_err(found)?;
        self.report.count("fail-backs");
        Ok(())
    }
}
