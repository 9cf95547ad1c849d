#![no_main]
use gridseal_dlms::fuzz_entry::message_tree as fuzz_entry;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry(bytes));
