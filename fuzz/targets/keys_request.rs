#![no_main]
use gridseal_keys::fuzz_entry::keys_request;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keys_request(bytes));
