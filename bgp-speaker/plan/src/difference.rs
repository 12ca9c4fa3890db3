//! What would changed resources do to the sessions: add, keep, change, reset, remove?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::inputs::Inputs;
use crate::sessions::{Change, Cluster, Field, FieldChange, Pairs, Plan, SessionConfig, Warning};
use crate::topology::{Isolation, Network};

/// A session that goes on, or begins anew, with another configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedSession {
    /// What it was called.
    pub was: String,
    /// How it is configured now.
    pub now: SessionConfig,
    /// What differs.
    pub fields: Vec<FieldChange>,
}

/// What becomes of the sessions of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeDifference {
    /// Sessions that stay as they are.
    pub kept: Vec<SessionConfig>,
    /// Sessions that stay up, and are treated otherwise.
    pub changed: Vec<ChangedSession>,
    /// Sessions that end and begin anew.
    pub reset: Vec<ChangedSession>,
    /// New sessions.
    pub added: Vec<SessionConfig>,
    /// Sessions that end.
    pub removed: Vec<SessionConfig>,
    /// What an operator would be told that is not told now.
    pub new_warnings: Vec<String>,
    /// What an operator is told now and would be told no longer.
    pub gone_warnings: Vec<String>,
}

impl NodeDifference {
    /// What becomes of the sessions of a node when one plan takes the place of the other.
    pub fn new(before: &Plan, after: &Plan) -> Self {
        let mut difference = Self::default();
        let router_id = new_router_id(before, after);
        let pairs = Pairs::new(&before.sessions, &after.sessions);
        for (old, new) in pairs.kept {
            let mut fields = old.changes_to(new);
            fields.extend(router_id.clone());
            let changed = |fields| ChangedSession { was: old.name.clone(), now: new.clone(), fields };
            match fields.iter().map(|field| field.change).max().unwrap_or_default() {
                Change::None => difference.kept.push(new.clone()),
                Change::Live => difference.changed.push(changed(fields)),
                Change::Reset => difference.reset.push(changed(fields)),
            }
        }
        difference.added = pairs.added.into_iter().cloned().collect();
        difference.removed = pairs.removed.into_iter().cloned().collect();
        difference.kept.sort_by(|a, b| a.name.cmp(&b.name));
        difference.changed.sort_by(|a, b| a.now.name.cmp(&b.now.name));
        difference.reset.sort_by(|a, b| a.now.name.cmp(&b.now.name));
        difference.added.sort_by(|a, b| a.name.cmp(&b.name));
        difference.removed.sort_by(|a, b| a.name.cmp(&b.name));
        let (old, new): (BTreeSet<&Warning>, BTreeSet<&Warning>) =
            (before.warnings.iter().collect(), after.warnings.iter().collect());
        difference.new_warnings = new.difference(&old).map(ToString::to_string).collect();
        difference.gone_warnings = old.difference(&new).map(ToString::to_string).collect();
        difference
    }

    /// Whether all stays as it is.
    pub fn is_empty(&self) -> bool {
        let Self { kept: _, changed, reset, added, removed, new_warnings, gone_warnings } = self;
        changed.is_empty()
            && reset.is_empty()
            && added.is_empty()
            && removed.is_empty()
            && new_warnings.is_empty()
            && gone_warnings.is_empty()
    }
}

/// The router ID is the node's IPv4 address, unless the speaker's environment gives another.
fn new_router_id(before: &Plan, after: &Plan) -> Option<FieldChange> {
    let id = |plan: &Plan| plan.local.as_ref().and_then(|local| local.ipv4).map(|net| net.addr());
    let (old, new) = (id(before)?, id(after)?);
    (old != new).then(|| FieldChange {
        field: Field::RouterId,
        from: old.to_string(),
        to: new.to_string(),
        change: Change::Reset,
    })
}

impl fmt::Display for NodeDifference {
    /// A line for each session that does not stay as it is: `+` is added, `-` removed, `~` changed, `!` reset.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = |session: &SessionConfig| {
            let node = session.remote.as_deref().map(|node| format!(" with node {node}")).unwrap_or_default();
            format!("{}{node}, AS {} to AS {}", session.name, session.local_as, session.peer_as)
        };
        for session in &self.removed {
            writeln!(f, "- {}", about(session))?;
        }
        for (sign, word, sessions) in [("!", "reset", &self.reset), ("~", "stays up", &self.changed)] {
            for session in sessions {
                let fields: Vec<_> = session.fields.iter().map(ToString::to_string).collect();
                writeln!(f, "{sign} {} {word} ({})", session.was, fields.join("; "))?;
            }
        }
        for session in &self.added {
            writeln!(f, "+ {}", about(session))?;
        }
        match self.kept.len() {
            0 => {}
            1 => writeln!(f, "= 1 session as it is")?,
            more => writeln!(f, "= {more} sessions as they are")?,
        }
        self.new_warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        self.gone_warnings.iter().try_for_each(|warning| writeln!(f, "no longer: {warning}"))
    }
}

/// What becomes of the sessions of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// By node; those for whom all stays as it is are there too, with what they keep.
    pub nodes: BTreeMap<String, NodeDifference>,
    /// What is wrong with the sessions as a whole now.
    pub isolated_before: BTreeSet<Isolation>,
    /// What would be wrong with them.
    pub isolated_after: BTreeSet<Isolation>,
    /// What concerns no node and would be new.
    pub new_warnings: Vec<String>,
}

impl Difference {
    /// What becomes of the sessions when `after` takes the place of `before`; of those of one node, if it is named.
    pub fn new(before: &Inputs, after: &Inputs, node: Option<&str>) -> Self {
        let (old, new) = (Cluster::new(before), Cluster::new(after));
        let names: BTreeSet<&str> = before.nodes.keys().chain(after.nodes.keys()).map(String::as_str).collect();
        let (mut old_network, mut new_network) = (Network::default(), Network::default());
        let mut difference = Self::default();
        for name in names {
            // Who is not there at all is to be warned of by nobody.
            let plan_in = |cluster: &Cluster<'_>, inputs: &Inputs| match inputs.nodes.contains_key(name) {
                true => cluster.plan(name),
                false => Plan::default(),
            };
            let (was, is) = (plan_in(&old, before), plan_in(&new, after));
            old_network.add(name, &was);
            new_network.add(name, &is);
            if node.is_none_or(|node| node == name) {
                difference.nodes.insert(name.to_owned(), NodeDifference::new(&was, &is));
            }
        }
        difference.isolated_before = old_network.check().into_iter().collect();
        difference.isolated_after = new_network.check().into_iter().collect();
        let known: BTreeSet<Warning> = old.warnings().into_iter().collect();
        let unknown = new.warnings().into_iter().filter(|warning| !known.contains(warning));
        difference.new_warnings = unknown.map(|warning| warning.to_string()).collect();
        difference
    }

    /// What would be wrong that is right now.
    pub fn newly_isolated(&self) -> impl Iterator<Item = &Isolation> {
        self.isolated_after.difference(&self.isolated_before)
    }

    /// What would be right that is wrong now.
    pub fn no_longer_isolated(&self) -> impl Iterator<Item = &Isolation> {
        self.isolated_before.difference(&self.isolated_after)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (node, difference) in self.nodes.iter().filter(|(_, difference)| !difference.is_empty()) {
            writeln!(f, "node {node}")?;
            difference.to_string().lines().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        self.new_warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))?;
        self.newly_isolated().try_for_each(|isolation| writeln!(f, "isolated: {isolation}"))?;
        self.no_longer_isolated().try_for_each(|isolation| writeln!(f, "no longer isolated: {isolation}"))
    }
}

#[cfg(test)]
mod tests {
    use calico_api::{Key, Kind};
    use serde_json::{Value, json};

    use super::*;
    use crate::inputs;

    fn put(inputs: &mut Inputs, kind: Kind, value: Value) {
        let key = Key::of_value(kind, &value).unwrap();
        inputs.apply("", inputs::Change::Put { key, value }).unwrap();
    }

    fn node(inputs: &mut Inputs, name: &str, address: &str, reflector: bool) {
        let labels = if reflector { json!({"rr": ""}) } else { json!({}) };
        let mut bgp = json!({"ipv4Address": format!("{address}/24")});
        if reflector {
            bgp["routeReflectorClusterID"] = json!("244.0.0.1");
        }
        put(inputs, Kind::Node, json!({"metadata": {"name": name, "labels": labels}, "spec": {"bgp": bgp}}));
    }

    fn mesh() -> Inputs {
        let mut inputs = Inputs::default();
        for (name, address) in [("r", "10.0.0.1"), ("v", "10.0.0.2"), ("w", "10.0.0.3")] {
            node(&mut inputs, name, address, false);
        }
        inputs
    }

    fn with_reflector_peers(inputs: &mut Inputs) {
        let spec = json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"});
        put(inputs, Kind::BGPPeer, json!({"metadata": {"name": "rr"}, "spec": spec}));
    }

    #[test]
    fn a_node_that_becomes_a_reflector_keeps_its_sessions_if_the_peering_is_there() {
        let before = mesh();
        let mut after = before.clone();
        with_reflector_peers(&mut after);
        node(&mut after, "r", "10.0.0.1", true);
        let difference = Difference::new(&before, &after, None);
        assert_eq!(
            difference.to_string(),
            "\
node r
  ~ Mesh_10_0_0_2 stays up (name: Mesh_10_0_0_2 → Node_10_0_0_2; origin: node-to-node mesh → node specific; BGPPeer: none → rr; passive: true → false; routeReflectorClusterID: none → 244.0.0.1; reflector client: false → true)
  ~ Mesh_10_0_0_3 stays up (name: Mesh_10_0_0_3 → Node_10_0_0_3; origin: node-to-node mesh → node specific; BGPPeer: none → rr; passive: true → false; routeReflectorClusterID: none → 244.0.0.1; reflector client: false → true)
node v
  ~ Mesh_10_0_0_1 stays up (name: Mesh_10_0_0_1 → Node_10_0_0_1; origin: node-to-node mesh → node specific; BGPPeer: none → rr)
  = 1 session as it is
node w
  ~ Mesh_10_0_0_1 stays up (name: Mesh_10_0_0_1 → Node_10_0_0_1; origin: node-to-node mesh → node specific; BGPPeer: none → rr)
  = 1 session as it is
"
        );
        assert_eq!(Difference::new(&before, &before, None).to_string(), "");
    }

    #[test]
    fn a_reflector_without_peering_is_named_before_it_is_isolated() {
        let before = mesh();
        let mut after = before.clone();
        node(&mut after, "r", "10.0.0.1", true);
        let difference = Difference::new(&before, &after, Some("r"));
        assert_eq!(
            difference.to_string(),
            "\
node r
  - Mesh_10_0_0_2 with node v, AS 64512 to AS 64512
  - Mesh_10_0_0_3 with node w, AS 64512 to AS 64512
  warning: node r is a route reflector, which takes it out of the mesh, and no BGPPeer gives it a session: it is isolated; add a BGPPeer whose peerSelector matches it
isolated: node r has no IPv4 session
"
        );
        let back = Difference::new(&after, &before, Some("w"));
        assert_eq!(
            back.to_string(),
            "\
node w
  + Mesh_10_0_0_1 with node r, AS 64512 to AS 64512
  = 1 session as it is
  no longer: the mesh leaves out route reflectors, and this node has no session with any of them (r), so it does not learn what they tell; add a BGPPeer whose peerSelector matches them
no longer isolated: node r has no IPv4 session
"
        );
        let json = serde_json::to_value(&difference).unwrap();
        assert_eq!(json["nodes"]["r"]["removed"][0]["remote"], "v");
        assert_eq!(json["isolated_after"][0]["problem"], "noSession");
    }

    #[test]
    fn another_as_number_or_address_of_a_node_resets_its_sessions_and_no_others() {
        let before = mesh();
        let mut after = before.clone();
        let spec = json!({"bgp": {"ipv4Address": "10.0.0.2/24", "asNumber": 65001}});
        put(&mut after, Kind::Node, json!({"metadata": {"name": "v"}, "spec": spec}));
        let difference = Difference::new(&before, &after, None);
        let counts = |name: &str| {
            let node = &difference.nodes[name];
            (node.kept.len(), node.changed.len(), node.reset.len(), node.added.len(), node.removed.len())
        };
        assert_eq!((counts("r"), counts("v"), counts("w")), ((1, 0, 1, 0, 0), (0, 0, 2, 0, 0), (1, 0, 1, 0, 0)));

        let mut after = before.clone();
        node(&mut after, "v", "10.0.0.9", false);
        let difference = Difference::new(&before, &after, Some("v"));
        let fields: Vec<_> = difference.nodes["v"].reset[0].fields.iter().map(|change| change.field).collect();
        assert_eq!(fields, [Field::Source, Field::RouterId]);
        assert_eq!(difference.nodes.len(), 1);
    }

    #[test]
    fn a_node_that_comes_and_one_that_goes_touch_only_sessions_with_them() {
        let before = mesh();
        let mut after = before.clone();
        node(&mut after, "x", "10.0.0.4", false);
        after.apply("", inputs::Change::Delete(Key::named(Kind::Node, "v"))).unwrap();
        let difference = Difference::new(&before, &after, None);
        assert_eq!(difference.nodes["v"].removed.len(), 2);
        assert_eq!(difference.nodes["x"].added.len(), 2);
        let r = &difference.nodes["r"];
        assert_eq!((r.kept.len(), r.added.len(), r.removed.len()), (1, 1, 1));
        assert_eq!(difference.isolated_after, BTreeSet::new());
    }
}
