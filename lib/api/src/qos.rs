//! Which limits of its traffic does a pod ask for in annotations (reference ipam-cni-datastore.md §5.7)?
//!
//! They stand in `spec.qosControls` of its workload endpoint. Whatever is wrong with them is told and left out or moved to
//! the nearest allowed value: no pod stays without a network for a limit.

use serde::{Deserialize, Serialize};

/// What the names of these annotations begin with.
const PREFIX: &str = "qos.projectcalico.org/";
/// Kubernetes' own, which give way to Calico's.
const OF_KUBERNETES: [&str; 2] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];

/// The burst of a bandwidth that has none of its own, in bits.
const BURST: u64 = 4 << 30;
/// The burst of a packet rate that has none of its own, in packets.
const PACKET_BURST: u64 = 5;

/// The least and the most of each kind of limit.
const BANDWIDTH: (u64, u64) = (1_000, 1_000_000_000_000_000);
const BITS_OF_BURST: (u64, u64) = (1_000, 34_359_738_360);
const PEAKRATE: (u64, u64) = (1_010, 1_010_000_000_000_000);
const MINBURST: (u64, u64) = (1_000, 100_000_000);
const PACKETS: (u64, u64) = (1, 10_000);
const CONNECTIONS: (u64, u64) = (1, u32::MAX as u64);

/// Names of DSCP values (RFC 2474, RFC 2597, RFC 3246, RFC 5865, RFC 8622), as in IANA's registry.
const DSCP: &[&str] = &[
    "DF", "LE", "EF", "VA", "CS0", "CS1", "CS2", "CS3", "CS4", "CS5", "CS6", "CS7", "AF11", "AF12", "AF13", "AF21",
    "AF22", "AF23", "AF31", "AF32", "AF33", "AF41", "AF42", "AF43",
];

/// Limits of a workload endpoint's traffic; absent is unlimited. Directions are the workload's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QosControls {
    /// Bits a second towards the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_bandwidth: Option<u64>,
    /// Bits a second from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bandwidth: Option<u64>,
    /// Bits that may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<u64>,
    /// The same, from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<u64>,
    /// Bits a second within a burst.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_peakrate: Option<u64>,
    /// The same, from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_peakrate: Option<u64>,
    /// Bytes that may come at once within the peak rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_minburst: Option<u64>,
    /// The same, from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_minburst: Option<u64>,
    /// Packets a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_packet_rate: Option<u64>,
    /// The same, from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_packet_rate: Option<u64>,
    /// Packets that may come at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_packet_burst: Option<u64>,
    /// The same, from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_packet_burst: Option<u64>,
    /// Connections to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_max_connections: Option<u64>,
    /// Connections from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_max_connections: Option<u64>,
    /// The mark of packets that leave it: 0 to 63, or a name such as `AF41`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
}

/// A differentiated services code point, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dscp {
    /// 0 to 63.
    Number(u8),
    /// A name of IANA's registry.
    Name(String),
}

impl QosControls {
    /// Whether an annotation of this name asks for such a limit.
    pub fn is_annotation(name: &str) -> bool {
        name.starts_with(PREFIX) || OF_KUBERNETES.contains(&name)
    }

    /// What a pod's annotations, found through `get`, ask for; `None` without any limit. The texts tell what was changed or
    /// left out, and why.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> (Option<Self>, Vec<String>) {
        let mut reader = Reader { get, faults: Vec::new() };
        let ingress = reader.direction("ingress", OF_KUBERNETES[0]);
        let egress = reader.direction("egress", OF_KUBERNETES[1]);
        let controls = Self {
            ingress_bandwidth: ingress.bandwidth,
            egress_bandwidth: egress.bandwidth,
            ingress_burst: ingress.burst,
            egress_burst: egress.burst,
            ingress_peakrate: ingress.peakrate,
            egress_peakrate: egress.peakrate,
            ingress_minburst: ingress.minburst,
            egress_minburst: egress.minburst,
            ingress_packet_rate: ingress.packet_rate,
            egress_packet_rate: egress.packet_rate,
            ingress_packet_burst: ingress.packet_burst,
            egress_packet_burst: egress.packet_burst,
            ingress_max_connections: ingress.connections,
            egress_max_connections: egress.connections,
            dscp: reader.dscp(),
        };
        ((controls != Self::default()).then_some(controls), reader.faults)
    }
}

/// One direction's limits.
struct Direction {
    bandwidth: Option<u64>,
    burst: Option<u64>,
    peakrate: Option<u64>,
    minburst: Option<u64>,
    packet_rate: Option<u64>,
    packet_burst: Option<u64>,
    connections: Option<u64>,
}

struct Reader<F> {
    get: F,
    faults: Vec<String>,
}

impl<'a, F: Fn(&str) -> Option<&'a str>> Reader<F> {
    fn direction(&mut self, direction: &str, of_kubernetes: &str) -> Direction {
        let name = |limit: &str| format!("{PREFIX}{direction}{limit}");
        let own = self.limit(&name("Bandwidth"), BANDWIDTH);
        let bandwidth = own.or_else(|| self.limit(of_kubernetes, BANDWIDTH));
        let burst = self.limit(&name("Burst"), BITS_OF_BURST);
        let burst = self.needs(burst, &name("Burst"), bandwidth, "a bandwidth").or(bandwidth.map(|_| BURST));
        let peakrate = self.limit(&name("Peakrate"), PEAKRATE);
        let peakrate = self.needs(peakrate, &name("Peakrate"), bandwidth, "a bandwidth");
        let above = peakrate.filter(|rate| bandwidth.is_some_and(|bandwidth| *rate > bandwidth));
        let peakrate = self.needs(peakrate, &name("Peakrate"), above, "to be above the bandwidth");
        let minburst = self.limit(&name("Minburst"), MINBURST);
        let minburst = self.needs(minburst, &name("Minburst"), peakrate, "a peak rate");
        let packet_rate = self.limit(&name("PacketRate"), PACKETS);
        let packet_burst = self.limit(&name("PacketBurst"), PACKETS);
        let packet_burst = self.needs(packet_burst, &name("PacketBurst"), packet_rate, "a packet rate");
        Direction {
            bandwidth,
            burst,
            peakrate,
            minburst,
            packet_rate,
            packet_burst: packet_burst.or(packet_rate.map(|_| PACKET_BURST)),
            connections: self.limit(&name("MaxConnections"), CONNECTIONS),
        }
    }

    /// A quantity within its bounds.
    fn limit(&mut self, name: &str, (least, most): (u64, u64)) -> Option<u64> {
        let text = (self.get)(name).filter(|text| !text.is_empty())?;
        let shown: String = text.chars().take(40).collect();
        let Some(value) = quantity(text) else {
            self.faults.push(format!("{name} is \"{shown}\", which is no quantity as 10M or 1Gi; it is left out"));
            return None;
        };
        let clamped = value.clamp(i128::from(least), i128::from(most));
        if clamped != value {
            self.faults.push(format!("{name} is \"{shown}\", allowed is {least} to {most}; it counts as {clamped}"));
        }
        u64::try_from(clamped).ok()
    }

    /// A limit that means nothing without another.
    fn needs(&mut self, limit: Option<u64>, name: &str, other: Option<u64>, what: &str) -> Option<u64> {
        if limit.is_some() && other.is_none() {
            self.faults.push(format!("{name} needs {what}; it is left out"));
        }
        limit.filter(|_| other.is_some())
    }

    fn dscp(&mut self) -> Option<Dscp> {
        let name = format!("{PREFIX}dscp");
        let text = (self.get)(&name).map(str::trim).filter(|text| !text.is_empty())?;
        let number = text.parse::<u8>().ok().filter(|number| *number < 64).map(Dscp::Number);
        let named =
            || DSCP.iter().find(|known| known.eq_ignore_ascii_case(text)).map(|known| Dscp::Name((*known).to_owned()));
        let read = number.or_else(named);
        if read.is_none() {
            let shown: String = text.chars().take(40).collect();
            self.faults
                .push(format!("{name} is \"{shown}\", which is neither 0 to 63 nor a name as AF41; it is left out"));
        }
        read
    }
}

/// A quantity as Kubernetes writes it (`10M`, `1.5Gi`, `1e3`, `500m`), rounded up to a whole number.
fn quantity(text: &str) -> Option<i128> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() + fraction.len() > 24 {
        return None;
    }
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (factor, exponent) = scale(suffix)?;
    let exponent = exponent - i32::try_from(fraction.len()).ok()?;
    let power = 10i128.checked_pow(exponent.unsigned_abs());
    let product = mantissa.checked_mul(factor);
    let magnitude = match (product, power) {
        (Some(0), _) => 0,
        (Some(product), Some(power)) if exponent >= 0 => product.checked_mul(power).unwrap_or(i128::MAX),
        (None, _) | (_, None) if exponent >= 0 => i128::MAX,
        // Less than one, whatever it is exactly.
        (Some(_), None) => 1,
        (product, power) => {
            let (product, power) = (product.unwrap_or(i128::MAX), power.unwrap_or(i128::MAX));
            // Up is towards zero for what is negative.
            product / power + i128::from(!negative && product % power != 0)
        }
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|known| *known == suffix);
    if let Some(place) = binary {
        return Some((1i128 << (10 * (place + 1)), 0));
    }
    let decimal =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some((_, power)) = decimal.iter().find(|(known, _)| *known == suffix) {
        return Some((1, *power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let plain = (1..=3).contains(&digits.len()) && digits.bytes().all(|octet| octet.is_ascii_digit());
    if plain { Some((1, exponent.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Reads annotations without the usual beginning of their names.
    fn read(pairs: &[(&str, &str)]) -> (Value, Vec<String>) {
        let full = |name: &str| if name.contains('/') { name.to_owned() } else { format!("{PREFIX}{name}") };
        let annotations: BTreeMap<String, &str> = pairs.iter().map(|(name, text)| (full(name), *text)).collect();
        let (controls, faults) = QosControls::read(|name| annotations.get(name).copied());
        (serde_json::to_value(controls).unwrap(), faults)
    }

    #[test]
    fn limits_are_read_with_their_defaults() {
        assert_eq!(read(&[]), (Value::Null, vec![]));
        let (controls, faults) = read(&[
            ("ingressBandwidth", "10M"),
            ("ingressPeakrate", "20M"),
            ("ingressMinburst", "1500"),
            ("kubernetes.io/ingress-bandwidth", "5M"),
            ("kubernetes.io/egress-bandwidth", "1Gi"),
            ("egressBurst", "1M"),
            ("egressPacketRate", "100"),
            ("ingressMaxConnections", "1e3"),
            ("dscp", "af41"),
        ]);
        let expected = json!({
            "ingressBandwidth": 10_000_000, "ingressBurst": 4_294_967_296_u64, "ingressPeakrate": 20_000_000,
            "ingressMinburst": 1500, "egressBandwidth": 1_073_741_824, "egressBurst": 1_000_000,
            "egressPacketRate": 100, "egressPacketBurst": 5, "ingressMaxConnections": 1000, "dscp": "AF41",
        });
        assert_eq!((controls, faults), (expected, vec![]));
        assert_eq!(read(&[("dscp", "63")]).0, json!({ "dscp": 63 }));
    }

    #[test]
    fn what_is_out_of_bounds_is_moved_and_what_is_nonsense_left_out() {
        #[track_caller]
        fn check(pairs: &[(&str, &str)], expected: Value, text: &str) {
            let (controls, faults) = read(pairs);
            assert_eq!(controls, expected);
            assert!(faults.len() == 1 && faults[0].contains(text), "{faults:?}");
        }
        let burst = 4_294_967_296_u64;
        check(
            &[("ingressBandwidth", "1")],
            json!({ "ingressBandwidth": 1000, "ingressBurst": burst }),
            "counts as 1000",
        );
        check(&[("egressMaxConnections", "1T")], json!({ "egressMaxConnections": u32::MAX }), "counts as 4294967295");
        check(&[("egressMaxConnections", "-7")], json!({ "egressMaxConnections": 1 }), "\"-7\"");
        check(&[("ingressPacketRate", "fast")], Value::Null, "ingressPacketRate is \"fast\"");
        check(&[("ingressBurst", "1M")], Value::Null, "ingressBurst needs a bandwidth");
        check(&[("egressPacketBurst", "9")], Value::Null, "egressPacketBurst needs a packet rate");
        check(&[("ingressMinburst", "2000")], Value::Null, "needs a peak rate");
        let slow = [("ingressBandwidth", "1M"), ("ingressPeakrate", "1M")];
        check(&slow, json!({ "ingressBandwidth": 1_000_000, "ingressBurst": burst }), "to be above the bandwidth");
        check(&[("dscp", "64")], Value::Null, "dscp is \"64\"");
    }

    #[test]
    fn quantities_are_those_of_kubernetes_rounded_up() {
        for (text, value) in [
            ("0", 0),
            ("1", 1),
            ("+1", 1),
            ("10M", 10_000_000),
            ("1Ki", 1024),
            ("1.5Gi", 1_610_612_736),
            (".5", 1),
            ("5.", 5),
            ("1500m", 2),
            ("-1500m", -1),
            ("1n", 1),
            ("1e3", 1000),
            ("1E3", 1000),
            ("2E", 2_000_000_000_000_000_000),
            ("15e-1", 2),
            ("1e-999", 1),
            ("0e999", 0),
            ("1e999", i128::MAX),
            ("1e40", i128::MAX),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in [
            "",
            ".",
            "-",
            "x",
            "1x",
            "1 M",
            "1.2.3",
            "e3",
            "1e",
            "1e1234",
            "1ki",
            "NaN",
            "1000000000000000000000000000",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_within_bounds_or_left_out(text in "[-+.0-9eEkMGi]{0,12}|.{0,12}") {
            let (controls, _) = QosControls::read(|_| Some(text.as_str()));
            let controls = controls.unwrap_or_default();
            if let Some(bandwidth) = controls.egress_bandwidth {
                prop_assert!((BANDWIDTH.0..=BANDWIDTH.1).contains(&bandwidth));
            }
            prop_assert!(controls.ingress_packet_rate.is_none_or(|rate| (PACKETS.0..=PACKETS.1).contains(&rate)));
        }
    }
}
