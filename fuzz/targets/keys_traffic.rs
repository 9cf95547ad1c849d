#![no_main]
use gridseal_keys::fuzz_entry::keys_traffic;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keys_traffic(bytes));
