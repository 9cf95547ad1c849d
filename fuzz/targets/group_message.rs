#![no_main]
use gridseal_group::fuzz_entry::group_message;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| group_message(bytes));
