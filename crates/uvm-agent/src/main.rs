//! The guest agent as a program: /init of the initramfs.

/// Who looks into the file finds the version here.
#[cfg(target_os = "linux")]
#[used]
static VERSION: &str = concat!("uvm-agent-version:", env!("CARGO_PKG_VERSION"), "\0");

#[cfg(target_os = "linux")]
fn main() {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if std::process::id() == 1 {
        uvm_agent::init::run(&arguments);
    }
    eprintln!("uvm-agent {} is PID 1 of a utility VM; it does nothing elsewhere", env!("CARGO_PKG_VERSION"));
    std::process::exit(2);
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("uvm-agent runs in Linux guests only");
    std::process::exit(2);
}
