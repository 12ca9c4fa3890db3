//! In which of the two API groups a cluster keeps Calico's resources.

use calico_api::{Key, Kind};
use serde_json::Value;

use super::client::{Client, Failure};

/// The API group that holds Calico's resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiGroup {
    /// `crd.projectcalico.org/v1`: metadata as users see it is kept in an annotation.
    Classic,
    /// `projectcalico.org/v3`: objects are stored as users see them.
    Native,
}

impl ApiGroup {
    /// Group and version, as in `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Classic => "crd.projectcalico.org/v1",
            Self::Native => "projectcalico.org/v3",
        }
    }

    /// What an explicit setting means: the native group if it is named, the classic one otherwise.
    pub fn from_setting(setting: &str) -> Option<Self> {
        match setting.trim() {
            "" => None,
            setting if setting.eq_ignore_ascii_case(Self::Native.api_version()) => Some(Self::Native),
            _ => Some(Self::Classic),
        }
    }

    /// How the kind is called in this group.
    pub const fn kind_name(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Classic, Kind::IPAMConfiguration) => "IPAMConfig",
            (_, kind) => kind.as_str(),
        }
    }

    /// The kind's plural in this group.
    pub const fn plural(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Self::Classic, Kind::IPAMConfiguration) => "ipamconfigs",
            (_, kind) => kind.plural(),
        }
    }

    /// The folder of its definitions among the manifests.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Native => "native",
        }
    }

    /// The other one.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Classic => Self::Native,
            Self::Native => Self::Classic,
        }
    }

    /// Whether the server has this kind in this group; `None` if it does not have the group.
    pub(super) async fn has(self, client: &Client, kind: Kind) -> Result<Option<bool>, Failure> {
        match client.get(&format!("/apis/{}", self.api_version())).await {
            Ok(kinds) => Ok(Some(self.is_among(kind, &kinds))),
            Err(Failure::Refused(status)) if status.code == 404 => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether a kind is in the server's list of those of this group.
    fn is_among(self, kind: Kind, kinds: &Value) -> bool {
        let kinds = kinds.get("resources").and_then(Value::as_array);
        let name = |served: &Value| served.get("name").and_then(Value::as_str) == Some(self.plural(kind));
        kinds.is_some_and(|kinds| kinds.iter().any(name))
    }

    /// The path of all objects of a kind, or of those in a namespace.
    pub(super) fn collection(self, kind: Kind, namespace: Option<&str>) -> String {
        match namespace.filter(|_| kind.namespaced()) {
            Some(namespace) => format!("/apis/{}/namespaces/{namespace}/{}", self.api_version(), self.plural(kind)),
            None => format!("/apis/{}/{}", self.api_version(), self.plural(kind)),
        }
    }

    /// The path of one object, under the name it is stored by; `None` if no object can have such a name.
    pub(super) fn object(self, key: &Key, name: &str) -> Option<String> {
        let namespace = key.namespace();
        let sound =
            is_segment(name) && namespace.is_none_or(is_segment) && key.kind().namespaced() == namespace.is_some();
        sound.then(|| format!("{}/{name}", self.collection(key.kind(), namespace)))
    }
}

/// Whether `text` can be one segment of a path as it is. Names that Kubernetes accepts are a part of these.
pub(super) fn is_segment(text: &str) -> bool {
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || b"-._:".contains(&octet);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(allowed)
}

/// Which group the cluster uses, and whether the other is there, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Discovered {
    /// The native one only where it is served and the classic one is not.
    pub(super) group: ApiGroup,
    /// While a cluster migrates from one to the other both are served; the classic one is then the one that counts.
    pub(super) both: bool,
}

pub(super) async fn discover(client: &Client) -> Result<Discovered, Failure> {
    Ok(choose(&client.get("/apis").await?))
}

fn choose(groups: &Value) -> Discovered {
    let served = |name: &str| {
        let groups = groups.get("groups").and_then(Value::as_array);
        groups.is_some_and(|groups| groups.iter().any(|group| group.get("name").and_then(Value::as_str) == Some(name)))
    };
    let (native, classic) = (served("projectcalico.org"), served("crd.projectcalico.org"));
    let group = if native && !classic { ApiGroup::Native } else { ApiGroup::Classic };
    Discovered { group, both: native && classic }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_native_group_is_used_only_where_the_classic_one_is_gone() {
        #[track_caller]
        fn check(groups: &[&str], expect: ApiGroup) {
            let list: Vec<_> = groups.iter().map(|name| json!({"name": name})).collect();
            let found = choose(&json!({"kind": "APIGroupList", "groups": list}));
            assert_eq!((found.group, found.both), (expect, groups.len() == 2 && groups[0].starts_with("crd.")));
        }
        check(&["apps"], ApiGroup::Classic);
        check(&["apps", "crd.projectcalico.org"], ApiGroup::Classic);
        check(&["crd.projectcalico.org", "projectcalico.org"], ApiGroup::Classic);
        check(&["projectcalico.org", "policy.networking.k8s.io"], ApiGroup::Native);
        assert_eq!(choose(&json!("garbage")), Discovered { group: ApiGroup::Classic, both: false });
    }

    #[test]
    fn an_explicit_setting_is_native_only_by_its_exact_name() {
        assert_eq!(ApiGroup::from_setting(""), None);
        assert_eq!(ApiGroup::from_setting("ProjectCalico.org/V3"), Some(ApiGroup::Native));
        assert_eq!(ApiGroup::from_setting("crd.projectcalico.org/v1"), Some(ApiGroup::Classic));
        assert_eq!(ApiGroup::from_setting("anything"), Some(ApiGroup::Classic));
    }

    #[test]
    fn no_name_reaches_another_object() {
        let path = |name: &str| ApiGroup::Classic.object(&Key::named(Kind::IPPool, name), name);
        assert_eq!(path("pool-1").as_deref(), Some("/apis/crd.projectcalico.org/v1/ippools/pool-1"));
        for name in ["", "..", "a/status", "a%2Fstatus", "a?dryRun=All", "a b"] {
            assert_eq!(path(name), None, "{name:?}");
        }
    }
}
