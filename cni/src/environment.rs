//! What does the runtime say in the environment?

use std::net::IpAddr;
use std::path::PathBuf;

use calico_agent::{Pod, Sandbox};

use crate::error::{Code, Error};
use crate::netconf::is_plain;

/// What the runtime wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make the interface.
    Add,
    /// Remove it.
    Del,
    /// See whether it is as it was made.
    Check,
    /// Forget what belongs to none of the sandboxes that are listed.
    Gc,
    /// Can it serve?
    Status,
    /// Which versions does it speak?
    Version,
}

impl Verb {
    /// As the runtime calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// From `CNI_COMMAND`.
    ///
    /// # Errors
    /// Code 4 if it is not set or none of the specification's.
    pub fn read(get: &impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let command = required(get, "CNI_COMMAND")?;
        let verbs = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];
        verbs.into_iter().find(|verb| verb.as_str() == command).ok_or_else(|| {
            let details = format!("it is {command:?}; known are ADD, DEL, CHECK, GC, STATUS and VERSION");
            Error::new(Code::InvalidEnvironment, "unknown CNI_COMMAND", details)
        })
    }
}

/// Whose interface a verb is about; for ADD, DEL and CHECK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_NETNS`; only DEL may lack it.
    pub namespace: Option<PathBuf>,
    /// `K8S_POD_NAME` and `K8S_POD_NAMESPACE` of `CNI_ARGS`, if both are there.
    pub pod: Option<Pod>,
    /// `K8S_POD_UID` of `CNI_ARGS`.
    pub pod_uid: Option<String>,
    /// `IP` of `CNI_ARGS`: exactly this address is wanted.
    pub address: Option<IpAddr>,
}

/// What `CNI_ARGS` says.
#[derive(Debug, Default)]
struct Arguments {
    pod: Option<Pod>,
    pod_uid: Option<String>,
    address: Option<IpAddr>,
}

impl Environment {
    /// Reads the variables that `verb` needs.
    ///
    /// # Errors
    /// Code 4, naming the variable.
    pub fn read(verb: Verb, get: &impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let container_id = required(get, "CNI_CONTAINERID")?;
        let begins_well = container_id.starts_with(|first: char| first.is_ascii_alphanumeric());
        if !begins_well || !is_plain(&container_id) {
            return Err(invalid("CNI_CONTAINERID", &container_id, "letters, digits, '_', '.' and '-' make one"));
        }
        let interface = required(get, "CNI_IFNAME")?;
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if interface.len() > 15 || interface.contains(bad) || interface == "." || interface == ".." {
            let rule = "an interface's name has at most 15 octets and no slash, colon or space";
            return Err(invalid("CNI_IFNAME", &interface, rule));
        }
        let namespace = if verb == Verb::Del {
            get("CNI_NETNS").filter(|path| !path.is_empty())
        } else {
            Some(required(get, "CNI_NETNS")?)
        };
        let Arguments { pod, pod_uid, address } = arguments(&get("CNI_ARGS").unwrap_or_default())?;
        Ok(Self { container_id, interface, namespace: namespace.map(PathBuf::from), pod, pod_uid, address })
    }

    /// The sandbox, as the agent is told.
    pub fn sandbox(&self, network: &str) -> Sandbox {
        Sandbox {
            container_id: self.container_id.clone(),
            interface: self.interface.clone(),
            network: network.to_owned(),
            pod: self.pod.clone(),
        }
    }
}

/// `KEY=VALUE;KEY=VALUE`; keys that mean nothing to us are passed over.
fn arguments(text: &str) -> Result<Arguments, Error> {
    let (mut name, mut namespace, mut pod_uid, mut address) = (None, None, None, None);
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid("CNI_ARGS", pair, "it is a list of KEY=VALUE, separated by semicolons"));
        };
        match key {
            "K8S_POD_NAME" => name = Some(value).filter(|value| !value.is_empty()),
            "K8S_POD_NAMESPACE" => namespace = Some(value).filter(|value| !value.is_empty()),
            "K8S_POD_UID" => pod_uid = Some(value.to_owned()).filter(|value| !value.is_empty()),
            "IP" if !value.is_empty() => {
                let parsed =
                    value.parse().map_err(|_| invalid("CNI_ARGS", pair, "IP is one address without a mask"))?;
                address = Some(parsed);
            }
            _ => {}
        }
    }
    let pod = namespace.zip(name).map(|(namespace, name)| Pod { namespace: namespace.into(), name: name.into() });
    Ok(Arguments { pod, pod_uid, address })
}

fn required(get: &impl Fn(&str) -> Option<String>, name: &str) -> Result<String, Error> {
    get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
        let details = "a container runtime sets it; this program is not meant to be called by hand";
        Error::new(Code::InvalidEnvironment, format!("environment variable {name} is missing"), details)
    })
}

fn invalid(variable: &str, value: &str, rule: &str) -> Error {
    Error::new(
        Code::InvalidEnvironment,
        format!("environment variable {variable} is wrong"),
        format!("{value:?}: {rule}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(verb: Verb, variables: &[(&str, &str)]) -> Result<Environment, Error> {
        let given =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let usual = |name: &str| match name {
            "CNI_CONTAINERID" => Some("c0ffee".to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => Some("/run/netns/pod".to_owned()),
            _ => None,
        };
        Environment::read(verb, &|name| given(name).or_else(|| usual(name)))
    }

    #[test]
    fn the_pod_is_known_when_both_its_names_are() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=8f3c";
        let environment = read(Verb::Add, &[("CNI_ARGS", arguments)]).unwrap();
        assert_eq!(environment.pod, Some(Pod { namespace: "default".into(), name: "web-0".into() }));
        assert_eq!(environment.pod_uid.as_deref(), Some("8f3c"));
        assert_eq!(environment.sandbox("net").handle(), "net.c0ffee");
        assert_eq!(read(Verb::Add, &[("CNI_ARGS", "K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=")]).unwrap().pod, None);
        let fixed = read(Verb::Add, &[("CNI_ARGS", "IP=10.0.0.9;;")]).unwrap();
        assert_eq!(fixed.address, Some(IpAddr::from([10, 0, 0, 9])));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        #[track_caller]
        fn check(variable: &str, value: &str) {
            let error = read(Verb::Add, &[(variable, value)]).unwrap_err();
            assert_eq!(error.code.number(), 4);
            assert!(error.message.contains(variable), "{error}");
        }
        check("CNI_CONTAINERID", "");
        check("CNI_CONTAINERID", "-c");
        check("CNI_CONTAINERID", "../c");
        check("CNI_IFNAME", "a-name-of-sixteen");
        check("CNI_IFNAME", "eth/0");
        check("CNI_IFNAME", "..");
        check("CNI_NETNS", "");
        check("CNI_ARGS", "K8S_POD_NAME");
        check("CNI_ARGS", "IP=10.0.0.9/32");
        assert_eq!(read(Verb::Del, &[("CNI_NETNS", "")]).unwrap().namespace, None);
        let error = Verb::read(&|_| Some("JUMP".into())).unwrap_err();
        assert_eq!(error.code.number(), 4);
    }

    proptest! {
        #[test]
        fn any_environment_is_read_or_refused(
            values in prop::collection::vec(prop_oneof![".*", "[a-zA-Z0-9_.=;/-]{0,24}"], 4),
            add: bool,
        ) {
            let names = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"];
            let get = |name: &str| names.iter().zip(&values).find(|(known, _)| **known == name).map(|(_, v)| v.clone());
            if let Ok(read) = Environment::read(if add { Verb::Add } else { Verb::Del }, &get) {
                prop_assert!(!read.interface.is_empty() && read.interface.len() <= 15 && !read.interface.contains('/'));
                prop_assert!(is_plain(&read.container_id));
            }
        }
    }
}
