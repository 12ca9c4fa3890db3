//! How path attributes are read, and what each error in them costs (RFC 7606 §7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::{
    Aggregator, AsPath, AttributeFault, Attributes, Community, ExtendedCommunity, FaultKind, LargeCommunity, Origin,
    Treatment, UnknownAttribute,
};
use crate::iana::AttributeCode;
use crate::octets::Reader;
use crate::update::{UpdateError, read_nlri};
use crate::{Asn, ClusterId, Context, Family, Nlri, RouterId};

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;

/// What the attributes field of an UPDATE says.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// With the next hop of NEXT_HOP. To be used only if no fault means to withdraw.
    pub(crate) attributes: Attributes,
    pub(crate) reach: Option<Reach>,
    pub(crate) unreach: Option<Unreach>,
    pub(crate) faults: Vec<AttributeFault>,
}

/// MP_REACH_NLRI; without prefixes if the family is not one of ours.
#[derive(Debug)]
pub(crate) struct Reach {
    pub(crate) family: Option<Family>,
    pub(crate) next_hop: IpAddr,
    pub(crate) link_local: Option<Ipv6Addr>,
    pub(crate) nlri: Vec<Nlri>,
}

/// MP_UNREACH_NLRI; without prefixes if the family is not one of ours.
#[derive(Debug)]
pub(crate) struct Unreach {
    pub(crate) family: Option<Family>,
    pub(crate) nlri: Vec<Nlri>,
}

/// Attributes as far as they are read.
struct Decoder<'a> {
    cx: &'a Context,
    seen: [u128; 2],
    origin: Option<Origin>,
    as_path: Option<AsPath>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    next_hop: Option<IpAddr>,
    attributes: Attributes,
    reach: Option<Reach>,
    unreach: Option<Unreach>,
    faults: Vec<AttributeFault>,
}

/// Reads the attributes of a message; `classic` is whether it has prefixes in its NLRI field.
pub(crate) fn decode(mut octets: Reader<'_>, classic: bool, cx: &Context) -> Result<Decoded, UpdateError> {
    let mut decoder = Decoder {
        cx,
        seen: [0; 2],
        origin: None,
        as_path: None,
        as4_path: None,
        as4_aggregator: None,
        next_hop: None,
        attributes: Attributes::new(Ipv4Addr::UNSPECIFIED.into()),
        reach: None,
        unreach: None,
        faults: Vec::new(),
    };
    while !octets.is_empty() {
        let mut head = || {
            let (flags, code) = (octets.u8()?, octets.u8()?);
            let value = if flags & EXTENDED_LENGTH != 0 { octets.part_u16() } else { octets.part_u8() };
            Some((flags, code, value?))
        };
        match head() {
            Some((flags, code, value)) => decoder.attribute(flags, code, value)?,
            None => {
                // RFC 7606 §4: the total length is to be trusted, what is cut off is not.
                decoder.fault(AttributeCode::Unknown(0), FaultKind::Overrun, Treatment::TreatAsWithdraw);
                break;
            }
        }
    }
    Ok(decoder.finish(classic))
}

/// What a fault costs; `Ok` is none.
type Outcome = Result<(), (FaultKind, Treatment)>;

const WITHDRAW_LENGTH: (FaultKind, Treatment) = (FaultKind::Length, Treatment::TreatAsWithdraw);
const WITHDRAW_VALUE: (FaultKind, Treatment) = (FaultKind::Value, Treatment::TreatAsWithdraw);
const DISCARD_LENGTH: (FaultKind, Treatment) = (FaultKind::Length, Treatment::AttributeDiscard);
const DISCARD_UNEXPECTED: (FaultKind, Treatment) = (FaultKind::Unexpected, Treatment::AttributeDiscard);

impl Decoder<'_> {
    fn fault(&mut self, code: AttributeCode, kind: FaultKind, treatment: Treatment) {
        self.faults.push(AttributeFault { code, kind, treatment });
    }

    fn attribute(&mut self, flags: u8, number: u8, value: Reader<'_>) -> Result<(), UpdateError> {
        let code = AttributeCode::from(number);
        let bit = 1_u128 << (number % 128);
        let [low, high] = &mut self.seen;
        let seen = if number < 128 { low } else { high };
        if std::mem::replace(seen, *seen | bit) & bit != 0 {
            match code {
                AttributeCode::MpReachNlri => return Err(UpdateError::Twice("MP_REACH_NLRI")),
                AttributeCode::MpUnreachNlri => return Err(UpdateError::Twice("MP_UNREACH_NLRI")),
                _ => self.fault(code, FaultKind::Duplicate, Treatment::AttributeDiscard), // RFC 7606 §3 g
            }
            return Ok(());
        }
        let proper = match code {
            AttributeCode::Origin
            | AttributeCode::AsPath
            | AttributeCode::NextHop
            | AttributeCode::LocalPref
            | AttributeCode::AtomicAggregate => TRANSITIVE,
            AttributeCode::MultiExitDisc
            | AttributeCode::OriginatorId
            | AttributeCode::ClusterList
            | AttributeCode::MpReachNlri
            | AttributeCode::MpUnreachNlri => OPTIONAL,
            AttributeCode::Aggregator
            | AttributeCode::Communities
            | AttributeCode::ExtendedCommunities
            | AttributeCode::As4Path
            | AttributeCode::As4Aggregator
            | AttributeCode::LargeCommunities => OPTIONAL | TRANSITIVE,
            AttributeCode::Unknown(_) => flags & (OPTIONAL | TRANSITIVE),
        };
        if flags & (OPTIONAL | TRANSITIVE) != proper {
            self.fault(code, FaultKind::Flags, Treatment::TreatAsWithdraw); // RFC 7606 §3 c
            // The prefixes in it are needed all the same, to be withdrawn.
            if !matches!(code, AttributeCode::MpReachNlri | AttributeCode::MpUnreachNlri) {
                return Ok(());
            }
        }
        let outcome = match code {
            AttributeCode::MpReachNlri => {
                let reach = Reach::read(value, self.cx).ok_or(UpdateError::Multiprotocol("MP_REACH_NLRI"))?;
                let bad = reach.family.is_some() && !is_next_hop(reach.next_hop);
                self.reach = Some(reach);
                if bad { Err(WITHDRAW_VALUE) } else { Ok(()) }
            }
            AttributeCode::MpUnreachNlri => {
                let unreach = Unreach::read(value, self.cx).ok_or(UpdateError::Multiprotocol("MP_UNREACH_NLRI"))?;
                self.unreach = Some(unreach);
                Ok(())
            }
            AttributeCode::Unknown(_) if flags & OPTIONAL == 0 => {
                Err((FaultKind::Unrecognized, Treatment::TreatAsWithdraw))
            }
            AttributeCode::Unknown(code) => {
                if flags & TRANSITIVE != 0 {
                    let value = Bytes::copy_from_slice(value.rest());
                    self.attributes.unknown.push(UnknownAttribute { code, partial: true, value });
                }
                Ok(())
            }
            _ => self.known(code, value),
        };
        if let Err((kind, treatment)) = outcome {
            self.fault(code, kind, treatment);
        }
        Ok(())
    }

    /// An attribute other than the two that carry prefixes, with what each of its errors costs.
    fn known(&mut self, code: AttributeCode, mut value: Reader<'_>) -> Outcome {
        let wide = self.cx.four_octet_as;
        match code {
            AttributeCode::Origin => {
                let octet = whole(value, Reader::u8).ok_or(WITHDRAW_LENGTH)?;
                self.origin = Some(match octet {
                    0 => Origin::Igp,
                    1 => Origin::Egp,
                    2 => Origin::Incomplete,
                    _ => return Err(WITHDRAW_VALUE),
                });
            }
            AttributeCode::AsPath => self.as_path = Some(AsPath::read(value, wide).ok_or(WITHDRAW_VALUE)?),
            AttributeCode::NextHop => {
                let address = Ipv4Addr::from(whole(value, Reader::u32).ok_or(WITHDRAW_LENGTH)?).into();
                self.next_hop = Some(address);
                if !is_next_hop(address) {
                    return Err(WITHDRAW_VALUE);
                }
            }
            AttributeCode::MultiExitDisc => {
                self.attributes.med = Some(whole(value, Reader::u32).ok_or(WITHDRAW_LENGTH)?);
            }
            AttributeCode::LocalPref | AttributeCode::OriginatorId | AttributeCode::ClusterList
                if !self.cx.internal =>
            {
                return Err(DISCARD_UNEXPECTED);
            }
            AttributeCode::LocalPref => {
                self.attributes.local_pref = Some(whole(value, Reader::u32).ok_or(WITHDRAW_LENGTH)?);
            }
            AttributeCode::AtomicAggregate => {
                if !value.is_empty() {
                    return Err(DISCARD_LENGTH);
                }
                self.attributes.atomic_aggregate = true;
            }
            AttributeCode::Aggregator => {
                let asn = if wide { value.u32() } else { value.u16().map(u32::from) };
                let address = whole(value, Reader::u32);
                let (asn, address) = asn.zip(address).ok_or(DISCARD_LENGTH)?;
                self.attributes.aggregator = Some(Aggregator { asn: Asn(asn), address: address.into() });
            }
            AttributeCode::Communities => {
                self.attributes.communities = sorted(value, |part| part.u32().map(Community)).ok_or(WITHDRAW_LENGTH)?;
            }
            AttributeCode::OriginatorId => {
                let id = Ipv4Addr::from(whole(value, Reader::u32).ok_or(WITHDRAW_LENGTH)?);
                self.attributes.originator_id = Some(RouterId::try_from(id).map_err(|_| WITHDRAW_VALUE)?);
            }
            AttributeCode::ClusterList => {
                let id = |part: &mut Reader<'_>| part.u32().map(|id| ClusterId(id.into()));
                self.attributes.cluster_list = list(value, id).ok_or(WITHDRAW_LENGTH)?;
            }
            AttributeCode::ExtendedCommunities => {
                let read =
                    |part: &mut Reader<'_>| part.array().map(|octets| ExtendedCommunity(u64::from_be_bytes(octets)));
                self.attributes.extended_communities = sorted(value, read).ok_or(WITHDRAW_LENGTH)?;
            }
            AttributeCode::LargeCommunities => {
                let read = |part: &mut Reader<'_>| {
                    let (global, local_1, local_2) = (part.u32()?, part.u32()?, part.u32()?);
                    Some(LargeCommunity { global, local_1, local_2 })
                };
                self.attributes.large_communities = sorted(value, read).ok_or(WITHDRAW_LENGTH)?;
            }
            // RFC 6793 §4.1, §6: not from a speaker of four-octet numbers, and its errors cost only itself.
            AttributeCode::As4Path | AttributeCode::As4Aggregator if wide => return Err(DISCARD_UNEXPECTED),
            AttributeCode::As4Path => {
                let malformed = (FaultKind::Value, Treatment::AttributeDiscard);
                self.as4_path = Some(AsPath::read(value, true).ok_or(malformed)?);
            }
            AttributeCode::As4Aggregator => {
                let asn = value.u32();
                let (asn, address) = asn.zip(whole(value, Reader::u32)).ok_or(DISCARD_LENGTH)?;
                self.as4_aggregator = Some(Aggregator { asn: Asn(asn), address: address.into() });
            }
            AttributeCode::MpReachNlri | AttributeCode::MpUnreachNlri | AttributeCode::Unknown(_) => {}
        }
        Ok(())
    }

    fn finish(mut self, classic: bool) -> Decoded {
        let reachable = classic || self.reach.is_some();
        let bad = |code: AttributeCode, faults: &[AttributeFault]| faults.iter().any(|fault| fault.code == code);
        // RFC 7606 §3 d; one that came and was bad has its fault already.
        let missing = [
            (AttributeCode::Origin, reachable && self.origin.is_none()),
            (AttributeCode::AsPath, reachable && self.as_path.is_none()),
            (AttributeCode::NextHop, classic && self.next_hop.is_none()),
        ];
        for (code, missing) in missing {
            if missing && !bad(code, &self.faults) {
                self.fault(code, FaultKind::Missing, Treatment::TreatAsWithdraw);
            }
        }
        let mut attributes = self.attributes;
        attributes.origin = self.origin.unwrap_or_default();
        attributes.as_path = self.as_path.unwrap_or_default();
        if let Some(next_hop) = self.next_hop {
            attributes.next_hop = next_hop;
        }
        attributes.unknown.sort_by_key(|unknown| unknown.code);
        // RFC 6793 §4.2.3: an aggregator that knows its own number makes both four-octet attributes void.
        let void = attributes.aggregator.is_some_and(|aggregator| aggregator.asn != Asn::TRANS)
            && self.as4_aggregator.is_some();
        if !void {
            if let (Some(_), Some(wide)) = (&attributes.aggregator, self.as4_aggregator) {
                attributes.aggregator = Some(wide);
            }
            if let Some(wide) = self.as4_path {
                attributes.as_path = attributes.as_path.merge(wide);
            }
        }
        Decoded { attributes, reach: self.reach, unreach: self.unreach, faults: self.faults }
    }
}

/// A value that is one item and nothing more.
fn whole<'a, T>(mut value: Reader<'a>, read: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<T> {
    let item = read(&mut value)?;
    value.is_empty().then_some(item)
}

/// A value that is one or more items.
fn list<'a, T>(mut value: Reader<'a>, read: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut items = vec![read(&mut value)?];
    while !value.is_empty() {
        items.push(read(&mut value)?);
    }
    Some(items)
}

/// A value that is a set of one or more items.
fn sorted<'a, T: Ord>(value: Reader<'a>, read: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut items = list(value, read)?;
    items.sort_unstable();
    items.dedup();
    Some(items)
}

/// Whether packets can be sent to it: neither unspecified, nor multicast, nor reserved.
fn is_next_hop(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && v4.octets() < [224, 0, 0, 0],
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

impl Reach {
    fn read(mut value: Reader<'_>, cx: &Context) -> Option<Self> {
        let (afi, safi) = (value.u16()?, value.u8()?);
        let mut hop = value.part_u8()?;
        let _reserved = value.u8()?;
        let Some(family) = Family::from_codes(afi, safi) else {
            let next_hop = Ipv6Addr::UNSPECIFIED.into();
            return Some(Self { family: None, next_hop, link_local: None, nlri: Vec::new() });
        };
        let (next_hop, link_local) = match (family, hop.len()) {
            (Family::Ipv4Unicast, 4) => (Ipv4Addr::from(hop.u32()?).into(), None),
            (_, 16) => (Ipv6Addr::from(hop.array::<16>()?).into(), None),
            (_, 32) => {
                let (global, link_local) = (hop.array::<16>()?, Ipv6Addr::from(hop.array::<16>()?));
                (Ipv6Addr::from(global).into(), Some(link_local).filter(Ipv6Addr::is_unicast_link_local))
            }
            _ => return None,
        };
        let mut nlri = Vec::new();
        read_nlri(value, family, cx, &mut nlri)?;
        Some(Self { family: Some(family), next_hop, link_local, nlri })
    }
}

impl Unreach {
    fn read(mut value: Reader<'_>, cx: &Context) -> Option<Self> {
        let (afi, safi) = (value.u16()?, value.u8()?);
        let family = Family::from_codes(afi, safi);
        let mut nlri = Vec::new();
        if let Some(family) = family {
            read_nlri(value, family, cx, &mut nlri)?;
        }
        Some(Self { family, nlri })
    }
}
