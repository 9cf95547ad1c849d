#![no_main]
use gridseal_trust::measured::fuzz_entry::event_log;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| event_log(bytes));
