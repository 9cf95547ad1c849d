//! What is asked of a run, and what comes out of it.

use std::collections::BTreeMap;

use gridseal_types::{SystemTitle, UtcTime};

use super::coverage;

/// What to run: one part of a fleet with everything that its owners need.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Seed of everything.
    pub seed: u64,
    /// Number of the first meter.
    pub first: u32,
    /// Meters.
    pub meters: u32,
    /// Years, 1 to 22: as long as the owners' roots live.
    pub years: u32,
    /// Owners, one after the other, 1 to 8.
    pub owners: u32,
    /// Days from one visit to the next, on average.
    pub visit_days: u32,
    /// A fault, to see that it is found.
    pub plant: Option<Fault>,
}

/// Meters of one part: one after the other they share owners.
const PART: u32 = 32;

impl Plan {
    /// A whole fleet in parts that know nothing of each other, each with a seed of its own.
    pub fn parts(self) -> impl Iterator<Item = Self> {
        (0..self.meters.div_ceil(PART)).map(move |part| Self {
            seed: self.seed.wrapping_add(u64::from(part).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            first: self.first + part * PART,
            meters: (self.meters - part * PART).min(PART),
            ..self
        })
    }

    /// Virtual days of all meters together.
    #[must_use]
    pub const fn meter_days(&self) -> u64 {
        self.meters as u64 * self.years as u64 * 365
    }
}

/// A fault that can be planted. None of them is in the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The services' clock has 31 bits of seconds since 1970: it falls back in 2038.
    Clock2038,
    /// The services' clock has 32 bits of seconds since 1900 and no era: it falls back in 2036.
    Clock2036,
    /// The key service takes a head-end's word that new keys are installed.
    Confirm,
    /// Counters are used beyond the durable block.
    Lease,
    /// A site that takes over goes on in the epoch that is there.
    Epoch,
    /// Certificates are renewed at their end, not at two thirds.
    LateRenewal,
    /// A meter keeps the keys of its former owner.
    OldOwner,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Clock2038,
        Self::Clock2036,
        Self::Confirm,
        Self::Lease,
        Self::Epoch,
        Self::LateRenewal,
        Self::OldOwner,
    ];

    /// Name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clock2038 => "clock-2038",
            Self::Clock2036 => "clock-2036",
            Self::Confirm => "confirm",
            Self::Lease => "lease",
            Self::Epoch => "epoch",
            Self::LateRenewal => "late-renewal",
            Self::OldOwner => "old-owner",
        }
    }
}

/// Rules that a life can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// One of the key service's simulation.
    Keys(crate::keys::Rule),
    /// Nothing is sealed or opened for a device whose attestation is old, or whose state forbids it.
    S13,
    /// A former owner has an effect.
    OldOwner,
    /// A meter stands there without a certificate that its owner takes.
    Certificate,
    /// A meter is gone without a receipt that verifies, or a false receipt verifies.
    Receipt,
    /// A meter gives no reading, or comes to no end.
    Reachable,
    /// A machine refused what its contract says it takes, or failed.
    Contract,
}

impl Rule {
    /// Name, as printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keys(rule) => rule.name(),
            Self::S13 => "s13",
            Self::OldOwner => "old-owner",
            Self::Certificate => "certificate",
            Self::Receipt => "receipt",
            Self::Reachable => "reachable",
            Self::Contract => "contract",
        }
    }
}

/// What was broken, and when: the same plan breaks it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Seed of the part of the fleet.
    pub seed: u64,
    /// Meter, when it was one's.
    pub meter: Option<SystemTitle>,
    /// Virtual time.
    pub at: UtcTime,
    /// Rule.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, meter, at, rule, detail } = self;
        write!(f, "seed {seed}, {at}: {} broken", rule.name())?;
        match meter {
            Some(meter) => write!(f, " for meter {meter}: {detail}"),
            None => write!(f, ": {detail}"),
        }
    }
}

/// Counts of a run, or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Meters that were made.
    pub meters: u64,
    /// Meters that came to their end as they should.
    pub ended: u64,
    /// Meters that give no reading and are neither sold nor stolen nor at their end.
    pub stranded: u64,
    /// Different (key, nonce) pairs that left.
    pub pairs: u64,
    /// Pairs that left with different bytes.
    pub nonce_repeats: u64,
    /// Virtual seconds.
    pub virtual_s: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// What happened, how often.
    pub events: BTreeMap<&'static str, u64>,
    /// How often each path was walked: `device/FROM/TO`, `claim/FROM/TO`, and version transitions by device state.
    pub coverage: BTreeMap<&'static str, u64>,
    /// First violation of each part that has one.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Nothing happened yet: every path at zero.
    #[must_use]
    pub fn new() -> Self {
        Self { coverage: coverage::paths().map(|name| (name, 0)).collect(), ..Self::default() }
    }

    pub(super) fn count(&mut self, event: &'static str) {
        self.count_some(event, 1);
    }

    pub(super) fn count_some(&mut self, event: &'static str, times: u64) {
        *self.events.entry(event).or_default() += times;
    }

    /// Adds the counts of other parts.
    pub fn add(&mut self, other: Self) {
        self.meters += other.meters;
        self.ended += other.ended;
        self.stranded += other.stranded;
        self.pairs += other.pairs;
        self.nonce_repeats += other.nonce_repeats;
        self.virtual_s = self.virtual_s.max(other.virtual_s);
        self.stopped |= other.stopped;
        self.violations.extend(other.violations);
        for (name, count) in other.events {
            *self.events.entry(name).or_default() += count;
        }
        for (name, count) in other.coverage {
            *self.coverage.entry(name).or_default() += count;
        }
    }
}
