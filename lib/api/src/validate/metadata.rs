//! Names, namespaces, labels and annotations, as Kubernetes wants them.

use super::{Faults, FieldError};
use crate::{Kind, ObjectMeta};

/// The longest name, in octets.
const MAX_NAME: usize = 253;

/// The longest label of DNS, and the longest name and value of a Kubernetes label, in octets.
const MAX_LABEL: usize = 63;

/// What all annotations may take together, in octets.
const MAX_ANNOTATIONS: usize = 256 << 10;

pub(super) const SUBDOMAIN: &str =
    "must consist of lower-case letters, digits, '-' and '.', and start and end each part with a letter or digit";
const LABEL: &str = "must consist of lower-case letters, digits and '-', and start and end with a letter or digit";
const POLICY: &str = "must be one or two parts, joined by a dot, of lower-case letters, digits and '-'";

pub(super) fn check(kind: Kind, metadata: &ObjectMeta, faults: &mut Faults) {
    let name = metadata.name();
    match kind {
        // Their names follow from their specs.
        Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle => {}
        _ if name.is_empty() => faults.add("Metadata.Name", name, "must be given"),
        Kind::Tier => {
            long(name, MAX_LABEL, faults);
            faults.unless(is_label(name), "Metadata.Name", name, LABEL);
        }
        Kind::NetworkPolicy | Kind::StagedNetworkPolicy => {
            long(name, MAX_NAME, faults);
            let generated = name.strip_prefix("knp.default.").or_else(|| name.strip_prefix("ossg.default."));
            let sound = is_policy(name) || generated.is_some_and(is_subdomain);
            faults.unless(sound, "Metadata.Name", name, POLICY);
        }
        Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => {
            long(name, MAX_NAME, faults);
            faults.unless(is_policy(name), "Metadata.Name", name, POLICY);
        }
        _ => {
            long(name, MAX_NAME, faults);
            faults.unless(is_subdomain(name), "Metadata.Name", name, SUBDOMAIN);
        }
    }
    match (kind.namespaced(), metadata.namespace.as_deref().unwrap_or_default()) {
        (true, "") => faults.add("Metadata.Namespace", "", format!("must be given: a {kind} lives in a namespace")),
        (true, namespace) => faults.unless(is_label(namespace), "Metadata.Namespace", namespace, LABEL),
        (false, "") => {}
        (false, namespace) => {
            faults.add("Metadata.Namespace", namespace, format!("must not be given: a {kind} is of the whole cluster"));
        }
    }
    for (key, value) in &metadata.labels {
        if !is_qualified(key) {
            faults.add("Metadata.Labels (label)", key, "must be a name, or a prefix and a name with '/' between them");
        }
        if !(value.is_empty() || is_name(value)) {
            faults.add(
                "Metadata.Labels (value)",
                value,
                "must be up to 63 letters, digits, '-', '_' and '.', and start and end with a letter or digit",
            );
        }
    }
    annotations(&metadata.annotations, faults);
}

pub(super) fn annotations<'a>(annotations: impl IntoIterator<Item = (&'a String, &'a String)>, faults: &mut Faults) {
    let mut size = 0;
    for (key, value) in annotations {
        size += key.len() + value.len();
        // Kubernetes looks at annotations' names without their case.
        if !is_qualified(&key.to_lowercase()) {
            faults.add(
                "Metadata.Annotations (key)",
                key,
                "must be a name, or a prefix and a name with '/' between them",
            );
        }
    }
    if size > MAX_ANNOTATIONS {
        let reason = format!("all annotations together are too large by {} bytes", size - MAX_ANNOTATIONS);
        faults.add("Metadata.Annotations", format!("{size} bytes"), reason);
    }
}

/// What a resource must not have when it is created.
pub fn validate_metadata_for_create(metadata: &ObjectMeta) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let revision = metadata.resource_version.as_deref().unwrap_or_default();
    faults.unless(revision.is_empty(), "Metadata.ResourceVersion", revision, "must not be given when creating");
    if metadata.name().is_empty() && metadata.generate_name.is_some() {
        let prefix = metadata.generate_name.as_deref().unwrap_or_default();
        faults.add("Metadata.GenerateName", prefix, "is not supported: give a name");
    }
    faults.0
}

/// What a resource must have when it is updated.
pub fn validate_metadata_for_update(metadata: &ObjectMeta) -> Vec<FieldError> {
    let mut faults = Faults::default();
    for (field, value) in [
        ("Metadata.ResourceVersion", &metadata.resource_version),
        ("Metadata.CreationTimestamp", &metadata.creation_timestamp),
        ("Metadata.UID", &metadata.uid),
    ] {
        if value.as_deref().unwrap_or_default().is_empty() {
            faults.add(field, "", "must be given when updating: read the object first");
        }
    }
    faults.0
}

fn long(name: &str, most: usize, faults: &mut Faults) {
    if name.len() > most {
        faults.add("Metadata.Name", name, format!("name is too long by {} bytes", name.len() - most));
    }
}

/// A label of DNS: `a-1`. Its length is looked at apart.
fn is_label(text: &str) -> bool {
    let alphanumeric = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
    let octets = text.as_bytes();
    octets.first().is_some_and(|first| alphanumeric(*first))
        && octets.last().is_some_and(|last| alphanumeric(*last))
        && octets.iter().all(|octet| alphanumeric(*octet) || *octet == b'-')
}

/// Labels joined by dots: `a-1.b`.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// One or two labels joined by a dot.
fn is_policy(text: &str) -> bool {
    text.split('.').count() <= 2 && is_subdomain(text)
}

/// The name in the key of a label, and the value of one.
fn is_name(text: &str) -> bool {
    let octets = text.as_bytes();
    octets.len() <= MAX_LABEL
        && octets.first().is_some_and(u8::is_ascii_alphanumeric)
        && octets.last().is_some_and(u8::is_ascii_alphanumeric)
        && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(octet))
}

/// A name with or without a prefix: `app`, `example.com/app`.
fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => prefix.len() <= MAX_NAME && is_subdomain(prefix) && is_name(name),
        None => is_name(text),
    }
}
