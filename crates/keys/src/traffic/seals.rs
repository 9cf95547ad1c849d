//! What was sealed under which idempotency key, for at least ten minutes: the same request gets the same bytes, another
//! APDU under the same key is refused. Kept is what it takes to make the same bytes again, and a digest of the plaintext.

use alloc::vec::Vec;

use gridseal_types::{N16, UtcTime};

use super::{index::Index, log::SealedBefore};

/// How long a seal can be asked for again, seconds.
pub(crate) const SEAL_PERIOD_S: u64 = 600;
/// Most seals remembered in one period; more are refused until it ends.
pub(crate) const SEALS_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Generation {
    index: Index,
    seals: Vec<SealedBefore>,
}

/// Two periods: the one that runs, and the one before.
#[derive(Debug)]
pub(crate) struct Seals {
    seed: u64,
    current: Generation,
    before: Generation,
    since: u64,
}

/// Eight bytes of an idempotency key for the index. The caller chose the key, and does not know the seed.
fn key_of(seed: u64, idempotency: &N16) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = idempotency.0;
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ seed;
    let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]) ^ seed.rotate_left(32);
    high.wrapping_mul(seed | 1).rotate_left(29) ^ low.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Generation {
    fn new(seed: u64) -> Self {
        Self { index: Index::new(seed), seals: Vec::new() }
    }

    fn find(&self, seed: u64, idempotency: &N16) -> Option<SealedBefore> {
        let place = self.index.find(key_of(seed, idempotency))?;
        let found = self.seals.get(usize::try_from(place).ok()?)?;
        // Two keys that meet in the index are told apart by the whole key; the later one is then the one that is known.
        (found.idempotency == *idempotency)
            .then_some(*found)
            .or_else(|| self.seals.iter().rev().find(|seal| seal.idempotency == *idempotency).copied())
    }
}

impl Seals {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, current: Generation::new(seed), before: Generation::new(seed), since: 0 }
    }

    pub(crate) fn find(&self, idempotency: &N16) -> Option<SealedBefore> {
        self.current.find(self.seed, idempotency).or_else(|| self.before.find(self.seed, idempotency))
    }

    /// Begins the next period when it is time. A clock that was put back begins one as well.
    pub(crate) fn age(&mut self, now: UtcTime) {
        if now.0.abs_diff(self.since) >= SEAL_PERIOD_S {
            let fresh = Generation::new(self.seed);
            self.before = core::mem::replace(&mut self.current, fresh);
            self.since = now.0;
        }
    }

    /// Whether another seal can be remembered.
    pub(crate) fn has_room(&self) -> bool {
        self.current.seals.len() < SEALS_MAX
    }

    pub(crate) fn remember(&mut self, seal: SealedBefore) {
        self.since = if self.current.seals.is_empty() { seal.at } else { self.since };
        let Ok(place) = u32::try_from(self.current.seals.len()) else { return };
        self.current.index.insert(key_of(self.seed, &seal.idempotency), place);
        self.current.seals.push(seal);
    }

    /// Seals whose period still runs.
    pub(crate) fn unexpired(&self, now: UtcTime) -> Vec<SealedBefore> {
        let all = self.before.seals.iter().chain(&self.current.seals);
        all.filter(|seal| now.0.abs_diff(seal.at) < SEAL_PERIOD_S).copied().collect()
    }
}
