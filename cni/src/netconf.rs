//! What does the network configuration on standard input say?
//!
//! Fields that mean nothing to us are passed over: a configuration written for Calico works as it is. A field that we
//! use and that holds something else than it should is refused by its name.

use std::path::PathBuf;
use std::time::Duration;

use calico_agent::Attachment;
use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::error::{Code, Error};
use crate::gate::Gate;
use crate::known;
use crate::version::Version;

/// A network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netconf {
    /// `cniVersion`.
    pub version: Version,
    /// `name`: the network's.
    pub name: String,
    /// `nodename`: the node's, if the configuration says it.
    pub node: Option<String>,
    /// `mtu`: that of the pod's interface; `None` leaves it to the agent.
    pub mtu: Option<u32>,
    /// `num_queues`: of each end of the pod's interface.
    pub queues: u32,
    /// `container_settings.allow_ip_forwarding`: whether the pod may route.
    pub forwarding: bool,
    /// `feature_control.ip_addrs_no_ipam`: whether a pod may choose addresses that no IPAM knows of.
    pub allow_without_ipam: bool,
    /// `require_mtu_file`: whether an agent that knows no MTU is an error.
    pub require_mtu: bool,
    /// `readiness_gates`: what must be well before a pod is connected.
    pub gates: Vec<Gate>,
    /// `policy_setup_timeout_seconds`: how long ADD waits for felix's word that policies are in force; zero is not at all.
    pub policy_timeout: Duration,
    /// `endpoint_status_dir`: where felix leaves its word.
    pub status_folder: PathBuf,
    /// Fields that nobody knows.
    pub unknown: Vec<String>,
    /// `agent_socket`: where the agent listens.
    pub agent_socket: PathBuf,
    /// `agent_spool`: where releases wait for an agent.
    pub agent_spool: PathBuf,
    /// `ipam`, or why it cannot be used: only ADD needs it.
    pub ipam: Result<Ipam, Error>,
    /// `prevResult`: what ADD answered; CHECK compares with it, and it tells DEL that ADD succeeded.
    pub previous: Option<Value>,
    /// `cni.dev/valid-attachments`, if it is there, or why it cannot be used: only GC needs it.
    pub attachments: Result<Option<Vec<Attachment>>, Error>,
    /// The configuration as it came, for the plugin that is called in our place.
    pub raw: Value,
}

/// The section `ipam`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    /// `type`: another IPAM plugin's program, if it is not ours.
    pub program: Option<String>,
    /// `routes`: with another plugin these, and no default route, are the pod's.
    pub routes: Vec<IpNet>,
    /// `assign_ipv4`: on if it is absent.
    pub ipv4: bool,
    /// `assign_ipv6`: off if it is absent.
    pub ipv6: bool,
    /// `ipv4_pools`: names or CIDRs.
    pub ipv4_pools: Vec<String>,
    /// `ipv6_pools`: the same.
    pub ipv6_pools: Vec<String>,
}

/// Parses standard input as JSON.
///
/// # Errors
/// Code 6 with the place where it ends to be JSON.
pub fn decode(input: &[u8]) -> Result<Value, Error> {
    let refuse =
        |details: String| Error::new(Code::Decoding, "the network configuration is not a JSON object", details);
    let value: Value = serde_json::from_slice(input).map_err(|error| refuse(error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(refuse("it is JSON, but no object".to_owned())) }
}

/// Whether a text consists of letters, digits, `_`, `.` and `-` only, and is not empty.
pub fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

impl Netconf {
    /// Reads a decoded configuration.
    ///
    /// # Errors
    /// Code 1 for the version, 7 for any other field, naming it.
    pub fn read(value: &Value) -> Result<Self, Error> {
        let version = Version::of(value)?;
        let nothing = Map::new();
        let fields = value.as_object().unwrap_or(&nothing);
        let name = text(fields, "name")?.unwrap_or_default();
        if !is_plain(name) {
            return Err(field(
                "name",
                fields.get("name"),
                "a network's name is made of letters, digits, '_', '.' and '-'",
            ));
        }
        check_dataplane(fields)?;
        let settings = section(fields, "container_settings")?.unwrap_or(&nothing);
        let features = section(fields, "feature_control")?.unwrap_or(&nothing);
        let socket = text(fields, "agent_socket")?.unwrap_or(calico_agent::SOCKET);
        let spool = text(fields, "agent_spool")?.unwrap_or(calico_agent::SPOOL);
        let status_folder = text(fields, "endpoint_status_dir")?.unwrap_or("/var/run/calico/endpoint-status");
        check_log(fields)?;
        Ok(Self {
            version,
            name: name.to_owned(),
            node: text(fields, "nodename")?.map(ToOwned::to_owned),
            mtu: number(fields, "mtu")?.filter(|mtu| *mtu != 0),
            queues: number(fields, "num_queues")?.filter(|queues| *queues != 0).unwrap_or(1),
            forwarding: boolean(settings, "allow_ip_forwarding")?.unwrap_or(false),
            allow_without_ipam: boolean(features, "ip_addrs_no_ipam")?.unwrap_or(false),
            require_mtu: boolean(fields, "require_mtu_file")?.unwrap_or(false),
            gates: gates(fields)?,
            policy_timeout: Duration::from_secs(number(fields, "policy_setup_timeout_seconds")?.unwrap_or(0).into()),
            status_folder: status_folder.into(),
            unknown: known::unknown(fields),
            agent_socket: socket.into(),
            agent_spool: spool.into(),
            ipam: Ipam::read(fields, &nothing),
            previous: fields.get("prevResult").filter(|result| !result.is_null()).cloned(),
            attachments: attachments(fields),
            raw: value.clone(),
        })
    }
}

/// Refuses what would be made in another way than a veth pair by us.
fn check_dataplane(fields: &Map<String, Value>) -> Result<(), Error> {
    let kind = section(fields, "dataplane_options")?.map(|options| text(options, "type")).transpose()?.flatten();
    if let Some(kind) = kind {
        let rule = format!("dataplane {kind:?} is not supported; leave dataplane_options out");
        return Err(field("dataplane_options.type", None, &rule));
    }
    // Departs from Calico: a netkit pair is asked for as a faster veth pair, and a veth pair is what it gets.
    match text(fields, "device_type")? {
        None | Some("veth" | "netkit") => Ok(()),
        Some(_) => Err(field("device_type", fields.get("device_type"), "it is \"veth\" or absent")),
    }
}

/// The log reads its own fields, and passes over what is wrong with them: it must work before all this.
fn check_log(fields: &Map<String, Value>) -> Result<(), Error> {
    text(fields, "log_level")?;
    text(fields, "log_file_path")?;
    number(fields, "log_file_max_size").map(drop)
}

fn gates(fields: &Map<String, Value>) -> Result<Vec<Gate>, Error> {
    const NAME: &str = "readiness_gates";
    let refuse =
        |value| field(NAME, Some(value), "it must be a list of addresses such as \"http://localhost:9099/readiness\"");
    match fields.get(NAME) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => {
            values.iter().map(|value| value.as_str().and_then(Gate::parse).ok_or_else(|| refuse(value))).collect()
        }
        Some(other) => Err(refuse(other)),
    }
}

impl Ipam {
    fn read(fields: &Map<String, Value>, nothing: &Map<String, Value>) -> Result<Self, Error> {
        let ipam = section(fields, "ipam")?.unwrap_or(nothing);
        match text(ipam, "type")? {
            Some("calico-ipam") => {}
            Some(other) if is_plain(other) && !other.starts_with('.') => return Self::of_another(fields, ipam, other),
            Some(_) => return Err(field("ipam.type", ipam.get("type"), "it is the name of a plugin's program")),
            None => {
                let details = "add \"ipam\": {\"type\": \"calico-ipam\"}";
                return Err(Error::configuration("the network configuration names no IPAM plugin", details));
            }
        }
        let family = |name: &str| flag(ipam, name).map_err(|error| within("ipam", error));
        let pools = |name: &str| texts(ipam, name).map_err(|error| within("ipam", error));
        let read = Self {
            program: None,
            routes: Vec::new(),
            ipv4: family("assign_ipv4")?.unwrap_or(true),
            ipv6: family("assign_ipv6")?.unwrap_or(false),
            ipv4_pools: pools("ipv4_pools")?,
            ipv6_pools: pools("ipv6_pools")?,
        };
        if !read.ipv4 && !read.ipv6 {
            let details = "ipam.assign_ipv4 is \"false\" and ipam.assign_ipv6 is not \"true\"";
            return Err(Error::configuration("the network configuration wants no address at all", details));
        }
        Ok(read)
    }

    /// That of another plugin, which reads its own fields.
    fn of_another(fields: &Map<String, Value>, ipam: &Map<String, Value>, program: &str) -> Result<Self, Error> {
        let wrong = |value: &Value| field("ipam.routes", Some(value), "it must be a list of {\"dst\": CIDR}");
        let destination = |route: &Value| {
            let text = route.get("dst").and_then(Value::as_str);
            text.and_then(|text| text.parse::<IpNet>().ok()).map(|network| network.trunc()).ok_or_else(|| wrong(route))
        };
        let mut routes: Vec<IpNet> = match ipam.get("routes") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(routes)) => routes.iter().map(destination).collect::<Result<_, _>>()?,
            Some(other) => return Err(wrong(other)),
        };
        if !routes.is_empty() && boolean(fields, "include_default_routes")?.unwrap_or(false) {
            let everywhere = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
            routes.extend(everywhere.into_iter().filter(|all| !routes.contains(all)).collect::<Vec<_>>());
        }
        let none = Vec::new;
        let program = Some(program.to_owned());
        Ok(Self { program, routes, ipv4: false, ipv6: false, ipv4_pools: none(), ipv6_pools: none() })
    }
}

/// The attachments that the runtime still knows of.
fn attachments(fields: &Map<String, Value>) -> Result<Option<Vec<Attachment>>, Error> {
    const NAME: &str = "cni.dev/valid-attachments";
    let Some(value) = fields.get(NAME).filter(|value| !value.is_null()) else { return Ok(None) };
    let rule = "it must be a list of {\"containerID\": …, \"ifname\": …}";
    let attachment = |one: &Value| {
        let text = |name: &str| one.get(name)?.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        let (container_id, interface) = text("containerID").zip(text("ifname"))?;
        Some(Attachment { container_id, interface })
    };
    let list = value.as_array().ok_or_else(|| field(NAME, Some(value), rule))?;
    list.iter()
        .map(|one| attachment(one).ok_or_else(|| field(NAME, Some(one), rule)))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// What is wrong with which field.
fn field(name: &str, value: Option<&Value>, rule: &str) -> Error {
    let details = match value {
        Some(value) => {
            let written: String = value.to_string().chars().take(80).collect();
            format!("{name} is {written}: {rule}")
        }
        None => format!("{name}: {rule}"),
    };
    Error::configuration("the network configuration is wrong", details)
}

fn within(section: &str, error: Error) -> Error {
    Error { details: format!("{section}.{}", error.details), ..error }
}

/// A text; `None` if it is absent, null or empty.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        other => Err(field(name, other, "it must be a text")),
    }
}

fn number(fields: &Map<String, Value>, name: &str) -> Result<Option<u32>, Error> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            number.map(Some).ok_or_else(|| field(name, Some(value), "it must be a whole number, not below 0"))
        }
    }
}

fn boolean(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>, Error> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        other => Err(field(name, other, "it must be true or false")),
    }
}

/// Calico writes these as texts; real booleans are as clear.
fn flag(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>, Error> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(Value::String(text)) if text == "true" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" => Ok(Some(false)),
        other => Err(field(name, other, "it must be \"true\" or \"false\"")),
    }
}

fn texts(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, Error> {
    let refuse = |value| field(name, Some(value), "it must be a list of names or CIDRs of pools");
    match fields.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => {
            let texts =
                values.iter().map(|value| value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| refuse(value)));
            texts.map(|text| text.map(ToOwned::to_owned)).collect()
        }
        Some(other) => Err(refuse(other)),
    }
}

fn section<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Map<String, Value>>, Error> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(section)) => Ok(Some(section)),
        other => Err(field(name, other, "it must be an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Netconf, Error> {
        decode(text.as_bytes()).and_then(|value| Netconf::read(&value))
    }

    /// As Calico's installer writes it.
    const CALICOS: &str = r#"{
        "name": "k8s-pod-network", "cniVersion": "0.3.1", "type": "calico", "log_level": "info",
        "log_file_path": "/var/log/calico/cni/cni.log", "datastore_type": "kubernetes", "nodename": "node-1", "mtu": 0,
        "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true", "ipv4_pools": ["10.1.0.0/16", "a"]},
        "container_settings": {"allow_ip_forwarding": true}, "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}, "num_queues": 4, "prevResult": null
    }"#;

    #[test]
    fn calicos_own_configuration_is_understood() {
        let netconf = read(CALICOS).unwrap();
        assert_eq!((netconf.name.as_str(), netconf.version.as_str()), ("k8s-pod-network", "0.3.1"));
        assert_eq!(
            (netconf.node.as_deref(), netconf.mtu, netconf.queues, netconf.forwarding),
            (Some("node-1"), None, 4, true)
        );
        assert_eq!(netconf.agent_socket, PathBuf::from("/run/ocicat/agent.sock"));
        let ipam = netconf.ipam.unwrap();
        assert_eq!((ipam.ipv4, ipam.ipv6), (true, true));
        assert_eq!(ipam.ipv4_pools, ["10.1.0.0/16", "a"]);
    }

    #[test]
    fn a_wrong_field_is_named_with_what_it_holds() {
        #[track_caller]
        fn check(patch: Value, code: u32, text: &str) {
            let mut value = json!({ "name": "net", "cniVersion": "1.0.0", "ipam": { "type": "calico-ipam" } });
            for (key, field) in patch.as_object().unwrap() {
                value[key] = field.clone();
            }
            let error = Netconf::read(&value).and_then(|netconf| netconf.ipam.map(|_| ())).unwrap_err();
            assert_eq!(error.code.number(), code, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        check(json!({ "cniVersion": "2.0.0" }), 1, "cniVersion is 2.0.0; supported are 0.1.0");
        check(json!({ "name": "a b" }), 7, "name is \"a b\"");
        check(json!({ "name": null }), 7, "name");
        check(json!({ "mtu": "1500" }), 7, "mtu is \"1500\": it must be a whole number");
        check(json!({ "mtu": -1 }), 7, "mtu is -1");
        check(json!({ "agent_socket": 5 }), 7, "agent_socket is 5");
        check(json!({ "readiness_gates": "http://a/" }), 7, "readiness_gates is \"http://a/\": it must be a list");
        check(json!({ "readiness_gates": ["https://localhost/"] }), 7, "readiness_gates is \"https://localhost/\"");
        check(json!({ "policy_setup_timeout_seconds": -1 }), 7, "policy_setup_timeout_seconds is -1");
        check(json!({ "policy_setup_timeout_seconds": 1.5 }), 7, "policy_setup_timeout_seconds is 1.5");
        check(json!({ "endpoint_status_dir": [] }), 7, "endpoint_status_dir is []");
        check(json!({ "require_mtu_file": "true" }), 7, "require_mtu_file is \"true\"");
        check(json!({ "log_level": 3 }), 7, "log_level is 3");
        check(json!({ "log_file_max_size": "100" }), 7, "log_file_max_size is \"100\"");
        check(json!({ "device_type": "macvlan" }), 7, "device_type");
        check(json!({ "dataplane_options": { "type": "grpc" } }), 7, "dataplane \"grpc\" is not supported");
        check(json!({ "container_settings": { "allow_ip_forwarding": "yes" } }), 7, "allow_ip_forwarding");
        check(json!({ "feature_control": { "ip_addrs_no_ipam": 1 } }), 7, "ip_addrs_no_ipam is 1");
        check(json!({ "ipam": null }), 7, "names no IPAM plugin");
        check(json!({ "ipam": { "type": "../sbin/reboot" } }), 7, "ipam.type is \"../sbin/reboot\"");
        check(json!({ "ipam": { "type": ".." } }), 7, "ipam.type is \"..\"");
        check(json!({ "ipam": { "type": "static", "routes": [{ "dst": "10.0.0.0" }] } }), 7, "ipam.routes");
        check(json!({ "ipam": { "type": "calico-ipam", "assign_ipv4": "no" } }), 7, "ipam.assign_ipv4 is \"no\"");
        check(json!({ "ipam": { "type": "calico-ipam", "assign_ipv4": "false" } }), 7, "wants no address at all");
        check(json!({ "ipam": { "type": "calico-ipam", "ipv4_pools": "10.0.0.0/8" } }), 7, "ipam.ipv4_pools");
        for text in ["", "{", "[]", "nonsense", "\"x\""] {
            assert_eq!(read(text).unwrap_err().code.number(), 6, "{text}");
        }
    }

    #[test]
    fn another_ipam_plugins_routes_replace_the_default_routes_or_join_them() {
        let routes = |join: bool| {
            let ipam = json!({ "type": "host-local", "routes": [{ "dst": "10.1.2.3/8", "gw": "10.0.0.1" }] });
            let value = json!({ "name": "net", "ipam": ipam, "include_default_routes": join });
            let ipam = Netconf::read(&value).unwrap().ipam.unwrap();
            assert_eq!(ipam.program.as_deref(), Some("host-local"));
            ipam.routes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(routes(false), ["10.0.0.0/8"]);
        assert_eq!(routes(true), ["10.0.0.0/8", "0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn attachments_are_all_understood_or_none() {
        let read = |list: Value| {
            let value = json!({ "name": "net", "cni.dev/valid-attachments": list });
            Netconf::read(&value).unwrap().attachments
        };
        let one = json!({ "containerID": "c0ffee", "ifname": "eth0" });
        let expected = Attachment { container_id: "c0ffee".into(), interface: "eth0".into() };
        assert_eq!(read(json!([one])), Ok(Some(vec![expected])));
        assert_eq!(read(json!([])), Ok(Some(Vec::new())));
        assert_eq!(read(Value::Null), Ok(None));
        for bad in [json!({}), json!([one, { "containerID": "c0ffee" }]), json!([{ "ifname": 1 }])] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.code.number(), 7);
            assert!(error.details.contains("cni.dev/valid-attachments"), "{error}");
        }
    }

    /// Any JSON, often with the names we look for.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop_oneof![".{0,8}", "calico-ipam|true|false|1.0.0|0.3.1|net|veth"].prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            let name = "cniVersion|name|mtu|ipam|type|assign_ipv4|ipv4_pools|container_settings|prevResult|[a-z]{1,4}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_read_or_refused(value in value()) {
            if let Ok(netconf) = Netconf::read(&value) {
                prop_assert!(is_plain(&netconf.name));
            }
        }

        #[test]
        fn any_octets_are_decoded_or_refused(octets in prop::collection::vec(any::<u8>(), 0..64), cut in 0..400_usize) {
            let _ = decode(&octets);
            let _ = CALICOS.get(..cut).map(read);
        }
    }
}
