//! What a pod and its namespace ask of their network in annotations (reference ipam-cni-datastore.md §5.7).
//!
//! A pod's own annotation goes before its namespace's, and both go before the network configuration. One that cannot be
//! understood fails the pod, with its name: addresses that nobody asked for would be worse.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_agent::{Add, Failure};
use calico_api::{QosControls, WorkloadEndpoint};
use calico_netlink::Mac;
use ipnet::IpNet;

use super::code;

/// What most names begin with.
const PREFIX: &str = "cni.projectcalico.org/";

/// Annotations of a pod or a namespace.
pub(crate) type Annotations = BTreeMap<String, String>;

/// What is asked for; nothing of it need be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// `ipv4pools`.
    ipv4_pools: Option<Vec<String>>,
    /// `ipv6pools`.
    ipv6_pools: Option<Vec<String>>,
    /// `ipFamilies`: whether IPv4, whether IPv6.
    families: Option<(bool, bool)>,
    /// `ipAddrs`: exactly these, of IPAM.
    pub(crate) addresses: Vec<IpAddr>,
    /// `ipAddrsNoIpam`: exactly these, of nobody.
    without_ipam: Vec<IpAddr>,
    /// `hwAddr`.
    pub(crate) mac: Option<Mac>,
    /// `allowedSourcePrefixes`: networks that the pod may send from although they are not its own.
    sources: Vec<IpNet>,
    /// Limits of its traffic.
    limits: Option<QosControls>,
    /// What was wrong with the limits: it is told, and keeps no pod from starting.
    pub(crate) doubts: Vec<String>,
}

impl Wishes {
    /// Reads the annotations of a pod and of its namespace.
    ///
    /// # Errors
    /// Code 999 naming the annotation, what it holds and what it should.
    pub(crate) fn read(pod: &Annotations, namespace: &Annotations) -> Result<Self, Failure> {
        let own = |name: &'static str| found(pod, name).map(|text| (name, text));
        let either = |name: &'static str| own(name).or_else(|| found(namespace, name).map(|text| (name, text)));
        let pools = |name| either(name).map(|(name, text)| list(name, text, "names or CIDRs of pools")).transpose();
        let addresses = |name| own(name).map_or(Ok(Vec::new()), |(name, text)| addresses(name, text));
        let (limits, doubts) = QosControls::read(|name| pod.get(name).map(String::as_str));
        let read = Self {
            limits,
            doubts,
            sources: own("allowedSourcePrefixes").map_or(Ok(Vec::new()), |(name, text)| networks(name, text))?,
            ipv4_pools: pools("ipv4pools")?,
            ipv6_pools: pools("ipv6pools")?,
            families: either("ipFamilies").map(|(name, text)| families(name, text)).transpose()?,
            addresses: addresses("ipAddrs")?,
            without_ipam: addresses("ipAddrsNoIpam")?,
            mac: own("hwAddr").map(|(name, text)| mac(name, text)).transpose()?,
        };
        if !read.addresses.is_empty() && !read.without_ipam.is_empty() {
            return Err(Failure {
                code: code::OTHER,
                message: "the pod asks for its addresses twice".to_owned(),
                details: format!("it has {PREFIX}ipAddrs and {PREFIX}ipAddrsNoIpam; remove one and make it anew"),
            });
        }
        Ok(read)
    }

    /// The request as these wishes change it.
    ///
    /// # Errors
    /// Code 7 if the network configuration does not allow it.
    pub(crate) fn apply(&self, add: &Add) -> Result<Add, Failure> {
        let mut add = add.clone();
        let fixed = !self.addresses.is_empty() || !self.without_ipam.is_empty();
        if fixed && !add.given.is_empty() {
            return Err(Failure {
                code: code::INVALID,
                message: "the pod asks for addresses that another IPAM plugin would have to give".to_owned(),
                details: format!("{PREFIX}ipAddrs and {PREFIX}ipAddrsNoIpam need \"calico-ipam\" as ipam.type"),
            });
        }
        if !self.without_ipam.is_empty() && !add.allow_without_ipam {
            return Err(Failure {
                code: code::INVALID,
                message: "the pod asks for addresses without IPAM, which is not allowed".to_owned(),
                details: format!(
                    "remove {PREFIX}ipAddrsNoIpam, or set feature_control.ip_addrs_no_ipam in the network configuration"
                ),
            });
        }
        if let Some((ipv4, ipv6)) = self.families {
            (add.ipv4, add.ipv6) = (ipv4, ipv6);
        }
        if let Some(pools) = &self.ipv4_pools {
            add.ipv4_pools.clone_from(pools);
        }
        if let Some(pools) = &self.ipv6_pools {
            add.ipv6_pools.clone_from(pools);
        }
        if !self.addresses.is_empty() {
            add.addresses.clone_from(&self.addresses);
            add.ipv4 = self.addresses.iter().any(IpAddr::is_ipv4);
            add.ipv6 = self.addresses.iter().any(IpAddr::is_ipv6);
        }
        if !self.without_ipam.is_empty() {
            add.given.clone_from(&self.without_ipam);
        }
        Ok(add)
    }
}

impl Wishes {
    /// The endpoint with what these wishes put into it.
    pub(crate) fn onto(&self, mut endpoint: WorkloadEndpoint) -> WorkloadEndpoint {
        endpoint.spec.allow_spoofed_source_prefixes = self.sources.iter().map(ToString::to_string).collect();
        endpoint.spec.qos_controls = self.limits.as_ref().and_then(|limits| serde_json::to_value(limits).ok());
        endpoint
    }
}

fn found<'a>(annotations: &'a Annotations, name: &str) -> Option<&'a str> {
    annotations.get(&format!("{PREFIX}{name}")).map(String::as_str).filter(|text| !text.is_empty())
}

fn wrong(name: &str, text: &str, rule: &str) -> Failure {
    let shown: String = text.chars().take(80).collect();
    Failure {
        code: code::OTHER,
        message: format!("the annotation {PREFIX}{name} of the pod or its namespace cannot be understood"),
        details: format!("it is {shown:?}: {rule}; correct it and make the pod anew"),
    }
}

fn list(name: &str, text: &str, what: &str) -> Result<Vec<String>, Failure> {
    let rule = format!("it must be a JSON list of {what}, as [\"…\"]");
    let list: Vec<String> = serde_json::from_str(text).map_err(|_| wrong(name, text, &rule))?;
    if list.is_empty() || list.iter().any(String::is_empty) { Err(wrong(name, text, &rule)) } else { Ok(list) }
}

fn addresses(name: &str, text: &str) -> Result<Vec<IpAddr>, Failure> {
    let rule = "it holds at most one IPv4 and one IPv6 address, without masks";
    let parse = |text: &String| text.parse::<IpAddr>().ok();
    let addresses: Option<Vec<IpAddr>> = list(name, text, "addresses")?.iter().map(parse).collect();
    let addresses = addresses.ok_or_else(|| wrong(name, text, rule))?;
    let of = |ipv4: bool| addresses.iter().filter(|address| address.is_ipv4() == ipv4).count();
    if of(true) > 1 || of(false) > 1 { Err(wrong(name, text, rule)) } else { Ok(addresses) }
}

fn networks(name: &str, text: &str) -> Result<Vec<IpNet>, Failure> {
    let network = |text: &String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    let networks: Option<Vec<IpNet>> = list(name, text, "networks")?.iter().map(network).collect();
    networks.ok_or_else(|| wrong(name, text, "it holds networks such as 10.9.0.0/16"))
}

fn families(name: &str, text: &str) -> Result<(bool, bool), Failure> {
    let list = list(name, text, "IPv4 and IPv6")?;
    let known = |family: &String| family == "IPv4" || family == "IPv6";
    if !list.iter().all(known) {
        return Err(wrong(name, text, "families are called IPv4 and IPv6"));
    }
    let has = |name: &str| list.iter().any(|family| family == name);
    Ok((has("IPv4"), has("IPv6")))
}

fn mac(name: &str, text: &str) -> Result<Mac, Failure> {
    let rule = "it must be the Ethernet address of one interface, as 0a:58:0a:f4:00:05";
    let mac: Mac = text.parse().map_err(|_| wrong(name, text, rule))?;
    let is_group = mac.0.first().is_some_and(|octet| octet & 1 == 1);
    if is_group || mac.0.iter().all(|octet| *octet == 0) { Err(wrong(name, text, rule)) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use calico_api::{ObjectMeta, WorkloadEndpointSpec};

    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(name, text)| (format!("{PREFIX}{name}"), (*text).to_owned())).collect()
    }

    #[test]
    fn a_pods_wishes_go_before_its_namespaces_and_both_before_the_configuration() {
        let pod = annotations(&[("ipv4pools", r#"["a","10.1.0.0/16"]"#), ("hwAddr", "0a:58:0a:f4:00:05")]);
        let namespace = annotations(&[
            ("ipv4pools", r#"["b"]"#),
            ("ipv6pools", r#"["c"]"#),
            ("ipFamilies", r#"["IPv6","IPv4"]"#),
            ("hwAddr", "02:00:00:00:00:01"),
            ("ipAddrs", r#"["10.0.0.9"]"#),
        ]);
        let wishes = Wishes::read(&pod, &namespace).unwrap();
        assert_eq!(wishes.mac, Some(Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 5])), "a namespace has no address");
        let add = Add { ipv4: true, ipv4_pools: vec!["x".into()], ipv6_pools: vec!["y".into()], ..Add::default() };
        let changed = wishes.apply(&add).unwrap();
        assert_eq!((changed.ipv4, changed.ipv6), (true, true));
        assert_eq!(
            (changed.ipv4_pools, changed.ipv6_pools),
            (vec!["a".into(), "10.1.0.0/16".into()], vec!["c".into()])
        );
        assert!(changed.addresses.is_empty());
        assert_eq!(Wishes::default().apply(&add).unwrap(), add);
    }

    fn empty() -> WorkloadEndpoint {
        WorkloadEndpoint::new(ObjectMeta::default(), WorkloadEndpointSpec::default())
    }

    #[test]
    fn limits_and_foreign_sources_come_into_the_endpoint_and_bad_limits_keep_nobody_from_it() {
        let mut pod = annotations(&[("allowedSourcePrefixes", r#"["10.9.0.0/16","fd00::1"]"#)]);
        pod.insert("qos.projectcalico.org/egressBandwidth".to_owned(), "1".to_owned());
        pod.insert("kubernetes.io/ingress-bandwidth".to_owned(), "fast".to_owned());
        let wishes = Wishes::read(&pod, &Annotations::new()).unwrap();
        let endpoint = wishes.onto(empty());
        assert_eq!(endpoint.spec.allow_spoofed_source_prefixes, ["10.9.0.0/16", "fd00::1/128"]);
        assert_eq!(endpoint.spec.qos_controls.unwrap()["egressBandwidth"], 1000);
        assert_eq!(wishes.doubts.len(), 2, "{:?}", wishes.doubts);
        let nothing = Wishes::default().onto(empty());
        assert_eq!(nothing, empty());
    }

    #[test]
    fn fixed_addresses_decide_the_families_and_need_the_right_ipam() {
        let wishes = Wishes::read(&annotations(&[("ipAddrs", r#"["fd00::9"]"#)]), &Annotations::new()).unwrap();
        let changed = wishes.apply(&Add { ipv4: true, ..Add::default() }).unwrap();
        assert_eq!((changed.ipv4, changed.ipv6, changed.addresses), (false, true, vec!["fd00::9".parse().unwrap()]));
        let given = Add { given: vec!["10.0.0.1".parse().unwrap()], ..Add::default() };
        assert_eq!(wishes.apply(&given).unwrap_err().code, 7);
        let wishes = Wishes::read(&annotations(&[("ipAddrsNoIpam", r#"["10.0.0.9"]"#)]), &Annotations::new()).unwrap();
        let refused = wishes.apply(&Add::default()).unwrap_err();
        assert!(refused.details.contains("feature_control.ip_addrs_no_ipam"), "{refused:?}");
        let allowed = Add { allow_without_ipam: true, ..Add::default() };
        assert_eq!(wishes.apply(&allowed).unwrap().given, ["10.0.0.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_cannot_be_understood_is_named_with_what_it_holds() {
        for (name, text) in [
            ("ipv4pools", "pool-a"),
            ("ipv4pools", "[]"),
            ("ipv6pools", r#"{"a":1}"#),
            ("ipFamilies", r#"["ipv4"]"#),
            ("ipAddrs", r#"["10.0.0.1/24"]"#),
            ("ipAddrs", r#"["10.0.0.1","10.0.0.2"]"#),
            ("ipAddrsNoIpam", "[1]"),
            ("hwAddr", "01:00:5e:00:00:01"),
            ("hwAddr", "00:00:00:00:00:00"),
            ("hwAddr", "nonsense"),
            ("allowedSourcePrefixes", "10.9.0.0/16"),
            ("allowedSourcePrefixes", r#"["10.9.0.0/33"]"#),
        ] {
            let failure = Wishes::read(&annotations(&[(name, text)]), &Annotations::new()).unwrap_err();
            assert_eq!(failure.code, 999);
            assert!(failure.message.contains(name), "{failure:?}");
            assert!(failure.details.contains(&format!("{text:?}")), "{failure:?}");
        }
        let both = annotations(&[("ipAddrs", r#"["10.0.0.1"]"#), ("ipAddrsNoIpam", r#"["10.0.0.1"]"#)]);
        assert!(Wishes::read(&both, &Annotations::new()).is_err());
    }
}
