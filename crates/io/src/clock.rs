//! The machine's clocks: the only place that reads one.
#![expect(clippy::disallowed_methods, reason = "this module is where time enters the program")]

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use gridseal_types::{Tick, UtcTime};

/// Calendar time of this machine. Ours for our own records and certificates; never a peer's claim (rule S14).
#[must_use]
pub fn utc_now() -> UtcTime {
    UtcTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Calendar time of this machine in milliseconds since 1970: rises from run to run, as long as nobody sets the clock back.
#[must_use]
pub fn utc_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Monotonic time since this process first asked.
#[must_use]
pub fn tick_now() -> Tick {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Tick(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
