//! The last look at the store before anything is removed. Whatever cannot be asked counts as in use.

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{Key, Kind, NodeSpec, WorkloadEndpoint, WorkloadEndpointSpec};
use calico_datastore::{Error, Filter, Store};

use crate::allocation::{Allocation, Holder};
use crate::image::{Mode, kube_name};
use crate::judge::{Verdict, Why, judge};
use crate::pods::Pods;

/// The stores, and what of them is the truth.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Where IPAM's records are.
    pub store: Store,
    /// Kubernetes, where that is another.
    pub kubernetes: Option<Store>,
    /// Where the truth about pods and nodes is.
    pub mode: Mode,
}

impl Stores {
    /// The store in which pods are looked up.
    pub fn of_pods(&self) -> &Store {
        self.kubernetes.as_ref().unwrap_or(&self.store)
    }

    /// The pods of a namespace, as they are now.
    ///
    /// # Errors
    /// The store's.
    async fn pods(&self, namespace: &str) -> Result<Pods, Error> {
        let filter = Filter::Namespace(namespace.to_owned());
        let list = self.of_pods().list::<WorkloadEndpointSpec>(&filter).await?;
        let mut pods = Pods::default();
        for fault in &list.faults {
            pods.tear(&fault.name);
        }
        for endpoint in &list.items {
            pods.put(endpoint);
        }
        Ok(pods)
    }

    /// Whether there is no node of this name now; also false if the store cannot say.
    pub async fn is_node_gone(&self, name: &str) -> bool {
        let node = self.store.get::<NodeSpec>(&Key::named(Kind::Node, name)).await;
        matches!(node, Err(Error::NotFound(_)))
    }

    /// Whether a node of Calico's still has no node in Kubernetes.
    pub async fn is_kube_node_gone(&self, name: &str, expected: &str) -> bool {
        let Some(kubernetes) = &self.kubernetes else { return false };
        let ours = self.store.get::<NodeSpec>(&Key::named(Kind::Node, name)).await;
        let Ok(ours) = ours else { return false };
        if kube_name(&ours) != Some(expected) {
            return false;
        }
        let theirs = kubernetes.get::<NodeSpec>(&Key::named(Kind::Node, expected)).await;
        matches!(theirs, Err(Error::NotFound(_)))
    }
}

/// What the store said during one round of actions; each namespace and node is asked for once.
#[derive(Debug)]
pub struct Look<'a> {
    stores: &'a Stores,
    pods: BTreeMap<String, Option<Pods>>,
    gone: BTreeMap<String, bool>,
}

impl<'a> Look<'a> {
    /// A look that has asked nothing yet. It must not live for longer than it takes to act.
    pub fn new(stores: &'a Stores) -> Self {
        Self { stores, pods: BTreeMap::new(), gone: BTreeMap::new() }
    }

    /// Whether each of these leaks still is one: the pods are asked for in the store, and the node where that is why.
    pub async fn confirms(&mut self, leaks: &[(Allocation, Why)], gone_nodes: &BTreeSet<String>) -> bool {
        for (allocation, _) in leaks {
            let still = match &allocation.holder {
                Holder::Pod { namespace, .. } => {
                    let node = allocation.node.clone().filter(|node| gone_nodes.contains(node));
                    // What is to go because its node is gone must not go if that is there again.
                    if let Some(node) = node
                        && !self.is_node_gone(&node).await
                    {
                        return false;
                    }
                    match self.pods_of(namespace).await {
                        Some(pods) => matches!(judge(allocation, pods), Verdict::Leak(_)),
                        None => false,
                    }
                }
                Holder::Tunnel => match allocation.node.clone() {
                    Some(node) => self.is_node_gone(&node).await,
                    None => false,
                },
                _ => false,
            };
            if !still {
                return false;
            }
        }
        true
    }

    /// Whether there is no node of this name.
    pub async fn is_node_gone(&mut self, name: &str) -> bool {
        if let Some(gone) = self.gone.get(name) {
            return *gone;
        }
        let gone = self.stores.is_node_gone(name).await;
        self.gone.insert(name.to_owned(), gone);
        gone
    }

    /// Whether the pod of an endpoint is no longer on `node`; also false if the store cannot say.
    pub async fn is_pod_gone(&mut self, endpoint: &WorkloadEndpoint, node: &str) -> bool {
        let (spec, namespace) = (&endpoint.spec, endpoint.metadata.namespace.clone().unwrap_or_default());
        let Some(pods) = self.pods_of(&namespace).await else { return false };
        !pods.may_be_torn(&spec.pod) && !pods.named(&namespace, &spec.pod).any(|pod| pod.node == node && !pod.finished)
    }

    async fn pods_of(&mut self, namespace: &str) -> Option<&Pods> {
        if !self.pods.contains_key(namespace) {
            let pods = match self.stores.pods(namespace).await {
                Ok(pods) => Some(pods),
                Err(error) => {
                    tracing::warn!(namespace, %error, "pods cannot be asked for; addresses of theirs stay as they are");
                    None
                }
            };
            self.pods.insert(namespace.to_owned(), pods);
        }
        self.pods.get(namespace)?.as_ref()
    }
}
