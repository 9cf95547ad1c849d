//! What is asked of a run, and what comes out of it.

use std::collections::BTreeMap;

use gridseal_keys::danger_faults::Fault;

use super::coverage;

/// What to run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// A fault in the key service or its driver, to see that it is found.
    pub plant: Option<Fault>,
}

/// Rules that a schedule can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// No (key, nonce) pair twice.
    S1,
    /// Nothing sent before it is durable.
    S2,
    /// Every meter's keys are held by some site.
    S3,
    /// Nothing forged or repeated is taken for new, no counter goes down.
    S5,
    /// A device that is held back or gone gets and gives nothing.
    S8,
    /// A repeat of the very same bytes is a duplicate and gives the same plaintext (decision D1).
    Window,
    /// Probes do not drive a meter into its lock-out.
    LockOut,
    /// Once the faults stop, every meter gives a reading and every change comes to its end.
    Reachable,
    /// The service failed, or did not do what its contract says.
    Contract,
}

impl Rule {
    /// Name, as printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S1 => "s1",
            Self::S2 => "s2",
            Self::S3 => "s3",
            Self::S5 => "s5",
            Self::S8 => "s8",
            Self::Window => "window",
            Self::LockOut => "lock-out",
            Self::Reachable => "reachable",
            Self::Contract => "contract",
        }
    }
}

/// What was broken, and where: the same seed breaks it again at the same step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Seed of the schedule.
    pub seed: u64,
    /// Step of the schedule.
    pub step: u32,
    /// Rule.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, step, rule, detail } = self;
        write!(f, "seed {seed}, step {step}: {} broken: {detail}", rule.name())
    }
}

/// Counts of schedules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Schedules.
    pub schedules: u64,
    /// Steps.
    pub steps: u64,
    /// Different (key, nonce) pairs that left.
    pub pairs: u64,
    /// Pairs that left with different bytes.
    pub nonce_reuse: u64,
    /// Meters whose keys no site holds.
    pub unreachable_meters: u64,
    /// First violation of each schedule that has one.
    pub violations: Vec<Violation>,
    /// How often each transition and each fault happened.
    pub coverage: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Nothing happened yet: every transition at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { coverage: coverage::names().map(|name| (name, 0)).collect(), ..Self::default() }
    }

    /// Adds the counts of other schedules.
    pub fn add(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.pairs += other.pairs;
        self.nonce_reuse += other.nonce_reuse;
        self.unreachable_meters += other.unreachable_meters;
        self.violations.extend(other.violations);
        for (name, count) in other.coverage {
            *self.coverage.entry(name).or_default() += count;
        }
    }
}

/// Where evidence goes: lines of JSON, from which an outside program counts again.
pub trait Evidence {
    /// One event of a schedule: what was done, which keys a site holds, which a meter has.
    fn event(&mut self, line: &str);

    /// One protected APDU or tag that left: key as a hash, nonce, hash of the bytes.
    fn nonce(&mut self, line: &str);
}
