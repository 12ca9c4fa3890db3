//! The Kubernetes back end: custom resources of either API group, and views of core objects.
//!
//! Three kinds have no custom resource: a Node is a view of Kubernetes' Node (`node`), a WorkloadEndpoint one of
//! a Pod (`pod`), a Profile one of a Namespace or a ServiceAccount (`profile`). All others are objects of their
//! own (`custom`), spelled by `codec` and, in the classic group, `metadata`. Kubernetes' own kinds are read (`core`).

mod client;
mod cluster;
mod codec;
mod connect;
mod core;
mod credentials;
mod custom;
mod error;
mod group;
mod limit;
mod metadata;
mod migration;
mod node;
mod pod;
mod profile;
mod views;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use calico_api::{Key, Kind};
use serde_json::Value;
use tracing::{info, warn};

use self::client::{Client, Failure};
pub use self::group::ApiGroup;
use self::group::Discovered;
use self::migration::Migration;
use crate::config::KubernetesConfig;
use crate::{Backend, Changes, Entry, Error, Filter, Listing, NodeCondition, Parts, Result, Revision, value};

/// The environment's word for the prefix of pod interfaces; a list of which the first counts.
const INTERFACE_PREFIX: &str = "FELIX_INTERFACEPREFIX";

/// A Kubernetes API server as a store.
#[derive(Clone)]
pub struct Kubernetes {
    client: Arc<Client>,
    server: String,
    group: ApiGroup,
    migration: Arc<Migration>,
    use_pod_cidr: bool,
    interface_prefix: String,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("server", &self.server).field("group", &self.group).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Prepares the connection, and finds the API group unless the configuration names it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the configuration names no server or unusable credentials, or if the server does not
    /// answer within five seconds; [`Error::Unauthorized`] if it does not know us.
    pub async fn connect(config: &KubernetesConfig) -> Result<Self> {
        let client = Client::new(config).await?;
        let server = client.server();
        let explicit = config.calico_api_group.as_deref().and_then(ApiGroup::from_setting);
        let found = match explicit {
            Some(group) => Discovered { group, both: false },
            None => match group::discover(&client).await {
                Ok(discovered) => discovered,
                // Everybody whom the server knows may list them, unless somebody took care that not.
                Err(Failure::Refused(status)) if status.code == 403 => {
                    warn!(%server, reason = %status.message, "API groups cannot be listed: the classic one is assumed");
                    Discovered { group: ApiGroup::Classic, both: false }
                }
                Err(Failure::Refused(status)) if status.code == 401 => {
                    return Err(Error::Unauthorized(format!("{}: {}", describe(&server), client.unknown())));
                }
                // To guess now might be to look in the wrong group for as long as this process lives.
                Err(Failure::Refused(status)) => {
                    let reason = format!("its API groups cannot be listed: {} ({})", status.message, status.code);
                    return Err(Error::Unavailable { store: describe(&server), reason });
                }
                Err(Failure::Unreachable(reason)) => {
                    return Err(Error::Unavailable { store: describe(&server), reason });
                }
            },
        };
        let group = found.group;
        info!(%server, group = group.api_version(), explicit = explicit.is_some(), "Kubernetes datastore");
        let prefix = config.interface_prefix.clone();
        let prefix = prefix.or_else(|| std::env::var(INTERFACE_PREFIX).ok()).unwrap_or_default();
        let prefix = prefix.split(',').map(str::trim).find(|prefix| !prefix.is_empty()).unwrap_or("cali").to_owned();
        let client = Arc::new(client);
        let migration = Migration::new(client.clone(), describe(&server), found, explicit.is_none());
        Ok(Self {
            client,
            server,
            group,
            migration: Arc::new(migration),
            use_pod_cidr: config.use_pod_cidr,
            interface_prefix: prefix,
        })
    }

    /// The API group in use.
    pub fn group(&self) -> ApiGroup {
        self.group
    }

    /// Looks whether the cluster still keeps its resources in the API group that this process uses.
    ///
    /// Lists and watches call it now and then; so a daemon hears of a migration as a store in trouble, and a restart
    /// is what helps.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the group has changed. That the server cannot be asked is no error here.
    pub async fn check_group(&self) -> Result<()> {
        self.migration.check().await
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable { store: self.describe(), reason }
    }

    /// Whether what is to be read of a kind can be, in the group in use.
    async fn check(&self, operation: &'static str, kind: Kind, filter: &Filter) -> Result<()> {
        self.check_kind(operation, kind)?;
        filter.check(kind, operation)?;
        if kind.is_core() { Ok(()) } else { self.migration.check_sometimes().await }
    }

    /// Refuses what host-local IPAM has no records of.
    fn check_kind(&self, operation: &'static str, kind: Kind) -> Result<()> {
        let ipam = matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle | Kind::IPAMConfiguration);
        if self.use_pod_cidr && ipam {
            let reason =
                "pods have addresses of their node's pod CIDR (usePodCIDR), which no IPAM of ours hands out".to_owned();
            return Err(Error::NotSupported { operation, kind, reason });
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for Kubernetes {
    fn describe(&self) -> String {
        describe(&self.server)
    }

    fn cluster_type(&self) -> &'static str {
        "kdd"
    }

    async fn get(&self, key: &Key) -> Result<Entry> {
        self.check_kind("get", key.kind())?;
        match key.kind() {
            Kind::Node => self.get_node(key).await,
            Kind::WorkloadEndpoint => self.get_endpoint(key).await,
            Kind::Profile => self.get_profile(key).await,
            kind if kind.is_core() => self.get_core(key).await,
            _ => self.get_custom(key).await,
        }
    }

    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        self.check("list", kind, filter).await?;
        self.list_any(kind, filter).await
    }

    async fn parts(&self, kind: Kind, filter: &Filter) -> Result<Parts> {
        self.check("list", kind, filter).await?;
        self.parts_any(kind, filter).await
    }

    async fn create(&self, key: &Key, value: Value) -> Result<Entry> {
        self.check_kind("create", key.kind())?;
        value::check_write(key, &value)?;
        match key.kind() {
            Kind::Node => Err(not_supported(
                "create",
                key.kind(),
                "Kubernetes makes its nodes itself, when their kubelets register",
            )),
            Kind::Profile => Err(read_only_profile("create")),
            kind if kind.is_core() => Err(read_only_core("create", kind)),
            Kind::WorkloadEndpoint => self.write_endpoint(key, value).await,
            _ => self.create_custom(key, value).await,
        }
    }

    async fn update(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry> {
        self.check_kind("update", key.kind())?;
        value::check_write(key, &value)?;
        match key.kind() {
            Kind::Node => self.update_node(key, value, revision).await,
            Kind::Profile => Err(read_only_profile("update")),
            kind if kind.is_core() => Err(read_only_core("update", kind)),
            Kind::WorkloadEndpoint => self.write_endpoint(key, value).await,
            _ => self.update_custom(key, value, revision, false).await,
        }
    }

    async fn update_status(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry> {
        match key.kind() {
            kind if kind.has_status() => {
                value::check_write(key, &value)?;
                self.update_custom(key, value, revision, true).await
            }
            _ => self.update(key, value, revision).await,
        }
    }

    async fn delete(&self, key: &Key, revision: Option<&Revision>) -> Result<Entry> {
        self.check_kind("delete", key.kind())?;
        match key.kind() {
            Kind::Node => {
                Err(not_supported("delete", key.kind(), "delete the node in Kubernetes: kubectl delete node"))
            }
            Kind::Profile => Err(read_only_profile("delete")),
            kind if kind.is_core() => Err(read_only_core("delete", kind)),
            Kind::WorkloadEndpoint => self.delete_endpoint(key, revision).await,
            _ => self.delete_custom(key, revision).await,
        }
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        self.get_config_map(namespace, name).await
    }

    async fn set_node_condition(&self, node: &str, condition: &NodeCondition) -> Result<bool> {
        self.write_node_condition(node, condition).await
    }

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        self.check("watch", kind, filter).await?;
        self.watch_any(kind, filter, from).await
    }
}

fn describe(server: &str) -> String {
    format!("kubernetes {server}")
}

fn not_supported(operation: &'static str, kind: Kind, reason: &str) -> Error {
    Error::NotSupported { operation, kind, reason: reason.to_owned() }
}

fn read_only_profile(operation: &'static str) -> Error {
    not_supported(operation, Kind::Profile, "profiles follow from namespaces and service accounts; change those")
}

fn read_only_core(operation: &'static str, kind: Kind) -> Error {
    let (name, plural) = (kind.as_str(), kind.plural());
    not_supported(
        operation,
        kind,
        &format!("a {name} of the cluster is Kubernetes' own; use kubectl {operation} {plural}"),
    )
}
