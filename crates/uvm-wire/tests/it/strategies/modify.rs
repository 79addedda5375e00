//! Arbitrary changes of what a guest has.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uvm_wire::modify::{
    CombinedLayers, ContainerConstraints, DeviceMapping, DiskSize, IpConfig, Layer, MappedDirectory, MappedSocket,
    MappedVirtualDisk, Modification, ModifySettings, NetworkAdapter, RequestType, Resource, Route, ScsiDevice,
    SecurityPolicy, SecurityPolicyFragment, VpciDevice, VpmemDevice,
};

use super::{other_word, raw, text};

prop_compose! {
    fn disk()(
        mount_path in text(),
        (lun, controller, partition) in any::<(u8, u8, u64)>(),
        flags in any::<[bool; 4]>(),
        options in vec(text(), 0..3),
        verity_info in option::of(raw()),
        filesystem in text(),
    ) -> MappedVirtualDisk {
        let [read_only, encrypted, block_dev, ensure_filesystem] = flags;
        MappedVirtualDisk {
            mount_path,
            lun,
            controller,
            read_only,
            partition,
            encrypted,
            options,
            block_dev,
            verity_info,
            ensure_filesystem,
            filesystem,
        }
    }
}

prop_compose! {
    fn directory()(
        mount_path in text(),
        share_name in text(),
        port in any::<i32>(),
        read_only in any::<bool>(),
        tag in text(),
    ) -> MappedDirectory {
        MappedDirectory { mount_path, port, share_name, read_only, tag }
    }
}

prop_compose! {
    fn vpmem()(
        device_number in any::<u32>(),
        mount_path in text(),
        mapping in option::of(any::<(u64, u64)>()),
        verity_info in option::of(raw()),
        pci_path in text(),
    ) -> VpmemDevice {
        let mapping_info = mapping.map(|(device_offset_bytes, device_size_bytes)| DeviceMapping {
            device_offset_bytes,
            device_size_bytes,
        });
        VpmemDevice { device_number, mount_path, mapping_info, verity_info, pci_path }
    }
}

prop_compose! {
    pub(crate) fn layers()(
        [container_id, container_root_path, scratch_path] in [text(), text(), text()],
        layers in vec((text(), text()).prop_map(|(id, path)| Layer { id, path }), 0..4),
    ) -> CombinedLayers {
        CombinedLayers { container_id, container_root_path, layers, scratch_path }
    }
}

prop_compose! {
    fn adapter()(
        [namespace_id, id, mac_address, ip_address] in [text(), text(), text(), text()],
        [gateway_address, dns_suffix, dns_server_list] in [text(), text(), text()],
        (prefix_length, encap_overhead) in any::<(u8, u16)>(),
        ip_configs in vec((text(), any::<u8>()), 0..3),
        routes in vec((text(), text(), any::<u16>()), 0..3),
        flags in any::<[bool; 3]>(),
    ) -> NetworkAdapter {
        let [enable_low_metric, policy_based_routing, vpci_assigned] = flags;
        let config = |(ip_address, prefix_length)| IpConfig { ip_address, prefix_length };
        let route = |(next_hop, destination_prefix, metric)| Route { next_hop, destination_prefix, metric };
        NetworkAdapter {
            namespace_id,
            id,
            mac_address,
            ip_address,
            prefix_length,
            gateway_address,
            ip_configs: ip_configs.into_iter().map(config).collect(),
            routes: routes.into_iter().map(route).collect(),
            dns_suffix,
            dns_server_list,
            enable_low_metric,
            policy_based_routing,
            encap_overhead,
            vpci_assigned,
        }
    }
}

prop_compose! {
    fn policy()(texts in [text(), text(), text(), text()]) -> SecurityPolicy {
        let [enforcer_type, encoded_security_policy, encoded_uvm_reference, encoded_uvm_hash_envelope_reference] = texts;
        SecurityPolicy {
            enforcer_type, encoded_security_policy, encoded_uvm_reference, encoded_uvm_hash_envelope_reference,
        }
    }
}

/// A resource as a guest may get it, hence none of Windows guests.
fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        disk().prop_map(Resource::MappedVirtualDisk).boxed(),
        any::<(u8, u8)>().prop_map(|(controller, lun)| Resource::ScsiDevice(ScsiDevice { controller, lun })).boxed(),
        directory().prop_map(Resource::MappedDirectory).boxed(),
        (any::<(u8, u8, u64)>(), text())
            .prop_map(|((controller, lun, bytes), grow)| Resource::DiskSize(DiskSize { controller, lun, bytes, grow }))
            .boxed(),
        (text(), any::<u32>())
            .prop_map(|(mount_path, port)| Resource::MappedSocket(MappedSocket { mount_path, port }))
            .boxed(),
        vpmem().prop_map(Resource::VpmemDevice).boxed(),
        layers().prop_map(Resource::CombinedLayers).boxed(),
        adapter().prop_map(Resource::Network).boxed(),
        (text(), text()).prop_map(|(vmbus_guid, port)| Resource::VpciDevice(VpciDevice { vmbus_guid, port })).boxed(),
        (option::of(raw()), option::of(raw()))
            .prop_map(|(windows, linux)| Resource::ContainerConstraints(ContainerConstraints { windows, linux }))
            .boxed(),
        policy().prop_map(Resource::SecurityPolicy).boxed(),
        (text(), text())
            .prop_map(|(fragment, media_type)| SecurityPolicyFragment { fragment, media_type })
            .prop_map(Resource::SecurityPolicyFragment)
            .boxed(),
        Just(Resource::PodCgroupMemoryLimit).boxed(),
        (prop_oneof![Just(String::new()), other_word()], option::of(raw()))
            .prop_map(|(resource_type, settings)| Resource::Other { resource_type, settings })
            .boxed(),
    ]
    .boxed()
}

prop_compose! {
    pub(crate) fn modify()(
        word in prop_oneof![
            proptest::sample::select(&["Add", "Remove", "Update", "PreAdd"][..]).prop_map(str::to_owned),
            other_word(),
        ],
        resource in resource(),
    ) -> ModifySettings {
        let request_type = RequestType::from(word.as_str());
        ModifySettings { modification: Modification { request_type, resource } }
    }
}
