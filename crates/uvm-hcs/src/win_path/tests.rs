use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> WinPath {
    WinPath::new(text)
}

#[test]
fn clean_takes_the_shortest_spelling() {
    for (given, clean) in [
        ("", "."),
        (".", "."),
        ("a", "a"),
        ("a/b", r"a\b"),
        (r"a\.\b\\c\", r"a\b\c"),
        (r"a\..\..\b", r"..\b"),
        (r"\a\..\..\b", r"\b"),
        (r"\\", r"\"),
        (r"\\\a", r"\a"),
        ("C:", "C:."),
        (r"C:\", r"C:\"),
        ("c:/x/", r"c:\x"),
        (r"C:\..\x", r"C:\x"),
        (r"C:..\x", r"C:..\x"),
        ("C:x", "C:x"),
        (r"C:\oracle\boot\\vmlinux", r"C:\oracle\boot\vmlinux"),
        (r".\C:\x", r".\C:\x"),
        (r"a\..\C:\x", r".\C:\x"),
        (r"\\server\share", r"\\server\share\"),
        (r"//server//share/a/../../b", r"\\server\share\b"),
        (r"\\server", r"\\server\"),
        (r"\\.\pipe\vm", r"\\.\pipe\vm"),
        (r"\\.\PHYSICALDRIVE3", r"\\.\PHYSICALDRIVE3"),
        (r"\\.\", r"\\.\"),
        (r"//./pipe/a/../b", r"\\.\pipe\b"),
        (r"\\?\C:\a\..\b/c", r"\\?\C:\a\..\b/c"),
    ] {
        assert_eq!(path(given).clean().as_str(), clean, "{given}");
    }
}

#[test]
fn a_prefix_is_a_drive_a_share_or_a_device() {
    for (given, prefix, is_absolute) in [
        ("a", Prefix::None, false),
        (r"\a", Prefix::None, false),
        ("C:a", Prefix::Drive('C'), false),
        ("C:/a", Prefix::Drive('C'), true),
        ("1:/a", Prefix::None, false),
        (r"\\s\x\a", Prefix::Share { server: "s", share: "x" }, true),
        (r"\\s\\x", Prefix::Share { server: "s", share: "x" }, true),
        (r"\\s\", Prefix::Share { server: "s", share: "" }, true),
        (r"\\.\pipe\p", Prefix::Device("pipe"), true),
        ("//?/C:/x", Prefix::Device("C:"), true),
        (r"\\?\C:\x", Prefix::Verbatim("C:"), true),
        (r"\\?\UNC\s\x\a", Prefix::Verbatim(r"UNC\s\x"), true),
        (r"\\?\Volume{1}\a", Prefix::Verbatim("Volume{1}"), true),
        (r"\\.x\y", Prefix::Share { server: ".x", share: "y" }, true),
    ] {
        assert_eq!(path(given).prefix(), prefix, "{given}");
        assert_eq!(path(given).is_absolute(), is_absolute, "{given}");
    }
}

#[test]
fn join_stays_beneath_but_for_another_drive_or_share() {
    for (base, name, joined) in [
        (r"C:\boot", "kernel", r"C:\boot\kernel"),
        (r"C:\boot\", "kernel", r"C:\boot\kernel"),
        (r"C:\boot", "", r"C:\boot"),
        (r"C:\boot", r"\kernel", r"C:\boot\kernel"),
        (r"C:\boot", r"..\kernel", r"C:\kernel"),
        (r"C:\boot", r"D:\kernel", r"D:\kernel"),
        (r"C:\boot", r"\\s\x\kernel", r"\\s\x\kernel"),
        ("C:", "kernel", r"C:\kernel"),
        ("", "kernel", "kernel"),
        (r"\\s\x", "kernel", r"\\s\x\kernel"),
        (r"\\?\C:\boot", "a/../b", r"\\?\C:\boot\b"),
    ] {
        assert_eq!(path(base).join(name).as_str(), joined, "{base} + {name}");
    }
}

#[test]
fn parent_name_and_extension() {
    for (given, parent, name, extension) in [
        (r"C:\a\b.vhdx", Some(r"C:\a"), Some("b.vhdx"), Some("vhdx")),
        (r"C:\a\", Some(r"C:\"), Some("a"), None),
        (r"C:\", None, None, None),
        ("C:a", Some("C:."), Some("a"), None),
        ("a.b.c", Some("."), Some("a.b.c"), Some("c")),
        (".hidden", Some("."), Some(".hidden"), None),
        ("dot.", Some("."), Some("dot."), Some("")),
        (r"..\..", None, None, None),
        (r"\\s\x\a", Some(r"\\s\x\"), Some("a"), None),
        (r"\\s\x", None, None, None),
        (r"\\.\pipe\p", Some(r"\\.\pipe\"), Some("p"), None),
        (r"\\?\C:\a\b.vhd", Some(r"\\?\C:\a"), Some("b.vhd"), Some("vhd")),
        (r"\\?\UNC\s\x\a", Some(r"\\?\UNC\s\x\"), Some("a"), None),
    ] {
        assert_eq!(path(given).parent().as_ref().map(WinPath::as_str), parent, "{given}");
        assert_eq!((path(given).file_name(), path(given).extension()), (name, extension), "{given}");
    }
    assert!(path(r"C:\ROOTFS.VHDX").has_extension("vhdx") && !path(r"C:\vhdx").has_extension("vhdx"));
}

#[test]
fn d42_equality_ignores_case_and_spelling() {
    let same = [r"C:\Disks\d1.vhdx", "c:/disks/D1.VHDX", r"C:\x\..\disks\.\d1.vhdx", r"\\?\c:\disks\d1.vhdx"];
    let set: HashSet<WinPath> = same.into_iter().map(path).collect();
    assert_eq!(set.len(), 1);
    assert_eq!(path(r"\\?\UNC\server\share\x"), path(r"\\SERVER\share\x"));
    for (a, b) in [
        (r"C:\a", r"D:\a"),
        (r"C:\a", r"\a"),
        (r"C:a", r"C:\a"),
        (r"\\s\x", r"\\s\y"),
        (r"\\.\C:", r"C:\"),
        (r"\\?\Volume{1}\a", r"\\?\Volume{2}\a"),
        ("straße", "strasse"),
    ] {
        assert_ne!(path(a), path(b), "{a} {b}");
    }
}

#[test]
fn what_is_beneath_a_root_keeps_its_case() {
    for (given, root, below) in [
        (r"C:\Boot\Sub\Kernel", r"c:\boot\", Some(r"Sub\Kernel")),
        (r"C:\boot", r"C:\boot", None),
        (r"C:\booty\k", r"C:\boot", None),
        (r"D:\boot\k", r"C:\boot", None),
        (r"C:\boot\..\k", r"C:\boot", None),
        (r"..\..\k", r"..", None),
        (r"\\s\x\k", r"\\S\x", Some("k")),
    ] {
        assert_eq!(path(given).beneath(&path(root)).as_deref(), below, "{given} beneath {root}");
    }
}

#[test]
fn a_local_pipe_is_on_this_host() {
    for (given, is_pipe) in [
        (r"\\.\pipe\vm", true),
        (r"\\.\PIPE\vm\more", true),
        ("//./pipe/vm", true),
        (r"\\.\pipe\", false),
        (r"\\.\pipe", false),
        (r"\\server\pipe\vm", false),
        (r"\\.\pipeline\vm", false),
        (r"C:\pipe\vm", false),
    ] {
        assert_eq!(path(given).is_local_pipe(), is_pipe, "{given}");
    }
}

/// Texts made of what means something in a path.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\\"),
        Just("/"),
        Just("."),
        Just(".."),
        Just("C:"),
        Just("?"),
        Just("a"),
        Just("B"),
        Just("ß"),
        Just(" "),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn clean_is_stable_and_equal(text in texts()) {
        let given = path(&text);
        let clean = given.clean();
        let again = clean.clean();
        prop_assert_eq!(again.as_str(), clean.as_str());
        prop_assert_eq!(&clean, &given);
        prop_assert_eq!(clean.is_absolute(), given.is_absolute());
        prop_assert_eq!(path(&text.to_uppercase().replace("SS", "ß")), given);
    }

    #[test]
    fn a_plain_name_joined_is_the_name_and_its_parent_is_the_base(text in texts(), name in "[a-z]{1,8}") {
        let base = path(&text);
        prop_assume!(!text.is_empty());
        let joined = base.join(&name);
        prop_assert_eq!(joined.file_name().or(Some(&name)), Some(name.as_str()));
        if let (Prefix::Drive(_), true) | (Prefix::Share { share: "a", .. }, _) = (base.prefix(), base.is_absolute()) {
            prop_assert_eq!(joined.parent(), Some(base.clean()));
            prop_assert_eq!(joined.beneath(&base), Some(name));
        }
    }
}
