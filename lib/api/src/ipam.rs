//! IPAM's own records: blocks, affinities, handles and the configuration.
//!
//! Spelled as in the custom resources; the etcd store has its own spelling of the same facts.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{Key, Kind, NoStatus, ObjectMeta, Owner, Resource, Spec};

/// A block of addresses and who holds each.
pub type IPAMBlock = Resource<IPAMBlockSpec>;
/// The claim of a node to a block.
pub type BlockAffinity = Resource<BlockAffinitySpec>;
/// All addresses that were taken under one id, so that they can be released by it.
pub type IPAMHandle = Resource<IPAMHandleSpec>;
/// Settings of IPAM; one object named `default`.
pub type IPAMConfiguration = Resource<IPAMConfigurationSpec>;

/// A block of addresses. The arithmetic is in the crate `ipam`; here are only the fields as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPAMBlockSpec {
    /// The block's network.
    pub cidr: IpNet,
    /// `host:<node>` or `virtual:<name>`; absent when nobody owns the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// When the owner claimed it (RFC 3339, whole seconds); absent on old blocks, which counts as long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_claim_time: Option<String>,
    /// One element an address: an index into `attributes`, or null when free.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub allocations: Vec<Option<u32>>,
    /// Ordinals of free addresses, a queue: taken from the front, returned at the end.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub unallocated: Vec<u32>,
    /// What is known of the holders.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub attributes: Vec<AllocationAttribute>,
    /// Counted up with each write of the block.
    #[serde(default)]
    pub sequence_number: u64,
    /// Ordinal (in decimal) to the sequence number before the write that last assigned or released it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sequence_number_for_allocation: BTreeMap<String, u64>,
    /// A tombstone: about to be deleted, and to be treated as absent.
    #[serde(default)]
    pub deleted: bool,
    /// Dead, but the custom resource's schema requires it; always false.
    #[serde(default)]
    pub strict_affinity: bool,
}

/// What is known of the holder of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllocationAttribute {
    /// The handle it was taken under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Pod, namespace, node, timestamp and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, Option<String>>>,
    /// The other owner during a live migration; carried through unchanged.
    #[serde(default, rename = "alternateOwnerAttrs", skip_serializing_if = "Option::is_none")]
    pub alternate_owner_attrs: Option<BTreeMap<String, Option<String>>>,
    /// When the address was released, while it cools down (RFC 3339, whole seconds).
    #[serde(default, rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    pub released_at: Option<String>,
}

impl Spec for IPAMBlockSpec {
    const KIND: Kind = Kind::IPAMBlock;
    type Status = NoStatus;

    fn key(&self, _metadata: &ObjectMeta) -> Key {
        Key::Block(self.cidr.trunc())
    }
}

impl IPAMBlockSpec {
    /// The owner, if there is one and it is written as it should be.
    pub fn owner(&self) -> Option<Owner> {
        self.affinity.as_deref().and_then(|text| text.parse().ok())
    }
}

/// How far a claim has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum AffinityState {
    /// The block may not exist yet.
    #[serde(rename = "pending")]
    Pending,
    /// The block is the node's. An empty or absent state means the same.
    #[default]
    #[serde(rename = "confirmed", alias = "")]
    Confirmed,
    /// The block is being given up.
    #[serde(rename = "pendingDeletion")]
    PendingDeletion,
}

/// The claim of a node to a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockAffinitySpec {
    /// How far the claim has got.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub state: AffinityState,
    /// The owner's name.
    pub node: String,
    /// `host` or `virtual`; absent is `host`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub owner_type: Option<String>,
    /// The block's network.
    pub cidr: IpNet,
    /// A tombstone. (A string in one of the two API groups; the Kubernetes store translates.)
    #[serde(default)]
    pub deleted: bool,
}

impl BlockAffinitySpec {
    /// The owner as one value.
    pub fn owner(&self) -> Owner {
        match self.owner_type.as_deref() {
            Some("virtual") => Owner::Virtual(self.node.clone()),
            _ => Owner::Host(self.node.clone()),
        }
    }
}

impl Spec for BlockAffinitySpec {
    const KIND: Kind = Kind::BlockAffinity;
    type Status = NoStatus;

    fn key(&self, _metadata: &ObjectMeta) -> Key {
        Key::Affinity { owner: self.owner(), cidr: self.cidr.trunc() }
    }
}

/// All addresses that were taken under one id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IPAMHandleSpec {
    /// The id in its original case; the object's name is lower-cased.
    #[serde(rename = "handleID")]
    pub handle_id: String,
    /// Block CIDR to the number of its addresses under this handle.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub block: BTreeMap<String, u64>,
    /// A tombstone.
    #[serde(default)]
    pub deleted: bool,
}

impl Spec for IPAMHandleSpec {
    const KIND: Kind = Kind::IPAMHandle;
    type Status = NoStatus;

    fn key(&self, _metadata: &ObjectMeta) -> Key {
        Key::Handle(self.handle_id.clone())
    }
}

/// Settings of IPAM. Where no object is stored, [`IPAMConfigurationSpec::default`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPAMConfigurationSpec {
    /// Whether a node may only use its own blocks. Default: false.
    #[serde(default)]
    pub strict_affinity: bool,
    /// Whether nodes claim blocks by themselves. Default: true.
    #[serde(default = "yes")]
    pub auto_allocate_blocks: bool,
    /// How many blocks a node may own; 0 means the built-in 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_blocks_per_host: Option<u32>,
    /// `Enabled` or `Disabled`; absent means `Enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "kubeVirtVMAddressPersistence")]
    pub kube_virt_vm_address_persistence: Option<String>,
    /// Seconds for which a released address is not handed out again, 0 to 1200. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_cooldown_seconds: Option<u32>,
}

impl Default for IPAMConfigurationSpec {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: None,
            kube_virt_vm_address_persistence: None,
            ip_cooldown_seconds: None,
        }
    }
}

impl Spec for IPAMConfigurationSpec {
    const KIND: Kind = Kind::IPAMConfiguration;
    type Status = NoStatus;
}

fn yes() -> bool {
    true
}
