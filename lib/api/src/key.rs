//! What a resource is stored under, and the spellings of that in each store.
//!
//! Most kinds have a name. IPAM's three have structure (a block is its CIDR, an affinity is an
//! owner and a CIDR), from which Kubernetes makes names that cannot always be parsed back;
//! so a key keeps the structure.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::names::{affinity_name, cidr_name};
use crate::{BlockAffinitySpec, IPAMBlockSpec, IPAMHandleSpec, Kind, ObjectMeta, Spec};

/// The owner of an IPAM block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A node; `host:<node>` in the formats.
    Host(String),
    /// Something that is not a node, such as `load-balancer`; `virtual:<name>` in the formats.
    Virtual(String),
}

impl Owner {
    /// The name without the type.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Virtual(name) => name,
        }
    }

    /// `host` or `virtual`.
    pub fn type_str(&self) -> &'static str {
        match self {
            Self::Host(_) => "host",
            Self::Virtual(_) => "virtual",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.type_str(), self.name())
    }
}

impl FromStr for Owner {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.split_once(':') {
            Some(("host", name)) if !name.is_empty() => Ok(Self::Host(name.to_owned())),
            Some(("virtual", name)) if !name.is_empty() => Ok(Self::Virtual(name.to_owned())),
            _ => Err(KeyError(format!("\"{text}\" is not host:<node> or virtual:<name>"))),
        }
    }
}

/// What a resource is stored under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A kind and a name, and a namespace where the kind has them.
    Named {
        /// The kind.
        kind: Kind,
        /// Its namespace, for namespaced kinds.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// An IPAM block by its CIDR.
    Block(IpNet),
    /// The claim of an owner to a block.
    Affinity {
        /// Who claims.
        owner: Owner,
        /// Which block.
        cidr: IpNet,
    },
    /// An IPAM handle by its id, in the original case.
    Handle(String),
}

impl Key {
    /// The key of a cluster-scoped resource.
    pub fn named(kind: Kind, name: impl Into<String>) -> Self {
        Self::Named { kind, namespace: None, name: name.into() }
    }

    /// The key of a namespaced resource.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Named { kind, namespace: Some(namespace.into()), name: name.into() }
    }

    /// The kind of what is stored there.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Named { kind, .. } => *kind,
            Self::Block(_) => Kind::IPAMBlock,
            Self::Affinity { .. } => Kind::BlockAffinity,
            Self::Handle(_) => Kind::IPAMHandle,
        }
    }

    /// The namespace, for namespaced kinds.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Named { namespace, .. } => namespace.as_deref(),
            _ => None,
        }
    }

    /// The name as the Kubernetes store has it.
    pub fn name(&self) -> String {
        match self {
            Self::Named { name, .. } => name.clone(),
            Self::Block(cidr) => cidr_name(cidr),
            Self::Affinity { owner, cidr } => affinity_name(owner.name(), cidr),
            Self::Handle(id) => id.to_lowercase(),
        }
    }

    /// The key of a stored value, from the value itself.
    ///
    /// # Errors
    /// If what makes the key (the name, or the CIDR and owner) is not there or not readable.
    pub fn of_value(kind: Kind, value: &serde_json::Value) -> Result<Self, KeyError> {
        fn part<T: serde::de::DeserializeOwned>(value: &serde_json::Value, field: &str) -> Result<T, KeyError> {
            let part = value.get(field).cloned().unwrap_or_else(|| serde_json::json!({}));
            serde_json::from_value(part).map_err(|error| KeyError(format!("{field}: {error}")))
        }
        let metadata: ObjectMeta = part(value, "metadata")?;
        let key = match kind {
            Kind::IPAMBlock => part::<IPAMBlockSpec>(value, "spec")?.key(&metadata),
            Kind::BlockAffinity => part::<BlockAffinitySpec>(value, "spec")?.key(&metadata),
            Kind::IPAMHandle => part::<IPAMHandleSpec>(value, "spec")?.key(&metadata),
            kind => Self::Named { kind, namespace: metadata.namespace.clone(), name: metadata.name().to_owned() },
        };
        match &key {
            Self::Named { name, .. } if name.is_empty() => Err(KeyError("metadata.name is empty".to_owned())),
            _ => Ok(key),
        }
    }
}

impl fmt::Display for Key {
    /// `IPPool(pods-a)`, `NetworkPolicy(shop/web)`, `IPAMBlock(10.244.0.0/26)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { kind, namespace: Some(namespace), name } => write!(f, "{kind}({namespace}/{name})"),
            Self::Named { kind, namespace: None, name } => write!(f, "{kind}({name})"),
            Self::Block(cidr) => write!(f, "IPAMBlock({cidr})"),
            Self::Affinity { owner, cidr } => write!(f, "BlockAffinity({owner}, {cidr})"),
            Self::Handle(id) => write!(f, "IPAMHandle({id})"),
        }
    }
}

/// A key could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub(crate) String);
