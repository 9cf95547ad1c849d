#![no_main]
use gridseal_trust::enrol::fuzz_entry::list as fuzz_entry;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry(bytes));
