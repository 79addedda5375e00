//! The guest agent as a program: /init of the initramfs, /bin/gcs and /bin/vsockexec where another init starts them, and
//! /bin/uvm-enter.

/// Who looks into the file finds the version here.
#[cfg(target_os = "linux")]
#[used]
static VERSION: &str = concat!("uvm-agent-version:", env!("CARGO_PKG_VERSION"), "\0");

#[cfg(target_os = "linux")]
fn main() {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let (name, arguments) = words.split_first().map_or(("", &[][..]), |(name, arguments)| (name.as_str(), arguments));
    if std::process::id() == 1 {
        uvm_agent::init::run(arguments);
    }
    match (name.rsplit('/').next(), arguments) {
        (_, [only]) if only.trim_start_matches('-') == "version" => println!("uvm-agent {}", env!("CARGO_PKG_VERSION")),
        (Some("uvm-enter"), _) => uvm_agent::enter::run(arguments),
        (Some("vsockexec"), _) => uvm_agent::vsockexec::run(arguments),
        (_, []) => {
            eprintln!(
                "uvm-agent {} is /init of a utility VM; under another init it is /bin/gcs, with the flags of that, and \
                 /bin/vsockexec",
                env!("CARGO_PKG_VERSION")
            );
            std::process::exit(2);
        }
        _ => uvm_agent::gcs::run(arguments),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("uvm-agent runs in Linux guests only");
    std::process::exit(2);
}
