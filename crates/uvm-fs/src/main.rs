//! The program: one share, served until its device is closed.

#[cfg(target_os = "linux")]
mod program {
    use std::process::ExitCode;

    use uvm_fs::{Command, USAGE, serve};

    /// The exit code for a command line that is none.
    const USAGE_CODE: u8 = 2;
    /// How many lines of what goes wrong are told; a guest decides how often that is.
    const LINES: usize = 64;

    pub(crate) fn main() -> ExitCode {
        // A thread that panics would leave the guest waiting: its end is told, when the process ends with it.
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            std::process::abort();
        }));
        let command = match Command::parse(std::env::args_os().skip(1)) {
            Ok(command) => command,
            Err(error) => {
                eprintln!("{error}\n\n{USAGE}");
                return ExitCode::from(USAGE_CODE);
            }
        };
        if log::set_boxed_logger(Box::new(Complaints::default())).is_ok() {
            log::set_max_level(log::LevelFilter::Warn);
        }
        match serve(&command) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
                eprintln!("{}", causes.map(ToString::to_string).collect::<Vec<_>>().join(": "));
                ExitCode::FAILURE
            }
        }
    }

    /// Tells what the file system complains of, up to a limit.
    #[derive(Default)]
    struct Complaints(std::sync::atomic::AtomicUsize);

    impl log::Log for Complaints {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) && self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < LINES {
                eprintln!("{}", record.args());
            }
        }

        fn flush(&self) {}
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("shares of this kind are served on Linux");
    std::process::exit(1);
}
