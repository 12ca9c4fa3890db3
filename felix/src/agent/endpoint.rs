//! The workload endpoint that stands for a sandbox: its key, its interface's name, its resource.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_agent::{Failure, Sandbox};
use calico_api::{
    Key, Kind, ObjectMeta, WorkloadEndpoint, WorkloadEndpointSpec, container_interface_name, pod_interface_name,
    workload_endpoint_name,
};

/// The namespace of endpoints that belong to no pod.
const NO_NAMESPACE: &str = "default";

/// Who a sandbox is, to the datastore and to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// What its endpoint is stored under.
    pub(crate) key: Key,
    /// The node's side of its interface.
    pub(crate) interface: String,
    /// The handle that holds its addresses.
    pub(crate) handle: String,
    /// The handle that releases before Calico 3 used; still tried when releasing.
    pub(crate) legacy_handle: Option<String>,
}

impl Identity {
    /// The identity of `sandbox` on `node`.
    ///
    /// # Errors
    /// If the sandbox lacks what makes it: code 7.
    pub(crate) fn of(sandbox: &Sandbox, node: &str, prefix: &str) -> Result<Self, Failure> {
        let missing = |what: &str| Failure {
            code: 7,
            message: format!("the request names no {what}"),
            details: "the container runtime must set it; see the CNI specification, section 2".to_owned(),
        };
        let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '/');
        if !plain(&sandbox.container_id) {
            return Err(missing("container (CNI_CONTAINERID), or one with blanks or slashes"));
        }
        if !plain(&sandbox.interface) {
            return Err(missing("interface (CNI_IFNAME), or one with blanks or slashes"));
        }
        if sandbox.network.is_empty() {
            return Err(missing("network (name of the network configuration)"));
        }
        if sandbox.pod.as_ref().is_some_and(|pod| !plain(&pod.namespace) || !plain(&pod.name)) {
            return Err(missing("pod (K8S_POD_NAMESPACE and K8S_POD_NAME), or one with blanks or slashes"));
        }
        let container = &sandbox.container_id;
        let (namespace, name, interface) = match &sandbox.pod {
            Some(pod) => (
                pod.namespace.as_str(),
                workload_endpoint_name(node, "k8s", &pod.name, "eth0"),
                pod_interface_name(prefix, &pod.namespace, &pod.name),
            ),
            None => (
                NO_NAMESPACE,
                workload_endpoint_name(node, "cni", container, &sandbox.interface),
                container_interface_name(prefix, container),
            ),
        };
        Ok(Self {
            key: Key::namespaced(Kind::WorkloadEndpoint, namespace, name),
            interface,
            handle: sandbox.handle(),
            legacy_handle: sandbox.pod.as_ref().map(|pod| format!("{}.{}", pod.namespace, pod.name)),
        })
    }

    /// The endpoint with these addresses, for the sandbox whose identity this is.
    ///
    /// Labels are those that can be known here; where the store derives endpoints from pods it adds the
    /// pod's own, and the profile of its service account.
    pub(crate) fn endpoint(&self, sandbox: &Sandbox, node: &str, addresses: &[IpAddr]) -> WorkloadEndpoint {
        let container = sandbox.container_id.clone();
        let namespace = self.key.namespace().unwrap_or(NO_NAMESPACE).to_owned();
        let orchestrator = if sandbox.pod.is_some() { "k8s" } else { "cni" };
        let label = |name: &str, value: &str| (format!("projectcalico.org/{name}"), value.to_owned());
        let metadata = ObjectMeta {
            namespace: Some(namespace.clone()),
            labels: BTreeMap::from([label("namespace", &namespace), label("orchestrator", orchestrator)]),
            ..ObjectMeta::named(self.key.name())
        };
        let spec = WorkloadEndpointSpec {
            orchestrator: orchestrator.to_owned(),
            workload: if sandbox.pod.is_some() { String::new() } else { container.clone() },
            node: node.to_owned(),
            container_id: container,
            pod: sandbox.pod.as_ref().map(|pod| pod.name.clone()).unwrap_or_default(),
            endpoint: if sandbox.pod.is_some() { "eth0".to_owned() } else { sandbox.interface.clone() },
            ip_networks: addresses.iter().map(|address| ipnet::IpNet::from(*address).to_string()).collect(),
            profiles: vec![match sandbox.pod {
                Some(_) => format!("kns.{namespace}"),
                None => sandbox.network.clone(),
            }],
            interface_name: self.interface.clone(),
            ..WorkloadEndpointSpec::default()
        };
        WorkloadEndpoint::new(metadata, spec)
    }
}

/// `wanted` on top of what is stored: labels and ports that others wrote are kept.
pub(crate) fn over(stored: WorkloadEndpoint, wanted: &WorkloadEndpoint) -> WorkloadEndpoint {
    let mut merged = wanted.clone();
    let mut metadata = stored.metadata;
    metadata.labels.extend(wanted.metadata.labels.clone());
    merged.metadata = metadata;
    let (new, old) = (&mut merged.spec, stored.spec);
    if !old.profiles.is_empty() {
        new.profiles = old.profiles;
    }
    new.service_account_name = old.service_account_name;
    new.ports = old.ports;
    new.allow_spoofed_source_prefixes = old.allow_spoofed_source_prefixes;
    new.qos_controls = old.qos_controls;
    merged
}

#[cfg(test)]
mod tests {
    use calico_agent::Pod;

    use super::*;

    fn sandbox(pod: Option<(&str, &str)>) -> Sandbox {
        Sandbox {
            container_id: "0123456789abcdef".to_owned(),
            interface: "eth0".to_owned(),
            network: "k8s-pod-network".to_owned(),
            pod: pod.map(|(namespace, name)| Pod { namespace: namespace.to_owned(), name: name.to_owned() }),
        }
    }

    #[test]
    fn a_pod_and_a_bare_container_are_named_as_calico_names_them() {
        let identity = Identity::of(&sandbox(Some(("default", "web-0"))), "node-1", "cali").unwrap();
        assert_eq!(identity.key.to_string(), "WorkloadEndpoint(default/node--1-k8s-web--0-eth0)");
        assert_eq!(identity.interface, "cali0d7763386da");
        assert_eq!(identity.handle, "k8s-pod-network.0123456789abcdef");
        assert_eq!(identity.legacy_handle.as_deref(), Some("default.web-0"));
        let identity = Identity::of(&sandbox(None), "node-1", "cali").unwrap();
        assert_eq!(identity.key.to_string(), "WorkloadEndpoint(default/node--1-cni-0123456789abcdef-eth0)");
        assert_eq!(identity.interface, "cali0123456789a");
        assert_eq!(identity.legacy_handle, None);
    }

    #[test]
    fn a_request_without_what_makes_an_identity_is_refused_as_invalid() {
        for spoil in [
            |sandbox: &mut Sandbox| sandbox.container_id.clear(),
            |sandbox: &mut Sandbox| sandbox.container_id = "a/../b".to_owned(),
            |sandbox: &mut Sandbox| sandbox.interface.clear(),
            |sandbox: &mut Sandbox| sandbox.network.clear(),
            |sandbox: &mut Sandbox| sandbox.pod = Some(Pod { namespace: String::new(), name: "x".to_owned() }),
        ] {
            let mut sandbox = sandbox(None);
            spoil(&mut sandbox);
            assert_eq!(Identity::of(&sandbox, "n", "cali").unwrap_err().code, 7);
        }
    }

    #[test]
    fn an_update_keeps_what_others_wrote_and_replaces_what_is_the_sandboxs() {
        let sandbox = sandbox(Some(("shop", "web")));
        let identity = Identity::of(&sandbox, "n", "cali").unwrap();
        let wanted = identity.endpoint(&sandbox, "n", &["10.244.0.5".parse().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!(wanted.spec.ip_networks, ["10.244.0.5/32", "fd00::5/128"]);
        assert_eq!(wanted.spec.profiles, ["kns.shop"]);
        assert_eq!(wanted.key(), identity.key);
        let mut stored = wanted.clone();
        stored.metadata.resource_version = Some("7".to_owned());
        stored.metadata.labels.insert("app".to_owned(), "web".to_owned());
        stored.spec.profiles.push("ksa.shop.web".to_owned());
        stored.spec.container_id = "old".to_owned();
        stored.spec.ip_networks = vec!["10.244.0.4/32".to_owned()];
        let merged = over(stored, &wanted);
        assert_eq!(merged.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(merged.metadata.labels.get("app").map(String::as_str), Some("web"));
        assert_eq!(merged.spec.profiles, ["kns.shop", "ksa.shop.web"]);
        assert_eq!(merged.spec.ip_networks, wanted.spec.ip_networks);
        assert_eq!(merged.spec.container_id, wanted.spec.container_id);
    }
}
