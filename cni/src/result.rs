//! What does a plugin answer, in the shape of the version that was asked for?

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_netlink::Mac;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::version::Version;

/// The addresses and interfaces that ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The node's side, then the pod's.
    pub interfaces: Vec<Interface>,
    /// The addresses with the masks they are told with.
    pub addresses: Vec<IpNet>,
    /// Destinations of routes to be made by whoever called.
    pub routes: Vec<IpNet>,
    /// Name servers and the like, as another IPAM plugin told them.
    pub dns: Option<Value>,
}

/// A result that another plugin wrote, in the shape of whatever version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// Interfaces, of the pod and of the node.
    pub interfaces: Vec<Interface>,
    /// Addresses, each with the place of its interface in the list, if that is told.
    pub addresses: Vec<(IpNet, Option<usize>)>,
    /// `dns`, if there is anything in it.
    pub dns: Option<Value>,
}

impl Received {
    /// Reads a result: `ips` with `interfaces` (0.3.0 and later), or `ip4` and `ip6`. What other plugins add to it is
    /// passed over.
    ///
    /// # Errors
    /// What is no address, no interface, or given twice.
    pub fn read(value: &Value) -> Result<Self, String> {
        let result = value.as_object().ok_or("it is no object")?;
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let list = |name: &str| match result.get(name) {
            None | Some(Value::Null) => Ok(&[][..]),
            Some(Value::Array(list)) => Ok(list.as_slice()),
            Some(_) => Err(format!("{name} is no list")),
        };
        let network = |text: &str| text.parse::<IpNet>().map_err(|_| format!("{text:?} is no address with a mask"));
        let interface = |one: &Value| Interface {
            name: text(one, "name"),
            mac: text(one, "mac").parse().ok(),
            mtu: one.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok()),
            sandbox: Some(text(one, "sandbox")).filter(|sandbox| !sandbox.is_empty()),
        };
        let interfaces: Vec<Interface> = list("interfaces")?.iter().map(interface).collect();
        let mut addresses = Vec::new();
        for ip in list("ips")? {
            let place = ip.get("interface").and_then(Value::as_u64).and_then(|place| usize::try_from(place).ok());
            addresses.push((network(&text(ip, "address"))?, place));
        }
        for family in ["ip4", "ip6"] {
            if let Some(old) = result.get(family).filter(|old| !old.is_null()) {
                addresses.push((network(&text(old, "ip"))?, None));
            }
        }
        let mut seen = BTreeSet::new();
        if let Some((twice, _)) = addresses.iter().find(|(network, _)| !seen.insert(network.addr())) {
            return Err(format!("{} is there twice", twice.addr()));
        }
        let dns = result.get("dns").filter(|dns| dns.as_object().is_some_and(|dns| !dns.is_empty())).cloned();
        Ok(Self { interfaces, addresses, dns })
    }

    /// The addresses of an interface of the pod: those that say so, and those that say nothing.
    pub fn of_interface<'a>(&'a self, name: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let is_its = move |place: &Option<usize>| match place {
            Some(place) => self.interfaces.get(*place).is_some_and(|one| one.name == name && one.sandbox.is_some()),
            None => true,
        };
        self.addresses.iter().filter(move |(_, place)| is_its(place)).map(|(network, _)| network.addr())
    }
}

/// An interface that ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address, told for the pod's side.
    pub mac: Option<Mac>,
    /// Its MTU in octets, told for the pod's side.
    pub mtu: Option<u32>,
    /// The path of its network namespace; `None` is the node's.
    pub sandbox: Option<String>,
}

impl Outcome {
    /// As it is written to standard output.
    pub fn to_json(&self, version: Version) -> Value {
        if version < Version::INTERFACES {
            return self.to_old_json(version);
        }
        let mut result = json!({ "cniVersion": version.as_str() });
        if !self.interfaces.is_empty() {
            result["interfaces"] = self.interfaces.iter().map(|interface| interface.to_json(version)).collect();
        }
        // All are on the last: the pod's side.
        let place = self.interfaces.len().checked_sub(1);
        let address = |network: &IpNet| {
            let mut address = json!({ "address": network.to_string() });
            if let Some(place) = place {
                address["interface"] = place.into();
            }
            if version < Version::PLAIN_ADDRESSES {
                address["version"] = if network.addr().is_ipv4() { "4" } else { "6" }.into();
            }
            address
        };
        result["ips"] = self.addresses.iter().map(address).collect();
        if !self.routes.is_empty() {
            result["routes"] = self.routes.iter().map(|route| json!({ "dst": route.to_string() })).collect();
        }
        result["dns"] = self.dns.clone().unwrap_or_else(|| json!({}));
        result
    }

    /// 0.1.0 and 0.2.0: one address of each family, no interfaces.
    fn to_old_json(&self, version: Version) -> Value {
        let mut result = json!({ "cniVersion": version.as_str() });
        for (name, ipv4) in [("ip4", true), ("ip6", false)] {
            let of_family = |network: &&IpNet| matches!(network.addr(), IpAddr::V4(_)) == ipv4;
            let Some(address) = self.addresses.iter().find(of_family) else { continue };
            let mut part = Map::new();
            part.insert("ip".to_owned(), address.to_string().into());
            let routes: Vec<Value> =
                self.routes.iter().filter(of_family).map(|route| json!({ "dst": route.to_string() })).collect();
            if !routes.is_empty() {
                part.insert("routes".to_owned(), routes.into());
            }
            result[name] = part.into();
        }
        result["dns"] = self.dns.clone().unwrap_or_else(|| json!({}));
        result
    }
}

impl Interface {
    fn to_json(&self, version: Version) -> Value {
        let mut interface = json!({ "name": self.name });
        if let Some(mac) = self.mac {
            interface["mac"] = mac.to_string().into();
        }
        if let Some(mtu) = self.mtu.filter(|_| version >= Version::NEWEST) {
            interface["mtu"] = mtu.into();
        }
        if let Some(sandbox) = &self.sandbox {
            interface["sandbox"] = sandbox.as_str().into();
        }
        interface
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            interfaces: vec![
                Interface { name: "cali0d7763386da".into(), ..Interface::default() },
                Interface {
                    name: "eth0".into(),
                    mac: Some(Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 5])),
                    mtu: Some(1450),
                    sandbox: Some("/run/netns/pod".into()),
                },
            ],
            addresses: vec!["10.244.0.5/32".parse().unwrap(), "fd00::5/128".parse().unwrap()],
            routes: Vec::new(),
            dns: None,
        }
    }

    fn shown(outcome: &Outcome, version: &str) -> String {
        outcome.to_json(Version::of(&json!({ "cniVersion": version })).unwrap()).to_string()
    }

    #[test]
    fn a_result_has_the_shape_of_its_version() {
        insta::assert_snapshot!(shown(&outcome(), "0.2.0"),
            @r#"{"cniVersion":"0.2.0","dns":{},"ip4":{"ip":"10.244.0.5/32"},"ip6":{"ip":"fd00::5/128"}}"#);
        insta::assert_snapshot!(shown(&outcome(), "0.3.1"),
            @r#"{"cniVersion":"0.3.1","dns":{},"interfaces":[{"name":"cali0d7763386da"},{"mac":"0a:58:0a:f4:00:05","name":"eth0","sandbox":"/run/netns/pod"}],"ips":[{"address":"10.244.0.5/32","interface":1,"version":"4"},{"address":"fd00::5/128","interface":1,"version":"6"}]}"#);
        assert_eq!(shown(&outcome(), "0.4.0"), shown(&outcome(), "0.3.1").replace("0.3.1", "0.4.0"));
        insta::assert_snapshot!(shown(&outcome(), "1.0.0"),
            @r#"{"cniVersion":"1.0.0","dns":{},"interfaces":[{"name":"cali0d7763386da"},{"mac":"0a:58:0a:f4:00:05","name":"eth0","sandbox":"/run/netns/pod"}],"ips":[{"address":"10.244.0.5/32","interface":1},{"address":"fd00::5/128","interface":1}]}"#);
        insta::assert_snapshot!(shown(&outcome(), "1.1.0"),
            @r#"{"cniVersion":"1.1.0","dns":{},"interfaces":[{"name":"cali0d7763386da"},{"mac":"0a:58:0a:f4:00:05","mtu":1450,"name":"eth0","sandbox":"/run/netns/pod"}],"ips":[{"address":"10.244.0.5/32","interface":1},{"address":"fd00::5/128","interface":1}]}"#);
    }

    #[test]
    fn a_result_of_every_version_is_read_back() {
        let mut written = outcome();
        written.dns = Some(json!({ "nameservers": ["10.96.0.10"] }));
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let read = Received::read(&serde_json::from_str(&shown(&written, version)).unwrap()).unwrap();
            let addresses: Vec<IpAddr> = read.of_interface("eth0").collect();
            assert_eq!(addresses, ["10.244.0.5", "fd00::5"].map(|text| text.parse::<IpAddr>().unwrap()), "{version}");
            assert_eq!(read.dns, written.dns);
            let told = version >= "0.3.0";
            assert_eq!(read.interfaces.len(), if told { 2 } else { 0 });
            assert_eq!(read.interfaces == written.interfaces, version == "1.1.0", "only 1.1.0 tells the MTU");
            assert_eq!(read.of_interface("net1").count(), if told { 0 } else { 2 });
        }
    }

    #[test]
    fn what_is_no_result_is_refused_with_what_is_wrong() {
        for (text, wrong) in [
            ("[]", "no object"),
            (r#"{"ips":{}}"#, "ips is no list"),
            (r#"{"ips":[{"address":"10.0.0.1"}]}"#, "\"10.0.0.1\" is no address with a mask"),
            (r#"{"ip4":{"ip":5}}"#, "\"\" is no address"),
            (r#"{"ips":[{"address":"10.0.0.1/24"},{"address":"10.0.0.1/32"}]}"#, "10.0.0.1 is there twice"),
        ] {
            let error = Received::read(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn an_ipam_result_has_addresses_and_routes_only() {
        let block: Vec<IpNet> = vec!["10.244.0.5/26".parse().unwrap(), "fd00::5/122".parse().unwrap()];
        let outcome = Outcome { addresses: block.clone(), routes: block, ..Outcome::default() };
        insta::assert_snapshot!(shown(&outcome, "0.1.0"),
            @r#"{"cniVersion":"0.1.0","dns":{},"ip4":{"ip":"10.244.0.5/26","routes":[{"dst":"10.244.0.5/26"}]},"ip6":{"ip":"fd00::5/122","routes":[{"dst":"fd00::5/122"}]}}"#);
        insta::assert_snapshot!(shown(&outcome, "0.3.1"),
            @r#"{"cniVersion":"0.3.1","dns":{},"ips":[{"address":"10.244.0.5/26","version":"4"},{"address":"fd00::5/122","version":"6"}],"routes":[{"dst":"10.244.0.5/26"},{"dst":"fd00::5/122"}]}"#);
        insta::assert_snapshot!(shown(&outcome, "1.1.0"),
            @r#"{"cniVersion":"1.1.0","dns":{},"ips":[{"address":"10.244.0.5/26"},{"address":"fd00::5/122"}],"routes":[{"dst":"10.244.0.5/26"},{"dst":"fd00::5/122"}]}"#);
    }
}
