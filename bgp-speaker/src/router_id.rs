//! Which BGP identifier does a node have?

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

/// What `CALICO_ROUTER_ID` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterIdChoice {
    /// Nothing: the node's IPv4 address, or a hash of its name where it has none.
    #[default]
    Auto,
    /// `hash`: a hash of the node's name.
    Hash,
    /// This very identifier.
    Fixed(Ipv4Addr),
}

/// The text is not a router ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a router ID: write \"hash\", or a non-zero one in the form of an IPv4 address, 10.0.0.1")]
pub struct RouterIdError(String);

impl std::str::FromStr for RouterIdChoice {
    type Err = RouterIdError;

    fn from_str(text: &str) -> Result<Self, RouterIdError> {
        match text {
            "" => Ok(Self::Auto),
            "hash" => Ok(Self::Hash),
            text => match text.parse::<Ipv4Addr>() {
                Ok(id) if !id.is_unspecified() => Ok(Self::Fixed(id)),
                _ => Err(RouterIdError(text.to_owned())),
            },
        }
    }
}

impl RouterIdChoice {
    /// The identifier of the node of this name and, if it has one, this IPv4 address.
    pub fn resolve(self, node: &str, ipv4: Option<Ipv4Addr>) -> Ipv4Addr {
        match (self, ipv4) {
            (Self::Fixed(id), _) => id,
            (Self::Auto, Some(address)) => address,
            // Departs from Calico: it has no identifier here and renders a file that BIRD refuses.
            (Self::Auto, None) | (Self::Hash, _) => hashed(node),
        }
    }
}

/// The first four octets of the name's SHA-256, kept out of class E (multicast stays possible below 224).
fn hashed(node: &str) -> Ipv4Addr {
    let digest = Sha256::digest(node.as_bytes());
    let mut octets = [0; 4];
    for (octet, hashed) in octets.iter_mut().zip(digest.iter()) {
        *octet = *hashed;
    }
    if octets[0] > 223 {
        octets[0] -= 32;
    }
    Ipv4Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_router_ids_are_those_of_calico() {
        for (node, id) in [
            ("node-a", "102.87.15.240"),
            ("node-b", "147.239.55.198"),
            ("worker-1", "19.2.159.158"),
            ("kube-master", "25.79.212.8"),
            ("n13", "212.245.13.237"),
        ] {
            assert_eq!(RouterIdChoice::Hash.resolve(node, None).to_string(), id, "{node}");
        }
    }

    #[test]
    fn without_a_choice_the_ipv4_address_is_the_router_id_and_a_hash_where_there_is_none() {
        let address = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(RouterIdChoice::Auto.resolve("node-a", Some(address)), address);
        assert_eq!(RouterIdChoice::Auto.resolve("node-a", None).to_string(), "102.87.15.240");
        assert_eq!(
            "1.2.3.4".parse::<RouterIdChoice>().unwrap().resolve("node-a", Some(address)).to_string(),
            "1.2.3.4"
        );
        assert!("0.0.0.0".parse::<RouterIdChoice>().is_err());
        assert!("Hash".parse::<RouterIdChoice>().unwrap_err().to_string().contains("\"Hash\" is not a router ID"));
    }
}
