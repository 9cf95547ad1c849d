#![no_main]
use std::cell::RefCell;

use gridseal_dlms::fuzz_entry::{KeyedServers, ciphered_apdu_over};

thread_local!(static SERVERS: RefCell<KeyedServers> = RefCell::new(KeyedServers::new().expect("keys of both curves")));
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| SERVERS.with_borrow_mut(|servers| ciphered_apdu_over(servers, bytes)));
