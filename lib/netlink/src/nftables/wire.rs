//! Which numbers does nf_tables give its messages and attributes, and how are they written?
//!
//! Names are those of `linux/netfilter/nf_tables.h` without their prefixes. Unlike rtnetlink, numbers are in the
//! network's order; values in registers are as the packet or the kernel holds them.

use crate::message::{Request, attributes, field};

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
pub(crate) const SUBSYSTEM: u16 = 10;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`: changes are only taken between them.
pub(crate) const BATCH_BEGIN: u16 = 0x10;
pub(crate) const BATCH_END: u16 = 0x11;
/// `NFNL_BATCH_GENID`.
pub(crate) const BATCH_GENERATION: u16 = 1;

/// `NFT_MSG_…`.
pub(crate) mod kind {
    use super::SUBSYSTEM;
    pub(crate) const NEW_TABLE: u16 = SUBSYSTEM << 8;
    pub(crate) const GET_TABLE: u16 = NEW_TABLE | 1;
    pub(crate) const DELETE_TABLE: u16 = NEW_TABLE | 2;
    pub(crate) const NEW_CHAIN: u16 = NEW_TABLE | 3;
    pub(crate) const GET_CHAIN: u16 = NEW_TABLE | 4;
    pub(crate) const DELETE_CHAIN: u16 = NEW_TABLE | 5;
    pub(crate) const NEW_RULE: u16 = NEW_TABLE | 6;
    pub(crate) const GET_RULE: u16 = NEW_TABLE | 7;
    pub(crate) const DELETE_RULE: u16 = NEW_TABLE | 8;
    pub(crate) const NEW_SET: u16 = NEW_TABLE | 9;
    pub(crate) const GET_SET: u16 = NEW_TABLE | 10;
    pub(crate) const DELETE_SET: u16 = NEW_TABLE | 11;
    pub(crate) const NEW_ELEMENTS: u16 = NEW_TABLE | 12;
    pub(crate) const GET_ELEMENTS: u16 = NEW_TABLE | 13;
    pub(crate) const DELETE_ELEMENTS: u16 = NEW_TABLE | 14;
    pub(crate) const NEW_GENERATION: u16 = NEW_TABLE | 15;
    pub(crate) const GET_GENERATION: u16 = NEW_TABLE | 16;
    pub(crate) const GET_OBJECT: u16 = NEW_TABLE | 19;
    pub(crate) const GET_FLOW_TABLE: u16 = NEW_TABLE | 23;
}

/// The attribute that names the table: the first one of every object, the table's own name included.
pub(crate) const TABLE: u16 = 1;
/// `NFTA_GEN_ID`.
pub(crate) const GENERATION: u16 = 1;
/// `NFTA_LIST_ELEM`.
pub(crate) const ITEM: u16 = 1;

/// `NFTA_CHAIN_…` and `NFTA_HOOK_…`.
pub(crate) mod chain {
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

/// `NFTA_RULE_…`.
pub(crate) mod rule {
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const HANDLE: u16 = 3;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const POSITION: u16 = 6;
    pub(crate) const USER_DATA: u16 = 7;
    /// `NFTNL_UDATA_RULE_COMMENT`, inside the user data.
    pub(crate) const COMMENT: u8 = 0;
}

/// `NFTA_SET_…`, the flags of sets, and `NFTA_SET_ELEM_…`.
pub(crate) mod set {
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LENGTH: u16 = 7;
    pub(crate) const DESCRIPTION: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USER_DATA: u16 = 13;
    /// `NFTA_SET_DESC_CONCAT`, a list of `NFTA_SET_FIELD_LEN`.
    pub(crate) const DESCRIPTION_FIELDS: u16 = 2;
    pub(crate) const FIELD_LENGTH: u16 = 1;
    /// `NFTNL_UDATA_SET_KEYBYTEORDER`, inside the user data: 1 is the node's order, 2 the network's.
    pub(crate) const KEY_ORDER: u8 = 0;

    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const CONCATENATED: u32 = 0x80;
    /// `NFT_DATA_VERDICT`, the type of what a verdict map yields.
    pub(crate) const VERDICT_TYPE: u32 = 0xffff_ff00;

    /// `NFTA_SET_ELEM_LIST_ELEMENTS`.
    pub(crate) const ELEMENTS: u16 = 3;
    pub(crate) const ELEMENT_KEY: u16 = 1;
    pub(crate) const ELEMENT_DATA: u16 = 2;
    pub(crate) const ELEMENT_FLAGS: u16 = 3;
    pub(crate) const ELEMENT_KEY_END: u16 = 10;
    /// `NFT_SET_ELEM_INTERVAL_END`: the first key that is no more in the interval.
    pub(crate) const INTERVAL_END: u32 = 1;
}

/// `NFTA_EXPR_…`, `NFTA_DATA_…`, `NFTA_VERDICT_…`.
pub(crate) mod expression {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

impl Request {
    /// Appends a number in the network's order.
    pub(crate) fn wide(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends a number of 64 bits in the network's order.
    pub(crate) fn handle(&mut self, kind: u16, value: u64) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends attributes inside an attribute.
    pub(crate) fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        self.nested(kind | NESTED, content);
    }
}

/// A number of 32 bits in the network's order.
pub(crate) fn wide(value: &[u8]) -> Option<u32> {
    field(value, 0).map(u32::from_be_bytes)
}

/// A number of 64 bits in the network's order.
pub(crate) fn handle(value: &[u8]) -> Option<u64> {
    field(value, 0).map(u64::from_be_bytes)
}

/// The first attribute of a kind.
pub(crate) fn find(octets: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(octets).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The octets after `struct nfgenmsg`, and the family in it.
pub(crate) fn body(octets: &[u8]) -> Option<(u8, &[u8])> {
    Some((*octets.first()?, octets.get(4..)?))
}

/// An entry of user data: a kind and a length of an octet each, then the value.
pub(crate) fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
    let value = value.get(..usize::from(length)).unwrap_or_default();
    [&[kind, length][..], value].concat()
}

/// The first entry of a kind in user data.
pub(crate) fn find_user_data(octets: &[u8], kind: u8) -> Option<&[u8]> {
    let mut rest = octets;
    loop {
        let (found, length) = (*rest.first()?, usize::from(*rest.get(1)?));
        let value = rest.get(2..2 + length)?;
        if found == kind {
            return Some(value);
        }
        rest = rest.get(2 + length..)?;
    }
}
