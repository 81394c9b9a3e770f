//! libFuzzer's entry to [`oxilium_fuzz::documents`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxilium_fuzz::documents::run(data));
