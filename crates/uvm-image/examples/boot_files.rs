//! Makes boot files with the default options and says what goes on: `boot_files [KERNEL]`, where KERNEL is
//! `distribution`, `trimmed`, `installed`, the name of a kernel in the data directory, or `build` to build the
//! trimmed one.

use std::time::Instant;

use uvm_image::{
    BootFiles, BootFilesOptions, ImageError, ImageStore, Kernel, KernelSource, Progress, ProgressSink,
    TrimmedKernelOptions,
};

fn main() {
    if let Err(error) = run() {
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            eprintln!("boot_files: {error}");
            cause = error.source();
        }
        std::process::exit(1);
    }
}

fn run() -> Result<(), ImageError> {
    let began = Instant::now();
    let store = ImageStore::from_env()?.with_progress(ProgressSink::new(move |progress| match progress {
        Progress::Started { step, detail } => eprintln!("{:7.2} s  {step} {detail}", began.elapsed().as_secs_f64()),
        Progress::Note { text } => eprintln!("{:7.2} s  note: {text}", began.elapsed().as_secs_f64()),
        _ => {}
    }));
    let kernel = match std::env::args().nth(1).as_deref() {
        None | Some("distribution") => KernelSource::Distribution,
        Some("trimmed") => KernelSource::Trimmed,
        Some("installed") => KernelSource::Installed { release: None },
        Some("build") => {
            let kernel = Kernel::build_trimmed(&TrimmedKernelOptions::new(store))?;
            println!("{} from {}", kernel.name(), kernel.source());
            return Ok(());
        }
        Some(name) => KernelSource::Named(name.to_owned()),
    };
    let files = BootFiles::ensure(&BootFilesOptions::new(store).with_kernel(kernel))?;
    println!("{}\n{}", files.kernel_path().display(), files.initrd_path().display());
    eprintln!("{:7.2} s  done", began.elapsed().as_secs_f64());
    Ok(())
}
