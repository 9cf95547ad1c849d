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
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UtcTime(since.map_or(0, |since| since.as_secs()).saturating_add_signed(shift_s()))
}

/// By how many seconds the calendar of this process is wrong, as a test wants it: what the file says that the variable
/// `GRIDSEAL_DANGER_CLOCK` names, at every look, so that a clock can step while the process works.
#[cfg(feature = "danger-clock")]
fn shift_s() -> i64 {
    use std::{fs::File, io::Read, path::PathBuf};
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("GRIDSEAL_DANGER_CLOCK").map(PathBuf::from));
    let Some(mut file) = file.as_ref().and_then(|path| File::open(path).ok()) else { return 0 };
    // One read, for a process that may do little else.
    let mut text = [0; 24];
    let length = file.read(&mut text).unwrap_or(0);
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(not(feature = "danger-clock"))]
const fn shift_s() -> i64 {
    0
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
