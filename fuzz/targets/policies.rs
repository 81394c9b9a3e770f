//! libFuzzer's entry to [`oxilium_fuzz::policies`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxilium_fuzz::policies::run(data));
