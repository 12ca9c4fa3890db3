//! Which ASes a path went through: AS_PATH (RFC 4271 §5.1.2) and its four-octet twin (RFC 6793).

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::Asn;
use crate::octets::Reader;

/// What the numbers of a segment say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// AS_SET (1): in no order.
    Set,
    /// AS_SEQUENCE (2): the nearest first.
    Sequence,
}

/// A part of an AS path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// What the numbers say together.
    pub kind: SegmentKind,
    /// The numbers; never empty, at most 255.
    pub asns: Vec<Asn>,
}

/// The ASes a path went through, the nearest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(Vec<Segment>);

impl AsPath {
    /// The path through these ASes in order.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> Self {
        let mut path = Self::default();
        let asns: Vec<_> = asns.into_iter().collect();
        path.prepend_all(&asns);
        path
    }

    /// The path of these segments; empty ones are left out, and those beyond 255 numbers are split.
    pub fn from_segments(segments: impl IntoIterator<Item = Segment>) -> Self {
        let split = |segment: Segment| {
            let kind = segment.kind;
            segment.asns.chunks(255).map(|asns| Segment { kind, asns: asns.to_vec() }).collect::<Vec<_>>()
        };
        Self(segments.into_iter().flat_map(split).collect())
    }

    /// The segments, the nearest first.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The length as the decision process counts it: a set is one (RFC 4271 §9.1.2.2 a).
    pub fn length(&self) -> usize {
        let length = |segment: &Segment| if segment.kind == SegmentKind::Set { 1 } else { segment.asns.len() };
        self.0.iter().map(length).sum()
    }

    /// Every number in the path.
    pub fn iter(&self) -> impl Iterator<Item = Asn> + '_ {
        self.0.iter().flat_map(|segment| segment.asns.iter().copied())
    }

    /// How often `asn` is in the path.
    pub fn count(&self, asn: Asn) -> usize {
        self.iter().filter(|other| *other == asn).count()
    }

    /// The AS that the path was learned from, which decides whose MED is comparable with whose
    /// (RFC 4271 §9.1.2.2 c): the first of a leading sequence. `None` if the path is our own AS's.
    pub fn neighbor(&self) -> Option<Asn> {
        let first = self.0.first().filter(|segment| segment.kind == SegmentKind::Sequence)?;
        first.asns.first().copied()
    }

    /// The AS that originated the path, if it ends in a sequence.
    pub fn origin(&self) -> Option<Asn> {
        let last = self.0.last().filter(|segment| segment.kind == SegmentKind::Sequence)?;
        last.asns.last().copied()
    }

    /// Whether the path begins with these ASes, in this order.
    pub fn begins_with(&self, asns: &[Asn]) -> bool {
        let ordered = self.0.iter().take_while(|segment| segment.kind == SegmentKind::Sequence);
        let mut ordered = ordered.flat_map(|segment| &segment.asns);
        asns.iter().all(|asn| ordered.next() == Some(asn))
    }

    /// Puts `asn` in front (RFC 4271 §5.1.2 b).
    pub fn prepend(&mut self, asn: Asn) {
        match self.0.first_mut() {
            Some(first) if first.kind == SegmentKind::Sequence && first.asns.len() < 255 => first.asns.insert(0, asn),
            _ => self.0.insert(0, Segment { kind: SegmentKind::Sequence, asns: vec![asn] }),
        }
    }

    /// Puts all of these in front, so that the path begins with them in this order.
    pub fn prepend_all(&mut self, asns: &[Asn]) {
        asns.iter().rev().for_each(|asn| self.prepend(*asn));
    }

    /// Reads a path; `None` if malformed: a segment of an unknown kind, without a number, or beyond the end (RFC 7606 §7.2).
    ///
    /// Departs from RFC 5065: confederation segments count as malformed, since this speaker is never in a confederation.
    pub(crate) fn read(mut octets: Reader<'_>, four_octet_as: bool) -> Option<Self> {
        let mut segments = Vec::new();
        while !octets.is_empty() {
            let kind = match octets.u8()? {
                1 => SegmentKind::Set,
                2 => SegmentKind::Sequence,
                _ => return None,
            };
            let count = octets.u8().filter(|count| *count > 0)?;
            let mut numbers = Reader::new(octets.take(usize::from(count) * if four_octet_as { 4 } else { 2 })?);
            let mut next = || if four_octet_as { numbers.u32() } else { numbers.u16().map(u32::from) };
            let asns = std::iter::from_fn(|| next().map(Asn)).collect();
            segments.push(Segment { kind, asns });
        }
        Some(Self(segments))
    }

    pub(crate) fn write(&self, four_octet_as: bool, out: &mut BytesMut) {
        for segment in &self.0 {
            for asns in segment.asns.chunks(255) {
                out.put_u8(if segment.kind == SegmentKind::Set { 1 } else { 2 });
                out.put_u8(asns.len() as u8);
                for asn in asns {
                    match four_octet_as {
                        true => out.put_u32(asn.0),
                        false => out.put_u16(asn.two_octets()),
                    }
                }
            }
        }
    }

    /// Whether a two-octet field cannot hold some number.
    pub(crate) fn is_wide(&self) -> bool {
        self.iter().any(|asn| asn.0 > 0xffff)
    }

    /// The path that a two-octet AS_PATH and the AS4_PATH beside it mean together (RFC 6793 §4.2.3): the leading
    /// part of this one, up to the length of both, then the four-octet one.
    pub(crate) fn merge(self, wide: Self) -> Self {
        let Some(mut lead) = self.length().checked_sub(wide.length()) else { return self };
        let mut segments: Vec<Segment> = Vec::new();
        for mut segment in self.0 {
            if lead == 0 {
                break;
            }
            if segment.kind == SegmentKind::Set {
                lead -= 1;
            } else {
                segment.asns.truncate(lead);
                lead -= segment.asns.len();
            }
            segments.push(segment);
        }
        for segment in wide.0 {
            match segments.last_mut() {
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && segment.kind == SegmentKind::Sequence
                        && last.asns.len() + segment.asns.len() <= 255 =>
                {
                    last.asns.extend(segment.asns);
                }
                _ => segments.push(segment),
            }
        }
        Self(segments)
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for segment in &self.0 {
            let (open, between, close) = if segment.kind == SegmentKind::Set { ("{", ",", "}") } else { ("", " ", "") };
            write!(f, "{space}{open}")?;
            for (index, asn) in segment.asns.iter().enumerate() {
                write!(f, "{}{asn}", if index == 0 { "" } else { between })?;
            }
            f.write_str(close)?;
            space = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(asns: &[u32]) -> Segment {
        Segment { kind: SegmentKind::Sequence, asns: asns.iter().copied().map(Asn).collect() }
    }

    fn set(asns: &[u32]) -> Segment {
        Segment { kind: SegmentKind::Set, ..sequence(asns) }
    }

    #[test]
    fn a_set_counts_as_one_and_the_neighbor_is_the_first_of_a_sequence() {
        let path = AsPath(vec![sequence(&[65001, 65002]), set(&[1, 2, 3])]);
        assert_eq!(path.length(), 3);
        assert_eq!(path.neighbor(), Some(Asn(65001)));
        assert_eq!(path.to_string(), "65001 65002 {1,2,3}");
        assert_eq!(AsPath(vec![set(&[1])]).neighbor(), None);
        assert!(path.begins_with(&[Asn(65001)]) && !path.begins_with(&[Asn(65002)]));
    }

    #[test]
    fn prepending_starts_a_new_segment_at_255_or_before_a_set() {
        let mut path = AsPath::sequence((0..255).map(Asn));
        path.prepend(Asn(7));
        assert_eq!(path.segments().len(), 2);
        assert_eq!(path.neighbor(), Some(Asn(7)));
        let mut path = AsPath(vec![set(&[1])]);
        path.prepend_all(&[Asn(8), Asn(9)]);
        assert_eq!(path.to_string(), "8 9 {1}");
    }

    /// RFC 6793 §4.2.3.
    #[test]
    fn a_four_octet_path_replaces_the_tail_of_the_two_octet_one() {
        #[track_caller]
        fn check(narrow: &[Segment], wide: &[Segment], expect: &str) {
            assert_eq!(AsPath(narrow.to_vec()).merge(AsPath(wide.to_vec())).to_string(), expect);
        }
        check(&[sequence(&[1, 23456, 23456])], &[sequence(&[100_000, 200_000])], "1 100000 200000");
        check(&[sequence(&[23456])], &[sequence(&[100_000])], "100000");
        // Longer than the two-octet one: not to be trusted, ignored.
        check(&[sequence(&[23456])], &[sequence(&[100_000, 200_000])], "23456");
        check(&[sequence(&[1, 2]), set(&[3, 4])], &[set(&[300_000, 4])], "1 2 {300000,4}");
        check(&[sequence(&[5]), set(&[6, 7]), sequence(&[23456])], &[sequence(&[70_000])], "5 {6,7} 70000");
    }
}
