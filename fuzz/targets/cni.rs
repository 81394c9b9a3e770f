//! libFuzzer's entry to [`oxilium_fuzz::cni`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxilium_fuzz::cni::run(data));
