//! Programs that people run, at work in shares of both kinds: fio with `--verify`, git, cargo, and stress-ng's class of file
//! systems. They are the host's own, from its /usr, which the guest has read-only as a share of the same kind. A campaign:
//! `cargo xtask soak shares` installs them and runs this, which takes minutes under the translator.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use uvm::{MemoryMib, ProcessSpec, ShareKind, ShareOptions, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::campaign::{self, note};
use crate::disks::sh;
use crate::process::text;

/// What one program may take.
const AT_MOST: Duration = Duration::from_secs(900);

/// Programs, and what they do in `/work`, the share. Each leaves it empty, and fails when anything is wrong.
const PROGRAMS: [(&str, &str); 4] = [
    (
        "fio",
        "fio --name=verify --filename=/work/data --size=16m --rw=randrw --bsrange=4k-64k --ioengine=psync \
         --verify=crc32c --verify_fatal=1 --verify_state_save=0 --do_verify=1 --minimal; rm data",
    ),
    // The repository is in the share: git maps its packs, and locks by names.
    (
        "git",
        "git init -q -b main made; cd made; for n in $(seq 40); do seq $((n * 100)) > file-$n; done; git add .; \
         git commit -q -m one; git mv file-1 moved; seq 9 > file-2; git commit -q -a -m two; git gc -q; cd ..; \
         git clone -q --no-local made clone; cd clone; git fsck --full --strict; test -z \"$(git status --short)\"; \
         test \"$(git rev-parse HEAD)\" = \"$(git -C ../made rev-parse HEAD)\"; cd ..; rm -r made clone",
    ),
    (
        "cargo",
        "mkdir -p hello/src; cd hello; printf '[package]\\nname = \"hello\"\\nedition = \"2024\"\\n' > Cargo.toml; \
         echo 'fn main() { println!(\"built\"); }' > src/main.rs; cargo build -q --offline; \
         test \"$(target/debug/hello)\" = built; cargo build --offline 2>&1 | grep -q Finished; cd ..; rm -r hello",
    ),
    ("stress-ng", STRESS),
];

/// The class of file systems, two seconds for each stressor; without those that need what guests do not have: file systems for
/// binder, mounts besides those of the chroot, maps of blocks, fs-verity. Left in, they make the whole of it no success.
const STRESS: &str = "stress-ng --class filesystem --exclude binderfs,fanotify,fiemap,verity --sequential 1 --timeout 2 \
                      --temp-path /work --verify --metrics-brief";

#[tokio::test]
#[ignore = "a campaign: takes fio and stress-ng on the host, and minutes"]
async fn programs_at_work_in_a_virtio_fs_share() -> TestResult {
    at_work("work-fs", ShareKind::VirtioFs).await
}

#[tokio::test]
#[ignore = "a campaign: takes fio and stress-ng on the host, and minutes"]
async fn programs_at_work_in_a_9p_share() -> TestResult {
    at_work("work-9p", ShareKind::Plan9).await
}

async fn at_work(vm_name: &str, kind: ShareKind) -> TestResult {
    let work = tempfile::tempdir()?;
    let toolchain = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let toolchain = text(&toolchain.stdout).trim().to_owned();
    let memory = MemoryMib::new(1536)?;
    let vm = TestVm::builder(vm_name).with(move |options| options.memory = memory).boot().await?;
    let mut shares = Vec::new();
    for (host, at) in [("/usr", "usr"), ("/etc/alternatives", "etc/alternatives"), (toolchain.as_str(), "rust")] {
        let options = ShareOptions::new(host, format!("{ROOT}/{at}")).with_kind(kind).read_only();
        shares.push(vm.share_with(&options).await?);
    }
    shares.push(vm.share_with(&ShareOptions::new(work.path(), format!("{ROOT}/work")).with_kind(kind)).await?);
    sh(&vm, LAY_OUT).await?;
    for round in 0..campaign::rounds(1, 3) {
        for (name, script) in PROGRAMS {
            let said = in_root(&vm, script).await.map_err(|e| format!("{name}, round {round}: {e}"))?;
            note(&format!("{vm_name}, round {round}: {name}\n{said}"));
            is_empty(work.path(), name)?;
        }
    }
    sh(&vm, &format!("umount {ROOT}/sys {ROOT}/proc {ROOT}/dev")).await?;
    for share in shares {
        share.release().await?;
    }
    vm.close().await
}

/// Where the guest has what looks like the host.
const ROOT: &str = "/run/root";

/// What programs expect around `/usr`.
const LAY_OUT: &str = "cd /run/root; ln -s usr/bin bin; ln -s usr/sbin sbin; ln -s usr/lib lib; ln -s usr/lib64 lib64; \
     mkdir -p proc dev sys tmp; mount -t proc proc proc; mount -t devtmpfs dev dev; mount -t sysfs sys sys; \
     echo root:x:0:0:root:/tmp:/bin/sh > etc/passwd";

/// Runs a script there, and gives the end of what it said.
async fn in_root(vm: &UtilityVm, script: &str) -> TestResult<String> {
    let script = format!("set -e; cd /work; {script}");
    let spec = ProcessSpec::new(["chroot", ROOT, "/usr/bin/env", "-i"].into_iter().chain(VARIABLES).chain([
        "/usr/bin/sh",
        "-c",
        script.as_str(),
    ]));
    let output = tokio::time::timeout(AT_MOST, vm.create_process(&spec).await?.output()).await;
    let output = output.map_err(|_| format!("not within {AT_MOST:?}"))??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.exit.is_success() { Ok(said) } else { Err(format!("{:?}: {said}", output.exit).into()) }
}

/// Who commits, and where programs are.
const VARIABLES: [&str; 6] = [
    "PATH=/rust/bin:/usr/bin:/usr/sbin",
    "HOME=/tmp",
    "GIT_AUTHOR_NAME=test",
    "GIT_AUTHOR_EMAIL=test@example.invalid",
    "GIT_COMMITTER_NAME=test",
    "GIT_COMMITTER_EMAIL=test@example.invalid",
];

/// What the guest removed is gone on the host.
fn is_empty(dir: &Path, after: &str) -> TestResult {
    let left: Vec<_> = fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.file_name()).collect();
    if left.is_empty() { Ok(()) } else { Err(format!("{after} left {left:?}").into()) }
}
