//! The way to the members: addresses, certificates, credentials, and what their errors mean to us.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error as EtcdError, Identity, TlsOptions};

use crate::{Error, EtcdConfig, Pem, Result};

/// How long a request may take before the store counts as down.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// After how long a silent connection is asked for a sign of life, and how long that may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// gRPC's codes that mean something to us.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// A client for the members. Nothing is sent, unless there are credentials.
pub(super) async fn client(config: &EtcdConfig, endpoints: &[String], store: &str) -> Result<Client> {
    let unavailable = |reason: String| Error::Unavailable { store: store.to_owned(), reason };
    let mut options = ConnectOptions::new()
        .with_connect_timeout(PATIENCE)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_require_leader(true);
    if let Some((user, password)) = &config.credentials {
        options = options.with_user(user, password).with_auto_token_refresh(true);
    }
    let wants_tls = config.ca.is_some() || config.identity.is_some();
    if wants_tls || endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
        let mut tls = TlsOptions::new();
        tls = match &config.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(pem("etcdCACert", ca).await.map_err(unavailable)?)),
            None => tls.with_enabled_roots(),
        };
        if let Some((cert, key)) = &config.identity {
            let cert = pem("etcdCert", cert).await.map_err(unavailable)?;
            let key = pem("etcdKey", key).await.map_err(unavailable)?;
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        options = options.with_tls(tls);
    }
    // With credentials this asks a member for a token.
    match tokio::time::timeout(PATIENCE, Client::connect(endpoints, Some(options))).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(explain(store, &error)),
        Err(_) => Err(silent(store)),
    }
}

/// The text of a certificate or key.
async fn pem(name: &str, pem: &Pem) -> std::result::Result<String, String> {
    match pem {
        Pem::Inline(text) => Ok(text.clone()),
        Pem::File(path) => {
            tokio::fs::read_to_string(path).await.map_err(|error| format!("cannot read {name}File {path}: {error}"))
        }
    }
}

/// Nobody answered in time.
pub(super) fn silent(store: &str) -> Error {
    Error::Unavailable {
        store: store.to_owned(),
        reason: format!("no member answered within {} s; check that etcd runs and can be reached", PATIENCE.as_secs()),
    }
}

/// What etcd's refusal means.
pub(super) fn explain(store: &str, error: &EtcdError) -> Error {
    if let EtcdError::GRpcStatus(status) = error {
        let unauthorized = match status.code() as i32 {
            code::UNAUTHENTICATED | code::PERMISSION_DENIED => true,
            // So etcd says that a password is wrong, or that there was none.
            code::INVALID_ARGUMENT => {
                ["authentication failed", "user name is empty"].iter().any(|words| status.message().contains(words))
            }
            _ => false,
        };
        if unauthorized {
            return Error::Unauthorized(format!("{store}: {}", status.message()));
        }
    }
    Error::Unavailable { store: store.to_owned(), reason: chain(error) }
}

/// Whether etcd refuses the request itself, as too large for instance.
pub(super) fn refused(error: &EtcdError) -> Option<String> {
    let EtcdError::GRpcStatus(status) = error else { return None };
    let refused = match status.code() as i32 {
        code::INVALID_ARGUMENT => true,
        // A server without room says the same, but of something else.
        code::RESOURCE_EXHAUSTED => status.message().contains("larger than max"),
        _ => false,
    };
    refused.then(|| status.message().to_owned())
}

/// Whether etcd has forgotten the revision that was asked for.
pub(super) fn is_compacted(error: &EtcdError) -> bool {
    matches!(error, EtcdError::GRpcStatus(status) if status.message().contains("has been compacted"))
}

/// An error with its causes: transport errors say nothing by themselves.
fn chain(error: &EtcdError) -> String {
    let mut text = match error {
        EtcdError::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut source = match error {
        EtcdError::GRpcStatus(status) => std::error::Error::source(status),
        EtcdError::TransportError(error) => std::error::Error::source(error),
        _ => None,
    };
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}
