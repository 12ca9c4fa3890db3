//! Files of resources: which resources stand in a text of several documents.

use serde_json::Value;

use crate::strict::{StrictError, prefix};
use crate::yaml::{self, SyntaxError};
use crate::{AnyResource, Kind, ResourceError};

/// The longest document, in octets.
const MAX_DOCUMENT: usize = 10 << 20;

/// Why a file could not be read, and where in it.
#[derive(Debug, thiserror::Error)]
#[error("{fault} (document {document}, from line {line})")]
pub struct DocumentError {
    /// Which document, from 1; empty ones are not counted.
    pub document: usize,
    /// The line at which that document starts, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: DocumentFault,
}

/// What is wrong with a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentFault {
    /// More than 10 MiB.
    #[error("the document has {0} octets: the most is {MAX_DOCUMENT}")]
    TooLong(usize),
    /// Neither YAML nor JSON.
    #[error("{message}", message = syntax(.0))]
    Syntax(SyntaxError),
    /// A scalar, or a list of other things than resources.
    #[error("a document must be a resource, a list of resources or a …List, not {0}")]
    NotAResource(&'static str),
    /// The pair of `apiVersion` and `kind` is none of ours.
    #[error("unknown resource type ({kind}) and/or version ({api_version})")]
    UnknownType {
        /// As it was written; empty if it was not.
        kind: String,
        /// As it was written; empty if it was not.
        api_version: String,
    },
    /// A field that the kind does not have; its path, such as `spec.cider` or `items[2].spec.cider`.
    #[error("field in document is not recognized or is in the wrong location: {}", last(.0))]
    UnknownField(String),
    /// A value that is not of its field's type.
    #[error("{object}{}{message}", prefix(.path), object = called(.object))]
    Value {
        /// Which resource, `BGPFilter(only-pools)`; empty if that cannot be told.
        object: String,
        /// The field's path.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

fn syntax(error: &SyntaxError) -> String {
    match error.line {
        Some(line) => format!("{} at line {line}", error.message),
        None => error.message.clone(),
    }
}

/// What stands before the place of a fault.
fn called(object: &str) -> String {
    if object.is_empty() { String::new() } else { format!("{object}: ") }
}

/// What a value calls itself, as far as it does.
fn object(map: &serde_json::Map<String, Value>) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let part = |field: &str| text(map.get("metadata").and_then(|metadata| metadata.get(field)));
    match (text(map.get("kind")), part("namespace"), part("name")) {
        (kind, _, name) if kind.is_empty() || name.is_empty() => String::new(),
        (kind, namespace, name) if namespace.is_empty() => format!("{kind}({name})"),
        (kind, namespace, name) => format!("{kind}({namespace}/{name})"),
    }
}

/// The last part of a path, and the whole where it has more.
fn last(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((_, last)) => format!("{last}, at {path}"),
        None => path.to_owned(),
    }
}

/// Reads the resources of a text: documents of YAML or JSON between lines of `---`, each of them a resource, a list of
/// resources, or an object such as `IPPoolList` or kubectl's `List` that holds one.
///
/// # Errors
/// For the first document that has something unknown, twice or of the wrong type. Nothing of the text is returned then.
pub fn documents(text: &str) -> Result<Vec<AnyResource>, DocumentError> {
    Ok(placed_documents(text)?.into_iter().map(|placed| placed.resource).collect())
}

/// A resource and where in the text it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The resource.
    pub resource: AnyResource,
    /// Which document, from 1; empty ones are not counted.
    pub document: usize,
    /// The line at which that document starts, from 1.
    pub line: usize,
}

/// As [`documents`], with the place of each resource.
///
/// # Errors
/// As [`documents`].
pub fn placed_documents(text: &str) -> Result<Vec<Placed>, DocumentError> {
    let mut placed = Vec::new();
    let mut document = 0;
    for (line, text) in split(text) {
        if text.trim().is_empty() {
            continue;
        }
        let read = if text.len() > MAX_DOCUMENT {
            Err(DocumentFault::TooLong(text.len()))
        } else {
            yaml::parse(text).map_err(|error| {
                DocumentFault::Syntax(SyntaxError { line: error.line.map(|within| within + line - 1), ..error })
            })
        };
        if matches!(read, Ok(Value::Null)) {
            continue;
        }
        document += 1;
        let fault = |fault| DocumentError { document, line, fault };
        let mut resources = Vec::new();
        unpack(read.map_err(fault)?, &mut resources).map_err(fault)?;
        placed.extend(resources.into_iter().map(|resource| Placed { resource, document, line }));
    }
    Ok(placed)
}

/// The documents with the line on which each starts.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            parts.push((start_line, text.get(start..at).unwrap_or_default()));
            // What stands behind the dashes is already of the next document.
            start = at + line.len() - rest.len();
            start_line = index + 1;
        }
        at += line.len();
    }
    parts.push((start_line, text.get(start..).unwrap_or_default()));
    parts
}

fn unpack(value: Value, resources: &mut Vec<AnyResource>) -> Result<(), DocumentFault> {
    match value {
        Value::Array(list) => {
            for (index, element) in list.into_iter().enumerate() {
                unpack(element, resources).map_err(|fault| within(&format!("[{index}]"), fault))?;
            }
            Ok(())
        }
        Value::Object(map) => {
            let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
            let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
            match kind.strip_suffix("List").map(Kind::from_name) {
                Some(Some(kind)) if version == kind.api_version() => unpack_list(Some(kind), map, resources),
                Some(None) if kind == "List" && version == "v1" => unpack_list(None, map, resources),
                _ => {
                    let object = object(&map);
                    let read = AnyResource::strict_from_value(Value::Object(map));
                    resources.push(read.map_err(|error| DocumentFault::of(object, error))?);
                    Ok(())
                }
            }
        }
        Value::Null => Err(DocumentFault::NotAResource("nothing")),
        Value::Bool(_) => Err(DocumentFault::NotAResource("true or false")),
        Value::Number(_) => Err(DocumentFault::NotAResource("a number")),
        Value::String(_) => Err(DocumentFault::NotAResource("a text")),
    }
}

/// A list object: its items, which may leave out what the list's kind, if it has one, already says.
fn unpack_list(
    kind: Option<Kind>,
    map: serde_json::Map<String, Value>,
    resources: &mut Vec<AnyResource>,
) -> Result<(), DocumentFault> {
    for (field, value) in map {
        match (field.as_str(), value) {
            ("apiVersion" | "kind" | "metadata", _) | ("items", Value::Null) => {}
            ("items", Value::Array(items)) => {
                for (index, mut item) in items.into_iter().enumerate() {
                    if let (Some(item), Some(kind)) = (item.as_object_mut(), kind) {
                        item.entry("apiVersion").or_insert_with(|| kind.api_version().into());
                        item.entry("kind").or_insert_with(|| kind.as_str().into());
                    }
                    let place = format!("items[{index}]");
                    if !item.is_object() {
                        let message = format!("invalid type, expected a {}", kind.map_or("resource", Kind::as_str));
                        return Err(DocumentFault::Value { object: String::new(), path: place, message });
                    }
                    unpack(item, resources).map_err(|fault| within(&place, fault))?;
                }
            }
            ("items", _) => {
                let message = "invalid type, expected a list".to_owned();
                return Err(DocumentFault::Value { object: String::new(), path: field, message });
            }
            _ => return Err(DocumentFault::UnknownField(field)),
        }
    }
    Ok(())
}

/// The fault with its path seen from further out.
fn within(place: &str, fault: DocumentFault) -> DocumentFault {
    let join = |path: String| match path.as_str() {
        "." => place.to_owned(),
        path if path.starts_with('[') => format!("{place}{path}"),
        path => format!("{place}.{path}"),
    };
    match fault {
        DocumentFault::UnknownField(path) => DocumentFault::UnknownField(join(path)),
        DocumentFault::Value { object, path, message } => DocumentFault::Value { object, path: join(path), message },
        other => other,
    }
}

impl DocumentFault {
    fn of(object: String, error: ResourceError) -> Self {
        match error {
            ResourceError::UnknownType { kind, api_version } => Self::UnknownType { kind, api_version },
            ResourceError::Decode(StrictError::UnknownField(path)) => Self::UnknownField(path),
            ResourceError::Decode(StrictError::Decode { path, source }) => {
                Self::Value { object, path, message: source.to_string() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str =
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/16}\n";

    #[track_caller]
    fn check_names(text: &str, expected: &[&str]) {
        let names: Vec<_> = documents(text).unwrap().iter().map(|resource| resource.key().to_string()).collect();
        assert_eq!(names, expected);
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(documents(text).expect_err("the text must be refused").to_string(), expected);
    }

    #[test]
    fn a_text_has_documents_lists_and_sequences() {
        let second = POOL.replace("name: a", "name: b");
        check_names(&format!("---\n# first\n{POOL}---\n\n--- # second\n{second}---\n"), &["IPPool(a)", "IPPool(b)"]);
        check_names(&format!("{POOL}---\r\n{second}"), &["IPPool(a)", "IPPool(b)"]);
        let list = "apiVersion: projectcalico.org/v3\nkind: BGPPeerList\nmetadata: {resourceVersion: '7'}\nitems:\n\
                    - {metadata: {name: p}}\n- {kind: BGPPeer, metadata: {name: q}, spec: {}}\n";
        check_names(list, &["BGPPeer(p)", "BGPPeer(q)"]);
        let both = format!(
            "[{{\"apiVersion\":\"projectcalico.org/v3\",\"kind\":\"Tier\",\"metadata\":{{\"name\":\"t\"}}}}]\n---\n{list}"
        );
        check_names(&both, &["Tier(t)", "BGPPeer(p)", "BGPPeer(q)"]);
        check_names("", &[]);
        check_names("---\n# only a comment\n---\n", &[]);
    }

    #[test]
    fn an_error_says_which_field_of_which_document() {
        check_error(
            &format!("{POOL}---\n{}", POOL.replace("cidr:", "cider: 1, cidr:")),
            "field in document is not recognized or is in the wrong location: cider, at spec.cider (document 2, from line 5)",
        );
        check_error(
            &POOL.replace("spec: {", "spec: {blockSize: big, "),
            "IPPool(a): spec.blockSize: invalid type: string \"big\", expected u8 (document 1, from line 1)",
        );
        check_error(
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicyList\nitems: [{spec: {ingress: [{action: Permit}]}}]",
            "items[0].spec.ingress[0].action: unknown variant `Permit`, expected one of `Allow`, `Deny`, `Log`, `Pass` \
             (document 1, from line 1)",
        );
        check_error(
            "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: only-pools}\nspec:\n  exportV4:\n  \
             - action: Reject\n  - {action: Accept, cidr: 10.0.0.0/8, matchOperator: Within}",
            "BGPFilter(only-pools): spec.exportV4[1].matchOperator: unknown variant `Within`, expected one of `Equal`, \
             `NotEqual`, `In`, `NotIn` (document 1, from line 1)",
        );
        check_error(
            "apiVersion: v1\nkind: IPPool\nmetadata: {}",
            "unknown resource type (IPPool) and/or version (v1) (document 1, from line 1)",
        );
        check_error("kind: Tier", "unknown resource type (Tier) and/or version () (document 1, from line 1)");
        check_error(
            &format!("{POOL}---\na: 1\nb: [\n"),
            "did not find expected node content at line 8 (document 2, from line 5)",
        );
        check_error(
            &format!("{POOL}metadata: {{}}\n"),
            "key \"metadata\" is there twice at line 1 (document 1, from line 1)",
        );
        check_error(
            &format!("# {}\n{POOL}", "x".repeat(MAX_DOCUMENT)),
            &format!(
                "the document has {} octets: the most is 10485760 (document 1, from line 1)",
                MAX_DOCUMENT + POOL.len() + 3
            ),
        );
    }

    #[test]
    fn a_status_is_unknown_to_kinds_that_have_none() {
        let peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nstatus: {a: 1}";
        check_error(
            peer,
            "field in document is not recognized or is in the wrong location: status (document 1, from line 1)",
        );
        let value = yaml::parse(peer).unwrap();
        assert_eq!(AnyResource::from_value(value).unwrap().get::<crate::BGPPeerSpec>().unwrap().status, None);
    }
}
