#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obt_fuzz::messages::handshake(data));
