//! What the API server's refusals mean to a caller.

use calico_api::{Key, Kind};

use super::Kubernetes;
use super::client::{Failure, Status};
use super::credentials::forbidden;
use crate::{Error, Revision};

/// What a refusal means for a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    NotFound,
    AlreadyExists,
    Conflict,
    Unauthorized,
    Rejected,
    /// The path, not the object, is what is not there.
    NotServed,
    /// The version asked for is too old, or of another life of the server's store.
    Compacted,
    Busy,
}

fn meaning(status: &Status) -> Meaning {
    let details = status.details.clone().unwrap_or_default();
    let about = |field: &str| details.causes.iter().any(|cause| cause.field == field);
    match (status.code, &*status.reason) {
        (404, _) if details.kind == "namespaces" => Meaning::Rejected,
        (404, _) if !details.name.is_empty() => Meaning::NotFound,
        (404, _) => Meaning::NotServed,
        (409, "AlreadyExists") => Meaning::AlreadyExists,
        (409, _) if status.message.contains("UID in precondition") => Meaning::NotFound,
        (409, _) => Meaning::Conflict,
        (422, _) if about("metadata.uid") => Meaning::NotFound,
        (422, _) if about("metadata.resourceVersion") => Meaning::Conflict,
        (401 | 403, _) => Meaning::Unauthorized,
        (410, _) => Meaning::Compacted,
        _ if details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge") => Meaning::Compacted,
        (429 | 500.., _) => Meaning::Busy,
        _ => Meaning::Rejected,
    }
}

impl Kubernetes {
    /// What a failure means for an operation on `key`.
    pub(super) fn failed(&self, key: &Key, failure: Failure) -> Error {
        let status = match failure {
            Failure::Unreachable(reason) => return self.unavailable(reason),
            Failure::Refused(status) => status,
        };
        match meaning(&status) {
            Meaning::NotFound => Error::NotFound(key.clone()),
            Meaning::AlreadyExists => Error::AlreadyExists(key.clone()),
            Meaning::Conflict => Error::Conflict(key.clone()),
            Meaning::Unauthorized => self.unauthorized(&status),
            Meaning::Rejected => Error::Rejected { key: key.clone(), reason: status.message },
            Meaning::NotServed => self.unavailable(self.not_served(key.kind())),
            Meaning::Compacted => Error::Compacted(status.message),
            Meaning::Busy => self.unavailable(format!("{} ({})", status.message, status.code)),
        }
    }

    /// What a failure means for a list or watch of a kind.
    pub(super) fn failed_list(&self, kind: Kind, from: Option<&Revision>, failure: Failure) -> Error {
        let status = match failure {
            Failure::Unreachable(reason) => return self.unavailable(reason),
            Failure::Refused(status) => status,
        };
        match meaning(&status) {
            Meaning::Unauthorized => self.unauthorized(&status),
            Meaning::Compacted => Error::Compacted(from.map_or(status.message, |from| from.0.clone())),
            Meaning::NotServed => self.unavailable(self.not_served(kind)),
            _ => self.unavailable(format!("{} ({})", status.message, status.code)),
        }
    }

    /// Whom the server does not know, or what it does not let them do; and what helps.
    pub(super) fn unauthorized(&self, status: &Status) -> Error {
        let store = crate::Backend::describe(self);
        Error::Unauthorized(match status.code {
            401 => format!("{store}: {} ({})", self.client.unknown(), status.message),
            _ => format!("{store}: {}", forbidden(&status.message)),
        })
    }

    pub(super) fn not_served(&self, kind: Kind) -> String {
        if kind.is_core() {
            return format!(
                "it serves no {} of {}; is it a Kubernetes of our time?",
                kind.plural(),
                kind.api_version()
            );
        }
        let (plural, group, folder) = (self.group.plural(kind), self.group.api_version(), self.group.folder());
        format!(
            "it serves no {plural} of {group}; apply the custom resource definitions: \
             kubectl apply --server-side -f manifests/crds/{folder}"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(status: Value, expect: Meaning) {
        assert_eq!(meaning(&serde_json::from_value(status).unwrap()), expect);
    }

    #[test]
    fn refusals_mean_what_they_mean_to_calico() {
        check(
            json!({"code": 404, "reason": "NotFound", "details": {"name": "a", "kind": "ippools"}}),
            Meaning::NotFound,
        );
        check(json!({"code": 404, "message": "404 page not found"}), Meaning::NotServed);
        check(
            json!({"code": 404, "reason": "NotFound", "details": {"name": "shop", "kind": "namespaces"}}),
            Meaning::Rejected,
        );
        check(json!({"code": 409, "reason": "AlreadyExists"}), Meaning::AlreadyExists);
        check(json!({"code": 409, "reason": "Conflict"}), Meaning::Conflict);
        check(
            json!({"code": 409, "reason": "Conflict", "message": "Precondition failed: UID in precondition: a"}),
            Meaning::NotFound,
        );
        check(json!({"code": 422, "details": {"causes": [{"field": "metadata.uid"}]}}), Meaning::NotFound);
        check(json!({"code": 422, "details": {"causes": [{"field": "metadata.resourceVersion"}]}}), Meaning::Conflict);
        check(json!({"code": 422, "details": {"causes": [{"field": "spec.cidr"}]}}), Meaning::Rejected);
        check(json!({"code": 403, "reason": "Forbidden"}), Meaning::Unauthorized);
        check(json!({"code": 401}), Meaning::Unauthorized);
        check(json!({"code": 410, "reason": "Expired"}), Meaning::Compacted);
        check(json!({"code": 504, "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}), Meaning::Compacted);
        check(json!({"code": 503}), Meaning::Busy);
        check(json!({"code": 429}), Meaning::Busy);
        check(json!({"code": 400}), Meaning::Rejected);
    }
}
