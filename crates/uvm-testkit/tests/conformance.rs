//! What holds on every host, on those in memory. That it holds on QEMU, too, is shown in `tests/vm`.

use uvm_testkit::TestResult;
use uvm_testkit::conformance::{self, InMemory, Report};
use uvm_testkit::memory::Kind;

/// It can do everything.
#[tokio::test]
async fn the_fake_host_conforms() -> TestResult {
    assert_eq!(conformance::run(&InMemory(Kind::Fake)).await?, Report { cases: 29, refused: 0 });
    Ok(())
}

/// So can the Host Compute Service.
#[tokio::test]
async fn the_host_compute_service_conforms() -> TestResult {
    assert_eq!(conformance::run(&InMemory(Kind::Recording)).await?, Report { cases: 29, refused: 0 });
    Ok(())
}
