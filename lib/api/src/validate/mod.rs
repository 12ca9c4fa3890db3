//! What is wrong with a resource, as far as the resource alone can tell.
//!
//! Fields are named as Calico names them in its errors (the field of the Go structure, `PeerIP`, or a path such as
//! `IPpool.CIDR`), since scripts look for that.

mod bgp;
mod bgp_filter;
mod core;
mod endpoint;
mod felix;
mod ip_pool;
mod metadata;
mod node;
mod other;
mod policy;
mod rule;

use std::fmt;

use calico_selector::Selector;
use ipnet::IpNet;

use crate::AnyResource;

pub use ip_pool::{validate_pool_among, validate_pool_blocks, validate_pool_update};
pub use metadata::{validate_metadata_for_create, validate_metadata_for_update};

/// The longest selector in fields that a custom resource definition limits, in characters.
const MAX_SELECTOR: usize = 1024;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field, spelled as Calico spells it.
    pub field: String,
    /// What stands in it.
    pub value: String,
    /// What is wrong with that.
    pub reason: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = '{}' ({})", self.field, self.value, self.reason)
    }
}

/// All fields that are wrong; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationError(Vec<FieldError>);

impl ValidationError {
    /// The error that these fields are, or success if there are none.
    ///
    /// # Errors
    /// If there are any.
    pub fn check(fields: Vec<FieldError>) -> Result<(), Self> {
        if fields.is_empty() { Ok(()) } else { Err(Self(fields)) }
    }

    /// The fields.
    pub fn fields(&self) -> &[FieldError] {
        &self.0
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "error with field {only}"),
            all => {
                f.write_str("error with the following fields:")?;
                all.iter().try_for_each(|field| write!(f, "\n-  {field}"))
            }
        }
    }
}

impl std::error::Error for ValidationError {}

/// Everything that is wrong with a resource before it is written; empty if nothing is.
///
/// What depends on other resources is looked at elsewhere: [`validate_pool_among`], [`validate_pool_blocks`],
/// [`validate_pool_update`]; and what depends on whether it is created or updated: [`validate_metadata_for_create`],
/// [`validate_metadata_for_update`].
pub fn validate(resource: &AnyResource) -> Vec<FieldError> {
    let mut faults = Faults::default();
    metadata::check(resource.kind(), resource.metadata(), &mut faults);
    match resource {
        AnyResource::BGPConfiguration(it) => bgp::configuration(it, &mut faults),
        AnyResource::BGPFilter(it) => bgp_filter::filter(&it.spec, &mut faults),
        AnyResource::BGPPeer(it) => bgp::peer(&it.spec, &mut faults),
        AnyResource::CalicoNodeStatus(it) => node::status(&it.spec, &mut faults),
        AnyResource::ClusterInformation(it) => other::cluster_information(it, &mut faults),
        AnyResource::FelixConfiguration(it) => felix::configuration(it, &mut faults),
        AnyResource::GlobalNetworkPolicy(it) => policy::global(&it.spec, &mut faults),
        AnyResource::GlobalNetworkSet(it) => other::network_set(&it.metadata, it.spec.nets.as_deref(), &mut faults),
        AnyResource::HostEndpoint(it) => endpoint::host(&it.spec, &mut faults),
        AnyResource::IPAMConfiguration(it) => other::ipam_configuration(it, &mut faults),
        AnyResource::IPPool(it) => ip_pool::pool(&it.spec, &mut faults),
        AnyResource::IPReservation(it) => other::ip_reservation(&it.spec, &mut faults),
        AnyResource::KubeControllersConfiguration(it) => other::kube_controllers(&it.spec, &mut faults),
        AnyResource::NetworkPolicy(it) => policy::namespaced(&it.spec, &mut faults),
        AnyResource::NetworkSet(it) => other::network_set(&it.metadata, it.spec.nets.as_deref(), &mut faults),
        AnyResource::Node(it) => node::node(it, &mut faults),
        AnyResource::Profile(it) => policy::profile(&it.spec, &mut faults),
        AnyResource::StagedGlobalNetworkPolicy(it) => policy::staged_global(&it.spec, &mut faults),
        AnyResource::StagedKubernetesNetworkPolicy(it) => policy::staged_kubernetes(&it.spec, &mut faults),
        AnyResource::StagedNetworkPolicy(it) => policy::staged(&it.spec, &mut faults),
        AnyResource::Tier(it) => other::tier(it, &mut faults),
        AnyResource::WorkloadEndpoint(it) => endpoint::workload(it, &mut faults),
        AnyResource::EndpointSlice(it) => core::endpoint_slice(&it.spec, &mut faults),
        AnyResource::Secret(it) => core::secret(&it.spec, &mut faults),
        AnyResource::Service(it) => core::service(it, &mut faults),
        // IPAM's own records have types that leave nothing to check.
        AnyResource::BlockAffinity(_) | AnyResource::IPAMBlock(_) | AnyResource::IPAMHandle(_) => {}
    }
    faults.0
}

/// The faults found so far, and the checks that many kinds share. Absent and empty texts are always in order: whether
/// a field is required is the caller's to know.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), value: value.to_string(), reason: reason.into() });
    }

    fn unless(&mut self, sound: bool, field: &str, value: impl fmt::Display, reason: &str) {
        if !sound {
            self.add(field, value, reason);
        }
    }

    fn one_of(&mut self, field: &str, value: Option<&String>, allowed: &[&str]) {
        if let Some(value) = filled(value)
            && !allowed.contains(&value)
        {
            self.add(field, value, format!("must be one of {}", allowed.join(", ")));
        }
    }

    /// As [`one_of`](Self::one_of), whatever the case.
    fn one_of_words(&mut self, field: &str, value: Option<&String>, allowed: &[&str]) {
        if let Some(value) = filled(value)
            && !allowed.iter().any(|word| word.eq_ignore_ascii_case(value))
        {
            self.add(field, value, format!("must be one of {}", allowed.join(", ")));
        }
    }

    fn range<N: PartialOrd + fmt::Display>(&mut self, field: &str, value: Option<N>, least: N, most: N) {
        if let Some(value) = value
            && !(least <= value && value <= most)
        {
            self.add(field, value, format!("must be from {least} to {most}"));
        }
    }

    fn at_most<T>(&mut self, field: &str, list: Option<&[T]>, most: usize) {
        let length = list.map_or(0, <[T]>::len);
        if length > most {
            self.add(field, format!("{length} entries"), format!("may have {most} entries at most"));
        }
    }

    /// A selector, with no `global()` in it.
    fn selector(&mut self, field: &str, value: Option<&String>) {
        let Some(text) = filled(value) else { return };
        if text.chars().count() > MAX_SELECTOR {
            self.add(field, text, format!("may have {MAX_SELECTOR} characters at most"));
        }
        match Selector::parse(text) {
            Ok(selector) if selector.mentions_global() => {
                self.add(field, text, "global() stands only alone, and only in the namespaceSelector of a rule");
            }
            Ok(_) => {}
            Err(error) => self.add(field, text, format!("is not a selector: {error}")),
        }
    }

    fn name(&mut self, field: &str, value: Option<&String>) {
        if let Some(name) = filled(value)
            && !metadata::is_subdomain(name)
        {
            self.add(field, name, metadata::SUBDOMAIN);
        }
    }

    fn duration(&mut self, field: &str, value: Option<&String>) {
        if let Some(text) = filled(value)
            && crate::parse_duration(text).is_none()
        {
            self.add(field, text, "must be a length of time, such as 90s or 1m30s");
        }
    }

    fn address(&mut self, field: &str, value: Option<&String>, family: Family) {
        if let Some(text) = filled(value)
            && !text.parse::<std::net::IpAddr>().is_ok_and(|address| family.has(address.is_ipv4()))
        {
            self.add(field, text, format!("must be an {family} address"));
        }
    }

    fn mac(&mut self, field: &str, value: Option<&String>) {
        let is_octet = |octet: &str| octet.len() == 2 && octet.bytes().all(|digit| digit.is_ascii_hexdigit());
        if let Some(text) = filled(value)
            && !(text.split(':').count() == 6 && text.split(':').all(is_octet))
        {
            self.add(field, text, "must be a MAC address, such as 66:cb:4e:1a:00:01");
        }
    }

    /// A network with no host bits, or a bare address; the network, if it is one.
    fn network(&mut self, field: &str, text: &str) -> Option<IpNet> {
        match network(text) {
            Some(network) if network.trunc() == network => Some(network),
            Some(network) => {
                self.add(field, text, format!("has bits beyond its prefix: write {}", network.trunc()));
                None
            }
            None => {
                self.add(field, text, "must be a network, such as 10.0.0.0/16, or an address");
                None
            }
        }
    }
}

/// Which addresses may stand somewhere.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
    Any,
}

impl Family {
    fn has(self, is_ipv4: bool) -> bool {
        match self {
            Self::V4 => is_ipv4,
            Self::V6 => !is_ipv4,
            Self::Any => true,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Any => "IP",
        })
    }
}

/// A network, or an address as the network of itself.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// The text, unless it is absent or empty.
fn filled(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
