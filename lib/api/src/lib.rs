//! The resources of `projectcalico.org/v3` as Rust types: what they hold, their defaults, their names, their validation.
//!
//! The crate is pure: it reads no file, no clock and no environment, and knows no datastore.
//! Decoding is lenient by serde itself, since a store may hold fields of a newer release;
//! what a person wrote goes through [`strict`], which names every unknown field.

mod any_resource;
mod as_number;
mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod calico_node_status;
mod cluster_information;
mod defaults;
mod documents;
mod duration;
mod endpoint_slice;
mod felix_configuration;
mod host_endpoint;
mod ip_pool;
mod ip_reservation;
mod ipam;
pub mod key;
mod kind;
mod kube_controllers_configuration;
mod metadata;
mod names;
mod network_set;
mod node;
mod null;
mod num_or_string;
mod order;
mod policy;
mod profile;
mod qos;
mod resource;
mod rule;
mod secret;
mod service;
mod staged_kubernetes_network_policy;
pub mod strict;
mod tier;
pub mod validate;
mod workload_endpoint;
pub mod yaml;

pub use any_resource::{AnyResource, ResourceError};
pub use as_number::{AsNumber, AsNumberError};
pub use bgp_configuration::*;
pub use bgp_filter::*;
pub use bgp_peer::*;
pub use calico_node_status::*;
pub use cluster_information::*;
pub use defaults::default_on_write;
pub use documents::{DocumentError, DocumentFault, Placed, documents, placed_documents};
pub use duration::parse_duration;
pub use endpoint_slice::*;
pub use felix_configuration::*;
pub use host_endpoint::*;
pub use ip_pool::*;
pub use ip_reservation::*;
pub use ipam::*;
pub use key::{Key, Owner};
pub use kind::{Kind, Scope};
pub use kube_controllers_configuration::*;
pub use metadata::{ObjectMeta, OwnerReference};
pub use names::*;
pub use network_set::*;
pub use node::*;
pub use num_or_string::{Port, PortError, Protocol};
pub use policy::*;
pub use profile::*;
pub use qos::{Dscp, QosControls};
pub use resource::{NoStatus, Resource, Spec};
pub use rule::*;
pub use secret::*;
pub use service::*;
pub use staged_kubernetes_network_policy::*;
pub use tier::*;
pub use validate::{FieldError, ValidationError, validate};
pub use workload_endpoint::*;
pub use yaml::{to_json, to_yaml};

/// The API version of every resource of Calico's as users see it. Core kinds have their own: [`Kind::api_version`].
pub const API_VERSION: &str = "projectcalico.org/v3";
