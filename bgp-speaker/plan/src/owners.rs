//! Who programs which class of routes to other nodes: the BGP speaker or felix? Both ask here.
//!
//! VXLAN is always felix's.

use serde_json::Value;

/// Which classes of routes to other nodes the BGP speaker programs; felix programs the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Those of pools without encapsulation.
    pub plain: bool,
    /// Those of IPIP pools.
    pub ipip: bool,
}

impl Classes {
    /// All are felix's, as on a node without BGP.
    pub const FELIXS: Self = Self { plain: false, ipip: false };
}

impl Default for Classes {
    fn default() -> Self {
        Self { plain: true, ipip: false }
    }
}

/// What a FelixConfiguration or BGPConfiguration says in `programClusterRoutes`, taken from the resource as it is stored.
///
/// Both daemons must read this one field from the same version of the resource, or they disagree on who owns a class and
/// replace each other's routes without end. What else of a resource a daemon understands differs, so the field counts
/// even if another is bad. `None` if it is not there, or is no text: then its default counts.
pub fn written(value: &Value) -> Option<&str> {
    value.pointer("/spec/programClusterRoutes").and_then(Value::as_str)
}

/// Who programs which class of routes, by the two `programClusterRoutes`, BGPConfiguration's and FelixConfiguration's;
/// and what an operator should know about it.
///
/// Departs from Calico, where each daemon looks at its own alone: there a class that both claim is fought over, and
/// one that none claims is not routed. Such a class is here programmed by whom it is by default.
pub fn classes(bgp: Option<&str>, felix: Option<&str>) -> (Classes, Option<String>) {
    let default = Classes::default();
    let (speakers, mut bad) = (claims(bgp, default), Vec::new());
    let felixs = claims(felix, Classes { plain: !default.plain, ipip: !default.ipip });
    let mut owner = |speakers: bool, felixs: bool, default: bool, class: &str| {
        if speakers != felixs {
            return speakers;
        }
        let claimed = if speakers { "both of them program" } else { "neither of them programs" };
        let by = if default { "the BGP speaker" } else { "felix" };
        bad.push(format!("{claimed} {class}, which {by} programs now"));
        default
    };
    let classes = Classes {
        plain: owner(speakers.plain, felixs.plain, default.plain, "routes without encapsulation"),
        ipip: owner(speakers.ipip, felixs.ipip, default.ipip, "IPIP routes"),
    };
    let warning = (!bad.is_empty()).then(|| {
        let named = |value: Option<&str>| value.unwrap_or("not set").to_owned();
        format!(
            "programClusterRoutes is {} in BGPConfiguration and {} in FelixConfiguration: by that {}; give each \
             class to one of them, as EnabledNoEncapOnly and EnabledIPIPOnly do",
            named(bgp),
            named(felix),
            bad.join(", and ")
        )
    });
    (classes, warning)
}

/// What a `programClusterRoutes` claims; one that is unknown counts as not set.
fn claims(value: Option<&str>, default: Classes) -> Classes {
    let (plain, ipip) = match value {
        Some("Disabled") => (false, false),
        Some("EnabledIPIPOnly") => (false, true),
        Some("EnabledNoEncapOnly") => (true, false),
        Some("Enabled") => (true, true),
        _ => return default,
    };
    Classes { plain, ipip }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_field_is_read_whatever_else_is_wrong_with_the_resource() {
        for (spec, expected) in [
            (json!({"programClusterRoutes": "Disabled", "listenPort": "none", "ipipMTU": []}), Some("Disabled")),
            (json!({"programClusterRoutes": "Perhaps"}), Some("Perhaps")),
            (json!({"programClusterRoutes": true}), None),
            (json!({"programClusterRoutes": null}), None),
            (json!({}), None),
            (json!("Disabled"), None),
        ] {
            assert_eq!(written(&json!({"metadata": 7, "spec": spec})), expected, "{spec}");
        }
        assert_eq!(written(&json!(null)), None);
    }

    #[test]
    fn every_class_has_one_owner_whatever_the_two_resources_say() {
        let (none, ipip, plain, both) = ("Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly", "Enabled");
        // BGPConfiguration's, FelixConfiguration's; plain and IPIP ours; whether there is a warning.
        for (bgp, felix, expected, warned) in [
            (None, None, (true, false), false),
            (Some(plain), Some(ipip), (true, false), false),
            (Some(none), Some(both), (false, false), false),
            (Some(both), Some(none), (true, true), false),
            (Some(ipip), Some(plain), (false, true), false),
            (Some(both), None, (true, false), true),
            (None, Some(none), (true, false), true),
            (Some(none), None, (true, false), true),
            (Some(none), Some(none), (true, false), true),
            (Some(both), Some(both), (true, false), true),
            (Some(ipip), Some(ipip), (true, false), true),
            (Some("Perhaps"), Some(""), (true, false), false),
        ] {
            let (owners, warning) = classes(bgp, felix);
            assert_eq!((owners.plain, owners.ipip), expected, "{bgp:?} {felix:?}");
            assert_eq!(warning.is_some(), warned, "{bgp:?} {felix:?}: {warning:?}");
        }
        let (_, warning) = classes(Some(both), None);
        assert!(warning.unwrap().contains("both of them program IPIP routes, which felix programs now"));
    }
}
