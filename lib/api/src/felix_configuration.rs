//! Settings of Felix: the parameters that users may set in the datastore.
//!
//! Nothing here has a default of its own: what Felix does without a field is Felix's to say,
//! since its environment and its file come first and per-node objects before the cluster's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Port, Resource, Spec};

/// Named `default` for the cluster, `node.<name>` for one node, anything else with a `nodeSelector`.
pub type FelixConfiguration = Resource<FelixConfigurationSpec>;

/// A length of time as Go writes it: `90s`, `1m30s`, `500ms`.
pub type DurationText = String;

/// The spec from a table of its fields, so that each is one line.
macro_rules! felix_configuration {
    ($($field:ident $json:literal: $type:ty, $doc:literal;)*) => {
        /// Settings of Felix; what is absent is not set here.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct FelixConfigurationSpec {
            $(
                #[doc = $doc]
                #[serde(rename = $json, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        impl FelixConfigurationSpec {
            /// Every field as it stands in a file, with a sentence on it.
            pub const FIELDS: &'static [(&'static str, &'static str)] = &[$(($json, $doc),)*];
        }
    };
}

felix_configuration! {
    node_selector "nodeSelector": String, "Which nodes it is for; only on objects other than `default` and `node.*`.";
    use_internal_dataplane_driver "useInternalDataplaneDriver": bool, "Whether the dataplane is Felix's own.";
    dataplane_driver "dataplaneDriver": String, "Program to run for an external dataplane.";
    dataplane_watchdog_timeout "dataplaneWatchdogTimeout": DurationText, "For how long the dataplane may be busy.";
    ipv6_support "ipv6Support": bool, "Whether IPv6 is programmed at all.";
    route_refresh_interval "routeRefreshInterval": DurationText, "How often routes are compared with the kernel's.";
    interface_refresh_interval "interfaceRefreshInterval": DurationText, "How often interfaces are listed anew.";
    iptables_refresh_interval "iptablesRefreshInterval": DurationText, "How often iptables is compared with what should be.";
    iptables_post_write_check_interval "iptablesPostWriteCheckInterval": DurationText, "When iptables is read again after a write.";
    iptables_lock_probe_interval "iptablesLockProbeInterval": DurationText, "How often the lock of iptables is tried.";
    iptables_lock_file_path "iptablesLockFilePath": String, "Path of that lock; without effect, for old objects.";
    iptables_lock_timeout "iptablesLockTimeout": DurationText, "How long that lock is waited for; without effect, for old objects.";
    feature_detect_override "featureDetectOverride": String, "Features of the kernel to believe in or not: `Name=true,…`.";
    feature_gates "featureGates": String, "Experiments to switch on or off: `Name=Enabled,…`.";
    ipsets_refresh_interval "ipsetsRefreshInterval": DurationText, "How often IP sets are compared with the kernel's.";
    max_ipset_size "maxIpsetSize": i64, "How many members an IP set may have.";
    iptables_backend "iptablesBackend": String, "`Legacy`, `NFT` or `Auto`.";
    xdp_refresh_interval "xdpRefreshInterval": DurationText, "How often XDP programs are looked at.";
    netlink_timeout "netlinkTimeout": DurationText, "How long an answer of the kernel is waited for.";
    metadata_addr "metadataAddr": String, "OpenStack's metadata server.";
    metadata_port "metadataPort": i64, "Port of OpenStack's metadata server.";
    openstack_region "openstackRegion": String, "OpenStack's region.";
    interface_prefix "interfacePrefix": String, "What workloads' interfaces begin with; several by commas.";
    interface_exclude "interfaceExclude": String, "Interfaces to leave alone: names or /expressions/, by commas.";
    chain_insert_mode "chainInsertMode": String, "`insert` or `append` to the kernel's chains.";
    default_endpoint_to_host_action "defaultEndpointToHostAction": String, "Pod to its own node, after policy: `Drop`, `Return`, `Accept`.";
    iptables_filter_allow_action "iptablesFilterAllowAction": String, "What allowed packets meet in filter: `Accept`, `Return`.";
    iptables_mangle_allow_action "iptablesMangleAllowAction": String, "What allowed packets meet in mangle: `Accept`, `Return`.";
    iptables_filter_deny_action "iptablesFilterDenyAction": String, "What denied packets meet: `Drop`, `Reject`.";
    log_prefix "logPrefix": String, "What lines of Log rules begin with; %t, %k, %n, %p are filled in.";
    log_action_rate_limit "logActionRateLimit": String, "How many lines a Log rule may write: `10/second`.";
    log_action_rate_limit_burst "logActionRateLimitBurst": i64, "How many of them at once.";
    log_file_path "logFilePath": String, "Path of the log file; `none` for none.";
    log_severity_file "logSeverityFile": String, "Level of the log file.";
    log_severity_screen "logSeverityScreen": String, "Level of the log on the standard streams.";
    log_severity_sys "logSeveritySys": String, "Level of what goes to syslog.";
    log_debug_filename_regex "logDebugFilenameRegex": String, "Source files of which debug lines are logged.";
    ipip_enabled "ipipEnabled": bool, "Whether the IPIP device is made; absent means as the pools need.";
    ipip_mtu "ipipMTU": i64, "MTU of the IPIP device; 0 is automatic.";
    vxlan_enabled "vxlanEnabled": bool, "Whether VXLAN devices are made; absent means as the pools need.";
    vxlan_mtu "vxlanMTU": i64, "MTU of the VXLAN device; 0 is automatic.";
    vxlan_mtu_v6 "vxlanMTUV6": i64, "MTU of the IPv6 VXLAN device; 0 is automatic.";
    vxlan_port "vxlanPort": i64, "UDP port of VXLAN.";
    vxlan_vni "vxlanVNI": i64, "Network identifier of VXLAN.";
    allow_vxlan_packets_from_workloads "allowVXLANPacketsFromWorkloads": bool, "Whether pods may send VXLAN.";
    allow_ipip_packets_from_workloads "allowIPIPPacketsFromWorkloads": bool, "Whether pods may send IPIP.";
    reporting_interval "reportingInterval": DurationText, "How often Felix reports its own status.";
    reporting_ttl "reportingTTL": DurationText, "For how long such a report holds.";
    endpoint_reporting_enabled "endpointReportingEnabled": bool, "Whether endpoints' status goes to the datastore.";
    endpoint_reporting_delay "endpointReportingDelay": DurationText, "How long before it does.";
    endpoint_status_path_prefix "endpointStatusPathPrefix": String, "Directory of endpoints' status files; empty for none.";
    iptables_mark_mask "iptablesMarkMask": i64, "Bits of the packet mark that Felix may use.";
    disable_conntrack_invalid_check "disableConntrackInvalidCheck": bool, "Whether invalid packets are let through.";
    health_enabled "healthEnabled": bool, "Whether there is a health server.";
    health_host "healthHost": String, "Address of the health server.";
    health_port "healthPort": i64, "Port of the health server.";
    health_timeout_overrides "healthTimeoutOverrides": Vec<HealthTimeoutOverride>, "Other time-outs of health reporters.";
    prometheus_metrics_enabled "prometheusMetricsEnabled": bool, "Whether there is a metrics server.";
    prometheus_metrics_host "prometheusMetricsHost": String, "Address of the metrics server.";
    prometheus_metrics_port "prometheusMetricsPort": i64, "Port of the metrics server.";
    prometheus_go_metrics_enabled "prometheusGoMetricsEnabled": bool, "Whether metrics of the Go runtime are served.";
    prometheus_process_metrics_enabled "prometheusProcessMetricsEnabled": bool, "Whether metrics of the process are served.";
    prometheus_wireguard_metrics_enabled "prometheusWireGuardMetricsEnabled": bool, "Whether metrics of WireGuard are served.";
    prometheus_metrics_ca_file "prometheusMetricsCAFile": String, "Authority of the metrics server's clients.";
    prometheus_metrics_cert_file "prometheusMetricsCertFile": String, "Certificate of the metrics server.";
    prometheus_metrics_key_file "prometheusMetricsKeyFile": String, "Key of the metrics server.";
    prometheus_metrics_client_auth "prometheusMetricsClientAuth": String, "How the metrics server's clients prove themselves.";
    failsafe_inbound_host_ports "failsafeInboundHostPorts": Vec<ProtoPort>, "Always open towards a host endpoint; empty for none.";
    failsafe_outbound_host_ports "failsafeOutboundHostPorts": Vec<ProtoPort>, "Always open from a host endpoint; empty for none.";
    kube_node_port_ranges "kubeNodePortRanges": Vec<Port>, "Kubernetes' node ports.";
    policy_sync_path_prefix "policySyncPathPrefix": String, "Directory of the sidecars' sockets; empty for none.";
    usage_reporting_enabled "usageReportingEnabled": bool, "Read and not acted upon: nothing is reported to anybody.";
    usage_reporting_initial_delay "usageReportingInitialDelay": DurationText, "Read and not acted upon.";
    usage_reporting_interval "usageReportingInterval": DurationText, "Read and not acted upon.";
    nat_port_range "natPortRange": Port, "Source ports of outgoing NAT.";
    nat_outgoing_address "natOutgoingAddress": String, "Source address of outgoing NAT.";
    nat_outgoing_exclusions "natOutgoingExclusions": String, "`IPPoolsOnly` or `IPPoolsAndHostIPs`.";
    device_route_source_address "deviceRouteSourceAddress": String, "Source address of routes to pods.";
    device_route_source_address_ipv6 "deviceRouteSourceAddressIPv6": String, "IPv6 source address of routes to pods.";
    device_route_protocol "deviceRouteProtocol": i64, "Protocol number of Felix's routes.";
    remove_external_routes "removeExternalRoutes": bool, "Whether others' routes on pods' interfaces are removed.";
    program_cluster_routes "programClusterRoutes": String, "`Enabled`, `Disabled`, `EnabledIPIPOnly` or `EnabledNoEncapOnly`.";
    ip_forwarding "ipForwarding": String, "`Enabled`: forwarding is switched on; `Disabled`: it is left alone.";
    external_nodes_cidr_list "externalNodesList": Vec<String>, "Senders of tunnel packets that are no nodes.";
    debug_memory_profile_path "debugMemoryProfilePath": String, "Where memory profiles go.";
    debug_disable_log_dropping "debugDisableLogDropping": bool, "Whether logging waits rather than drops.";
    debug_simulate_calc_graph_hang_after "debugSimulateCalcGraphHangAfter": DurationText, "For tests of the watchdog.";
    debug_simulate_dataplane_hang_after "debugSimulateDataplaneHangAfter": DurationText, "For tests of the watchdog.";
    debug_simulate_dataplane_apply_delay "debugSimulateDataplaneApplyDelay": DurationText, "For tests of the watchdog.";
    debug_host "debugHost": String, "Address of the profiling server.";
    debug_port "debugPort": i64, "Port of the profiling server.";
    iptables_nat_outgoing_interface_filter "iptablesNATOutgoingInterfaceFilter": String, "Interfaces to which outgoing NAT applies.";
    sidecar_acceleration_enabled "sidecarAccelerationEnabled": bool, "Whether sidecars' connections take a short cut.";
    xdp_enabled "xdpEnabled": bool, "Whether XDP serves untracked policies.";
    generic_xdp_enabled "genericXDPEnabled": bool, "Whether generic XDP may.";
    nftables_mode "nftablesMode": String, "`Enabled`, `Disabled` or `Auto`.";
    nftables_flow_table_offload "nftablesFlowTableOffload": String, "Which established flows bypass forwarding.";
    nftables_flow_table_data_iface_pattern "nftablesFlowTableDataIfacePattern": String, "Interfaces of the flow table.";
    nftables_refresh_interval "nftablesRefreshInterval": DurationText, "How often nftables is compared with what should be.";
    nftables_filter_allow_action "nftablesFilterAllowAction": String, "What allowed packets meet in filter: `Accept`, `Return`.";
    nftables_mangle_allow_action "nftablesMangleAllowAction": String, "What allowed packets meet in mangle: `Accept`, `Return`.";
    nftables_filter_deny_action "nftablesFilterDenyAction": String, "What denied packets meet: `Drop`, `Reject`.";
    nftables_mark_mask "nftablesMarkMask": i64, "Bits of the packet mark that Felix may use with nftables.";
    bpf_enabled "bpfEnabled": bool, "Whether the dataplane is eBPF.";
    bpf_overlay_host_source_ip "bpfOverlayHostSourceIP": String, "Which address hosts use on the overlay.";
    bpf_disable_unprivileged "bpfDisableUnprivileged": bool, "Whether others lose BPF.";
    bpf_jit_hardening "bpfJITHardening": String, "Whether the compiler's hardening is left as it is.";
    bpf_log_level "bpfLogLevel": String, "`Off`, `Info` or `Debug`.";
    bpf_conntrack_log_level "bpfConntrackLogLevel": String, "`Off` or `Debug`.";
    bpf_conntrack_mode "bpfConntrackMode": String, "Who cleans up connections: `Auto`, `Userspace`, `BPFProgram`.";
    bpf_conntrack_timeouts "bpfConntrackTimeouts": BPFConntrackTimeouts, "When connections are forgotten.";
    bpf_ip_frag_timeout "bpfIPFragTimeout": DurationText, "When fragments are forgotten.";
    bpf_log_filters "bpfLogFilters": BTreeMap<String, String>, "Filters by interface.";
    bpf_ctlb_log_filter "bpfCTLBLogFilter": String, "What connect-time load balancing logs.";
    bpf_data_iface_pattern "bpfDataIfacePattern": String, "The node's own interfaces.";
    bpf_l3_iface_pattern "bpfL3IfacePattern": String, "Interfaces without a link layer.";
    bpf_connect_time_load_balancing_enabled "bpfConnectTimeLoadBalancingEnabled": bool, "Deprecated; see the next.";
    bpf_connect_time_load_balancing "bpfConnectTimeLoadBalancing": String, "`TCP`, `Enabled` or `Disabled`.";
    bpf_host_networked_nat_without_ctlb "bpfHostNetworkedNATWithoutCTLB": String, "`Enabled` or `Disabled`.";
    bpf_external_service_mode "bpfExternalServiceMode": String, "`Tunnel` or `DSR`.";
    bpf_dsr_optout_cidrs "bpfDSROptoutCIDRs": Vec<String>, "Clients that get no direct return.";
    bpf_ext_to_service_connmark "bpfExtToServiceConnmark": i64, "Mark of connections from outside.";
    bpf_kube_proxy_iptables_cleanup_enabled "bpfKubeProxyIptablesCleanupEnabled": bool, "Whether kube-proxy's rules are removed.";
    bpf_kube_proxy_min_sync_period "bpfKubeProxyMinSyncPeriod": DurationText, "Shortest time between two passes.";
    bpf_kube_proxy_healthz_port "bpfKubeProxyHealthzPort": i64, "Port of kube-proxy's health server.";
    bpf_kube_proxy_endpoint_slices_enabled "bpfKubeProxyEndpointSlicesEnabled": bool, "Without effect; for old objects.";
    bpf_psnat_ports "bpfPSNATPorts": Port, "Source ports when two clients clash.";
    bpf_map_size_nat_frontend "bpfMapSizeNATFrontend": i64, "Size of a map.";
    bpf_map_size_nat_backend "bpfMapSizeNATBackend": i64, "Size of a map.";
    bpf_map_size_nat_affinity "bpfMapSizeNATAffinity": i64, "Size of a map.";
    bpf_map_size_route "bpfMapSizeRoute": i64, "Size of a map.";
    bpf_map_size_conntrack "bpfMapSizeConntrack": i64, "Size of a map.";
    bpf_map_size_per_cpu_conntrack "bpfMapSizePerCpuConntrack": i64, "Size of a map for each processor.";
    bpf_map_size_conntrack_scaling "bpfMapSizeConntrackScaling": String, "`Disabled` or `DoubleIfFull`.";
    bpf_map_size_conntrack_cleanup_queue "bpfMapSizeConntrackCleanupQueue": i64, "Size of a map.";
    bpf_map_size_ip_sets "bpfMapSizeIPSets": i64, "Size of a map.";
    bpf_map_size_if_state "bpfMapSizeIfState": i64, "Size of a map.";
    bpf_host_conntrack_bypass "bpfHostConntrackBypass": bool, "Whether the kernel's tracking is bypassed.";
    bpf_ip_fragment_reassembly_enabled "bpfIPFragmentReassemblyEnabled": bool, "Whether fragments are put together.";
    bpf_enforce_rpf "bpfEnforceRPF": String, "`Disabled`, `Strict` or `Loose`.";
    bpf_policy_debug_enabled "bpfPolicyDebugEnabled": bool, "Whether policy programs keep their explanation.";
    bpf_force_track_packets_from_ifaces "bpfForceTrackPacketsFromIfaces": Vec<String>, "Interfaces that the kernel tracks.";
    bpf_disable_gro_for_ifaces "bpfDisableGROForIfaces": String, "Interfaces without receive offload.";
    bpf_exclude_cidrs_from_nat "bpfExcludeCIDRsFromNAT": Vec<String>, "Services that are left to others.";
    bpf_export_buffer_size_mb "bpfExportBufferSizeMB": i64, "Size of the buffer for flow logs, MiB.";
    istio_ambient_mode "istioAmbientMode": String, "`Enabled` or `Disabled`.";
    istio_dscp_mark "istioDSCPMark": DSCP, "Mark of traffic to the mesh.";
    cgroup_v2_path "cgroupV2Path": String, "Where the control groups are mounted.";
    flow_logs_policy_evaluation_mode "flowLogsPolicyEvaluationMode": String, "`None` or `Continuous`.";
    bpf_redirect_to_peer "bpfRedirectToPeer": String, "`Enabled`, `Disabled` or `L2Only`.";
    bpf_attach_type "bpfAttachType": String, "`TC`, `TCX` or `Netkit`.";
    flow_logs_flush_interval "flowLogsFlushInterval": DurationText, "How often flow logs are sent.";
    flow_logs_collector_debug_trace "flowLogsCollectorDebugTrace": bool, "Whether the collector logs each packet.";
    flow_logs_goldmane_server "flowLogsGoldmaneServer": String, "Where flow logs go.";
    flow_logs_local_reporter "flowLogsLocalReporter": String, "`Enabled` or `Disabled`.";
    bpf_profiling "bpfProfiling": String, "`Enabled` or `Disabled`.";
    route_source "routeSource": String, "`CalicoIPAM` or `WorkloadIPs`.";
    route_table_ranges "routeTableRanges": Vec<RouteTableRange>, "Routing tables that Felix may use.";
    route_table_range "routeTableRange": RouteTableRange, "Deprecated; see the one before.";
    route_sync_disabled "routeSyncDisabled": bool, "Whether Felix writes no route.";
    ipv4_normal_route_priority "ipv4NormalRoutePriority": i64, "Metric of routes to pods.";
    ipv4_elevated_route_priority "ipv4ElevatedRoutePriority": i64, "That metric right after a live migration.";
    ipv6_normal_route_priority "ipv6NormalRoutePriority": i64, "Metric of IPv6 routes to pods.";
    ipv6_elevated_route_priority "ipv6ElevatedRoutePriority": i64, "That metric right after a live migration.";
    live_migration_route_convergence_time "liveMigrationRouteConvergenceTime": DurationText, "For how long it stays so.";
    wireguard_enabled "wireguardEnabled": bool, "Whether pods' traffic between nodes is encrypted.";
    wireguard_enabled_v6 "wireguardEnabledV6": bool, "Whether pods' IPv6 traffic between nodes is encrypted.";
    wireguard_threading_enabled "wireguardThreadingEnabled": bool, "Whether WireGuard has threads of its own.";
    wireguard_listening_port "wireguardListeningPort": i64, "UDP port of WireGuard.";
    wireguard_listening_port_v6 "wireguardListeningPortV6": i64, "UDP port of IPv6 WireGuard.";
    wireguard_routing_rule_priority "wireguardRoutingRulePriority": i64, "Priority of WireGuard's routing rule.";
    wireguard_interface_name "wireguardInterfaceName": String, "Name of the WireGuard device.";
    wireguard_interface_name_v6 "wireguardInterfaceNameV6": String, "Name of the IPv6 WireGuard device.";
    wireguard_mtu "wireguardMTU": i64, "MTU of the WireGuard device; 0 is automatic.";
    wireguard_mtu_v6 "wireguardMTUV6": i64, "MTU of the IPv6 WireGuard device; 0 is automatic.";
    wireguard_host_encryption_enabled "wireguardHostEncryptionEnabled": bool, "Whether nodes' own traffic is encrypted too.";
    wireguard_keep_alive "wireguardKeepAlive": DurationText, "How often WireGuard says that it is there; 0 is never.";
    aws_src_dst_check "awsSrcDstCheck": String, "`DoNothing`, `Enable` or `Disable`.";
    service_loop_prevention "serviceLoopPrevention": String, "Packets to services that do not exist: `Drop`, `Reject`, `Disabled`.";
    workload_source_spoofing "workloadSourceSpoofing": String, "`Disabled` or `Any`.";
    mtu_iface_pattern "mtuIfacePattern": String, "Interfaces that decide the node's MTU.";
    floating_ips "floatingIPs": String, "`Enabled` or `Disabled`.";
    local_subnet_l2_reachability "localSubnetL2Reachability": String, "Whether the node answers ARP for pods of its own subnet.";
    local_subnet_l2_reachability_refresh_interval "localSubnetL2ReachabilityRefreshInterval": DurationText, "How often that is looked at.";
    windows_manage_firewall_rules "windowsManageFirewallRules": String, "`Enabled` or `Disabled`; Windows only.";
    go_gc_threshold "goGCThreshold": i64, "Read and not acted upon: there is no such runtime.";
    go_memory_limit_mb "goMemoryLimitMB": i64, "Read and not acted upon: there is no such runtime.";
    go_max_procs "goMaxProcs": i64, "Read and not acted upon: there is no such runtime.";
    require_mtu_file "requireMTUFile": bool, "Whether pods wait until the MTU is known.";
    bpf_maglev_max_endpoints_per_service "bpfMaglevMaxEndpointsPerService": i64, "How many endpoints of a service are hashed.";
    bpf_maglev_max_services "bpfMaglevMaxServices": i64, "How many services are hashed.";
}

/// Another time-out for one health reporter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthTimeoutOverride {
    /// The reporter.
    pub name: String,
    /// Its time-out.
    pub timeout: DurationText,
}

/// A range of routing tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteTableRange {
    /// The first.
    pub min: i64,
    /// The last.
    pub max: i64,
}

/// A port that policy does not close.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProtoPort {
    /// `TCP` (the default) or `UDP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The port.
    pub port: u16,
    /// The other side's network; absent means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
}

/// A code point of differentiated services (RFC 2474), by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DSCP {
    /// 0 to 63.
    Number(u8),
    /// `EF`, `AF41` and the like.
    Name(String),
}

/// When connections are forgotten: durations, or `Auto` for as the kernel does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BPFConntrackTimeouts {
    /// For how long a new one is kept whatever its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_grace_period: Option<DurationText>,
    /// TCP, after the first packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_syn_sent: Option<DurationText>,
    /// TCP, established.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_established: Option<DurationText>,
    /// TCP, closed by both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_fins_seen: Option<DurationText>,
    /// TCP, reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_reset_seen: Option<DurationText>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<DurationText>,
    /// Other protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generic_timeout: Option<DurationText>,
    /// ICMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp_timeout: Option<DurationText>,
}

impl Spec for FelixConfigurationSpec {
    const KIND: Kind = Kind::FelixConfiguration;
    type Status = NoStatus;
}
