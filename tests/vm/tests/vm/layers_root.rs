//! Layers that are the root of a command.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use uvm_testkit::TestResult;

use crate::cli::Run;
use crate::images::{Images, tool};
use crate::process::text;

#[tokio::test]
async fn a_command_has_the_layers_for_its_root() -> TestResult {
    let images = Images::new()?;
    let (base, top) = (images.path("base.img"), images.filesystem("top.img", "erofs")?);
    // A root with a shell.
    let content = images.path("base");
    std::fs::create_dir_all(content.join("bin"))?;
    let busybox = Run::new(&[], &["cat", "/bin/busybox"])?;
    let busybox = tokio::task::spawn_blocking(move || busybox.output(b"")).await??;
    std::fs::write(content.join("bin/busybox"), &busybox.stdout)?;
    std::fs::set_permissions(content.join("bin/busybox"), std::fs::Permissions::from_mode(0o755))?;
    for name in ["sh", "cat", "ls", "rm", "pwd"] {
        std::os::unix::fs::symlink("busybox", content.join("bin").join(name))?;
    }
    std::fs::write(content.join("hello"), "from base\n")?;
    // In the guest's own root it leads to other files than in the command's.
    std::os::unix::fs::symlink("/bin", content.join("away"))?;
    images.raw("base.img", 16)?;
    let word = OsStr::new;
    tool("mkfs.ext4", [word("-q"), word("-b"), word("4096"), word("-d"), content.as_os_str(), base.as_os_str()])?;
    let before = (std::fs::read(&base)?, std::fs::read(&top)?);
    let shared = format!("{}:/work:ro", content.display());
    let data = images.filesystem("data.img", "ext4")?;
    let data = format!("{}:/data:ro", data.display());
    let run = async |layers: &[&Path], flags: &[&str], command: &[&str]| {
        let layers = layers.iter().flat_map(|layer| ["--layer", layer.to_str().unwrap_or("?")]);
        let flags: Vec<_> = layers.chain(flags.iter().copied()).collect();
        let run = Run::new(&flags, command)?;
        tokio::task::spawn_blocking(move || run.output(b"")).await?
    };
    let script = "cat /hello; echo more > /hello && rm /bin/rm && cat /hello; ls -d /lost+found /bin/* /proc/1 /dev/null; exit 7";
    let output = run(&[&base, &top], &[], &["sh", "-c", script]).await?;
    let expected =
        "from erofs\nmore\n/bin/busybox\n/bin/cat\n/bin/ls\n/bin/pwd\n/bin/sh\n/dev/null\n/lost+found\n/proc/1\n";
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(7), expected), "{}", text(&output.stderr));
    // The other order; and what else there is, where it is said to be.
    let file = format!("{}:/etc/new/hello", content.join("hello").display());
    let script = "pwd; cat /hello hello /data/hello /etc/new/hello";
    let output = run(
        &[&top, &base],
        &["--share", &shared, "--share", &file, "--disk", &data, "-w", "/work"],
        &["sh", "-c", script],
    )
    .await?;
    let expected = "/work\nfrom base\nfrom base\nfrom ext4\nfrom base\n";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    assert!((std::fs::read(&base)?, std::fs::read(&top)?) == before, "an image was written");

    let socket = images.path("socket");
    let _listener = UnixListener::bind(&socket)?;
    let (file, directory) = (content.join("hello").display().to_string(), content.display().to_string());
    let (disk, socket) = (images.path("data.img").display().to_string(), socket.display().to_string());
    for (option, path, at) in [
        ("--share", &file, "/away/sh"),
        ("--share", &file, "/away/new/file"),
        ("--share", &directory, "/away"),
        ("--share", &directory, "/away/new"),
        ("--disk", &disk, "/away/new"),
        ("--socket", &socket, "/away/new/socket"),
    ] {
        let output = run(&[&base], &[option, &format!("{path}:{at}")], &["true"]).await?;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(&format!("{at} in the guest")) && said.contains("out of the command's root"), "{said}");
    }

    let nothing = images.raw("nothing.img", 2)?;
    for (layer, why) in [(images.path("none.img"), "No such file"), (nothing, "holds no file system")] {
        let output = run(&[&base, &layer], &[], &["true"]).await?;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(why) && said.contains(layer.to_str().unwrap_or("?")), "{said}");
    }
    for (flags, command, code, why) in [
        (&[][..], &["no-such-program"][..], 127, "cannot run \"no-such-program\": No such file"),
        (&[], &["/hello"], 126, "cannot run \"/hello\": Permission denied"),
        (&["-w", "/none"], &["sh"], 125, "working directory /none: No such file"),
    ] {
        let output = run(&[&base], flags, command).await?;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    }
    Ok(())
}
