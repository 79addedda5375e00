#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| uvm_fuzz_targets::fs::fs_requests(data));
