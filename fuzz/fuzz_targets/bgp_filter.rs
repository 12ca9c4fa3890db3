//! A BGPFilter, asked about any path: a line of the spec as JSON, then the octets of an UPDATE. A filter that is understood
//! has a verdict that takes no longer for a longer path than its rules, and what it changes can still be sent.
#![no_main]

use bgp_plan::filter::{BgpFilter, Direction};
use bgp_proto::{
    Asn, Attributes, Candidate, Community, Context, Families, LocalKind, Message, PeerId, Prefix, Source, Verdict,
};
use bytes::BytesMut;
use calico_api::BGPFilterSpec;
use libfuzzer_sys::fuzz_target;

/// Prefixes at the ends of what there is.
const PREFIXES: [&str; 8] = [
    "0.0.0.0/0",
    "10.244.0.0/26",
    "10.244.1.7/32",
    "255.255.255.255/32",
    "::/0",
    "fd00:244::/122",
    "fd00::1/128",
    "ff00::/8",
];

/// A path with what the octets say: communities, an AS path, a LOCAL_PREF.
fn attributes(octets: &[u8]) -> Attributes {
    let mut attributes = Attributes::new([10, 0, 0, 2].into());
    let number = |octets: &[u8]| octets.iter().fold(0_u32, |number, octet| number << 8 | u32::from(*octet));
    let mut words = octets.chunks(4).map(number).take(600);
    attributes.local_pref = words.next();
    let asns: Vec<Asn> = words.by_ref().take(300).map(Asn).collect();
    attributes.as_path.prepend_all(&asns);
    attributes.communities = words.map(|word| Community::new((word >> 16) as u16, word as u16)).collect();
    attributes.communities.sort();
    attributes.communities.dedup();
    attributes
}

fuzz_target!(|octets: &[u8]| {
    let at = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let (spec, rest) = octets.split_at(at);
    let Ok(spec) = serde_json::from_slice::<BGPFilterSpec>(spec) else { return };
    let filter = match BgpFilter::compile(&spec) {
        Ok(filter) => filter,
        Err(reason) => return assert!(reason.starts_with("spec."), "it does not say where: {reason}"),
    };
    let attributes = attributes(rest);
    for text in PREFIXES {
        let prefix: Prefix = text.parse().expect("a prefix is written here");
        for (source, interface) in [
            (Source::Local(LocalKind::Block), None),
            (Source::Peer { peer: PeerId(2), external: true }, Some("eth0")),
            (Source::Peer { peer: PeerId(3), external: false }, Some("aaaaaaaaaaaaaaa")),
        ] {
            let candidate = Candidate {
                prefix,
                attributes: &attributes,
                source,
                peer_as: Asn(65001),
                local_as: Asn(64512),
                interface,
            };
            for direction in [Direction::Import, Direction::Export] {
                let verdict = filter.judge(direction, &candidate);
                assert_eq!(filter.judge(direction, &candidate), verdict, "asked twice, it says two things");
                if let Some(Verdict::AcceptExplicitly(Some(changed))) = verdict {
                    let sorted = changed.communities.windows(2).all(|pair| pair[0] < pair[1]);
                    assert!(sorted, "{:?}", changed.communities);
                    assert!(
                        changed.as_path != attributes.as_path
                            || changed.communities.len() >= attributes.communities.len()
                    );
                }
            }
        }
    }
    // What arrives can be judged as it is.
    let cx = Context {
        four_octet_as: true,
        internal: false,
        families: Families::ALL,
        add_path_receive: Families::NONE,
        add_path_send: Families::NONE,
        extended_messages: false,
        enhanced_refresh: false,
    };
    if let Ok((message, _)) = Message::decode(rest, &cx) {
        let _ = message.encode(&cx, &mut BytesMut::new());
    }
});
