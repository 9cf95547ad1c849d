#![no_main]
use gridseal_lmn::mbus::fuzz_entry::mbus_frame as fuzz_entry;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_entry(bytes));
