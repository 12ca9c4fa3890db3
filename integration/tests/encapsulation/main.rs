//! VXLAN, plain routes without BGP, natOutgoing and changing between them, by the real programs on this kernel.

mod bad_input;
mod bed;
mod kubernetes;
mod nat;

use anyhow::{Result, ensure};
use bed::{Bed, all_go_by, all_reach_all, goes_by, net, pods_in, pool, state, without_loss};
use integration::{Net, PATIENCE, StoreKind, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Packets a second between every two pods: a debug build and a busy machine carry them.
const RATE: u32 = 100;

#[test]
fn vxlan_alone_needs_no_speaker_and_outlives_felix() -> Result<()> {
    let net = net()?;
    let bed = Bed::new(&net)?;
    bed.nodes[0].apply(&pods_in("Never", "Always"))?;
    bed.felix(&[("CALICO_NETWORKING_BACKEND", "vxlan")])?;
    let pods = bed.pods()?;
    all_reach_all(&pods)?;
    all_go_by(&pods, "vxlan.calico", "vxlan.calico")?;
    // Only what VXLAN adds is missing, and nobody had to be told.
    for to in &pods[1..] {
        pods[0].run("ping", &["-M", "do", "-c", "1", "-W", "1", "-s", "1422", &to.address()?.to_string()])?;
    }
    without_loss(&pods, RATE, || {
        for node in &bed.nodes {
            node.kill("felix")?;
        }
        bed.felix(&[("CALICO_NETWORKING_BACKEND", "vxlan")])
    })
}

#[test]
fn vxlan_across_subnets_only_leaves_packets_within_one_as_they_are() -> Result<()> {
    let net = net()?;
    let bed = Bed::playing(&net, &pods_in("Never", "CrossSubnet"))?;
    bed.pods_by("eth0", "vxlan.calico").map(drop)
}

#[test]
fn pods_with_ipv6_addresses_reach_each_other_by_vxlan() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let nodes = [net.node("one")?, net.node("two")?];
    for (node, address) in nodes.iter().zip(["fd00::11/64", "fd00::12/64"]) {
        node.run(
            "sh",
            &[
                "-ec",
                &format!("echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip -6 addr add {address} dev eth0 nodad"),
            ],
        )?;
        let list = "sed -i 's/\"type\": \"calico-ipam\"/\"type\": \"calico-ipam\", \"assign_ipv6\": \"true\"/' /etc/cni/net.d/10-calico.conflist";
        node.run("sh", &["-ec", list])?;
    }
    nodes[0].apply(&format!(
        "{}---\n{}",
        pods_in("Never", "Always"),
        pool("six", "fd00:244::/48", "vxlanMode: Always")
    ))?;
    let six = [("IP6", "autodetect"), ("FELIX_IPV6SUPPORT", "true"), ("CALICO_NETWORKING_BACKEND", "vxlan")];
    for node in &nodes {
        node.start("felix", &six)?;
        node.ready("felix", 9099)?;
    }
    let pods = [nodes[0].pod("a")?, nodes[1].pod("b")?];
    let six_of = |pod: &integration::Pod<'_, '_>| -> Result<String> {
        let text = pod.run("ip", &["-6", "-o", "addr", "show", "dev", "eth0", "scope", "global"])?;
        let word = text.split_whitespace().nth(3).unwrap_or_default();
        Ok(word.split('/').next().unwrap_or_default().to_owned())
    };
    let (a, b) = (six_of(&pods[0])?, six_of(&pods[1])?);
    wait::becomes(PATIENCE, "the pods reach each other over IPv6", || {
        pods[0].run("ping", &["-6", "-c", "1", "-W", "1", &b]).map(|_| true)
    })
    .map_err(|error| error.context(state(&nodes[0])))?;
    // Through the tunnel of its own family, with the largest packet that fits there.
    // Until the other node says that it takes such packets, it is reached over the link.
    for (node, there) in [(&nodes[0], &b), (&nodes[1], &a)] {
        wait::becomes(PATIENCE, &format!("{} reaches {there} by vxlan-v6.calico", node.name()), || {
            Ok(node.run("ip", &["-6", "-o", "route", "get", there])?.contains("dev vxlan-v6.calico"))
        })
        .map_err(|error| error.context(state(node)))?;
    }
    pods[1].run("ping", &["-6", "-M", "do", "-c", "1", "-W", "1", "-s", &(1430 - 48).to_string(), &a])?;
    Ok(())
}

#[test]
fn felix_alone_routes_without_encapsulation_and_says_where_it_cannot() -> Result<()> {
    let net = net()?;
    let bed = Bed::new(&net)?;
    let yaml = format!(
        "{}---\n{}---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{programClusterRoutes: Disabled}}\n",
        pods_in("Never", "Never"),
        bed::felix_configuration("programClusterRoutes: Enabled")
    );
    bed.nodes[0].apply(&yaml)?;
    bed.felix(&[])?;
    let pods = bed.pods()?;
    for (from, to) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        goes_by(&bed.nodes[from], &pods[to], "eth0")?;
        bed::reaches(&pods[from], pods[to].address()?)?;
    }
    // The others are behind a router that knows no pod.
    let told = wait::until(PATIENCE, "node one says whom plain routes do not reach", || {
        let status = bed.nodes[0].calicoctl(&["node", "status"])?;
        Ok((status.contains("three") && status.contains("four")).then_some(status))
    });
    told.map(drop).map_err(|error| error.context(state(&bed.nodes[0])))
}

#[test]
fn changing_from_plain_to_vxlan_and_back_costs_no_packet() -> Result<()> {
    let net = net()?;
    // One subnet, whose router need not know a pod.
    let nodes = ["one", "two", "three"].map(|name| net.node(name)).into_iter().collect::<Result<Vec<_>>>()?;
    nodes[0].apply(&pods_in("Never", "Never"))?;
    for node in &nodes {
        node.start_felix()?;
        node.start_speaker()?;
    }
    let pods = nodes.iter().map(|node| node.pod(&format!("pod-{}", node.name()))).collect::<Result<Vec<_>>>()?;
    all_go_by(&pods, "eth0", "eth0")?;
    all_reach_all(&pods)?;
    for (vxlan, device) in
        [("Always", "vxlan.calico"), ("CrossSubnet", "eth0"), ("Always", "vxlan.calico"), ("Never", "eth0")]
    {
        let switched = without_loss(&pods, RATE, || {
            nodes[0].apply(&pods_in("Never", vxlan))?;
            all_go_by(&pods, device, device)
        });
        switched.map_err(|error| error.context(format!("to vxlanMode {vxlan}")))?;
    }
    Ok(())
}

#[test]
fn what_others_take_away_is_put_back_because_the_kernel_tells_of_it() -> Result<()> {
    let net = net()?;
    let bed = Bed::new(&net)?;
    bed.nodes[0].apply(&bed::pool("pods", bed::POOL, "vxlanMode: Always, natOutgoing: true"))?;
    // Without audits: what is repaired was noticed.
    bed.felix(&[("CALICO_NETWORKING_BACKEND", "vxlan"), ("FELIX_ROUTEREFRESHINTERVAL", "0")])?;
    let pods = bed.pods()?;
    all_reach_all(&pods)?;
    let node = &bed.nodes[0];
    let signal = |signal: Signal| {
        let felix = node.daemon("felix", |process| Ok(i32::try_from(process.pid())?))?;
        Ok::<_, anyhow::Error>(kill(Pid::from_raw(felix), signal)?)
    };
    let state = || {
        let script = "ip route show proto 80 | sort; bridge fdb show dev vxlan.calico | sort; ip neigh show dev vxlan.calico nud permanent | sort
            ip -o addr show dev vxlan.calico | grep -v fe80: | cut -d: -f2-; nft -s list table ip calico || true";
        node.run("sh", &["-c", script])
    };
    let before = state()?;
    ensure!(before.contains("masquerade"), "{before}");
    for damage in [
        "nft flush ruleset",
        "nft delete table ip calico",
        "ip neigh flush dev vxlan.calico nud permanent",
        "ip route flush proto 80 dev vxlan.calico",
        "ip addr flush dev vxlan.calico",
        "ip link set vxlan.calico down",
        "ip link del vxlan.calico",
    ] {
        // Else it might be repaired before it is seen.
        signal(Signal::SIGSTOP)?;
        node.run("sh", &["-c", damage])?;
        let mut now = state()?;
        ensure!(now != before, "{damage:?} damaged nothing");
        signal(Signal::SIGCONT)?;
        wait::becomes(PATIENCE, &format!("felix repairs after {damage:?}"), || {
            now = state()?;
            // A new device has new numbers, but nothing else is new.
            Ok(now == before)
        })
        .map_err(|error| error.context(format!("before:\n{before}\nnow:\n{now}\n{}", bed::state(node))))?;
    }
    all_reach_all(&pods)
}
