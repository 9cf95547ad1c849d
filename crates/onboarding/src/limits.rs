//! How often somebody may ask: a token bucket for each of a bounded number of names.
//!
//! # Source
//! Onboarding specification, section 7.7.

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

use gridseal_trust::enrol::init::InitHello;
use gridseal_types::{EkName, N16, Tick};

const HOUR_MS: u64 = 3_600_000;
/// Most sources that are counted at a time.
pub const SOURCES_MAX: usize = 65_536;
/// Most devices or pseudonyms that are counted at a time.
pub const NAMES_MAX: usize = 262_144;

/// Buckets that fill evenly over an hour. What is not listed is full.
#[derive(Debug)]
pub struct Buckets<K> {
    per_hour: u32,
    most: usize,
    /// When the bucket of a name is full again.
    full_at: BTreeMap<K, u64>,
    by_time: BTreeSet<(u64, K)>,
}

impl<K: Ord + Copy> Buckets<K> {
    /// Buckets of `per_hour` tokens each, which also is what they hold, for at most `most` names at a time. Beyond that
    /// the name whose bucket is fullest is forgotten: it had the least to gain.
    #[must_use]
    pub const fn new(per_hour: u32, most: usize) -> Self {
        Self { per_hour, most, full_at: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&mut self, now: Tick, name: K) -> Result<(), Duration> {
        let interval = HOUR_MS.checked_div(self.per_hour.into()).unwrap_or(HOUR_MS).max(1);
        let known = self.full_at.get(&name).copied();
        // A clock that was set back must lock nobody out: no bucket is ever emptier than empty.
        let full_at = known.unwrap_or(0).clamp(now.0, now.0.saturating_add(HOUR_MS));
        let next = full_at.saturating_add(interval);
        let wait = next.saturating_sub(now.0.saturating_add(HOUR_MS));
        if let Some(known) = known {
            self.by_time.remove(&(known, name));
        } else {
            self.forget_surplus(now);
        }
        // On a refusal too: it fills from now on, and not from a time that a clock once had.
        let filled_at = if wait > 0 { full_at } else { next };
        self.full_at.insert(name, filled_at);
        self.by_time.insert((filled_at, name));
        if wait > 0 { Err(Duration::from_millis(wait)) } else { Ok(()) }
    }

    /// Number of names that are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    /// Whether no name is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }

    /// Makes room for one more; buckets that are full again are dropped first, by their order.
    fn forget_surplus(&mut self, now: Tick) {
        while let Some(&(at, name)) = self.by_time.first() {
            if at > now.0 && self.full_at.len() < self.most {
                return;
            }
            self.by_time.remove(&(at, name));
            self.full_at.remove(&name);
        }
    }
}

/// Limits of the init server: by source for every message, by device for a question, before anything is looked up or
/// signed.
#[derive(Debug)]
pub struct InitLimits {
    sources: Buckets<N16>,
    names: Buckets<EkName>,
}

impl InitLimits {
    /// So many messages from one source, and so many questions about one device, in an hour.
    #[must_use]
    pub const fn new(source_per_hour: u32, device_per_hour: u32) -> Self {
        Self {
            sources: Buckets::new(source_per_hour, SOURCES_MAX),
            names: Buckets::new(device_per_hour, NAMES_MAX),
        }
    }

    /// Whether a message may go on. `source` stands for the peer's address.
    ///
    /// # Errors
    /// How long the peer should wait.
    pub fn admit(&mut self, now: Tick, source: N16, wire: &[u8]) -> Result<(), Duration> {
        self.sources.take(now, source)?;
        match InitHello::decode(wire) {
            Ok(hello) => self.names.take(now, hello.ek_name),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_at_once_and_then_evenly() {
        let mut buckets = Buckets::new(12, 10);
        for _ in 0..12 {
            assert_eq!(buckets.take(Tick(0), 1), Ok(()));
        }
        assert_eq!(buckets.take(Tick(0), 1), Err(Duration::from_secs(300)));
        assert_eq!(buckets.take(Tick(299_999), 1), Err(Duration::from_millis(1)));
        assert_eq!(buckets.take(Tick(300_000), 1), Ok(()));
        assert!(buckets.take(Tick(300_000), 1).is_err());
        assert_eq!(buckets.take(Tick(0), 2), Ok(()), "another name has its own");
    }

    #[test]
    fn memory_is_bounded_and_who_asked_most_is_remembered_longest() {
        let mut buckets = Buckets::new(3, 100);
        for _ in 0..3 {
            assert_eq!(buckets.take(Tick(0), u32::MAX), Ok(()));
        }
        for name in 0..10_000 {
            assert_eq!(buckets.take(Tick(1), name), Ok(()));
            assert!(buckets.len() <= 100);
        }
        assert!(buckets.take(Tick(1), u32::MAX).is_err(), "a flood of names does not wash it out");
        assert_eq!(buckets.take(Tick(3_600_001 + 3_600_000), 7), Ok(()));
        assert_eq!(buckets.len(), 1, "full buckets are dropped");
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out_for_longer_than_a_bucket() {
        let mut buckets = Buckets::new(12, 10);
        let late = Tick(1_000_000_000_000);
        for _ in 0..12 {
            assert_eq!(buckets.take(late, 1), Ok(()));
        }
        assert_eq!(buckets.take(Tick(0), 1), Err(Duration::from_secs(300)));
    }
}
