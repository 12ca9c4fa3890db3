//! IP reservations: addresses that are never handed out by themselves.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Resource, Spec};

/// Addresses that nobody gets without asking for them.
pub type IPReservation = Resource<IPReservationSpec>;

/// Addresses that are kept back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IPReservationSpec {
    /// Networks; a bare address counts as itself alone.
    #[serde(skip_serializing_if = "Option::is_none", rename = "reservedCIDRs")]
    pub reserved_cidrs: Option<Vec<String>>,
}

impl Spec for IPReservationSpec {
    const KIND: Kind = Kind::IPReservation;
    type Status = NoStatus;
}
