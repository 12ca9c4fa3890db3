//! What does a BGPFilter say of a path? (`bgp.md` §2.7)

use calico_api::BGPFilterSpec;

/// A BGPFilter, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpFilter {
    spec: BGPFilterSpec,
}

impl BgpFilter {
    /// Understands a resource.
    ///
    /// # Errors
    /// What is wrong with it: list, number of the rule, field.
    pub fn compile(spec: &BGPFilterSpec) -> Result<Self, String> {
        Ok(Self { spec: spec.clone() })
    }
}
