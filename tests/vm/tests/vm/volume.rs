//! Bulk on many streams at once, each direction with an end of its own at a random point, on each transport.

use std::time::Instant;

use tokio::task::JoinSet;
use uvm::{ProcessExit, ProcessSpec};
use uvm_testkit::{TestResult, TestVm};

use crate::campaign::{self, Random};
use crate::exchange::{Exchange, Outcome, Plan, assert_whole, within};
use crate::sockets::{GUEST, vm};

const STREAMS: u32 = 64;
const PORT: u32 = 5000;

/// Each way, in all: 16 MiB, or 256 in a campaign.
fn plan(name: &str) -> Plan {
    let seed = Random::seeded(name).below(u64::MAX);
    let bytes = u64::from(campaign::rounds(16, 256)) << 20;
    Plan { seed, streams: STREAMS, up: bytes, down: bytes }
}

fn assert_volume(plan: &Plan, outcomes: &[Outcome], began: Instant) {
    assert_whole(plan, outcomes);
    assert_eq!(outcomes.iter().map(|outcome| outcome.received).sum::<u64>(), plan.up);
    assert_eq!(outcomes.iter().map(|outcome| outcome.written).sum::<u64>(), plan.down);
    campaign::note(&format!("{plan:?}: {:.1} s", began.elapsed().as_secs_f64()));
}

#[tokio::test]
async fn of_vsock_arrives_whole() -> TestResult {
    let plan = plan("volume-vsock");
    let vm = vm("volume-vsock").await?;
    let mut listener = vm.listen(PORT)?;
    let [seed, streams, up, down] = plan.arguments();
    let command = [GUEST, "exchange", &PORT.to_string(), &seed, &streams, &up, &down].map(str::to_owned);
    let began = Instant::now();
    let process = vm.create_process(&ProcessSpec::new(command)).await?;
    let mut exchange = Exchange::new(plan);
    for _ in 0..STREAMS {
        exchange.take(within(listener.accept()).await??);
    }
    assert_volume(&plan, &exchange.ended().await?, began);
    let output = within(process.output()).await??;
    // It checked each byte, and the length of each stream.
    assert_eq!(output.exit, ProcessExit::Code(0), "{}", String::from_utf8_lossy(&output.stderr));
    drop(listener);
    vm.close().await
}

#[tokio::test]
async fn of_the_mux_arrives_whole() -> TestResult {
    let plan = plan("volume-mux");
    let vm: TestVm = vm("volume-mux").await?;
    let [seed, streams, up, down] = plan.arguments();
    let began = Instant::now();
    let (mut exchange, mut processes) = (Exchange::new(plan), JoinSet::new());
    for number in 0..STREAMS {
        let command = [GUEST, "stdio", &seed, &number.to_string(), &streams, &up, &down].map(str::to_owned);
        let mut process = vm.create_process(&ProcessSpec::new(command).with_stdin()).await?;
        let stdin = process.stdin.take().expect("asked for");
        exchange.take_halves(number, process.stdout.take().expect("asked for"), stdin);
        processes.spawn(process.output());
    }
    assert_volume(&plan, &exchange.ended().await?, began);
    let all = async {
        while let Some(output) = processes.join_next().await {
            let output = output??;
            assert_eq!(output.exit, ProcessExit::Code(0), "{}", String::from_utf8_lossy(&output.stderr));
        }
        TestResult::Ok(())
    };
    within(all).await??;
    vm.close().await
}
