#![no_main]
use gridseal_sts::fuzz_entry::sts_record;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sts_record(bytes));
