//! Who holds each address of a block, as the block tells it.

use std::collections::BTreeMap;

use calico_api::{AllocationAttribute, IPAMBlockSpec};
use ipam::Assignment;
use ipam::block::{WINDOWS_HANDLE, clean_handle};
use ipam::network::address_at;

/// What nodes write as `type` of the addresses of their tunnel devices.
const TUNNELS: [&str; 5] = [
    "ipipTunnelAddress",
    "vxlanTunnelAddress",
    "vxlanV6TunnelAddress",
    "wireguardTunnelAddress",
    "wireguardV6TunnelAddress",
];

/// What an address is held for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody: it was released and cools down.
    Cooling,
    /// Windows' own use of a block.
    Windows,
    /// A pod's network.
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A tunnel device of a node.
    Tunnel,
    /// A Service of type LoadBalancer.
    Service,
    /// A virtual machine of KubeVirt, which outlives its pods.
    Machine,
    /// Something else.
    Unknown,
}

/// One address of a block that is not free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Address, block and sequence number: exactly this assignment.
    pub assignment: Assignment,
    /// The handle, without accidents of old migrations.
    pub handle: Option<String>,
    /// The node that it says it is on.
    pub node: Option<String>,
    /// What it is for.
    pub holder: Holder,
}

impl Allocation {
    /// The container of a handle `<network>.<container>`.
    pub fn container(&self) -> Option<&str> {
        self.handle.as_deref().and_then(|handle| handle.rsplit_once('.')).map(|(_, container)| container)
    }
}

/// Every address of a sound block that is not free.
pub fn allocations(block: &IPAMBlockSpec) -> impl Iterator<Item = Allocation> + '_ {
    (0_u32..).zip(&block.allocations).filter_map(|(ordinal, index)| {
        let attribute = block.attributes.get(usize::try_from((*index)?).ok()?)?;
        let number = block.sequence_number_for_allocation.get(&ordinal.to_string());
        let assignment = Assignment {
            block: block.cidr,
            address: address_at(&block.cidr, ordinal)?,
            sequence_number: number.copied().unwrap_or_default(),
        };
        Some(Allocation {
            assignment,
            handle: attribute.handle_id.as_deref().map(|handle| clean_handle(handle).to_owned()),
            node: text(attribute, "node").map(str::to_owned),
            holder: holder(attribute),
        })
    })
}

fn text<'a>(attribute: &'a AllocationAttribute, key: &str) -> Option<&'a str> {
    let secondary: &BTreeMap<String, Option<String>> = attribute.secondary.as_ref()?;
    secondary.get(key)?.as_deref().filter(|text| !text.is_empty())
}

fn holder(attribute: &AllocationAttribute) -> Holder {
    if attribute.released_at.is_some() {
        return Holder::Cooling;
    }
    let Some(handle) = attribute.handle_id.as_deref() else { return Holder::Unknown };
    if clean_handle(handle) == WINDOWS_HANDLE {
        return Holder::Windows;
    }
    let of = |key| text(attribute, key);
    let migrates = attribute.alternate_owner_attrs.as_ref().is_some_and(|others| !others.is_empty());
    if migrates || of("vmi-name").is_some() || of("vm-uid").is_some() || of("vmi-uid").is_some() {
        return Holder::Machine;
    }
    if of("node").is_some() && of("type").is_some_and(|word| TUNNELS.contains(&word)) {
        return Holder::Tunnel;
    }
    match (of("namespace"), of("pod"), of("service"), of("type")) {
        (Some(_), None, Some(_), _) => Holder::Service,
        (Some(namespace), Some(name), None, None) => {
            Holder::Pod { namespace: namespace.to_owned(), name: name.to_owned() }
        }
        _ => Holder::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_holder_is_told_by_its_attributes() {
        #[track_caller]
        fn check(attribute: serde_json::Value, expected: Holder) {
            let attribute: AllocationAttribute = serde_json::from_value(attribute).unwrap();
            assert_eq!(holder(&attribute), expected);
        }
        let pod = Holder::Pod { namespace: "shop".into(), name: "web-0".into() };
        check(json!({"handle_id": "n.1", "secondary": {"namespace": "shop", "pod": "web-0", "node": "a"}}), pod);
        check(json!({"handle_id": "t", "secondary": {"node": "a", "type": "vxlanTunnelAddress"}}), Holder::Tunnel);
        check(json!({"handle_id": "t", "secondary": {"node": "a", "type": "gretapAddress"}}), Holder::Unknown);
        check(
            json!({"handle_id": "lb-x", "secondary": {"service": "s", "namespace": "n", "type": "LoadBalancer"}}),
            Holder::Service,
        );
        check(
            json!({"handle_id": "n.vmi.a.b", "secondary": {"namespace": "a", "pod": "p", "vmi-name": "b"}}),
            Holder::Machine,
        );
        check(
            json!({"handle_id": "n.1", "secondary": {"namespace": "a", "pod": "p"}, "alternateOwnerAttrs": {"pod": "q"}}),
            Holder::Machine,
        );
        check(json!({"handle_id": "n.1", "secondary": {"node": "a", "timestamp": "t"}}), Holder::Unknown);
        check(json!({"handle_id": "n.1", "secondary": {"namespace": "", "pod": "p"}}), Holder::Unknown);
        check(json!({"secondary": {"namespace": "a", "pod": "p"}}), Holder::Unknown);
        check(json!({"handle_id": "windows-reserved-ipam-handle", "secondary": {"note": "x"}}), Holder::Windows);
        check(json!({"releasedAt": "2026-08-22T13:40:00Z"}), Holder::Cooling);
    }
}
