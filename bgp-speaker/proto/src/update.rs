//! What a peer can reach, and can no longer: the UPDATE message (RFC 4271 §4.3, RFC 4760, RFC 7606).

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::attribute::{self, AttributeFault, Attributes, Reach, Treatment};
use crate::iana::{ErrorCode, MessageType};
use crate::message::{HEADER, framed};
use crate::octets::Reader;
use crate::{Context, Family, Message, Nlri, Notification, Prefix};

/// The content of one or more UPDATE messages.
///
/// On the wire, IPv4 is in the classic fields and IPv6 in MP_REACH_NLRI and MP_UNREACH_NLRI; here they are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// What is no longer reachable, of any family.
    pub withdrawn: Vec<Nlri>,
    /// What is reachable, and how. More than one entry only if one message carries both families.
    pub advertised: Vec<Advertisement>,
}

/// Prefixes with the attributes they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The attributes, among them the next hop.
    pub attributes: Arc<Attributes>,
    /// The prefixes, of one family.
    pub nlri: Vec<Nlri>,
}

/// Why an UPDATE ends the session: what is reachable cannot be told any more (RFC 7606 §3, §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The lengths of withdrawn routes and attributes do not fit the message (RFC 7606 §3 b).
    #[error("the lengths in an UPDATE message contradict each other")]
    Lengths,
    /// A prefix longer than its family or than its field (RFC 7606 §5.3).
    #[error("an UPDATE message has a malformed prefix")]
    Nlri,
    /// MP_REACH_NLRI or MP_UNREACH_NLRI is malformed or has a next hop of an impossible length (RFC 7606 §5.3, §7.11).
    #[error("an UPDATE message has a malformed {0} attribute")]
    Multiprotocol(&'static str),
    /// MP_REACH_NLRI or MP_UNREACH_NLRI comes twice (RFC 7606 §3 g).
    #[error("an UPDATE message has the attribute {0} twice")]
    Twice(&'static str),
    /// An attribute is so wrong that prefixes should be withdrawn, but none can be found (RFC 7606 §5.2).
    #[error("an UPDATE message has malformed attributes and no prefix")]
    NothingToWithdraw,
}

impl From<UpdateError> for Notification {
    fn from(error: UpdateError) -> Self {
        let subcode = match error {
            UpdateError::Lengths | UpdateError::Twice(_) | UpdateError::NothingToWithdraw => 1,
            UpdateError::Nlri => 10,
            UpdateError::Multiprotocol(_) => 9,
        };
        Self::new(ErrorCode::UpdateMessage, subcode)
    }
}

/// Attributes that do not fit a message even with a single prefix; the prefixes cannot be advertised to this peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attributes of {octets} octets leave no room for a prefix in a message")]
pub struct EncodeError {
    /// Length of the encoded attributes.
    pub octets: usize,
}

impl Update {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.withdrawn.is_empty() && self.advertised.iter().all(|entry| entry.nlri.is_empty())
    }

    /// Appends the messages that say this, each as full as it gets: withdrawals first, then each advertisement; families
    /// are never mixed, nor withdrawals with advertisements (RFC 7606 §5.1).
    ///
    /// # Errors
    /// If some attributes do not fit; everything else is encoded all the same.
    pub fn encode(&self, cx: &Context, out: &mut BytesMut) -> Result<(), EncodeError> {
        encode_withdrawals(&self.withdrawn, cx, out);
        let mut result = Ok(());
        for entry in &self.advertised {
            result = result.and(encode_advertisement(&entry.attributes, &entry.nlri, cx, out));
        }
        result
    }
}

/// Appends the messages that withdraw these prefixes.
pub(crate) fn encode_withdrawals(nlri: &[Nlri], cx: &Context, out: &mut BytesMut) {
    for family in Family::ALL {
        let mut left = nlri.iter().filter(|nlri| nlri.prefix.family() == family).peekable();
        while left.peek().is_some() {
            framed(MessageType::Update, out, |out| {
                let start = out.len() - HEADER;
                match family {
                    Family::Ipv4Unicast => {
                        // Two octets of length before, two of the attributes' length after.
                        let length = out.len();
                        out.put_u16(0);
                        fill(&mut left, family, cx, out, start + cx.maximum() - 2);
                        set_length(out, length);
                        out.put_u16(0);
                    }
                    Family::Ipv6Unicast => {
                        out.put_u16(0);
                        let length = out.len();
                        out.put_u16(0);
                        out.put_slice(&[0x90, 15]); // optional, extended length; MP_UNREACH_NLRI
                        let attribute = out.len();
                        out.put_u16(0);
                        out.put_u16(family.afi());
                        out.put_u8(family.safi());
                        fill(&mut left, family, cx, out, start + cx.maximum());
                        set_length(out, attribute);
                        set_length(out, length);
                    }
                }
            });
        }
    }
}

/// Appends the messages that advertise these prefixes, all of the next hop's family, with these attributes.
pub(crate) fn encode_advertisement(
    attributes: &Attributes,
    nlri: &[Nlri],
    cx: &Context,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    for family in Family::ALL {
        let mut left = nlri.iter().filter(|nlri| nlri.prefix.family() == family).peekable();
        if left.peek().is_none() {
            continue;
        }
        let mut encoded = BytesMut::new();
        // Classic fields need an IPv4 next hop; IPv4 prefixes with an IPv6 one go as RFC 8950 has it.
        let classic = family == Family::Ipv4Unicast && attributes.next_hop.is_ipv4();
        attribute::encode(attributes, classic, cx, &mut encoded);
        // header, two lengths, attributes, MP_REACH_NLRI with a next hop of 32 octets, a prefix with path identifier
        if HEADER + 4 + encoded.len() + 4 + 37 + 21 > cx.maximum() {
            return Err(EncodeError { octets: encoded.len() });
        }
        while left.peek().is_some() {
            framed(MessageType::Update, out, |out| {
                let start = out.len() - HEADER;
                out.put_u16(0);
                let length = out.len();
                out.put_u16(0);
                if !classic {
                    // First, so that a receiver finds the prefixes whatever the rest is like (RFC 7606 §5.1).
                    out.put_slice(&[0x90, 14]); // optional, extended length; MP_REACH_NLRI
                    let attribute = out.len();
                    out.put_u16(0);
                    out.put_u16(family.afi());
                    out.put_u8(family.safi());
                    put_next_hop(attributes, out);
                    out.put_u8(0);
                    fill(&mut left, family, cx, out, start + cx.maximum() - encoded.len());
                    set_length(out, attribute);
                }
                out.put_slice(&encoded);
                set_length(out, length);
                if classic {
                    fill(&mut left, family, cx, out, start + cx.maximum());
                }
            });
        }
    }
    Ok(())
}

/// Appends the message that ends the initial advertisement of `family` (RFC 4724 §2).
pub(crate) fn encode_end_of_rib(family: Family, out: &mut BytesMut) {
    framed(MessageType::Update, out, |out| match family {
        Family::Ipv4Unicast => out.put_u32(0),
        Family::Ipv6Unicast => out.put_slice(&[0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1]),
    });
}

fn put_next_hop(attributes: &Attributes, out: &mut BytesMut) {
    match (attributes.next_hop, attributes.link_local) {
        (IpAddr::V4(address), _) => {
            out.put_u8(4);
            out.put_slice(&address.octets());
        }
        (IpAddr::V6(address), None) => {
            out.put_u8(16);
            out.put_slice(&address.octets());
        }
        (IpAddr::V6(address), Some(link_local)) => {
            out.put_u8(32);
            out.put_slice(&address.octets());
            out.put_slice(&link_local.octets());
        }
    }
}

/// Appends prefixes while they end at or before `limit`.
fn fill<'a>(
    left: &mut std::iter::Peekable<impl Iterator<Item = &'a Nlri>>,
    family: Family,
    cx: &Context,
    out: &mut BytesMut,
    limit: usize,
) {
    let with_id = cx.add_path_send.contains(family);
    let size = |nlri: &Nlri| 1 + nlri.prefix.significant().len() + if with_id { 4 } else { 0 };
    while let Some(nlri) = left.next_if(|nlri| out.len() + size(nlri) <= limit) {
        if with_id {
            out.put_u32(nlri.path_id);
        }
        out.put_u8(nlri.prefix.length());
        out.put_slice(nlri.prefix.significant());
    }
}

/// Sets the two octets at `at` to the number of octets after them.
fn set_length(out: &mut BytesMut, at: usize) {
    let length = u16::try_from(out.len() - at - 2).expect("a message has at most 65535 octets");
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Decodes the body of an UPDATE; faults that mean *treat as withdraw* have done so in the result.
pub(crate) fn decode(body: &[u8], cx: &Context) -> Result<(Message, Vec<AttributeFault>), UpdateError> {
    let mut octets = Reader::new(body);
    let withdrawn_field = octets.part_u16().ok_or(UpdateError::Lengths)?;
    let attribute_field = octets.part_u16().ok_or(UpdateError::Lengths)?;
    let classic = Family::Ipv4Unicast;

    let mut withdrawn = Vec::new();
    read_nlri(withdrawn_field, classic, cx, &mut withdrawn).ok_or(UpdateError::Nlri)?;
    let mut nlri = Vec::new();
    read_nlri(octets, classic, cx, &mut nlri).ok_or(UpdateError::Nlri)?;

    if body.len() == 4 {
        return Ok((Message::EndOfRib(classic), Vec::new()));
    }
    let attribute::Decoded { attributes, reach, unreach, mut faults } =
        attribute::decode(attribute_field, !nlri.is_empty(), cx)?;

    // End-of-RIB of a family: an empty MP_UNREACH_NLRI and nothing else.
    let alone = attribute_field.len() <= 7 && withdrawn.is_empty() && nlri.is_empty() && faults.is_empty();
    let ended = unreach.as_ref().filter(|unreach| alone && unreach.nlri.is_empty()).and_then(|unreach| unreach.family);
    if let Some(family) = ended.filter(|family| cx.families.contains(*family)) {
        return Ok((Message::EndOfRib(family), faults));
    }

    let reachable =
        !nlri.is_empty() || reach.as_ref().is_some_and(|reach| !reach.nlri.is_empty() || reach.family.is_none());
    let withdraw = faults.iter().any(|fault| fault.treatment == Treatment::TreatAsWithdraw);
    if withdraw && !reachable {
        return Err(UpdateError::NothingToWithdraw);
    }
    // Departs from RFC 4760 §7, which lets a session end for it: what was not negotiated is ignored.
    let spoken = |nlri: &Nlri| cx.families.contains(nlri.prefix.family());
    withdrawn.extend(unreach.into_iter().flat_map(|unreach| unreach.nlri));
    let mut update = Update { withdrawn, advertised: Vec::new() };
    if withdraw {
        update.withdrawn.extend(nlri);
        update.withdrawn.extend(reach.into_iter().flat_map(|reach| reach.nlri));
    } else {
        let reach = reach.filter(|reach| reach.family.is_some_and(|family| cx.families.contains(family)));
        let reach = reach.filter(|reach| !reach.nlri.is_empty());
        let classic_nlri = Some(nlri).filter(|nlri| !nlri.is_empty() && cx.families.contains(classic));
        let mut advertise = |attributes, nlri| {
            update.advertised.push(Advertisement { attributes: Arc::new(attributes), nlri });
        };
        match (classic_nlri, reach) {
            (Some(nlri), None) => advertise(attributes, nlri),
            (nlri, Some(Reach { next_hop, link_local, nlri: other, .. })) => {
                if let Some(nlri) = nlri {
                    advertise(attributes.clone(), nlri);
                }
                advertise(Attributes { next_hop, link_local, ..attributes }, other);
            }
            (None, None) => {}
        }
    }
    update.withdrawn.retain(spoken);
    faults.sort_by_key(|fault| std::cmp::Reverse(fault.treatment));
    Ok((Message::Update(update), faults))
}

/// Reads prefixes to the end; `None` if one is malformed.
pub(crate) fn read_nlri(mut octets: Reader<'_>, family: Family, cx: &Context, into: &mut Vec<Nlri>) -> Option<()> {
    let with_id = cx.add_path_receive.contains(family);
    // The commonest prefix takes four octets; the reserve is bounded by the message either way.
    into.reserve(octets.len() / 4);
    while !octets.is_empty() {
        let path_id = if with_id { octets.u32()? } else { 0 };
        into.push(Nlri { prefix: Prefix::read(&mut octets, family)?, path_id });
    }
    Some(())
}
