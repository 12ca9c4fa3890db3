//! What the tests and the lab make in the API: custom resource definitions, nodes, namespaces, pods.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::ApiServer;
use crate::programs::workspace;
use crate::wait;

/// Within what a definition must be in effect.
const ESTABLISHED: Duration = Duration::from_secs(60);

/// In which API group Calico's resources are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `crd.projectcalico.org/v1`.
    Classic,
    /// `projectcalico.org/v3`.
    Native,
}

impl Group {
    /// The folder of its manifests.
    const fn folder(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Native => "native",
        }
    }

    /// Its name in `CALICO_API_GROUP`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Classic => "crd.projectcalico.org/v1",
            Self::Native => "projectcalico.org/v3",
        }
    }
}

impl ApiServer {
    /// Applies our manifests of a group's custom resource definitions, and waits until all are served.
    ///
    /// # Errors
    /// If one is refused, or not served in time.
    pub fn apply_crds(&self, group: Group) -> Result<()> {
        let folder = workspace().join("manifests/crds").join(group.folder());
        let mut served = Vec::new();
        for file in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = file?.path();
            let is_list = path.file_name().is_some_and(|name| name == "kustomization.yaml");
            if is_list || path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let definition: Value = calico_api::yaml::parse(&text).with_context(|| path.display().to_string())?;
            let name = definition["metadata"]["name"].as_str().context("a definition without a name")?;
            let plural = definition["spec"]["names"]["plural"].as_str().context("a definition without a plural")?;
            let target =
                format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?fieldManager=lab&force=true");
            // Server-side apply: creates or replaces. JSON is YAML.
            self.admin
                .request("PATCH", &target, "application/apply-patch+yaml", &definition)
                .with_context(|| format!("{} was refused", path.display()))?;
            served.push(format!("/apis/{}/{plural}?limit=1", group.api_version()));
        }
        if served.is_empty() {
            bail!("{} holds no manifests", folder.display());
        }
        for path in served {
            wait::becomes(ESTABLISHED, &format!("{path} is served"), || Ok(self.admin.text(&path).is_ok()))?;
        }
        Ok(())
    }

    /// Makes a Node, as its kubelet would when it registers.
    ///
    /// # Errors
    /// If it is refused.
    pub fn create_node(&self, name: &str) -> Result<()> {
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}});
        self.request("POST", "/api/v1/nodes", &node).map(drop)
    }

    /// Removes a Node.
    ///
    /// # Errors
    /// If it is refused.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        self.request("DELETE", &format!("/api/v1/nodes/{name}"), &Value::Null).map(drop)
    }

    /// Makes a Namespace, if it is not there.
    ///
    /// # Errors
    /// If it is refused.
    pub fn create_namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match self.request("POST", "/api/v1/namespaces", &namespace) {
            Err(error) if !format!("{error:#}").contains("already exists") => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a Pod that is bound to a node already, as the scheduler would leave it.
    ///
    /// # Errors
    /// If it is refused.
    pub fn create_pod(&self, namespace: &str, name: &str, node: &str) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none.invalid/none"}]}});
        self.request("POST", &format!("/api/v1/namespaces/{namespace}/pods"), &pod).map(drop)
    }

    /// Asks for a Pod's deletion; it stays, terminating, until its kubelet is done: see [`Self::delete_pod`].
    ///
    /// # Errors
    /// If it is refused.
    pub fn terminate_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.request("DELETE", &format!("/api/v1/namespaces/{namespace}/pods/{name}"), &Value::Null).map(drop)
    }

    /// Removes a Pod at once, as its kubelet does when nothing of it is left.
    ///
    /// # Errors
    /// If it is refused.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.request("DELETE", &format!("/api/v1/namespaces/{namespace}/pods/{name}"), &options).map(drop)
    }

    /// Makes or changes a Service or an EndpointSlice, with its status, as kubectl and a load balancer would.
    ///
    /// # Errors
    /// If it is refused, or of another kind.
    pub fn apply(&self, resource: &Value) -> Result<()> {
        let text = |pointer: &str| resource.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let path = match text("/kind") {
            "Service" => format!("/api/v1/namespaces/{namespace}/services/{name}"),
            "EndpointSlice" => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"),
            other => anyhow::bail!("the lab does not make objects of kind {other}"),
        };
        let manager = format!("{path}?fieldManager=lab&force=true");
        self.admin.request("PATCH", &manager, "application/apply-patch+yaml", resource)?;
        if let Some(status) = resource.get("status") {
            let patch = json!({ "status": status });
            self.admin.request("PATCH", &format!("{path}/status"), "application/merge-patch+json", &patch)?;
        }
        Ok(())
    }
}
