//! Which fields may a network configuration have?
//!
//! Unknown ones are accepted, as the CNI specification wants it, and told in the log: a mistyped field would otherwise do
//! nothing without a word. Known are those of the specification, Calico's and our own.

use serde_json::{Map, Value};

/// At the top.
const FIELDS: &[&str] = &[
    // The specification's.
    "args",
    "capabilities",
    "cniVersion",
    "disableCheck",
    "disableGC",
    "dns",
    "ipMasq",
    "ipam",
    "loadOnlyInlinedPlugins",
    "name",
    "prevResult",
    "runtimeConfig",
    "type",
    // Calico's.
    "burst",
    "calico_api_group",
    "container_settings",
    "dataplane_options",
    "datastore_type",
    "device_type",
    "endpoint_status_dir",
    "etcd_authority",
    "etcd_ca_cert_file",
    "etcd_cert_file",
    "etcd_discovery_srv",
    "etcd_endpoints",
    "etcd_key_file",
    "etcd_scheme",
    "feature_control",
    "hostname",
    "include_default_routes",
    "ipam_lock_file",
    "kubernetes",
    "log_file_max_age",
    "log_file_max_count",
    "log_file_max_size",
    "log_file_path",
    "log_level",
    "mode",
    "mtu",
    "nodename",
    "nodename_file",
    "nodename_file_optional",
    "num_queues",
    "policy",
    "policy_setup_timeout_seconds",
    "qps",
    "readiness_gates",
    "require_mtu_file",
    "vxlan_mac_prefix",
    "vxlan_vni",
    // Ours.
    "agent_socket",
    "agent_spool",
];

/// In sections that we read.
const SECTIONS: &[(&str, &[&str])] = &[
    ("container_settings", &["allow_ip_forwarding"]),
    ("feature_control", &["floating_ips", "ip_addrs_no_ipam"]),
    ("ipam", &["assign_ipv4", "assign_ipv6", "ipv4_pools", "ipv6_pools", "name", "ranges", "routes", "subnet", "type"]),
];

/// The fields of a configuration that nobody knows, as `section.field`. Another IPAM plugin's section is its own.
pub fn unknown(fields: &Map<String, Value>) -> Vec<String> {
    let at_top = fields.keys().filter(|name| {
        let windows = name.starts_with("windows_");
        !FIELDS.contains(&name.as_str()) && !name.starts_with("cni.dev/") && !windows
    });
    let mut found: Vec<String> = at_top.cloned().collect();
    for (section, known) in SECTIONS {
        let Some(inner) = fields.get(*section).and_then(Value::as_object) else { continue };
        let anothers = *section == "ipam" && inner.get("type").is_some_and(|kind| kind != "calico-ipam");
        if !anothers {
            let names = inner.keys().filter(|name| !known.contains(&name.as_str()));
            found.extend(names.map(|name| format!("{section}.{name}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_fields_that_nobody_knows_are_found() {
        let unknown = |value: Value| unknown(value.as_object().unwrap());
        let known = json!({ "name": "a", "cniVersion": "1.0.0", "type": "calico", "cni.dev/valid-attachments": [],
            "windows_loopback_DSR": true, "ipam": { "type": "host-local", "dataDir": "/x" } });
        assert_eq!(unknown(known), Vec::<String>::new());
        let mistyped = json!({ "mtuu": 1500, "policy": { "whatever": 1 }, "container_settings": { "allow_forwarding": true },
            "ipam": { "type": "calico-ipam", "ipv4pools": [] } });
        assert_eq!(unknown(mistyped), ["mtuu", "container_settings.allow_forwarding", "ipam.ipv4pools"]);
    }
}
