//! Several speakers' RIBs in one process, and what each tells the others.

mod exchange;
mod export;
mod order;
mod output;
mod recovery;
mod reflection;
mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::{Advertisement, AsPath, Asn, ClusterId, Community, Context, ExtendedCommunity, Message, RouterId, message};

pub(super) const V4: Family = Family::Ipv4Unicast;

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(super) fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

pub(super) fn router_id(last: u8) -> RouterId {
    address(last).try_into().unwrap()
}

pub(super) fn context(internal: bool) -> Context {
    Context { four_octet_as: true, internal, families: Families::ALL, ..Context::default() }
}

/// A peer 192.0.2.`last` of 192.0.2.1, in AS 64512 as we are, or another.
pub(super) fn peer(last: u8, asn: u32) -> PeerConfig {
    PeerConfig {
        address: address(last).into(),
        router_id: router_id(last),
        peer_as: Asn(asn),
        local_as: Asn(64512),
        context: context(asn == 64512),
        client: false,
        cluster_id: None,
        next_hop: NextHopMode::Auto,
        next_hop_v4: Some(address(1)),
        next_hop_v6: None,
        restarting: false,
        sends_end_of_rib: true,
        allowed_local_as: 0,
        long_lived_aware: true,
        paths_limit: PeerConfig::PATHS_LIMIT,
        import: None,
        export: None,
    }
}

pub(super) fn client(last: u8) -> PeerConfig {
    PeerConfig { client: true, cluster_id: Some(ClusterId(Ipv4Addr::new(244, 0, 0, 1))), ..peer(last, 64512) }
}

/// A RIB at 192.0.2.1 that needs no next hops resolved.
fn rib() -> Rib {
    Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(router_id(1)) })
}

pub(super) fn advertise(prefixes: &[&str], change: impl FnOnce(&mut Attributes)) -> Update {
    let mut attributes = Attributes::new(address(99).into());
    change(&mut attributes);
    let nlri = prefixes.iter().map(|text| prefix(text).into()).collect();
    Update { withdrawn: vec![], advertised: vec![Advertisement { attributes: Arc::new(attributes), nlri }] }
}

pub(super) fn withdraw(prefixes: &[&str]) -> Update {
    Update { withdrawn: prefixes.iter().map(|text| prefix(text).into()).collect(), advertised: vec![] }
}

fn via(last: u8) -> impl FnOnce(&mut Attributes) {
    move |attributes| attributes.next_hop = address(last).into()
}

/// What the other end of a session holds, from the octets that it was sent.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub(super) paths: BTreeMap<Nlri, Attributes>,
    log: Vec<String>,
}

impl Mirror {
    pub(super) fn take(&mut self, mut octets: &[u8], cx: &Context) {
        let cx = Context { add_path_receive: cx.add_path_send, ..*cx };
        while !octets.is_empty() {
            let length = message::frame(octets, cx.maximum()).unwrap().unwrap();
            let (message, faults) = Message::decode(&octets[..length], &cx).unwrap();
            assert_eq!(faults, []);
            match message {
                Message::Update(update) => {
                    for nlri in update.withdrawn {
                        self.log.push(format!("-{nlri}"));
                        self.paths.remove(&nlri);
                    }
                    for entry in update.advertised {
                        for nlri in entry.nlri {
                            self.log.push(format!("+{nlri}"));
                            self.paths.insert(nlri, (*entry.attributes).clone());
                        }
                    }
                }
                Message::EndOfRib(family) => self.log.push(format!("end {family}")),
                Message::RouteRefresh(refresh) => self.log.push(format!("{:?}", refresh.kind)),
                other => panic!("{other:?}"),
            }
            octets = &octets[length..];
        }
    }

    fn prefixes(&self) -> Vec<String> {
        self.paths.keys().map(ToString::to_string).collect()
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

/// Everything that there is to say to a peer.
pub(super) fn drain(rib: &mut Rib, id: u32, mirror: &mut Mirror) {
    let cx = rib.books.peer(PeerId(id)).map(|peer| peer.config.context).unwrap_or_default();
    while let Some(octets) = rib.poll_output(PeerId(id), 16_384) {
        mirror.take(&octets, &cx);
    }
}

fn told(rib: &mut Rib, id: u32) -> Mirror {
    let mut mirror = Mirror::default();
    drain(rib, id, &mut mirror);
    mirror
}

fn best(rib: &Rib, text: &str) -> Option<(Source, Vec<String>)> {
    let best = rib.best(prefix(text))?;
    Some((best.source, best.next_hops.iter().map(ToString::to_string).collect()))
}
