//! What is to be done about the address of one tunnel device? (reference ipam-cni-datastore.md §4.12)

use std::net::IpAddr;

/// The device, as far as the kernel's side has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// The pools want it, and it does not come.
    Failing,
    /// It unwraps packets.
    Up,
    /// No pool wants it any more, and it still unwraps the packets of nodes that do not know that yet.
    Lingering,
    /// No pool wants it, and it is not there.
    Gone,
}

/// What IPAM says of the address on the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody has it, or no pool does.
    Nobody,
    /// This tunnel of this node.
    Ours,
    /// Somebody else, or a handle of which nothing more is known.
    Others,
    /// It is taken under no handle and for nobody: a tunnel's address of the early days.
    Unmarked,
    /// Somebody had it until a moment ago.
    CoolingDown,
}

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The device.
    pub(super) device: Device,
    /// The address on the Node.
    pub(super) stored: Option<IpAddr>,
    /// Who has that.
    pub(super) holder: Holder,
    /// Whether any pool is for this tunnel and node.
    pub(super) has_pool: bool,
    /// Whether the address on the Node is of such a pool.
    pub(super) inside: bool,
    /// An address that IPAM has under the tunnel's handle, that is of such a pool and not on the Node.
    pub(super) spare: Option<IpAddr>,
    /// Whether IPAM has others under the handle than that on the Node.
    pub(super) surplus: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as it should be, or it is not known yet what should be.
    Keep,
    /// Have an address that IPAM has given already on the device and on the Node, and release others of the handle.
    Announce(IpAddr),
    /// Take a new address, do the same with it, and release others of the handle only then: what the Node still says must be
    /// nobody else's, and it is not known beforehand whether there is another.
    Assign {
        /// Whether what a handle counts in excess is dropped before, if it has no address.
        tidy: bool,
    },
    /// Take the same address anew, under the tunnel's handle.
    Adopt(IpAddr),
    /// Take the address off the Node, so that nobody sends to a device that is not there; IPAM keeps it.
    Withdraw,
    /// Take the address off the Node and release it.
    Clear {
        /// Released, too, though it is under no handle.
        also: Option<IpAddr>,
    },
    /// There is no pool to take an address of.
    NoPool,
}

/// Decides.
pub(super) fn decide(facts: &Facts) -> Step {
    match facts.device {
        Device::Lingering => Step::Keep,
        Device::Failing if facts.stored.is_some() => Step::Withdraw,
        Device::Failing => Step::Keep,
        Device::Gone => Step::Clear { also: facts.stored.filter(|_| facts.holder == Holder::Unmarked) },
        // Departs from Calico, where a node without a pool for new addresses loses that of its tunnel, and with VXLAN every
        // pod of a pool that is being emptied: as long as some pool's packets go through the device it keeps its address.
        Device::Up if !facts.has_pool => match facts.stored {
            Some(_) if facts.holder == Holder::Ours => Step::Keep,
            _ => Step::NoPool,
        },
        Device::Up => up(facts),
    }
}

fn up(facts: &Facts) -> Step {
    let anew = |tidy| match facts.spare {
        // A Felix that was killed between IPAM and the Node had taken it.
        Some(spare) => Step::Announce(spare),
        None => Step::Assign { tidy },
    };
    match (facts.stored, facts.holder) {
        (None, _) => anew(true),
        // A Felix that was killed after an exchange had not released the old one.
        (Some(address), Holder::Ours) if facts.inside && facts.surplus => Step::Announce(address),
        (Some(_), Holder::Ours) if facts.inside => Step::Keep,
        (Some(_), Holder::Ours) => anew(false),
        (Some(_), Holder::Others) => anew(false),
        (Some(address), Holder::Unmarked) if facts.inside => Step::Adopt(address),
        (Some(_), Holder::Unmarked) => anew(false),
        (Some(_), Holder::Nobody) => anew(true),
        // Departs from Calico, whose start fails.
        (Some(_), Holder::CoolingDown) => anew(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const SPARE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9));

    /// Everything is well.
    const KEPT: Facts = Facts {
        device: Device::Up,
        stored: Some(STORED),
        holder: Holder::Ours,
        has_pool: true,
        inside: true,
        spare: None,
        surplus: false,
    };

    #[test]
    fn an_address_is_taken_kept_or_exchanged_as_ipam_and_pools_say() {
        let (unmarked, nobody) = (Holder::Unmarked, Holder::Nobody);
        let assign = |tidy| Step::Assign { tidy };
        for (case, facts, expected) in [
            ("ours, in a pool", KEPT, Step::Keep),
            ("none", Facts { stored: None, holder: nobody, ..KEPT }, assign(true)),
            ("none, but IPAM has one", Facts { stored: None, spare: Some(SPARE), ..KEPT }, Step::Announce(SPARE)),
            ("ours, and another", Facts { surplus: true, ..KEPT }, Step::Announce(STORED)),
            ("ours, and one more", Facts { spare: Some(SPARE), surplus: true, ..KEPT }, Step::Announce(STORED)),
            ("ours, of another pool", Facts { inside: false, ..KEPT }, assign(false)),
            (
                "ours, of another pool, and one that is not",
                Facts { inside: false, spare: Some(SPARE), surplus: true, ..KEPT },
                Step::Announce(SPARE),
            ),
            ("another's", Facts { holder: Holder::Others, ..KEPT }, assign(false)),
            (
                "another's, but IPAM has one",
                Facts { holder: Holder::Others, spare: Some(SPARE), ..KEPT },
                Step::Announce(SPARE),
            ),
            ("very old", Facts { holder: unmarked, ..KEPT }, Step::Adopt(STORED)),
            ("very old, of another pool", Facts { holder: unmarked, inside: false, ..KEPT }, assign(false)),
            ("not allocated", Facts { holder: nobody, ..KEPT }, assign(true)),
            ("cooling down", Facts { holder: Holder::CoolingDown, ..KEPT }, assign(true)),
        ] {
            assert_eq!(decide(&facts), expected, "{case}");
        }
    }

    #[test]
    fn nothing_is_announced_of_a_device_that_is_not_up_and_nothing_taken_from_one_that_others_may_still_use() {
        let none = Facts { stored: None, holder: Holder::Nobody, ..KEPT };
        for (case, facts, expected) in [
            ("it does not come", Facts { device: Device::Failing, ..none }, Step::Keep),
            ("it does not come any more", Facts { device: Device::Failing, ..KEPT }, Step::Withdraw),
            ("lingering", Facts { device: Device::Lingering, has_pool: false, inside: false, ..KEPT }, Step::Keep),
            ("lingering, without one", Facts { device: Device::Lingering, ..none }, Step::Keep),
            ("gone", Facts { device: Device::Gone, ..KEPT }, Step::Clear { also: None }),
            (
                "gone, very old",
                Facts { device: Device::Gone, holder: Holder::Unmarked, ..KEPT },
                Step::Clear { also: Some(STORED) },
            ),
            ("its pool takes no new addresses", Facts { has_pool: false, inside: false, ..KEPT }, Step::Keep),
            (
                "there is no pool, and another address",
                Facts { has_pool: false, inside: false, surplus: true, ..KEPT },
                Step::Keep,
            ),
            ("no pool", Facts { has_pool: false, ..none }, Step::NoPool),
            ("no pool, another's", Facts { has_pool: false, holder: Holder::Others, ..KEPT }, Step::NoPool),
        ] {
            assert_eq!(decide(&facts), expected, "{case}");
        }
    }
}
