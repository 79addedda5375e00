//! Runs `uname -a` in a throw-away VM.

use uvm::{LcowOptions, ProcessSpec, UtilityVm};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    let vm = UtilityVm::create_lcow(&LcowOptions::default()).await?;
    vm.start().await?;
    let process = vm.create_process(&ProcessSpec::new(["uname", "-a"])).await?;
    let output = process.output().await?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", output.exit);
    vm.close().await?;
    Ok(())
}
