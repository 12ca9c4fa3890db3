//! Which routes a real peer sees, and which of its routes we use: the route vectors that need no second node of ours.
//!
//! ```text
//!  mesh (BIRD or FRR as a Calico node, block 3) ── ours (block 1) ── rack (the same daemon as the rack's router)
//! ```

use std::net::IpAddr;

use anyhow::{Result, ensure};
use integration::peers::{
    Bird, Daemon, Frr, LOCAL_PREF, Network, OUR_AS, POOLS, Path, Peer, Place, Subject, bgp_peer, block,
};
use integration::{Net, StoreKind};
use ipnet::IpNet;

/// The rack's AS number.
const RACK: u32 = 65001;

fn net(text: &str) -> IpNet {
    text.parse().expect("a network is written here")
}

/// The three of them, with all sessions up and every block where it belongs by default.
struct Stage<'a> {
    subject: &'a Subject<'a>,
    mesh: Peer<'a, 'a>,
    rack: Peer<'a, 'a>,
    /// IPv4 addresses: ours, the mesh's, the rack's.
    addresses: [IpAddr; 3],
    /// Blocks: ours, the rack's, the mesh's.
    blocks: [IpNet; 3],
}

impl Stage<'_> {
    /// `calicoctl apply`.
    fn apply(&self, documents: &str) -> Result<()> {
        self.subject.node().apply(documents).map(drop)
    }

    /// The BGPPeer towards the rack.
    fn rack_peer(&self, more: &str) -> String {
        bgp_peer("rack", self.addresses[2], RACK, more)
    }

    /// The rack has this prefix, by this next hop.
    fn rack_holds(&self, prefix: IpNet, next_hop: IpAddr, test: impl Fn(&Path) -> bool) -> Result<Path> {
        self.rack.holds(prefix, &format!("by {next_hop}"), |path| path.next_hop == next_hop && test(path))
    }

    /// No session was lost since the start.
    fn undisturbed(&self) -> Result<()> {
        for address in &self.addresses[1..] {
            let session = self.subject.session(*address)?;
            ensure!(session["flaps"] == 0 && session["fsm"] == "Established", "{session:#}");
        }
        Ok(())
    }
}

fn staged(daemon: &'static dyn Daemon, test: impl FnOnce(&mut Stage<'_>) -> Result<()>) -> Result<()> {
    let lab = Net::new(StoreKind::Sqlite)?;
    let subject = Subject::new(&lab, "ours", 0x11)?;
    let [mesh, rack] = [Place::new(&lab, "mesh", 0x12)?, Place::new(&lab, "rack", 0x13)?];
    let like = mesh.addresses[0];
    let blocks = [1, 2, 3].map(|number| block(number, like));
    subject.register("")?;
    let documents = format!("{POOLS}{}{}", mesh.resource(), bgp_peer("rack", rack.addresses[0], RACK, ""));
    subject.node().apply(&documents)?;
    subject.claim(blocks[0])?;
    let mut rack_spec = rack.spec(RACK, &[&subject]).network(Network::new(blocks[1]));
    rack_spec.neighbours.retain(|neighbour| neighbour.address.is_ipv4());
    let mesh_spec = mesh.spec(OUR_AS, &[&subject]).network(Network::new(blocks[2]));
    let mesh_peer = Peer::start(daemon, &mesh.node, mesh_spec)?;
    let rack_peer = Peer::start(daemon, &rack.node, rack_spec)?;
    subject.start()?;
    let addresses = [subject.ipv4().into(), mesh.addresses[0], rack.addresses[0]];
    let mut stage = Stage { subject: &subject, mesh: mesh_peer, rack: rack_peer, addresses, blocks };
    for (peer, address) in [(&stage.mesh, addresses[1]), (&stage.rack, addresses[2])] {
        peer.established(addresses[0])?;
        subject.established(address)?;
    }
    subject.routes(blocks[1], addresses[2])?;
    subject.routes(blocks[2], addresses[1])?;
    stage.rack_holds(blocks[0], addresses[0], |_| true)?;
    test(&mut stage)
}

/// R1, R4: a node tells its block and no pod in it; a pool that is not to be exported is used all the same.
fn blocks_and_pools(daemon: &'static dyn Daemon) -> Result<()> {
    staged(daemon, |stage| {
        let ([ours, mesh, rack], [block, of_rack, of_mesh]) = (stage.addresses, stage.blocks);
        let node = stage.subject.node();
        node.run("ip", &["link", "add", "cali0", "type", "veth", "peer", "name", "pod0"])?;
        node.run("ip", &["link", "set", "cali0", "up"])?;
        for pod in ["10.244.1.1", "10.244.1.2"] {
            node.run("ip", &["route", "add", pod, "dev", "cali0", "scope", "link", "metric", "1024", "proto", "80"])?;
        }
        // One address that is borrowed from another's block goes out alone; with it we know that the others would have.
        node.run(
            "ip",
            &["route", "add", "10.244.9.7", "dev", "cali0", "scope", "link", "metric", "1024", "proto", "80"],
        )?;
        let borrowed = net("10.244.9.7/32");
        for prefix in [block, borrowed] {
            stage.rack_holds(prefix, ours, |path| path.as_path == [OUR_AS])?;
            stage.mesh.holds(prefix, "as a node's", |path| {
                path.next_hop == ours && path.as_path.is_empty() && path.local_pref == Some(LOCAL_PREF)
            })?;
        }
        // Nothing else is told: no pod of the block, no subnet of the host.
        for peer in [&stage.mesh, &stage.rack] {
            peer.holds_exactly(false, &[block, borrowed, of_rack, of_mesh])?;
        }

        stage.apply(&POOLS.replace("cidr: 10.244.0.0/16,", "cidr: 10.244.0.0/16, disableBGPExport: true,"))?;
        for prefix in [block, borrowed] {
            stage.rack.lacks(prefix)?;
            stage.mesh.lacks(prefix)?;
        }
        stage.rack.lacks(of_mesh)?;
        ensure!(
            stage.subject.routes_now(of_rack, rack)? && stage.subject.routes_now(of_mesh, mesh)?,
            "learned routes stay"
        );
        stage.apply(POOLS)?;
        stage.rack_holds(block, ours, |_| true)?;
        stage.undisturbed()
    })
}

/// R6, R7: another node's block goes to the rack with ourselves as next hop, or with the node where that is to be kept.
fn next_hops(daemon: &'static dyn Daemon) -> Result<()> {
    staged(daemon, |stage| {
        let ([ours, mesh, _], [.., of_mesh]) = (stage.addresses, stage.blocks);
        stage.rack_holds(of_mesh, ours, |path| path.as_path == [OUR_AS])?;
        stage.apply(&stage.rack_peer("nextHopMode: Keep"))?;
        stage.rack_holds(of_mesh, mesh, |path| path.as_path == [OUR_AS])?;
        stage.rack_holds(stage.blocks[0], ours, |_| true)?;
        stage.apply(&stage.rack_peer("nextHopMode: Self"))?;
        stage.rack_holds(of_mesh, ours, |path| path.as_path == [OUR_AS])?;
        Ok(())
    })
}

/// R15, R16: what a filter accepts goes out wherever it is, and what it rejects does not come in; no session is reset.
fn filters(daemon: &'static dyn Daemon) -> Result<()> {
    staged(daemon, |stage| {
        let ([ours, _, rack], [block, of_rack, _]) = (stage.addresses, stage.blocks);
        let (host, default) = (net("192.0.2.0/24"), net("0.0.0.0/0"));
        stage.subject.node().run("ip", &["route", "add", "192.0.2.0/24", "via", "10.0.0.1", "dev", "eth0"])?;
        stage.rack.announce(Network::new(default))?;
        stage.subject.routes(default, rack)?;
        ensure!(stage.rack.paths(host)?.is_empty(), "{host} is exported without a filter");

        stage.apply(&format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{name: rack}}\nspec:\n  \
             exportV4: [{{action: Accept, matchOperator: In, cidr: 192.0.2.0/24}}]\n  \
             importV4: [{{action: Reject, matchOperator: Equal, cidr: 0.0.0.0/0}}]\n{}",
            stage.rack_peer("filters: [rack]")
        ))?;
        stage.rack_holds(host, ours, |path| path.as_path == [OUR_AS])?;
        stage.subject.lacks(default)?;
        ensure!(stage.subject.routes_now(of_rack, rack)?, "what the filter does not name stays");
        stage.rack_holds(block, ours, |_| true)?;

        stage.apply(&stage.rack_peer(""))?;
        stage.rack.lacks(host)?;
        stage.subject.routes(default, rack)?;
        stage.undisturbed()
    })
}

/// R17: communities by prefix, on everything that is exported.
fn communities(daemon: &'static dyn Daemon) -> Result<()> {
    staged(daemon, |stage| {
        let ([ours, ..], [block, _, of_mesh]) = (stage.addresses, stage.blocks);
        let configuration = |spec: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
            )
        };
        stage.apply(&configuration(
            "communities: [{name: pods, value: '65000:100'}], \
             prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: [pods, '65000:1:2']}]",
        ))?;
        let both = ["65000:100", "65000:1:2"].map(str::to_owned).into();
        for prefix in [block, of_mesh] {
            stage.rack_holds(prefix, ours, |path| path.communities == both)?;
        }
        stage.mesh.holds(block, "with both communities", |path| path.communities == both)?;
        stage.apply(&configuration(""))?;
        stage.rack_holds(block, ours, |path| path.communities.is_empty())?;
        stage.undisturbed()
    })
}

macro_rules! vectors {
    ($($module:ident $daemon:ident),*) => {$(
        mod $module {
            vectors!(@tests $daemon: blocks_and_pools next_hops filters communities);
        }
    )*};
    (@tests $daemon:ident: $($vector:ident)*) => {$(
        #[test]
        fn $vector() -> anyhow::Result<()> {
            super::$vector(&super::$daemon)
        }
    )*};
}

vectors!(bird Bird, frr Frr);
