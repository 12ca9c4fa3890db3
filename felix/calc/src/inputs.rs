//! What is the calculation told?

use calico_api::{BGPConfiguration, BGPPeer, IPAMBlock, IPPool, Key, Node, Profile, WorkloadEndpoint};
use ipnet::IpNet;

/// What the calculation must know beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// With what the names of workloads' interfaces begin (`InterfacePrefix`).
    pub prefixes: Vec<String>,
    /// Who else routes to other nodes.
    pub routing: Routing,
    /// FelixConfiguration's `programClusterRoutes`: one half of who programs which routes to other nodes.
    pub felix_programs: Option<String>,
    /// What counts as a node beside the nodes (`ExternalNodesCIDRList`).
    pub external_nodes: Vec<IpNet>,
}

/// Who routes to other nodes beside felix, by `CALICO_NETWORKING_BACKEND`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// `bird`: the BGP speaker. The two `programClusterRoutes` say who programs which class of routes.
    #[default]
    Bgp,
    /// `vxlan`: nobody. All classes are felix's.
    WithoutBgp,
    /// `none`: another network. Felix programs no route to other nodes, and no tunnel.
    Off,
}

/// What the datastore's watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// An endpoint was created or changed.
    Endpoint(Box<WorkloadEndpoint>),
    /// A block was created or changed.
    Block(Box<IPAMBlock>),
    /// A BGPPeer was created or changed.
    Peer(Box<BGPPeer>),
    /// A BGPConfiguration was created or changed. Who programs which routes is told by [`Update::Programs`].
    Configuration(Box<BGPConfiguration>),
    /// What BGPConfiguration `default` says in `programClusterRoutes` as it is stored now
    /// ([`bgp_plan::owners::written`]), whether or not the rest of that version can be read: the BGP speaker reads the same,
    /// and both must come to one owner. Told again only by another version, or by the deletion of that configuration.
    Programs(Option<String>),
    /// The same of FelixConfiguration `default`, if it changes while felix runs: in place of [`Settings::felix_programs`].
    FelixPrograms(Option<String>),
    /// A node was created or changed, whichever.
    Node(Box<Node>),
    /// A pool was created or changed.
    Pool(Box<IPPool>),
    /// The addresses that this node's interfaces hold, with the lengths of their subnets: all that are there now. They are
    /// asked where a Node's address has no length, and so are best told before [`Update::InSync`].
    Subnets(Vec<IpNet>),
    /// A profile was created or changed.
    Profile(Box<Profile>),
    /// All profiles that are in the store have been told; they are watched only while [`Calc::needs_profiles`](crate::Calc::needs_profiles).
    ProfilesInSync,
    /// Profiles are not watched any more.
    ProfilesUnwatched,
    /// Something is gone. Unknown keys are no error.
    Deleted(Key),
    /// Something changed to what cannot be read: its last good version stays in force.
    Fault {
        /// Its key, if that much could be read.
        key: Option<Key>,
        /// What is wrong.
        reason: String,
    },
    /// Everything that was in the store at the start has been told.
    InSync,
}

/// What the agent knows of an endpoint before the watch does.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// It was just attached.
    Present(Box<WorkloadEndpoint>),
    /// The container it was made for is gone.
    Gone {
        /// That container.
        container: String,
    },
}
