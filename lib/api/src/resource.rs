//! The frame of every resource: `apiVersion`, `kind`, `metadata`, `spec`, `status`.

use std::any::TypeId;
use std::fmt::Debug;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::ser::{Error as _, SerializeMap, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use serde_json::Value;

use crate::null::null_is_empty;
use crate::{Key, Kind, ObjectMeta};

/// What makes a type the spec of a kind.
pub trait Spec: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind it belongs to.
    const KIND: Kind;
    /// Whether its fields stand beside `metadata` and not under `spec`, as some of Kubernetes' own kinds have it.
    const FLAT: bool = false;
    /// Whether its values are never shown, in errors neither.
    const SECRET: bool = false;
    /// What observers write back; [`NoStatus`] where the kind has none.
    type Status: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The key of a resource with this metadata and spec.
    fn key(&self, metadata: &ObjectMeta) -> Key {
        Key::Named { kind: Self::KIND, namespace: metadata.namespace.clone(), name: metadata.name().to_owned() }
    }
}

/// The status of kinds that have none. A newer release may write one: it is let pass, and is an unknown field to
/// [`strict`](crate::strict) decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoStatus;

impl Serialize for NoStatus {
    fn serialize<W: Serializer>(&self, serializer: W) -> Result<W::Ok, W::Error> {
        serializer.serialize_struct("NoStatus", 0)?.end()
    }
}

impl<'de> Deserialize<'de> for NoStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// A resource: metadata and a spec, and for some kinds a status.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource<S: Spec> {
    /// Name, labels, revision.
    pub metadata: ObjectMeta,
    /// What somebody wants.
    pub spec: S,
    /// What somebody saw.
    pub status: Option<S::Status>,
}

impl<S: Spec> Resource<S> {
    /// A resource that is not stored yet.
    pub fn new(metadata: ObjectMeta, spec: S) -> Self {
        Self { metadata, spec, status: None }
    }

    /// What it is stored under.
    pub fn key(&self) -> Key {
        self.spec.key(&self.metadata)
    }

    /// The name, or the empty string if it is absent.
    pub fn name(&self) -> &str {
        self.metadata.name()
    }
}

impl<S: Spec> Serialize for Resource<S> {
    fn serialize<W: Serializer>(&self, serializer: W) -> Result<W::Ok, W::Error> {
        let mut out = serializer.serialize_map(None)?;
        out.serialize_entry("apiVersion", S::KIND.api_version())?;
        out.serialize_entry("kind", S::KIND.as_str())?;
        out.serialize_entry("metadata", &self.metadata)?;
        if S::FLAT {
            let spec = serde_json::to_value(&self.spec).map_err(W::Error::custom)?;
            for (field, value) in spec.as_object().into_iter().flatten() {
                out.serialize_entry(field, value)?;
            }
        } else {
            out.serialize_entry("spec", &self.spec)?;
        }
        if let Some(status) = &self.status {
            out.serialize_entry("status", status)?;
        }
        out.end()
    }
}

/// The frame with everything optional, as it may stand in a file or a store.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "S: Spec")]
struct Frame<S: Spec> {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    metadata: ObjectMeta,
    #[serde(default = "Option::default")]
    spec: Option<S>,
    #[serde(default = "Option::default")]
    status: Option<S::Status>,
}

impl<'de, S: Spec> Deserialize<'de> for Resource<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut frame = if S::FLAT { flat(deserializer)? } else { Frame::<S>::deserialize(deserializer)? };
        if let Some(kind) = &frame.kind
            && kind != S::KIND.as_str()
        {
            return Err(D::Error::custom(format!("kind is {kind}, expected {}", S::KIND)));
        }
        let expected = S::KIND.api_version();
        if let Some(version) = &frame.api_version
            && version != expected
        {
            return Err(D::Error::custom(format!("apiVersion is {version}, expected {expected}")));
        }
        let spec = match frame.spec {
            Some(spec) => spec,
            // An absent spec is an empty one, where an empty one is legal at all.
            None => S::deserialize(serde_json::json!({})).map_err(D::Error::custom)?,
        };
        if S::SECRET {
            frame.metadata.annotations.remove(LAST_APPLIED);
        }
        // What was let pass as a `NoStatus` is not kept.
        let status = frame.status.filter(|_| TypeId::of::<S::Status>() != TypeId::of::<NoStatus>());
        Ok(Self { metadata: frame.metadata, spec, status })
    }
}

/// Where `kubectl apply` keeps a copy of the object, a Secret's values too.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reads a resource whose spec stands beside its metadata.
fn flat<'de, S: Spec, D: Deserializer<'de>>(deserializer: D) -> Result<Frame<S>, D::Error> {
    let mut spec = serde_json::Map::deserialize(deserializer)?;
    let frame: serde_json::Map<_, _> =
        ["apiVersion", "kind", "metadata"].iter().filter_map(|field| spec.remove_entry(*field)).collect();
    let mut frame: Frame<S> = serde_path_to_error::deserialize(Value::Object(frame)).map_err(D::Error::custom)?;
    let spec = serde_path_to_error::deserialize(Value::Object(spec)).map_err(|error| {
        if S::SECRET {
            D::Error::custom(format!("{}: it is not what belongs there: texts, in quotes", error.path()))
        } else {
            D::Error::custom(error)
        }
    })?;
    frame.spec = Some(spec);
    Ok(frame)
}
