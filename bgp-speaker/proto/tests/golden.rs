//! Octets and value, both ways, for each type of message; drawn by hand from the diagrams of the RFCs.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bgp_proto::iana::ErrorCode;
use bgp_proto::*;
use bytes::{Bytes, BytesMut};

/// Octets written as hexadecimal digits; spaces and everything from `;` to the end of a line are comments.
fn octets(text: &str) -> Vec<u8> {
    let digits: Vec<_> =
        text.lines().flat_map(|line| line.split(';').next().unwrap().chars()).filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

const MARKER: &str = "ffffffffffffffffffffffffffffffff";

fn context() -> Context {
    Context { four_octet_as: true, internal: true, families: Families::ALL, ..Context::default() }
}

/// `body` follows the marker.
#[track_caller]
fn check(cx: Context, body: &str, message: &Message) {
    let octets = octets(&format!("{MARKER}{body}"));
    assert_eq!(Message::decode(&octets, &cx), Ok((message.clone(), vec![])));
    let mut encoded = BytesMut::new();
    message.encode(&cx, &mut encoded).unwrap();
    assert_eq!(encoded, octets);
}

fn id(text: &str) -> RouterId {
    text.parse::<Ipv4Addr>().unwrap().try_into().unwrap()
}

fn nlri(text: &str) -> Nlri {
    text.parse::<Prefix>().unwrap().into()
}

#[test]
fn keepalive() {
    check(context(), "0013 04", &Message::Keepalive);
}

#[test]
fn open_as_calico_speakers_send_it() {
    let restart = GracefulRestartCapability {
        restarting: true,
        notification: false,
        restart_time: 120,
        families: vec![RestartFamily { afi: 1, safi: 1, preserved: true }],
    };
    let open = Open {
        my_as: 64512,
        hold_time: HoldTime::DEFAULT,
        router_id: id("10.0.0.1"),
        capabilities: vec![
            Capability::multiprotocol(Family::Ipv4Unicast),
            Capability::RouteRefresh,
            Capability::GracefulRestart(restart),
            Capability::FourOctetAs(Asn(64512)),
            Capability::AddPath(vec![AddPath { afi: 1, safi: 1, receive: true, send: true }]),
            Capability::EnhancedRouteRefresh,
            Capability::LongLivedGracefulRestart(Bytes::new()),
            Capability::Unknown { code: 73, value: Bytes::from_static(b"\x01a\x00") },
        ],
    };
    let text = "0044 01                 ; length 68, OPEN
        04 fc00 00f0 0a000001           ; version 4, AS 64512, hold time 240, identifier
        27 02 25                        ; parameters: one, capabilities
        01 04 0001 00 01                ; multiprotocol IPv4 unicast
        02 00                           ; route refresh
        40 06 8078 0001 01 80           ; graceful restart: R, 120 s; IPv4 unicast with F
        41 04 0000fc00                  ; four-octet AS
        45 04 0001 01 03                ; ADD-PATH both ways
        46 00                           ; enhanced route refresh
        47 00                           ; long-lived graceful restart, aware only
        49 03 01 61 00                  ; host name: unknown here";
    check(Context::default(), text, &Message::Open(open));
}

#[test]
fn open_of_others_may_have_a_parameter_for_each_capability_or_the_extended_form() {
    let expect = |text: &str, capabilities: Vec<Capability>| {
        let octets = octets(&format!("{MARKER}{text}"));
        let (message, _) = Message::decode(&octets, &Context::default()).unwrap();
        let Message::Open(open) = message else { panic!("{message:?}") };
        assert_eq!(open.capabilities, capabilities);
        assert_eq!(open.asn(), Asn(70000));
    };
    let capabilities = vec![Capability::RouteRefresh, Capability::FourOctetAs(Asn(70000))];
    expect("0029 01 04 5ba0 005a 01010101 0c 02 02 02 00 02 06 41 04 00011170", capabilities.clone());
    // RFC 9072: 255, 255, then lengths of two octets.
    expect("002e 01 04 5ba0 005a 01010101 ff ff 000e 02 0002 0200 02 0006 4104 00011170", capabilities);
}

#[test]
fn open_with_more_than_255_octets_of_capabilities_uses_the_extended_form() {
    let unknown = |code| Capability::Unknown { code, value: Bytes::from(vec![7; 200]) };
    let capabilities = vec![unknown(200), unknown(201)];
    let open = Open { my_as: 1, hold_time: HoldTime::NONE, router_id: id("1.1.1.1"), capabilities };
    let mut encoded = BytesMut::new();
    Message::Open(open.clone()).encode(&Context::default(), &mut encoded).unwrap();
    assert_eq!(encoded[28..33], [255, 255, 1, 0x97, 2]);
    assert_eq!(Message::decode(&encoded, &Context::default()), Ok((Message::Open(open), vec![])));
}

#[test]
fn update_with_ipv4_in_the_classic_fields() {
    let mut attributes = Attributes::new(Ipv4Addr::new(192, 0, 2, 1).into());
    attributes.as_path = AsPath::sequence([Asn(65001), Asn(4_200_000_000)]);
    attributes.med = Some(5);
    attributes.local_pref = Some(2_147_482_623);
    attributes.atomic_aggregate = true;
    attributes.aggregator = Some(Aggregator { asn: Asn(65001), address: Ipv4Addr::new(10, 9, 8, 7) });
    attributes.communities = vec![Community::new(64512, 1), Community::NO_EXPORT];
    attributes.originator_id = Some(id("10.0.0.2"));
    attributes.cluster_list = vec![ClusterId(Ipv4Addr::new(244, 0, 0, 1))];
    attributes.extended_communities = vec![ExtendedCommunity(0x0002_fc00_0000_0001)];
    attributes.large_communities = vec![LargeCommunity { global: 64512, local_1: 1, local_2: 2 }];
    attributes.unknown = vec![UnknownAttribute { code: 99, partial: true, value: Bytes::from_static(&[1, 2]) }];
    let advertised = vec![Advertisement {
        attributes: Arc::new(attributes),
        nlri: vec![nlri("10.65.0.0/26"), nlri("10.65.1.128/25"), nlri("0.0.0.0/0"), nlri("10.0.0.0/8")],
    }];
    let text = "0090 02
        0000                             ; nothing withdrawn
        006c                             ; attributes
        40 01 01 00                      ; ORIGIN IGP
        40 02 0a 02 02 0000fde9 fa56ea00 ; AS_PATH
        40 03 04 c0000201                ; NEXT_HOP
        80 04 04 00000005                ; MULTI_EXIT_DISC
        40 05 04 7ffffbff                ; LOCAL_PREF
        40 06 00                         ; ATOMIC_AGGREGATE
        c0 07 08 0000fde9 0a090807       ; AGGREGATOR
        c0 08 08 fc000001 ffffff01       ; COMMUNITIES
        80 09 04 0a000002                ; ORIGINATOR_ID
        80 0a 04 f4000001                ; CLUSTER_LIST
        c0 10 08 0002fc0000000001        ; EXTENDED COMMUNITIES
        c0 20 0c 0000fc00 00000001 00000002 ; LARGE_COMMUNITY
        e0 63 02 0102                    ; unknown, transitive, partial
        1a 0a410000 19 0a410180 00 08 0a ; NLRI";
    check(context(), text, &Message::Update(Update { withdrawn: vec![], advertised }));
}

#[test]
fn update_withdraws_ipv4_in_the_classic_field() {
    let update = Update { withdrawn: vec![nlri("10.65.0.0/26"), nlri("10.66.0.0/16")], advertised: vec![] };
    check(context(), "001f 02 0008 1a 0a410000 10 0a42 0000", &Message::Update(update));
}

#[test]
fn update_with_ipv6_in_multiprotocol_attributes() {
    let mut attributes = Attributes::new("2001:db8::1".parse::<Ipv6Addr>().unwrap().into());
    attributes.link_local = Some("fe80::1".parse().unwrap());
    let entry = Advertisement { attributes: Arc::new(attributes), nlri: vec![nlri("2001:db8:1::/48"), nlri("::/0")] };
    let text = "004f 02 0000 0038
        90 0e 002d 0002 01 20 20010db8000000000000000000000001 fe800000000000000000000000000001 00
                 30 20010db80001 00      ; MP_REACH_NLRI
        40 01 01 00 40 02 00";
    check(context(), text, &Message::Update(Update { withdrawn: vec![], advertised: vec![entry] }));
    let update = Update { withdrawn: vec![nlri("2001:db8:1::/48")], advertised: vec![] };
    check(context(), "0025 02 0000 000e 90 0f 000a 0002 01 30 20010db80001", &Message::Update(update));
}

#[test]
fn update_with_path_identifiers() {
    let cx = Context { add_path_send: Families::ALL, add_path_receive: Families::ALL, ..context() };
    let with_id = |text, path_id| Nlri { path_id, ..nlri(text) };
    let attributes = Arc::new(Attributes::new(Ipv4Addr::new(192, 0, 2, 1).into()));
    let nlri = vec![with_id("10.65.0.0/16", 1), with_id("10.65.0.0/16", 0xdead_beef)];
    let text = "0033 02 0000 000e 40010100 400200 400304c0000201 00000001 10 0a41 deadbeef 10 0a41";
    check(
        cx,
        text,
        &Message::Update(Update { withdrawn: vec![], advertised: vec![Advertisement { attributes, nlri }] }),
    );
    let update = Update { withdrawn: vec![with_id("10.65.0.0/16", 7)], advertised: vec![] };
    check(cx, "001e 02 0007 00000007 10 0a41 0000", &Message::Update(update));
}

#[test]
fn update_for_a_speaker_of_two_octet_numbers_has_the_wide_ones_beside() {
    let cx = Context { four_octet_as: false, ..context() };
    let mut attributes = Attributes::new(Ipv4Addr::new(192, 0, 2, 1).into());
    attributes.as_path = AsPath::sequence([Asn(65001), Asn(70000)]);
    attributes.aggregator = Some(Aggregator { asn: Asn(70000), address: Ipv4Addr::new(10, 9, 8, 7) });
    let entry = Advertisement { attributes: Arc::new(attributes), nlri: vec![nlri("10.0.0.0/8")] };
    let text = "004e 02 0000 0035
        40 01 01 00  40 02 06 02 02 fde9 5ba0  40 03 04 c0000201
        c0 07 06 5ba0 0a090807           ; AGGREGATOR in AS_TRANS
        c0 11 0a 02 02 0000fde9 00011170 ; AS4_PATH
        c0 12 08 00011170 0a090807       ; AS4_AGGREGATOR
        08 0a";
    check(cx, text, &Message::Update(Update { withdrawn: vec![], advertised: vec![entry] }));
}

#[test]
fn end_of_rib_of_each_family() {
    check(context(), "0017 02 0000 0000", &Message::EndOfRib(Family::Ipv4Unicast));
    check(context(), "001d 02 0000 0006 80 0f 03 0002 01", &Message::EndOfRib(Family::Ipv6Unicast));
}

#[test]
fn notification() {
    let bad_as = Notification::new(ErrorCode::OpenMessage, 2).with_data(&[0, 0, 0xfd, 0xe9][..]);
    check(context(), "0019 03 02 02 0000fde9", &Message::Notification(bad_as));
    check(context(), "001a 03 06 02 04 62796521", &Message::Notification(Notification::shutdown("bye!")));
}

#[test]
fn route_refresh() {
    check(context(), "0017 05 0001 00 01", &Message::refresh(Family::Ipv4Unicast, RefreshKind::Request));
    check(context(), "0017 05 0002 01 01", &Message::refresh(Family::Ipv6Unicast, RefreshKind::Begin));
    check(context(), "0017 05 0002 02 01", &Message::refresh(Family::Ipv6Unicast, RefreshKind::End));
}

#[test]
fn what_ends_a_session_is_answered_as_the_rfc_says() {
    #[track_caller]
    fn check(text: &str, code: u8, subcode: u8, data: &[u8]) {
        let error = Message::decode(&octets(text), &context()).unwrap_err();
        let notification = Notification::from(error);
        assert_eq!((u8::from(notification.code), notification.subcode, &notification.data[..]), (code, subcode, data));
    }
    let after_marker = |text: &str, code, subcode, data: &[u8]| check(&format!("{MARKER}{text}"), code, subcode, data);
    check(&format!("00{}0013 04", &MARKER[2..]), 1, 1, &[]);
    after_marker("0012 04", 1, 2, &[0, 0x12]);
    after_marker("0014 04 00", 1, 2, &[0, 0x14]); // a KEEPALIVE has no body
    after_marker("1001 02", 1, 2, &[0x10, 0x01]); // 4097 octets
    after_marker("0013 09", 1, 3, &[9]);
    let open = |text: &str, subcode, data: &[u8]| after_marker(text, 2, subcode, data);
    open("001d 01 03 fc00 00f0 0a000001 00", 1, &[0, 4]); // version 3
    open("001d 01 04 fc00 00f0 00000000 00", 3, &[]); // identifier 0
    open("001d 01 04 fc00 0002 0a000001 00", 6, &[]); // hold time 2
    open("0021 01 04 fc00 00f0 0a000001 04 01 02 abcd", 4, &[1, 2, 0xab, 0xcd]); // authentication parameter
    open("001d 01 04 fc00 00f0 0a000001 01", 0, &[]); // parameters beyond the end
    open("0021 01 04 fc00 00f0 0a000001 04 02 02 41 04", 0, &[]); // a capability beyond its parameter
    after_marker("0018 05 0001 00 01 00", 7, 1, &octets(&format!("{MARKER} 0018 05 0001 00 01 00")));
}
