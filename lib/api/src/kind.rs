//! The kinds of resource there are: names, plurals, scope.
//!
//! Beside Calico's own there are three *core kinds*, Kubernetes' own resources that BGP reads: `Secret` (passwords),
//! `Service` and `EndpointSlice` (service addresses). [`Kind::ALL`] has Calico's, [`Kind::CORE`] the others.

use std::fmt;

use crate::API_VERSION;

/// Whether resources of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One name space for the whole cluster.
    Cluster,
    /// A name space in each Kubernetes namespace.
    Namespaced,
}

macro_rules! kinds {
    (
        calico { $($kind:ident $plural:literal $scope:ident $status:literal;)* }
        core { $($core:ident $core_plural:literal $version:literal;)* }
    ) => {
        /// A kind of resource, spelled as users spell it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum Kind { $($kind,)* $($core,)* }

        impl Kind {
            /// Every kind of Calico's, in alphabetical order.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Kubernetes' own kinds that we read, in alphabetical order.
            pub const CORE: &'static [Self] = &[$(Self::$core,)*];

            /// As it stands in `kind:`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* $(Self::$core => stringify!($core),)* }
            }

            /// As it stands in a path of the Kubernetes API or a key of etcd.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)* $(Self::$core => $core_plural,)* }
            }

            /// Cluster-wide or namespaced.
            pub const fn scope(self) -> Scope {
                match self { $(Self::$kind => Scope::$scope,)* $(Self::$core => Scope::Namespaced,)* }
            }

            /// Whether its custom resource has a `/status` subresource.
            pub const fn has_status(self) -> bool {
                match self { $(Self::$kind => $status,)* $(Self::$core => false,)* }
            }

            /// Group and version, as they stand in `apiVersion:`.
            pub const fn api_version(self) -> &'static str {
                match self { $(Self::$core => $version,)* _ => API_VERSION }
            }
        }
    };
}

kinds! {
    calico {
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
    core {
        EndpointSlice "endpointslices" "discovery.k8s.io/v1";
        Secret "secrets" "v1";
        Service "services" "v1";
    }
}

impl Kind {
    /// Calico's kinds and the core kinds.
    pub fn every() -> impl Iterator<Item = Self> {
        Self::ALL.iter().chain(Self::CORE).copied()
    }

    /// The kind that is spelled exactly so, a core kind too.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::every().find(|kind| kind.as_str() == name)
    }

    /// Whether it is one of Kubernetes' own.
    pub fn is_core(self) -> bool {
        Self::CORE.contains(&self)
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
