//! Decoding of what a person wrote: nothing unknown passes.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a value could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum StrictError {
    /// A field that the type does not have; its path, such as `spec.cider`.
    #[error("unknown field \"{0}\"")]
    UnknownField(String),
    /// The value is not of the type.
    #[error("{}{source}", prefix(.path))]
    Decode {
        /// The field that is at fault, such as `spec.ingress[0].action`; `.` for the value as a whole.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// What stands before the reason; nothing if the reason names the place itself, or is about the value as a whole.
pub(crate) fn prefix(path: &str) -> String {
    if path == "." { String::new() } else { format!("{path}: ") }
}

/// Decodes `value` and refuses fields that `T` does not have.
///
/// # Errors
/// [`StrictError::UnknownField`] for the first unknown field, [`StrictError::Decode`] if the value is not a `T`.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, StrictError> {
    let mut unknown = None;
    let mut note = |path: serde_ignored::Path<'_>| {
        unknown.get_or_insert_with(|| readable(&path.to_string()));
    };
    // The values as such are read before the fields that are left over, so an unknown field wins over a bad value.
    let decoded = {
        let mut track = serde_path_to_error::Track::new();
        let outer = serde_path_to_error::Deserializer::new(value, &mut track);
        let decoded = T::deserialize(serde_ignored::Deserializer::new(outer, &mut note));
        decoded.map_err(|source| StrictError::Decode { path: track.path().to_string(), source })
    };
    match unknown {
        Some(path) => Err(StrictError::UnknownField(path)),
        None => decoded,
    }
}

/// Decodes `value`, lets fields pass that `T` does not have, and names the field that is at fault.
///
/// # Errors
/// [`StrictError::Decode`] if the value is not a `T`.
pub fn lenient_from_value<T: DeserializeOwned>(value: Value) -> Result<T, StrictError> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| StrictError::Decode { path: error.path().to_string(), source: error.into_inner() })
}

/// A path without the marks for `Option`, and with elements of lists as `[0]`.
fn readable(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        if !part.is_empty() && part.bytes().all(|octet| octet.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(part);
        }
    }
    out
}
