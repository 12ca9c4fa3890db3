//! What is the password of a session?

use std::collections::BTreeMap;
use std::fmt;

use calico_api::BGPPassword;

/// A TCP MD5 key (RFC 2385). It never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// The longest key that TCP takes, in octets.
    pub const LIMIT: usize = 80;

    /// The octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// It is not read yet.
    Awaited,
    /// It does not exist.
    Missing,
    /// It cannot be read: the reason.
    Unreadable(String),
    /// Its keys, decoded.
    Known(BTreeMap<String, Password>),
}

/// Why a session has no password although one is configured; it stays down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPassword {
    /// The reference is incomplete.
    #[error("the password names no Secret and key: set password.secretKeyRef.name and .key")]
    NoReference,
    /// The Secret was not read yet.
    #[error("Secret {namespace}/{name} is not read yet")]
    Awaited {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
    },
    /// There is no such Secret.
    #[error("Secret {namespace}/{name} does not exist: create it, or correct the password's reference")]
    NoSecret {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
    },
    /// The Secret cannot be read.
    #[error("Secret {namespace}/{name} cannot be read: {reason}")]
    Unreadable {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The Secret lacks the key.
    #[error("Secret {namespace}/{name} has no key \"{key}\": add it, or correct the password's reference")]
    NoKey {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The key.
        key: String,
    },
    /// The value cannot be a key of TCP MD5.
    #[error("key \"{key}\" of Secret {namespace}/{name} is {octets} octets long: a password has 1 to 80")]
    Length {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The key.
        key: String,
        /// The value's length.
        octets: usize,
    },
}

/// The Secret that a password refers to, if it is complete.
pub fn secret_name(password: &BGPPassword) -> Option<&str> {
    let reference = password.secret_key_ref.as_ref()?;
    (!reference.name.is_empty() && !reference.key.is_empty()).then_some(reference.name.as_str())
}

/// The password of a session, from the Secrets of `namespace`.
///
/// # Errors
/// [`NoPassword`]. Departs from Calico, which then goes on without the password that was asked for.
pub fn resolve(
    password: &BGPPassword,
    namespace: &str,
    secrets: &BTreeMap<String, Secret>,
) -> Result<Password, NoPassword> {
    let namespace = namespace.to_owned();
    let Some(reference) = password.secret_key_ref.as_ref().filter(|_| secret_name(password).is_some()) else {
        return Err(NoPassword::NoReference);
    };
    let (name, key) = (reference.name.clone(), reference.key.clone());
    match secrets.get(&name) {
        None | Some(Secret::Awaited) => Err(NoPassword::Awaited { namespace, name }),
        Some(Secret::Missing) => Err(NoPassword::NoSecret { namespace, name }),
        Some(Secret::Unreadable(reason)) => Err(NoPassword::Unreadable { namespace, name, reason: reason.clone() }),
        Some(Secret::Known(keys)) => match keys.get(&key) {
            None => Err(NoPassword::NoKey { namespace, name, key }),
            Some(Password(octets)) if octets.is_empty() || octets.len() > Password::LIMIT => {
                Err(NoPassword::Length { namespace, name, key, octets: octets.len() })
            }
            Some(password) => Ok(password.clone()),
        },
    }
}

impl From<Vec<u8>> for Password {
    fn from(octets: Vec<u8>) -> Self {
        Self(octets)
    }
}

#[cfg(test)]
mod tests {
    use calico_api::SecretKeyRef;

    use super::*;

    #[test]
    fn a_password_is_there_or_the_reason_why_not_and_never_empty_or_printed() {
        let reference = |name: &str, key: &str| BGPPassword {
            secret_key_ref: Some(SecretKeyRef { name: name.into(), key: key.into(), optional: None }),
        };
        let known = |value: &[u8]| Secret::Known(BTreeMap::from([("rr".to_owned(), Password::from(value.to_vec()))]));
        let secrets = BTreeMap::from([
            ("good".to_owned(), known(b"sesame")),
            ("empty".to_owned(), known(b"")),
            ("long".to_owned(), known(&[b'x'; 81])),
            ("missing".to_owned(), Secret::Missing),
        ]);
        let of = |name: &str, key: &str| resolve(&reference(name, key), "kube-system", &secrets);
        assert_eq!(of("good", "rr").unwrap().octets(), b"sesame");
        assert!(!format!("{:?}", of("good", "rr")).contains("sesame"));
        for (name, key, expect) in [
            ("good", "tor", "Secret kube-system/good has no key \"tor\""),
            ("empty", "rr", "is 0 octets long"),
            ("long", "rr", "is 81 octets long"),
            ("missing", "rr", "Secret kube-system/missing does not exist"),
            ("other", "rr", "not read yet"),
            ("", "rr", "names no Secret"),
        ] {
            let error = of(name, key).unwrap_err().to_string();
            assert!(error.contains(expect), "{name}: {error}");
        }
    }
}
