#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| uvm_fuzz_targets::mux::mux_owner(data));
