//! The Kubernetes back end: custom resources of either API group, and views of core objects.
//!
//! Three kinds have no custom resource: a Node is a view of Kubernetes' Node (`node`), a WorkloadEndpoint one of
//! a Pod (`pod`), a Profile one of a Namespace or a ServiceAccount (`profile`). All others are objects of their
//! own (`custom`), spelled by `codec` and, in the classic group, `metadata`. Kubernetes' own kinds are read (`core`).

mod client;
mod codec;
mod connect;
mod core;
mod custom;
mod error;
mod group;
mod limit;
mod metadata;
mod node;
mod pod;
mod profile;
mod views;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use calico_api::{Key, Kind};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use self::client::{Client, Failure};
pub use self::group::ApiGroup;
use crate::config::KubernetesConfig;
use crate::{Backend, Changes, Entry, Error, Filter, Listing, Result, Revision, value};

/// How often a process looks whether the cluster has moved to the other API group.
const GROUP_CHECK: Duration = Duration::from_secs(60);
/// The environment's word for the prefix of pod interfaces; a list of which the first counts.
const INTERFACE_PREFIX: &str = "FELIX_INTERFACEPREFIX";

/// A Kubernetes API server as a store.
#[derive(Debug)]
pub struct Kubernetes {
    client: Arc<Client>,
    server: String,
    group: ApiGroup,
    /// Whether the group was found by looking, so that it may prove wrong later.
    discovered: bool,
    checked: Mutex<Instant>,
    use_pod_cidr: bool,
    interface_prefix: String,
}

impl Kubernetes {
    /// Prepares the connection, and finds the API group unless the configuration names it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the configuration names no server or unusable credentials, or if the server does not
    /// answer within five seconds.
    pub async fn connect(config: &KubernetesConfig) -> Result<Self> {
        let (client, server) = connect::client(config).await?;
        let explicit = config.calico_api_group.as_deref().and_then(ApiGroup::from_setting);
        let group = match explicit {
            Some(group) => group,
            None => match group::discover(&client).await {
                Ok(group) => group,
                Err(Failure::Refused(status)) => {
                    warn!(%server, reason = %status.message, "API groups cannot be listed: the classic one is assumed");
                    ApiGroup::Classic
                }
                Err(Failure::Unreachable(reason)) => {
                    return Err(Error::Unavailable { store: format!("kubernetes {server}"), reason });
                }
            },
        };
        info!(%server, group = group.api_version(), explicit = explicit.is_some(), "Kubernetes datastore");
        let prefix = std::env::var(INTERFACE_PREFIX).unwrap_or_default();
        let prefix = prefix.split(',').map(str::trim).find(|prefix| !prefix.is_empty()).unwrap_or("cali").to_owned();
        Ok(Self {
            client: Arc::new(client),
            server,
            group,
            discovered: explicit.is_none(),
            checked: Mutex::new(Instant::now()),
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
        if !self.discovered {
            return Ok(());
        }
        *self.checked.lock().expect("nobody panics while holding it") = Instant::now();
        match group::discover(&self.client).await {
            Ok(group) if group != self.group => Err(self.unavailable(format!(
                "Calico's resources are in {} now, and this process began with {}; restart it",
                group.api_version(),
                self.group.api_version()
            ))),
            Ok(_) => Ok(()),
            Err(failure) => {
                debug!(?failure, "API groups not checked");
                Ok(())
            }
        }
    }

    /// As [`Self::check_group`], if that was long ago.
    async fn check_group_sometimes(&self) -> Result<()> {
        let due = self.checked.lock().expect("nobody panics while holding it").elapsed() >= GROUP_CHECK;
        if due { self.check_group().await } else { Ok(()) }
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable { store: self.describe(), reason }
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
        format!("kubernetes {}", self.server)
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
        self.check_kind("list", kind)?;
        filter.check(kind, "list")?;
        if !kind.is_core() {
            self.check_group_sometimes().await?;
        }
        self.list_any(kind, filter).await
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

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        self.check_kind("watch", kind)?;
        filter.check(kind, "watch")?;
        if !kind.is_core() {
            self.check_group_sometimes().await?;
        }
        self.watch_any(kind, filter, from).await
    }
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
