//! Virtual sockets in the midst of which something is killed, stopped or cut: 200 streams carry bytes both ways.
//!
//! What came is a prefix of what was sent, checked byte by byte; what the guest's kernel took of a program that was killed
//! comes to the last byte; nothing hangs, and nothing is left.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use uvm::{ExitStatus, Process, ProcessExit, ProcessSpec, UtilityVm};
use uvm_test_guest::record::{self, Record, Stage};
use uvm_testkit::{TestResult, TestVm};

use crate::campaign::{self, Random};
use crate::exchange::{End, Exchange, Outcome, Plan, assert_agree, assert_whole, within};
use crate::qemu;
use crate::sockets::{GUEST, vm};

const STREAMS: u32 = 200;
const PORT: u32 = 5000;
const RECORD: &str = "/tmp/record";
/// Of both directions: more than is waited for before something is cut.
const ENOUGH: u64 = 1 << 40;
/// More than windows and buffers hold, so that it is not over when something is cut.
const BOUNDED: u64 = 50 << 20;

/// A plan that does not end by itself, and one that does.
fn endless(random: &mut Random) -> Plan {
    Plan { seed: random.below(u64::MAX), streams: STREAMS, up: ENOUGH, down: ENOUGH }
}

fn bounded(random: &mut Random) -> Plan {
    Plan { seed: random.below(u64::MAX), streams: STREAMS, up: BOUNDED, down: BOUNDED }
}

/// The moment of a cut: bytes that have gone each way.
fn moment(random: &mut Random) -> u64 {
    (2 << 20) + random.below(8 << 20)
}

/// Starts the guest's end, and takes all streams at this one.
async fn begin(vm: &UtilityVm, what: &str, plan: Plan) -> TestResult<(Exchange, Process)> {
    let mut listener = vm.listen(PORT)?;
    let [seed, streams, up, down] = plan.arguments();
    let command = [GUEST, what, &PORT.to_string(), &seed, &streams, &up, &down, RECORD].map(str::to_owned);
    let process = vm.create_process(&ProcessSpec::new(command)).await?;
    let mut exchange = Exchange::new(plan);
    let accept = async {
        for _ in 0..plan.streams {
            exchange.take(listener.accept().await?);
        }
        TestResult::Ok(())
    };
    let exit = tokio::select! {
        accepted = within(accept) => {
            accepted??;
            None
        }
        exit = process.wait() => Some(exit?),
    };
    if exit.is_some() {
        let output = process.output().await?;
        return Err(format!("{}: {}", output.exit, String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok((exchange, process))
}

async fn records(vm: &UtilityVm) -> TestResult<Vec<Record>> {
    let output = vm.create_process(&ProcessSpec::new(["cat", RECORD])).await?.output().await?;
    Ok(record::decode(&output.stdout).ok_or("no records")?)
}

/// A small exchange to its end: the device is as good as new.
async fn still_works(vm: &UtilityVm, random: &mut Random) -> TestResult {
    let plan = Plan { seed: random.below(u64::MAX), streams: 8, up: 1 << 20, down: 1 << 20 };
    whole(vm, begin(vm, "exchange", plan).await?).await
}

/// Both ends came to the end of everything.
async fn whole(vm: &UtilityVm, (exchange, process): (Exchange, Process)) -> TestResult {
    let plan = exchange.plan;
    let outcomes = exchange.ended().await?;
    assert_whole(&plan, &outcomes);
    let output = within(process.output()).await??;
    assert_eq!(output.exit, ProcessExit::Code(0), "{}", String::from_utf8_lossy(&output.stderr));
    let records = records(vm).await?;
    assert_agree(&plan, &outcomes, &records);
    assert!(records.iter().all(|record| [record.up, record.down].iter().all(|half| half.stage == Stage::Ended)));
    Ok(())
}

/// Runs a case as often as the campaign says, each time in the same VM.
fn rounds(name: &str) -> (Random, u32) {
    (Random::seeded(name), campaign::rounds(1, 10))
}

#[tokio::test]
async fn a_killed_program_loses_nothing_that_its_kernel_took() -> TestResult {
    let (mut random, rounds) = rounds("cut-kill");
    let vm = vm("cut-kill").await?;
    for _ in 0..rounds {
        let (exchange, process) = begin(&vm, "exchange", endless(&mut random)).await?;
        let plan = exchange.plan;
        within(exchange.progress.reaches(moment(&mut random))).await?;
        process.kill().await?;
        assert_eq!(within(process.wait()).await??, ProcessExit::Signal(Some(9)));
        let outcomes = exchange.ended().await?;
        // The kernel closes the sockets of the dead in both directions, after what it had taken.
        assert!(outcomes.iter().all(|outcome| outcome.read_end == End::Whole && outcome.write_end != End::Whole));
        let records = records(&vm).await?;
        assert!(records.iter().all(|record| record.up.stage == Stage::Going));
        assert_agree(&plan, &outcomes, &records);
    }
    still_works(&vm, &mut random).await?;
    vm.close().await
}

#[tokio::test]
async fn a_stopped_program_holds_up_nobody_and_goes_on_where_it_was() -> TestResult {
    let (mut random, rounds) = rounds("cut-stop");
    let vm = vm("cut-stop").await?;
    for _ in 0..rounds {
        let stopped = begin(&vm, "exchange", bounded(&mut random)).await?;
        within(stopped.0.progress.reaches(2 << 20)).await?;
        stopped.1.signal(Signal::STOP.as_raw()).await?;
        // 200 streams are stalled in both directions, as far as windows and buffers go; eight others are not.
        let plan = Plan { seed: random.below(u64::MAX), streams: 8, up: 2 << 20, down: 2 << 20 };
        let mut listener = vm.listen(PORT + 1)?;
        let [seed, streams, up, down] = plan.arguments();
        let command = [GUEST, "exchange", &(PORT + 1).to_string(), &seed, &streams, &up, &down, "/tmp/other"];
        let process = vm.create_process(&ProcessSpec::new(command.map(str::to_owned))).await?;
        let mut others = Exchange::new(plan);
        for _ in 0..plan.streams {
            others.take(within(listener.accept()).await??);
        }
        assert_whole(&plan, &others.ended().await?);
        assert_eq!(within(process.wait()).await??, ProcessExit::Code(0));
        stopped.1.signal(Signal::CONT.as_raw()).await?;
        whole(&vm, stopped).await?;
    }
    vm.close().await
}

#[tokio::test]
async fn a_guest_that_closes_both_directions_at_once_is_read_to_its_last_byte() -> TestResult {
    let (mut random, rounds) = rounds("cut-leave");
    let vm = vm("cut-leave").await?;
    for _ in 0..rounds {
        let plan = Plan { down: ENOUGH, ..bounded(&mut random) };
        let (exchange, process) = begin(&vm, "leave", plan).await?;
        let outcomes = exchange.ended().await?;
        within(process.wait()).await??;
        for (outcome, up) in outcomes.iter().zip(plan.up_lengths()) {
            assert_eq!((outcome.received, outcome.read_end), (up, End::Whole), "{outcome:?}");
            assert!(matches!(outcome.write_end, End::Cut(_)), "{outcome:?}");
        }
        assert_agree(&plan, &outcomes, &records(&vm).await?);
    }
    still_works(&vm, &mut random).await?;
    vm.close().await
}

#[tokio::test]
async fn a_driver_that_is_taken_away_and_given_back_cuts_streams_and_keeps_listeners() -> TestResult {
    const DRIVER: &str = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport";
    let (mut random, rounds) = rounds("cut-driver");
    let vm = vm("cut-driver").await?;
    let again = format!("cd {DRIVER}; for d in virtio*; do echo $d > unbind && echo $d > bind; done");
    for _ in 0..rounds {
        let (exchange, process) = begin(&vm, "exchange", endless(&mut random)).await?;
        let plan = exchange.plan;
        within(exchange.progress.reaches(moment(&mut random))).await?;
        let output = within(vm.create_process(&ProcessSpec::new(["sh", "-c", &again])).await?.output()).await??;
        assert_eq!(output.exit, ProcessExit::Code(0), "{}", String::from_utf8_lossy(&output.stderr));
        let outcomes = exchange.ended().await?;
        let reset = End::Cut(std::io::ErrorKind::ConnectionReset);
        assert!(outcomes.iter().all(|outcome| [outcome.read_end, outcome.write_end] == [reset; 2]), "{outcomes:?}");
        assert_ne!(within(process.wait()).await??, ProcessExit::Code(0));
        let records = records(&vm).await?;
        assert!(records.iter().all(|record| record.up.stage != Stage::Ended));
        assert_agree(&plan, &outcomes, &records);
        still_works(&vm, &mut random).await?;
    }
    vm.close().await
}

#[tokio::test]
async fn streams_that_the_host_drops_are_cut_and_the_others_lose_nothing() -> TestResult {
    let (mut random, rounds) = rounds("cut-drop");
    let vm = vm("cut-drop").await?;
    for _ in 0..rounds {
        let (exchange, process) = begin(&vm, "exchange", bounded(&mut random)).await?;
        let plan = exchange.plan;
        within(exchange.progress.reaches(2 << 20)).await?;
        exchange.progress.leave_odd();
        let outcomes = exchange.ended().await?;
        assert_ne!(within(process.wait()).await??, ProcessExit::Code(0));
        let records = records(&vm).await?;
        assert_agree(&plan, &outcomes, &records);
        let (ups, downs) = (plan.up_lengths(), plan.down_lengths());
        let mut cut = 0;
        for (index, (outcome, record)) in outcomes.iter().zip(&records).enumerate() {
            if index % 2 == 0 {
                assert_eq!((outcome.received, outcome.read_end), (ups[index], End::Whole), "{outcome:?}");
                assert_eq!((outcome.written, outcome.write_end), (downs[index], End::Whole), "{outcome:?}");
                assert_eq!([record.up.stage, record.down.stage], [Stage::Ended; 2], "{outcome:?} {record:?}");
            } else if outcome.write_end == End::Left {
                cut += 1;
                // Linux does not tell a reset from an end; but nothing goes on.
                assert!(record.up.stage != Stage::Going && record.down.stage != Stage::Going, "{outcome:?} {record:?}");
            }
        }
        assert!(cut > 0, "all had ended before");
    }
    still_works(&vm, &mut random).await?;
    vm.close().await
}

fn all_reset(outcomes: &[Outcome]) -> bool {
    let reset = End::Cut(std::io::ErrorKind::ConnectionReset);
    outcomes.iter().all(|outcome| [outcome.read_end, outcome.write_end] == [reset; 2])
}

async fn qemu(vm: &TestVm) -> TestResult<Pid> {
    let pid = qemu::pid(vm).await?;
    Ok(Pid::from_raw(pid.cast_signed()).ok_or("no process")?)
}

#[tokio::test]
async fn a_killed_qemu_cuts_all_streams() -> TestResult {
    let (mut random, rounds) = rounds("cut-qemu");
    for _ in 0..rounds {
        let vm = vm("cut-qemu").await?;
        let (exchange, process) = begin(&vm, "exchange", endless(&mut random)).await?;
        within(exchange.progress.reaches(moment(&mut random))).await?;
        kill_process(qemu(&vm).await?, Signal::KILL)?;
        let outcomes = exchange.ended().await?;
        assert!(all_reset(&outcomes), "{outcomes:?}");
        assert!(within(process.wait()).await?.is_err());
        assert_eq!(within(vm.wait()).await??, ExitStatus::HostProcessKilled(9));
        drop(process);
        vm.close().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_stopped_qemu_goes_on_where_it_was() -> TestResult {
    let (mut random, rounds) = rounds("cut-pause");
    let vm = vm("cut-pause").await?;
    let qemu = qemu(&vm).await?;
    for _ in 0..rounds {
        let begun = begin(&vm, "exchange", bounded(&mut random)).await?;
        for share in 1..=4 {
            within(begun.0.progress.reaches(share * (2 << 20))).await?;
            kill_process(qemu, Signal::STOP)?;
            // What the rings hold is read and written meanwhile; the streams are not cut.
            tokio::time::sleep(Duration::from_millis(300)).await;
            kill_process(qemu, Signal::CONT)?;
        }
        whole(&vm, begun).await?;
    }
    vm.close().await
}
