//! For every value: what is encoded decodes to it. For every octet string: decoding ends, without a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp_proto::iana::ErrorCode;
use bgp_proto::*;
use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn context() -> impl Strategy<Value = Context> {
    let families = || prop_oneof![Just(Families::NONE), Just(Families::ALL), Just(Family::Ipv4Unicast.into())];
    (any::<[bool; 2]>(), families()).prop_map(|([four_octet_as, extended_messages], add_path)| Context {
        four_octet_as,
        extended_messages,
        internal: true,
        families: Families::ALL,
        add_path_receive: add_path,
        add_path_send: add_path,
        enhanced_refresh: true,
    })
}

fn prefix(family: Family) -> BoxedStrategy<Prefix> {
    match family {
        Family::Ipv4Unicast => (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, length)| Prefix::new(Ipv4Addr::from(bits).into(), length).unwrap())
            .boxed(),
        Family::Ipv6Unicast => (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, length)| Prefix::new(Ipv6Addr::from(bits).into(), length).unwrap())
            .boxed(),
    }
}

fn nlri(family: Family, cx: Context, most: usize) -> impl Strategy<Value = Vec<Nlri>> {
    let with_id = cx.add_path_send.contains(family);
    let one = (prefix(family), any::<u32>())
        .prop_map(move |(prefix, id)| Nlri { prefix, path_id: if with_id { id } else { 0 } });
    btree_set(one, 1..most).prop_map(|set| set.into_iter().collect())
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let asn = prop_oneof![1..65_536_u32, any::<u32>()].prop_map(Asn);
    let kind = prop_oneof![4 => Just(SegmentKind::Sequence), 1 => Just(SegmentKind::Set)];
    vec((kind, vec(asn, 1..5)), 0..3).prop_map(|segments| {
        // Adjacent sequences are one: what a four-octet path is merged to.
        let mut joined: Vec<Segment> = Vec::new();
        for (kind, asns) in segments {
            match joined.last_mut() {
                Some(last) if kind == SegmentKind::Sequence && last.kind == kind => last.asns.extend(asns),
                _ => joined.push(Segment { kind, asns }),
            }
        }
        AsPath::from_segments(joined)
    })
}

fn router_id() -> impl Strategy<Value = RouterId> {
    (1..=u32::MAX).prop_map(|bits| RouterId::try_from(Ipv4Addr::from(bits)).unwrap())
}

fn attributes(family: Family) -> impl Strategy<Value = Attributes> {
    let next_hop = match family {
        Family::Ipv4Unicast => {
            (0x0100_0000..0xdfff_ffff_u32).prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))).boxed()
        }
        Family::Ipv6Unicast => (1..u128::MAX >> 3).prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits))).boxed(),
    };
    let link_local = match family {
        Family::Ipv4Unicast => Just(None).boxed(),
        Family::Ipv6Unicast => {
            option::of(any::<u16>().prop_map(|last| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last))).boxed()
        }
    };
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let aggregator = (any::<u32>(), any::<u32>()).prop_filter_map("AS_TRANS stands for another", |(asn, address)| {
        (asn != Asn::TRANS.0).then_some(Aggregator { asn: Asn(asn), address: address.into() })
    });
    let large = any::<[u32; 3]>().prop_map(|[global, local_1, local_2]| LargeCommunity { global, local_1, local_2 });
    let unknown =
        vec(any::<u8>(), 0..300).prop_map(|value| UnknownAttribute { code: 0, partial: true, value: value.into() });
    let first = (origin, as_path(), next_hop, link_local, option::of(any::<u32>()), option::of(any::<u32>()));
    let second =
        (any::<bool>(), option::of(aggregator), btree_set(any::<u32>(), 0..100), btree_set(any::<u64>(), 0..3));
    let third = (btree_set(large, 0..3), option::of(router_id()), vec(any::<u32>(), 0..4), vec(unknown, 0..3));
    (first, second, third).prop_map(|((origin, as_path, next_hop, link_local, med, local_pref), second, third)| {
        let (atomic_aggregate, aggregator, communities, extended) = second;
        let (large, originator_id, cluster_list, mut unknown) = third;
        (100..).zip(&mut unknown).for_each(|(code, unknown)| unknown.code = code);
        Attributes {
            origin,
            as_path,
            next_hop,
            link_local,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            communities: communities.into_iter().map(Community).collect(),
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            large_communities: large.into_iter().collect(),
            originator_id,
            cluster_list: cluster_list.into_iter().map(|id| ClusterId(id.into())).collect(),
            unknown,
        }
    })
}

fn update(cx: Context) -> impl Strategy<Value = Update> {
    let family = prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)];
    family.prop_flat_map(move |family| {
        let advertised = option::of((attributes(family), nlri(family, cx, 3000)));
        let withdrawn =
            (option::of(nlri(Family::Ipv4Unicast, cx, 2000)), option::of(nlri(Family::Ipv6Unicast, cx, 2000)));
        (withdrawn, advertised).prop_map(|((v4, v6), advertised)| Update {
            withdrawn: [v4, v6].into_iter().flatten().flatten().collect(),
            advertised: advertised
                .into_iter()
                .map(|(attributes, nlri)| Advertisement { attributes: Arc::new(attributes), nlri })
                .collect(),
        })
    })
}

fn capability() -> impl Strategy<Value = Capability> {
    prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Capability::Multiprotocol { afi, safi }),
        Just(Capability::RouteRefresh),
        Just(Capability::EnhancedRouteRefresh),
        Just(Capability::ExtendedMessage),
        any::<u32>().prop_map(|asn| Capability::FourOctetAs(Asn(asn))),
        (any::<[bool; 2]>(), 0..4096_u16, vec((any::<u16>(), any::<u8>(), any::<bool>()), 0..4)).prop_map(
            |([restarting, notification], restart_time, families)| {
                let family = |(afi, safi, preserved)| RestartFamily { afi, safi, preserved };
                let families = families.into_iter().map(family).collect();
                Capability::GracefulRestart(GracefulRestartCapability {
                    restarting,
                    notification,
                    restart_time,
                    families,
                })
            }
        ),
        vec((any::<u16>(), any::<u8>(), 1..4_u8), 0..3).prop_map(|entries| {
            let entry = |(afi, safi, mode)| AddPath { afi, safi, receive: mode & 1 != 0, send: mode & 2 != 0 };
            Capability::AddPath(entries.into_iter().map(entry).collect())
        }),
        (100..=255_u8, vec(any::<u8>(), 0..200))
            .prop_map(|(code, value)| Capability::Unknown { code, value: value.into() }),
    ]
}

fn other_message() -> impl Strategy<Value = Message> {
    let hold_time = any::<u16>().prop_filter_map("1 and 2 are none", |seconds| HoldTime::try_from(seconds).ok());
    let open = (any::<u16>(), hold_time, router_id(), vec(capability(), 0..8)).prop_map(
        |(my_as, hold_time, router_id, capabilities)| Message::Open(Open { my_as, hold_time, router_id, capabilities }),
    );
    let notification = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..100)).prop_map(|(code, subcode, data)| {
        Message::Notification(Notification { code: ErrorCode::from(code), subcode, data: Bytes::from(data) })
    });
    let family = || prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast)];
    let kind = prop_oneof![
        Just(RefreshKind::Request),
        Just(RefreshKind::Begin),
        Just(RefreshKind::End),
        (3..=255_u8).prop_map(RefreshKind::Unknown)
    ];
    prop_oneof![
        open,
        notification,
        family().prop_map(Message::EndOfRib),
        Just(Message::Keepalive),
        (family(), kind).prop_map(|(family, kind)| Message::refresh(family, kind)),
    ]
}

/// Every message in `octets`, decoded.
fn decode_all(mut octets: &[u8], cx: &Context) -> Vec<(Message, Vec<AttributeFault>)> {
    let mut messages = Vec::new();
    while !octets.is_empty() {
        let length = frame(octets, cx.maximum()).unwrap().unwrap();
        messages.push(Message::decode(&octets[..length], cx).unwrap());
        octets = &octets[length..];
    }
    messages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_message_but_an_update_decodes_to_what_was_encoded(message in other_message(), cx in context()) {
        let mut octets = BytesMut::new();
        message.encode(&cx, &mut octets).unwrap();
        prop_assert_eq!(decode_all(&octets, &cx), vec![(message, vec![])]);
    }

    #[test]
    fn the_messages_of_an_update_together_say_what_was_encoded(
        (cx, update) in context().prop_flat_map(|cx| (Just(cx), update(cx)))
    ) {
        let mut octets = BytesMut::new();
        update.encode(&cx, &mut octets).unwrap();
        let mut said = Update::default();
        for (message, faults) in decode_all(&octets, &cx) {
            prop_assert_eq!(faults, vec![]);
            let Message::Update(part) = message else { panic!("{message:?}") };
            prop_assert!(part.withdrawn.is_empty() || part.advertised.is_empty(), "RFC 7606 §5.1: never mixed");
            said.withdrawn.extend(part.withdrawn);
            for entry in part.advertised {
                match said.advertised.first_mut() {
                    Some(first) => {
                        prop_assert_eq!(&first.attributes, &entry.attributes);
                        first.nlri.extend(entry.nlri);
                    }
                    None => said.advertised.push(entry),
                }
            }
        }
        prop_assert_eq!(said, update);
    }

    #[test]
    fn arbitrary_octets_never_panic(octets in vec(any::<u8>(), 0..300), kind in 0..8_u8, cx in context()) {
        let mut message = vec![0xff; 16];
        message.extend((octets.len() as u16 + 19).to_be_bytes());
        message.push(kind);
        message.extend(&octets);
        let _ = Message::decode(&message, &cx);
        let _ = Message::decode(&octets, &cx);
        let _ = frame(&octets, cx.maximum());
    }

    #[test]
    fn a_damaged_message_never_panics_and_never_becomes_longer_than_it_is(
        (cx, update) in context().prop_flat_map(|cx| (Just(cx), update(cx))),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut octets = BytesMut::new();
        update.encode(&cx, &mut octets).unwrap();
        prop_assume!(!octets.is_empty());
        let length = frame(&octets, cx.maximum()).unwrap().unwrap();
        let mut message = octets[..length].to_vec();
        for (at, value) in damage {
            let at = 19 + at.index(length - 19);
            message[at] = value;
        }
        if let Ok((Message::Update(update), _)) = Message::decode(&message, &cx) {
            let prefixes = update.withdrawn.len() + update.advertised.iter().map(|entry| entry.nlri.len()).sum::<usize>();
            prop_assert!(prefixes <= message.len());
        }
    }
}

/// Prefixes with like attributes fill messages to the brim.
#[test]
fn ten_thousand_prefixes_take_as_few_messages_as_fit() {
    let attributes = Arc::new(Attributes::new(Ipv4Addr::new(192, 0, 2, 1).into()));
    let nlri =
        (0..10_000_u32).map(|n| Nlri::from(Prefix::new(Ipv4Addr::from(0x0a00_0000 + n * 64).into(), 26).unwrap()));
    let update = Update { withdrawn: vec![], advertised: vec![Advertisement { attributes, nlri: nlri.collect() }] };
    let cx = Context { four_octet_as: true, internal: true, families: Families::ALL, ..Context::default() };
    let mut octets = BytesMut::new();
    update.encode(&cx, &mut octets).unwrap();
    let each = (4096 - 23 - 14) / 5; // header and lengths, attributes
    assert_eq!(decode_all(&octets, &cx).len(), 10_000_usize.div_ceil(each));
}

#[test]
fn attributes_that_leave_no_room_are_refused_and_the_rest_is_said() {
    let mut attributes = Attributes::new(Ipv4Addr::new(192, 0, 2, 1).into());
    attributes.communities = (0..1100).map(Community).collect();
    let nlri: Vec<Nlri> = vec!["10.0.0.0/8".parse::<Prefix>().unwrap().into()];
    let update = Update {
        withdrawn: vec!["10.1.0.0/16".parse::<Prefix>().unwrap().into()],
        advertised: vec![Advertisement { attributes: Arc::new(attributes), nlri }],
    };
    let mut octets = BytesMut::new();
    let cx = Context { families: Families::ALL, ..Context::default() };
    assert_eq!(update.encode(&cx, &mut octets).unwrap_err().octets, 4 + 3 + 7 + 4 + 4400);
    assert_eq!(decode_all(&octets, &cx).len(), 1);
    let extended = Context { extended_messages: true, ..cx };
    assert!(update.encode(&extended, &mut BytesMut::new()).is_ok());
}
