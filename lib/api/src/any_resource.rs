//! A resource of any kind: what files hold and what code that treats all kinds alike passes on.

use std::any::Any;

use serde_json::Value;

use crate::strict::{self, StrictError};
use crate::{Key, Kind, ObjectMeta, Resource, Spec};

/// Why a value is not a resource that we know.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// The pair of `apiVersion` and `kind` is none of ours.
    #[error("unknown resource type ({kind}) and/or version ({api_version})")]
    UnknownType {
        /// As it was written; empty if it was not.
        kind: String,
        /// As it was written; empty if it was not.
        api_version: String,
    },
    /// A field that the kind does not have, or something that is not of the field's type.
    #[error(transparent)]
    Decode(#[from] StrictError),
}

macro_rules! any_resource {
    ($($kind:ident)*) => {
        /// A resource, one variant a [`Kind`].
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // the names are the documentation
        pub enum AnyResource { $($kind(Box<crate::$kind>),)* }

        impl AnyResource {
            fn decode(kind: Kind, value: Value, decoder: Decoder) -> Result<Self, StrictError> {
                Ok(match kind { $(Kind::$kind => Self::$kind(Box::new(decoder.decode(value)?)),)* })
            }

            /// The kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Name, labels, revision.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Self::$kind(resource) => &resource.metadata,)* }
            }

            /// Name, labels, revision.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Self::$kind(resource) => &mut resource.metadata,)* }
            }

            /// What it is stored under.
            pub fn key(&self) -> Key {
                match self { $(Self::$kind(resource) => resource.key(),)* }
            }

            /// As it stands in a file or a store, with `apiVersion` and `kind`.
            pub fn to_value(&self) -> Value {
                let value = match self { $(Self::$kind(resource) => serde_json::to_value(resource),)* };
                value.expect("resources are made of maps with text for keys, lists and scalars")
            }

            /// The resource itself, if it is of the kind asked for.
            pub fn get<S: Spec>(&self) -> Option<&Resource<S>> {
                let resource: &dyn Any = match self { $(Self::$kind(resource) => &**resource,)* };
                resource.downcast_ref()
            }

            /// The resource itself, if it is of the kind asked for.
            pub fn get_mut<S: Spec>(&mut self) -> Option<&mut Resource<S>> {
                let resource: &mut dyn Any = match self { $(Self::$kind(resource) => &mut **resource,)* };
                resource.downcast_mut()
            }

            /// The resource itself, if it is of the kind asked for, else what was given.
            ///
            /// # Errors
            /// `self` again, if it is of another kind.
            pub fn into_typed<S: Spec>(self) -> Result<Resource<S>, Self> {
                match self {
                    $(Self::$kind(resource) => {
                        let resource: Box<dyn Any> = resource;
                        match resource.downcast::<Resource<S>>() {
                            Ok(resource) => Ok(*resource),
                            Err(other) => Err(Self::$kind(
                                other.downcast().expect("a box that was just made from this type"),
                            )),
                        }
                    })*
                }
            }
        }

        $(
            impl From<crate::$kind> for AnyResource {
                fn from(resource: crate::$kind) -> Self {
                    Self::$kind(Box::new(resource))
                }
            }
        )*
    };
}

any_resource! {
    BGPConfiguration BGPFilter BGPPeer BlockAffinity CalicoNodeStatus ClusterInformation FelixConfiguration
    GlobalNetworkPolicy GlobalNetworkSet HostEndpoint IPAMBlock IPAMConfiguration IPAMHandle IPPool IPReservation
    KubeControllersConfiguration NetworkPolicy NetworkSet Node Profile StagedGlobalNetworkPolicy
    StagedKubernetesNetworkPolicy StagedNetworkPolicy Tier WorkloadEndpoint
    EndpointSlice Secret Service
}

impl AnyResource {
    /// Decodes what a store holds: unknown fields are let pass, and `apiVersion` may be absent.
    ///
    /// # Errors
    /// [`ResourceError::UnknownType`] if the value does not say that it is of a kind of ours, and
    /// [`ResourceError::Decode`] if it is not of that kind.
    pub fn from_value(value: Value) -> Result<Self, ResourceError> {
        let kind = kind_of(&value, true)?;
        Ok(Self::decode(kind, value, Decoder::Lenient)?)
    }

    /// Decodes what a person wrote: unknown fields are refused, but for those of core kinds, of which we know only a
    /// part; they are let pass and not kept.
    ///
    /// # Errors
    /// As [`from_value`](Self::from_value); the first unknown field is named by its path.
    pub fn strict_from_value(value: Value) -> Result<Self, ResourceError> {
        let kind = kind_of(&value, false)?;
        let decoder = if kind.is_core() { Decoder::Lenient } else { Decoder::Strict };
        let resource = Self::decode(kind, value.clone(), decoder)?;
        match list_for_map(&value, &resource.to_value(), String::new()) {
            Some(path) => {
                let source = serde::de::Error::custom("invalid type: sequence, expected a map");
                Err(StrictError::Decode { path, source }.into())
            }
            None => Ok(resource),
        }
    }

    /// The name, or the empty string if it is absent.
    pub fn name(&self) -> &str {
        self.metadata().name()
    }
}

/// The path of a list that was taken for a map: serde reads the elements as the fields in order, which nobody means.
fn list_for_map(written: &Value, read: &Value, path: String) -> Option<String> {
    match (written, read) {
        (Value::Array(_), Value::Object(_)) => Some(path),
        (Value::Array(written), Value::Array(read)) => written
            .iter()
            .zip(read)
            .enumerate()
            .find_map(|(index, (written, read))| list_for_map(written, read, format!("{path}[{index}]"))),
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, written)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            list_for_map(written, read.get(key)?, path)
        }),
        _ => None,
    }
}

/// Which fields are accepted.
#[derive(Clone, Copy)]
enum Decoder {
    Lenient,
    Strict,
}

impl Decoder {
    fn decode<T: serde::de::DeserializeOwned>(self, value: Value) -> Result<T, StrictError> {
        match self {
            Self::Lenient => strict::lenient_from_value(value),
            Self::Strict => strict::from_value(value),
        }
    }
}

fn kind_of(value: &Value, version_may_be_absent: bool) -> Result<Kind, ResourceError> {
    let text = |field| value.get(field).and_then(Value::as_str);
    let version = text("apiVersion");
    let known = |kind: &Kind| match version {
        Some(version) => version == kind.api_version(),
        None => version_may_be_absent,
    };
    text("kind").and_then(Kind::from_name).filter(known).ok_or_else(|| ResourceError::UnknownType {
        kind: text("kind").unwrap_or_default().to_owned(),
        api_version: version.unwrap_or_default().to_owned(),
    })
}
