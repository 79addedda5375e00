//! What may be said of a SCSI disk: its format, what the guest reads of it, and how it is mounted.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use uvm::{BlockSize, ErrorKind, FileSystem, Grow, ImageFormat, ScsiDisk, ScsiMount, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::{device, disks_in, refused, sh};
use crate::faults::chain;
use crate::images::{Images, tool};
use crate::process::text;

/// A disk with a table of partitions (MBR), the first of them empty and the second one that file system.
fn partitioned(images: &Images, name: &str, filesystem: &Path) -> TestResult<PathBuf> {
    const MIB: u64 = 1 << 20;
    let content = std::fs::read(filesystem)?;
    let path = images.raw(name, 2 + content.len() as u64 / MIB)?;
    let disk = OpenOptions::new().write(true).open(&path)?;
    disk.write_all_at(&content, 2 * MIB)?;
    let mut table = [0_u8; 66];
    let sectors = |bytes: u64| u32::try_from(bytes / 512).map(u32::to_le_bytes);
    for (entry, (begin, length)) in [(MIB, MIB), (2 * MIB, content.len() as u64)].into_iter().enumerate() {
        let at = entry * 16;
        // Linux's type.
        table[at + 4] = 0x83;
        table[at + 8..at + 12].copy_from_slice(&sectors(begin)?);
        table[at + 12..at + 16].copy_from_slice(&sectors(length)?);
    }
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all_at(&table, 446)?;
    Ok(path)
}

/// What stands in a file of the guest's directory about the device.
async fn attribute(vm: &UtilityVm, disk: &ScsiMount, name: &str) -> TestResult<String> {
    let node = device(vm, disk).await?;
    Ok(sh(vm, &format!("cat /sys/block/{}/{name}", node.trim_start_matches("/dev/"))).await?.trim().to_owned())
}

#[tokio::test]
async fn a_partition_is_mounted_or_linked_to() -> TestResult {
    let images = Images::new()?;
    let disk = partitioned(&images, "parts.img", &images.filesystem("part", "ext4")?)?;
    let vm = TestVm::builder("partitions").boot().await?;
    let mounted = ScsiDisk::new(&disk).with_guest_path("/run/part");
    let error = refused(&vm, &mounted).await;
    assert!(error.contains("holds no file system"), "{error}");
    let error = refused(&vm, &mounted.clone().with_partition(3)).await;
    assert!(error.contains("has no partition 3"), "{error}");
    let second = vm.add_scsi(&mounted.clone().with_partition(2).with_file_system(FileSystem::Ext4)).await?;
    assert_eq!(sh(&vm, "cat /run/part/hello").await?, "from ext4\n");
    let error = refused(&vm, &mounted.clone().with_partition(1)).await;
    assert!(error.contains("in another way"), "{error}");
    let error = chain(&second.resize(64 << 20, Grow::FileSystem).await.expect_err("a partition"));
    assert!(error.contains("partition"), "{error}");
    second.release().await?;
    // A link to the device; what is linked to is not mounted.
    let linked = vm.add_scsi(&mounted.clone().with_partition(2).as_block_device().read_only()).await?;
    let node = format!("{}2", device(&vm, &linked).await?);
    assert_eq!(sh(&vm, "readlink /run/part").await?.trim(), node);
    assert_eq!(sh(&vm, "dd if=/run/part bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1").await?.trim(), "53 ef");
    linked.release().await?;
    assert_eq!(sh(&vm, "ls -d /run/part 2>/dev/null || echo gone").await?, "gone\n");
    assert_eq!(disks_in(&vm).await?, 0);
    vm.close().await
}

#[tokio::test]
async fn a_disk_is_mounted_as_the_file_system_and_with_the_options_that_are_said() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let vm = TestVm::builder("options").boot().await?;
    let disk = ScsiDisk::new(&image).with_guest_path("/mnt");
    let error = refused(&vm, &disk.clone().with_file_system(FileSystem::Xfs)).await;
    assert!(error.contains("mount xfs"), "{error}");
    let options = ["nosuid", "nodev", "noexec", "noatime", "discard", "shared"];
    let mounted = vm.add_scsi(&disk.clone().with_file_system(FileSystem::Ext4).with_mount_options(options)).await?;
    let seen = sh(&vm, "grep ' /mnt ' /proc/self/mounts; grep ' /mnt ' /proc/self/mountinfo").await?;
    for option in ["nosuid", "nodev", "noexec", "noatime", "discard", "shared:"] {
        assert!(seen.contains(option), "{option}: {seen}");
    }
    assert!(sh(&vm, "cp /bin/true /mnt/true; /mnt/true").await.is_err(), "nothing is executed there");
    mounted.release().await?;
    // One that cannot be written to anyway.
    let iso = images.path("cd.iso");
    iso9660(&iso, b"from iso9660\n")?;
    let cd = ScsiDisk::new(&iso).with_guest_path("/cd").read_only().with_file_system(FileSystem::Iso9660);
    let cd = vm.add_scsi(&cd).await?;
    assert_eq!(sh(&vm, "cat /cd/hello.txt*").await?, "from iso9660\n");
    cd.release().await?;
    vm.close().await
}

/// The least that the kernel takes for an ISO 9660: a volume descriptor, its end, a root directory with one file.
fn iso9660(path: &Path, content: &[u8]) -> TestResult {
    const SECTOR: usize = 2048;
    fn both(number: u32) -> Vec<u8> {
        [number.to_le_bytes(), number.to_be_bytes()].concat()
    }
    fn record(sector: u32, bytes: u32, flags: u8, name: &[u8]) -> Vec<u8> {
        let mut record = vec![0, 0];
        record.extend(both(sector));
        record.extend(both(bytes));
        record.extend([100, 1, 1, 0, 0, 0, 0, flags, 0, 0, 1, 0, 0, 1, u8::try_from(name.len()).unwrap_or_default()]);
        record.extend(name);
        if record.len() % 2 == 1 {
            record.push(0);
        }
        record[0] = u8::try_from(record.len()).unwrap_or_default();
        record
    }
    let mut image = vec![0; 20 * SECTOR];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let volume = 16 * SECTOR;
    put(volume, b"\x01CD001\x01");
    put(volume + 80, &both(20));
    put(volume + 120, &[1, 0, 0, 1, 1, 0, 0, 1, 0, 8, 8, 0]);
    put(volume + 156, &record(18, 2048, 2, &[0]));
    put(17 * SECTOR, b"\xffCD001\x01");
    let bytes = u32::try_from(content.len())?;
    let directory =
        [record(18, 2048, 2, &[0]), record(18, 2048, 2, &[1]), record(19, bytes, 0, b"HELLO.TXT;1")].concat();
    put(18 * SECTOR, &directory);
    put(19 * SECTOR, content);
    Ok(std::fs::write(path, image)?)
}

#[tokio::test]
async fn the_guest_reads_serial_number_and_block_size_and_the_format_that_was_said() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("settings").boot().await?;
    // A qcow2 by another name, and one that is taken for what it is in bytes.
    let image = images.create("disk.qcow2", "qcow2", "")?;
    let renamed = images.path("disk");
    std::fs::rename(&image, &renamed)?;
    let serial = "0123456789-abcdefghijklmnopqrstuvwxyz"[..36].to_owned();
    let asked = ScsiDisk::new(&renamed).with_format(ImageFormat::Qcow2).with_serial(&serial);
    let disk = vm.add_scsi(&asked.clone().with_block_size(BlockSize::Bytes4096)).await?;
    assert_eq!(attribute(&vm, &disk, "size").await?, (16 << 11).to_string());
    assert_eq!(attribute(&vm, &disk, "queue/logical_block_size").await?, "4096");
    assert_eq!(attribute(&vm, &disk, "queue/physical_block_size").await?, "4096");
    let page = attribute(&vm, &disk, "device/vpd_pg80 | tail -c 36").await?;
    assert_eq!(page, serial);
    // Who does not say it shares it; who says otherwise does not.
    vm.add_scsi(&ScsiDisk::new(&renamed)).await?.release().await?;
    for other in [asked.clone().with_block_size(BlockSize::Bytes512), asked.with_serial("other")] {
        let error = refused(&vm, &other).await;
        assert!(error.contains("asked for with"), "{error}");
    }
    disk.release().await?;
    let raw = vm.add_scsi(&ScsiDisk::new(&renamed).with_format(ImageFormat::Raw).read_only()).await?;
    let node = device(&vm, &raw).await?;
    assert_eq!(sh(&vm, &format!("head -c 3 {node}")).await?, "QFI");
    assert_eq!(attribute(&vm, &raw, "queue/logical_block_size").await?, "512");
    raw.release().await?;
    let error = refused(&vm, &ScsiDisk::new(&renamed).with_format(ImageFormat::Vhd)).await;
    assert!(error.contains("said to be a VHD"), "{error}");
    vm.close().await
}

#[tokio::test]
async fn a_disk_grows_while_it_is_used_and_its_file_system_with_it() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("resize").boot().await?;
    for (kind, mib) in [("ext4", 16), ("xfs", 300)] {
        let image = images.filesystem(&format!("{kind}.img"), kind)?;
        let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/mnt")).await?;
        let free =
            async || -> TestResult<u64> { Ok(sh(&vm, "df -m /mnt | awk 'NR==2{print $2}'").await?.trim().parse()?) };
        let before = free().await?;
        // The disk alone.
        disk.resize((2 * mib) << 20, Grow::Disk).await?;
        assert_eq!(attribute(&vm, &disk, "size").await?, ((2 * mib) << 11).to_string());
        assert_eq!(free().await?, before);
        disk.resize((3 * mib) << 20, Grow::FileSystem).await?;
        assert!(free().await? > before * 2, "{kind}: {before} MiB, then {}", free().await?);
        // Again, and with data that fits now alone.
        disk.resize((3 * mib) << 20, Grow::FileSystem).await?;
        sh(&vm, &format!("dd if=/dev/zero of=/mnt/large bs=1M count={} 2>/dev/null", before + 2)).await?;
        assert_eq!(sh(&vm, "cat /mnt/hello").await?, format!("from {kind}\n"));
        let error = chain(&disk.resize(1 << 20, Grow::Disk).await.expect_err("it does not shrink"));
        assert!(error.contains("1048576") && error.contains(&((3 * mib) << 20).to_string()), "{error}");
        disk.release().await?;
        assert_eq!(File::open(&image)?.metadata()?.len(), (3 * mib) << 20);
        let words: &[&str] = if kind == "ext4" { &["-fn"] } else { &["-n"] };
        let program = if kind == "ext4" { "e2fsck" } else { "xfs_repair" };
        tool(program, words.iter().map(OsStr::new).chain([image.as_os_str()]))?;
        let error = disk.resize((4 * mib) << 20, Grow::Disk).await.expect_err("it was released");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    vm.close().await
}

#[tokio::test]
async fn a_disk_that_cannot_grow_says_why() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("no-resize").boot().await?;
    for (name, format, options, why) in [
        ("fixed.vhd", "vpc", "subformat=fixed,force_size=on", "footer"),
        ("dynamic.vhd", "vpc", "subformat=dynamic,force_size=on", "VHD and VHDX"),
        ("disk.vhdx", "vhdx", "", "VHD and VHDX"),
    ] {
        let disk = vm.add_scsi(&ScsiDisk::new(images.create(name, format, options)?)).await?;
        let error = chain(&disk.resize(32 << 20, Grow::Disk).await.expect_err(name));
        assert!(error.contains(why), "{error}");
        disk.release().await?;
    }
    let image = images.create("disk.qcow2", "qcow2", "")?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).read_only()).await?;
    let error = chain(&disk.resize(32 << 20, Grow::Disk).await.expect_err("read-only"));
    assert!(error.contains("read-only"), "{error}");
    disk.release().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image)).await?;
    for (bytes, grow) in [(1000, Grow::Disk), (0, Grow::Disk), (32 << 20, Grow::FileSystem)] {
        let error = disk.resize(bytes, grow).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    assert_eq!(attribute(&vm, &disk, "size").await?, (16 << 11).to_string());
    disk.resize(32 << 20, Grow::Disk).await?;
    assert_eq!(attribute(&vm, &disk, "size").await?, (32 << 11).to_string());
    disk.release().await?;
    vm.close().await
}

#[tokio::test]
async fn an_empty_disk_gets_a_file_system_and_no_other_does() -> TestResult {
    let images = Images::new()?;
    let vm = TestVm::builder("ensure").boot().await?;
    for (name, format, options) in [
        ("plain.img", "raw", ""),
        ("dynamic.vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("disk.qcow2", "qcow2", ""),
    ] {
        let image = images.create(name, format, options)?;
        let disk = ScsiDisk::new(&image).with_guest_path("/mnt").ensuring_file_system();
        let mounted = vm.add_scsi(&disk).await?;
        assert_eq!(sh(&vm, "ls -A /mnt; grep ' /mnt ' /proc/mounts | cut -d' ' -f3").await?, "lost+found\next4\n");
        sh(&vm, "echo kept > /mnt/kept").await?;
        mounted.release().await?;
        // It is there by now.
        let mounted = vm.add_scsi(&disk).await?;
        assert_eq!(sh(&vm, "cat /mnt/kept").await?, "kept\n");
        mounted.release().await?;
        if format == "raw" {
            tool("e2fsck", ["-fn"].map(OsStr::new).into_iter().chain([image.as_os_str()]))?;
        }
    }
    // A larger one, which takes little room on the host, and grows.
    let image = images.raw("large.img", 8 << 10)?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/mnt").ensuring_file_system()).await?;
    let blocks = File::open(&image)?.metadata()?.blocks();
    assert!(blocks * 512 < 16 << 20, "{} bytes: the zeros take room", blocks * 512);
    disk.resize(40 << 30, Grow::FileSystem).await?;
    let size: u64 = sh(&vm, "df -m /mnt | awk 'NR==2{print $2}'").await?.trim().parse()?;
    assert!(size > 36 << 10, "{size} MiB");
    disk.release().await?;
    tool("e2fsck", ["-fn"].map(OsStr::new).into_iter().chain([image.as_os_str()]))?;
    // Whatever else is there stays: at the beginning, at the end, a table of partitions, another file system.
    for at in [600, 1 << 20, (16 << 20) - 1] {
        let image = images.raw("taken.img", 16)?;
        OpenOptions::new().write(true).open(&image)?.write_all_at(b"x", at)?;
        let error = refused(&vm, &ScsiDisk::new(&image).with_guest_path("/mnt").ensuring_file_system()).await;
        assert!(error.contains("is not empty: at byte") && error.contains(&at.to_string()), "{error}");
        let content = std::fs::read(&image)?;
        assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 1, "nothing was written");
    }
    let parts = partitioned(&images, "parts.img", &images.filesystem("part", "ext4")?)?;
    let error = refused(&vm, &ScsiDisk::new(&parts).with_guest_path("/mnt").ensuring_file_system()).await;
    assert!(error.contains("is not empty"), "{error}");
    let xfs = images.filesystem("xfs.img", "xfs")?;
    let disk = vm.add_scsi(&ScsiDisk::new(&xfs).with_guest_path("/mnt").ensuring_file_system()).await?;
    assert_eq!(sh(&vm, "cat /mnt/hello").await?, "from xfs\n");
    disk.release().await?;
    // An empty partition of a disk.
    let disk = ScsiDisk::new(&parts).with_guest_path("/mnt").with_partition(1);
    let error = refused(&vm, &disk.clone().ensuring_file_system()).await;
    assert!(error.contains("make an ext4") && error.contains("from 16777216 to"), "{error}");
    vm.close().await
}

#[tokio::test]
async fn making_a_file_system_that_broke_off_is_gone_on_with() -> TestResult {
    let images = Images::new()?;
    let image = images.raw("begun.img", 64)?;
    // What a guest writes first: an id, a time, a size.
    let begun = [
        b"uvm: an ext4 is being made here\n",
        &[7; 16][..],
        &1_700_000_000_u64.to_le_bytes(),
        &(64_u64 << 20).to_le_bytes(),
    ];
    let write = |bytes: &[u8], at| OpenOptions::new().write(true).open(&image)?.write_all_at(bytes, at);
    write(&begun.concat(), 0)?;
    let vm = TestVm::builder("begun").boot().await?;
    let disk = ScsiDisk::new(&image).with_guest_path("/run/data").ensuring_file_system();
    write(b"x", 5000)?;
    let error = refused(&vm, &disk).await;
    assert!(error.contains("is not empty: at byte 5000"), "{error}");
    write(b"\0", 5000)?;
    let mounted = vm.add_scsi(&disk).await?;
    assert_eq!(sh(&vm, "ls -A /run/data").await?, "lost+found\n");
    mounted.release().await?;
    tool("e2fsck", ["-fn"].map(OsStr::new).into_iter().chain([image.as_os_str()]))?;
    vm.close().await
}

#[tokio::test]
async fn what_is_discarded_is_given_back_to_the_host() -> TestResult {
    let images = Images::new()?;
    let image = images.raw("data.img", 128)?;
    let vm = TestVm::builder("discard").boot().await?;
    let disk = vm.add_scsi(&ScsiDisk::new(&image).with_guest_path("/mnt").ensuring_file_system()).await?;
    let taken = || -> TestResult<u64> { Ok(File::open(&image)?.metadata()?.blocks() * 512) };
    let before = taken()?;
    sh(&vm, "head -c 50000000 /dev/urandom > /mnt/large; sync").await?;
    assert!(taken()? > before + 40_000_000, "{} bytes, then {}", before, taken()?);
    sh(&vm, "rm /mnt/large; sync; fstrim /mnt").await?;
    assert!(taken()? < before + 10_000_000, "{} bytes, then {}", before, taken()?);
    disk.release().await?;
    vm.close().await
}

/// A block device of the host with a file behind it. Dropping it detaches it.
struct Loop(String);

impl Loop {
    /// `None` where none can be had: without root, or without the kernel's module.
    fn new(image: &Path) -> TestResult<Option<Self>> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            eprintln!("not run: it takes root and loop devices");
            return Ok(None);
        }
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output()?;
        if !output.status.success() {
            return Err(format!("losetup: {}", text(&output.stderr)).into());
        }
        Ok(Some(Self(text(&output.stdout).trim().to_owned())))
    }

    /// How often its disk was told to keep what it has.
    fn flushes(&self) -> TestResult<u64> {
        let figures = std::fs::read_to_string(format!("/sys/class/block/{}/stat", self.0.trim_start_matches("/dev/")))?;
        Ok(figures.split_whitespace().nth(15).ok_or("no such figure: a kernel older than 5.5")?.parse()?)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // A test that failed may leave a VM that ends just now: it is detached then.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[tokio::test]
async fn what_a_guest_has_flushed_is_on_the_hosts_disk_and_a_block_device_grows() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let Some(device) = Loop::new(&image)? else { return Ok(()) };
    let vm = TestVm::builder("flush").boot().await?;
    let disk = vm.add_scsi_physical_disk(&device.0, "/mnt", false).await?;
    assert_eq!(sh(&vm, "cat /mnt/hello").await?, "from ext4\n");
    sh(&vm, "echo written > /mnt/written; sync").await?;
    let before = device.flushes()?;
    for _ in 0..3 {
        sh(&vm, "dd if=/dev/zero of=/mnt/written bs=4096 count=1 conv=fsync 2>/dev/null").await?;
    }
    assert!(device.flushes()? >= before + 3, "{before} times, then {}", device.flushes()?);
    // It has the size that it has on the host, and no other.
    let error = chain(&disk.resize(32 << 20, Grow::Disk).await.expect_err("it has not grown on the host"));
    assert!(error.contains("33554432 bytes large"), "{error}");
    OpenOptions::new().write(true).open(&image)?.set_len(32 << 20)?;
    tool("losetup", ["--set-capacity", &device.0].map(OsStr::new))?;
    disk.resize(32 << 20, Grow::FileSystem).await?;
    let size: u64 = sh(&vm, "df -m /mnt | awk 'NR==2{print $2}'").await?.trim().parse()?;
    assert!(size > 20, "{size} MiB");
    disk.release().await?;
    vm.close().await?;
    drop(device);
    tool("e2fsck", ["-fn"].map(OsStr::new).into_iter().chain([image.as_os_str()]))
}

#[tokio::test]
async fn a_block_device_that_the_host_has_mounted_is_not_written_by_a_guest() -> TestResult {
    let images = Images::new()?;
    let image = images.filesystem("data.img", "ext4")?;
    let Some(device) = Loop::new(&image)? else { return Ok(()) };
    let vm = TestVm::builder("claimed").boot().await?;
    let mounted = tempfile::tempdir()?;
    tool("mount", [OsStr::new(&device.0), mounted.path().as_os_str()])?;
    let refused = vm.add_scsi_physical_disk(&device.0, "/mnt", false).await.map(drop);
    tool("umount", [mounted.path().as_os_str()])?;
    let error = chain(&refused.expect_err("the host writes it"));
    let names = [device.0.as_str(), &format!("mounted at {}", mounted.path().display())];
    assert!(names.iter().all(|name| error.contains(name)), "{error}");
    let disk = vm.add_scsi_physical_disk(&device.0, "/mnt", false).await?;
    disk.release().await?;
    vm.close().await
}
