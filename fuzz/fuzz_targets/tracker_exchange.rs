#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| obt_fuzz::exchange::tracker_exchange(data));
