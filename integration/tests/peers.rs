//! Our speaker and each of Debian's BIRD, FRR, GoBGP and OpenBGPD, in every role, over IPv4 and IPv6.
//!
//! | test | sessions | dialling | special |
//! |---|---|---|---|
//! | `external` | eBGP, v4 and v6 | both | refresh, withdrawal, our kill -9 |
//! | `mesh` | iBGP, v4 and v6 | v4: they, v6: we | their node has a Node resource alone |
//! | `their_client` | iBGP, v4 and v6, of two of our nodes | both | they reflect |
//! | `our_client` | iBGP, v4 and v6, of two of their daemons | both | we reflect |
//! | `password` | eBGP, v4 and v6 | both | v4: a wrong one first, corrected, and taken away |
//! | `gtsm` | eBGP, v4 and v6 | both | v4: one side without it first |

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use integration::peers::{
    Daemon, LOCAL_PREF, NO_MESH, Network, OUR_AS, POOLS, Path, Peer, PeerSpec, Place, Subject, bgp_peer, block,
    tcp_counter,
};
use integration::{Net, PATIENCE, StoreKind, wait};
use ipnet::IpNet;
use serde_json::Value;

/// Theirs on external sessions.
const THEIRS: u32 = 65001;
/// A password where the speaker looks for it.
fn secret(name: &str, password: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: kube-system}}\n\
         stringData: {{key: {password}}}\n"
    )
}

/// How BGPPeers point to it.
fn reference(name: &str) -> String {
    format!("password: {{secretKeyRef: {{name: {name}, key: key}}}}")
}

fn prefer(path: &Path, internal: bool) -> bool {
    match internal {
        true => path.local_pref == Some(LOCAL_PREF),
        // What it is shown as where it is not sent.
        false => matches!(path.local_pref, None | Some(100)),
    }
}

/// Waits until the session is Established on both sides.
fn up(subject: &Subject<'_>, peer: &Peer<'_, '_>, address: IpAddr) -> Result<()> {
    peer.established(subject.address_like(address)).with_context(|| subject.words())?;
    subject.established(address).with_context(|| peer.words())
}

/// Our block is with them as it should be.
fn has_ours(subject: &Subject<'_>, peer: &Peer<'_, '_>, ours: IpNet) -> Result<()> {
    let own = subject.address_like(ours.addr());
    let internal = peer.spec().asn == OUR_AS;
    let as_path: &[u32] = if internal { &[] } else { &[OUR_AS] };
    peer.holds(ours, &format!("by {own}, AS path {as_path:?}"), |path| {
        path.next_hop == own && path.as_path == as_path && prefer(path, internal)
    })
    .with_context(|| subject.words())?;
    Ok(())
}

/// Routes both ways, and back: announced, withdrawn, announced again.
fn exchange(subject: &Subject<'_>, peer: &mut Peer<'_, '_>, address: IpAddr, ours: IpNet, theirs: IpNet) -> Result<()> {
    has_ours(subject, peer, ours)?;
    subject.routes(theirs, address)?;
    let as_path = if peer.spec().asn == OUR_AS { String::new() } else { peer.spec().asn.to_string() };
    let paths = subject.paths(theirs)?;
    ensure!(paths.iter().all(|path| path["as_path"] == as_path.as_str()), "{paths:#?}");

    let network = peer.withdraw(theirs)?;
    subject.lacks(theirs)?;
    peer.announce(network)?;
    subject.routes(theirs, address)?;

    subject.release(ours)?;
    peer.lacks(ours)?;
    subject.claim(ours)?;
    has_ours(subject, peer, ours)?;
    peer.refreshed(subject.address_like(address))
}

/// What comes with a next hop that nobody routes is known, and kept from the kernel.
fn unresolvable(subject: &Subject<'_>, peer: &mut Peer<'_, '_>, prefix: IpNet, next_hop: &str) -> Result<()> {
    let next_hop = next_hop.parse()?;
    peer.announce(Network { next_hop: Some(next_hop), ..Network::new(prefix) })?;
    let text = next_hop.to_string();
    subject.holds(prefix, &format!("by {text}, held back"), |path| {
        path["next_hop"] == text.as_str() && path["via"] == Value::Null && path["installed"] == false
    })?;
    ensure!(subject.kernel_routes(prefix)?.is_empty(), "{prefix} is held back, and in the kernel");
    Ok(())
}

/// Whether nothing is left to be recovered from before the speaker's start.
fn has_recovered(subject: &Subject<'_>) -> Result<bool> {
    Ok(subject.ask("status")?["status"]["recovery"].is_null())
}

/// Waits until that is so: before, what is withdrawn may stay in the kernel.
fn recovered(subject: &Subject<'_>) -> Result<()> {
    wait::becomes(PATIENCE, "we have recovered", || has_recovered(subject)).with_context(|| subject.words())
}

/// Our speaker is killed and started again; nobody loses a route of ours meanwhile.
fn restarted(
    subject: &Subject<'_>,
    peers: &[&Peer<'_, '_>],
    blocks: &[IpNet],
    theirs: &[(IpNet, IpAddr)],
) -> Result<()> {
    let kept = || -> Result<()> {
        for peer in peers {
            for block in blocks {
                ensure!(!peer.paths(*block)?.is_empty(), "{peer} lost {block}; {}", peer.words());
            }
        }
        for (prefix, via) in theirs {
            ensure!(subject.routes_now(*prefix, *via)?, "our kernel lost {prefix}");
        }
        Ok(())
    };
    let each = |up: bool| -> Result<bool> {
        for peer in peers {
            for neighbour in &peer.spec().neighbours {
                let ours = neighbour.address == subject.address_like(neighbour.address);
                if ours && peer.is_established(neighbour.address)? != up {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    let while_kept = |what: &str, condition: &dyn Fn() -> Result<bool>| {
        wait::until(PATIENCE, what, || match kept() {
            Ok(()) => Ok(condition()?.then_some(Ok(()))),
            // Lost for a moment is lost.
            lost => Ok(Some(lost)),
        })?
    };
    subject.kill()?;
    while_kept("they notice", &|| each(false))?;
    subject.start()?;
    while_kept("their sessions are back", &|| each(true))
        .with_context(|| peers.iter().fold(subject.words(), |words, peer| words + "\n" + &peer.words()))?;
    while_kept("we have recovered", &|| has_recovered(subject))?;
    for peer in peers {
        for block in blocks {
            has_ours(subject, peer, *block)?;
        }
    }
    kept()
}

fn external(daemon: &'static dyn Daemon) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    let subject = Subject::new(&lab, "ours", 0x11)?;
    let place = Place::new(&lab, "theirs", 0x12)?;
    subject.register("")?;
    let [four, six] = place.addresses;
    let peers = bgp_peer("four", four, THEIRS, "") + &bgp_peer("six", six, THEIRS, "");
    subject.node().apply(&format!("{POOLS}{NO_MESH}{peers}"))?;
    let mut spec = place.spec(THEIRS, &[&subject]);
    for address in place.addresses {
        subject.claim(block(1, address))?;
        spec = spec.network(Network::new(block(2, address)));
    }
    let mut peer = Peer::start(daemon, &place.node, spec)?;
    subject.start()?;
    for address in place.addresses {
        up(&subject, &peer, address)?;
    }
    for address in place.addresses {
        exchange(&subject, &mut peer, address, block(1, address), block(2, address))
            .with_context(|| format!("with {address}"))?;
    }
    let blocks = place.addresses.map(|address| block(1, address));
    restarted(&subject, &[&peer], &blocks, &place.addresses.map(|address| (block(2, address), address)))
}

fn mesh(daemon: &'static dyn Daemon) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    // As text, their IPv4 address is the greater: they dial. Their IPv6 address is the lesser: we dial.
    let subject = Subject::new(&lab, "ours", 0x21)?;
    let place = Place::new(&lab, "theirs", 0x12)?;
    let [four, six] = place.addresses;
    subject.register("")?;
    subject.node().apply(&format!("{POOLS}{}", place.resource()))?;
    let mut spec = place.spec(OUR_AS, &[&subject]);
    for neighbour in &mut spec.neighbours {
        neighbour.dials = neighbour.address.is_ipv4();
    }
    for address in place.addresses {
        subject.claim(block(1, address))?;
        spec = spec.network(Network::new(block(2, address)));
    }
    let mut peer = Peer::start(daemon, &place.node, spec)?;
    subject.start()?;
    for address in place.addresses {
        up(&subject, &peer, address)?;
        let session = subject.session(address)?;
        ensure!(session["passive"] == (address == four) && session["type"] == "node-to-node mesh", "{session:#}");
    }
    for address in place.addresses {
        exchange(&subject, &mut peer, address, block(1, address), block(2, address))
            .with_context(|| format!("with {address}"))?;
    }
    unresolvable(&subject, &mut peer, block(3, four), "203.0.113.9")?;
    unresolvable(&subject, &mut peer, block(3, six), "2001:db8::9")?;
    if daemon.name() == "FRR" {
        // As long as FRR keeps routes for a neighbour that restarts it waits to be dialled, and here we may not dial.
        return Ok(());
    }
    let blocks = place.addresses.map(|address| block(1, address));
    restarted(&subject, &[&peer], &blocks, &place.addresses.map(|address| (block(2, address), address)))
}

fn their_client(daemon: &'static dyn Daemon) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    let subjects = [Subject::new(&lab, "first", 0x11)?, Subject::new(&lab, "second", 0x12)?];
    let place = Place::new(&lab, "theirs", 0x13)?;
    let [four, six] = place.addresses;
    let peers = bgp_peer("four", four, OUR_AS, "") + &bgp_peer("six", six, OUR_AS, "");
    subjects[0].node().apply(&format!("{POOLS}{NO_MESH}{peers}"))?;
    let mut spec = place.spec(OUR_AS, &[&subjects[0], &subjects[1]]);
    spec.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 9));
    spec.neighbours.iter_mut().for_each(|neighbour| neighbour.client = true);
    let mut peer = Peer::start(daemon, &place.node, spec)?;
    for (number, subject) in (1..).zip(&subjects) {
        subject.register("")?;
        for address in place.addresses {
            subject.claim(block(number, address))?;
        }
        subject.start()?;
    }
    for subject in &subjects {
        for address in place.addresses {
            up(subject, &peer, address)?;
        }
    }
    let [first, second] = &subjects;
    for address in place.addresses {
        for (number, from, to) in [(1, first, second), (2, second, first)] {
            let prefix = block(number, address);
            has_ours(from, &peer, prefix)?;
            to.routes(prefix, from.address_like(address))?;
            let path = to.holds(prefix, "reflected", |path| path["originator"].is_string())?;
            ensure!(path["originator"] == from.ipv4().to_string().as_str(), "{path:#}");
            ensure!(path["local_pref"] == LOCAL_PREF, "{path:#}");
        }
        // A network of its own, after us.
        peer.announce(Network::new(block(3, address)))?;
        for subject in &subjects {
            subject.routes(block(3, address), address)?;
        }
        first.release(block(1, address))?;
        second.lacks(block(1, address))?;
        first.claim(block(1, address))?;
        second.routes(block(1, address), first.address_like(address))?;
    }
    let blocks = place.addresses.map(|address| block(1, address));
    restarted(first, &[&peer], &blocks, &place.addresses.map(|address| (block(3, address), address)))?;
    for address in place.addresses {
        ensure!(
            second.routes_now(block(1, address), first.address_like(address))?,
            "the second lost the first's block"
        );
    }
    Ok(())
}

fn our_client(daemon: &'static dyn Daemon) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    let subject = Subject::new(&lab, "ours", 0x11)?;
    let places = [Place::new(&lab, "first", 0x12)?, Place::new(&lab, "second", 0x13)?];
    subject.register("routeReflectorClusterID: 244.0.0.1")?;
    let mut documents = POOLS.to_owned();
    for (number, place) in places.iter().enumerate() {
        for address in place.addresses {
            let family = if address.is_ipv4() { "four" } else { "six" };
            documents += &bgp_peer(&format!("{family}{number}"), address, OUR_AS, "");
        }
    }
    subject.node().apply(&documents)?;
    for address in places[0].addresses {
        subject.claim(block(1, address))?;
    }
    let start = |place: &'_ Place<'_>, number: u8| -> PeerSpec {
        let networks = place.addresses.map(|address| Network::new(block(number, address)));
        networks.into_iter().fold(place.spec(OUR_AS, &[&subject]), PeerSpec::network)
    };
    let mut first = Peer::start(daemon, &places[0].node, start(&places[0], 2))?;
    let second = Peer::start(daemon, &places[1].node, start(&places[1], 3))?;
    subject.start()?;
    for (place, peer) in [(&places[0], &first), (&places[1], &second)] {
        for address in place.addresses {
            up(&subject, peer, address)?;
            ensure!(subject.session(address)?["client"] == true, "{address} is no client of ours");
        }
    }
    let reflected = |prefix: IpNet, from: &Place<'_>, to: &Peer<'_, '_>| -> Result<()> {
        let [four, six] = from.addresses;
        let next_hop = if prefix.addr().is_ipv4() { four } else { six };
        to.holds(prefix, &format!("by {next_hop}, reflected by us"), |path| {
            path.next_hop == next_hop
                && path.originator == Some(from.router_id())
                && path.clusters == [Ipv4Addr::new(244, 0, 0, 1)]
                && path.as_path.is_empty()
        })
        .with_context(|| subject.words())
        .map(drop)
    };
    for (at, address) in places[0].addresses.into_iter().enumerate() {
        has_ours(&subject, &first, block(1, address))?;
        has_ours(&subject, &second, block(1, address))?;
        reflected(block(2, address), &places[0], &second)?;
        reflected(block(3, address), &places[1], &first)?;
        subject.routes(block(2, address), address)?;
        subject.routes(block(3, address), places[1].addresses[at])?;
        let network = first.withdraw(block(2, address))?;
        second.lacks(block(2, address))?;
        subject.lacks(block(2, address))?;
        first.announce(network)?;
        reflected(block(2, address), &places[0], &second)?;
        second.refreshed(subject.address_like(address))?;
    }
    let blocks = places[0].addresses.map(|address| block(1, address));
    let theirs = places[0].addresses.map(|address| (block(2, address), address));
    for address in places[0].addresses {
        subject.routes(block(2, address), address)?;
    }
    restarted(&subject, &[&first, &second], &blocks, &theirs)?;
    for address in places[0].addresses {
        reflected(block(2, address), &places[0], &second)?;
        reflected(block(3, address), &places[1], &first)?;
    }
    Ok(())
}

/// The session with an address is down although both sides try: a kernel has refused packets, and by `counters` says so.
fn stays_down(subject: &Subject<'_>, peer: &Peer<'_, '_>, address: IpAddr, counters: &[&str]) -> Result<()> {
    let nodes = [subject.node(), peer.node()];
    wait::becomes(PATIENCE, &format!("a kernel refuses packets between us and {address}: {counters:?}"), || {
        let mut refused = 0;
        for counter in counters {
            for node in nodes {
                refused += tcp_counter(node, counter)?;
            }
        }
        Ok(refused >= 3)
    })
    .with_context(|| format!("{}\n{}", subject.words(), peer.words()))?;
    ensure!(!subject.is_established(address)?, "we are Established with {address}");
    // Its session may be, if its OPEN arrived between the acceptance and the check of what comes after.
    ensure!(peer.paths(block(1, address))?.is_empty(), "{peer} has our block over {address}");
    ensure!(subject.kernel_routes(block(2, address))?.is_empty(), "we have the block of {address}");
    Ok(())
}

fn password(daemon: &'static dyn Daemon) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    let subject = Subject::new(&lab, "ours", 0x11)?;
    let place = Place::new(&lab, "theirs", 0x12)?;
    let [four, six] = place.addresses;
    subject.register("")?;
    let documents = bgp_peer("four", four, THEIRS, &reference("for-four"))
        + &bgp_peer("six", six, THEIRS, &reference("for-six"))
        + &secret("for-four", "not-what-they-have")
        + &secret("for-six", "of-both-sides");
    subject.node().apply(&format!("{POOLS}{NO_MESH}{documents}"))?;
    let mut spec = place.spec(THEIRS, &[&subject]);
    spec.neighbours.iter_mut().for_each(|neighbour| neighbour.password = Some("of-both-sides".to_owned()));
    for address in place.addresses {
        subject.claim(block(1, address))?;
        spec = spec.network(Network::new(block(2, address)));
    }
    let mut peer = Peer::start(daemon, &place.node, spec)?;
    subject.start()?;
    up(&subject, &peer, six)?;
    has_ours(&subject, &peer, block(1, six))?;
    subject.routes(block(2, six), six)?;

    stays_down(&subject, &peer, four, &["TCPMD5Failure"])?;
    wait::becomes(PATIENCE, "our status says why", || {
        let session = subject.session(four)?;
        let words = format!("{} {}", session["last_error"], session["remedy"]).to_lowercase();
        ensure!(words.contains("password"), "{session:#}");
        Ok(true)
    })?;
    subject.node().apply(&secret("for-four", "of-both-sides"))?;
    up(&subject, &peer, four)?;
    recovered(&subject)?;
    for address in place.addresses {
        exchange(&subject, &mut peer, address, block(1, address), block(2, address))?;
    }
    let blocks = place.addresses.map(|address| block(1, address));
    restarted(&subject, &[&peer], &blocks, &place.addresses.map(|address| (block(2, address), address)))?;

    // Without the Secret the session ends; it never goes on without a password.
    subject.node().apply(&secret("for-four", "''"))?;
    wait::becomes(PATIENCE, "the session without a password is down", || Ok(!subject.is_established(four)?))?;
    ensure!(subject.is_established(six)?, "the other session has nothing to do with it");
    Ok(())
}

fn gtsm(daemon: &'static dyn Daemon) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    let subject = Subject::new(&lab, "ours", 0x11)?;
    let place = Place::new(&lab, "theirs", 0x12)?;
    let [four, six] = place.addresses;
    subject.register("")?;
    let peers = bgp_peer("four", four, THEIRS, "ttlSecurity: 1") + &bgp_peer("six", six, THEIRS, "ttlSecurity: 1");
    subject.node().apply(&format!("{POOLS}{NO_MESH}{peers}"))?;
    let mut spec = place.spec(THEIRS, &[&subject]);
    for address in place.addresses {
        subject.claim(block(1, address))?;
        spec = spec.network(Network::new(block(2, address)));
    }
    spec.neighbours.iter_mut().for_each(|neighbour| neighbour.gtsm = Some(1));
    let mut without = spec.clone();
    // OpenBGPD's packets to whoever dials it have the highest TTL, asked for or not: there is nothing to refuse.
    if daemon.name() != "OpenBGPD" {
        without
            .neighbours
            .iter_mut()
            .for_each(|neighbour| neighbour.gtsm = neighbour.gtsm.filter(|_| neighbour.address.is_ipv6()));
    }
    let mut peer = Peer::start(daemon, &place.node, without)?;
    subject.start()?;
    up(&subject, &peer, six)?;
    has_ours(&subject, &peer, block(1, six))?;
    subject.routes(block(2, six), six)?;
    if daemon.name() != "OpenBGPD" {
        stays_down(&subject, &peer, four, &["TCPMinTTLDrop"])?;
        peer.restart(spec)?;
    }
    for address in place.addresses {
        up(&subject, &peer, address)?;
    }
    recovered(&subject)?;
    for address in place.addresses {
        ensure!(subject.session(address)?["ttl_security"] == 1, "{:#}", subject.session(address)?);
        exchange(&subject, &mut peer, address, block(1, address), block(2, address))?;
    }
    Ok(())
}

macro_rules! matrix {
    ($($module:ident $daemon:ident),*) => {$(
        mod $module {
            use integration::peers::$daemon;

            matrix!(@tests $daemon: external mesh their_client our_client password gtsm);
        }
    )*};
    (@tests $daemon:ident: $($role:ident)*) => {$(
        #[test]
        fn $role() -> anyhow::Result<()> {
            super::$role(&$daemon)
        }
    )*};
}

matrix!(bird Bird, frr Frr, gobgp GoBgp, openbgpd OpenBgpd);
