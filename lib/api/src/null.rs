//! Decoding of `null` where a list, a map or a text is expected.
//!
//! Go's clients write `null` for empty ones, and people leave a key without a value.

use serde::{Deserialize, Deserializer};

/// `null` as the empty value; with `#[serde(default)]` an absent field too.
pub(crate) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
