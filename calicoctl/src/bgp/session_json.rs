//! How does a session look in JSON? Every field, named as in the resources where they have it.

use bgp_plan::sessions::SessionConfig;
use serde_json::{Value, json};

/// A session as an object.
pub(super) fn session(session: &SessionConfig) -> Value {
    let mut value = serde_json::to_value(session).expect("a session's fields are texts, numbers and lists");
    if let Some(fields) = value.as_object_mut() {
        fields.remove("origin");
        for (old, new) in [("localASNumber", "localAS"), ("asNumber", "peerAS"), ("resource", "bgpPeer")] {
            if let Some(field) = fields.remove(old) {
                fields.insert(new.to_owned(), field);
            }
        }
        fields.insert("type".to_owned(), json!(session.origin.words()));
    }
    value
}
