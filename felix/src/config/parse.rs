//! From what was written to what was meant.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bgp_plan::workloads::EndpointStatus;
use calico_api::parse_duration;
use calico_daemon::{LogFormat, LogOptions};
use regex::Regex;

use super::{Config, ConfigError, NatSettings, NodeSettings, PARAMETERS, Raw, TunnelSettings};

/// Whether a bad value stops the process or falls back to the default.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Fatal,
    FallsBack,
}

/// Reads parameters and collects what was wrong with them.
pub(super) struct Reader<'a> {
    /// What was written.
    pub(super) raw: &'a Raw,
    /// What was wrong with it.
    pub(super) problems: Vec<String>,
    /// Of these, values that cannot be used.
    bad: Vec<String>,
}

impl Reader<'_> {
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        bad: Bad,
        allowed: &str,
        default: T,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        debug_assert!(PARAMETERS.iter().any(|(known, ..)| *known == name), "{name} is in the table");
        let Some(written) = self.raw.get(name) else { return Ok(default) };
        if written.value.eq_ignore_ascii_case("none") {
            return Ok(default); // explicitly empty: weaker layers are hidden
        }
        match parse(&written.value) {
            Some(value) => Ok(value),
            None if bad == Bad::Fatal => Err(ConfigError::Value {
                place: written.place.clone(),
                value: written.value.clone(),
                allowed: allowed.to_owned(),
            }),
            None => {
                let (place, value) = (&written.place, &written.value);
                self.bad(format!("{place} is \"{value}\"; allowed is {allowed}; the default is used"));
                Ok(default)
            }
        }
    }

    /// A value cannot be used.
    pub(super) fn bad(&mut self, problem: String) {
        self.bad.push(problem.clone());
        self.problems.push(problem);
    }

    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, ConfigError> {
        self.read(name, Bad::FallsBack, "true or false", default, boolean)
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str, allowed: &str, default: T) -> Result<T, ConfigError> {
        self.read(name, Bad::FallsBack, allowed, default, |text| text.parse().ok())
    }

    fn path(&mut self, name: &str, default: &str) -> Result<PathBuf, ConfigError> {
        self.read(name, Bad::Fatal, "an absolute path", PathBuf::from(default), |text| {
            text.starts_with('/').then(|| PathBuf::from(text))
        })
    }

    fn address(
        &mut self,
        prefix: &str,
        enabled: bool,
        host: IpAddr,
        port: u16,
    ) -> Result<Option<SocketAddr>, ConfigError> {
        let enabled = self.flag(&format!("{prefix}Enabled"), enabled)?;
        let host =
            self.read(&format!("{prefix}Host"), Bad::FallsBack, "an address or localhost", host, |text| match text {
                "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
                "" => Some(Ipv6Addr::UNSPECIFIED.into()),
                text => text.parse().ok(),
            })?;
        let port = self.read(&format!("{prefix}Port"), Bad::FallsBack, "1 to 65535", port, |text| {
            text.parse().ok().filter(|port| *port != 0)
        })?;
        Ok(enabled.then(|| SocketAddr::new(host, port)))
    }
}

impl Config {
    /// What `raw` and the node's variables (through `get`) mean.
    ///
    /// # Errors
    /// A value of a parameter without which it makes no sense to start.
    pub(crate) fn parse(raw: &Raw, get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut reader = Reader { raw, problems: Vec::new(), bad: Vec::new() };
        let prefix_rule = "a comma list of prefixes of letters, digits, - and _, the first of at most 4 characters";
        let default_pattern = PARAMETERS.iter().find(|(name, ..)| *name == "MtuIfacePattern").map_or("", |row| row.1);
        let default_pattern = Regex::new(default_pattern).expect("the default pattern is a regular expression");
        let ipv6 = reader.flag("Ipv6Support", true)?;
        let config = Self {
            interface_prefixes: reader.read(
                "InterfacePrefix",
                Bad::Fatal,
                prefix_rule,
                vec!["cali".to_owned()],
                prefixes,
            )?,
            route_protocol: reader.read("DeviceRouteProtocol", Bad::FallsBack, "1 to 255", 80, |text| {
                text.parse().ok().filter(|protocol| *protocol != 0)
            })?,
            route_metric_ipv4: reader.number("IPv4NormalRoutePriority", "0 to 4294967295", 1024)?,
            route_metric_ipv6: reader.number("IPv6NormalRoutePriority", "0 to 4294967295", 1024)?,
            ipv6,
            forwarding: reader.read("IPForwarding", Bad::FallsBack, "Enabled or Disabled", true, |text| match text
                .to_lowercase()
                .as_str()
            {
                "enabled" => Some(true),
                "disabled" => Some(false),
                _ => None,
            })?,
            logs: LogOptions {
                level: reader.read(
                    "LogSeverityScreen",
                    Bad::FallsBack,
                    "Trace, Debug, Info, Warning, Error or Fatal",
                    "info".to_owned(),
                    severity,
                )?,
                format: reader
                    .read("LogFormat", Bad::FallsBack, "text or json", LogFormat::Text, |text| text.parse().ok())?,
            },
            // Departs from Calico, where it is off until a manifest turns it on: an agent that cannot be asked is of no use.
            health: reader.address("Health", true, Ipv4Addr::LOCALHOST.into(), 9099)?,
            metrics: reader.address("PrometheusMetrics", false, Ipv6Addr::UNSPECIFIED.into(), 9091)?,
            route_refresh: reader.read(
                "RouteRefreshInterval",
                Bad::FallsBack,
                "seconds, or a duration such as 90s or 2m",
                Some(Duration::from_secs(90)),
                |text| duration(text).map(|interval| (!interval.is_zero()).then_some(interval)),
            )?,
            mtu_interfaces: reader.read(
                "MtuIfacePattern",
                Bad::FallsBack,
                "a regular expression",
                default_pattern,
                |text| Regex::new(text).ok(),
            )?,
            mtu_file: reader.path("MtuFile", "/var/lib/calico/mtu")?,
            socket: reader.path("AgentSocket", calico_agent::SOCKET)?,
            spool: reader.path("AgentSpool", calico_agent::SPOOL)?,
            // The variable is the one by which Calico tells its BGP side where to look for the files.
            endpoint_status: reader.read(
                "EndpointStatusPathPrefix",
                Bad::Fatal,
                "an absolute path, or nothing",
                Some(
                    get("CALICO_ENDPOINT_STATUS_PATH_PREFIX")
                        .filter(|path| !path.is_empty())
                        .unwrap_or_else(|| EndpointStatus::PREFIX.to_owned())
                        .into(),
                ),
                |text| match text {
                    "" => Some(None),
                    text => text.starts_with('/').then(|| Some(PathBuf::from(text))),
                },
            )?,
            health_timeouts: reader.read(
                "HealthTimeoutOverrides",
                Bad::FallsBack,
                "a comma list of REPORTER=DURATION, such as CalculationGraph=5m",
                BTreeMap::new(),
                timeouts,
            )?,
            proc_sys_net: reader.read("ProcSysNet", Bad::Fatal, "an absolute path", None, |text| {
                text.starts_with('/').then(|| Some(PathBuf::from(text)))
            })?,
            bird_sockets: reader.path("BirdSocketFolder", "/var/run/calico")?,
            tunnels: TunnelSettings::parse(&mut reader, ipv6)?,
            nat: NatSettings::parse(&mut reader)?,
            node: NodeSettings::parse(get)?,
            problems: reader.problems,
            bad: reader.bad,
            idle: raw.idle().to_vec(),
        };
        Ok(config)
    }
}

fn prefixes(text: &str) -> Option<Vec<String>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let all: Vec<String> = text.split(',').map(|prefix| prefix.trim().to_owned()).collect();
    let good = all.iter().all(|prefix| !prefix.is_empty() && prefix.len() < 15 && prefix.chars().all(plain));
    // A name is the first prefix and eleven digits, and the kernel takes fifteen characters.
    (good && all.first().is_some_and(|first| first.len() <= 4)).then_some(all)
}

/// Calico's spellings of a truth value.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

fn severity(text: &str) -> Option<String> {
    let level = text.to_lowercase();
    ["trace", "debug", "info", "warning", "warn", "error", "fatal"].contains(&level.as_str()).then_some(level)
}

/// `CalculationGraph=5m,InternalDataplaneMainLoop=10m`.
fn timeouts(text: &str) -> Option<BTreeMap<String, Duration>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            part.split_once('=').and_then(|(name, time)| Some((name.trim().to_owned(), duration(time.trim())?)))
        })
        .collect()
}

/// Seconds, perhaps with a fraction, or as Go writes it (`1m30s`); at most a year.
fn duration(text: &str) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(31_536_000);
    if let Some(found) = parse_duration(text) {
        return (found <= YEAR).then_some(found);
    }
    let seconds = text.parse::<f64>().ok()?;
    (0.0..=YEAR.as_secs_f64()).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Idle;
    use super::*;

    fn read(set: &[&str], environment: &[(&str, &str)], file: &str) -> Result<Config, ConfigError> {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let variables: Vec<_> = environment.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let raw = Raw::read(&set, variables.clone().into_iter(), Some((Path::new("/etc/calico/felix.cfg"), file)))?;
        Config::parse(&raw, &|key| variables.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()))
    }

    #[test]
    fn the_command_line_is_stronger_than_the_environment_and_that_than_the_file() {
        let file = "[global]\n# a comment\nHealthPort = 1\nrouterefreshinterval = 10\nInterfacePrefix: tap,cali\n";
        let config =
            read(&["HealthPort=3"], &[("FELIX_HEALTHPORT", "2"), ("felix_RouteRefreshInterval", "none")], file);
        let config = config.unwrap();
        assert_eq!(config.health, Some("127.0.0.1:3".parse().unwrap()));
        assert_eq!(config.route_refresh, Some(Duration::from_secs(90)), "none hides the file's value");
        assert_eq!(config.interface_prefixes, ["tap", "cali"]);
        assert_eq!(config.problems, Vec::<String>::new());
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_and_what_is_allowed() {
        let config =
            read(&[], &[("FELIX_HEALTHPORT", "99999"), ("FELIX_COLOUR", "red")], "IPForwarding = maybe").unwrap();
        assert_eq!(
            config.problems,
            [
                "IPForwarding in line 1 of /etc/calico/felix.cfg is \"maybe\"; allowed is Enabled or Disabled; the default is used",
                "environment variable FELIX_HEALTHPORT is \"99999\"; allowed is 1 to 65535; the default is used",
            ]
        );
        assert_eq!(config.idle, [Idle::Unknown { name: "FELIX_COLOUR".to_owned(), meant: None }]);
        assert!(config.forwarding);
    }

    #[track_caller]
    fn refused(set: &[&str], environment: &[(&str, &str)], file: &str, expected: &str) {
        assert_eq!(read(set, environment, file).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_makes_no_sense_stops_the_process() {
        let rule = "a comma list of prefixes of letters, digits, - and _, the first of at most 4 characters";
        refused(
            &["InterfacePrefix=caliper"],
            &[],
            "",
            &format!("--set InterfacePrefix is \"caliper\"; allowed is {rule}"),
        );
        refused(&["x"], &[], "", "--set x is not NAME=VALUE");
        refused(&[], &[], "\n\nhello", "line 3 of /etc/calico/felix.cfg is \"hello\", which is not name = value");
        refused(
            &[],
            &[("AS", "x")],
            "",
            "environment variable AS is \"x\"; allowed is an AS number, 0 to 4294967295 or high.low",
        );
        refused(
            &[],
            &[("IP_AUTODETECTION_METHOD", "interface=(")],
            "",
            "environment variable IP_AUTODETECTION_METHOD is \"interface=(\"; allowed is first-found, interface=REGEX, \
             skip-interface=REGEX, cidr=CIDR, can-reach=ADDRESS or kubernetes-internal-ip",
        );
        refused(
            &[],
            &[("NO_DEFAULT_POOLS", "true"), ("CALICO_IPV4POOL_CIDR", "10.0.0.0/16")],
            "",
            "NO_DEFAULT_POOLS is set and CALICO_IPV4POOL_CIDR too: unset one of them",
        );
    }

    #[test]
    fn status_files_are_where_felix_own_parameter_or_else_the_common_variable_says() {
        let common = ("CALICO_ENDPOINT_STATUS_PATH_PREFIX", "/run/common");
        for (environment, expected) in [
            (&[][..], Some("/var/run/calico")),
            (&[common], Some("/run/common")),
            (&[common, ("FELIX_ENDPOINTSTATUSPATHPREFIX", "/run/felix")], Some("/run/felix")),
            (&[common, ("FELIX_ENDPOINTSTATUSPATHPREFIX", "")], None),
        ] {
            let config = read(&[], environment, "").unwrap();
            assert_eq!(config.endpoint_status.as_deref(), expected.map(Path::new), "{environment:?}");
        }
    }

    #[test]
    fn durations_are_seconds_or_carry_a_unit() {
        let cases = [
            ("90", Some(90_000)),
            ("1.5", Some(1_500)),
            ("2m", Some(120_000)),
            ("250ms", Some(250)),
            ("0", Some(0)),
            ("1m30s", Some(90_000)),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        }
        for text in ["", "x", "-1", "1d", "1e99", "NaN", "inf"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
