//! The kinds of resource there are: names, plurals, scope.

use std::fmt;

/// Whether resources of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One name space for the whole cluster.
    Cluster,
    /// A name space in each Kubernetes namespace.
    Namespaced,
}

macro_rules! kinds {
    ($($kind:ident $plural:literal $scope:ident $status:literal;)*) => {
        /// A kind of resource, spelled as users spell it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum Kind { $($kind,)* }

        impl Kind {
            /// Every kind, in alphabetical order.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// As it stands in `kind:`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// As it stands in a path of the Kubernetes API or a key of etcd.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)* }
            }

            /// Cluster-wide or namespaced.
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope,)* }
            }

            /// Whether its custom resource has a `/status` subresource.
            pub const fn has_status(self) -> bool {
                match self { $(Self::$kind => $status,)* }
            }
        }
    };
}

kinds! {
    BGPConfiguration "bgpconfigurations" Cluster false;
    BGPFilter "bgpfilters" Cluster false;
    BGPPeer "bgppeers" Cluster false;
    BlockAffinity "blockaffinities" Cluster false;
    CalicoNodeStatus "caliconodestatuses" Cluster true;
    ClusterInformation "clusterinformations" Cluster false;
    FelixConfiguration "felixconfigurations" Cluster false;
    GlobalNetworkPolicy "globalnetworkpolicies" Cluster false;
    GlobalNetworkSet "globalnetworksets" Cluster false;
    HostEndpoint "hostendpoints" Cluster false;
    IPAMBlock "ipamblocks" Cluster false;
    IPAMConfiguration "ipamconfigurations" Cluster false;
    IPAMHandle "ipamhandles" Cluster false;
    IPPool "ippools" Cluster true;
    IPReservation "ipreservations" Cluster false;
    KubeControllersConfiguration "kubecontrollersconfigurations" Cluster true;
    NetworkPolicy "networkpolicies" Namespaced false;
    NetworkSet "networksets" Namespaced false;
    Node "nodes" Cluster false;
    Profile "profiles" Cluster false;
    StagedGlobalNetworkPolicy "stagedglobalnetworkpolicies" Cluster false;
    StagedKubernetesNetworkPolicy "stagedkubernetesnetworkpolicies" Namespaced false;
    StagedNetworkPolicy "stagednetworkpolicies" Namespaced false;
    Tier "tiers" Cluster true;
    WorkloadEndpoint "workloadendpoints" Namespaced false;
}

impl Kind {
    /// The kind that is spelled exactly so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Whether its resources live in namespaces.
    pub fn namespaced(self) -> bool {
        self.scope() == Scope::Namespaced
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
