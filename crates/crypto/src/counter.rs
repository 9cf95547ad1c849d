//! Invocation counters as tickets out of durably reserved blocks (rules S1, S2, S5).

/// Hands out each counter value once. Values come from a block whose end was made durable beforehand, so that neither a
/// crash nor a power cut ever repeats one; what a crash leaves of a block is skipped.
#[derive(Debug)]
pub struct InvocationCounter {
    next: u64,
    reserved_end: u64,
}

/// The end of a block of values, to be made durable before [`InvocationCounter::extend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    end: u64,
}

impl Reservation {
    /// First value that is *not* reserved; what goes on disk.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }
}

/// One counter value, usable once: sealing consumes it.
#[derive(Debug)]
pub struct Ticket(u32);

impl Ticket {
    /// The value.
    #[must_use]
    pub const fn value(&self) -> u32 {
        self.0
    }
}

/// No ticket can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CounterError {
    /// A further block must be reserved and made durable first.
    #[error("no reserved counter value is left")]
    NothingReserved,
    /// The range of 2^32 values is used up: only a new key helps.
    #[error("invocation counter is exhausted")]
    Exhausted,
}

impl InvocationCounter {
    /// Number of values in the counter's range; the end is an error, never a wrap.
    pub const RANGE: u64 = 1 << 32;

    /// Continues after a restart: everything below the durable end counts as used.
    #[must_use]
    pub const fn resume(durable_end: u64) -> Self {
        Self { next: durable_end, reserved_end: durable_end }
    }

    /// The reservation of `count` further values.
    ///
    /// # Errors
    /// [`CounterError::Exhausted`] at the end of the range.
    pub const fn reserve(&self, count: u32) -> Result<Reservation, CounterError> {
        if self.reserved_end >= Self::RANGE {
            return Err(CounterError::Exhausted);
        }
        let end = self.reserved_end + count as u64;
        Ok(Reservation { end: if end < Self::RANGE { end } else { Self::RANGE } })
    }

    /// Makes a block usable. Call it only after the reservation is durable. An older reservation changes nothing.
    pub const fn extend(&mut self, durable: Reservation) {
        if durable.end > self.reserved_end {
            self.reserved_end = durable.end;
        }
    }

    /// The next value.
    ///
    /// # Errors
    /// [`CounterError::NothingReserved`] or, at the end of the range, [`CounterError::Exhausted`].
    pub fn take(&mut self) -> Result<Ticket, CounterError> {
        if self.next >= Self::RANGE {
            return Err(CounterError::Exhausted);
        }
        if self.next >= self.reserved_end {
            return Err(CounterError::NothingReserved);
        }
        let value = u32::try_from(self.next).map_err(|_| CounterError::Exhausted)?;
        self.next += 1;
        Ok(Ticket(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_only_out_of_durable_blocks_and_never_twice_across_a_crash() {
        let mut counter = InvocationCounter::resume(0);
        assert_eq!(counter.take().unwrap_err(), CounterError::NothingReserved);
        let block = counter.reserve(64).unwrap();
        counter.extend(block);
        assert_eq!((counter.take().unwrap().value(), counter.take().unwrap().value()), (0, 1));
        let mut restarted = InvocationCounter::resume(block.end());
        restarted.extend(restarted.reserve(64).unwrap());
        assert_eq!(restarted.take().unwrap().value(), 64);
    }

    #[test]
    fn the_end_of_the_range_is_an_error_and_never_a_wrap() {
        let mut counter = InvocationCounter::resume(InvocationCounter::RANGE - 1);
        counter.extend(counter.reserve(64).unwrap());
        assert_eq!(counter.take().unwrap().value(), u32::MAX);
        assert_eq!(counter.take().unwrap_err(), CounterError::Exhausted);
        assert_eq!(counter.reserve(1).unwrap_err(), CounterError::Exhausted);
    }
}
