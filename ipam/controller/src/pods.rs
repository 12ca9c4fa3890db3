//! The pods, as far as their workload endpoints tell: where they are and what addresses they have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use calico_api::{Key, WorkloadEndpoint, WorkloadEndpointSpec};
use ipnet::IpNet;
use serde_json::Value;

/// What Multus says of a pod's further interfaces.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub node: String,
    /// The container of its network, where that is known.
    pub container: String,
    /// Every address that it is known to have, on whichever interface.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether it has run to its end: then its addresses are no longer its own.
    pub finished: bool,
}

impl Pod {
    /// What an endpoint tells; `None` if it is not a pod's.
    pub fn of(endpoint: &WorkloadEndpoint) -> Option<Self> {
        let spec = &endpoint.spec;
        if spec.pod.is_empty() {
            return None;
        }
        let annotations = &endpoint.metadata.annotations;
        let finished = annotations.contains_key(WorkloadEndpointSpec::FINISHED);
        let own = spec.ip_networks.iter().filter_map(|text| address(text));
        let more = annotations.get(NETWORK_STATUS).map(|text| further(text)).unwrap_or_default();
        Some(Self {
            namespace: endpoint.metadata.namespace.clone().unwrap_or_default(),
            name: spec.pod.clone(),
            node: spec.node.clone(),
            container: spec.container_id.clone(),
            addresses: if finished { BTreeSet::new() } else { own.chain(more).collect() },
            finished,
        })
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()))
}

/// The addresses of all interfaces in Multus' annotation; none if it cannot be read.
fn further(text: &str) -> Vec<IpAddr> {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let ips = list.as_array().into_iter().flatten().filter_map(|it| it.get("ips")?.as_array());
    ips.flatten().filter_map(Value::as_str).filter_map(address).collect()
}

/// All pods, found by name and by address.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    by_key: BTreeMap<Key, Pod>,
    by_name: BTreeMap<(String, String), BTreeSet<Key>>,
    by_address: HashMap<IpAddr, BTreeSet<Key>>,
    /// Endpoints that cannot be read, by the store's name for them.
    torn: BTreeSet<String>,
}

impl Pods {
    /// Takes in an endpoint.
    pub fn put(&mut self, endpoint: &WorkloadEndpoint) {
        let key = endpoint.key();
        self.forget(&key);
        let Some(pod) = Pod::of(endpoint) else { return };
        self.torn.remove(&format!("{}/{}", pod.namespace, pod.name));
        self.by_name.entry((pod.namespace.clone(), pod.name.clone())).or_default().insert(key.clone());
        for address in &pod.addresses {
            self.by_address.entry(*address).or_default().insert(key.clone());
        }
        self.by_key.insert(key, pod);
    }

    /// Takes in that an endpoint is gone.
    pub fn delete(&mut self, key: &Key) {
        self.forget(key);
    }

    /// Takes in that something is there which cannot be read.
    pub fn tear(&mut self, name: &str) {
        self.torn.insert(name.to_owned());
    }

    fn forget(&mut self, key: &Key) {
        let name = key.name();
        self.torn.retain(|torn| !torn.ends_with(&name));
        let Some(pod) = self.by_key.remove(key) else { return };
        let place = (pod.namespace, pod.name);
        if let Some(keys) = self.by_name.get_mut(&place) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_name.remove(&place);
            }
        }
        for address in pod.addresses {
            if let Some(keys) = self.by_address.get_mut(&address) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    /// The pods of this name: usually one, but while it moves from node to node perhaps more.
    pub fn named(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Pod> {
        let keys = self.by_name.get(&(namespace.to_owned(), name.to_owned()));
        keys.into_iter().flatten().filter_map(|key| self.by_key.get(key))
    }

    /// A pod that has this address.
    pub fn with_address(&self, address: &IpAddr) -> Option<&Pod> {
        self.by_address.get(address)?.iter().find_map(|key| self.by_key.get(key))
    }

    /// Whether something that cannot be read may be this pod. A name that only resembles it counts, too.
    pub fn may_be_torn(&self, name: &str) -> bool {
        let in_endpoint = name.replace('-', "--");
        self.torn.iter().any(|torn| torn.contains(name) || torn.contains(&in_endpoint))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_api::ObjectMeta;

    fn endpoint(networks: &[&str]) -> WorkloadEndpoint {
        let spec = WorkloadEndpointSpec {
            pod: "web-0".into(),
            node: "a".into(),
            ip_networks: networks.iter().map(|text| (*text).to_owned()).collect(),
            ..WorkloadEndpointSpec::default()
        };
        let metadata = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::named("a-k8s-web--0-eth0") };
        WorkloadEndpoint::new(metadata, spec)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pod_is_found_by_every_address_it_has_and_by_none_it_had() {
        let mut pods = Pods::default();
        let mut web = endpoint(&["10.0.0.1/32", "fd00::1/128"]);
        let status = r#"[{"name":"a","ips":["10.0.0.1"],"default":true},{"name":"b","ips":["10.9.0.7"]},{"name":"c"}]"#;
        web.metadata.annotations.insert(NETWORK_STATUS.into(), status.into());
        pods.put(&web);
        for address in ["10.0.0.1", "fd00::1", "10.9.0.7"] {
            assert_eq!(pods.with_address(&ip(address)).map(|pod| &*pod.name), Some("web-0"), "{address}");
        }
        pods.put(&endpoint(&["10.0.0.2/32"]));
        assert!(pods.with_address(&ip("10.0.0.1")).is_none() && pods.with_address(&ip("10.0.0.2")).is_some());
        assert_eq!(pods.named("shop", "web-0").count(), 1);
        pods.delete(&web.key());
        assert!(pods.is_empty() && pods.with_address(&ip("10.0.0.2")).is_none());
        assert_eq!(pods.named("shop", "web-0").count(), 0);
    }

    #[test]
    fn a_finished_pod_has_no_addresses() {
        let mut web = endpoint(&["10.0.0.1/32"]);
        web.metadata.annotations.insert(WorkloadEndpointSpec::FINISHED.into(), "true".into());
        let pod = Pod::of(&web).unwrap();
        assert!(pod.finished && pod.addresses.is_empty());
    }

    #[test]
    fn what_cannot_be_read_may_be_the_pod_until_it_can() {
        let mut pods = Pods::default();
        pods.tear("shop/web-0");
        pods.tear("/calico/resources/v3/projectcalico.org/workloadendpoints/shop/a-k8s-db--1-eth0");
        assert!(pods.may_be_torn("web-0") && pods.may_be_torn("db-1") && !pods.may_be_torn("cart"));
        pods.put(&endpoint(&["10.0.0.2/32"]));
        assert!(!pods.may_be_torn("web-0") && pods.may_be_torn("db-1"));
    }
}
