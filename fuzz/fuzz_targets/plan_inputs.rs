//! Whatever the store has, one `KIND JSON` a line: it is understood or a named fault, and what follows from it for every
//! node, in sessions, policies, services and topology, is computed to the end. Nothing is remembered of what is gone.
#![no_main]

use bgp_plan::inputs::{Change, Inputs};
use bgp_plan::policies::{Settings, Surroundings, warnings};
use bgp_plan::sessions::Cluster;
use bgp_plan::topology::Network;
use calico_api::{Key, Kind};
use libfuzzer_sys::fuzz_target;

/// The node whose speaker it is.
const NODE: &str = "a";

fuzz_target!(|text: &str| {
    let mut inputs = Inputs::default();
    let mut keys = Vec::new();
    for line in text.lines().take(64) {
        let Some((kind, json)) = line.split_once(' ') else { continue };
        let Some(kind) = Kind::from_name(kind) else { continue };
        let Ok(value) = serde_json::from_str(json) else { continue };
        let Ok(key) = Key::of_value(kind, &value) else { continue };
        keys.push(key.clone());
        if let Err(fault) = inputs.apply(NODE, Change::Put { key: key.clone(), value }) {
            assert_eq!((fault.kind, fault.reason.is_empty()), (key.kind(), false), "{fault}");
        }
        let Surroundings { services, .. } = Surroundings::refresh(&mut inputs, NODE, &Settings::default());
        let anew = Surroundings::of(&inputs, NODE, &Settings::default()).services;
        assert_eq!(services, anew, "what follows step by step is what follows at once");
    }
    {
        let cluster = Cluster::new(&inputs);
        let mut network = Network::default();
        let names: Vec<String> = inputs.nodes.keys().cloned().chain([NODE.to_owned(), String::new()]).collect();
        for name in &names {
            let plan = cluster.plan(name);
            let mut peers: Vec<_> = plan.sessions.iter().map(|session| session.peer).collect();
            peers.sort();
            peers.dedup();
            assert_eq!(peers.len(), plan.sessions.len(), "two sessions with one peer: {:?}", plan.sessions);
            for warning in &plan.warnings {
                assert!(!warning.to_string().is_empty());
            }
            let _ = warnings(&inputs, name, &plan.sessions);
            network.add(name, &plan);
        }
        let _ = (network.check(), cluster.warnings());
    }
    for key in keys {
        let _ = inputs.apply(NODE, Change::Delete(key));
    }
    assert!(
        inputs.faults.is_empty() && inputs.nodes.is_empty() && inputs.peers.is_empty() && inputs.filters.is_empty()
    );
    assert_eq!(inputs.last_good().count(), 0);
});
