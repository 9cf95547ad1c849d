//! The clock, the queue of what happens next, and power.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use gridseal_headend::ConnectionId;
use gridseal_types::{Tick, UtcTime};

use super::{
    authority::AuthorityProcess,
    check::Checker,
    config_server::ConfigProcess,
    headend::HeadEndProcess,
    init_server::InitProcess,
    keys::KeysProcess,
    manager::ManagerProcess,
    meter::Meter,
    network::{Content, Eavesdropper, Parcel},
    report::{Failure, Fault, Log, Options, Point, Report, Rule, Violation},
};
use crate::{
    Schedule,
    works::{START, owner, vendor},
};

/// Steps after which a run has no end.
const STEPS_MAX: u64 = 200_000;
/// Virtual time after the faults stopped by which everything must have come to its end: a day, so that no attestation
/// grows too old meanwhile.
const CONVERGENCE_MS: u64 = 20 * 3_600_000;
/// Longest pause between two acts of a process.
const WORK_MS: u64 = 3;

pub(super) type Step = Result<(), Violation>;

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Actor {
    Meter(usize),
    InitServer,
    ConfigServer,
    Manager,
    Keys,
    Authority,
    HeadEnd,
}

impl Actor {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meter(_) => "meter",
            Self::InitServer => "init-server",
            Self::ConfigServer => "config-server",
            Self::Manager => "manager",
            Self::Keys => "keys",
            Self::Authority => "authority",
            Self::HeadEnd => "headend",
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meter(number) => write!(f, "meter {number}"),
            other => f.write_str(other.name()),
        }
    }
}

/// What happens at some time.
#[derive(Debug)]
pub(super) enum Happening {
    /// A message arrives.
    Arrive(Box<Parcel>),
    /// A process does one thing; its incarnation tells whether it is still the same.
    Act(Actor, u64),
    /// A process looks at its deadlines.
    Wake(Actor, u64),
    /// A connection of the config server has waited long enough.
    GiveUp(u64),
    /// A process starts again.
    Restart(Actor),
    /// The faults stop.
    Calm,
}

/// How bad the world is under this seed; probabilities in a million.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) loss: u32,
    pub(super) double: u32,
    pub(super) forge: u32,
    pub(super) crash: u32,
    pub(super) root_failure: u32,
    pub(super) delay_ms: u64,
    pub(super) readings: bool,
}

impl Profile {
    fn draw(chance: &mut Schedule, options: &Options) -> Self {
        let mut one_of = |values: &[u32]| chance.pick(values).unwrap_or(0);
        let loss = one_of(&[0, 10_000, 50_000, 150_000, 300_000]);
        let double = one_of(&[0, 20_000, 200_000]);
        let forge = one_of(&[0, 0, 30_000, 150_000]);
        let crash = one_of(&[0, 500, 3_000, 10_000, 30_000]);
        let root_failure = one_of(&[0, 0, 10_000]);
        let delay_ms = one_of(&[200, 2_000, 20_000, 90_000]).into();
        let readings = options.readings.unwrap_or(one_of(&[0, 0, 1]) == 1);
        if options.crash_at.is_some() {
            return Self { loss: 0, double: 0, forge: 0, crash: 0, root_failure: 0, delay_ms: 1, readings };
        }
        Self { loss, double, forge, crash, root_failure, delay_ms, readings }
    }
}

/// Power and pace of one process.
#[derive(Debug, Default)]
pub(super) struct Power {
    pub(super) is_up: bool,
    /// Rises with each start: what was meant for the process before is dropped.
    pub(super) incarnation: u64,
    is_busy: bool,
    wake_at: Option<u64>,
}

/// Everything.
pub(super) struct World {
    seed: u64,
    pub(super) now: Tick,
    pub(super) chance: Schedule,
    pub(super) profile: Profile,
    pub(super) plant: Option<Fault>,
    crash_at: Option<u64>,
    pub(super) calm: bool,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    power: BTreeMap<Actor, Power>,
    pub(super) report: Report,
    log: Log,
    pub(super) check: Checker,
    pub(super) eavesdropper: Eavesdropper,
    pub(super) streams: BTreeMap<(ConnectionId, Actor), u64>,
    pub(super) links: BTreeMap<ConnectionId, usize>,
    next_number: u64,
    pub(super) meters: Vec<Meter>,
    pub(super) init: InitProcess,
    pub(super) relay: ConfigProcess,
    pub(super) manager: ManagerProcess,
    pub(super) keys: KeysProcess,
    pub(super) authority: AuthorityProcess,
    pub(super) headend: HeadEndProcess,
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut chance = Schedule::new(seed);
        let profile = Profile::draw(&mut chance, options);
        let drawn = chance.pick(&[1, 1, 1, 2, 3]).unwrap_or(1);
        let count = options.devices.unwrap_or(drawn).clamp(1, 3);
        let made: Vec<_> = (1..=count).map(|number| vendor().make(seed, number.into(), owner(0))).collect();
        let manager = ManagerProcess::new(&made);
        let meters: Vec<_> = made.into_iter().map(|made| Meter::new(seed, made)).collect();
        let actors = (0..meters.len()).map(Actor::Meter).chain([
            Actor::InitServer,
            Actor::ConfigServer,
            Actor::Manager,
            Actor::Keys,
            Actor::Authority,
            Actor::HeadEnd,
        ]);
        let mut world = Self {
            seed,
            now: Tick(0),
            profile,
            plant: options.plant,
            crash_at: options.crash_at,
            calm: false,
            queue: BTreeMap::new(),
            queued: 0,
            power: actors.map(|actor| (actor, Power::default())).collect(),
            report: Report::default(),
            log: Log::new(options.log_count),
            check: Checker::new(meters.len()),
            eavesdropper: Eavesdropper::default(),
            streams: BTreeMap::new(),
            links: BTreeMap::new(),
            next_number: 0,
            meters,
            init: InitProcess::default(),
            relay: ConfigProcess::default(),
            manager,
            keys: KeysProcess::new(seed),
            authority: AuthorityProcess::new(seed),
            headend: HeadEndProcess::default(),
            chance,
        };
        for actor in world.power.keys().copied().collect::<BTreeSet<_>>() {
            let delay = world.chance.below(2_000);
            world.schedule(delay, Happening::Restart(actor));
        }
        let calm_at = match world.chance.below(8) {
            0 => 0,
            drawn => drawn * 60_000,
        };
        world.schedule(calm_at, Happening::Calm);
        world
    }

    /// Calendar time.
    pub(super) const fn utc(&self) -> UtcTime {
        UtcTime(START.0 + self.now.0 / 1_000)
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    /// A number that nothing else has: connections, calls, links.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn note(&mut self, line: fmt::Arguments<'_>) {
        self.log.note(self.now, line);
    }

    pub(super) fn schedule(&mut self, delay_ms: u64, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.now.0 + delay_ms, self.queued), happening);
    }

    fn power(&mut self, actor: Actor) -> &mut Power {
        self.power.entry(actor).or_default()
    }

    pub(super) fn is_up(&self, actor: Actor) -> bool {
        self.power.get(&actor).is_some_and(|power| power.is_up)
    }

    pub(super) fn incarnation(&self, actor: Actor) -> u64 {
        self.power.get(&actor).map_or(0, |power| power.incarnation)
    }

    /// Lets a process act soon, unless it is about to.
    pub(super) fn stir(&mut self, actor: Actor) {
        let power = self.power(actor);
        if power.is_up && !power.is_busy {
            power.is_busy = true;
            let incarnation = power.incarnation;
            let delay = self.chance.below(WORK_MS);
            self.schedule(delay, Happening::Act(actor, incarnation));
        }
    }

    /// Lets a process look at its deadlines then.
    pub(super) fn wake_at(&mut self, actor: Actor, at: Tick) {
        let at = at.0.max(self.now.0);
        let power = self.power(actor);
        if power.is_up && power.wake_at.is_none_or(|planned| at < planned) {
            power.wake_at = Some(at);
            let incarnation = power.incarnation;
            let delay = at - self.now.0;
            self.schedule(delay, Happening::Wake(actor, incarnation));
        }
    }

    /// Whether the seed lets the actor crash here; then it has.
    pub(super) fn crashes(&mut self, actor: Actor, point: Point) -> bool {
        let is_hit = self.is_hit(1);
        if is_hit {
            self.crash(actor, point);
        }
        is_hit
    }

    /// Whether a crash hits here, with so many times the usual probability.
    pub(super) fn is_hit(&mut self, times: u32) -> bool {
        let number = self.report.opportunities;
        self.report.opportunities += 1;
        match self.crash_at {
            Some(at) => number == at,
            None => !self.calm && self.chance.happens(self.profile.crash.saturating_mul(times)),
        }
    }

    /// Takes an actor's memory.
    pub(super) fn crash(&mut self, actor: Actor, point: Point) {
        self.note(format_args!("CRASH of {actor}: {point:?}"));
        *self.report.crashes.entry((actor.name(), point)).or_default() += 1;
        let power = self.power(actor);
        *power = Power { incarnation: power.incarnation + 1, ..Power::default() };
        match actor {
            Actor::Meter(number) => self.meter_loses_power(number),
            Actor::InitServer => self.init.lose_memory(),
            Actor::ConfigServer => self.relay.lose_memory(),
            Actor::Manager => self.manager.lose_memory(),
            Actor::Keys => self.keys.lose_memory(),
            Actor::Authority => self.authority.lose_memory(),
            Actor::HeadEnd => self.headend_loses_memory(),
        }
        let most = if self.chance.happens(100_000) { 60_000 } else { 2_000 };
        let delay = 1 + self.chance.below(most);
        self.schedule(delay, Happening::Restart(actor));
    }

    fn restart(&mut self, actor: Actor) -> Step {
        let power = self.power(actor);
        if power.is_up {
            return Ok(());
        }
        *power = Power { is_up: true, incarnation: power.incarnation + 1, ..Power::default() };
        self.note(format_args!("start of {actor}"));
        match actor {
            Actor::Meter(number) => self.meter_starts(number)?,
            Actor::ConfigServer => {
                // Far above whatever the one before handed out.
                let first = self.incarnation(actor) << 32;
                self.relay.start(first);
            }
            Actor::Manager => self.manager_starts(),
            Actor::Keys => self.keys_start(),
            Actor::HeadEnd => self.headend.start(),
            Actor::InitServer | Actor::Authority => {}
        }
        self.stir(actor);
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Step {
        match happening {
            Happening::Arrive(parcel) => self.arrive(*parcel),
            Happening::Act(actor, incarnation) => {
                if self.incarnation(actor) != incarnation {
                    return Ok(());
                }
                self.power(actor).is_busy = false;
                if self.crashes(actor, Point::BetweenOutputs) {
                    return Ok(());
                }
                self.act(actor)
            }
            Happening::Wake(actor, incarnation) => {
                let now = self.now.0;
                let power = self.power(actor);
                if power.incarnation == incarnation && power.wake_at == Some(now) {
                    power.wake_at = None;
                    self.woken(actor);
                }
                Ok(())
            }
            Happening::GiveUp(connection) => self.relay_gives_up(connection),
            Happening::Restart(actor) => self.restart(actor),
            Happening::Calm => {
                self.note(format_args!("the faults stop"));
                self.calm = true;
                Ok(())
            }
        }
    }

    fn act(&mut self, actor: Actor) -> Step {
        match actor {
            Actor::Meter(number) => self.meter_acts(number),
            Actor::InitServer => self.init_acts(),
            Actor::ConfigServer => self.relay_acts(),
            Actor::Manager => self.manager_acts(),
            Actor::Keys => self.keys_act(),
            Actor::Authority => self.authority_acts(),
            Actor::HeadEnd => self.headend_acts(),
        }
    }

    fn woken(&mut self, actor: Actor) {
        match actor {
            Actor::Meter(number) => self.meter_wakes(number),
            Actor::ConfigServer => self.relay.wake(),
            Actor::Manager => self.manager.wake(),
            Actor::HeadEnd => self.headend.wake(),
            Actor::InitServer | Actor::Keys | Actor::Authority => {}
        }
        self.stir(actor);
    }

    fn arrive(&mut self, parcel: Parcel) -> Step {
        let Parcel { from, to, content } = parcel;
        if !self.is_up(to) {
            // Nobody listens: a stream breaks, anything else is as good as lost.
            if let Content::Frame { link, .. } | Content::LinkUp { link } = content {
                self.break_link(link);
            }
            return Ok(());
        }
        match to {
            Actor::Meter(number) => self.meter_receives(number, content),
            Actor::InitServer => self.init.receive(from, content),
            Actor::ConfigServer => self.relay_receives(from, content),
            Actor::Manager => self.manager.receive(content),
            Actor::Keys => self.keys.receive(from, content),
            Actor::Authority => self.authority.receive(from, content),
            Actor::HeadEnd => self.headend_receives(from, content),
        }
        self.stir(to);
        Ok(())
    }

    /// Runs until everything has come to its end.
    pub(super) fn run(mut self) -> Result<Report, Box<Failure>> {
        match self.run_on() {
            Ok(()) => {
                self.report.runs = 1;
                self.report.virtual_ms = self.now.0;
                Ok(self.report)
            }
            Err(violation) => Err(Box::new(Failure {
                seed: self.seed,
                violation,
                steps: self.report.steps,
                log: self.log.into_lines(),
            })),
        }
    }

    fn run_on(&mut self) -> Step {
        let mut calm_since = None;
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = Tick(at);
            self.report.steps += 1;
            self.happen(happening)?;
            if self.calm {
                let since = *calm_since.get_or_insert(at);
                if self.has_converged() {
                    return self.check_end();
                }
                if at - since > CONVERGENCE_MS {
                    break;
                }
            }
            if self.report.steps > STEPS_MAX {
                break;
            }
        }
        Err(Violation::new(Rule::Liveness, self.describe_all()))
    }

    fn has_converged(&self) -> bool {
        (0..self.meters.len()).all(|number| self.meter_is_done(number))
    }

    fn describe_all(&self) -> String {
        let meters: Vec<_> = (0..self.meters.len()).map(|number| self.describe_meter(number)).collect();
        meters.join("; ")
    }
}
