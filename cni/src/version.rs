//! Which versions of the CNI specification do we speak, and what distinguishes them?

use serde_json::{Value, json};

use crate::error::{Code, Error};

/// Every version, oldest first.
const SUPPORTED: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A supported version of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(usize);

impl Version {
    /// 0.3.0: results list interfaces and any number of addresses.
    pub const INTERFACES: Self = Self(2);
    /// 0.4.0: CHECK.
    pub const CHECK: Self = Self(4);
    /// 1.0.0: an address no longer says which family it is of.
    pub const PLAIN_ADDRESSES: Self = Self(5);
    /// 1.0.0, for plugins that know no newer one.
    pub const COMMON: Self = Self(5);
    /// 1.1.0: GC and STATUS; an interface tells its MTU.
    pub const NEWEST: Self = Self(6);

    /// The version of a configuration's `cniVersion`. Without one it is 0.2.0, as Calico has it.
    ///
    /// # Errors
    /// Code 1, naming those we have.
    pub fn of(configuration: &Value) -> Result<Self, Error> {
        let asked = match configuration.get("cniVersion") {
            None | Some(Value::Null) => "",
            Some(Value::String(asked)) => asked,
            Some(other) => return Err(unsupported(&other.to_string())),
        };
        let asked = if asked.is_empty() { "0.2.0" } else { asked };
        SUPPORTED.iter().position(|known| *known == asked).map(Self).ok_or_else(|| unsupported(asked))
    }

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        SUPPORTED.get(self.0).expect("a version is made from a position in the list")
    }
}

fn unsupported(asked: &str) -> Error {
    let details = format!("cniVersion is {asked}; supported are {}", SUPPORTED.join(", "));
    Error::new(Code::IncompatibleVersion, "incompatible CNI version", details)
}

/// The answer to VERSION; `asked` is what standard input held, if anything.
pub fn answer(asked: &Value) -> Value {
    let version = asked.get("cniVersion").and_then(Value::as_str).filter(|version| !version.is_empty());
    json!({ "cniVersion": version.unwrap_or(Version::NEWEST.as_str()), "supportedVersions": SUPPORTED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_is_accepted_and_no_other() {
        for version in SUPPORTED {
            assert_eq!(Version::of(&json!({ "cniVersion": version })).unwrap().as_str(), version);
        }
        for none in [json!({}), json!({ "cniVersion": "" }), json!({ "cniVersion": null })] {
            assert_eq!(Version::of(&none).unwrap().as_str(), "0.2.0");
        }
        for other in [json!("0.5.0"), json!("1.2.0"), json!(1), json!("1.0")] {
            let error = Version::of(&json!({ "cniVersion": other })).unwrap_err();
            assert_eq!(error.code.number(), 1);
        }
        assert_eq!(Version::INTERFACES.as_str(), "0.3.0");
        assert_eq!(Version::CHECK.as_str(), "0.4.0");
        assert_eq!(Version::PLAIN_ADDRESSES.as_str(), "1.0.0");
        assert_eq!(Version::NEWEST.as_str(), "1.1.0");
    }
}
