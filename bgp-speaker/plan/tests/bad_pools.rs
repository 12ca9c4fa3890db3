//! A pool that cannot be is refused where it is written; if it is in the store all the same, the last good state stays, and
//! it is said what is wrong.

use std::collections::BTreeMap;

use bgp_plan::inputs::{BadInput, Change, Encap, Inputs, Touched};
use bgp_plan::policies::{Settings, Surroundings};
use calico_api::{AnyResource, IPPoolSpec, Key, Kind, Resource};
use serde_json::{Value, json};

/// Good versions of one pool, and what cannot be made of each of them: the bad version, the field that is named where it is
/// written, and what is said of it where it is read.
fn cases() -> Vec<(Value, Value, &'static str, &'static str)> {
    let (v4, v6) = ("10.244.0.0/16", "fd00:10::/64");
    let both = "spec.ipipMode and spec.vxlanMode are both in use; set one of them to Never";
    vec![
        (
            json!({"cidr": v4, "ipipMode": "CrossSubnet"}),
            json!({"cidr": v4, "ipipMode": "CrossSubnet", "vxlanMode": "Always"}),
            "IPpool.IPIPMode",
            both,
        ),
        (
            json!({"cidr": v4, "vxlanMode": "Always"}),
            json!({"cidr": v4, "ipipMode": "Always", "vxlanMode": "CrossSubnet"}),
            "IPpool.IPIPMode",
            both,
        ),
        (
            json!({"cidr": v6, "vxlanMode": "CrossSubnet"}),
            json!({"cidr": v6, "ipipMode": "Always"}),
            "IPpool.IPIPMode",
            "IPIP carries no IPv6; use vxlanMode, or Never",
        ),
        (
            json!({"cidr": v4, "blockSize": 26}),
            json!({"cidr": "10.244.0.0/28", "blockSize": 26}),
            "IPpool.CIDR",
            "spec.cidr 10.244.0.0/28 has no room for a block of spec.blockSize 26; set blockSize to 28 or more",
        ),
        (
            json!({"cidr": v6, "vxlanMode": "Always"}),
            json!({"cidr": "fd00:10::/124"}),
            "IPpool.CIDR",
            "spec.cidr fd00:10::/124 has no room for a block of spec.blockSize 122; set blockSize to 124 or more",
        ),
    ]
}

fn put(inputs: &mut Inputs, spec: &Value) -> Result<Touched, BadInput> {
    let value = json!({"metadata": {"name": "p"}, "spec": spec});
    let key = Key::of_value(Kind::IPPool, &value).unwrap();
    inputs.apply("a", Change::Put { key, value })
}

/// What is said of the fields of a pool when it is written.
fn refused(spec: &Value) -> BTreeMap<String, String> {
    let pool: Resource<IPPoolSpec> = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    let faults = calico_api::validate(&AnyResource::IPPool(Box::new(pool)));
    faults.into_iter().map(|fault| (fault.field.clone(), fault.to_string())).collect()
}

#[test]
fn the_last_good_version_stays_and_everything_that_follows_from_it() {
    for (good, bad, field, said) in cases() {
        assert!(refused(&good).is_empty(), "{good}");
        assert!(refused(&bad).contains_key(field), "{bad}: {:?}", refused(&bad));

        let mut inputs = Inputs::default();
        assert!(put(&mut inputs, &good).unwrap().pools);
        let (pools, around) = (inputs.pools.clone(), Surroundings::of(&inputs, "a", &Settings::default()));
        let fault = put(&mut inputs, &bad).unwrap_err();
        assert!(!fault.touched.any(), "{bad}: nothing is to be made anew");
        let text = fault.to_string();
        assert!(text.starts_with("IPPool p: ") && text.contains(said), "{text}");
        assert!(text.contains("its last good version, if there is one, stays in force"), "{text}");
        assert_eq!(inputs.faults.values().collect::<Vec<_>>(), [&fault], "as the speaker shows it");
        assert_eq!((&inputs.pools, inputs.pool_unknown()), (&pools, false));
        assert_eq!(Surroundings::of(&inputs, "a", &Settings::default()), around);

        // A restart finds the bad version alone, and beside it what was remembered.
        let mut after = Inputs::default();
        inputs.last_good().for_each(|(key, value)| after.preload(key, value));
        let fault = put(&mut after, &bad).unwrap_err();
        assert!(fault.touched.pools, "the version of the earlier life came into force");
        assert_eq!((&after.pools, after.pool_unknown()), (&pools, false));
        assert_eq!(after.faults.len(), 1);

        // Corrected, nothing is left of it.
        put(&mut after, &good).unwrap();
        assert!(after.faults.is_empty() && after.last_good().next().is_none());
    }
}

#[test]
fn of_a_pool_that_never_was_good_nothing_follows_but_that_it_is_unknown() {
    for (good, bad, ..) in cases() {
        let mut inputs = Inputs::default();
        let fault = put(&mut inputs, &bad).unwrap_err();
        assert!(inputs.pools.is_empty() && inputs.pool_unknown(), "{bad}");
        assert!(fault.touched.pools, "what is in no pool may be in this one");
        assert!(!put(&mut inputs, &bad).unwrap_err().touched.any(), "nothing new");
        assert!(put(&mut inputs, &good).unwrap().pools && !inputs.pool_unknown());

        let mut inputs = Inputs::default();
        put(&mut inputs, &bad).unwrap_err();
        assert!(inputs.apply("a", Change::Delete(Key::named(Kind::IPPool, "p"))).unwrap().pools);
        assert!(!inputs.pool_unknown() && inputs.faults.is_empty());
    }
}

#[test]
fn a_pool_that_gives_out_nothing_may_be_of_any_size() {
    let small = json!({"cidr": "10.244.0.0/28", "disabled": true, "vxlanMode": "Always"});
    assert!(refused(&small).is_empty());
    let mut inputs = Inputs::default();
    put(&mut inputs, &small).unwrap();
    assert_eq!(inputs.pools["p"].encap, Encap::Vxlan { cross_subnet: false });
}
