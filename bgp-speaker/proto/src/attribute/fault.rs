//! What is wrong with an attribute, and what that costs (RFC 7606).

use std::fmt;

use crate::iana::AttributeCode;

/// A path attribute that could not be taken as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeFault {
    /// Which attribute.
    pub code: AttributeCode,
    /// What is wrong with it.
    pub kind: FaultKind,
    /// What was done about it.
    pub treatment: Treatment,
}

/// What is wrong with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The optional or transitive flag contradicts the type.
    Flags,
    /// A length that the type cannot have.
    Length,
    /// A value without meaning.
    Value,
    /// It came twice; the first counts.
    Duplicate,
    /// It is mandatory and did not come.
    Missing,
    /// It claims to be well-known, and we do not know it.
    Unrecognized,
    /// It has no business on a session of this kind.
    Unexpected,
    /// It goes beyond the attributes' total length.
    Overrun,
}

/// The classes of RFC 7606 §2 that leave the session up; session reset is [`UpdateError`](crate::UpdateError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Treatment {
    /// The attribute is ignored, the rest of the message counts.
    AttributeDiscard,
    /// The message's prefixes count as withdrawn.
    TreatAsWithdraw,
}

impl fmt::Display for AttributeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::Flags => "has wrong flags",
            FaultKind::Length => "has a wrong length",
            FaultKind::Value => "has a wrong value",
            FaultKind::Duplicate => "came twice",
            FaultKind::Missing => "is missing",
            FaultKind::Unrecognized => "is not known, but well-known it says",
            FaultKind::Unexpected => "must not come from this peer",
            FaultKind::Overrun => "is longer than all attributes together",
        };
        let cost = match self.treatment {
            Treatment::AttributeDiscard => "ignored",
            Treatment::TreatAsWithdraw => "its prefixes count as withdrawn",
        };
        match self.code {
            AttributeCode::Unknown(code) => write!(f, "attribute {code} {what}: {cost}"),
            code => write!(f, "attribute {code:?} {what}: {cost}"),
        }
    }
}
