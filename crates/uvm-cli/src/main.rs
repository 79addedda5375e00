//! The command `uvm`.
#![cfg_attr(target_os = "linux", deny(clippy::print_stdout, clippy::print_stderr))]

#[cfg(target_os = "linux")]
mod args;
#[cfg(target_os = "linux")]
mod boot;
#[cfg(target_os = "linux")]
mod doctor;
#[cfg(target_os = "linux")]
mod gc;
#[cfg(target_os = "linux")]
mod generate;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod log;
#[cfg(target_os = "linux")]
mod progress;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;

#[cfg(target_os = "linux")]
fn main() {
    use args::Command;

    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) => std::process::exit(args::refused(&e)),
    };
    log::init(cli.verbose);
    let code = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Image(command) => report::exit_code(image::run(&command)),
        Command::Ps(args) => report::exit_code(gc::ps(&args)),
        Command::Gc(args) => report::exit_code(gc::run(&args)),
        Command::Completions { shell } => report::exit_code(generate::completions(shell)),
        Command::Man { directory } => report::exit_code(generate::man(&directory)),
    };
    // A thread may still wait for standard input.
    std::process::exit(code);
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("uvm: there is no host of utility VMs for this system yet");
    std::process::exit(125);
}
