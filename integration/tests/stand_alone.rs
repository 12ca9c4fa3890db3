//! `docs/route-reflector` as it is written: its file, its unit and its commands are taken from there, only addresses differ.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use calico_sys::namespace;
use integration::binaries::Binaries;
use integration::peers::{POOLS, Subject, block};
use integration::speaker::{Speaker, same_life};
use integration::{Net, Node, PATIENCE, StoreKind, wait};
use serde_json::{Value, json};

/// Where the reflectors have their file, by the documents.
const FILE: &str = "/etc/calico/reflectors.yaml";

/// A file of the documents.
fn document(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/route-reflector").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The part of the README below a heading.
fn section(heading: &str) -> Result<String> {
    let readme = document("README.md")?;
    let (_, rest) = readme.split_once(&format!("\n## {heading}\n")).with_context(|| format!("no {heading}"))?;
    Ok(rest.split("\n## ").next().unwrap_or_default().to_owned())
}

/// What a section has between `<<END` and `END`.
fn here_documents(section: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = section;
    while let Some((text, after)) = rest.split_once("<<END\n").and_then(|(_, rest)| rest.split_once("\nEND\n")) {
        found.push(format!("{text}\n"));
        rest = after;
    }
    found
}

/// The documents' addresses, and those of the nodes here.
fn substituted(text: &str, addresses: &[(&str, Ipv4Addr)]) -> String {
    let text = text.replace("/24", "/16");
    addresses.iter().fold(text, |text, (documented, ours)| {
        let mut out = String::new();
        // 192.0.2.11 is the beginning of 192.0.2.111.
        for (number, part) in text.split(documented).enumerate() {
            if number > 0 {
                let longer = part.starts_with(|c: char| c.is_ascii_digit());
                out += &if longer { (*documented).to_owned() } else { ours.to_string() };
            }
            out += part;
        }
        out
    })
}

fn at(address: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(address.into(), 179)
}

/// As [`wait::becomes`], while the kernels have all routes all the time.
fn while_routed(
    routes: &[(&Subject<'_>, &Subject<'_>, u8)],
    what: &str,
    condition: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let zero = IpAddr::from([0, 0, 0, 0]);
    wait::until(PATIENCE, what, || {
        for (at, to, number) in routes {
            let block = block(*number, zero);
            if !at.routes_now(block, to.ipv4().into())? {
                let lost = format!("{} lost {block} before {what}: {:?}", at.node().name(), at.kernel_routes(block));
                return Ok(Some(Err(anyhow::anyhow!(lost))));
            }
        }
        Ok(condition()?.then_some(Ok(())))
    })?
}

/// The sessions of a subject whose peers are these, each Established.
fn established_with(subject: &Subject<'_>, peers: &[Ipv4Addr]) -> Result<Vec<Value>> {
    peers.iter().map(|peer| subject.session((*peer).into())).collect()
}

/// `calicoctl` on a machine that has no datastore, nor a file that tells of one.
fn calicoctl_alone(node: &Node<'_>, arguments: &[&str]) -> Result<String> {
    let mut words = vec!["-u", "DATASTORE_TYPE", "-u", "SQLITE_PATH", "/usr/local/bin/calicoctl"];
    words.extend(arguments);
    node.run("env", &words)
}

#[test]
fn two_reflectors_outside_of_the_cluster_do_as_the_documents_say() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let machines = [net.node("rr1")?, net.node("rr2")?];
    let subjects = [Subject::new(&net, "node1", 0x13)?, Subject::new(&net, "node2", 0x14)?];
    let late = Subject::new(&net, "node3", 0x15)?;
    let [one, two] = &subjects;
    let reflectors = [machines[0].address(), machines[1].address()];
    let addresses = [
        ("192.0.2.251", reflectors[0]),
        ("192.0.2.252", reflectors[1]),
        ("192.0.2.11", one.ipv4()),
        ("192.0.2.12", two.ipv4()),
    ];
    let zero = IpAddr::from([0, 0, 0, 0]);

    // The cluster as it is before: a mesh.
    one.node().apply(POOLS)?;
    for (subject, number) in [(one, 1), (two, 2), (&late, 3)] {
        let node = subject.node();
        let spec = format!("spec: {{bgp: {{ipv4Address: {}/16}}}}", node.address());
        let text =
            format!("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {}}}\n{spec}\n", node.name());
        if number < 3 {
            node.apply(&text)?;
            subject.claim(block(number, zero))?;
        }
    }
    one.start()?;
    // The other one with the datastore in short.
    let store = format!("sqlite:{}", net.directory().join("ocicat.db").display());
    let mut two_speaker = Speaker::start(two.node(), &["--datastore", &store])?;
    one.established(two.ipv4().into())?;
    one.routes(block(2, zero), two.ipv4().into())?;
    two.routes(block(1, zero), one.ipv4().into())?;

    // On each reflector.
    let unit = document("bgp-speaker.service")?;
    let exec = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
    let options: Vec<&str> = exec.split_whitespace().skip(1).collect();
    ensure!(options.contains(&FILE), "the unit names another file: {exec}");
    let file = substituted(&document("reflectors.yaml")?, &addresses);
    ensure!(!file.contains("192.0.2."), "an address is not substituted:\n{file}");
    let write = |text: &str| -> Result<()> {
        for machine in &machines {
            // What is documented of the machine: no datastore.
            let _ = fs::remove_file(machine.holder().inside("/etc/calico/calicoctl.cfg"));
            fs::write(machine.holder().inside(FILE), text)?;
        }
        Ok(())
    };
    write(&file)?;
    let mut speakers = Vec::new();
    for machine in &machines {
        speakers.push(Speaker::start(machine, &options)?);
    }
    let [first, second] = &mut speakers[..] else { anyhow::bail!("two were started") };
    wait::becomes(PATIENCE, "the reflectors have each other", || {
        let mesh = |speaker: &mut Speaker<'_, '_>| -> Result<usize> {
            Ok(speaker.sessions()?.iter().filter(|one| one["fsm"] == "Established").count())
        };
        Ok(mesh(first)? == 1 && mesh(second)? == 1 && first.sessions()?.len() == 3)
    })?;

    // In the cluster.
    let documents = here_documents(&section("In the cluster")?);
    let [peers, mesh_off] = documents.as_slice() else { anyhow::bail!("two were documented: {documents:#?}") };
    let between = [(one, two, 2), (two, one, 1)];
    let preview_file = one.node().holder().inside("/run/peers.yaml");
    fs::write(&preview_file, substituted(peers, &addresses))?;
    let preview = one.node().calicoctl(&["bgp", "sessions", "-f", "/run/peers.yaml"])?;
    ensure!(preview.contains("Sessions: 4 added, 2 kept"), "{preview}");
    one.node().apply(&substituted(peers, &addresses))?;
    while_routed(&between, "the reflectors have all", &mut || {
        let mut all = true;
        for (speaker, other) in [(&mut *first, reflectors[1]), (&mut *second, reflectors[0])] {
            let sessions = speaker.sessions()?;
            let up: Vec<_> = sessions.iter().filter(|one| one["fsm"] == "Established").collect();
            let wanted = [at(other), at(one.ipv4()), at(two.ipv4())];
            all &= up.len() == 3 && wanted.iter().all(|peer| up.iter().any(|one| one["peer"] == peer.to_string()));
        }
        Ok(all)
    })
    .with_context(|| format!("{}\n{}", first.last_lines(), one.words()))?;
    let before = established_with(one, &reflectors)?;
    fs::write(&preview_file, mesh_off)?;
    let preview = one.node().calicoctl(&["bgp", "sessions", "-f", "/run/peers.yaml"])?;
    ensure!(
        preview.contains("4 kept") && preview.contains("2 removed") && preview.contains("no node is left without"),
        "{preview}"
    );
    one.node().apply(mesh_off)?;
    while_routed(&between, "the mesh is gone", &mut || {
        Ok(one.ask("sessions")?["sessions"].as_array().map(Vec::len) == Some(2))
    })?;
    for (before, after) in before.iter().zip(established_with(one, &reflectors)?) {
        ensure!(before["fsm"] == "Established", "{before:#}");
        same_life(before, &after)?;
    }
    two_speaker.peers_with(&reflectors.map(at))?;
    // What is known of the other node comes from both reflectors, and leads to the node itself.
    wait::becomes(PATIENCE, "both reflectors tell of the other node's block", || {
        let paths = one.paths(block(2, zero))?;
        let told = |path: &Value| {
            path["next_hop"] == two.ipv4().to_string().as_str()
                && path["originator"] == two.ipv4().to_string().as_str()
                && path["cluster_list"] == json!(["244.0.0.1"])
        };
        Ok(paths.len() == 2 && paths.iter().all(told))
    })
    .with_context(|| format!("{:#?}", one.paths(block(2, zero))))?;

    // What the documents say to look at on a reflector.
    let shown = calicoctl_alone(&machines[0], &["bgp", "sessions", "--resources", FILE])?;
    ensure!(
        shown.contains("rr1") && shown.contains(&two.ipv4().to_string()) && !shown.contains("is planned, but"),
        "{shown}"
    );
    let shown = calicoctl_alone(&machines[0], &["bgp", "neighbors"])?;
    ensure!(shown.matches("Established").count() == 3, "{shown}");
    let shown = calicoctl_alone(&machines[0], &["bgp", "routes"])?;
    ensure!(shown.contains("10.244.1.0/26") && shown.contains("10.244.2.0/26"), "{shown}");
    ensure!(machines[0].run("ip", &["route", "show", "proto", "12"])?.is_empty(), "--kernel none, and it has routes");

    // A node more: in the cluster a Node, in the file a Node.
    let node = |address: Ipv4Addr| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: node3}}\n\
             spec: {{bgp: {{ipv4Address: {address}/16}}}}\n"
        )
    };
    let lives = first.sessions()?;
    fs::write(machines[0].holder().inside("/run/node3.yaml"), node(late.ipv4()))?;
    let shown = calicoctl_alone(&machines[0], &["bgp", "sessions", "--resources", FILE, "-f", "/run/node3.yaml"])?;
    ensure!(shown.contains("node rr1") && shown.contains("10.0.0.15") | shown.contains("10_0_0_15"), "{shown}");
    late.node().apply(&node(late.ipv4()))?;
    late.claim(block(3, zero))?;
    late.start()?;
    let file = file + &node(late.ipv4());
    write(&file)?;
    while_routed(&between, "the new node has its sessions", &mut || {
        Ok(late.ask("sessions")?["sessions"]
            .as_array()
            .is_some_and(|all| all.len() == 2 && all.iter().all(|one| one["fsm"] == "Established")))
    })?;
    late.routes(block(1, zero), one.ipv4().into())?;
    one.routes(block(3, zero), late.ipv4().into())?;
    let after = first.sessions()?;
    ensure!(after.len() == 4, "{after:#?}");
    for before in &lives {
        let same = after.iter().find(|session| session["name"] == before["name"]).context("a session is gone")?;
        same_life(before, same)?;
    }

    // Both reflectors die, and come back: nobody loses a route.
    let all = [(one, two, 2), (two, one, 1), (one, &late, 3), (&late, one, 1), (&late, two, 2)];
    first.kill()?;
    second.kill()?;
    while_routed(&all, "the clients notice", &mut || {
        Ok(!one.is_established(reflectors[0].into())? && !late.is_established(reflectors[1].into())?)
    })?;
    first.start_again()?;
    second.start_again()?;
    while_routed(&all, "the sessions are back", &mut || {
        for subject in [one, &late] {
            for reflector in reflectors {
                if !subject.is_established(reflector.into())? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    })?;
    while_routed(&all, "nothing is stale any more", &mut || {
        let fresh = |path: &Value| path["stale"] == false;
        Ok(one.paths(block(2, zero))?.len() == 2 && one.paths(block(2, zero))?.iter().all(fresh))
    })?;
    with_a_password(&subjects, &late, &machines, &file, peers, &addresses)
}

/// The section about passwords, on top of it all.
fn with_a_password(
    subjects: &[Subject<'_>; 2],
    late: &Subject<'_>,
    machines: &[Node<'_>; 2],
    file: &str,
    peers: &str,
    addresses: &[(&str, Ipv4Addr)],
) -> Result<()> {
    let text = section("With a password")?;
    let secret = text.split("```").nth(1).context("no Secret is documented")?;
    let reference =
        text.split('`').find(|part| part.starts_with("password: {")).context("no reference is documented")?;
    let [one, _] = subjects;
    let with = |text: &str| text.replace("asNumber: 64512}", &format!("asNumber: 64512, {reference}}}"));
    one.node().apply(&format!("{secret}---\n{}", with(&substituted(peers, addresses))))?;
    // Only one side has it: nobody is there, and it says why.
    let [first, _] = machines;
    wait::becomes(PATIENCE, "the session without a password on one side is down", || {
        Ok(!one.is_established(first.address().into())?)
    })?;
    let guarded = file.replace("  peerSelector: all()\n", &format!("  peerSelector: all()\n  {reference}\n"));
    ensure!(guarded != file, "the documents' BGPPeer is written otherwise now");
    for machine in machines {
        fs::write(machine.holder().inside(FILE), format!("{guarded}---\n{secret}"))?;
    }
    for subject in [one, late] {
        for machine in machines {
            subject.established(machine.address().into())?;
            ensure!(subject.session(machine.address().into())?["password"] == "set", "it has no password");
        }
    }
    Ok(())
}

#[test]
fn the_unit_is_in_order_and_its_options_exist() -> Result<()> {
    let unit = document("bgp-speaker.service")?;
    let program = Binaries::find()?.daemons().join("bgp-speaker");
    let exec = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
    let help = String::from_utf8(Command::new(&program).arg("--help").output()?.stdout)?;
    for option in exec.split_whitespace().filter(|word| word.starts_with("--")) {
        ensure!(help.split_whitespace().any(|word| word == option), "bgp-speaker has no {option}:\n{help}");
    }
    let Ok(found) = Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status() else {
        eprintln!("skipped: there is no systemd-analyze on this machine (Debian: apt-get install systemd)");
        return Ok(());
    };
    ensure!(found.success(), "systemd-analyze --version: {found}");
    let folder = tempfile::tempdir()?;
    let path: PathBuf = folder.path().join("bgp-speaker.service");
    fs::write(&path, unit.replace("/usr/local/bin/bgp-speaker", &program.display().to_string()))?;
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // It looks at all units of the machine; only ours counts.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("bgp-speaker")).collect();
    ensure!(output.status.success() && ours.is_empty(), "{ours:#?}");
    Ok(())
}

#[test]
fn the_unit_has_every_right_and_folder_that_the_speaker_needs() -> Result<()> {
    // systemd is not there to be asked; what its settings mean for the process is made with capsh's means instead: a
    // process with the unit's capabilities alone.
    let unit = document("bgp-speaker.service")?;
    let value = |name: &str| {
        let found = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.with_context(|| format!("no {name}"))
    };
    let capabilities = value("CapabilityBoundingSet")?.to_lowercase().replace(' ', ",");
    ensure!(value("AmbientCapabilities")?.to_lowercase().replace(' ', ",") == capabilities, "they differ");
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("rr1")?;
    let peer = net.node("rr2")?;
    let addresses = [("192.0.2.251", node.address()), ("192.0.2.252", peer.address())];
    fs::write(node.holder().inside(FILE), substituted(&document("reflectors.yaml")?, &addresses))?;
    let exec = value("ExecStart")?;
    let bounding = capabilities.split(',').map(|name| format!("+{}", name.trim_start_matches("cap_")));
    let bounding = format!("-all,{}", bounding.collect::<Vec<_>>().join(","));
    let mut command = node.command("setpriv");
    command.args(["--bounding-set", &bounding, "--no-new-privs", "--"]).args(exec.split_whitespace());
    command.env("NODENAME", "rr1");
    let mut process =
        integration::process::Process::start("bgp-speaker of the unit", &mut command, net.log("rr1-bgp-speaker"))?;
    let mut last = Value::Null;
    wait::becomes(PATIENCE, "it listens and has three sessions", || {
        process.check()?;
        last = integration::speaker::ask(&node, "{\"show\":\"sessions\"}")?;
        Ok(last["sessions"].as_array().map(Vec::len) == Some(3) && last["status"]["listening"] != json!([]))
    })
    .with_context(|| format!("{last:#}\n{}", process.last_lines(15)))?;
    let reached = namespace::inside(&peer.holder().network()?, || {
        std::net::TcpStream::connect_timeout(&at(node.address()), PATIENCE)
    })?;
    ensure!(reached.is_ok(), "port 179 of the unit's speaker: {reached:?}");
    let status = process.terminate()?;
    ensure!(status.success(), "SIGTERM: {status}");
    Ok(())
}
