//! A guest that loads the transport's modules and powers off: what a start cannot do without.

uvm_bench_guest::in_the_agents_place!();

fn main() {
    uvm_bench_guest::pid_1(uvm_bench_guest::load_boot_modules);
}
