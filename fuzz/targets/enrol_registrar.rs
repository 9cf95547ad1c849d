#![no_main]
libfuzzer_sys::fuzz_target!(|script: &[u8]| gridseal_sim::machines::registrar(script));
