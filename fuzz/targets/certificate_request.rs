#![no_main]
use gridseal_trust::csr::fuzz_entry;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry(bytes));
