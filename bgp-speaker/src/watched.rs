//! What does the speaker watch in the datastore, and how do its changes become [`Change`]s?

use bgp_plan::inputs::Change;
use calico_api::{Key, Kind};
use calico_datastore::Filter;
use calico_datastore::watch::Update;

/// What the speaker of `node` watches.
pub fn watched(node: &str) -> Vec<(Kind, Filter)> {
    vec![
        (Kind::Node, Filter::All),
        (Kind::BGPConfiguration, Filter::All),
        (Kind::BGPPeer, Filter::All),
        (Kind::IPPool, Filter::All),
        (Kind::BlockAffinity, Filter::Node(node.to_owned())),
    ]
}

/// The change that an update brings, if it brings one.
pub fn change(update: Update) -> Option<Change> {
    match update {
        Update::Put(entry) => Some(Change::Put { key: entry.key, value: entry.value }),
        Update::Delete(key) => Some(Change::Delete(key)),
        Update::Fault(fault) => {
            let name = fault.key.as_ref().map_or(fault.name, Key::name);
            Some(Change::Fault { kind: fault.kind, name, reason: fault.reason })
        }
        Update::InSync | Update::Trouble(_) => None,
    }
}
