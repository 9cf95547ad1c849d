//! All randomness of a run, out of its seed.

use gridseal_crypto::{Rng, RngError, sha256};

/// Decisions of a schedule: xoshiro256++, seeded with splitmix64.
#[derive(Debug, Clone)]
pub struct Schedule {
    state: [u64; 4],
}

impl Schedule {
    /// The decisions of one seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut last = seed;
        let state = core::array::from_fn(|_| {
            last = last.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (last ^ (last >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        });
        Self { state }
    }

    /// 64 random bits.
    pub const fn draw(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        drawn
    }

    /// A number below `end`; 0 when `end` is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: no modulo bias worth the name for the small ranges of a schedule.
        ((self.draw() as u128 * end as u128) >> 64) as u64
    }

    /// Whether something happens that has this probability in a million.
    pub const fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < per_million as u64
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let at = usize::try_from(self.below(of.len() as u64)).ok()?;
        of.get(at).copied()
    }
}

/// Bytes for keys and nonces: SHA-256 in counter mode under a label, so that one actor's draws do not move another's.
#[derive(Debug, Clone)]
pub struct HashRng {
    seed: [u8; 32],
    counter: u64,
}

impl HashRng {
    /// The bytes of one seed, label and number.
    #[must_use]
    pub fn new(seed: u64, label: &str, number: u64) -> Self {
        let parts: [&[u8]; 3] = [&seed.to_be_bytes(), &number.to_be_bytes(), label.as_bytes()];
        Self { seed: sha256(&parts), counter: 0 }
    }
}

impl Rng for HashRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.counter = self.counter.wrapping_add(1);
            let block = sha256(&[&self.seed, &self.counter.to_be_bytes()]);
            chunk.iter_mut().zip(block).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_decisions_and_another_gives_others() {
        let drawn = |seed| {
            let mut schedule = Schedule::new(seed);
            [schedule.draw(), schedule.below(10), u64::from(schedule.happens(500_000)), schedule.draw()]
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let mut schedule = Schedule::new(1);
        let often = (0..10_000).filter(|_| schedule.happens(250_000)).count();
        assert!((2_300..2_700).contains(&often), "{often}");
        assert!(!schedule.happens(0) && schedule.happens(1_000_000));
    }

    #[test]
    fn bytes_depend_on_seed_label_and_number() {
        let drawn = |seed, label, number| {
            let mut bytes = [0; 40];
            HashRng::new(seed, label, number).fill(&mut bytes).expect("a hash does not fail");
            bytes
        };
        assert_eq!(drawn(1, "a", 0), drawn(1, "a", 0));
        assert!(drawn(1, "a", 0) != drawn(2, "a", 0) && drawn(1, "a", 0) != drawn(1, "b", 0));
        assert_ne!(drawn(1, "a", 0), drawn(1, "a", 1));
    }
}
