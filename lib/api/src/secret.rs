//! Kubernetes' Secrets, which hold BGP passwords. Their values are shown by no `Debug` and in no error.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::null::null_is_empty;
use crate::{Kind, NoStatus, Resource, Spec};

/// A Kubernetes Secret. The copy of itself that `kubectl apply` leaves in an annotation is not kept.
pub type Secret = Resource<SecretSpec>;

/// The values of a secret. Its fields stand beside `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretSpec {
    /// What it is for, `Opaque` or a longer word.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub secret_type: Option<String>,
    /// Values in base64.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, SecretText>,
    /// Values as they are; they win over those of the same key in `data`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub string_data: BTreeMap<String, SecretText>,
}

/// A text that is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        null_is_empty(deserializer).map(Self)
    }
}

/// The value of a secret cannot be read. The text does not show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data[\"{key}\"] is not base64; encode it, or put it into stringData")]
pub struct SecretError {
    /// The key.
    pub key: String,
}

impl SecretSpec {
    /// The octets under a key; `None` if there is no such key.
    ///
    /// # Errors
    /// If they stand in `data` and are not base64.
    pub fn value(&self, key: &str) -> Result<Option<Vec<u8>>, SecretError> {
        if let Some(text) = self.string_data.get(key) {
            return Ok(Some(text.0.as_bytes().to_vec()));
        }
        let Some(text) = self.data.get(key) else { return Ok(None) };
        // As Go reads it, line ends count for nothing.
        let digits: Vec<u8> = text.0.bytes().filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
        let octets = data_encoding::BASE64.decode(&digits).map_err(|_| SecretError { key: key.to_owned() })?;
        Ok(Some(octets))
    }
}

impl Spec for SecretSpec {
    const KIND: Kind = Kind::Secret;
    const FLAT: bool = true;
    const SECRET: bool = true;
    type Status = NoStatus;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyResource, documents};

    const FRAME: &str = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: bgp\n  namespace: kube-system\n  annotations:\n    \
                         kubectl.kubernetes.io/last-applied-configuration: '{\"stringData\":{\"rack\":\"hunter2\"}}'\n";

    fn secret(fields: &str) -> Secret {
        let mut read = documents(&format!("{FRAME}{fields}")).unwrap();
        read.remove(0).into_typed().unwrap()
    }

    #[test]
    fn values_are_found_encoded_and_plain_and_the_plain_one_wins() {
        let secret = secret("data: {a: aHVudGVy\nMg==, b: aHVudGVyMg==, c: '%'}\nstringData: {b: plain, d: null}\n");
        let value = |key: &str| secret.spec.value(key).map(|octets| octets.map(|it| String::from_utf8(it).unwrap()));
        assert_eq!(value("b"), Ok(Some("plain".to_owned())));
        assert_eq!(value("d"), Ok(Some(String::new())));
        assert_eq!(value("x"), Ok(None));
        assert_eq!(
            value("c").unwrap_err().to_string(),
            "data[\"c\"] is not base64; encode it, or put it into stringData"
        );
        let folded =
            SecretSpec { data: [("a".to_owned(), SecretText::new("aHVu\r\ndGVy\n"))].into(), ..SecretSpec::default() };
        assert_eq!(folded.value("a"), Ok(Some(b"hunter".to_vec())));
    }

    #[test]
    fn nothing_that_is_printed_shows_a_value() {
        let good = secret("data: {a: aHVudGVyMg==}\nstringData: {b: hunter2}\n");
        let shown = format!("{good:?} {:?}", AnyResource::from(good.clone()));
        assert!(!shown.contains("hunter2") && !shown.contains("aHVu"), "{shown}");
        // What is stored has the values, and no copy of them beside.
        let stored = serde_json::to_string(&good).unwrap();
        assert_eq!(stored.matches("hunter2").count(), 1, "{stored}");
        for wrong in [
            "data: hunter2",
            "data: {a: [hunter2]}",
            "stringData: {a: {b: hunter2}}",
            "type: {hunter2: 1}",
            "data: [hunter2]",
        ] {
            let error = documents(&format!("{FRAME}{wrong}\n")).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(error.to_string().contains("it is not what belongs there"), "{error}");
        }
    }
}
