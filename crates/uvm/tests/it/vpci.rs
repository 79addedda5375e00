//! Devices of the host that are given to a guest.

use uvm::platform::fake::Fault;

use crate::obedient::{asked, boot};
use crate::support::TestResult;

#[tokio::test(start_paused = true)]
async fn d60_d61_d62_a_device_is_known_until_it_is_gone_in_any_spelling() -> TestResult {
    let (played, guest) = boot().await?;
    guest.refuse(0);
    assert!(played.vm.assign_device("PCI\\VEN_1").await.is_err(), "the guest waited in vain");
    assert_eq!(asked(&played), ["add pci", "undo pci"]);
    let one = played.vm.assign_device("PCI\\VEN_1").await?;
    let two = played.vm.assign_device("pci\\ven_1").await?;
    assert_eq!(one.vmbus_guid(), two.vmbus_guid());
    assert_eq!(
        one.vmbus_instance_id(),
        format!("VMBUS\\{{44c4f61d-4444-4400-9d52-802e27ede19f}}\\{{{}}}", one.vmbus_guid())
    );
    two.release().await?;
    played.host.plant("remove pci", 0, Fault::Fail);
    assert!(one.release().await.is_err());
    let still = played.vm.assign_device("PCI\\VEN_1").await?;
    assert_eq!(still.vmbus_guid(), one.vmbus_guid(), "it is still assigned");
    still.release().await?;
    one.release().await?;
    assert_ne!(played.vm.assign_device("PCI\\VEN_1").await?.vmbus_guid(), one.vmbus_guid());
    played.close().await
}
