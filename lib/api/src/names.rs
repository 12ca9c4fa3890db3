//! Names that several programs must compute alike: of blocks, affinities, endpoints and interfaces.

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use ipnet::IpNet;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use sha3::Sha3_256;

/// The longest name a Kubernetes object may have, plus one.
const NAME_LIMIT: usize = 253;

/// The network as a Kubernetes name: `10.244.0.0/26` is `10-244-0-0-26`.
pub fn cidr_name(cidr: &IpNet) -> String {
    cidr.trunc().to_string().replace(['.', ':', '/'], "-")
}

/// The name of a block affinity: owner and [`cidr_name`], shortened by a hash where it would be too long.
pub fn affinity_name(owner: &str, cidr: &IpNet) -> String {
    let cidr = cidr_name(cidr);
    let name = format!("{owner}-{cidr}");
    if name.len() < NAME_LIMIT {
        return name;
    }
    let hash = HEXLOWER.encode(&Sha256::digest(format!("{owner}+{cidr}").as_bytes()));
    let keep = NAME_LIMIT - 1 - cidr.len() - 13;
    let mut owner = owner;
    while owner.len() > keep {
        let mut chars = owner.chars();
        chars.next_back();
        owner = chars.as_str();
    }
    format!("{owner}-{cidr}-{}", hash.get(..11).unwrap_or(&hash))
}

/// The label value by which the affinities of a node are found: base32 of SHA3-256 of its name.
pub fn hostname_hash(hostname: &str) -> String {
    BASE32_NOPAD.encode(&Sha3_256::digest(hostname.as_bytes()))
}

/// The name of a workload endpoint: its parts joined by `-`, every `-` inside a part doubled.
pub fn workload_endpoint_name(node: &str, orchestrator: &str, workload: &str, endpoint: &str) -> String {
    [node, orchestrator, workload, endpoint].map(|part| part.replace('-', "--")).join("-")
}

/// The name of the node's side of a Kubernetes pod's interface: `prefix` and eleven digits of a hash.
pub fn pod_interface_name(prefix: &str, namespace: &str, pod: &str) -> String {
    let hash = HEXLOWER.encode(&Sha1::digest(format!("{namespace}.{pod}").as_bytes()));
    format!("{prefix}{}", hash.get(..11).unwrap_or(&hash))
}

/// The name of the node's side of any other container's interface: `prefix` and the start of its id.
pub fn container_interface_name(prefix: &str, container: &str) -> String {
    prefix.chars().chain(container.chars().take(11)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(got: String, expected: &str) {
        assert_eq!(got, expected);
    }

    #[test]
    fn names_are_those_of_calico() {
        check(cidr_name(&"10.244.0.0/26".parse().unwrap()), "10-244-0-0-26");
        check(cidr_name(&"fd00:10:244::40/122".parse().unwrap()), "fd00-10-244--40-122");
        check(cidr_name(&"fd80::/122".parse().unwrap()), "fd80---122");
        check(pod_interface_name("cali", "default", "web-0"), "cali0d7763386da");
        check(pod_interface_name("cali", "kube-system", "coredns-5d78c9869d-abcde"), "cali4d5f75c480c");
        check(hostname_hash("node-1"), "A3XPYDATRKB7Q4SM2O5FN4RXIHBFIL2PITFX26BAIP5XAB2X74CA");
        check(hostname_hash("worker-a"), "ZJPQWDWOIKEPJ4O7GEVKW6VSKMLHK76THJPSYWW2GSXQRPW5SWDQ");
        check(workload_endpoint_name("node-1", "k8s", "web-0", "eth0"), "node--1-k8s-web--0-eth0");
    }

    #[test]
    fn long_affinity_names_end_in_a_hash() {
        let name = affinity_name(&"a".repeat(250), &"10.244.0.0/26".parse().unwrap());
        check(name.clone(), &format!("{}-10-244-0-0-26-1c2a4913b3a", "a".repeat(226)));
        assert_eq!(name.len(), 252);
    }
}
