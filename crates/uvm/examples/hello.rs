//! Runs a command in a throw-away VM.

use uvm::{LcowOptions, MemoryMib, ProcessSpec, UtilityVm};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = LcowOptions::default().with_memory(MemoryMib::new(512)?).with_processors(1);
    let vm = UtilityVm::create_lcow(&options).await?;
    vm.start().await?;
    let command = ProcessSpec::new(["sh", "-c", "echo hello from $(uname -sr)"]);
    let output = vm.create_process(&command).await?.output().await?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("({})", output.exit);
    vm.close().await?;
    Ok(())
}
