//! What the environment says of the node itself: its name, addresses, AS and the default pools.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use calico_api::{AsNumber, EncapMode, parse_duration};
use ipnet::IpNet;
use regex::Regex;
use std::net::IpAddr;

use super::ConfigError;

/// The node's settings; all from the environment, under Calico's names.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    /// `NODENAME`.
    pub(crate) name: Option<String>,
    /// `CALICO_NODENAME_FILE`.
    pub(crate) name_file: PathBuf,
    /// `HOSTNAME`.
    pub(crate) hostname: Option<String>,
    /// `IP` and `IP_AUTODETECTION_METHOD`.
    pub(crate) ipv4: FamilySetting,
    /// `IP6` and `IP6_AUTODETECTION_METHOD`.
    pub(crate) ipv6: FamilySetting,
    /// `DISABLE_NODE_IP_CHECK`, inverted.
    pub(crate) check_conflicts: bool,
    /// `AS`.
    pub(crate) as_number: Option<AsNumber>,
    /// `CALICO_K8S_NODE_REF`.
    pub(crate) kubernetes_node: Option<String>,
    /// `CALICO_NETWORKING_BACKEND`.
    pub(crate) backend: Backend,
    /// `AUTODETECT_POLL_INTERVAL`.
    pub(crate) poll_interval: Duration,
    /// `CLUSTER_TYPE`, word by word.
    pub(crate) cluster_type: Vec<String>,
    /// `CALICO_SHUTDOWN_TIMESTAMP_FILE`.
    pub(crate) shutdown_file: PathBuf,
    /// The default pools to be made where a family has none: IPv4, IPv6. `None` with `NO_DEFAULT_POOLS`.
    pub(crate) pools: Option<[DefaultPool; 2]>,
}

/// Who programs routes to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// BGP.
    Bird,
    /// VXLAN alone.
    Vxlan,
    /// Nobody; the node's address is not written either.
    None,
}

/// What is said of a family's address.
#[derive(Clone, Debug)]
pub(crate) struct FamilySetting {
    /// The address, or how to come by it.
    pub(crate) address: AddressSetting,
    /// How it is detected, if it is.
    pub(crate) method: Method,
}

/// The address, or how to come by it (reference bgp.md §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressSetting {
    /// Nothing is said: what is stored is kept.
    Unset,
    /// `autodetect`.
    Autodetect,
    /// `none`: what is stored is kept, nothing is detected.
    None,
    /// An address alone.
    Address(IpAddr),
    /// An address and the length of its subnet.
    Network(IpNet),
}

/// How an address is detected.
#[derive(Clone, Debug)]
pub(crate) enum Method {
    /// The first global address, on interfaces that are not virtual by their name.
    FirstFound,
    /// On an interface whose name one of these matches.
    Interface(Vec<Regex>),
    /// As first-found, without these interfaces.
    SkipInterface(Vec<Regex>),
    /// The first address in one of these networks.
    Cidr(Vec<IpNet>),
    /// The address from which this destination is reached.
    CanReach(String),
    /// What Kubernetes holds as the node's InternalIP.
    KubernetesInternalIp,
}

/// What a default pool should be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DefaultPool {
    /// Its range.
    pub(crate) cidr: PoolChoice,
    /// `…_BLOCK_SIZE`.
    pub(crate) block_size: u8,
    /// `…_IPIP`.
    pub(crate) ipip: EncapMode,
    /// `…_VXLAN`.
    pub(crate) vxlan: EncapMode,
    /// `…_NAT_OUTGOING`.
    pub(crate) nat_outgoing: bool,
    /// `…_NODE_SELECTOR`.
    pub(crate) node_selector: String,
    /// `…_DISABLE_BGP_EXPORT`.
    pub(crate) disable_bgp_export: bool,
}

/// The range of a default pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PoolChoice {
    /// `none`: no pool of this family.
    None,
    /// Nothing is said: one that no address of the node is in.
    Free,
    /// This one.
    Cidr(IpNet),
}

/// Reads variables; an empty one is as good as none, except for truth values. Collects what was not understood.
struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    errors: RefCell<Vec<ConfigError>>,
}

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn read<T>(&self, name: &str, allowed: &str, default: T, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(value) = self.text(name) else { return default };
        parse(&value).unwrap_or_else(|| {
            let place = format!("environment variable {name}");
            self.errors.borrow_mut().push(ConfigError::Value { place, value, allowed: allowed.to_owned() });
            default
        })
    }

    fn contradiction(&self, text: String) {
        self.errors.borrow_mut().push(ConfigError::Contradiction(text));
    }

    /// As Calico reads them: set and not one of the words for no is yes.
    fn flag(&self, name: &str, default: bool) -> bool {
        let no = |value: String| ["false", "0", "no", "n", "f"].contains(&value.trim().to_lowercase().as_str());
        (self.get)(name).map_or(default, |value| !no(value))
    }

    fn family(&self, address: &str, method: &str, ipv4: bool) -> FamilySetting {
        let of_family = |found: IpAddr| found.is_ipv4() == ipv4;
        let rule = if ipv4 { "autodetect, none, or an IPv4 address" } else { "autodetect, none, or an IPv6 address" };
        let rule = format!("{rule} with or without the length of its subnet");
        let methods = "first-found, interface=REGEX, skip-interface=REGEX, cidr=CIDR, can-reach=ADDRESS or \
                       kubernetes-internal-ip";
        FamilySetting {
            address: self.read(address, &rule, AddressSetting::Unset, |text| match text {
                "autodetect" => Some(AddressSetting::Autodetect),
                "none" => Some(AddressSetting::None),
                text => match text.parse::<IpAddr>() {
                    Ok(found) => of_family(found).then_some(AddressSetting::Address(found)),
                    Err(_) => {
                        let network = text.parse::<IpNet>().ok().filter(|network| of_family(network.addr()))?;
                        Some(AddressSetting::Network(network))
                    }
                },
            }),
            method: self.read(method, methods, Method::FirstFound, |text| Method::parse(text, ipv4)),
        }
    }

    fn pool(&self, prefix: &str, ipv4: bool) -> DefaultPool {
        let name = |suffix: &str| format!("{prefix}_{suffix}");
        let sizes = if ipv4 { 20..=32 } else { 116..=128 };
        let modes = "Never, Always or CrossSubnet";
        let rule = format!("{} to {}", sizes.start(), sizes.end());
        let block_size = self.read(&name("BLOCK_SIZE"), &rule, if ipv4 { 26 } else { 122 }, |text| {
            text.parse().ok().filter(|size| sizes.contains(size))
        });
        let range = format!(
            "none, or an {} network without host bits that holds at least one block of /{block_size}",
            if ipv4 { "IPv4" } else { "IPv6" }
        );
        let ipip = match ipv4 {
            true => self.read(&name("IPIP"), modes, EncapMode::Never, encapsulation),
            false => EncapMode::Never,
        };
        let vxlan = self.read(&name("VXLAN"), modes, EncapMode::Never, encapsulation);
        if ipip != EncapMode::Never && vxlan != EncapMode::Never {
            self.contradiction(format!("{} and {} are both set: a pool has one of them", name("IPIP"), name("VXLAN")));
        }
        DefaultPool {
            cidr: self.read(&name("CIDR"), &range, PoolChoice::Free, |text| match text {
                "none" => Some(PoolChoice::None),
                text => {
                    let cidr: IpNet = text.parse().ok()?;
                    let good = cidr.addr().is_ipv4() == ipv4 && cidr.trunc() == cidr && cidr.prefix_len() <= block_size;
                    good.then_some(PoolChoice::Cidr(cidr))
                }
            }),
            block_size,
            ipip,
            vxlan,
            nat_outgoing: self.flag(&name("NAT_OUTGOING"), ipv4),
            node_selector: self.text(&name("NODE_SELECTOR")).unwrap_or_else(|| "all()".to_owned()),
            disable_bgp_export: self.flag(&name("DISABLE_BGP_EXPORT"), false),
        }
    }
}

impl NodeSettings {
    /// What the variables that `get` returns mean.
    ///
    /// # Errors
    /// All that is not understood: of the node itself nothing is guessed.
    pub(crate) fn parse(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let variables = Variables { get, errors: RefCell::default() };
        let pools = if variables.flag("NO_DEFAULT_POOLS", false) {
            for name in ["CALICO_IPV4POOL_CIDR", "CALICO_IPV6POOL_CIDR"] {
                if variables.text(name).is_some_and(|value| value != "none") {
                    variables.contradiction(format!("NO_DEFAULT_POOLS is set and {name} too: unset one of them"));
                }
            }
            None
        } else {
            Some([variables.pool("CALICO_IPV4POOL", true), variables.pool("CALICO_IPV6POOL", false)])
        };
        let legacy = match variables.text("CALICO_NETWORKING") {
            Some(text) if text == "false" => Backend::None,
            _ => Backend::Bird,
        };
        let path = |name: &str, default: &str| variables.text(name).unwrap_or_else(|| default.to_owned()).into();
        let interval = |text: &str| parse_duration(text).filter(|interval| *interval >= Duration::from_secs(1));
        let words = variables.text("CLUSTER_TYPE").unwrap_or_default();
        let settings = Self {
            name: variables.text("NODENAME"),
            name_file: path("CALICO_NODENAME_FILE", "/var/lib/calico/nodename"),
            hostname: variables.text("HOSTNAME"),
            ipv4: variables.family("IP", "IP_AUTODETECTION_METHOD", true),
            ipv6: variables.family("IP6", "IP6_AUTODETECTION_METHOD", false),
            check_conflicts: !variables.flag("DISABLE_NODE_IP_CHECK", false),
            as_number: variables
                .read("AS", "an AS number, 0 to 4294967295 or high.low", None, |text| text.parse().ok().map(Some)),
            kubernetes_node: variables.text("CALICO_K8S_NODE_REF"),
            backend: match variables.text("CALICO_NETWORKING_BACKEND").as_deref() {
                Some("none") => Backend::None,
                Some("vxlan") => Backend::Vxlan,
                Some(_) => Backend::Bird,
                None => legacy,
            },
            poll_interval: variables.read(
                "AUTODETECT_POLL_INTERVAL",
                "a length of time of at least one second, such as 60s or 5m",
                Duration::from_secs(60),
                interval,
            ),
            cluster_type: words.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect(),
            shutdown_file: path("CALICO_SHUTDOWN_TIMESTAMP_FILE", "/var/lib/calico/shutdownTS"),
            pools,
        };
        match ConfigError::all(variables.errors.into_inner()) {
            Some(error) => Err(error),
            None => Ok(settings),
        }
    }
}

impl Method {
    fn parse(text: &str, ipv4: bool) -> Option<Self> {
        let patterns =
            |list: &str| list.split(',').map(|text| Regex::new(text.trim()).ok()).collect::<Option<Vec<_>>>();
        let networks = |list: &str| {
            let of_family = |network: &IpNet| network.addr().is_ipv4() == ipv4;
            list.split(',').map(|text| text.trim().parse().ok().filter(of_family)).collect::<Option<Vec<_>>>()
        };
        match text.split_once('=') {
            None if text == "first-found" => Some(Self::FirstFound),
            Some(("interface", list)) => patterns(list).map(Self::Interface),
            Some(("skip-interface", list)) => patterns(list).map(Self::SkipInterface),
            Some(("cidr", list)) => networks(list).map(Self::Cidr),
            Some(("can-reach", destination)) if !destination.is_empty() => Some(Self::CanReach(destination.to_owned())),
            _ if text.starts_with("kubernetes-internal-ip") => Some(Self::KubernetesInternalIp),
            _ => None,
        }
    }
}

fn encapsulation(text: &str) -> Option<EncapMode> {
    match text.to_lowercase().as_str() {
        "off" | "never" => Some(EncapMode::Never),
        "always" => Some(EncapMode::Always),
        "crosssubnet" | "cross-subnet" => Some(EncapMode::CrossSubnet),
        _ => None,
    }
}
