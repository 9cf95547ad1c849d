#![no_main]
use gridseal_trust::enrol::fuzz_entry::receipt as fuzz_entry;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry(bytes));
