#![no_main]
use gridseal_group::fuzz_entry::group_storage;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| group_storage(bytes));
