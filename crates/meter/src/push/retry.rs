//! When to try again.

use core::time::Duration;

/// Ceiling of the first retry.
const RETRY_BASE: Duration = Duration::from_secs(5);
/// Ceiling of any retry.
const RETRY_CAP: Duration = Duration::from_secs(30 * 60);

/// Delay before try number `attempt` (1 = the first repeat): uniform between zero and a ceiling that doubles from 5 s
/// up to 30 min ("full jitter"), out of 8 random bytes. A shell uses it for reconnecting too.
///
/// # Source
/// Head-end fact sheet, section 2.4 (base 5 s, cap 30 min).
#[must_use]
pub fn retry_delay(attempt: u32, random: [u8; 8]) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    let ceiling = RETRY_BASE.saturating_mul(1 << doublings).min(RETRY_CAP);
    // The high half of the product maps the random number to 0..=ceiling without bias worth mentioning.
    let scaled = (u128::from(u64::from_be_bytes(random)) * (ceiling.as_millis() + 1)) >> 64;
    Duration::from_millis(u64::try_from(scaled).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_lies_between_zero_and_a_ceiling_that_doubles_up_to_its_cap() {
        let ceilings: Vec<_> = [1, 2, 3, 9, 10, 1_000].map(|n| retry_delay(n, [0xFF; 8]).as_secs()).into();
        assert_eq!(ceilings, [5, 10, 20, 1_280, 1_800, 1_800]);
        assert_eq!(retry_delay(9, [0; 8]), Duration::ZERO);
        assert_eq!(retry_delay(1, [0x80, 0, 0, 0, 0, 0, 0, 0]), Duration::from_millis(2_500));
    }
}
