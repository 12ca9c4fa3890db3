//! Who are we to the API server: what says so, has it changed since, and what is wrong with it?
//!
//! In a pod the kubelet writes the token and the certificates into a folder and replaces them from time to time. The HTTP
//! client reads them anew about once a minute; but a token may also end at once, with its service account, and then the
//! next one must not wait for that minute.

use std::hash::{DefaultHasher, Hash, Hasher};

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde_json::Value;

/// What a connection shows to the server, and trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Changes with the content of any of it.
    fingerprint: u64,
    /// How an operator finds what we show.
    name: String,
    /// What is in the token, if it is one of a service account.
    claims: Option<Claims>,
}

/// What a service account's token says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Claims {
    subject: String,
    not_before: Option<i64>,
    expires: Option<i64>,
}

impl Credentials {
    /// Reads everything that `settings` name.
    pub(super) fn of(settings: &kube::Config) -> Self {
        let auth = &settings.auth_info;
        let read = |path: &Option<String>| path.as_ref().map(|path| std::fs::read(path).ok());
        // Its own serialisation holds the secrets that are written out in a kubeconfig.
        let inline = serde_json::to_value(auth).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        inline.to_string().hash(&mut hasher);
        for file in [&auth.token_file, &auth.client_certificate, &auth.client_key] {
            read(file).hash(&mut hasher);
        }
        settings.cluster_url.hash(&mut hasher);
        settings.root_cert.hash(&mut hasher);
        settings.root_cert_file.as_ref().map(|path| std::fs::read(path).ok()).hash(&mut hasher);

        let token = match (inline.get("token").and_then(Value::as_str), &auth.token_file) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(path)) => std::fs::read_to_string(path).ok(),
            (None, None) => None,
        };
        let certificate = auth.client_certificate.is_some() || auth.client_certificate_data.is_some();
        let name = match (&auth.token_file, &token, &auth.client_certificate) {
            (Some(path), ..) => format!("the token in {path}"),
            (None, Some(_), _) => "the token of the configuration".to_owned(),
            (None, None, Some(path)) => format!("the client certificate {path}"),
            (None, None, None) if certificate => "the client certificate of the kubeconfig".to_owned(),
            (None, None, None) => "no token and no client certificate".to_owned(),
        };
        Self { fingerprint: hasher.finish(), name, claims: token.as_deref().and_then(Claims::read) }
    }

    /// Why the server may have answered that it does not know us (401).
    pub(super) fn unknown(&self, now: Timestamp) -> String {
        let name = &self.name;
        let Some(claims) = &self.claims else {
            return format!(
                "the API server does not know us by {name}: it is expired or of another cluster, or none is configured"
            );
        };
        let subject = &claims.subject;
        let time = |seconds: i64| Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default();
        match claims {
            Claims { not_before: Some(begin), .. } if *begin > now.as_second() => format!(
                "the API server does not know us by {name} of {subject}: it is valid from {} and here it is {now}; \
                 correct this node's clock, or the server's",
                time(*begin)
            ),
            Claims { expires: Some(end), .. } if *end <= now.as_second() => format!(
                "the API server does not know us by {name} of {subject}: it expired at {}; the kubelet should have \
                 replaced it, see its log; and check this node's clock",
                time(*end)
            ),
            Claims { expires, .. } => {
                let until = expires.map(|end| format!(" until {}", time(end))).unwrap_or_default();
                format!(
                    "the API server does not know us by {name} of {subject}, which is valid{until} by this node's clock: its \
                     service account or its pod was deleted, the cluster signs with another key now, or a clock is wrong. It \
                     is read again until the kubelet has replaced it; if it does not, restart the pod"
                )
            }
        }
    }
}

impl Claims {
    /// Of a JSON web token; nobody's signature is checked, it is for people.
    fn read(token: &str) -> Option<Self> {
        let payload = token.trim().split('.').nth(1)?;
        let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?).ok()?;
        let number = |name: &str| claims.get(name).and_then(Value::as_i64);
        let subject = claims.get("sub")?.as_str()?.to_owned();
        Some(Self { subject, not_before: number("nbf"), expires: number("exp") })
    }
}

/// What to do about a right that is missing (403), by the server's words, which name the account.
pub(super) fn forbidden(words: &str) -> String {
    let account = words
        .split_once("system:serviceaccount:")
        .and_then(|(_, rest)| rest.split(['"', ' ']).next()?.split_once(':'))
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let advice = match account {
        Some((namespace, name)) => format!(
            "the ClusterRole {name} of the manifests grants what service account {namespace}/{name} needs: apply them again, \
             with their ClusterRoleBinding"
        ),
        None => "grant it, or use another account (KUBECONFIG)".to_owned(),
    };
    format!("{words}; {advice}")
}

/// Whether a failed connection may be due to certificates that have been replaced since.
pub(super) fn is_about_certificates(words: &str) -> bool {
    words.contains("peer certificate") || words.contains("fatal alert")
}

/// The words of a failed connection, with the likely cause if certificates are at fault.
pub(super) fn explained(words: String) -> String {
    let lower = words.to_lowercase();
    let about = |text: &str| lower.contains(text);
    let advice = if !is_about_certificates(&words) {
        return words;
    } else if about("fatal alert") {
        "the server does not accept our client certificate: it is expired, or of another cluster; check the kubeconfig"
    } else if about("unknownissuer") || about("unknown issuer") || about("badsignature") {
        "its certificate is not signed by the authority that we trust: ca.crt of the service account, or \
         certificate-authority of the kubeconfig, is another cluster's or an old one, or somebody is in between"
    } else if about("not valid yet") || about("notvalidyet") {
        "its certificate is not valid yet: is this node's clock slow?"
    } else if about("expired") {
        "its certificate is expired: renew it, or correct this node's clock if that is fast"
    } else if about("not valid for name") || about("notvalidforname") {
        "its certificate is for other names: check KUBERNETES_SERVICE_HOST (ConfigMap kubernetes-services-endpoint) or the \
         kubeconfig's server"
    } else {
        "its certificate is not accepted"
    };
    format!("{advice} ({words})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln\n", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    fn settings(token: &std::path::Path, ca: &std::path::Path) -> kube::Config {
        let mut settings = kube::Config::new("https://192.0.2.1".parse().unwrap());
        settings.auth_info.token_file = Some(token.display().to_string());
        settings.root_cert_file = Some(ca.to_owned());
        settings
    }

    #[test]
    fn a_replaced_token_or_authority_is_noticed_and_the_same_again_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (file, ca) = (dir.path().join("token"), dir.path().join("ca.crt"));
        std::fs::write(&file, "first").unwrap();
        std::fs::write(&ca, "one").unwrap();
        let first = Credentials::of(&settings(&file, &ca));
        std::fs::write(&file, "first").unwrap();
        assert_eq!(first, Credentials::of(&settings(&file, &ca)));
        std::fs::write(&file, "second").unwrap();
        let second = Credentials::of(&settings(&file, &ca));
        assert_ne!(first, second);
        std::fs::write(&ca, "two").unwrap();
        assert_ne!(second, Credentials::of(&settings(&file, &ca)));
    }

    #[test]
    fn an_account_that_is_not_known_is_told_with_what_its_token_says() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        #[track_caller]
        fn check(claims: &str, now: Timestamp, words: &[&str]) {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("token");
            std::fs::write(&file, token(claims)).unwrap();
            let text = Credentials::of(&settings(&file, &file)).unknown(now);
            for word in words.iter().chain(&[&*file.display().to_string()]) {
                assert!(text.contains(word), "{word:?} is not in: {text}");
            }
        }
        let subject = "\"sub\":\"system:serviceaccount:kube-system:calico-node\"";
        check(
            &format!("{{{subject},\"exp\":999000}}"),
            now,
            &["kube-system:calico-node", "expired at 1970-01-12T13:30:00Z"],
        );
        check(&format!("{{{subject},\"nbf\":1000900,\"exp\":1009000}}"), now, &["clock"]);
        check(
            &format!("{{{subject},\"nbf\":900000,\"exp\":1009000}}"),
            now,
            &["service account or its pod was deleted"],
        );
        check("nonsense", now, &["expired or of another cluster"]);
    }

    #[test]
    fn a_missing_right_names_the_role_that_grants_it() {
        let words = "nodes \"n1\" is forbidden: User \"system:serviceaccount:kube-system:calico-node\" cannot get resource \
                     \"nodes\" in API group \"\" at the cluster scope";
        let text = forbidden(words);
        assert!(text.starts_with(words) && text.contains("ClusterRole calico-node of the manifests"), "{text}");
        assert!(forbidden("User \"joe\" cannot list").contains("KUBECONFIG"));
    }

    #[test]
    fn words_about_certificates_get_their_likely_cause_and_others_stay() {
        let check = |words: &str, expect: &str| {
            let text = explained(words.to_owned());
            assert!(text.contains(expect) && text.contains(words), "{text}");
        };
        check("invalid peer certificate: UnknownIssuer", "ca.crt");
        check("invalid peer certificate: certificate expired: verification time 9 (UNIX)", "renew it");
        check("invalid peer certificate: certificate not valid yet: verification time 9", "clock slow");
        check("invalid peer certificate: certificate not valid for name \"a\"", "KUBERNETES_SERVICE_HOST");
        check("received fatal alert: CertificateExpired", "our client certificate");
        assert_eq!(explained("Connection refused".to_owned()), "Connection refused");
    }
}
