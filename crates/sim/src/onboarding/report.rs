//! What is asked of a run, and what comes out of it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use gridseal_types::Tick;

/// How many events a failure shows.
const LOG_COUNT_MAX: usize = 200;

/// What to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Number of devices, 1 to 3; drawn from the seed when `None`.
    pub devices: Option<u8>,
    /// Whether meters push rows once they operate; drawn from the seed when `None`.
    pub readings: Option<bool>,
    /// A good network and one crash only: at this opportunity, counted from 0.
    pub crash_at: Option<u64>,
    /// A bug in the shells of the simulation, to see that it is found.
    pub plant: Option<Fault>,
    /// Last events that a failure shows; 200 when `None`.
    pub log_count: Option<usize>,
}

/// A bug that a shell can have. None of them is in the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The key service answers before its changes are durable.
    KeysAnswerBeforeCommit,
    /// The key service draws the same bytes again after a restart.
    KeysRepeatRandomness,
    /// A restarted key service forgets authorisations that no response has confirmed.
    KeysForgetPendingAuthorisation,
    /// The key service keeps the newest channel keys of a meter only.
    KeysKeepNewestChannelOnly,
    /// The endpoint manager replies before its changes are durable.
    ManagerRepliesBeforeCommit,
    /// A device draws the same bytes again after a restart.
    DeviceRepeatsRandomness,
    /// A device starts with a flash record that was replaced already.
    DeviceReadsOldFlash,
    /// The meter forgets the record of its push at a restart.
    MeterForgetsCounter,
    /// The head-end confirms rows before they are durable.
    HeadEndConfirmsBeforeStore,
}

/// Rules that a run can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// No (key, nonce) pair twice.
    S1,
    /// Nothing sent before it is durable.
    S2,
    /// No key forgotten that somebody else still has.
    S3,
    /// Nothing forged or replayed is accepted, nothing moves down.
    S5,
    /// No confirmed reading lost, none counted twice.
    S7,
    /// Once the faults stop, everything comes to its end.
    Liveness,
    /// A machine refused what its contract says it takes, or failed.
    Contract,
}

/// What was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Rule.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(rule: Rule, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

/// A run that broke a rule.
#[derive(Debug)]
pub struct Failure {
    /// Seed: the same seed and options break the same rule again.
    pub seed: u64,
    /// What was broken.
    pub violation: Violation,
    /// Steps until then.
    pub steps: u64,
    /// Last events.
    pub log: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { rule, detail } = &self.violation;
        writeln!(f, "seed {}: {rule:?} broken at step {}: {detail}", self.seed, self.steps)?;
        self.log.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl core::error::Error for Failure {}

/// Where a crash can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Before the next thing that a machine asked for.
    BetweenOutputs,
    /// Before an operation of the root.
    BeforeRoot,
    /// Between two tunnelled commands.
    InsideExecute,
    /// After an operation of the root, before the device knows its result.
    AfterRoot,
    /// Before a record is on flash.
    BeforeFlash,
    /// After it, before the machine knows.
    AfterFlash,
    /// Before a transaction.
    BeforeCommit,
    /// After it, before anybody knows.
    AfterCommit,
    /// Between two answers of a batch.
    BetweenReplies,
    /// Before a message leaves.
    BeforeTransmit,
    /// After it left.
    AfterTransmit,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::BetweenOutputs,
        Self::BeforeRoot,
        Self::InsideExecute,
        Self::AfterRoot,
        Self::BeforeFlash,
        Self::AfterFlash,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BetweenReplies,
        Self::BeforeTransmit,
        Self::AfterTransmit,
    ];
}

/// Counts of a run, or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// Steps: one act of one machine, or one message.
    pub steps: u64,
    /// Virtual time until everything had converged, milliseconds.
    pub virtual_ms: u64,
    /// Devices that came to operate.
    pub devices: u64,
    /// Sessions that devices began.
    pub sessions: u64,
    /// Messages sent.
    pub messages: u64,
    /// Messages lost.
    pub lost: u64,
    /// Messages that arrived twice.
    pub duplicated: u64,
    /// Messages changed, cut or replaced on their way.
    pub forged: u64,
    /// Readings stored.
    pub readings: u64,
    /// Opportunities to crash.
    pub opportunities: u64,
    /// Crashes by actor and place.
    pub crashes: BTreeMap<(&'static str, Point), u64>,
    /// Inputs of the device machine by state: (state, input).
    pub transitions: BTreeMap<(&'static str, &'static str), u64>,
}

impl Report {
    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.virtual_ms += other.virtual_ms;
        self.devices += other.devices;
        self.sessions += other.sessions;
        self.messages += other.messages;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.forged += other.forged;
        self.readings += other.readings;
        self.opportunities += other.opportunities;
        for (place, count) in &other.crashes {
            *self.crashes.entry(*place).or_default() += count;
        }
        for (place, count) in &other.transitions {
            *self.transitions.entry(*place).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs, {} steps, {} devices, {} sessions, {} readings, {} virtual hours",
            self.runs,
            self.steps,
            self.devices,
            self.sessions,
            self.readings,
            self.virtual_ms / 3_600_000
        )?;
        let Self { messages, lost, duplicated, forged, .. } = self;
        writeln!(f, "{messages} messages: {lost} lost, {duplicated} doubled, {forged} forged")?;
        for ((actor, point), count) in &self.crashes {
            writeln!(f, "  crash {actor:15} {point:?}: {count}")?;
        }
        self.transitions
            .iter()
            .try_for_each(|((state, input), count)| writeln!(f, "  {state:22} {input:18} {count}"))
    }
}

/// The last events of a run.
#[derive(Debug)]
pub(super) struct Log {
    lines: VecDeque<String>,
    count_max: usize,
}

impl Log {
    pub(super) fn new(count_max: Option<usize>) -> Self {
        Self { lines: VecDeque::new(), count_max: count_max.unwrap_or(LOG_COUNT_MAX) }
    }

    pub(super) fn note(&mut self, now: Tick, line: fmt::Arguments<'_>) {
        if self.lines.len() >= self.count_max {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>9} {line}", now.0));
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
