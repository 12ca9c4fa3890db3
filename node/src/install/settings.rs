//! What does the environment tell the installer (reference ipam-cni-datastore.md §5.9)?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The variables that mean something here, for those who mistype one.
const KNOWN: &[&str] = &[
    "CNI_NET_DIR",
    "CNI_CONF_NAME",
    "CNI_OLD_CONF_NAME",
    "CNI_NETWORK_CONFIG",
    "CNI_NETWORK_CONFIG_FILE",
    "UPDATE_CNI_BINARIES",
    "SKIP_CNI_BINARIES",
    "SLEEP",
    "DATASTORE_TYPE",
    "CALICO_API_GROUP",
    "LOG_LEVEL",
    "LOG_FILE_PATH",
    "LOG_FILE_MAX_SIZE",
    "LOG_FILE_MAX_AGE",
    "LOG_FILE_MAX_COUNT",
    "CNI_MTU",
    "REQUIRE_MTU_FILE",
    "KUBERNETES_NODE_NAME",
    "ETCD_ENDPOINTS",
    "ETCD_DISCOVERY_SRV",
];

/// Those of Calico's that only serve to write credentials; they are accepted, and nothing comes of them.
const WITHOUT_EFFECT: &[&str] = &["TLS_ASSETS_DIR", "SKIP_TLS_VERIFY", "CNI_TOKEN_REFRESH_INTERVAL"];

/// What the names of the family begin with.
const FAMILY: &[&str] = &["CNI_", "LOG_FILE_", "UPDATE_CNI", "SKIP_CNI", "SKIP_TLS", "TLS_ASSETS", "REQUIRE_MTU"];

/// The configuration if nobody writes one: what Calico's manifests carry.
pub const TEMPLATE: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "calico",
      "log_level": "__LOG_LEVEL__",
      "log_file_path": "__LOG_FILE_PATH__",
      "datastore_type": "__DATASTORE_TYPE__",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": {"type": "calico-ipam"},
      "policy": {"type": "k8s"}
    },
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}
"#;

/// What is to be installed and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the configuration's file.
    pub name: String,
    /// Name of a file of an earlier release, which goes.
    pub old_name: Option<String>,
    /// The configuration with its placeholders.
    pub template: Template,
    /// What the placeholders stand for, by name without underscores.
    pub values: BTreeMap<&'static str, String>,
    /// Whether plugins that are there are replaced by other ones.
    pub update: bool,
    /// Plugins that are not installed.
    pub skip: BTreeSet<String>,
    /// Whether the program stays to repair what is removed.
    pub stay: bool,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// A variable, or our own.
    Text(String),
    /// `CNI_NETWORK_CONFIG_FILE`.
    File(PathBuf),
}

/// A variable cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is \"{value}\"; it must be {rule}")]
pub struct SettingsError {
    name: &'static str,
    value: String,
    rule: &'static str,
}

/// Go's words for true and false, which Calico's installer takes.
const BOOLEANS: [(&[&str], bool); 2] =
    [(&["1", "t", "T", "TRUE", "true", "True"], true), (&["0", "f", "F", "FALSE", "false", "False"], false)];

/// Reads variables one by one.
struct Reader<'a>(&'a BTreeMap<String, String>);

impl Reader<'_> {
    fn text(&self, name: &'static str) -> Option<&str> {
        self.0.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn or(&self, name: &'static str, default: &str) -> String {
        self.text(name).unwrap_or(default).to_owned()
    }

    fn read<T>(
        &self,
        name: &'static str,
        default: T,
        rule: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let Some(text) = self.text(name) else { return Ok(default) };
        parse(text).ok_or_else(|| SettingsError { name, value: text.chars().take(80).collect(), rule })
    }

    fn flag(&self, name: &'static str, default: bool) -> Result<bool, SettingsError> {
        self.read(name, default, "true or false", |text| {
            BOOLEANS.iter().find_map(|(words, value)| words.contains(&text).then_some(*value))
        })
    }

    fn number(&self, name: &'static str, default: u32, rule: &'static str, most: u32) -> Result<String, SettingsError> {
        let number = |text: &str| text.parse().ok().filter(|number| *number <= most);
        Ok(self.read(name, default, rule, number)?.to_string())
    }

    /// Name of a file in the folder of configurations.
    fn file_name(&self, name: &'static str, default: &str) -> Result<String, SettingsError> {
        self.read(name, default.to_owned(), "the name of a file, without its folder", |text| {
            (!text.contains(['/', '\0']) && !text.starts_with('.')).then(|| text.to_owned())
        })
    }
}

impl Settings {
    /// Reads the variables; `hostname` is what the kernel calls this node. Also returns what an operator should know.
    ///
    /// # Errors
    /// The first variable that cannot be used, with what it must be.
    pub fn read(
        variables: &BTreeMap<String, String>,
        hostname: Option<String>,
    ) -> Result<(Self, Vec<String>), SettingsError> {
        let reader = Reader(variables);
        let count = "a whole number";
        let name = reader.file_name("CNI_CONF_NAME", "10-calico.conflist")?;
        let old_name = reader.file_name("CNI_OLD_CONF_NAME", "10-calico.conflist")?;
        let folder = reader.or("CNI_NET_DIR", "/etc/cni/net.d");
        let node = reader.text("KUBERNETES_NODE_NAME").map(str::to_owned);
        let values = BTreeMap::from([
            ("LOG_LEVEL", reader.or("LOG_LEVEL", "info")),
            ("LOG_FILE_PATH", reader.or("LOG_FILE_PATH", "/var/log/calico/cni/cni.log")),
            ("LOG_FILE_MAX_SIZE", reader.number("LOG_FILE_MAX_SIZE", 100, count, u32::MAX)?),
            ("LOG_FILE_MAX_AGE", reader.number("LOG_FILE_MAX_AGE", 30, count, u32::MAX)?),
            ("LOG_FILE_MAX_COUNT", reader.number("LOG_FILE_MAX_COUNT", 10, count, u32::MAX)?),
            ("DATASTORE_TYPE", reader.or("DATASTORE_TYPE", "kubernetes")),
            ("KUBERNETES_NODE_NAME", node.or(hostname.map(|name| name.trim().to_lowercase())).unwrap_or_default()),
            ("KUBECONFIG_FILEPATH", format!("{}/calico-kubeconfig", folder.trim_end_matches('/'))),
            ("CNI_MTU", reader.number("CNI_MTU", 1500, "0 (felix decides) to 65535", 65_535)?),
            ("REQUIRE_MTU_FILE", reader.flag("REQUIRE_MTU_FILE", false)?.to_string()),
            ("KUBERNETES_SERVICE_HOST", reader.or("KUBERNETES_SERVICE_HOST", "")),
            ("KUBERNETES_SERVICE_PORT", reader.or("KUBERNETES_SERVICE_PORT", "")),
            ("CALICO_API_GROUP", reader.or("CALICO_API_GROUP", "crd.projectcalico.org/v1")),
            ("ETCD_ENDPOINTS", reader.or("ETCD_ENDPOINTS", "")),
            ("ETCD_DISCOVERY_SRV", reader.or("ETCD_DISCOVERY_SRV", "")),
            // Our plugins have no use for these, and a host is no place for secrets.
            ("SERVICEACCOUNT_TOKEN", String::new()),
            ("ETCD_KEY_FILE", String::new()),
            ("ETCD_CERT_FILE", String::new()),
            ("ETCD_CA_CERT_FILE", String::new()),
        ]);
        let template = match (reader.text("CNI_NETWORK_CONFIG_FILE"), reader.text("CNI_NETWORK_CONFIG")) {
            (Some(file), _) => Template::File(file.into()),
            (None, Some(text)) => Template::Text(text.to_owned()),
            (None, None) => Template::Text(TEMPLATE.to_owned()),
        };
        let skip = reader.text("SKIP_CNI_BINARIES").unwrap_or_default().split(',').map(str::trim);
        let settings = Self {
            old_name: (old_name != name).then_some(old_name),
            name,
            template,
            values,
            update: reader.flag("UPDATE_CNI_BINARIES", true)?,
            skip: skip.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            stay: reader.flag("SLEEP", true)?,
        };
        let warnings = settings.warnings(variables);
        Ok((settings, warnings))
    }

    fn warnings(&self, variables: &BTreeMap<String, String>) -> Vec<String> {
        let mut warnings = Vec::new();
        for name in variables.keys() {
            let of_family = FAMILY.iter().any(|prefix| name.starts_with(prefix));
            if of_family && !KNOWN.contains(&name.as_str()) && !WITHOUT_EFFECT.contains(&name.as_str()) {
                warnings
                    .push(format!("the variable {name} is unknown and does nothing; known are {}", KNOWN.join(", ")));
            }
        }
        for name in ["calico", "calico-ipam"].into_iter().filter(|name| self.skip.contains(*name)) {
            warnings.push(format!(
                "SKIP_CNI_BINARIES names {name}, which is installed all the same: nothing works without it"
            ));
        }
        if self.values.get("KUBERNETES_NODE_NAME").is_none_or(String::is_empty) {
            warnings.push("KUBERNETES_NODE_NAME is not set, and the node has no host name".to_owned());
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<(Settings, Vec<String>), String> {
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::read(&variables, Some("Node-1\n".to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_set_means_calicos_defaults() {
        let (settings, warnings) = read(&[("PATH", "/bin"), ("KUBERNETES_PORT", "tcp://10.96.0.1:443")]).unwrap();
        assert_eq!((settings.name.as_str(), settings.old_name), ("10-calico.conflist", None));
        assert_eq!((settings.update, settings.stay, settings.skip.len()), (true, true, 0));
        assert_eq!(settings.template, Template::Text(TEMPLATE.to_owned()));
        let value = |name: &str| settings.values.get(name).map(String::as_str);
        assert_eq!(value("KUBERNETES_NODE_NAME"), Some("node-1"));
        assert_eq!((value("CNI_MTU"), value("LOG_LEVEL")), (Some("1500"), Some("info")));
        assert_eq!(value("KUBECONFIG_FILEPATH"), Some("/etc/cni/net.d/calico-kubeconfig"));
        assert_eq!((value("SERVICEACCOUNT_TOKEN"), value("ETCD_KEY_FILE")), (Some(""), Some("")));
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn every_variable_has_its_effect() {
        let (settings, warnings) = read(&[
            ("CNI_CONF_NAME", "05-net.conflist"),
            ("CNI_NETWORK_CONFIG", "{}"),
            ("CNI_NETWORK_CONFIG_FILE", "/config/net.json"),
            ("UPDATE_CNI_BINARIES", "False"),
            ("SKIP_CNI_BINARIES", "portmap, bandwidth,,"),
            ("SLEEP", "0"),
            ("CNI_MTU", "0"),
            ("CNI_NET_DIR", "/srv/net.d/"),
            ("REQUIRE_MTU_FILE", "t"),
            ("KUBERNETES_NODE_NAME", "worker"),
            ("TLS_ASSETS_DIR", "/calico-secrets"),
        ])
        .unwrap();
        assert_eq!(settings.old_name.as_deref(), Some("10-calico.conflist"));
        assert_eq!(settings.template, Template::File("/config/net.json".into()));
        assert_eq!((settings.update, settings.stay), (false, false));
        assert_eq!(settings.skip, BTreeSet::from(["bandwidth".to_owned(), "portmap".to_owned()]));
        let value = |name: &str| settings.values.get(name).map(String::as_str);
        assert_eq!((value("CNI_MTU"), value("REQUIRE_MTU_FILE")), (Some("0"), Some("true")));
        assert_eq!(value("KUBECONFIG_FILEPATH"), Some("/srv/net.d/calico-kubeconfig"));
        assert_eq!(value("KUBERNETES_NODE_NAME"), Some("worker"));
        assert_eq!(warnings, Vec::<String>::new());
    }

    #[test]
    fn a_wrong_value_ends_it_and_an_unknown_name_is_told() {
        for (name, value, rule) in [
            ("CNI_MTU", "large", "0 (felix decides) to 65535"),
            ("CNI_MTU", "65536", "65535"),
            ("SLEEP", "maybe", "true or false"),
            ("CNI_CONF_NAME", "../10-calico.conflist", "without its folder"),
            ("CNI_OLD_CONF_NAME", "..", "without its folder"),
            ("LOG_FILE_MAX_AGE", "-1", "a whole number"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(value) && error.contains(rule), "{error}");
        }
        let (_, warnings) =
            read(&[("CNI_CONFIG_NAME", "x"), ("SKIP_CNI_BINARIES", "calico"), ("UPDATE_CNI_BINARY", "true")]).unwrap();
        let texts = ["CNI_CONFIG_NAME is unknown", "UPDATE_CNI_BINARY is unknown", "names calico,"];
        assert_eq!(warnings.len(), texts.len());
        assert!(warnings.iter().zip(texts).all(|(warning, text)| warning.contains(text)), "{warnings:?}");
    }
}
