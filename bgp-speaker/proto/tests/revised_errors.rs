//! RFC 7606, attribute by attribute: what resets the session, what withdraws, what is discarded.

use bgp_proto::iana::AttributeCode;
use bgp_proto::*;

fn octets(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

const ORIGIN: &str = "40010100";
const AS_PATH: &str = "40020602010000fde9";
const NEXT_HOP: &str = "400304c0000201";
/// 2001:db8:1::/48 by 2001:db8::1.
const REACH: &str = "900e001c 0002 01 10 20010db8000000000000000000000001 00 30 20010db80001";

fn update(withdrawn: &str, attributes: &str, nlri: &str) -> Vec<u8> {
    let (withdrawn, attributes, nlri) = (octets(withdrawn), octets(attributes), octets(nlri));
    let mut message = vec![0xff; 16];
    message.extend((23 + withdrawn.len() as u16 + attributes.len() as u16 + nlri.len() as u16).to_be_bytes());
    message.push(2);
    message.extend((withdrawn.len() as u16).to_be_bytes());
    message.extend(withdrawn);
    message.extend((attributes.len() as u16).to_be_bytes());
    message.extend(attributes);
    message.extend(nlri);
    message
}

fn context(internal: bool) -> Context {
    Context { four_octet_as: true, internal, families: Families::ALL, ..Context::default() }
}

fn decode(internal: bool, attributes: &str, nlri: &str) -> Result<(Update, Vec<AttributeFault>), DecodeError> {
    let (message, faults) = Message::decode(&update("", attributes, nlri), &context(internal))?;
    match message {
        Message::Update(update) => Ok((update, faults)),
        other => panic!("{other:?}"),
    }
}

/// A faulty attribute beside good ones, in an update for 10.0.0.0/8.
#[track_caller]
fn check(internal: bool, attributes: &[&str], code: AttributeCode, kind: FaultKind, treatment: Treatment) {
    let (update, faults) = decode(internal, &attributes.concat(), "080a").unwrap();
    assert_eq!(faults, [AttributeFault { code, kind, treatment }]);
    let prefix = [Nlri::from("10.0.0.0/8".parse::<Prefix>().unwrap())];
    match treatment {
        Treatment::TreatAsWithdraw => {
            assert_eq!((&update.withdrawn[..], update.advertised.len()), (&prefix[..], 0));
        }
        Treatment::AttributeDiscard => {
            assert_eq!((update.withdrawn.len(), &update.advertised[0].nlri[..]), (0, &prefix[..]));
        }
    }
}

#[test]
fn each_faulty_attribute_costs_what_the_table_says() {
    use AttributeCode::*;
    use FaultKind::*;
    use Treatment::*;
    let good = [ORIGIN, AS_PATH, NEXT_HOP].concat();
    let beside = |extra: &str, internal, code, kind, treatment| check(internal, &[&good, extra], code, kind, treatment);

    // §7.1 to §7.3: mandatory ones, wrong or missing.
    check(true, &["4001020000", AS_PATH, NEXT_HOP], Origin, Length, TreatAsWithdraw);
    check(true, &["40010103", AS_PATH, NEXT_HOP], Origin, Value, TreatAsWithdraw);
    check(true, &[AS_PATH, NEXT_HOP], Origin, Missing, TreatAsWithdraw);
    check(true, &[ORIGIN, "40020602020000fde9", NEXT_HOP], AsPath, Value, TreatAsWithdraw); // overrun
    check(true, &[ORIGIN, "400207 02010000fde9 02", NEXT_HOP], AsPath, Value, TreatAsWithdraw); // underrun
    check(true, &[ORIGIN, "400206 05010000fde9", NEXT_HOP], AsPath, Value, TreatAsWithdraw); // unknown kind
    check(true, &[ORIGIN, "400208 0200 02010000fde9", NEXT_HOP], AsPath, Value, TreatAsWithdraw); // empty segment
    check(true, &[ORIGIN, NEXT_HOP], AsPath, Missing, TreatAsWithdraw);
    check(true, &[ORIGIN, AS_PATH, "400303c00002"], NextHop, Length, TreatAsWithdraw);
    check(true, &[ORIGIN, AS_PATH, "40030400000000"], NextHop, Value, TreatAsWithdraw);
    check(true, &[ORIGIN, AS_PATH, "400304e0000001"], NextHop, Value, TreatAsWithdraw); // multicast
    check(true, &[ORIGIN, AS_PATH], NextHop, Missing, TreatAsWithdraw);
    // §7.4 to §7.10
    beside("800403000001", true, MultiExitDisc, Length, TreatAsWithdraw);
    beside("400503000001", true, LocalPref, Length, TreatAsWithdraw);
    beside("400503000001", false, LocalPref, Unexpected, AttributeDiscard);
    beside("40050400000001", false, LocalPref, Unexpected, AttributeDiscard);
    beside("40060100", true, AtomicAggregate, Length, AttributeDiscard);
    beside("c007060000fde90a09", true, Aggregator, Length, AttributeDiscard);
    beside("c0080300fc00", true, Communities, Length, TreatAsWithdraw);
    beside("c00800", true, Communities, Length, TreatAsWithdraw);
    beside("8009030a0000", true, OriginatorId, Length, TreatAsWithdraw);
    beside("8009030a0000", false, OriginatorId, Unexpected, AttributeDiscard);
    beside("800a0500000000", true, Unknown(0), Overrun, TreatAsWithdraw);
    beside("800a050000000000", true, ClusterList, Length, TreatAsWithdraw);
    beside("800a0400000001", false, ClusterList, Unexpected, AttributeDiscard);
    // §7.14, RFC 8092 §5, RFC 6793 §6
    beside("c0100700000000000000", true, ExtendedCommunities, Length, TreatAsWithdraw);
    beside("c0200b0000000000000000000000", true, LargeCommunities, Length, TreatAsWithdraw);
    beside("c0110602010000fde9", true, As4Path, Unexpected, AttributeDiscard);
    // §3 c: flags; §3 g: twice; §4: beyond the attributes' end
    check(true, &["c0010100", AS_PATH, NEXT_HOP], Origin, Flags, TreatAsWithdraw);
    check(true, &["00010100", AS_PATH, NEXT_HOP], Origin, Flags, TreatAsWithdraw);
    beside("c00404 00000001", true, MultiExitDisc, Flags, TreatAsWithdraw);
    beside("40010102", true, Origin, Duplicate, AttributeDiscard);
    beside("80", true, Unknown(0), Overrun, TreatAsWithdraw);
    beside("8004ff00", true, Unknown(0), Overrun, TreatAsWithdraw);
    beside("406300", true, Unknown(0x63), Unrecognized, TreatAsWithdraw);
}

#[test]
fn the_first_of_two_counts_and_unknown_ones_pass_on_as_their_flags_say() {
    let attributes = [ORIGIN, AS_PATH, NEXT_HOP, "80040400000001", "80040400000002", "c06302abcd", "806400"].concat();
    let (update, faults) = decode(true, &attributes, "080a").unwrap();
    let taken = &update.advertised[0].attributes;
    assert_eq!((taken.med, faults.len()), (Some(1), 1));
    let passed: Vec<_> = taken.unknown.iter().map(|unknown| (unknown.code, unknown.partial)).collect();
    assert_eq!(passed, [(0x63, true)], "optional non-transitive ones are dropped");
}

#[test]
fn a_fault_withdraws_the_prefixes_of_every_field() {
    let (update, _) = decode(true, &[REACH, "40010109", AS_PATH, NEXT_HOP].concat(), "080a").unwrap();
    let withdrawn: Vec<_> = update.withdrawn.iter().map(ToString::to_string).collect();
    assert_eq!(withdrawn, ["10.0.0.0/8", "2001:db8:1::/48"]);
}

#[test]
fn one_message_may_carry_both_families_each_with_its_next_hop() {
    let (update, faults) = decode(true, &[REACH, ORIGIN, AS_PATH, NEXT_HOP].concat(), "080a").unwrap();
    let hops: Vec<_> = update.advertised.iter().map(|entry| entry.attributes.next_hop.to_string()).collect();
    assert_eq!((hops, faults.len()), (vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()], 0));
}

#[test]
fn only_what_hides_the_prefixes_resets_the_session() {
    #[track_caller]
    fn check(message: &[u8], expect: UpdateError, subcode: u8) {
        let error = Message::decode(message, &context(true)).unwrap_err();
        assert_eq!(error, DecodeError::Update(expect));
        assert_eq!(Notification::from(error).subcode, subcode);
    }
    let good = [ORIGIN, AS_PATH, NEXT_HOP].concat();
    check(&update("", &good, "210a00000000"), UpdateError::Nlri, 10);
    check(&update("", &good, "180a00"), UpdateError::Nlri, 10);
    check(&update("180a00", "", ""), UpdateError::Nlri, 10);
    let mut lengths = update("", &good, "");
    lengths[20] = 200; // the attributes' total length
    check(&lengths, UpdateError::Lengths, 1);
    let reach = UpdateError::Multiprotocol("MP_REACH_NLRI");
    check(&update("", &["900e0004 0002 01 10", ORIGIN, AS_PATH].concat(), ""), reach, 9);
    let short_hop = "900e000d 0002 01 04 c0000201 00 20 20010db8";
    check(&update("", &[short_hop, ORIGIN, AS_PATH].concat(), ""), reach, 9);
    check(&update("", "900f0005 0002 01 81 00", ""), UpdateError::Multiprotocol("MP_UNREACH_NLRI"), 9);
    check(&update("", &[REACH, REACH, ORIGIN, AS_PATH].concat(), ""), UpdateError::Twice("MP_REACH_NLRI"), 1);
    // §5.2: something is so wrong that prefixes should go, but there are none.
    check(&update("", "40010109", ""), UpdateError::NothingToWithdraw, 1);
}

#[test]
fn families_that_were_not_negotiated_are_ignored() {
    let cx = Context { families: Family::Ipv4Unicast.into(), ..context(true) };
    let decode = |message: &[u8]| Message::decode(message, &cx).unwrap();
    let (message, faults) = decode(&update("", &[REACH, ORIGIN, AS_PATH].concat(), ""));
    assert_eq!((message, faults), (Message::Update(Update::default()), vec![]));
    // EVPN, with whatever it carries.
    let (message, faults) = decode(&update("", &["900e0008 0019 46 00 00 deadbe", ORIGIN, AS_PATH].concat(), ""));
    assert_eq!((message, faults), (Message::Update(Update::default()), vec![]));
    let (message, _) = decode(&update("", "800f03001946", ""));
    assert_eq!(message, Message::Update(Update::default()), "the End-of-RIB of a family that we do not speak");
}
