//! libFuzzer's entry to [`oxilium_fuzz::packets`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxilium_fuzz::packets::run(data));
