//! A guest whose root file system is a disk image, raw or in a VHD, mapped as persistent memory. It takes a kernel that has
//! the drivers for that built in: the trimmed one.

use std::fs;
use std::path::Path;
use std::process::Command;

use uvm::image::{BootFiles, BootFilesOptions, KernelSource};
use uvm_testkit::{TestResult, TestVm};

use crate::cli::built;
use crate::process::text;
use crate::sockets::output_of;

const MIB: u64 = 1 << 20;

/// An ext4 image with nothing but the agent, of an odd size if wanted.
fn image(dir: &Path, bytes: u64) -> TestResult<std::path::PathBuf> {
    let (tree, image) = (dir.join("tree"), dir.join("rootfs.vhd"));
    for name in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy(built("../x86_64-unknown-linux-musl/agent/uvm-agent", "cargo xtask ci")?, tree.join("init"))?;
    std::os::unix::fs::symlink("/init", tree.join("bin/gcs"))?;
    fs::File::create(&image)?.set_len(bytes)?;
    let made =
        Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4", "-b", "4096", "-d"]).arg(&tree).arg(&image).output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::remove_dir_all(tree)?;
    Ok(image)
}

/// Puts the footer of a fixed VHD behind it.
fn into_vhd(image: &Path) -> TestResult {
    let mut bytes = fs::read(image)?;
    let mut footer = vec![0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[48..56].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    bytes.extend(footer);
    Ok(fs::write(image, bytes)?)
}

async fn boots(name: &str, dir: &Path) -> TestResult {
    let kernel = BootFiles::ensure(&BootFilesOptions::from_env()?.with_kernel(KernelSource::Trimmed))?.kernel_path();
    std::os::unix::fs::symlink(kernel, dir.join("vmlinux"))?;
    let path = dir.to_owned();
    let vm = TestVm::builder(name).with(move |options| options.boot_files = Some(path)).boot().await?;
    let output = output_of(&vm, &["/bin/gcs", "--version"]).await?;
    assert!(text(&output.stdout).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
    vm.close().await
}

#[tokio::test]
#[ignore = "needs the trimmed kernel, which takes 20 minutes to build: cargo xtask soak kernel"]
async fn a_raw_image_is_a_root_disk() -> TestResult {
    let dir = tempfile::tempdir()?;
    image(dir.path(), 32 * MIB)?;
    boots("root-raw", dir.path()).await
}

#[tokio::test]
#[ignore = "needs the trimmed kernel, which takes 20 minutes to build: cargo xtask soak kernel"]
async fn a_vhd_of_any_size_is_a_root_disk_for_the_originals_line_too() -> TestResult {
    let dir = tempfile::tempdir()?;
    into_vhd(&image(dir.path(), 32 * MIB + 4096)?)?;
    fs::write(dir.path().join("manifest.json"), r#"{"format": 1, "agent": {"kind": "original"}}"#)?;
    boots("root-vhd", dir.path()).await
}
