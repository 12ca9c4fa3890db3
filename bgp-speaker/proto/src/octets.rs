//! How foreign octets are read: from the front, never past the end.

/// Octets not yet read. Every method yields `None`, and takes nothing, if too few are left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a part whose length, in octets, is the next octet.
    pub(crate) fn part_u8(&mut self) -> Option<Self> {
        let mut ahead = *self;
        let length = ahead.u8()?;
        let part = ahead.take(length.into())?;
        *self = ahead;
        Some(Self(part))
    }

    /// Takes a part whose length, in octets, is the next two octets.
    pub(crate) fn part_u16(&mut self) -> Option<Self> {
        let mut ahead = *self;
        let length = ahead.u16()?;
        let part = ahead.take(length.into())?;
        *self = ahead;
        Some(Self(part))
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
