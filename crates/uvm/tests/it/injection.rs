//! Every call that an addition or a removal makes of the host or of the guest fails once, on each host in memory. Afterwards
//! all is as it was before, or what is left can be released; and the host was sent just what undoes what it had done.

use uvm_testkit::memory::{Fault, HostCall, KINDS, Kind};

use crate::scene::{Asked, Scene, THINGS, Thing, words};
use crate::support::{TestResult, chain, settle};

/// What an addition and a removal ask when nothing goes wrong.
struct Normal {
    added: (Vec<HostCall>, Vec<String>),
    removed: (Vec<HostCall>, Vec<String>),
}

impl Normal {
    async fn of(kind: Kind, thing: Thing) -> TestResult<Self> {
        let mut scene = Scene::new(kind).await?;
        let handle = scene.add(thing).await?;
        let added = (scene.calls(), scene.guest.words());
        handle.release().await?;
        let removed = (scene.calls(), scene.guest.words());
        drop(handle);
        scene.close().await?;
        Ok(Self { added, removed })
    }

    /// Adds the thing and removes it, which asks what it always asks, but for the number that tells shares apart.
    async fn holds(&self, scene: &mut Scene, thing: Thing) -> TestResult {
        let handle = scene.add(thing).await.map_err(|e| format!("{thing:?}: {}", chain(&e)))?;
        same(thing, &scene.asked(), (&self.added.0, &self.added.1));
        handle.release().await?;
        same(thing, &scene.asked(), (&self.removed.0, &self.removed.1));
        Ok(())
    }

    /// What undoes the first `count` of the host's calls of an addition: first the device, then access to its file.
    fn undone(&self, count: usize) -> Vec<String> {
        self.added.0[..count].iter().rev().filter_map(undoes).collect()
    }
}

/// The call that undoes one of an addition, if it has to be. A device is taken back by all that it was added with.
fn undoes(call: &HostCall) -> Option<String> {
    let words = &call.words;
    if let Some(device) = words.strip_prefix("add ") {
        return Some(format!("undo {device}"));
    }
    if let Some(path) = words.strip_prefix("grant Individual ") {
        return Some(format!("revoke {path}"));
    }
    if words.starts_with("grant vm ") {
        return Some(words.replacen("grant vm ", "grant revoke vm ", 1));
    }
    let is_added = words.starts_with("hcs modify_system ");
    is_added.then(|| words.replacen(r#""RequestType":"Add""#, r#""RequestType":"Remove""#, 1))
}

/// Whether the call adds a device: if it is not answered, it may have done so.
fn adds(call: &HostCall) -> bool {
    call.words.starts_with("add ") || call.words.starts_with("hcs modify_system ")
}

fn same(thing: Thing, (host, guest): &Asked, (host_before, guest_before): (&[HostCall], &[String])) {
    let numberless = |words: &[String]| words.iter().map(|words| numberless(words)).collect::<Vec<_>>();
    assert_eq!(numberless(host), numberless(&words(host_before)), "{thing:?}");
    assert_eq!(numberless(guest), numberless(guest_before), "{thing:?}");
}

fn numberless(words: &str) -> String {
    words.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

#[tokio::test(start_paused = true)]
async fn an_addition_that_fails_at_any_call_of_the_host_is_undone() -> TestResult {
    for kind in KINDS {
        let mut cases = 0;
        for thing in THINGS {
            let normal = Normal::of(kind, thing).await?;
            let calls = &normal.added.0;
            for (at, fault) in (0..calls.len()).flat_map(|at| [(at, Fault::Fail), (at, Fault::Hang)]) {
                let mut scene = Scene::new(kind).await?;
                scene.plant(calls, at, fault);
                assert!(scene.add(thing).await.is_err(), "{thing:?} {at} {fault:?}");
                settle().await;
                let mut expected = words(&calls[..=at]);
                // What was not answered may have been done.
                let is_unclear = fault == Fault::Hang && adds(&calls[at]);
                expected.extend(normal.undone(if is_unclear { at + 1 } else { at }));
                let (host, guest) = scene.asked();
                assert_eq!(host, expected, "{thing:?} {at} {fault:?}");
                assert_eq!(guest, Vec::<String>::new(), "{thing:?} {at}: the host comes first");
                normal.holds(&mut scene, thing).await?;
                scene.close().await?;
                cases += 1;
            }
        }
        assert_eq!(cases, count(kind).host_calls_of_additions * 2, "{kind:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_addition_that_the_guest_refuses_or_does_not_answer_is_undone() -> TestResult {
    for kind in KINDS {
        let mut cases = 0;
        for thing in THINGS {
            let normal = Normal::of(kind, thing).await?;
            let guest = 0..normal.added.1.len();
            for (at, silent) in guest.flat_map(|at| [(at, false), (at, true)]) {
                let mut scene = Scene::new(kind).await?;
                if silent {
                    scene.guest.told().silent = true;
                } else {
                    scene.guest.refuse(at);
                }
                assert!(scene.add(thing).await.is_err(), "{thing:?} {silent}");
                scene.guest.told().silent = false;
                let mut expected = words(&normal.added.0);
                expected.extend(normal.undone(normal.added.0.len()));
                let (host, guest) = scene.asked();
                assert_eq!(host, expected, "{thing:?} {silent}");
                assert_eq!(guest[..=at], normal.added.1[..=at], "{thing:?}");
                // One that says nothing may have done it: it is told to take it back, where it can.
                let taken_back = usize::from(silent && !normal.removed.1.is_empty());
                assert_eq!(guest.len(), at + 1 + taken_back, "{thing:?} {guest:?}");
                normal.holds(&mut scene, thing).await?;
                scene.close().await?;
                cases += 1;
            }
        }
        assert_eq!(cases, GUEST_CALLS_OF_ADDITIONS * 2, "{kind:?}");
    }
    Ok(())
}

/// What goes wrong with a removal.
#[derive(Clone, Copy, Debug)]
enum Failing {
    Host(usize, Fault),
    Guest(usize),
    /// The guest does not answer this call; it may have let go.
    Silent(usize),
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_at_any_call_can_be_made_again() -> TestResult {
    for kind in KINDS {
        let mut cases = 0;
        for thing in THINGS {
            let normal = Normal::of(kind, thing).await?;
            let host = 0..normal.removed.0.len();
            let host = host.flat_map(|at| [Failing::Host(at, Fault::Fail), Failing::Host(at, Fault::Hang)]);
            let guest = 0..normal.removed.1.len();
            for failing in host.chain(guest.flat_map(|at| [Failing::Guest(at), Failing::Silent(at)])) {
                removal_fails(kind, thing, &normal, failing).await?;
                cases += 1;
            }
        }
        assert_eq!(cases, count(kind).host_calls_of_removals * 2 + GUEST_CALLS_OF_REMOVALS * 2, "{kind:?}");
    }
    Ok(())
}

async fn removal_fails(kind: Kind, thing: Thing, normal: &Normal, failing: Failing) -> TestResult {
    let calls = &normal.removed.0;
    let removed = (calls.as_slice(), normal.removed.1.as_slice());
    let mut scene = Scene::new(kind).await?;
    let handle = scene.add(thing).await?;
    // What the addition asked.
    drop(scene.asked());
    match failing {
        Failing::Host(at, fault) => scene.plant(calls, at, fault),
        Failing::Guest(at) => scene.guest.refuse(at),
        Failing::Silent(_) => scene.guest.told().silent = true,
    }
    let released = handle.release().await;
    scene.guest.told().silent = false;
    match failing {
        // Access that cannot be taken back is told to the log, and keeps nothing.
        Failing::Host(at, _) if calls[at].words.contains("revoke") => {
            released?;
            same(thing, &scene.asked(), removed);
        }
        Failing::Host(at, _) => {
            assert!(released.is_err(), "{thing:?} {failing:?}");
            let asked = scene.asked();
            handle.release().await.map_err(|e| format!("{thing:?}: {}", chain(&e)))?;
            let again = scene.asked();
            assert_eq!(asked.0, words(&calls[..=at]), "{thing:?}");
            // What the guest has let go of is not asked of it again.
            same(thing, &(again.0, [asked.1, again.1].concat()), (&calls[at..], removed.1));
        }
        Failing::Guest(at) | Failing::Silent(at) => {
            assert!(released.is_err(), "{thing:?} {failing:?}");
            let asked = scene.asked();
            assert_eq!(asked, (Vec::new(), removed.1[..=at].to_vec()), "{thing:?}: the guest comes first");
            handle.release().await.map_err(|e| format!("{thing:?}: {}", chain(&e)))?;
            same(thing, &scene.asked(), removed);
        }
    }
    assert!(handle.release().await.is_err(), "{thing:?}: it is gone");
    normal.holds(&mut scene, thing).await?;
    drop(handle);
    scene.close().await
}

/// How many calls there are to fail, over all things: a path that is not taken any more shows here.
struct Counts {
    host_calls_of_additions: usize,
    host_calls_of_removals: usize,
}

fn count(kind: Kind) -> Counts {
    // The fake host writes down that it looks at a file, three times.
    let host_calls_of_additions = match kind {
        Kind::Fake => 12,
        Kind::Recording => 9,
    };
    Counts { host_calls_of_additions, host_calls_of_removals: 9 }
}

const GUEST_CALLS_OF_ADDITIONS: usize = 7;
const GUEST_CALLS_OF_REMOVALS: usize = 7;

/// The documents that the Host Compute Service is sent of each thing: where it is, with what it is added (and taken back,
/// if the addition fails), and with what it is removed. Access to a file is no document.
fn documents(thing: Thing) -> Option<(&'static str, &'static str, &'static str)> {
    const FILE: &str = r#","Settings":{"Path":"C:\\files\\file","Type":"VirtualDisk"}"#;
    const REMOVED_SHARE: &str = r#","Settings":{"AccessName":"0","Name":"0","Port":564}"#;
    Some(match thing {
        Thing::MountedDisk | Thing::BareDisk => ("Scsi/0/Attachments/0", FILE, ""),
        Thing::Layer => {
            let layer = r#","Settings":{"HostPath":"C:\\files\\file","ImageFormat":"Vhd1","ReadOnly":true}"#;
            ("VirtualPMem/Devices/0", layer, "")
        }
        Thing::Plan9 => {
            let share = r#","Settings":{"AccessName":"0","Flags":4,"Name":"0","Path":"C:\\files","Port":564}"#;
            ("Plan9/Shares", share, REMOVED_SHARE)
        }
        Thing::SharedDirectory => {
            let share = r#","Settings":{"AccessName":"0","Flags":5,"Name":"0","Path":"C:\\files","Port":564}"#;
            ("Plan9/Shares", share, REMOVED_SHARE)
        }
        Thing::SharedFile => {
            let share = r#","Settings":{"AccessName":"0","AllowedFiles":["file"],"Flags":132,"Name":"0","Path":"C:\\files\\","Port":564}"#;
            ("Plan9/Shares", share, REMOVED_SHARE)
        }
        Thing::Pipe => (r"MappedPipes/\\\\.\\pipe\\file", "", ""),
        Thing::Layers => return None,
        Thing::Device => {
            let device = r#","Settings":{"Functions":[{"DeviceInstancePath":"PCIP\\file"}]}"#;
            ("VirtualPci/00000000-0000-4000-8000-000000000001", device, "")
        }
    })
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_is_sent_as_it_was_added() -> TestResult {
    for thing in THINGS {
        let normal = Normal::of(Kind::Recording, thing).await?;
        let added = words(&normal.added.0);
        let [added, undone, removed] = [added, normal.undone(normal.added.0.len()), words(&normal.removed.0)]
            .map(|calls| calls.into_iter().filter(|call| call.starts_with("hcs ")).collect::<Vec<_>>());
        let document = |request: &str, path: &str, settings: &str| {
            let path = format!(r#""ResourcePath":"VirtualMachine/Devices/{path}""#);
            format!(r#"hcs modify_system scene {{{path},"RequestType":"{request}"{settings}}}"#)
        };
        match documents(thing) {
            Some((path, settings, name)) => {
                assert_eq!(added, [document("Add", path, settings)], "{thing:?}");
                assert_eq!(undone, [document("Remove", path, settings)], "{thing:?}");
                assert_eq!(removed, [document("Remove", path, name)], "{thing:?}");
            }
            None => assert!(added.is_empty() && undone.is_empty() && removed.is_empty(), "{thing:?}"),
        }
    }
    Ok(())
}
