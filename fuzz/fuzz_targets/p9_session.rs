#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| uvm_fuzz_targets::p9::p9_session(data));
