//! What does it take to get from one configuration of a session to another?
//!
//! A session is reset only where the protocol gives no other way. It is, when what both ends agreed on in their OPENs,
//! or what their TCP connection is made of, is another: the AS numbers, the peer's address or the speaker behind a port,
//! the address that we speak from, the password. (So it is by a new router ID, which all sessions share: [`Field::RouterId`].)
//!
//! All else is applied to the session that is up:
//! - import policy, and with it `numAllowedLocalASNumbers`: from the Adj-RIB-In;
//! - export policy, `nextHopMode`, whether the peer is a client and the cluster ID: by telling the peer what differs;
//! - TTL security: by the socket options IP_TTL and IP_MINTTL of the open connection. What arrives before the other
//!   side has changed too is sent again by TCP; who does not follow is lost with the hold timer, as is right;
//! - who dials, and the port to dial: when there is next something to dial;
//! - the interval of keepalives: at once; restart time: with the next OPEN (RFC 4724 has no other place for it);
//! - `reachableBy`: a route of the kernel; names and origins are only words.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};

use calico_api::BGPPassword;
use serde::{Serialize, Serializer};

use super::SessionConfig;

/// What a change of configuration means for a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// Nothing.
    #[default]
    None,
    /// It is applied while the session is up.
    Live,
    /// It needs a new session.
    Reset,
}

macro_rules! fields {
    ($($field:ident $name:literal $doc:literal;)*) => {
        /// A field of a session's configuration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Field { $(#[doc = $doc] $field,)* }

        impl Field {
            /// Its name, that of the resources where there is one.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$field => $name,)* }
            }
        }
    };
}

fields! {
    Name "name" "The session's name.";
    Origin "origin" "Mesh, global, node specific or local workload.";
    Resource "BGPPeer" "The BGPPeer that it follows from.";
    Address "peer address" "The peer's address.";
    Port "peer port" "The port to dial.";
    Remote "node" "The node that the peer is.";
    Source "sourceAddress" "The address that we dial from.";
    LocalAs "localASNumber" "Our AS number.";
    PeerAs "asNumber" "The peer's AS number.";
    Passive "passive" "Whether only the peer dials.";
    ClusterId "routeReflectorClusterID" "Our cluster ID.";
    Client "reflector client" "Whether the peer is our client.";
    RestartTime "maxRestartTime" "Restart time that we offer.";
    Keepalive "keepaliveTime" "Interval of keepalives.";
    TtlSecurity "ttlSecurity" "How far away the peer may be.";
    NextHop "nextHopMode" "What goes out as NEXT_HOP.";
    AllowedLocalAs "numAllowedLocalASNumbers" "How often our AS may occur in a received path.";
    ReachableBy "reachableBy" "Gateway to the peer.";
    Password "password" "Which Secret holds the password.";
    Filters "filters" "Names of BGPFilters.";
    RouterId "router ID" "Our BGP identifier, which all sessions share.";
}

impl Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Which.
    pub field: Field,
    /// What it was.
    pub from: String,
    /// What it is now.
    pub to: String,
    /// What that means for the session.
    pub change: Change,
}

impl Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.field, self.from, self.to)
    }
}

impl SessionConfig {
    /// What a session is recognised by when it is planned anew: whatever its name, a session with the same peer is the
    /// same session. The port is 179 where none is configured.
    pub fn key(&self) -> SocketAddr {
        self.peer
    }

    /// What it takes to go from `self` to `other`.
    pub fn change_to(&self, other: &Self) -> Change {
        if self == other {
            return Change::None;
        }
        self.changes_to(other).iter().map(|change| change.change).max().unwrap_or_default()
    }

    /// Whether going from `self` to `other` needs a new session.
    pub fn resets_to(&self, other: &Self) -> bool {
        self.change_to(other) == Change::Reset
    }

    /// The fields in which `other` differs, and what it takes to change each.
    pub fn changes_to(&self, other: &Self) -> Vec<FieldChange> {
        let mut changes = Changes(Vec::new());
        let live = Change::Live;
        changes.add(Field::Name, live, &self.name, &other.name, ToString::to_string);
        changes.add(Field::Origin, live, &self.origin, &other.origin, |origin| origin.words().to_owned());
        changes.add(Field::Resource, live, &self.resource, &other.resource, optional);
        changes.add(Field::Address, Change::Reset, &self.peer.ip(), &other.peer.ip(), ToString::to_string);
        changes.add(Field::Port, self.new_port(other), &self.peer.port(), &other.peer.port(), ToString::to_string);
        changes.add(Field::Remote, live, &self.remote, &other.remote, optional);
        // Any source will do where none is asked for, so the connection that is there will.
        let source = if other.source.is_none() { live } else { Change::Reset };
        changes.add(Field::Source, source, &self.source, &other.source, optional);
        changes.add(Field::LocalAs, Change::Reset, &self.local_as, &other.local_as, ToString::to_string);
        changes.add(Field::PeerAs, Change::Reset, &self.peer_as, &other.peer_as, ToString::to_string);
        changes.add(Field::Passive, live, &self.passive, &other.passive, ToString::to_string);
        changes.add(Field::ClusterId, live, &self.cluster_id, &other.cluster_id, optional);
        changes.add(Field::Client, live, &self.client, &other.client, ToString::to_string);
        let seconds = |seconds: &u16| format!("{seconds}s");
        changes.add(Field::RestartTime, live, &self.restart_time, &other.restart_time, seconds);
        let or_third = |time: &Option<u16>| time.map_or("a third of the hold time".to_owned(), |time| seconds(&time));
        changes.add(Field::Keepalive, live, &self.keepalive, &other.keepalive, or_third);
        let hops = |hops: &Option<u8>| hops.map_or("off".to_owned(), |hops| hops.to_string());
        changes.add(Field::TtlSecurity, live, &self.ttl_security, &other.ttl_security, hops);
        let mode = |mode: &super::NextHopMode| match mode {
            super::NextHopMode::Auto => "Auto".to_owned(),
            super::NextHopMode::Own => "Self".to_owned(),
            super::NextHopMode::Keep => "Keep".to_owned(),
        };
        changes.add(Field::NextHop, live, &self.next_hop, &other.next_hop, mode);
        let number = ToString::to_string;
        changes.add(Field::AllowedLocalAs, live, &self.allowed_local_as, &other.allowed_local_as, number);
        changes.add(Field::ReachableBy, live, &self.reachable_by, &other.reachable_by, optional);
        changes.add(Field::Password, Change::Reset, &self.password, &other.password, secret);
        let names = |names: &Vec<String>| format!("[{}]", names.join(", "));
        changes.add(Field::Filters, live, &self.filters, &other.filters, names);
        changes.0
    }

    /// What another port means: behind it is the same speaker if we never dial it, or if it is one node's.
    fn new_port(&self, other: &Self) -> Change {
        let same_node = self.remote.is_some() && self.remote == other.remote;
        if same_node || self.passive && other.passive { Change::Live } else { Change::Reset }
    }
}

struct Changes(Vec<FieldChange>);

impl Changes {
    fn add<T: PartialEq>(&mut self, field: Field, change: Change, from: &T, to: &T, text: impl Fn(&T) -> String) {
        if from != to {
            self.0.push(FieldChange { field, from: text(from), to: text(to), change });
        }
    }
}

fn optional<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or("none".to_owned(), T::to_string)
}

/// Where the password is kept; never what it is.
fn secret(password: &Option<BGPPassword>) -> String {
    match password.as_ref().map(|password| &password.secret_key_ref) {
        None => "none".to_owned(),
        Some(None) => "of no Secret".to_owned(),
        Some(Some(reference)) => format!("{}/{}", reference.name, reference.key),
    }
}

/// Which sessions of a new plan are which of the old.
#[derive(Clone, Debug, Default)]
pub struct Pairs<'a> {
    /// Old and new configuration of one session.
    pub kept: Vec<(&'a SessionConfig, &'a SessionConfig)>,
    /// Sessions that there are no longer.
    pub removed: Vec<&'a SessionConfig>,
    /// Sessions that there were not.
    pub added: Vec<&'a SessionConfig>,
}

impl<'a> Pairs<'a> {
    /// Pairs sessions by their [key](SessionConfig::key), and what is left by address, if there is one on either side:
    /// a peer that moved to another port.
    pub fn new(old: impl IntoIterator<Item = &'a SessionConfig>, new: &'a [SessionConfig]) -> Self {
        let mut before: BTreeMap<SocketAddr, &SessionConfig> =
            old.into_iter().map(|session| (session.key(), session)).collect();
        let mut pairs = Self::default();
        let mut unpaired: BTreeMap<IpAddr, Vec<&SessionConfig>> = BTreeMap::new();
        for session in new {
            match before.remove(&session.key()) {
                Some(old) => pairs.kept.push((old, session)),
                None => unpaired.entry(session.peer.ip()).or_default().push(session),
            }
        }
        let mut left: BTreeMap<IpAddr, Vec<&SessionConfig>> = BTreeMap::new();
        for session in before.into_values() {
            left.entry(session.peer.ip()).or_default().push(session);
        }
        for (address, new) in unpaired {
            match (left.get(&address).map(Vec::as_slice), new.as_slice()) {
                (Some([old]), [new]) => {
                    pairs.kept.push((old, new));
                    left.remove(&address);
                }
                _ => pairs.added.extend(new),
            }
        }
        pairs.removed = left.into_values().flatten().collect();
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NextHopMode, Origin};
    use super::*;

    fn session() -> SessionConfig {
        SessionConfig {
            remote: Some("b".to_owned()),
            source: Some("10.0.0.1".parse().unwrap()),
            passive: true,
            ..SessionConfig::new(Origin::Mesh, "10.0.0.2:179".parse().unwrap(), 64512, 64512)
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut SessionConfig), expected: Change, text: &str) {
        let (old, mut new) = (session(), session());
        change(&mut new);
        assert_eq!(old.change_to(&new), expected);
        let texts: Vec<_> = old.changes_to(&new).iter().map(ToString::to_string).collect();
        assert_eq!(texts.join("; "), text);
    }

    #[test]
    fn a_session_is_reset_only_where_the_protocol_gives_no_other_way() {
        check(|_| {}, Change::None, "");
        check(|s| s.peer_as = 65000, Change::Reset, "asNumber: 64512 → 65000");
        check(|s| s.local_as = 65000, Change::Reset, "localASNumber: 64512 → 65000");
        check(|s| s.source = None, Change::Live, "sourceAddress: 10.0.0.1 → none");
        check(|s| s.source = Some("10.0.0.9".parse().unwrap()), Change::Reset, "sourceAddress: 10.0.0.1 → 10.0.0.9");
        check(|s| s.password = Some(BGPPassword::default()), Change::Reset, "password: none → of no Secret");
        check(|s| s.passive = false, Change::Live, "passive: true → false");
        check(
            |s| s.cluster_id = Some([244, 0, 0, 1].into()),
            Change::Live,
            "routeReflectorClusterID: none → 244.0.0.1",
        );
        check(|s| s.client = true, Change::Live, "reflector client: false → true");
        check(|s| s.restart_time = 300, Change::Live, "maxRestartTime: 120s → 300s");
        check(|s| s.keepalive = Some(5), Change::Live, "keepaliveTime: a third of the hold time → 5s");
        check(|s| s.ttl_security = Some(1), Change::Live, "ttlSecurity: off → 1");
        check(|s| s.next_hop = NextHopMode::Own, Change::Live, "nextHopMode: Auto → Self");
        check(|s| s.allowed_local_as = 1, Change::Live, "numAllowedLocalASNumbers: 0 → 1");
        check(|s| s.filters = vec!["f".to_owned()], Change::Live, "filters: [] → [f]");
    }

    #[test]
    fn a_mesh_session_that_becomes_an_explicit_one_stays_up() {
        check(
            |s| {
                s.name = "Node_10_0_0_2".to_owned();
                s.origin = Origin::Node;
                s.resource = Some("rr".to_owned());
                s.passive = false;
            },
            Change::Live,
            "name: Mesh_10_0_0_2 → Node_10_0_0_2; origin: node-to-node mesh → node specific; BGPPeer: none → rr; passive: true → false",
        );
    }

    #[test]
    fn a_peer_that_moves_to_another_port_is_the_same_if_it_is_the_same_node() {
        let moved = SessionConfig { peer: "10.0.0.2:1179".parse().unwrap(), passive: false, ..session() };
        let (old, new) = ([session()], [moved.clone()]);
        let pairs = Pairs::new(&old, &new);
        assert_eq!((pairs.kept.len(), pairs.added.len(), pairs.removed.len()), (1, 0, 0));
        assert_eq!(old[0].change_to(&moved), Change::Live);
        let stranger = |config: &SessionConfig| SessionConfig { remote: None, passive: false, ..config.clone() };
        assert_eq!(stranger(&old[0]).change_to(&stranger(&moved)), Change::Reset, "another speaker may listen there");

        let both = [session(), moved];
        let pairs = Pairs::new(&old, &both);
        assert_eq!((pairs.kept.len(), pairs.added.len()), (1, 1));
        assert_eq!(pairs.added[0].peer.port(), 1179);
    }
}
