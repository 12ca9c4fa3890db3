//! CHECK, STATUS and GC, a sandbox made anew, and `calico-ipam` under other plugins: the real plugins with the real felix.
//! Needs Debian's `containernetworking-plugins`.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use calico_api::{ClusterInformationSpec, Key, Kind};
use integration::{Net, Node, PATIENCE, StoreKind, wait};
use serde_json::{Value, json};

const POOL: &str =
    "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16}\n";

/// A sandbox, as a runtime sees it.
struct Sandbox<'a> {
    node: &'a Node<'a>,
    container: &'static str,
    pod: &'static str,
}

impl<'a> Sandbox<'a> {
    fn new(node: &'a Node<'a>, container: &'static str, pod: &'static str) -> Result<Self> {
        node.run("ip", &["netns", "add", container])?;
        Ok(Self { node, container, pod })
    }

    /// Calls a plugin; an error is what it wrote.
    fn call(&self, verb: &str, plugin: &Value) -> Result<Value, Value> {
        self.try_call(verb, plugin).expect("the plugin runs and writes JSON")
    }

    fn try_call(&self, verb: &str, plugin: &Value) -> Result<Result<Value, Value>> {
        let mut netconf = json!({ "cniVersion": "1.1.0", "name": "k8s-pod-network" });
        let fields = plugin.as_object().context("a plugin is an object")?;
        fields.iter().for_each(|(key, value)| netconf[key] = value.clone());
        let program = netconf["type"].as_str().context("a plugin has a type")?;
        let folder = if program.starts_with("calico") { "/opt/cni/bin" } else { "/usr/lib/cni" };
        let mut child = self
            .node
            .command(&format!("{folder}/{program}"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", format!("/run/netns/{}", self.container))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/opt/cni/bin:/usr/lib/cni")
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.pod))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Of one that ends before it has read, the output says why.
        let _ = child.stdin.take().context("its input was to be written")?.write_all(netconf.to_string().as_bytes());
        let output = child.wait_with_output()?;
        let told = match output.stdout.trim_ascii() {
            [] if output.status.success() => Value::Null,
            told => serde_json::from_slice(told).with_context(|| format!("{program} {verb}: {output:?}"))?,
        };
        Ok(if output.status.success() { Ok(told) } else { Err(told) })
    }

    fn succeeds(&self, verb: &str, plugin: &Value) -> Result<Value> {
        self.call(verb, plugin).map_err(|error| anyhow::anyhow!("{verb} of {}: {error}", self.container))
    }

    /// What the plugin said, which must be an error of this code.
    fn fails(&self, verb: &str, plugin: &Value, code: u32) -> Result<String> {
        match self.call(verb, plugin) {
            Err(error) if error["code"] == code => Ok(error.to_string()),
            other => bail!("{verb} of {} was to fail with {code}: {other:?}", self.container),
        }
    }

    fn ping(&self, address: IpAddr) -> Result<String> {
        self.node
            .run("ip", &["netns", "exec", self.container, "ping", "-n", "-c", "1", "-W", "2", &address.to_string()])
    }
}

fn calico(more: Value) -> Value {
    let mut plugin = json!({ "type": "calico", "ipam": { "type": "calico-ipam" }, "policy": { "type": "k8s" } });
    more.as_object().into_iter().flatten().for_each(|(key, value)| plugin[key] = value.clone());
    plugin
}

/// A list of attachments for GC.
fn valid(containers: &[&str]) -> Value {
    let one = |container: &&str| json!({ "containerID": container, "ifname": "eth0" });
    json!({ "cni.dev/valid-attachments": containers.iter().map(one).collect::<Vec<_>>() })
}

fn address(result: &Value) -> Result<IpAddr> {
    let text = result["ips"][0]["address"].as_str().with_context(|| result.to_string())?;
    Ok(text.split('/').next().unwrap_or_default().parse()?)
}

fn is_assigned(node: &Node<'_>, address: IpAddr) -> Result<bool> {
    Ok(!node.calicoctl(&["ipam", "show", "--ip", &address.to_string()])?.contains("is not assigned"))
}

/// A DEL is answered when nobody can use the address any more; what is stored goes a little later, with that of others.
fn becomes_free(node: &Node<'_>, address: IpAddr) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{address} is free"), || Ok(!is_assigned(node, address)?))
}

/// The container that a pod's endpoint belongs to; none without an endpoint.
fn owner(node: &Node<'_>, pod: &str) -> Result<Option<String>> {
    let text = node.calicoctl(&["get", "workloadendpoint", "--namespace", "default", "--output", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let mut endpoints = list["items"].as_array().into_iter().flatten();
    let found = endpoints.find(|endpoint| endpoint["spec"]["pod"] == pod);
    Ok(found.and_then(|endpoint| endpoint["spec"]["containerID"].as_str()).map(ToOwned::to_owned))
}

/// Removes a sandbox's namespace as a crash of its runtime does, without DEL.
fn vanish(sandbox: &Sandbox<'_>, result: &Value) -> Result<()> {
    let host = result["interfaces"][0]["name"].as_str().context("no interface")?;
    sandbox.node.run("ip", &["netns", "del", sandbox.container])?;
    wait::becomes(PATIENCE, "the interface has gone with its namespace", || {
        Ok(sandbox.node.run("ip", &["link", "show", "dev", host]).is_err())
    })
}

/// Locks the datastore, as a migration does.
fn lock(net: &Net, locked: bool) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let store = net.datastore().open().await?;
        let key = Key::named(Kind::ClusterInformation, "default");
        let mut information = store.get::<ClusterInformationSpec>(&key).await?;
        information.spec.datastore_ready = Some(!locked);
        store.update(&information).await?;
        Ok(())
    })
}

fn start(net: &Net) -> Result<Node<'_>> {
    let node = net.node("east")?;
    node.apply(POOL)?;
    node.start_felix()?;
    Ok(node)
}

#[test]
fn gc_gives_back_what_no_sandbox_has_any_more_and_nothing_that_is_in_use() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = start(&net)?;
    let [kept, lost, other] = [("c0aa", "kept"), ("c0bb", "lost"), ("c0cc", "other")]
        .map(|(container, pod)| Sandbox::new(&node, container, pod));
    let (kept, lost, other) = (kept?, lost?, other?);
    let plugin = calico(json!({}));
    let [keeps, loses] = [kept.succeeds("ADD", &plugin)?, lost.succeeds("ADD", &plugin)?];
    // The same leak in another network of the node.
    let elsewhere = calico(json!({ "name": "elsewhere" }));
    let others = other.succeeds("ADD", &elsewhere)?;
    vanish(&lost, &loses)?;
    vanish(&other, &others)?;
    ensure!(is_assigned(&node, address(&loses)?)? && owner(&node, "lost")?.is_some(), "nothing to collect");

    // Listed, it stays, however dead it is.
    let collect = |list: &[&str]| kept.succeeds("GC", &calico(valid(list)));
    collect(&["c0aa", "c0bb"])?;
    ensure!(is_assigned(&node, address(&loses)?)? && owner(&node, "lost")?.is_some());
    collect(&["c0aa"])?;
    ensure!(!is_assigned(&node, address(&loses)?)? && owner(&node, "lost")?.is_none());
    ensure!(is_assigned(&node, address(&others)?)?, "an address of another network was collected");
    ensure!(owner(&node, "other")?.is_some(), "an endpoint of another network was collected");
    // Not listed, but in use.
    collect(&[])?;
    ensure!(is_assigned(&node, address(&keeps)?)? && owner(&node, "kept")?.as_deref() == Some("c0aa"));
    kept.succeeds("CHECK", &calico(json!({ "prevResult": keeps })))?;
    kept.ping(node.address().into())?;
    // A DEL that comes after all is a success.
    for (sandbox, plugin) in [(&lost, &plugin), (&other, &elsewhere), (&kept, &plugin)] {
        sandbox.succeeds("DEL", plugin)?;
    }
    for result in [&keeps, &loses, &others] {
        becomes_free(&node, address(result)?)?;
    }
    node.check()
}

#[test]
fn a_sandbox_made_anew_is_touched_by_neither_del_nor_gc_of_the_old_one() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = start(&net)?;
    let plugin = calico(json!({}));
    for collected in [false, true] {
        let (first, second) = if collected { ("c1aa", "c1bb") } else { ("c2aa", "c2bb") };
        let (old, new) = (Sandbox::new(&node, first, "web-0")?, Sandbox::new(&node, second, "web-0")?);
        let before = old.succeeds("ADD", &plugin)?;
        let after = new.succeeds("ADD", &plugin)?;
        ensure!(address(&before)? != address(&after)?, "the old address is still the old sandbox's");
        ensure!(is_assigned(&node, address(&before)?)?);
        let text = old.fails("CHECK", &calico(json!({ "prevResult": before })), 999)?;
        ensure!(text.contains("the node has no route to"), "{text}");
        if collected {
            new.succeeds("GC", &calico(valid(&[second])))?;
            becomes_free(&node, address(&before)?).context("the old sandbox's address is nobody's")?;
        }
        for _ in 0..2 {
            old.succeeds("DEL", &plugin)?;
            becomes_free(&node, address(&before)?)?;
            ensure!(is_assigned(&node, address(&after)?)? && owner(&node, "web-0")?.as_deref() == Some(second));
            new.succeeds("CHECK", &calico(json!({ "prevResult": after })))?;
            new.ping(node.address().into())?;
        }
        new.succeeds("DEL", &plugin)?;
        becomes_free(&node, address(&after)?)?;
        ensure!(owner(&node, "web-0")?.is_none());
    }
    node.check()
}

#[test]
fn check_tells_what_is_no_longer_stored_and_status_what_pods_must_wait_for() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    let sandbox = Sandbox::new(&node, "c3aa", "web-0")?;
    let plugin = calico(json!({}));
    let text = sandbox.fails("STATUS", &plugin, 50)?;
    ensure!(text.contains("check that felix runs on this node"), "{text}");
    node.apply(POOL)?;
    node.start_felix()?;
    sandbox.succeeds("STATUS", &plugin)?;
    let result = sandbox.succeeds("ADD", &plugin)?;
    let check = calico(json!({ "prevResult": result }));
    sandbox.succeeds("CHECK", &check)?;

    lock(&net, true)?;
    wait::becomes(PATIENCE, "STATUS tells that the datastore is locked", || {
        Ok(sandbox.fails("STATUS", &plugin, 50).is_ok_and(|text| text.contains("datastoreReady")))
    })?;
    lock(&net, false)?;
    wait::becomes(PATIENCE, "STATUS is good again", || Ok(sandbox.succeeds("STATUS", &plugin).is_ok()))?;

    // The addresses are released behind the endpoint's back.
    sandbox.succeeds("DEL", &json!({ "type": "calico-ipam", "ipam": { "type": "calico-ipam" } }))?;
    let text = sandbox.fails("CHECK", &check, 999)?;
    ensure!(text.contains("IPAM does not hold") && text.contains("make the sandbox anew"), "{text}");
    sandbox.succeeds("DEL", &plugin)?;
    node.check()
}

#[test]
fn calico_ipam_serves_under_bridge_and_knows_what_is_in_use_there_only_from_the_runtime() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = start(&net)?;
    let ipam = json!({ "type": "calico-ipam" });
    // The newest version that Debian's plugins know.
    let plugin =
        json!({ "type": "bridge", "bridge": "br-pods", "cniVersion": "1.0.0", "name": "bridged", "ipam": ipam });
    let (one, two) = (Sandbox::new(&node, "c4aa", "web-0")?, Sandbox::new(&node, "c4bb", "web-1")?);
    let [first, second] = [one.succeeds("ADD", &plugin)?, two.succeeds("ADD", &plugin)?];
    let text = first["ips"][0]["address"].as_str().unwrap_or_default();
    ensure!(text.starts_with("10.244.") && text.ends_with("/26"), "{first}");
    ensure!(is_assigned(&node, address(&first)?)? && owner(&node, "web-0")?.is_none());
    one.ping(address(&second)?)?;
    let alone =
        |result: &Value| json!({ "type": "calico-ipam", "ipam": ipam, "name": "bridged", "prevResult": result });
    one.succeeds("CHECK", &alone(&first))?;
    let text = one.fails("CHECK", &alone(&second), 999)?;
    ensure!(text.contains("IPAM does not hold"), "{text}");
    let mut gc = alone(&first);
    gc["cni.dev/valid-attachments"] = valid(&["c4aa"])["cni.dev/valid-attachments"].clone();
    one.succeeds("GC", &gc)?;
    ensure!(is_assigned(&node, address(&first)?)? && !is_assigned(&node, address(&second)?)?);
    one.succeeds("DEL", &plugin)?;
    two.succeeds("DEL", &plugin)?;
    becomes_free(&node, address(&first)?)?;
    node.check()
}

/// Only what the pod receives is limited here: what it sends needs `ifb` devices, which not every kernel has.
#[test]
fn bandwidth_and_portmap_are_chained_and_a_pod_may_route_if_its_network_says_so() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = start(&net)?;
    // The newest version that Debian's plugins know.
    let of = |plugin: Value, previous: &Value| {
        let mut plugin = plugin;
        plugin["cniVersion"] = "1.0.0".into();
        plugin["prevResult"] = previous.clone();
        plugin
    };
    let first = calico(json!({ "container_settings": { "allow_ip_forwarding": true }, "mtu": 1400 }));
    let limits = json!({ "ingressRate": 1_000_000, "ingressBurst": 100_000 });
    let ports = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
    let chain = [
        first,
        json!({ "type": "bandwidth", "capabilities": { "bandwidth": true }, "runtimeConfig": { "bandwidth": limits } }),
        json!({ "type": "portmap", "snat": true, "runtimeConfig": { "portMappings": ports } }),
    ];
    let sandbox = Sandbox::new(&node, "c6aa", "web-0")?;
    let mut result = Value::Null;
    for plugin in &chain {
        result = sandbox.succeeds("ADD", &of(plugin.clone(), &result))?;
    }
    let host = result["interfaces"][0]["name"].as_str().context("no interface")?;
    let limited = || Ok::<_, anyhow::Error>(node.run("tc", &["qdisc", "show", "dev", host])?.contains("tbf"));
    ensure!(limited()?, "bandwidth found no interface to limit in our result");
    let inside = |command: &[&str]| node.run("ip", &[&["netns", "exec", "c6aa"], command].concat());
    ensure!(inside(&["cat", "/proc/sys/net/ipv4/ip_forward"])?.trim() == "1");
    ensure!(inside(&["ip", "link", "show", "dev", "eth0"])?.contains("mtu 1400"));
    sandbox.ping(node.address().into())?;
    // Not portmap's: that of 1.1.1 looks for IPv6 rules which it makes for no pod without an IPv6 address.
    for plugin in chain.iter().take(2) {
        sandbox.succeeds("CHECK", &of(plugin.clone(), &result))?;
    }
    for plugin in chain.iter().rev() {
        sandbox.succeeds("DEL", &of(plugin.clone(), &result))?;
    }
    becomes_free(&node, address(&result)?)?;
    // Interfaces that leave are deleted together, a little later.
    wait::becomes(PATIENCE, "the interface is gone", || Ok(node.run("ip", &["link", "show", "dev", host]).is_err()))?;
    node.check()
}

#[test]
fn a_pod_with_addresses_of_host_local_is_connected_like_any_other() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = start(&net)?;
    let plugin =
        calico(json!({ "ipam": { "type": "host-local", "subnet": "10.65.7.0/24", "dataDir": "/run/host-local" } }));
    let (one, two) = (Sandbox::new(&node, "c5aa", "web-0")?, Sandbox::new(&node, "c5bb", "web-1")?);
    let [first, second] = [one.succeeds("ADD", &plugin)?, two.succeeds("ADD", &plugin)?];
    ensure!(first["ips"][0]["address"] == "10.65.7.2/32", "{first}");
    one.ping(address(&second)?)?;
    let with = |result: &Value| {
        let mut plugin = plugin.clone();
        plugin["prevResult"] = result.clone();
        plugin
    };
    one.succeeds("CHECK", &with(&first))?;
    let files = || node.run("ls", &["/run/host-local/k8s-pod-network"]);
    node.run("rm", &["/run/host-local/k8s-pod-network/10.65.7.2"])?;
    let error = one.call("CHECK", &with(&first)).err().context("its address is not host-local's any more")?;
    ensure!(error["msg"] == "IPAM plugin host-local failed to CHECK", "{error}");
    one.succeeds("DEL", &with(&first))?;
    two.succeeds("DEL", &with(&second))?;
    ensure!(!files()?.contains("10.65.7.3"));
    wait::becomes(PATIENCE, "the endpoints are gone", || {
        Ok(owner(&node, "web-0")?.is_none() && owner(&node, "web-1")?.is_none())
    })?;
    node.check()
}
