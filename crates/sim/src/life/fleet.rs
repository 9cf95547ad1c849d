//! One part of a fleet: its devices, its owners, and the calendar of their lives.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gridseal_keys::Core;
use gridseal_onboarding::endpoint_manager::orders::Job;
use gridseal_trust::enrol::device::{DeliveredKey, Input, Peer};
use gridseal_types::{
    DeviceState, Digest, Tick, UtcTime,
    records::{Commit, MemoryRecords},
    service::keys::{Denial, KeyKind},
};

use super::{
    calendar::{Calendar, Due, What},
    device::Device,
    owner::{Papers, Side},
    report::{Fault, Plan, Report, Rule, Violation},
    resale::Spoils,
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
/// Key changes of a meter in its life, for each twenty years.
const CHANGES: u64 = 40;
/// Days between two looks of an owner at who is silent.
const LOOK_DAYS: u64 = 30;
/// Which of 32 meters is stolen.
const STOLEN: usize = 7;
/// When in an owner's time his authorities fail, years, and for how many days: renewals fall into it.
const AUTHORITY_FAILS_YEARS: u64 = 5;
const AUTHORITY_OUT_DAYS: u64 = 240;
/// Which of 12 meters comes with software that nobody knows.
const DOUBTFUL: usize = 4;
/// Every so many changes the master key has its turn.
const KEK_EVERY: u32 = 8;
/// Which of so many meters has its suite raised, and by which key changes of an owner: to suite 1, then to suite 2.
const RAISED_OF: usize = 2;
const RAISES: [(u32, u8); 2] = [(2, 1), (4, 2)];
/// How long a session with an owner may take, milliseconds.
const SESSION_MS: u64 = 86_400_000;
/// How long what was replaced is kept.
const KEPT_S: u64 = 3 * YEAR_S;
/// How often a device that was not confirmed goes to the head-end, within that time.
const HEADEND_TRIES: u32 = 4;
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
    /// Virtual days of meters that went by.
    pub progress: Option<&'o AtomicU64>,
    /// Whether to stop.
    pub stop: Option<&'o AtomicBool>,
}

/// Evidence of one owner, kept until the other owners' is there too: whoever reads it reads one after the other.
#[derive(Default)]
struct Tap {
    events: Vec<String>,
    nonces: Vec<String>,
}

impl Evidence for Tap {
    fn event(&mut self, line: &str) {
        self.events.push(line.to_owned());
    }

    fn nonce(&mut self, line: &str) {
        self.nonces.push(line.to_owned());
    }
}

/// Where a meter is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// In service with its owner.
    Serving,
    /// Held back by its owner, or by a check.
    Held,
    /// Stolen, or at its end.
    Gone,
}

pub(super) struct Meter {
    pub(super) device: Device,
    pub(super) number: u32,
    pub(super) papers: Papers,
    pub(super) owner: usize,
    /// Its place at its owner's.
    pub(super) place: usize,
    pub(super) stage: Stage,
    /// When its software was last vouched for, by the true clock.
    pub(super) attested: UtcTime,
    /// The objects in the root that its DLMS keys came from.
    delivered: Vec<DeliveredKey>,
    /// The key that it proves in TLS, and the authority that issued its certificate.
    pub(super) tls_key: Option<Digest>,
    issuer: Vec<u8>,
    /// Keys that were replaced are still there.
    pub(super) is_untidy: bool,
    /// Keys change by DLMS between the delivery of new ones to the root and their proof, and this is lost of it.
    pub(super) crossing: Option<Loss>,
    /// The owner of the time before has left these behind.
    pub(super) spoils: Option<Spoils>,
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

/// A message to the init server, and its answer.
pub(super) fn asked_init(init: &mut MemoryRecords, now: UtcTime, wire: &[u8]) -> Result<Vec<u8>, Broken> {
    let answer = vendor().init.answer(init, now, wire);
    let answer = answer.map_err(|error| broken(Rule::Contract, error.to_string()))?;
    init.commit(answer.writes).expect("memory");
    Ok(answer.reply)
}

/// Runs a plan to its end, or until it is to stop.
pub(super) fn run(plan: &Plan, outside: Outside<'_>) -> Report {
    let Outside { evidence, progress, stop } = outside;
    let is_watched = evidence.is_some();
    let mut taps: Vec<Tap> = (0..plan.owners).map(|_| Tap::default()).collect();
    let each = taps.iter_mut().map(|tap| is_watched.then_some(tap as &mut dyn Evidence));
    let report = match Fleet::new(plan, each) {
        Ok(mut fleet) => {
            let outcome = fleet.live(progress, stop);
            fleet.close(outcome)
        }
        Err((rule, detail)) => {
            let mut report = Report::new();
            let (seed, at) = (plan.seed, START);
            report.violations.push(Violation { seed, meter: None, at, rule, detail });
            report
        }
    };
    if let Some(evidence) = evidence {
        for tap in taps {
            tap.events.iter().for_each(|line| evidence.event(line));
            tap.nonces.iter().for_each(|line| evidence.nonce(line));
        }
    }
    report
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
            let mut side = Side::new(seed, number, owner, keys);
            side.is_slow = plan.plant == Some(Fault::LateRenewal);
            sides.push(side);
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

    /// What does not depend on a meter, and when meters come.
    fn plan_lives(&mut self) {
        for _ in 0..self.plan.meters {
            let at = self.within(START, SPREAD_DAYS);
            self.calendar.enter(at, Due::Install);
        }
        for owner in 0..self.plan.owners as usize {
            // In the middle of each owner's time a site burns down.
            let (from, until) = self.era(owner);
            let at = UtcTime(from.0.midpoint(until.0));
            self.calendar.enter(at, Due::SiteBurns(owner));
            self.calendar.enter(UtcTime(at.0 + 60 * DAY_S), Due::SiteReturns(owner));
            self.calendar.enter(UtcTime(at.0 + 90 * DAY_S), Due::SiteChanges(owner));
            let fails = UtcTime(from.0 + AUTHORITY_FAILS_YEARS * YEAR_S + 120 * DAY_S);
            let returns = UtcTime(fails.0 + AUTHORITY_OUT_DAYS * DAY_S);
            if returns.0 + 180 * DAY_S < until.0 {
                self.calendar.enter(fails, Due::AuthorityFails(owner));
                self.calendar.enter(returns, Due::AuthorityReturns(owner));
            }
            self.calendar.enter(UtcTime(from.0 + LOOK_DAYS * DAY_S), Due::Look(owner));
        }
    }

    /// From when until when meters belong to an owner.
    fn era(&self, owner: usize) -> (UtcTime, UtcTime) {
        let all_s = u64::from(self.plan.years) * YEAR_S;
        let at = |owner: u64| UtcTime(START.0 + all_s * owner / u64::from(self.plan.owners));
        (at(owner as u64), at(owner as u64 + 1))
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

    pub(super) fn set_now(&mut self, now: UtcTime) {
        self.now = now;
        let clock = self.clock();
        self.sides.iter_mut().for_each(|side| side.keys.set_time(clock, now));
    }

    fn live(&mut self, progress: Option<&AtomicU64>, stop: Option<&AtomicBool>) -> Step {
        let mut told = 0;
        while let Some((at, due)) = self.calendar.next() {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                self.report.stopped = true;
                return Ok(());
            }
            self.set_now(at.max(self.now));
            self.happen(due)?;
            if let Some(progress) = progress {
                let days = (self.now.0 - START.0) / DAY_S;
                let went_by = days.saturating_sub(told) * u64::from(self.plan.meters);
                told = told.max(days);
                progress.fetch_add(went_by, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn happen(&mut self, due: Due) -> Step {
        self.meter = None;
        match due {
            Due::Install => self.installed(),
            Due::Look(owner) => self.looked(owner),
            Due::SiteBurns(owner) => self.site_burns(owner),
            Due::SiteReturns(owner) => self.site_returns(owner),
            Due::SiteChanges(owner) => self.site_changes(owner),
            Due::AuthorityFails(owner) => {
                self.sides[owner].is_out = true;
                Ok(())
            }
            Due::AuthorityReturns(owner) => {
                let side = &mut self.sides[owner];
                side.is_out = false;
                self.report.count_some("certificates-waited-for", side.refused);
                Ok(())
            }
            Due::Meter { meter, owner, what } => {
                let of = &self.meters[meter];
                if of.owner != owner || of.stage == Stage::Gone {
                    return Ok(());
                }
                self.meter = Some(meter);
                self.with_meter(meter, what)
            }
        }
    }

    fn with_meter(&mut self, meter: usize, what: What) -> Step {
        let is_held = self.meters[meter].stage == Stage::Held;
        match what {
            What::Resume => self.resumed(meter),
            What::Trust => self.trusted(meter),
            What::Sell => self.sold(meter),
            What::End => self.ended(meter),
            What::Visit => self.visited(meter),
            // Whoever is held back is not worked with meanwhile: another day.
            other if is_held => {
                self.soon(meter, SPREAD_DAYS, other);
                Ok(())
            }
            What::Reach(tries) => {
                self.connect(meter)?;
                self.reached(meter, tries)
            }
            What::Rekey(change) => self.rekeyed(meter, change),
            What::Cross => self.crossed(meter),
            What::Update => self.updated(meter),
            What::DoubtHeld => self.doubted_while_held(meter),
            What::Rotate => self.ordered(meter, Job::Rotate, "secrets-rotated"),
            What::Authorise => self.ordered(meter, Job::Authorise, "authorisations-changed"),
            What::Suspend => self.suspended(meter),
            What::Doubt => self.doubted(meter),
            What::Steal => self.stolen(meter),
        }
    }

    /// Something with a meter within so many days.
    pub(super) fn soon(&mut self, meter: usize, days: u64, what: What) {
        let at = self.within(UtcTime(self.now.0 + DAY_S), days);
        self.at(meter, at, what);
    }

    fn at(&mut self, meter: usize, at: UtcTime, what: What) {
        let owner = self.meters[meter].owner;
        self.calendar.enter(at, Due::Meter { meter, owner, what });
    }

    /// Closes the books.
    fn close(mut self, outcome: Step) -> Report {
        self.report.meters = self.meters.len() as u64;
        self.report.virtual_s = self.now.0 - START.0;
        let broke = outcome.as_ref().err().map(|(rule, detail)| (rule.name(), detail.clone()));
        if let Err((rule, detail)) = outcome {
            let meter = self.meter.and_then(|meter| self.meters.get(meter));
            let meter = meter.map(|meter| meter.device.title);
            let (seed, at) = (self.plan.seed, self.now);
            self.report.stranded += u64::from(matches!(rule, Rule::Reachable | Rule::Certificate));
            self.report.violations.push(Violation { seed, meter, at, rule, detail });
        }
        for side in &mut self.sides {
            let broke = broke.as_ref().map(|(rule, detail)| (*rule, detail.as_str()));
            let watch = side.keys.closed(broke);
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
    fn installed(&mut self) -> Step {
        let place = self.meters.len();
        let number = self.plan.first + place as u32;
        let made = vendor().make(self.plan.seed, number, owner(0));
        self.report.count("made");
        let papers = Papers {
            manifest: made.manifest.clone(),
            voucher: made.voucher.clone(),
            delivery: made.delivery.clone(),
            receipt: None,
        };
        let device = Device::new(self.plan.seed, made);
        self.meters.push(Meter {
            device,
            number,
            papers,
            owner: 0,
            place: 0,
            stage: Stage::Gone,
            attested: UtcTime(0),
            delivered: Vec::new(),
            tls_key: None,
            issuer: Vec::new(),
            is_untidy: false,
            crossing: None,
            spoils: None,
        });
        self.onboard(place)
    }

    /// A device finds its owner, by its own machine and those of the owner, and its keys come into use.
    pub(super) fn onboard(&mut self, number: usize) -> Step {
        self.meter = Some(number);
        self.registered(number)?;
        let (clock, now) = (self.clock(), self.tick());
        let loses = self.chance.happens(100_000);
        let Self { meters, sides, init, report, chance, .. } = self;
        let meter = &mut meters[number];
        let owner = meter.owner;
        meter.device.boot(now)?;
        report.count("power-cuts");
        let until = Tick(now.0 + SESSION_MS);
        let mut is_tempted = owner > 0;
        let mut end = now;
        for _ in 0..HEADEND_TRIES {
            let mut exchange = |at: Tick, peer, wire: Vec<u8>| {
                if loses && chance.happens(150_000) {
                    report.count("answers-lost");
                    return Ok(None);
                }
                let at = (at, UtcTime(clock.0 + (at.0 - now.0) / 1_000));
                match peer {
                    Peer::InitServer => Ok(Some(asked_init(init, at.1, &wire)?)),
                    // The former owner's config server is asked first: whoever answers for it gets nothing.
                    Peer::ConfigServer if std::mem::take(&mut is_tempted) => {
                        report.count("former-owner-tried");
                        sides[owner - 1].exchange(at, wire)
                    }
                    Peer::ConfigServer => sides[owner].exchange(at, wire),
                    Peer::FormerOwner if owner > 0 => sides[owner - 1].exchange(at, wire),
                    _ => Ok(None),
                }
            };
            end = meter.device.run(end, until, &mut exchange)?;
            if !meter.device.is_unconfirmed() {
                break;
            }
            // The last message, or its answer, was lost: the head-end knows whether its owner has seen it.
            report.count("confirmed-by-head-end");
            let is_served = meter.device.tls_key().map_or(Ok(false), |key| sides[owner].serves(&key))?;
            let said = if is_served { Input::TerminusAccepted } else { Input::TerminusRefused };
            meter.device.feed(end, said)?;
        }
        if !meter.device.is_operating() {
            let why = format!("it does not come to operate; in quarantine: {:?}", sides[owner].quarantined);
            return Err(broken(Rule::Reachable, why));
        }
        let keys = meter.device.delivered_keys();
        let keys = keys.ok_or_else(|| broken(Rule::Contract, "it operates without its keys"))?;
        let side = &mut sides[owner];
        meter.place = side.keys.mounted(meter.device.name, Quirks::plain(chance), keys).map_err(found)?;
        let end = UtcTime(self.now.0 + (end.0 - now.0) / 1_000 + 1);
        (meter.stage, meter.attested) = (Stage::Serving, end);
        meter.delivered = meter.device.delivered();
        (meter.tls_key, meter.issuer) = (None, Vec::new());
        self.report.count("onboarded");
        self.set_now(end);
        self.tell_certificate(number);
        self.former_owner_tries(number)?;
        self.visited(number)?;
        self.plan_service(number);
        Ok(())
    }

    /// Its papers come to its owner, and his redirect to the init server. Some come with software that nobody knows.
    fn registered(&mut self, number: usize) -> Step {
        let (clock, seq) = (self.clock(), self.now.0);
        let Self { meters, sides, init, report, .. } = self;
        let meter = &mut meters[number];
        let device = (meter.device.name, meter.device.title);
        sides[meter.owner].register(device, &meter.papers, (clock, seq), init)?;
        report.count("registered");
        if meter.owner > 0 {
            *report.coverage.entry("device/released/registered").or_default() += 1;
        }
        if meter.owner == 0 && number % 12 == DOUBTFUL { self.mistrusted(number) } else { Ok(()) }
    }

    /// What is to come while this owner has the meter.
    fn plan_service(&mut self, number: usize) {
        let owner = self.meters[number].owner;
        let (from, until) = self.era(owner);
        let changes = CHANGES * u64::from(self.plan.years) / 20;
        let owners = u64::from(self.plan.owners);
        let share = changes * (owner as u64 + 1) / owners - changes * owner as u64 / owners;
        let span = until.0.saturating_sub(self.now.0);
        for change in 0..share {
            let at = UtcTime(self.now.0 + span * (change + 1) / (share + 1));
            let at = self.within(at, (span / (share + 1) / 2 / DAY_S).max(1));
            self.at(number, at, What::Rekey(change as u32));
        }
        // Each of these happens to some.
        let at = self.within(UtcTime(from.0 + span / 4), (span / 4 / DAY_S).max(1));
        match (number + owner) % 6 {
            0 => self.at(number, at, What::Suspend),
            1 => self.at(number, at, What::Doubt),
            2 => self.at(number, at, What::Rotate),
            3 => self.at(number, at, What::Authorise),
            4 => self.at(number, at, What::Update),
            _ => self.at(number, at, What::DoubtHeld),
        }
        if number.is_multiple_of(3) {
            let at = self.within(UtcTime(from.0 + span * 5 / 8), (span / 8 / DAY_S).max(1));
            self.at(number, at, What::Cross);
        }
        let is_last = owner + 1 == self.plan.owners as usize;
        if is_last && number % 32 == STOLEN {
            let at = self.within(UtcTime(until.0 - span / 3), 2 * SPREAD_DAYS);
            self.at(number, at, What::Steal);
        }
        let at = self.within(until, SPREAD_DAYS);
        self.at(number, at, if is_last { What::End } else { What::Sell });
    }

    /// The device asks its owner for orders, through the head-end where that serves it, and carries them out.
    pub(super) fn fetch(&mut self, number: usize, days: u64) -> Step {
        let (clock, now) = (self.clock(), self.tick());
        let is_linked = self.is_linked(number)?;
        let Self { meters, sides, init, report, .. } = self;
        let meter = &mut meters[number];
        let (owner, name) = (meter.owner, meter.device.name);
        let until = Tick(now.0 + days * DAY_S * 1_000);
        let stale = meter.spoils.as_mut().and_then(|spoils| spoils.order.take());
        let mut stale = stale.filter(|_| owner > 0);
        let mut exchange = |at: Tick, peer, wire: Vec<u8>| {
            let at = (at, UtcTime(clock.0 + (at.0 - now.0) / 1_000));
            match peer {
                Peer::HeadEnd if is_linked => {
                    if let Some(order) = stale.take() {
                        report.count("former-owner-tried");
                        return Ok(Some(order));
                    }
                    sides[owner].asked(&name, at, wire)
                }
                Peer::HeadEnd => Ok(None),
                Peer::InitServer => Ok(Some(asked_init(init, at.1, &wire)?)),
                _ => sides[owner].asked(&name, at, wire),
            }
        };
        let end = meter.device.fetch(now, until, &mut exchange)?;
        report.count("questions-for-orders");
        // Whatever it was asked for, it may have been vouched for on the way.
        let attested = sides[owner].entry(&name).map(|entry| entry.attested_at);
        if let Some(since) = attested.and_then(|at| at.0.checked_sub(clock.0)) {
            meter.attested = UtcTime(self.now.0 + since);
        }
        self.set_now(UtcTime(self.now.0 + (end.0 - now.0) / 1_000));
        self.take_keys(number)
    }

    /// New keys in the root are the meter's keys.
    fn take_keys(&mut self, number: usize) -> Step {
        let (meter, side) = self.of(number);
        let delivered = meter.device.delivered();
        if delivered == meter.delivered || delivered.is_empty() {
            return Ok(());
        }
        let keys = meter.device.delivered_keys();
        let keys = keys.ok_or_else(|| broken(Rule::Contract, "its new keys do not open"))?;
        meter.delivered = delivered;
        let (place, crossing) = (meter.place, meter.crossing.take());
        side.keys.replaced(place, keys);
        if let Some(loss) = crossing {
            side.keys.rekey(place, &[KeyKind::Guek, KeyKind::Gak], loss).map_err(found)?;
            side.keys.dies().map_err(found)?;
        }
        // What it says under them proves them.
        side.keys.pushed(place).map_err(found)?;
        self.report.count("deliveries");
        Ok(())
    }

    /// Whether the head-end takes the meter: its certificate is good, and its key is one that is admitted.
    fn is_linked(&mut self, number: usize) -> Result<bool, Broken> {
        let now = self.now;
        let (meter, side) = self.of(number);
        let (Some(key), Some((from, until))) = (meter.device.tls_key(), meter.device.validity()) else {
            return Ok(false);
        };
        Ok(from <= now && now <= until && side.serves(&key)?)
    }

    /// It connects, asks for orders, and is vouched for: then it has a certificate that its owner takes.
    pub(super) fn connect(&mut self, number: usize) -> Step {
        let now = self.now;
        let (meter, side) = self.of(number);
        if let Some((_, until)) = meter.device.validity().filter(|(_, until)| *until < now) {
            return Err(broken(Rule::Certificate, format!("its certificate has ended, at {until}")));
        }
        let is_old = now.0 - meter.attested.0 > Core::ATTESTATION_AGE_DEFAULT_S;
        if is_old {
            let denied = side.keys.seal_denied(meter.place).map_err(found)?;
            if !matches!(denied, Some(Denial::AttestationStale | Denial::StateForbids)) {
                let days = (now.0 - meter.attested.0) / DAY_S;
                let detail =
                    format!("a request is sealed {days} days after the last attestation: {denied:?}");
                return Err(broken(Rule::S13, detail));
            }
            self.report.count("stale-refused");
        }
        if self.meters[number].spoils.as_ref().is_some_and(|spoils| spoils.order.is_some()) {
            // The former owner's order comes first.
            self.fetch(number, 1)?;
        }
        self.fetch(number, 1)?;
        let (meter, side) = self.of(number);
        let state = side.entry(&meter.device.name).map(|entry| entry.state);
        if !state.is_some_and(DeviceState::may_exchange) {
            let how = side.describe(&meter.device.name);
            return Err(broken(Rule::Reachable, format!("it does not work for its owner: {how}")));
        }
        if is_old && meter.attested < now {
            return Err(broken(Rule::S13, "it works, and nobody has vouched for its software"));
        }
        self.report.count_some("attested", is_old.into());
        self.tell_certificate(number);
        let now = self.now;
        let (meter, _) = self.of(number);
        let Some((from, until)) = meter.device.validity() else {
            return Err(broken(Rule::Certificate, "it has no certificate"));
        };
        if now < from || now > until {
            let detail = format!("its certificate was good from {from} until {until}");
            return Err(broken(Rule::Certificate, detail));
        }
        if !self.is_linked(number)? {
            return Err(broken(Rule::Certificate, "the head-end does not take its key"));
        }
        self.report.count("connections");
        Ok(())
    }

    /// Counts renewals, and certificates of the next authority.
    fn tell_certificate(&mut self, number: usize) {
        let (meter, _) = self.of(number);
        let key = meter.device.tls_key();
        let issuer = meter.device.certificates().get(1).map(|issuer| issuer.der().to_vec());
        let issuer = issuer.unwrap_or_default();
        let renewed = meter.tls_key.is_some() && meter.tls_key != key;
        let rolled = renewed && meter.issuer != issuer;
        (meter.tls_key, meter.issuer) = (key, issuer);
        self.report.count_some("renewals", renewed.into());
        self.report.count_some("ca-rollovers", rolled.into());
    }

    /// It is connected, vouched for, and read.
    fn visited(&mut self, number: usize) -> Step {
        let days = u64::from(self.plan.visit_days.max(1));
        let next = UtcTime(self.now.0 + days * DAY_S / 2);
        let next = self.within(next, days);
        if self.meters[number].stage == Stage::Serving {
            self.connect(number)?;
            let (meter, side) = self.of(number);
            let place = meter.place;
            // A first reading, under keys that nobody has proven yet, is the meter's own.
            side.keys.pushed(place).map_err(found)?;
            self.reached(number, 1)?;
            let (_, side) = self.of(number);
            let replayed = side.keys.replay_to(place).map_err(found)?;
            self.report.count_some("readings", 2);
            self.report.count_some("replays-refused", u64::from(replayed));
        }
        self.at(number, next, What::Visit);
        Ok(())
    }

    /// Keys change; now and then a message of that is lost, or the meter refuses.
    fn rekeyed(&mut self, number: usize, change: u32) -> Step {
        self.connect(number)?;
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
        let before = side.keys.suite(place);
        let raise = RAISES.into_iter().find(|(at, suite)| *at == change && *suite > before);
        match raise.filter(|_| number.is_multiple_of(RAISED_OF)) {
            Some((_, suite)) => {
                side.keys.raise(place, suite, loss).map_err(found)?;
                self.report.count("suite-raises");
            }
            None => side.keys.rekey(place, items, loss).map_err(found)?,
        }
        self.report.count_some("key-changes", u64::from(loss != Loss::Refused));
        match loss {
            Loss::Transfer => self.report.count("transfers-lost"),
            Loss::Answer => self.report.count("transfer-answers-lost"),
            Loss::Refused => {
                self.report.count("transfers-refused");
                self.soon(number, SPREAD_DAYS, What::Rekey(change));
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
        self.at(number, UtcTime(self.now.0 + AGAIN_S), What::Reach(tries + 1));
        Ok(())
    }

    /// An owner looks who is silent, and holds whoever was not vouched for.
    fn looked(&mut self, owner: usize) -> Step {
        let clock = self.clock();
        let alarms = self.sides[owner].look(clock)?;
        self.report.count_some("alarms", alarms);
        let next = UtcTime(self.now.0 + LOOK_DAYS * DAY_S);
        if next < self.era(owner).1 {
            self.calendar.enter(next, Due::Look(owner));
        }
        Ok(())
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
