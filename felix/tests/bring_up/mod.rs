//! The real felix comes up, in surroundings that are not as they should be or do not stay as they are.

use std::fs;
use std::process::{Command, Stdio};

use calico_api::{
    BGPConfigurationSpec, ClusterInformationSpec, FelixConfiguration, FelixConfigurationSpec, IPAMConfigurationSpec,
    Key, Kind, Node, NodeSpec, ObjectMeta,
};
use calico_netlink::namespace;

use crate::bed::{Bed, pod};

const POOL: (&str, &str) = ("CALICO_IPV4POOL_CIDR", "10.65.0.0/16");
/// No speaker is waited for.
const NO_BGP: (&str, &str) = ("CALICO_NETWORKING_BACKEND", "vxlan");

fn node(bed: &Bed) -> Node {
    bed.stored::<NodeSpec>(&Key::named(Kind::Node, "east")).unwrap()
}

fn addresses(bed: &Bed) -> (Option<String>, Option<String>) {
    let bgp = node(bed).spec.bgp.unwrap_or_default();
    (bgp.ipv4_address, bgp.ipv6_address)
}

/// The command, after a script in a mount namespace of its own.
fn behind(script: &str, inner: &Command) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-e", "-c", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn kernel_parameters_are_written_in_another_mount_and_a_read_only_one_is_told_with_the_mount_to_add() {
    const READ_ONLY: &str = "mount --bind /proc/sys /proc/sys\nmount -o remount,bind,ro /proc/sys";
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    let mut command = behind(READ_ONLY, &bed.command());
    command.stderr(Stdio::piped());
    let output = namespace::inside(&bed.namespace, || command.output().unwrap()).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "/proc/sys/net/ipv4/ip_forward: Read-only",
        "hostPath /proc/sys/net",
        "at /host/proc/sys/net",
        "FELIX_PROCSYSNET",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }

    // As in a container: what everybody uses is read-only, and the node's own is somewhere else.
    let net = bed.path("net");
    fs::create_dir(&net).unwrap();
    let script = format!("mount --bind /proc/sys/net {}\n{READ_ONLY}", net.display());
    let mut command = bed.command();
    command.env("FELIX_PROCSYSNET", &net);
    let mut command = behind(&script, &command);
    command.stderr(fs::File::options().append(true).open(bed.path("felix.log")).unwrap());
    bed.start_as(command);
    let wired = bed.add(&pod("web-0", "c1")).unwrap();
    bed.reaches(&wired);
    let forwarding = namespace::inside(&bed.namespace, || {
        calico_netlink::sysctl::read(&["net", "ipv4", "conf", &wired.assigned.host_interface, "proxy_arp"]).unwrap()
    });
    assert_eq!(forwarding.unwrap(), "1");
}

#[test]
fn a_changed_address_is_written_at_once_and_one_that_vanishes_is_kept() {
    let mut bed = Bed::new(&[POOL, NO_BGP, ("IP", "autodetect"), ("IP6", "autodetect")]);
    bed.start();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(addresses(&bed), (text("192.0.2.1/24"), text("2001:db8::1/64")));

    // Another one takes its place; the interval is a minute, which nobody waits for.
    bed.readdress(&["198.51.100.7/25"], &["192.0.2.1/24"]);
    bed.until("the new address is stored", |bed| addresses(bed).0 == text("198.51.100.7/25"));
    // None is left: what is stored stays, and is told once.
    bed.readdress(&[], &["198.51.100.7/25", "2001:db8::1/64"]);
    bed.until("felix has looked", |bed| bed.log().contains("address not detected, the stored one is kept"));
    assert_eq!(addresses(&bed), (text("198.51.100.7/25"), text("2001:db8::1/64")));
    // What somebody else takes away comes back.
    bed.readdress(&["203.0.113.1/24"], &[]);
    bed.until("it is detected again", |bed| addresses(bed).0 == text("203.0.113.1/24"));
    bed.on_store(async |store| {
        let mut node = store.get::<NodeSpec>(&Key::named(Kind::Node, "east")).await.unwrap();
        node.spec.bgp = None;
        store.update(&node).await.unwrap();
    });
    bed.until("it is written again", |bed| addresses(bed).0 == text("203.0.113.1/24"));
    assert!(bed.stop());
}

#[test]
fn defaults_are_made_and_what_nobody_knows_or_needs_is_told() {
    let variables = [
        POOL,
        NO_BGP,
        ("CLUSTER_TYPE", "k8s,bgp"),
        ("FELIX_HEALTPORT", "1"),
        ("CALICO_IPV4POOL_CDIR", "10.0.0.0/8"),
        ("FELIX_BPFENABLED", "true"),
        ("WAIT_FOR_DATASTORE", "true"),
    ];
    let mut bed = Bed::new(&variables);
    bed.start();
    let default = |kind| Key::named(kind, "default");
    let felix = bed.stored::<FelixConfigurationSpec>(&default(Kind::FelixConfiguration)).unwrap().spec;
    assert_eq!((felix.reporting_interval.as_deref(), felix.log_severity_screen.as_deref()), (Some("0s"), Some("Info")));
    assert!(bed.stored::<BGPConfigurationSpec>(&default(Kind::BGPConfiguration)).is_some());
    let ipam = bed.stored::<IPAMConfigurationSpec>(&default(Kind::IPAMConfiguration)).unwrap().spec;
    assert!(ipam.auto_allocate_blocks && !ipam.strict_affinity);
    let cluster = bed.stored::<ClusterInformationSpec>(&default(Kind::ClusterInformation)).unwrap().spec;
    assert_eq!((cluster.cluster_type.as_deref(), cluster.datastore_ready), (Some("k8s,bgp"), Some(true)));
    let log = bed.log();
    for (name, rest) in [
        ("FELIX_HEALTPORT", "did_you_mean=\"FELIX_HEALTHPORT\""),
        ("CALICO_IPV4POOL_CDIR", "did_you_mean=\"CALICO_IPV4POOL_CIDR\""),
        ("FELIX_BPFENABLED", "there is no eBPF data plane"),
    ] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&format!("name=\"{name}\""))).collect();
        assert!(matches!(lines[..], [line] if line.contains(rest)), "{name}: {lines:?}\n{log}");
    }
    assert!(!log.contains("WAIT_FOR_DATASTORE"), "{log}");
}

fn configure(bed: &Bed, name: &str, change: impl FnOnce(&mut FelixConfigurationSpec)) {
    bed.on_store(async |store| {
        let key = Key::named(Kind::FelixConfiguration, name);
        match store.get::<FelixConfigurationSpec>(&key).await {
            Ok(mut resource) => {
                change(&mut resource.spec);
                store.update(&resource).await.unwrap();
            }
            Err(_) => {
                let mut spec = FelixConfigurationSpec::default();
                change(&mut spec);
                store.create(&FelixConfiguration::new(ObjectMeta::named(name), spec)).await.unwrap();
            }
        }
    });
}

#[test]
fn felix_follows_its_configuration_and_ends_where_only_a_start_helps() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    // Found before the first start: only there can it be that nothing listens on the usual port.
    configure(&bed, "node.east", |spec| spec.health_port = Some(9098));
    configure(&bed, "node.west", |spec| spec.health_port = Some(9097));
    let mut command = bed.command();
    command.env_remove("FELIX_LOGSEVERITYSCREEN");
    let mut child = namespace::inside(&bed.namespace, || command.spawn().unwrap()).unwrap();
    bed.until("felix is up", |bed| bed.log().contains("in sync, pods are served"));
    assert_eq!(bed.probe("/readiness"), None, "it listens where the resource says");
    child.kill().unwrap();
    child.wait().unwrap();
    configure(&bed, "node.east", |spec| spec.health_port = None);

    let mut command = bed.command();
    command.env_remove("FELIX_LOGSEVERITYSCREEN");
    bed.start_as(command);
    configure(&bed, "default", |spec| spec.log_severity_screen = Some("Debug".to_owned()));
    bed.until("the level has changed", |bed| bed.log().contains("LogSeverityScreen changed"));
    // One that cannot be is told and not taken.
    configure(&bed, "default", |spec| spec.interface_prefix = Some("much-too-long".to_owned()));
    bed.until("it is refused", |bed| bed.log().contains("the last good one stays in force"));
    assert!(bed.probe("/readiness").unwrap().starts_with("HTTP/1.1 200"));
    configure(&bed, "default", |spec| {
        spec.interface_prefix = None;
        spec.route_refresh_interval = Some("30s".to_owned());
    });
    assert_eq!(bed.ends(), Some(129));
    assert!(bed.log().contains("parameters=[\"RouteRefreshInterval\"]"));
    // And up again, with what it was told.
    bed.start();
}

#[test]
fn a_stop_on_purpose_is_noted_in_a_file_that_the_next_start_removes() {
    let mut bed = Bed::new(&[POOL, NO_BGP]);
    bed.start();
    assert!(bed.stop());
    let stopped = fs::read_to_string(bed.path("shutdownTS")).unwrap();
    assert!(stopped.ends_with('Z') && stopped.contains('T'), "{stopped}");
    bed.start();
    bed.until("the file is gone", |bed| !bed.path("shutdownTS").exists());
    bed.kill();
    assert!(!bed.path("shutdownTS").exists(), "killed is not stopped");
}
