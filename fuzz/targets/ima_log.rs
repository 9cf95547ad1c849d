#![no_main]
use gridseal_trust::measured::fuzz_entry::ima_log;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ima_log(bytes));
