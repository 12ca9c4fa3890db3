//! IPIP by the real programs; where this kernel has none, each test runs in a machine whose kernel has.

#[path = "encapsulation/bed.rs"]
mod bed;

use anyhow::{Context, Result, ensure};
use bed::{Bed, all_go_by, all_reach_all, felix_configuration, net, pods_in, pool, state, without_loss};
use integration::{Node, PATIENCE, Pod, machine, wait};
use serde_json::Value;

/// Packets a second between every two pods: one CPU in a machine carries them.
const RATE: u32 = 20;

#[test]
fn pods_reach_each_other_by_ipip_and_routes_stay_when_bgp_dies() -> Result<()> {
    machine::with_ipip(|| {
        let net = net()?;
        let bed = Bed::playing(&net, &pods_in("Always", "Never"))?;
        let pods = bed.pods_by("tunl0", "tunl0")?;
        for to in &pods[1..] {
            pods[0].run("ping", &["-M", "do", "-c", "1", "-W", "1", "-s", "1452", &to.address()?.to_string()])?;
        }
        // felix owns the routes: nobody needs BGP for them.
        without_loss(&pods, RATE, || bed.nodes.iter().try_for_each(|node| node.kill("bgp-speaker")))?;
        all_go_by(&pods, "tunl0", "tunl0")?;
        // Not even for a pod on a block that is claimed only now, of a new pool, on a node that starts only now.
        let (from, last) = (&bed.nodes[0], &bed.nodes[3]);
        last.kill("felix")?;
        last.start_felix()?;
        from.apply(&pool("late", "10.245.0.0/24", "ipipMode: Always, vxlanMode: Never"))?;
        let of_pool = "sed -i 's/\"type\": \"calico-ipam\"/\"type\": \"calico-ipam\", \"ipv4_pools\": [\"late\"]/' /etc/cni/net.d/10-calico.conflist";
        last.run("sh", &["-ec", of_pool])?;
        let of_late = |node: &Node<'_>| -> Result<Vec<Value>> {
            let of_late = |route: &Value| route["dst"].as_str().is_some_and(|to| to.starts_with("10.245.0."));
            Ok(node.routes()?.into_iter().filter(of_late).collect())
        };
        ensure!(of_late(from)?.is_empty(), "nobody has claimed of the pool: {:?}", of_late(from)?);
        let more = Pod::sandbox(last, "later")?;
        wait::becomes(PATIENCE, "felix has heard of the pool", || Ok(more.add().is_ok()))?;
        ensure!(more.address()?.to_string().starts_with("10.245.0."), "{}", more.address()?);
        bed::reaches(&pods[0], more.address()?)?;
        let routes = of_late(from)?;
        ensure!(
            routes.len() == 1 && routes[0]["dev"] == "tunl0" && routes[0]["protocol"] == "80",
            "the route to the new block is felix': {routes:?}"
        );
        Ok(())
    })
}

#[test]
fn ipip_across_subnets_only_leaves_packets_within_one_as_they_are() -> Result<()> {
    machine::with_ipip(|| {
        let net = net()?;
        let bed = Bed::playing(&net, &pods_in("CrossSubnet", "Never"))?;
        bed.pods_by("eth0", "tunl0").map(drop)
    })
}

/// Whose the routes through `tunl0` are.
fn owner(node: &Node<'_>) -> Result<Vec<String>> {
    let routes = node.routes()?;
    let through = routes.iter().filter(|route| route["dev"] == "tunl0");
    let mut owners: Vec<_> = through.map(|route| route["protocol"].as_str().unwrap_or_default().to_owned()).collect();
    owners.sort();
    owners.dedup();
    Ok(owners)
}

/// Waits until felix has ended by itself, and starts it as an orchestrator does.
fn started_again(node: &Node<'_>) -> Result<()> {
    wait::becomes(PATIENCE, &format!("felix on {} ends to be started again", node.name()), || {
        node.daemon("felix", |process| Ok(process.ended()?.is_some()))
    })?;
    node.kill("felix")?;
    node.start_felix()
}

#[test]
fn the_routes_owner_changes_under_packets() -> Result<()> {
    machine::with_ipip(|| {
        let net = net()?;
        let bed = Bed::playing(&net, &pods_in("Always", "Never"))?;
        let pods = bed.pods_by("tunl0", "tunl0")?;
        let configured = |felix: &str, bgp: &str| {
            let felix = felix_configuration(&format!("programClusterRoutes: {felix}"));
            let bgp = format!(
                "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{programClusterRoutes: {bgp}}}\n"
            );
            format!("{felix}---\n{bgp}")
        };
        for (felix, bgp, protocol) in [
            ("Disabled", "Enabled", "bird"),
            ("EnabledIPIPOnly", "EnabledNoEncapOnly", "80"),
            ("Disabled", "Enabled", "bird"),
        ] {
            let changed = without_loss(&pods, RATE, || {
                bed.nodes[0].apply(&configured(felix, bgp))?;
                // felix ends itself to be started with the new value, as its DaemonSet does.
                bed.nodes.iter().try_for_each(started_again)?;
                bed.nodes.iter().try_for_each(|node| {
                    wait::becomes(
                        PATIENCE,
                        &format!("the routes of {} are of protocol {protocol}", node.name()),
                        || Ok(owner(node)? == [protocol]),
                    )
                    .with_context(|| state(node))
                })
            });
            changed.with_context(|| format!("to felix {felix}, speaker {bgp}"))?;
        }
        Ok(())
    })
}

#[test]
fn what_is_left_on_the_tunnel_of_others_goes_or_is_told() -> Result<()> {
    machine::with_ipip(|| {
        let net = net()?;
        let bed = Bed::new(&net)?;
        let node = &bed.nodes[0];
        // Of a Calico that was here before, and of a hand.
        let leftovers =
            "ip link set tunl0 up mtu 1300; ip addr add 10.99.0.1/32 dev tunl0; ip addr add 10.99.1.1/24 dev tunl0
            ip route add 10.244.255.0/26 via 10.0.0.99 dev tunl0 onlink proto 12";
        node.run("sh", &["-ec", leftovers])?;
        node.apply(&pods_in("Always", "Never"))?;
        bed.felix(&[])?;
        bed.nodes.iter().try_for_each(Node::start_speaker)?;
        let pods = bed.pods_by("tunl0", "tunl0")?;
        wait::becomes(PATIENCE, "tunl0 has only its own address and MTU", || {
            let text = node.run("ip", &["addr", "show", "tunl0"])?;
            Ok(text.contains("mtu 1480") && !text.contains("10.99."))
        })
        .with_context(|| state(node))?;
        // Whoever set them may set them again: both are told.
        let mut status = String::new();
        wait::becomes(PATIENCE, "the addresses that were removed are told", || {
            status = node.calicoctl(&["node", "status"])?;
            Ok(status.contains("10.99.0.1/32") && status.contains("10.99.1.1/24"))
        })
        .with_context(|| status.clone())?;
        wait::becomes(PATIENCE, "the route that was left is gone", || {
            Ok(node.routes()?.iter().all(|route| route["dst"] != "10.244.255.0/26"))
        })
        .with_context(|| state(node))?;
        all_reach_all(&pods)
    })
}
