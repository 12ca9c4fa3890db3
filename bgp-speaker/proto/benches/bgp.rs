//! How fast the codec and the RIB are; see `README.md` for what each figure means.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bgp_proto::*;
use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PREFIXES: u32 = 100_000;
const PEERS: u32 = 100;

fn context() -> Context {
    Context { four_octet_as: true, internal: true, families: Families::ALL, ..Context::default() }
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc0a8_0000 + n).into()
}

fn id(n: u32) -> RouterId {
    Ipv4Addr::from(0xc0a8_0000 + n).try_into().expect("it is not zero")
}

fn block(n: u32) -> Nlri {
    Prefix::new(Ipv4Addr::from(0x0a00_0000 + n * 64).into(), 26).expect("26 is within 32").into()
}

fn update(peer: u32, blocks: impl Iterator<Item = u32>) -> Update {
    let mut attributes = Attributes::new(address(peer));
    attributes.local_pref = Some(2_147_482_623);
    let nlri = blocks.map(block).collect();
    Update { withdrawn: vec![], advertised: vec![Advertisement { attributes: Arc::new(attributes), nlri }] }
}

/// A peer in our AS, a client of ours.
fn client(n: u32) -> PeerConfig {
    PeerConfig {
        address: address(n),
        router_id: id(n),
        peer_as: Asn(64512),
        local_as: Asn(64512),
        context: context(),
        client: true,
        cluster_id: Some(ClusterId(Ipv4Addr::new(244, 0, 0, 1))),
        next_hop: NextHopMode::Auto,
        next_hop_v4: Some(Ipv4Addr::new(192, 168, 255, 254)),
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

fn rib(peers: u32) -> Rib {
    let mut rib = Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(id(0xfffe)) });
    (1..=peers).for_each(|n| rib.peer_up(PeerId(n), client(n)));
    rib
}

/// The updates in which 100 peers tell of all prefixes, ten in each; `shift` says which peer tells of which.
fn updates(shift: u32) -> Vec<(PeerId, Update)> {
    let tells = |at: u32| (at / 10 + shift) % PEERS + 1;
    (0..PREFIXES).step_by(10).map(|at| (PeerId(tells(at)), update(tells(at), at..at + 10))).collect()
}

fn learn(rib: &mut Rib, updates: &[(PeerId, Update)]) {
    updates.iter().for_each(|(peer, update)| rib.update(*peer, update));
}

fn codec(c: &mut Criterion) {
    let cx = context();
    let update = update(1, 0..800);
    let mut octets = BytesMut::new();
    update.encode(&cx, &mut octets).expect("it fits");
    assert_eq!(frame(&octets, cx.maximum()), Ok(Some(octets.len())), "one message");
    let mut group = c.benchmark_group("update");
    group.throughput(Throughput::Elements(800));
    group.bench_function("decode", |b| b.iter(|| Message::decode(black_box(&octets), &cx)));
    group.bench_function("encode", |b| {
        let mut out = BytesMut::with_capacity(8192);
        b.iter(|| {
            out.clear();
            black_box(&update).encode(&cx, &mut out)
        });
    });
}

fn tables(c: &mut Criterion) {
    let (first, second) = (updates(0), updates(1));
    let mut group = c.benchmark_group("rib");
    group.sample_size(10);
    group.throughput(Throughput::Elements(PREFIXES.into()));
    group.bench_function("learn", |b| {
        b.iter_batched(|| rib(PEERS), |mut rib| (learn(&mut rib, &first), rib), BatchSize::PerIteration);
    });
    let learned = || {
        let mut rib = rib(PEERS);
        learn(&mut rib, &first);
        rib
    };
    group.bench_function("two_paths", |b| {
        b.iter_batched(learned, |mut rib| (learn(&mut rib, &second), rib), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(10_000 * u64::from(PEERS - 1)));
    let whole = update(1, 0..10_000);
    group.bench_function("reflect", |b| {
        let quiet = || {
            let mut rib = rib(PEERS);
            (1..=PEERS).for_each(|n| while rib.poll_output(PeerId(n), 65_536).is_some() {});
            rib
        };
        let reflect = |mut rib: Rib| {
            rib.update(PeerId(1), &whole);
            let mut octets = 0;
            for n in 2..=PEERS {
                while let Some(chunk) = rib.poll_output(PeerId(n), 65_536) {
                    octets += chunk.len();
                }
            }
            assert!(octets > 10_000 * 5 * 99);
            rib
        };
        b.iter_batched(quiet, reflect, BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements((PREFIXES / PEERS).into()));
    group.bench_function("peer_down", |b| {
        let down = |mut rib: Rib| {
            rib.peer_down(PeerId(7), Families::NONE);
            rib
        };
        b.iter_batched(learned, down, BatchSize::PerIteration);
    });
}

/// 10,000 prefixes told to 100 peers in one group, whose policy is exchanged for another.
fn policies(c: &mut Criterion) {
    const TOLD: u32 = 10_000;
    let without = |excluded: Prefix| {
        Policy::new(move |candidate| match excluded.contains(&candidate.prefix) {
            true => Verdict::Reject,
            false => Verdict::Accept,
        })
    };
    let area = |n: u32| Prefix::new(Ipv4Addr::from(0x0a00_0000 + n * 0x400).into(), 22).expect("22 is within 32");
    let (old, new) = (without(area(1)), without(area(2)));
    let settled = || {
        let mut rib = Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(id(0xfffe)) });
        rib.peer_up(PeerId(0), client(0xfff0));
        for n in 1..=PEERS {
            rib.peer_up(PeerId(n), PeerConfig { export: Some(old.clone()), ..client(n) });
        }
        rib.update(PeerId(0), &update(0xfff0, 0..TOLD));
        (1..=PEERS).for_each(|n| while rib.poll_output(PeerId(n), 65_536).is_some() {});
        rib
    };
    let mut group = c.benchmark_group("rib/exchange_policies");
    group.sample_size(10);
    let both = [area(1), area(2)];
    for (name, within) in [("within", Some(&both[..])), ("everywhere", None)] {
        group.bench_function(name, |b| {
            let exchange = |mut rib: Rib| {
                rib.exchange_policies(&[(old.clone(), new.clone())], within);
                let mut octets = 0;
                for n in 1..=PEERS {
                    while let Some(chunk) = rib.poll_output(PeerId(n), 65_536) {
                        octets += chunk.len();
                    }
                }
                assert!(octets > PEERS as usize * 100, "32 prefixes differ");
                rib
            };
            b.iter_batched(settled, exchange, BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, codec, tables, policies);
criterion_main!(benches);
