#![no_main]
use gridseal_sts::fuzz_entry::sts_token;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sts_token(bytes));
