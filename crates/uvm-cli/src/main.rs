//! The command `uvm`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

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
mod hcs_document;
#[cfg(target_os = "linux")]
mod image;
#[cfg(target_os = "linux")]
mod log;
#[cfg(target_os = "linux")]
mod paths;
#[cfg(target_os = "linux")]
mod progress;
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
        Command::HcsDocument(args) => report::exit_code(hcs_document::run(&args)),
        Command::Ps(args) => report::exit_code(gc::ps(&args)),
        Command::Gc(args) => report::exit_code(gc::run(&args)),
        Command::Completions { shell } => report::exit_code(generate::completions(shell)),
        Command::Man { directory } => report::exit_code(generate::man(&directory)),
    };
    // A thread may still wait for standard input.
    std::process::exit(code);
}

/// Where no VM can be run by this command, what needs none is there.
#[cfg(not(target_os = "linux"))]
#[derive(clap::Parser)]
#[command(name = "uvm", version, max_term_width = 100, arg_required_else_help = true)]
enum Cli {
    HcsDocument(hcs_document::HcsDocumentArgs),
}

#[cfg(not(target_os = "linux"))]
fn main() {
    let Cli::HcsDocument(args) = <Cli as clap::Parser>::parse();
    std::process::exit(report::exit_code(hcs_document::run(&args)));
}
