//! Policies, and what it costs to replace them.

use super::*;

#[test]
fn policies_accept_replace_and_reject_and_a_new_one_costs_only_the_difference() {
    let reject = |text: &str| {
        let rejected = prefix(text);
        Policy::new(move |candidate| if candidate.prefix == rejected { Verdict::Reject } else { Verdict::Accept })
    };
    let mark = Policy::new(|candidate| {
        assert!(candidate.attributes.as_path.begins_with(&[Asn(64512)]), "as it will be sent");
        let mut attributes = candidate.attributes.clone();
        attributes.communities.push(Community::new(64512, u16::try_from(candidate.peer_as.0 - 65000).unwrap()));
        Verdict::Replace(Box::new(attributes))
    });
    let mut rib = rib();
    rib.peer_up(PeerId(2), PeerConfig { import: Some(reject("10.2.0.0/16")), ..peer(2, 64512) });
    rib.peer_up(PeerId(6), PeerConfig { export: Some(reject("10.1.0.0/16")), ..peer(6, 65006) });
    rib.update(PeerId(2), &advertise(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"], via(2)));
    let mut external = told(&mut rib, 6);
    assert_eq!(external.prefixes(), ["10.3.0.0/16"]);
    assert_eq!(rib.paths(prefix("10.2.0.0/16"))[0].standing, Standing::Excluded(Exclusion::Policy));
    assert_eq!((rib.counts(PeerId(2), V4).received, rib.counts(PeerId(2), V4).accepted), (3, 2));
    external.log();
    rib.set_policies(PeerId(2), None, None);
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.log(), ["+10.2.0.0/16"], "accepted now, without asking the peer again");
    rib.set_policies(PeerId(6), None, Some(reject("10.2.0.0/16")));
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.log(), ["-10.2.0.0/16", "+10.1.0.0/16"]);
    rib.set_policies(PeerId(6), None, Some(mark));
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.prefixes().len(), 3);
    assert!(external.paths.values().all(|attributes| attributes.communities == [Community::new(64512, 6)]));
}
