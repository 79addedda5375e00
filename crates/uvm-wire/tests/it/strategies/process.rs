//! Arbitrary requests about processes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use uvm_wire::execute::{
    ConsoleSize, ExecuteProcess, ExecuteProcessReply, ExecuteSettings, HvSocketStdio, ProcessParameters, VsockStdio,
};
use uvm_wire::process::{
    ResizeConsole, Signal, SignalOptions, SignalProcess, WaitForProcess, WaitForProcessReply, WindowsSignal,
};

use super::{guid, other_word, raw, text};

fn port() -> impl Strategy<Value = Option<NonZeroU32>> {
    any::<u32>().prop_map(NonZeroU32::new)
}

prop_compose! {
    fn parameters()(
        [application_name, command_line, user, working_directory] in [text(), text(), text(), text()],
        command_args in vec(text(), 0..4),
        environment in btree_map(text(), text(), 0..4).prop_map(BTreeMap::from_iter),
        flags in any::<[bool; 8]>(),
        size in option::of(any::<(u16, u16)>()),
        oci_process in option::of(raw()),
    ) -> ProcessParameters {
        let [a, b, c, d, e, f, g, h] = flags;
        ProcessParameters {
            application_name,
            command_line,
            command_args,
            user,
            working_directory,
            environment,
            restricted_token: a,
            emulate_console: b,
            create_stdin_pipe: c,
            create_stdout_pipe: d,
            create_stderr_pipe: e,
            console_size: size.map(|(height, width)| ConsoleSize { height, width }),
            use_existing_login: f,
            use_legacy_console: g,
            create_in_utility_vm: h,
            oci_process,
        }
    }
}

prop_compose! {
    pub(crate) fn execute()(
        parameters in parameters(),
        vsock_stdio in option::of((port(), port(), port())),
        hv_socket_stdio in option::of([option::of(guid()), option::of(guid()), option::of(guid())]),
    ) -> ExecuteProcess {
        ExecuteProcess {
            settings: ExecuteSettings {
                parameters,
                vsock_stdio: vsock_stdio.map(|(stdin, stdout, stderr)| VsockStdio { stdin, stdout, stderr }),
                hv_socket_stdio: hv_socket_stdio.map(|[stdin, stdout, stderr]| HvSocketStdio { stdin, stdout, stderr }),
            },
        }
    }
}

pub(crate) fn execute_reply() -> impl Strategy<Value = ExecuteProcessReply> {
    any::<u32>().prop_map(|process_id| ExecuteProcessReply { process_id })
}

pub(crate) fn wait() -> impl Strategy<Value = WaitForProcess> {
    any::<(u32, u32)>().prop_map(|(process_id, timeout_ms)| WaitForProcess { process_id, timeout_ms })
}

prop_compose! {
    pub(crate) fn wait_reply()(exit_code in any::<u32>(), signal in option::of(any::<u32>())) -> WaitForProcessReply {
        WaitForProcessReply { exit_code, signal }
    }
}

fn windows_signal() -> impl Strategy<Value = WindowsSignal> {
    let known = vec!["CtrlC", "CtrlBreak", "CtrlClose", "CtrlLogOff", "CtrlShutdown"];
    prop_oneof![proptest::sample::select(known).prop_map(str::to_owned), other_word()]
        .prop_map(|word| WindowsSignal::from(word.as_str()))
}

prop_compose! {
    pub(crate) fn signal()(
        process_id in any::<u32>(),
        options in option::of(prop_oneof![
            Just(Signal::Unspecified),
            any::<i32>().prop_filter("0 is none", |number| *number != 0).prop_map(Signal::Linux),
            windows_signal().prop_map(Signal::Windows),
        ]),
    ) -> SignalProcess {
        SignalProcess { process_id, options: options.map(|signal| SignalOptions { signal }) }
    }
}

pub(crate) fn resize() -> impl Strategy<Value = ResizeConsole> {
    any::<(u32, u16, u16)>().prop_map(|(process_id, height, width)| ResizeConsole { process_id, height, width })
}
