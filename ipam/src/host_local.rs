//! What has the plugin `host-local` written of an address that it gave?
//!
//! It keeps a folder for each network with one file for each address: the name is the address, the first line the
//! container's id, the second the interface's name. Other files in it are a lock and the addresses given last.

use std::net::IpAddr;

/// An address that `host-local` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// The container's id.
    pub container_id: String,
}

impl Lease {
    /// From a file's name and content; `None` for a file that stands for no address.
    ///
    /// # Errors
    /// What is wrong with a file that stands for one.
    pub fn read(name: &str, content: &[u8]) -> Result<Option<Self>, &'static str> {
        // Releases that run on Windows, too, write an underscore for what is no part of a name there.
        let Ok(address) = name.replace('_', ":").parse::<IpAddr>() else { return Ok(None) };
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8")?;
        // Releases before 0.7 write the id alone, without an end of line; later ones end lines as Windows does.
        let container_id = text.lines().next().unwrap_or_default().trim();
        if container_id.is_empty() {
            return Err("its first line does not name a container");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if container_id.len() > 256 || !container_id.chars().all(plain) {
            return Err("its first line is no container's id");
        }
        Ok(Some(Self { address, container_id: container_id.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_named_after_addresses_are_leases_and_others_are_not() {
        #[track_caller]
        fn check(name: &str, content: &str, expected: Option<(&str, &str)>) {
            let lease = |(address, container): (&str, &str)| Lease {
                address: address.parse().unwrap(),
                container_id: container.to_owned(),
            };
            assert_eq!(Lease::read(name, content.as_bytes()), Ok(expected.map(lease)));
        }
        check("10.244.1.5", "4f1c0e\r\neth0", Some(("10.244.1.5", "4f1c0e")));
        check("10.244.1.6", " 4f1c0e\n", Some(("10.244.1.6", "4f1c0e")));
        check("fd00::5", "4f1c0e", Some(("fd00::5", "4f1c0e")));
        check("fd00__5", "4f1c0e\r\neth0", Some(("fd00::5", "4f1c0e")));
        check("lock", "", None);
        check("last_reserved_ip.0", "10.244.1.6", None);
        check("10.244.1.5.tmp", "x", None);
        for content in ["", "\r\neth0", "a b\r\neth0", "../..\r\n"] {
            assert!(Lease::read("10.244.1.5", content.as_bytes()).is_err(), "{content:?}");
        }
        assert!(Lease::read("10.244.1.5", &[0xff, b'\n']).is_err());
    }
}
