//! `calicoctl node cleanup`: after it nothing of ours is left on a node, and all else is as it was.
//! Needs Debian's `nftables`.

use anyhow::{Context, Result, ensure};
use integration::{Net, Node, Pod, StoreKind};

const POOL: &str =
    "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16}\n";

fn cleanup(node: &Node<'_>, more: &[&str]) -> Result<String> {
    node.calicoctl(&[&["node", "cleanup"], more].concat())
}

/// Routes, devices, tables and files, except what changes by itself.
fn state(node: &Node<'_>) -> Result<String> {
    let script = "ip -o route show table all | grep -v 'fe80:\\|ff00:'; ip -o link | sed 's/ qdisc.*//'; ip -o addr | grep -v 'fe80:'; nft list ruleset
        find /etc/cni /opt/cni /var/lib/calico /run/ocicat /run/calico /var/log/calico 2>/dev/null | sort";
    node.run("sh", &["-c", script])
}

/// The same without what the kernel changes by itself for a while after a device was made.
fn things(node: &Node<'_>) -> Result<String> {
    let text = state(node)?;
    let settled = text.lines().map(|line| {
        let line = line.replace(" linkdown", "");
        let (before, flags) = line.split_once('<').unwrap_or((&line, ""));
        before.to_owned()
            + flags.split_once('>').map_or("", |(_, after)| after.split(" state").next().unwrap_or_default())
    });
    let kept = settled.filter(|line| !line.contains("fe80") && !line.contains("multicast"));
    Ok(kept.collect::<Vec<_>>().join("\n"))
}

#[test]
fn nothing_of_ours_is_left_and_nothing_else_is_touched() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    // What others have on the node.
    let foreign = "ip route add 192.0.2.0/24 dev eth0
        nft add table ip other; nft add table ip calico-not; nft add table inet calico
        ip link add br-own type bridge; ip link set br-own up; ip addr add 198.51.100.1/24 dev br-own
        ip route add 198.51.101.0/24 dev br-own proto static
        ip link add vxlan.other type vxlan id 7 dstport 8472 dev eth0
        echo '{\"cniVersion\":\"1.0.0\",\"name\":\"lo\",\"plugins\":[{\"type\":\"loopback\"}]}' > /etc/cni/net.d/99-lo.conflist
        echo kept > /etc/cni/net.d/README";
    node.run("sh", &["-ec", foreign])?;
    // The programs and the configuration were put there when the node was made.
    node.run("sh", &["-ec", "mkdir /run/aside; mv /etc/cni/net.d/10-calico.conflist /opt/cni/bin/calico* /run/aside; rm -rf /var/lib/calico /run/calico /run/ocicat"])?;
    let before = state(&node)?;
    let install = "mkdir -p /var/lib/calico /run/calico /run/ocicat
        cp /run/aside/10-calico.conflist /etc/cni/net.d; cp /run/aside/calico* /opt/cni/bin; echo token > /etc/cni/net.d/calico-kubeconfig
        nft add table ip calico; nft add chain ip calico a; nft add rule ip calico a accept; nft add table ip6 calico
        ip link add vxlan.calico type vxlan id 4096 dstport 4789 dev eth0; ip link set vxlan.calico up
        ip route add blackhole 10.244.8.0/26 proto 80 table 7";
    node.run("sh", &["-ec", install])?;

    node.apply(POOL)?;
    node.start_felix()?;
    node.start_speaker()?;
    node.ready("bgp-speaker", 9098)?;
    let (one, two) = (node.pod("one")?, node.pod("two")?);
    node.run(
        "sh",
        &[
            "-ec",
            "echo mine > /var/lib/calico/note; mkdir -p /var/log/calico/cni; echo line > /var/log/calico/cni/cni.log",
        ],
    )?;
    let error = format!("{:#}", cleanup(&node, &[]).err().context("felix and the speaker run")?);
    ensure!(
        error.contains("felix and bgp-speaker still runs") && error.contains("delete the DaemonSet first"),
        "{error}"
    );
    node.kill("felix")?;
    let error = format!("{:#}", cleanup(&node, &[]).err().context("the speaker runs")?);
    ensure!(error.contains("bgp-speaker still runs"), "{error}");
    node.kill("bgp-speaker")?;
    // As the speaker leaves it when it had a peer.
    node.run("ip", &["route", "add", "10.244.9.0/26", "via", "10.0.0.99", "proto", "12"])?;
    // A sandbox that goes now leaves a release behind.
    two.del()?;

    let full = state(&node)?;
    let rehearsal = cleanup(&node, &["--dry-run"])?;
    ensure!(state(&node)? == full, "a rehearsal changed something");
    let text = cleanup(&node, &[])?;
    ensure!(rehearsal.replace("would remove", "removed") == text, "rehearsed:\n{rehearsal}\ndone:\n{text}");
    for words in [
        &*format!("removed route {}/32 dev cali", one.address()?),
        "removed route 10.244.9.0/26 via 10.0.0.99 dev eth0 proto 12",
        "removed blackhole route 10.244.8.0/26",
        "removed device vxlan.calico",
        "removed nftables table ip6 calico",
        "removed /opt/cni/bin/calico-ipam",
        "removed /etc/cni/net.d/calico-kubeconfig",
        "left /var/lib/calico/note: it is not ours",
        "left 1 sandboxes' addresses in the datastore",
        "it is a pod's, which has no network any more",
    ] {
        ensure!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    // The pod that was never deleted takes its interface along.
    node.run("ip", &["netns", "del", "cni-one"])?;
    node.run("ip", &["netns", "del", "cni-two"])?;
    node.run("sh", &["-ec", "rm /var/lib/calico/note; rmdir /var/lib/calico"])?;
    integration::wait::becomes(integration::PATIENCE, "all is as it was", || {
        let after = state(&node)?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(true)
    })?;
    let again = cleanup(&node, &[])?;
    ensure!(again == "nothing of Ocicat is left on this node\n", "{again}");
    drop(Pod::sandbox(&node, "unused")?);
    Ok(())
}

#[test]
fn a_node_that_calico_serves_keeps_what_calico_reads() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    // As a container sees the node: its folders below another root, each of them mounted, and `/var/run` a folder.
    let script = "for folder in opt/cni/bin etc/cni/net.d var/lib/calico var/run/calico run/ocicat; do mkdir -p /run/host/$folder; done
        mkdir -p /run/host/var/run/ocicat /run/there; mount --bind /run/there /run/host/var/lib/calico
        cp /opt/cni/bin/* /run/host/opt/cni/bin; cp /etc/cni/net.d/* /run/host/etc/cni/net.d
        echo -n east > /run/host/var/lib/calico/nodename; touch /run/host/var/run/ocicat/stale
        echo 'Calico, as others build it' > /run/host/opt/cni/bin/calico";
    node.run("sh", &["-ec", script])?;
    let text = cleanup(&node, &["--root", "/run/host"])?;
    ensure!(text.contains("left /run/host/opt/cni/bin/calico: it is Calico's own plugin"), "{text}");
    ensure!(text.contains("Calico serves this node"), "{text}");
    let ls = |folder: &str| node.run("ls", &["-A", &format!("/run/host/{folder}")]);
    ensure!(ls("etc/cni/net.d")?.contains("10-calico.conflist") && ls("var/lib/calico")?.contains("nodename"));
    ensure!(!ls("opt/cni/bin")?.contains("calico-ipam") && !ls("var/run")?.contains("ocicat"), "{text}");

    // Ours again: all goes but the mount itself.
    node.run("sh", &["-ec", "cp /opt/cni/bin/calico /run/host/opt/cni/bin/calico"])?;
    let text = cleanup(&node, &["--root", "/run/host"])?;
    ensure!(!ls("etc/cni/net.d")?.contains("10-calico.conflist") && ls("var/lib/calico")?.is_empty(), "{text}");
    ensure!(cleanup(&node, &["--root", "/run/host"])? == "nothing of Ocicat is left on this node\n");
    // Of the node itself, which is not that root, no file was touched.
    ensure!(node.run("ls", &["/opt/cni/bin"])?.contains("calico-ipam"));
    Ok(())
}

#[test]
fn what_flannel_left_goes_when_asked_for_and_nothing_else_does() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    node.apply(POOL)?;
    node.start_felix()?;
    let pod = node.pod("ours")?;
    let others = "ip link add br-own type bridge; ip link set br-own up; ip addr add 198.51.100.1/24 dev br-own
        ip route add 198.51.101.0/24 via 10.0.0.77
        ip link add vxlan.other type vxlan id 7 dstport 8473 dev eth0
        echo '{}' > /etc/cni/net.d/99-other.conf";
    node.run("sh", &["-ec", others])?;
    let before = things(&node)?;
    let leftovers = "ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0 nolearning; ip addr add 10.243.1.0/32 dev flannel.1; ip link set flannel.1 up
        ip link add flannel-v6.1 type vxlan id 2 dstport 8472 dev eth0; ip link set flannel-v6.1 up
        ip link add flannel.4096 type vxlan id 4096 dstport 8472 dev eth0
        nft add table ip flannel-ipv4; nft add table ip nat; nft add chain ip nat FLANNEL-POSTRTG; nft add chain ip nat OTHER
        ip route add 10.243.2.0/24 via 10.243.2.0 dev flannel.1 onlink
        ip link add cni0 type bridge; ip addr add 10.243.1.1/24 dev cni0; ip link set cni0 up
        ip link add vethflannel type veth peer name far; ip link set vethflannel master cni0
        ip route add 10.243.3.0/24 via 10.0.0.78
        mkdir -p /run/flannel; printf 'FLANNEL_NETWORK=10.243.0.0/16\nFLANNEL_SUBNET=10.243.1.1/24\n' > /run/flannel/subnet.env
        echo '{\"name\":\"cbr0\"}' > /etc/cni/net.d/10-flannel.conflist";
    node.run("sh", &["-ec", leftovers])?;
    let full = things(&node)?;
    let rehearsal = cleanup(&node, &["--flannel", "--dry-run"])?;
    ensure!(things(&node)? == full, "a rehearsal changed something");
    // Our daemon runs meanwhile; that is no hindrance.
    let text = cleanup(&node, &["--flannel"])?;
    ensure!(rehearsal.replace("would remove", "removed") == text, "rehearsed:\n{rehearsal}\ndone:\n{text}");
    for words in [
        "removed route 10.243.2.0/24 via 10.243.2.0 dev flannel.1",
        "removed route 10.243.3.0/24 via 10.0.0.78",
        "removed device flannel.1",
        "removed device flannel-v6.1",
        "removed device flannel.4096",
        "removed nftables table ip flannel-ipv4",
        "left chain FLANNEL-POSTRTG of table ip nat: flanneld set it by iptables",
        "removed device cni0",
        "removed /run/flannel/subnet.env",
        "removed /etc/cni/net.d/10-flannel.conflist",
        "left device vethflannel: it is of a pod that flannel connected",
    ] {
        ensure!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    ensure!(!text.contains("OTHER"), "{text}");
    node.run("sh", &["-ec", "ip link del vethflannel; [ ! -e /run/flannel ]; nft delete table ip nat"])?;
    let after = things(&node)?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    ensure!(cleanup(&node, &["--flannel"])? == "nothing of flannel is left on this node\n");
    pod.remove()
}
