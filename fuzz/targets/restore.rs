//! libFuzzer's entry to [`oxilium_fuzz::restore`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxilium_fuzz::restore::run(data));
