//! Bad input to the BGP speaker: what is wrong is named, what went on goes on, and nothing is opened by a mistake.
//!
//! | test | bad is |
//! |---|---|
//! | `a_session_without_its_password_…` | a BGPPeer's Secret |
//! | `overlapping_peers_…` | one peer, configured five times |
//! | `calicoctl_refuses_…` | what is applied |
//! | `what_is_written_past_calicoctl_…` | what is in the store, after something good |
//! | `a_filter_that_was_never_good_…` | what is in the store, from the start |
//! | `a_resources_file_…` | the file of a stand-alone speaker |
//! | `octets_from_anywhere_…` | what comes through sockets and files of the node |

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_api::{Key, Kind};
use calico_sys::namespace;
use integration::peers::{Bird, NO_MESH, Network, OUR_AS, POOLS, Peer, Place, Subject, bgp_peer, block, tcp_counter};
use integration::speaker::{self, Speaker, same_life};
use integration::{Net, Node, PATIENCE, StoreKind, wait};
use rusqlite::Connection;
use serde_json::{Value, json};

/// Theirs.
const THEIRS: u32 = 65001;

/// How long nothing may happen, where nothing must happen: twice the speaker's pause before it dials again.
const QUIET: Duration = Duration::from_secs(3);

fn secret(fields: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: bgp, namespace: kube-system}}\nstringData: {{{fields}}}\n")
}

fn reference() -> &'static str {
    "password: {secretKeyRef: {name: bgp, key: tor}}"
}

/// Waits until the speaker warns with all of these words in one warning.
fn warned(node: &Node<'_>, words: &[&str]) -> Result<String> {
    let mut last = Value::Null;
    wait::until(PATIENCE, &format!("{} warns of {words:?}", node.name()), || {
        last = speaker::ask(node, "{\"show\":\"status\"}")?["warnings"].clone();
        let warnings = last.as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(warnings.clone().find(|text| words.iter().all(|word| text.contains(word))).map(str::to_owned))
    })
    .with_context(|| format!("{last:#}\n{}", node.last_lines("bgp-speaker")))
}

/// Waits until it warns of nothing.
fn content(node: &Node<'_>) -> Result<()> {
    let mut last = Value::Null;
    wait::becomes(PATIENCE, &format!("{} warns of nothing", node.name()), || {
        last = speaker::ask(node, "{\"show\":\"status\"}")?["warnings"].clone();
        Ok(last == json!([]))
    })
    .with_context(|| last.to_string())
}

/// What our listener says to somebody from there who connects: nothing at all, or whatever comes.
fn said_to(place: &Node<'_>, to: SocketAddr) -> Result<Vec<u8>> {
    let connected = namespace::inside(&place.holder().network()?, || TcpStream::connect_timeout(&to, QUIET))?;
    let Ok(mut stream) = connected else { return Ok(Vec::new()) };
    stream.set_read_timeout(Some(QUIET))?;
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => Ok(said),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(said),
        // It stays open: who would be let in later, is let in.
        Err(error) => Err(error).context("the connection stays open"),
    }
}

#[test]
fn a_session_without_its_password_stays_down_says_why_and_never_connects() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let (subject, place) = (Subject::new(&net, "ours", 0x11)?, Place::new(&net, "theirs", 0x12)?);
    let [four, _] = place.addresses;
    let node = subject.node();
    subject.register("")?;
    node.apply(&format!("{POOLS}{NO_MESH}{}", bgp_peer("tor", four, THEIRS, reference())))?;
    // For `calicoctl node status`, which asks for the agent too.
    node.start_felix()?;
    // Who dials without a password gets through to here.
    let at = SocketAddr::new(four, 179);
    let dialled = namespace::inside(&place.node.holder().network()?, || TcpListener::bind(at))??;
    dialled.set_nonblocking(true)?;
    subject.start()?;

    let long = format!("tor: {}", "x".repeat(81));
    for (fields, words) in [
        (None, "Secret kube-system/bgp does not exist"),
        (Some("other: sesame"), "Secret kube-system/bgp has no key \"tor\""),
        (Some("tor: ''"), "0 octets long"),
        (Some(long.as_str()), "81 octets long"),
    ] {
        if let Some(fields) = fields {
            node.apply(&secret(fields))?;
        }
        wait::becomes(PATIENCE, &format!("the session says: {words}"), || {
            let session = subject.session(four)?;
            let password = session["password"]["missing"].as_str().unwrap_or_default().contains(words);
            Ok(session["state"] == "down"
                && session["last_error"].to_string().contains(&words.replace('"', "\\\""))
                && password)
        })
        .with_context(|| format!("{:#?}", subject.session(four)))?;
        warned(node, &[words])?;
        let status = node.calicoctl(&["node", "status"])?;
        let row = status.lines().find(|line| line.contains(&four.to_string())).context("no row")?;
        ensure!(row.contains("down") && row.contains(words), "{status}");
        let sessions = node.calicoctl(&["bgp", "sessions"])?;
        ensure!(sessions.contains("password missing, so it is down") && sessions.contains(words), "{sessions}");
        let neighbors = node.calicoctl(&["bgp", "neighbors", &four.to_string()])?;
        ensure!(neighbors.contains(words), "{neighbors}");
        let said = said_to(&place.node, SocketAddr::new(subject.ipv4().into(), 179))?;
        ensure!(said.is_empty(), "{words}: it speaks to who has no password: {said:?}");
    }
    let nobody = || match dialled.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        other => Err(anyhow::anyhow!("it dials without its password: {other:?}")),
    };
    wait::stays(QUIET, "nobody is dialled", nobody)?;
    // Nor after a restart, when the Secret is not known yet, or never.
    subject.kill()?;
    subject.start()?;
    warned(node, &["81 octets long"])?;
    wait::stays(QUIET, "nobody is dialled", nobody)?;
    drop(dialled);

    // A peer that has none, first against a session that lacks it, then against one that has it.
    let without = place.spec(THEIRS, &[&subject]).network(Network::new(block(2, four)));
    let mut with = without.clone();
    with.neighbours.iter_mut().for_each(|neighbour| neighbour.password = Some("open sesame".to_owned()));
    let mut peer = Peer::start(&Bird, &place.node, without)?;
    let ours = subject.ipv4().into();
    wait::stays(QUIET, "they are not Established without a password", || Ok(!peer.is_established(ours)?))?;
    node.apply(&secret("tor: open sesame"))?;
    wait::becomes(PATIENCE, "packets without the password are dropped", || {
        let mut dropped = 0;
        for node in [node, &place.node] {
            for counter in ["TCPMD5NotFound", "TCPMD5Unexpected"] {
                dropped += tcp_counter(node, counter)?;
            }
        }
        ensure!(
            !peer.is_established(ours)? && !subject.is_established(four)?,
            "Established, with a password on one side"
        );
        Ok(dropped >= 3)
    })?;
    ensure!(subject.paths(block(2, four))?.is_empty(), "a route came in without the password");

    peer.restart(with)?;
    subject.established(four)?;
    subject.holds(block(2, four), "theirs", |_| true)?;
    // Gone again, the session goes too.
    let value = json!({"metadata": {"name": "bgp", "namespace": "kube-system"}});
    let key = Key::of_value(Kind::Secret, &value)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { anyhow::Ok(net.datastore().open().await?.delete_key(&key).await?) })?;
    wait::becomes(
        PATIENCE,
        "the session is down without its Secret",
        || Ok(subject.session(four)?["state"] == "down"),
    )?;
    wait::becomes(PATIENCE, "they notice", || Ok(!peer.is_established(ours)?))?;
    wait::stays(QUIET, "they stay away", || Ok(!peer.is_established(ours)? && !subject.is_established(four)?))
}

#[test]
fn overlapping_peers_give_one_session_and_a_warning() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let subjects = [Subject::new(&net, "ours", 0x11)?, Subject::new(&net, "second", 0x12)?];
    let [ours, second] = &subjects;
    for subject in &subjects {
        subject.register("")?;
    }
    let there = second.ipv4().into();
    let specific = |name: &str, more: &str| bgp_peer(name, there, OUR_AS, &format!("node: ours, {more}"));
    // The mesh, a global one, two for the node, one by selectors on both sides, and by it the way back.
    let by_selector = "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: by-selector}\n\
                       spec: {nodeSelector: all(), peerSelector: all()}\n";
    ours.node().apply(&format!(
        "{POOLS}{}{}{}{by_selector}",
        bgp_peer("global", there, OUR_AS, ""),
        specific("specific", ""),
        specific("specific-otherwise", "keepaliveTime: 20s"),
    ))?;
    for subject in &subjects {
        subject.start()?;
    }
    let all = |subject: &Subject<'_>| -> Result<Vec<Value>> {
        Ok(subject.ask("sessions")?["sessions"].as_array().cloned().unwrap_or_default())
    };
    for (subject, other) in [(ours, second), (second, ours)] {
        for like in [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0; 16])] {
            subject.established(other.address_like(like))?;
        }
        let peers: Vec<_> = all(subject)?.iter().map(|session| session["peer"].to_string()).collect();
        ensure!(peers.len() == 2, "one of each family was expected: {peers:?}");
    }
    let warning = warned(ours.node(), &["configures the same peer", "10.0.0.12", "keepaliveTime"])?;
    warned(ours.node(), &["takes the place of the mesh"])?;
    let shown = ours.node().calicoctl(&["bgp", "sessions", "--node", "ours"])?;
    ensure!(shown.contains(&warning), "calicoctl does not say \"{warning}\":\n{shown}");
    ensure!(shown.matches("10.0.0.12 ").count() == 1, "{shown}");

    // Those that are not in force may go without a sound.
    let before = ours.session(there)?;
    let loser = if warning.starts_with("BGPPeer specific-otherwise ") { "specific-otherwise" } else { "specific" };
    ours.node().calicoctl(&["delete", "bgppeer", loser])?;
    wait::becomes(PATIENCE, "the warning is gone", || {
        Ok(!ours.ask("status")?["warnings"].to_string().contains("configures the same peer"))
    })?;
    same_life(&before, &ours.session(there)?)
}

const HEAD: &str = "apiVersion: projectcalico.org/v3\nkind: ";

#[test]
fn calicoctl_refuses_what_bgp_cannot_mean_and_names_object_and_field() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    let filter = |rule: &str| format!("{HEAD}BGPFilter\nmetadata: {{name: bad}}\nspec: {{importV4: [{rule}]}}\n");
    let configuration = |spec: &str| format!("{HEAD}BGPConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n");
    let peer = |spec: &str| format!("{HEAD}BGPPeer\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n");
    let of_node =
        format!("{HEAD}Node\nmetadata: {{name: bad}}\nspec: {{bgp: {{ipv4Address: 10.0.0.9/16, asNumber: 0}}}}\n");
    let cases = [
        (peer("peerIP: 10.0.0.1, asNumber: 1, node: a, nodeSelector: all()"), &["node and nodeSelector", "bad"][..]),
        (peer("peerIP: 10.0.0.1, asNumber: 0"), &["ASNumber"]),
        (peer("peerIP: 10.0.0.1, asNumber: 1, localASNumber: 0"), &["LocalASNumber"]),
        (peer("peerIP: 10.0.0.1, asNumber: 4294967296"), &["asNumber", "4294967296"]),
        (peer("peerIP: 10.0.0.1:99999, asNumber: 1"), &["PeerIP", "99999"]),
        (peer("peerSelector: 'has(', nodeSelector: all()"), &["PeerSelector", "has("]),
        (peer("peerIP: 10.0.0.1, asNumber: 1, password: {secretKeyRef: {key: a}}"), &["Secret"]),
        (peer("peerIP: 10.0.0.1, asNumber: 1, keepaliveTime: soon"), &["KeepaliveTime", "soon"]),
        (peer("peerIP: 10.0.0.1, asNumber: 1, passwort: x"), &["passwort"]),
        (configuration("asNumber: 0"), &["ASNumber"]),
        (configuration("listenPort: 0"), &["ListenPort"]),
        (configuration("nodeToNodeMeshEnabled: never"), &["nodeToNodeMeshEnabled"]),
        (of_node, &["ASNumber"]),
        (filter("{action: Accept, cidr: 10.0.0.0/8, matchOperator: Like}"), &["Like", "atchOperator"]),
        (filter("{action: Maybe}"), &["Maybe", "ction"]),
        (filter("{action: Accept, communities: {values: ['65000:65536']}}"), &["65000:65536", "Communities"]),
        (filter("{action: Accept, operations: [{addCommunity: {value: 'rack:7'}}]}"), &["rack:7"]),
        (
            configuration("prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: ['65000:x']}]"),
            &["65000:x", "Communities"],
        ),
    ];
    for (document, words) in cases {
        let error = node.apply(&document).err().with_context(|| format!("this was applied:\n{document}"))?;
        let error = format!("{error:#}");
        ensure!(words.iter().all(|word| error.contains(word)), "{words:?} was expected:\n{document}{error}");
    }
    for kind in ["bgppeer", "bgpfilter", "bgpconfiguration", "node"] {
        let stored: Value = serde_json::from_str(&node.calicoctl(&["get", kind, "-o", "json"])?)?;
        ensure!(stored["items"] == json!([]), "{stored}");
    }
    Ok(())
}

/// The store as a careless hand has it.
struct Hand(Connection);

impl Hand {
    fn new(net: &Net) -> Result<Self> {
        let connection = Connection::open(net.directory().join("ocicat.db"))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self(connection))
    }

    /// Writes over the value of this name; returns what stood there.
    fn write(&mut self, kind: &str, name: &str, change: impl FnOnce(&mut Value) -> Option<String>) -> Result<String> {
        let keys = integration::sqlite::keys(&self.0, kind)?;
        let key = keys.iter().find(|key| key.contains(name)).with_context(|| format!("{name} among {keys:?}"))?;
        let select = "SELECT value FROM log WHERE kind = ?1 AND key = ?2 AND current = 1";
        let old: String = self.0.query_row(select, [kind, key], |row| row.get(0))?;
        let mut value = serde_json::from_str(&old).unwrap_or_default();
        let new = change(&mut value).unwrap_or_else(|| value.to_string());
        integration::sqlite::spoil(&mut self.0, kind, key, &new)?;
        Ok(old)
    }
}

/// A filter that keeps block 3 out.
const LOCK: &str = "---\napiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: lock}\n\
                    spec: {importV4: [{action: Reject, cidr: 10.244.3.0/24, matchOperator: In}]}\n";

/// Their router: it has blocks 2 and 3.
fn their_router<'a, 'net>(place: &'a Place<'net>, subject: &Subject<'_>) -> Result<Peer<'a, 'net>> {
    let [four, _] = place.addresses;
    let spec = place.spec(THEIRS, &[subject]);
    let spec = [2, 3].into_iter().fold(spec, |spec, number| spec.network(Network::new(block(number, four))));
    Peer::start(&Bird, &place.node, spec)
}

/// A change of a stored value: what is written, in place of the change itself if it gives text.
type Spoil = fn(&mut Value) -> Option<String>;

#[test]
fn what_is_written_past_calicoctl_leaves_the_last_good_version_in_force() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let (subject, place) = (Subject::new(&net, "ours", 0x11)?, Place::new(&net, "theirs", 0x12)?);
    let [four, _] = place.addresses;
    let node = subject.node();
    subject.register("")?;
    let marked = NO_MESH.replace(
        "nodeToNodeMeshEnabled: false",
        "nodeToNodeMeshEnabled: false, prefixAdvertisements: [{cidr: 10.244.1.0/24, communities: ['65000:7']}]",
    );
    node.apply(&format!("{POOLS}{marked}{LOCK}{}", bgp_peer("tor", four, THEIRS, "filters: [lock]")))?;
    subject.claim(block(1, four))?;
    let peer = their_router(&place, &subject)?;
    subject.start()?;
    subject.established(four)?;
    // Everything that the resources say, in one look.
    let as_said = || -> Result<()> {
        peer.holds(block(1, four), "ours, marked", |path| path.communities.contains("65000:7"))?;
        subject.routes(block(2, four), four)?;
        subject.lacks(block(3, four))?;
        ensure!(subject.session(four)?["filters"] == json!(["lock"]), "the filter is not in force");
        Ok(())
    };
    as_said()?;
    let before = subject.session(four)?;

    let mut hand = Hand::new(&net)?;
    let mut good = Vec::new();
    let cases: [(&str, &str, Spoil); 7] = [
        ("BGPPeer", "tor", |value| {
            value["spec"]["node"] = "ours".into();
            value["spec"]["nodeSelector"] = "all()".into();
            None
        }),
        ("BGPPeer", "tor", |value| {
            value["spec"]["asNumber"] = 0.into();
            None
        }),
        ("BGPPeer", "tor", |_| Some("{\"this is\": \"no resource\"".to_owned())),
        ("BGPFilter", "lock", |value| {
            value["spec"]["importV4"][0]["matchOperator"] = "Like".into();
            None
        }),
        ("BGPFilter", "lock", |value| {
            value["spec"]["importV4"] = json!([{"action": "Accept", "communities": {"values": ["65000:65536"]}}]);
            None
        }),
        ("BGPConfiguration", "default", |value| {
            value["spec"]["asNumber"] = 0.into();
            value["spec"]["nodeToNodeMeshEnabled"] = true.into();
            None
        }),
        ("BGPConfiguration", "default", |value| {
            value["spec"]["prefixAdvertisements"][0]["communities"] = json!(["65000:65536"]);
            None
        }),
    ];
    for (kind, name, change) in cases {
        let old = hand.write(kind, name, change)?;
        // It is spoilt one after the other; the first was good.
        if good.iter().all(|(other, _, _)| *other != kind) {
            good.push((kind, name, old));
        } else {
            // From the good one, not from the bad one.
            let (_, _, old) = good.iter().find(|(other, _, _)| *other == kind).context("it was put there")?;
            hand.write(kind, name, |value| {
                *value = serde_json::from_str(old).unwrap_or_default();
                change(value)
            })?;
        }
        let warning = warned(node, &[kind, name, "last good version"]).with_context(|| format!("{kind} {name}"))?;
        let shown = node.calicoctl(&["bgp", "sessions"])?;
        ensure!(shown.contains(&format!("{kind} {name}")), "calicoctl is silent about \"{warning}\":\n{shown}");
        as_said().with_context(|| warning.clone())?;
        same_life(&before, &subject.session(four)?).context(warning)?;
    }
    // All three are bad now. What was good outlives the process.
    subject.kill()?;
    subject.start()?;
    subject.established(four)?;
    for kind in ["BGPPeer tor", "BGPFilter lock", "BGPConfiguration default"] {
        warned(node, &[kind, "last good version"])?;
    }
    as_said().context("after a kill and a start")?;
    let before = subject.session(four)?;
    for (kind, name, value) in good {
        hand.write(kind, name, |_| Some(value.clone()))?;
    }
    content(node)?;
    as_said()?;
    same_life(&before, &subject.session(four)?)
}

#[test]
fn a_filter_that_was_never_good_lets_nothing_through() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let (subject, place) = (Subject::new(&net, "ours", 0x11)?, Place::new(&net, "theirs", 0x12)?);
    let [four, _] = place.addresses;
    let node = subject.node();
    subject.register("")?;
    node.apply(&format!("{POOLS}{NO_MESH}{LOCK}{}", bgp_peer("tor", four, THEIRS, "filters: [lock]")))?;
    subject.claim(block(1, four))?;
    let mut hand = Hand::new(&net)?;
    let good = hand.write("BGPFilter", "lock", |value| {
        value["spec"]["importV4"][0]["matchOperator"] = "Like".into();
        None
    })?;
    let peer = their_router(&place, &subject)?;
    subject.start()?;
    subject.established(four)?;
    warned(node, &["BGPFilter lock", "accept and advertise nothing"])?;
    wait::becomes(PATIENCE, "both their routes have come, and none is believed", || {
        let prefixes = &subject.session(four)?["prefixes"];
        Ok(prefixes["received"] == 2 && prefixes["accepted"] == 0 && prefixes["advertised"] == 0)
    })
    .with_context(|| format!("{:#?}", subject.session(four)))?;
    ensure!(peer.paths(block(1, four))?.is_empty(), "our block went out");
    subject.lacks(block(2, four))?;

    // Corrected, everything goes as it should, and the session stays.
    let before = subject.session(four)?;
    hand.write("BGPFilter", "lock", |_| Some(good))?;
    content(node)?;
    subject.routes(block(2, four), four)?;
    subject.lacks(block(3, four))?;
    peer.holds(block(1, four), "ours", |_| true)?;
    same_life(&before, &subject.session(four)?)
}

/// A broken file: what it is, its content if there is one, and what is said of it.
type Broken<'a> = (&'a str, Option<Vec<u8>>, &'a [&'a str]);

#[test]
fn a_resources_file_that_stops_parsing_leaves_the_sessions_alone() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let (node, place) = (net.node("reflector")?, Place::new(&net, "theirs", 0x12)?);
    let [four, _] = place.addresses;
    let us: IpAddr = node.address().into();
    let mut spec = place.spec(THEIRS, &[]).network(Network::new(block(2, four)));
    spec = spec.neighbour(integration::peers::Neighbour::new(four, us, OUR_AS));
    let peer = Peer::start(&Bird, &place.node, spec)?;
    let good = format!(
        "{HEAD}BGPConfiguration\nmetadata:\n  name: default\nspec:\n  nodeToNodeMeshEnabled: false\n---\n\
         {HEAD}Node\nmetadata:\n  name: reflector\nspec:\n  bgp:\n    ipv4Address: {us}/16\n---\n\
         {HEAD}BGPPeer\nmetadata:\n  name: tor\nspec:\n  peerIP: {four}\n  asNumber: {THEIRS}\n"
    );
    let path = "/etc/calico/reflector.yaml";
    let file = node.holder().inside(path);
    fs::write(&file, &good)?;
    let mut speaker = Speaker::start(&node, &["--resources", path, "--kernel", "none"])?;
    speaker.peers_with(&[SocketAddr::new(four, 179)])?;
    let before = speaker.sessions()?;

    let tail = |text: &str| format!("{good}---\n{text}");
    let cut = good.find("  asNumber").context("asNumber is there")?;
    let cases: [Broken<'_>; 11] = [
        ("cut off", Some(good.as_bytes()[..cut].to_vec()), &["document 3", "line", "ASNumber"]),
        ("cut off in a bracket", Some(tail("spec: [1, {a: ").into()), &["document 4", "line"]),
        ("bad indentation", Some(good.replace("  asNumber", " asNumber").into()), &["document 3", "line 1"]),
        ("a tab", Some(good.replace("  asNumber", "\tasNumber").into()), &["line 1"]),
        (
            "the same twice",
            Some(tail(&good).into()),
            &["BGPConfiguration(default) is there twice", "document 1", "line 2"],
        ),
        ("no such kind", Some(good.replace("kind: BGPPeer", "kind: BGPPear").into()), &["BGPPear", "document 3"]),
        ("no such field", Some(good.replace("peerIP", "peerIp").into()), &["peerIp", "document 3"]),
        ("no AS", Some(good.replace("65001", "0").into()), &["BGPPeer(tor)", "ASNumber", "document 3"]),
        ("octets", Some((0..=255).cycle().take(5000).collect()), &[]),
        ("empty", Some(Vec::new()), &["no resources"]),
        ("deleted", None, &[]),
    ];
    for (what, octets, words) in cases {
        match octets {
            Some(octets) => fs::write(&file, octets)?,
            None => fs::remove_file(&file)?,
        }
        let mut last = Value::Null;
        wait::becomes(PATIENCE, &format!("the speaker says what is wrong: {what}"), || {
            last = speaker.ask("status")?["datastore_trouble"].clone();
            let trouble = last.as_str().unwrap_or_default();
            Ok(trouble.contains(path) && !trouble.contains('\n') && words.iter().all(|word| trouble.contains(word)))
        })
        .with_context(|| format!("{words:?} was expected: {last:#}"))?;
        warned(&node, &[path])?;
        let after = speaker.sessions()?;
        ensure!(after.len() == 1, "{what}: {after:#?}");
        same_life(&before[0], &after[0]).context(what)?;
        ensure!(peer.is_established(us)?, "{what}: they lost the session");
        let error = node.calicoctl(&["bgp", "sessions", "--resources", path]).err();
        let error = error.with_context(|| format!("{what}: calicoctl takes the file"))?;
        ensure!(words.iter().all(|word| format!("{error:#}").contains(word)), "{what}: {error:#}");
        // In between it is in order again.
        fs::write(&file, &good)?;
        wait::becomes(PATIENCE, "there is no trouble left", || {
            Ok(speaker.ask("status")?["datastore_trouble"].is_null())
        })?;
    }
    content(&node)?;
    // And what is changed then is done, as if nothing had been.
    fs::write(&file, tail(&bgp_peer("second", [10, 0, 0, 99].into(), 65099, "")))?;
    wait::becomes(PATIENCE, "a further peer is there", || Ok(speaker.sessions()?.len() == 2))?;
    let after = speaker.sessions()?;
    let first = after.iter().find(|one| one["name"] == before[0]["name"]).context("the first session is gone")?;
    same_life(&before[0], first)
}

/// Octets without a meaning, the same every time.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..count).map(next).collect()
}

/// Writes to somebody and reads until he hangs up, or we did; neither is an error here.
fn pester<S: std::io::Read + std::io::Write>(mut stream: S, octets: &[u8], hang_up: impl FnOnce(&S)) -> Vec<u8> {
    let _ = stream.write_all(octets);
    hang_up(&stream);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn octets_from_anywhere_cost_the_session_nothing() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let (subject, place) = (Subject::new(&net, "ours", 0x11)?, Place::new(&net, "theirs", 0x12)?);
    let [four, _] = place.addresses;
    let node = subject.node();
    subject.register("")?;
    node.apply(&format!("{POOLS}{NO_MESH}{}", bgp_peer("tor", four, THEIRS, "")))?;
    let peer = their_router(&place, &subject)?;
    subject.start()?;
    subject.established(four)?;
    subject.routes(block(3, four), four)?;
    let before = subject.session(four)?;

    // A whole BGP message whose insides are noise, and one that promises more than comes.
    let framed = |kind: u8, length: u16| {
        let mut octets = vec![0xff; 16];
        octets.extend(length.to_be_bytes());
        octets.push(kind);
        octets.extend(noise(usize::from(length).saturating_sub(19)));
        octets
    };
    let deluge = noise(1 << 20);
    let messages = [
        noise(3),
        noise(4096),
        deluge.clone(),
        framed(1, 29),
        framed(1, 300),
        framed(2, 19),
        framed(9, 4096),
        framed(4, 19),
        framed(1, 10),
        framed(5, 65535),
        vec![0xff; 19],
        b"GET / HTTP/1.1\r\nHost: ours\r\n\r\n".to_vec(),
    ];
    let network = place.node.holder().network()?;
    let segment = net.node("stranger")?.holder().network()?;
    for octets in &messages {
        // From the peer's own address, where a session is, and from one that nobody knows.
        for from in [&network, &segment] {
            let to = SocketAddr::new(subject.ipv4().into(), 179);
            let stream = namespace::inside(from, || TcpStream::connect_timeout(&to, PATIENCE))??;
            stream.set_read_timeout(Some(PATIENCE))?;
            pester(stream, octets, |stream| drop(stream.shutdown(Shutdown::Write)));
        }
        same_life(&before, &subject.session(four)?).with_context(|| format!("{} octets to port 179", octets.len()))?;
    }
    let lines: [&[u8]; 12] = [
        b"\n",
        b"{}\n",
        b"null\n",
        b"[[[[[[[[\n",
        b"{\"show\":7}\n",
        b"{\"show\":\"routes\",\"prefix\":\"0/0/0\"}\n",
        b"show\n",
        b"show protocols all \"***************************************************************a\"\n",
        b"show route for 999.1.1.1\n",
        b"configure\n",
        b"\xff\xfe\x00\n",
        &deluge,
    ];
    for socket in ["/run/ocicat/bgp.sock", "/run/calico/bird.ctl", "/run/calico/bird6.ctl"] {
        for line in lines {
            let stream = UnixStream::connect(node.holder().inside(socket))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // Who only writes is not read from for ever.
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            let answer = pester(stream, line, |stream| drop(stream.shutdown(Shutdown::Write)));
            // Nobody is left without an answer to a line, but for one that does not end.
            ensure!(
                line.len() > 4096 || !answer.is_empty(),
                "{socket} is silent about {:?}",
                String::from_utf8_lossy(line)
            );
        }
    }
    ensure!(node.run("birdc", &["-s", "/run/calico/bird.ctl", "show", "protocols"])?.contains("Established"), "birdc");

    let folder = node.holder().inside("/run/calico/endpoint-status");
    fs::create_dir_all(&folder)?;
    let files: [(&str, &[u8]); 7] = [
        ("a", b"{"),
        ("b", b"[]"),
        ("c", &deluge[..60_000]),
        ("d", &deluge),
        ("e", b"{\"ipv4Nets\":[\"10.0.0.0.0/99\"],\"bgpPeerName\":\"tor\"}"),
        ("f", b"{\"ipv4Nets\":[\"0.0.0.0/0\"],\"ipv6Nets\":[\"ff02::1/128\"],\"bgpPeerName\":\"workloads\"}"),
        ("g\u{fffd}\n", b"{\"ipv4Nets\":[\"10.244.1.7/32\"],\"ipv6Nets\":null,\"bgpPeerName\":7}"),
    ];
    for (name, octets) in files {
        fs::write(folder.join(name), octets)?;
    }
    fs::create_dir(folder.join("a folder"))?;
    // That they were looked at is seen by what the last ones do: one names no BGPPeer, the other is good.
    node.apply(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: workloads}\n\
         spec: {localWorkloadSelector: all(), asNumber: 65100}\n",
    )?;
    for (name, address, peer) in [("h", "10.244.1.8/32", "no-such-peer"), ("i", "10.244.1.9/32", "workloads")] {
        let status = json!({"ifaceName": "cali1", "ipv4Nets": [address], "bgpPeerName": peer});
        fs::write(folder.join(name), status.to_string())?;
    }
    let mut names = Value::Null;
    wait::becomes(PATIENCE, "the good file makes a session, and nothing else does", || {
        let answer = subject.ask("sessions")?;
        names = answer["sessions"].as_array().into_iter().flatten().map(|session| session["name"].clone()).collect();
        Ok(names == json!(["Global_10_0_0_12", "Local_Workload_10_244_1_9"]))
    })
    .with_context(|| format!("{names}\n{}", subject.words()))?;
    same_life(&before, &subject.session(four)?)?;
    ensure!(peer.is_established(subject.ipv4().into())?, "they lost the session");
    subject.routes(block(3, four), four)?;
    let memory =
        fs::read_to_string(format!("/proc/{}/status", node.daemon("bgp-speaker", |process| Ok(process.pid()))?))?;
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").trim().parse()?;
    ensure!(kilobytes < 200_000, "it grew to {peak}");
    Ok(())
}
