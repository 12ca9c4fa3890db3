//! Our speaker meshed with BIRD 2 as the third node, configured as a Calico node is. Needs Debian's `bird2`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use integration::lab::established;
use integration::process::Process;
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};

/// BIRD's own block.
const BLOCK: &str = "10.244.200.0/26";

/// An address of BIRD's node in that block: its "pod".
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 1);

/// What we advertise: 2147483647 less the metric 1024.
const LOCAL_PREF: &str = "2147482623";

/// The pools: small blocks for our nodes, so that a few pods need a second one, and a pool for BIRD's block alone.
const POOLS: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: ours}
spec: {cidr: 10.244.0.0/17, blockSize: 30, nodeSelector: '!has(bird)'}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: birds}
spec: {cidr: 10.244.192.0/18, blockSize: 26, nodeSelector: has(bird)}
";

/// The node that BIRD runs on.
struct BirdNode<'net> {
    process: Option<Process>,
    node: Node<'net>,
}

impl<'net> BirdNode<'net> {
    /// A node with an address in its block and a resource, on which nothing runs yet.
    fn new(net: &'net Net) -> Result<Self> {
        let node = net.node("bird")?;
        node.run("ip", &["addr", "add", &format!("{POD}/32"), "dev", "lo"])?;
        node.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"])?;
        node.apply(&format!(
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: bird, labels: {{bird: '2'}}}}\nspec: {{bgp: {{ipv4Address: {}/16}}}}\n",
            node.address()
        ))?;
        Ok(Self { process: None, node })
    }

    /// Starts BIRD with a mesh session to each of the others. A restart recovers gracefully.
    fn start(&mut self, others: &[&Node<'_>]) -> Result<()> {
        let own = self.node.address();
        let mut text = format!(
            "log stderr all;
             router id {own};
             protocol device {{ scan time 2; }}
             protocol direct {{ ipv4; interface \"eth0\"; }}
             protocol static {{ ipv4; route {BLOCK} blackhole; }}
             filter to_kernel {{ if source = RTS_BGP then krt_prefsrc = {POD}; accept; }}
             protocol kernel {{
                 learn; persist; scan time 2; graceful restart; metric 1024;
                 ipv4 {{ import all; export filter to_kernel; }};
             }}
             filter own_blocks {{
                 if source = RTS_STATIC then {{ bgp_local_pref = {LOCAL_PREF}; accept; }}
                 reject;
             }}
             template bgp mesh {{
                 debug {{ states, events }};
                 local {own} as 64512;
                 multihop;
                 graceful restart on;
                 connect delay time 1; connect retry time 1; error wait time 1, 2;
                 ipv4 {{ gateway recursive; import all; export filter own_blocks; next hop self; add paths on; }};
             }}\n"
        );
        for other in others {
            // As Calico decides it: the greater address, as text, dials.
            let passive = if other.address().to_string() > own.to_string() { "passive on; " } else { "" };
            text += &format!(
                "protocol bgp {} from mesh {{ neighbor {} as 64512; {passive}}}\n",
                session(other),
                other.address()
            );
        }
        fs::write(self.node.holder().inside("/run/bird.conf"), text)?;
        let mut command = self.node.command("bird");
        command.args(["-f", "-R", "-c", "/run/bird.conf", "-s", "/run/bird.ctl", "-P", "/run/bird.pid"]);
        self.process = Some(Process::start("bird", &mut command, self.node.net().log("bird"))?);
        Ok(())
    }

    /// `kill -9` of BIRD.
    fn kill(&mut self) -> Result<()> {
        self.process.take().context("BIRD is not running")?.kill()
    }

    /// What `birdc` answers.
    fn ask(&self, command: &str) -> Result<String> {
        let mut words = vec!["-s", "/run/bird.ctl"];
        words.extend(command.split(' '));
        self.node.run("birdc", &words)
    }

    /// Waits until `birdc`'s answer is as it should be.
    fn shows(&self, command: &str, test: impl Fn(&str) -> bool) -> Result<()> {
        let mut answer = String::new();
        wait::becomes(PATIENCE, &format!("BIRD's \"{command}\" is as it should be"), || {
            answer = self.ask(command)?;
            Ok(test(&answer))
        })
        .with_context(|| {
            format!("{answer}\nBIRD's log:\n{}", fs::read_to_string(self.node.net().log("bird")).unwrap_or_default())
        })
    }

    /// Waits until the sessions to these nodes are up and have nothing left to recover.
    fn established(&self, others: &[&Node<'_>]) -> Result<()> {
        for other in others {
            self.shows(&format!("show protocols all {}", session(other)), |answer| {
                answer.contains("BGP state:          Established") && !answer.contains("graceful restart active")
            })?;
        }
        self.shows("show status", |answer| !answer.contains("Graceful restart recovery in progress"))
    }

    /// Whether BIRD routes a block to a node now.
    fn routes(&self, block: &str, node: &Node<'_>) -> Result<bool> {
        // A network that is not there is an error of birdc's.
        let answer = self.ask(&format!("show route {block}")).unwrap_or_default();
        Ok(answer.contains(&format!("via {}", node.address())))
    }
}

/// What Calico calls the session with a node.
fn session(node: &Node<'_>) -> String {
    format!("Mesh_{}", node.address().to_string().replace('.', "_"))
}

/// Two nodes of ours with a pod each, and BIRD between them: to one it dials, to the other it listens.
fn meshed(test: impl FnOnce(&Net, [&Node<'_>; 2], &mut BirdNode<'_>, [&Pod<'_, '_>; 2]) -> Result<()>) -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let first = net.node("node1")?;
    first.apply(POOLS)?;
    let mut bird = BirdNode::new(&net)?;
    let last = net.node("node2")?;
    let nodes = [&first, &last];
    for node in nodes {
        node.start_felix()?;
        node.start_speaker()?;
    }
    bird.start(&nodes)?;
    let pods = [first.pod("one")?, last.pod("two")?];
    bird.established(&nodes)?;
    for node in nodes {
        established(node, 2)?;
        learned(node, &bird)?;
        for block in blocks(node)? {
            wait::becomes(PATIENCE, &format!("BIRD routes {block} to {}", node.name()), || bird.routes(&block, node))?;
        }
    }
    nodes.into_iter().try_for_each(recovered)?;
    test(&net, nodes, &mut bird, [&pods[0], &pods[1]])?;
    nodes.iter().try_for_each(|node| node.check())
}

/// A node's own blocks: its black holes.
fn blocks(node: &Node<'_>) -> Result<Vec<String>> {
    let routes = node.routes()?;
    let holes = routes.iter().filter(|route| route["type"] == "blackhole");
    Ok(holes.filter_map(|route| Some(route["dst"].as_str()?.to_owned())).collect())
}

/// Whether a node routes BIRD's block to BIRD now, as a route of ours.
fn has_learned(node: &Node<'_>, bird: &BirdNode<'_>) -> Result<bool> {
    let via = bird.node.address().to_string();
    Ok(node.routes()?.iter().any(|route| {
        route["dst"] == BLOCK
            && route["gateway"] == via.as_str()
            && route["protocol"] == "bird"
            && route["metric"] == 1024
    }))
}

/// Waits until it does.
fn learned(node: &Node<'_>, bird: &BirdNode<'_>) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{} routes {BLOCK} to BIRD", node.name()), || has_learned(node, bird))
        .with_context(|| node.run("ip", &["route"]).unwrap_or_default())
}

/// Waits until a node's speaker has all sessions, and neither it nor a peer has anything left to recover.
fn recovered(node: &Node<'_>) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{} has recovered", node.name()), || {
        let mut stream = UnixStream::connect(node.holder().inside("/run/ocicat/bgp.sock"))?;
        writeln!(stream, "{{\"show\":\"sessions\"}}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: serde_json::Value = serde_json::from_str(&line)?;
        let sessions = answer["sessions"].as_array().context("it names no sessions")?;
        let settled = |session: &serde_json::Value| session["stale"] == false && session["fsm"] == "Established";
        Ok(answer["status"]["recovery"].is_null() && sessions.iter().all(settled))
    })
}

/// Watches every change of a node's routes until it is asked what happened.
struct Recording<'a> {
    monitor: Process,
    node: &'a Node<'a>,
}

impl<'a> Recording<'a> {
    fn start(node: &'a Node<'a>) -> Result<Self> {
        let log = node.net().log(&format!("{}-monitor", node.name()));
        let mut command = node.command("ip");
        let monitor = Process::start("ip monitor", command.args(["monitor", "route"]), log)?;
        let recording = Self { monitor, node };
        recording.mark("198.18.0.1")?;
        Ok(recording)
    }

    /// Changes a route of no meaning until the monitor tells of it: what was done before has then been told, too.
    fn mark(&self, address: &str) -> Result<()> {
        wait::becomes(PATIENCE, &format!("the monitor of {} sees a mark", self.node.name()), || {
            self.node.run("ip", &["route", "replace", "unreachable", address, "proto", "99"])?;
            self.node.run("ip", &["route", "del", "unreachable", address, "proto", "99"])?;
            Ok(self.monitor.output()?.contains(address))
        })
    }

    /// What happened to these prefixes.
    fn of(self, prefixes: &[String]) -> Result<Vec<String>> {
        self.mark("198.18.0.2")?;
        let output = self.monitor.output()?;
        let about = |line: &&str| prefixes.iter().any(|prefix| line.contains(prefix.as_str()));
        Ok(output.lines().filter(about).map(str::to_owned).collect())
    }
}

/// Waits until something becomes true, and fails as soon as `kept` does meanwhile.
fn becomes_while(kept: impl Fn() -> Result<()>, what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
    wait::until(PATIENCE, what, || match kept() {
        Ok(()) => Ok(condition()?.then_some(Ok(()))),
        lost => Ok(Some(lost)),
    })?
}

/// Pings both ways between our pods and BIRD's.
fn everybody_pings(bird: &BirdNode<'_>, pods: &[&Pod<'_, '_>]) -> Result<()> {
    for pod in pods {
        pod.ping(IpAddr::V4(POD)).with_context(|| format!("{} pings BIRD's pod", pod.name()))?;
        let address = pod.address()?.to_string();
        bird.node
            .run("ping", &["-n", "-c", "1", "-W", "1", "-I", &POD.to_string(), &address])
            .with_context(|| format!("BIRD's pod pings {}", pod.name()))?;
    }
    Ok(())
}

#[test]
fn bird_is_a_node_like_the_others() -> Result<()> {
    meshed(|_, nodes, bird, pods| {
        for node in nodes {
            let [block] = blocks(node)?.try_into().map_err(|blocks| anyhow::anyhow!("one block, not {blocks:?}"))?;
            let route = bird.ask(&format!("show route all {block}"))?;
            let address = node.address();
            for fact in [
                format!("via {address}"),
                format!("BGP.next_hop: {address}"),
                format!("BGP.local_pref: {LOCAL_PREF}"),
                "BGP.as_path: \n".to_owned(),
            ] {
                ensure!(route.contains(&fact), "{fact:?} is not in\n{route}");
            }
            let row = format!("| {} ", bird.node.address());
            let status = node.calicoctl(&["node", "status"])?;
            let row = status.lines().find(|line| line.starts_with(&row)).with_context(|| status.clone())?;
            ensure!(row.contains("node-to-node mesh") && row.contains("Established"), "{status}");
        }
        everybody_pings(bird, &pods)?;
        ensure!(pods[0].ping(pods[1].address()?).is_ok(), "our own pods reach each other");

        // Four addresses are a block; the fifth pod needs another, which BIRD hears of.
        let before = blocks(nodes[0])?;
        let more = (1..=4).map(|number| nodes[0].pod(&format!("more{number}"))).collect::<Result<Vec<_>>>()?;
        let new: Vec<String> = blocks(nodes[0])?.into_iter().filter(|block| !before.contains(block)).collect();
        ensure!(!new.is_empty(), "five pods on blocks of four, and no second block: {before:?}");
        for block in &new {
            wait::becomes(PATIENCE, &format!("BIRD hears of {block}"), || bird.routes(block, nodes[0]))?;
        }
        for pod in &more {
            wait::becomes(PATIENCE, &format!("BIRD's kernel routes to {}", pod.name()), || {
                Ok(everybody_pings(bird, &[pod]).is_ok())
            })?;
        }

        // Ended on purpose, BIRD says so, and its routes go.
        bird.process.take().context("BIRD is not running")?.terminate()?;
        for node in nodes {
            wait::becomes(PATIENCE, &format!("{} forgets {BLOCK}", node.name()), || Ok(!has_learned(node, bird)?))?;
            established(node, 1)?;
        }
        ensure!(pods[1].ping(pods[0].address()?).is_ok(), "our own pods still reach each other");
        Ok(())
    })
}

#[test]
fn our_speaker_killed_costs_bird_no_route() -> Result<()> {
    meshed(|_, nodes, bird, pods| {
        // BIRD dials the first and is dialled by the last.
        for node in nodes {
            let own = blocks(node)?;
            let recording = Recording::start(&bird.node)?;
            let kept = || -> Result<()> {
                for block in &own {
                    ensure!(bird.routes(block, node)?, "BIRD lost {block} of {}", node.name());
                }
                Ok(())
            };
            let up = || {
                let protocol = bird.ask(&format!("show protocols all {}", session(node)))?;
                Ok(protocol.contains("BGP state:          Established"))
            };
            node.kill("bgp-speaker")?;
            becomes_while(kept, "BIRD notices", || Ok(!up()?))?;
            everybody_pings(bird, &pods)?;
            node.start_speaker()?;
            becomes_while(kept, "the session is back", up)?;
            bird.established(&nodes)?;
            recovered(node)?;
            kept()?;
            let changes = recording.of(&own)?;
            ensure!(changes.is_empty(), "BIRD's kernel routes to {own:?} changed: {changes:#?}");
            everybody_pings(bird, &pods)?;
        }
        Ok(())
    })
}

#[test]
fn bird_killed_costs_us_no_route() -> Result<()> {
    meshed(|_, nodes, bird, pods| {
        let recordings = nodes.into_iter().map(Recording::start).collect::<Result<Vec<_>>>()?;
        let kept = |bird: &BirdNode<'_>| -> Result<()> {
            for node in nodes {
                ensure!(has_learned(node, bird)?, "{} lost {BLOCK}", node.name());
            }
            Ok(())
        };
        let row = format!("| {} ", bird.node.address());
        let up = |node: &Node<'_>| {
            let status = node.calicoctl(&["node", "status"])?;
            Ok(status.lines().any(|line| line.starts_with(&row) && line.contains("Established")))
        };
        bird.kill()?;
        for node in nodes {
            becomes_while(|| kept(bird), &format!("{} notices", node.name()), || Ok(!up(node)?))?;
        }
        everybody_pings(bird, &pods)?;
        bird.start(&nodes)?;
        for node in nodes {
            becomes_while(|| kept(bird), &format!("{} has its session back", node.name()), || up(node))?;
        }
        bird.established(&nodes)?;
        nodes.into_iter().try_for_each(recovered)?;
        kept(bird)?;
        for recording in recordings {
            let name = recording.node.name();
            let changes = recording.of(&[BLOCK.to_owned()])?;
            ensure!(changes.is_empty(), "{name}'s route to BIRD's block changed: {changes:#?}");
        }
        everybody_pings(bird, &pods)
    })
}
