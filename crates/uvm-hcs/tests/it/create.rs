//! Creation documents against those recorded from the original.

use serde_json::{Value, from_str, json};
use uvm_hcs::WinPath;
use uvm_hcs::document::{WindowsImage, create_lcow, create_wcow};

use crate::cases::{self, Options};

const RECORDED: &str = include_str!("../data/create.json");

/// How many distinct documents were recorded, and in how many cases.
const DOCUMENTS: usize = 198;
const CASES: u64 = 376;

/// What cannot be said here, and why.
const LEFT_OUT: [(&str, &str); 4] = [
    ("lcow/create/option/ProcessorLimit=negative", "a limit is not negative"),
    ("lcow/create/option/StorageQoS=one-negative", "a limit is not negative"),
    ("lcow/create/option/StorageQoS=negative", "a limit is not negative"),
    ("lcow/create/refused/kernel-empty", "D13: a directory is no kernel"),
];

#[test]
fn documents_are_the_originals_but_for_numbered_defects() {
    let recorded = cases::read(RECORDED);
    let all = recorded["cases"].as_array().expect("cases");
    assert_eq!(all.len(), DOCUMENTS);
    assert_eq!(all.iter().map(|case| case["same"].as_u64().expect("a number")).sum::<u64>(), CASES);
    let mut compared = 0;
    for case in all {
        let name = case["name"].as_str().expect("a name");
        if LEFT_OUT.iter().any(|(left_out, _)| *left_out == name) {
            continue;
        }
        assert_eq!(document(case, &recorded["defaults"]), expected(case, &recorded["defaults"]), "{name}");
        compared += 1;
    }
    assert_eq!(compared, DOCUMENTS - LEFT_OUT.len());
}

fn document(case: &Value, defaults: &Value) -> Value {
    let options = Options::of(case, defaults);
    let document = if case["os"] == "lcow" {
        create_lcow(&options.lcow(), cases::build(case))
    } else {
        let spec = options.wcow();
        let scratch = WinPath::from_std(&spec.boot.scratch).expect("text");
        let image = WindowsImage {
            system_layer: WinPath::new(case["system_layer"].as_str().expect("a layer with a system")),
            scratch_disk: scratch.join(WindowsImage::SCRATCH_DISK),
        };
        create_wcow(&spec, &image, cases::build(case))
    };
    from_str(document.unwrap_or_else(|error| panic!("{}: {error}", case["name"])).as_str()).expect("JSON")
}

/// The recorded document with the defects that the case is marked with put right.
fn expected(case: &Value, defaults: &Value) -> Value {
    let options = Options::of(case, defaults);
    let mut document = case["document"].clone();
    let marks = case["defects"].as_array().map_or(&[][..], Vec::as_slice);
    for mark in marks {
        match mark.as_str().expect("a number") {
            "D1" => document["VirtualMachine"]["Devices"]["VirtualPMem"]["Devices"]["0"]["ImageFormat"] = json!("Vhdx"),
            "D3" => {
                let wanted = format!(" nr_cpus={} ", options.number::<u32>("ProcessorCount"));
                let count = &document["VirtualMachine"]["ComputeTopology"]["Processor"]["Count"];
                let given = format!(" nr_cpus={count} ");
                let line = kernel_line(&mut document);
                assert!(line.contains(&wanted), "{line}");
                *line = line.replace(&wanted, &given);
            }
            "D4" => {
                let line = kernel_line(&mut document);
                assert!(line.contains(" -- sh -c \"-e 1 "), "{line}");
                *line = line.replace(" -- sh -c \"-e 1 ", " -- -e 1 sh -c \"");
            }
            "D16" => document["VirtualMachine"]["ComputeTopology"]["Processor"]["Count"] = json!(2),
            "D17" if options.get("MemorySizeInMB") == 0 => {
                document["VirtualMachine"]["ComputeTopology"]["Memory"]["SizeInMB"] = json!(1024);
            }
            "D29" if cases::build(case).0 >= 19043 => {
                let group = json!({"Id": options.text("CPUGroupID")});
                document["VirtualMachine"]["ComputeTopology"]["Processor"]["CpuGroup"] = group;
            }
            // These do not show in this document: 1 MiB becomes 2, older builds join the group later, options are
            // refused before.
            "D17" | "D19" | "D29" => {}
            other => panic!("{}: what becomes of {other}?", case["name"]),
        }
    }
    document
}

fn kernel_line(document: &mut Value) -> &mut String {
    let chipset = &mut document["VirtualMachine"]["Chipset"];
    let line = if chipset.get("Uefi").is_some() {
        &mut chipset["Uefi"]["BootThis"]["OptionalData"]
    } else {
        &mut chipset["LinuxKernelDirect"]["KernelCmdLine"]
    };
    let Value::String(line) = line else { panic!("a kernel has a command line") };
    line
}
