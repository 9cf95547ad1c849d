//! Sending counters: blocks that are durable before the first value of one leaves, and the epoch of the site in the high
//! bits, so that neither a crash nor a second site repeats one (rules S1, S2, S5).
//!
//! # Source
//! Key service specification, section 8.

use gridseal_crypto::{InvocationCounter, Ticket};

/// Counters of a first block.
pub const BLOCK_DEFAULT: u32 = 64;
/// Counters of the largest block.
pub const BLOCK_MAX: u32 = 4_096;

/// How a client's counter is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum CounterLayout {
    /// Site epoch above 24 bits of count.
    #[default]
    #[n(0)]
    Epoch24,
    /// Site epoch above 22 bits of count: more epochs, fewer counters in each.
    #[n(1)]
    Epoch22,
    /// A plain count, for meters that refuse jumps. Each block waits for the standby.
    #[n(2)]
    Plain,
}

impl CounterLayout {
    /// Bits of the count within an epoch.
    #[must_use]
    pub const fn count_bits(self) -> u32 {
        match self {
            Self::Epoch24 => 24,
            Self::Epoch22 => 22,
            Self::Plain => 32,
        }
    }

    /// Number of counts within an epoch.
    #[must_use]
    pub const fn range(self) -> u64 {
        1 << self.count_bits()
    }

    /// The counter of a count in an epoch; `None` when the key is too old for that epoch.
    #[must_use]
    pub const fn counter(self, epoch: u32, first_epoch: u32, count: u64) -> Option<u32> {
        if count >= self.range() {
            return None;
        }
        if matches!(self, Self::Plain) {
            return Some(count as u32);
        }
        let Some(age) = epoch.checked_sub(first_epoch) else { return None };
        let high = (age as u64) << self.count_bits();
        if high > u32::MAX as u64 {
            return None;
        }
        Some(high as u32 | count as u32)
    }
}

/// The block of one key version in one epoch. `end` is durable, or becomes so with the decision that raised it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    /// Epoch that the block belongs to.
    pub epoch: u32,
    /// Next count to be used, up to 2^32.
    pub next: u64,
    /// First count that is not leased.
    pub end: u64,
}

/// No counter can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The counts of this epoch are used up, or the key is too old: only a new key helps.
    #[error("counters of this key are used up")]
    Exhausted,
}

/// A counter, and whether the block had to be extended for it.
#[derive(Debug)]
pub struct Leased {
    /// Counter, usable once.
    pub ticket: Ticket,
    /// Whether [`Lease::end`] rose: it must be durable before anything sealed with the ticket leaves.
    pub extended: bool,
}

impl Lease {
    /// What a restart finds: everything below the durable end counts as used. A plain count goes on across epochs; of the
    /// others an older epoch's count is nothing to this one.
    #[must_use]
    pub const fn resume(epoch: u32, durable: Option<Self>, layout: CounterLayout) -> Self {
        match durable {
            Some(lease) if lease.epoch == epoch || matches!(layout, CounterLayout::Plain) => {
                Self { epoch, next: lease.end, end: lease.end }
            }
            _ => Self { epoch, next: 0, end: 0 },
        }
    }

    /// Takes the next counter, extending the block when it is used up. A block grows with use, from [`BLOCK_DEFAULT`] to
    /// [`BLOCK_MAX`].
    ///
    /// # Errors
    /// [`LeaseError::Exhausted`]: nothing changed.
    pub fn take(&mut self, layout: CounterLayout, first_epoch: u32) -> Result<Leased, LeaseError> {
        let counter = layout.counter(self.epoch, first_epoch, self.next).ok_or(LeaseError::Exhausted)?;
        let mut single = InvocationCounter::resume(u64::from(counter));
        let one = single.reserve(1).map_err(|_| LeaseError::Exhausted)?;
        single.extend(one);
        let ticket = single.take().map_err(|_| LeaseError::Exhausted)?;
        let extended = self.next >= self.end;
        if extended {
            let block = self.end.clamp(u64::from(BLOCK_DEFAULT), u64::from(BLOCK_MAX));
            self.end = self.next.saturating_add(block).min(layout.range());
        }
        self.next = self.next.saturating_add(1);
        Ok(Leased { ticket, extended })
    }

    /// Whether policy wants another key: three quarters of the counts are used, or the key is old in epochs.
    #[must_use]
    pub const fn rotation_due(&self, layout: CounterLayout, first_epoch: u32) -> bool {
        let old = !matches!(layout, CounterLayout::Plain)
            && self.epoch.saturating_sub(first_epoch) > crate::site::EPOCHS_ROTATE;
        old || self.next > layout.range() / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(lease: &mut Lease, first_epoch: u32) -> u32 {
        lease.take(CounterLayout::Epoch24, first_epoch).unwrap().ticket.value()
    }

    #[test]
    fn the_worked_example_of_two_sites_never_repeats_a_counter() {
        let layout = CounterLayout::Epoch24;
        assert_eq!(layout.counter(10, 10, 0x1234), Some(0x1234));
        assert_eq!(layout.counter(11, 10, 0), Some(0x0100_0000));
        assert_eq!(layout.counter(12, 10, 0), Some(0x0200_0000));
        let mut at_a = Lease::resume(10, None, layout);
        let first: alloc::vec::Vec<u32> = (0..100).map(|_| value(&mut at_a, 10)).collect();
        // The replica knew only the first block; its epoch makes that harmless.
        let mut at_b = Lease::resume(11, Some(Lease { epoch: 10, next: 64, end: 64 }), layout);
        let second: alloc::vec::Vec<u32> = (0..100).map(|_| value(&mut at_b, 10)).collect();
        assert!(second.iter().all(|counter| first.iter().all(|before| before < counter)));
    }

    #[test]
    fn a_restart_skips_the_rest_of_the_block() {
        let mut lease = Lease::resume(0, None, CounterLayout::Epoch24);
        let before: alloc::vec::Vec<u32> = (0..70).map(|_| value(&mut lease, 0)).collect();
        let mut again = Lease::resume(0, Some(lease), CounterLayout::Epoch24);
        assert!(before.iter().all(|used| *used < value(&mut again, 0)));
        let plain = Lease::resume(1, Some(lease), CounterLayout::Plain);
        assert_eq!(plain.next, lease.end, "a plain count goes on in the next epoch");
    }

    #[test]
    fn the_end_of_an_epochs_range_and_of_the_epochs_is_an_error_and_never_a_wrap() {
        for layout in [CounterLayout::Epoch24, CounterLayout::Epoch22, CounterLayout::Plain] {
            let last = layout.range() - 1;
            let mut lease = Lease { epoch: 0, next: last, end: last };
            let counter = lease.take(layout, 0).unwrap().ticket.value();
            assert_eq!(u64::from(counter), last);
            let before = lease;
            assert_eq!(lease.take(layout, 0).unwrap_err(), LeaseError::Exhausted);
            assert_eq!(lease, before, "a refusal changes nothing");
        }
        assert_eq!(CounterLayout::Epoch24.counter(255, 0, 1), Some(0xFF00_0001));
        assert_eq!(CounterLayout::Epoch24.counter(256, 0, 0), None);
        assert_eq!(CounterLayout::Epoch24.counter(3, 4, 0), None, "a key of a later epoch");
    }

    #[test]
    fn blocks_grow_with_use_up_to_their_largest() {
        let mut lease = Lease::resume(0, None, CounterLayout::Epoch24);
        let mut extensions = 0;
        for _ in 0..20_000 {
            let leased = lease.take(CounterLayout::Epoch24, 0).unwrap();
            extensions += u32::from(leased.extended);
            assert!(lease.end - lease.next <= u64::from(BLOCK_MAX));
        }
        assert!((8..16).contains(&extensions), "{extensions}");
    }
}
