//! Many VMs, several at a time.

use uvm::ProcessSpec;
use uvm_testkit::{TestResult, TestVm};

use crate::campaign;

#[tokio::test]
async fn boots_in_a_row_several_at_a_time() -> TestResult {
    let mut running = tokio::task::JoinSet::new();
    // How many run at a time is a matter of slots.
    for index in 0..campaign::rounds(6, 100) {
        running.spawn(async move {
            let vm = TestVm::builder(&format!("boot{index}")).boot().await?;
            let output = vm.create_process(&ProcessSpec::new(["echo", "up"])).await?.output().await?;
            assert_eq!(output.stdout, b"up\n");
            vm.close().await?;
            campaign::note(&format!("boot {index}: done"));
            TestResult::Ok(())
        });
    }
    while let Some(result) = running.join_next().await {
        result??;
    }
    Ok(())
}
