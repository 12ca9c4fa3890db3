//! How path attributes are written: by type, with the flags of RFC 4271 §4.3.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};

use super::{Attributes, Origin};
use crate::Context;
use crate::iana::AttributeCode;

const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const OPTIONAL_TRANSITIVE: u8 = 0xc0;
const PARTIAL: u8 = 0x20;
const EXTENDED_LENGTH: u8 = 0x10;

/// Appends all attributes but MP_REACH_NLRI; NEXT_HOP only for prefixes in the `classic` field.
pub(crate) fn encode(attributes: &Attributes, classic: bool, cx: &Context, out: &mut BytesMut) {
    let mut value = BytesMut::new();
    let mut put = |flags: u8, code: AttributeCode, write: &dyn Fn(&mut BytesMut)| {
        value.clear();
        write(&mut value);
        attribute(flags, code.into(), &value, out);
    };
    let wide = cx.four_octet_as;
    put(WELL_KNOWN, AttributeCode::Origin, &|value| {
        value.put_u8(match attributes.origin {
            Origin::Igp => 0,
            Origin::Egp => 1,
            Origin::Incomplete => 2,
        });
    });
    put(WELL_KNOWN, AttributeCode::AsPath, &|value| attributes.as_path.write(wide, value));
    if let (true, IpAddr::V4(next_hop)) = (classic, attributes.next_hop) {
        put(WELL_KNOWN, AttributeCode::NextHop, &|value| value.put_slice(&next_hop.octets()));
    }
    if let Some(med) = attributes.med {
        put(OPTIONAL, AttributeCode::MultiExitDisc, &|value| value.put_u32(med));
    }
    if let Some(local_pref) = attributes.local_pref {
        put(WELL_KNOWN, AttributeCode::LocalPref, &|value| value.put_u32(local_pref));
    }
    if attributes.atomic_aggregate {
        put(WELL_KNOWN, AttributeCode::AtomicAggregate, &|_| ());
    }
    if let Some(aggregator) = attributes.aggregator {
        put(OPTIONAL_TRANSITIVE, AttributeCode::Aggregator, &|value| {
            match wide {
                true => value.put_u32(aggregator.asn.0),
                false => value.put_u16(aggregator.asn.two_octets()),
            }
            value.put_slice(&aggregator.address.octets());
        });
    }
    if !attributes.communities.is_empty() {
        put(OPTIONAL_TRANSITIVE, AttributeCode::Communities, &|value| {
            attributes.communities.iter().for_each(|community| value.put_u32(community.0));
        });
    }
    if let Some(id) = attributes.originator_id {
        put(OPTIONAL, AttributeCode::OriginatorId, &|value| value.put_u32(id.number()));
    }
    if !attributes.cluster_list.is_empty() {
        put(OPTIONAL, AttributeCode::ClusterList, &|value| {
            attributes.cluster_list.iter().for_each(|id| value.put_slice(&id.0.octets()));
        });
    }
    if !attributes.extended_communities.is_empty() {
        put(OPTIONAL_TRANSITIVE, AttributeCode::ExtendedCommunities, &|value| {
            attributes.extended_communities.iter().for_each(|community| value.put_u64(community.0));
        });
    }
    // RFC 6793 §4.2.2: what two octets cannot say goes beside it.
    if !wide && attributes.as_path.is_wide() {
        put(OPTIONAL_TRANSITIVE, AttributeCode::As4Path, &|value| attributes.as_path.write(true, value));
    }
    if let Some(aggregator) = attributes.aggregator.filter(|aggregator| !wide && aggregator.asn.0 > 0xffff) {
        put(OPTIONAL_TRANSITIVE, AttributeCode::As4Aggregator, &|value| {
            value.put_u32(aggregator.asn.0);
            value.put_slice(&aggregator.address.octets());
        });
    }
    if !attributes.large_communities.is_empty() {
        put(OPTIONAL_TRANSITIVE, AttributeCode::LargeCommunities, &|value| {
            for community in &attributes.large_communities {
                value.put_u32(community.global);
                value.put_u32(community.local_1);
                value.put_u32(community.local_2);
            }
        });
    }
    for unknown in &attributes.unknown {
        let partial = if unknown.partial { PARTIAL } else { 0 };
        attribute(OPTIONAL_TRANSITIVE | partial, unknown.code, &unknown.value, out);
    }
}

fn attribute(flags: u8, code: u8, value: &[u8], out: &mut BytesMut) {
    match u8::try_from(value.len()) {
        Ok(length) => out.put_slice(&[flags, code, length]),
        Err(_) => {
            out.put_slice(&[flags | EXTENDED_LENGTH, code]);
            // Longer values make the message too long, which is refused before anything is sent.
            out.put_u16(u16::try_from(value.len()).unwrap_or(u16::MAX));
        }
    }
    out.put_slice(value);
}
