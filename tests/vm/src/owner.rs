//! A program that owns one VM, to be killed by tests: it creates, starts, uses and closes it, and says how far it is.
//!
//! Arguments: the VM's id, the boot files, and where wanted the path of a console socket. The state directory comes from
//! `UVM_STATE_DIR`, and a directory that is shared as a device from `UVM_OWNER_SHARE`.

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use uvm::{Console, LcowOptions, MemoryMib, ProcessSpec, ShareKind, ShareOptions, UtilityVm, UvmId};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [id, boot_files, console @ ..] = &arguments[..] else {
        return Err("an id and a directory of boot files are needed".into());
    };
    let console = console.first().map_or(Console::Ring, |path| Console::Socket(path.into()));
    let options = LcowOptions::default()
        .with_id(UvmId::new(id)?)
        .with_memory(MemoryMib::new(512)?)
        .with_processors(1)
        .with_boot_files(boot_files)
        .with_console(console);
    println!("begin");
    let vm = UtilityVm::create_lcow(&options).await?;
    println!("created");
    vm.start().await?;
    println!("started");
    let share = match std::env::var_os("UVM_OWNER_SHARE") {
        Some(dir) => Some(vm.share_with(&ShareOptions::new(dir, "/mnt").with_kind(ShareKind::VirtioFs)).await?),
        None => None,
    };
    let output = vm.create_process(&ProcessSpec::new(["echo", "hello"])).await?.output().await?;
    println!("used {}", output.exit);
    if std::env::var_os("UVM_OWNER_STAYS").is_some() {
        std::future::pending::<()>().await;
    }
    drop(share);
    vm.close().await?;
    println!("closed");
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() {}
