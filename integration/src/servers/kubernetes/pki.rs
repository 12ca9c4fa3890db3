//! The certificates and keys of a control plane of one server and one administrator.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The first address of the service range, by which pods would know the API server.
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// What an administrator shows, and whom it trusts; PEM.
#[derive(Debug)]
pub(super) struct Identity {
    authority: String,
    certificate: String,
    key: String,
}

impl Identity {
    /// A kubeconfig that needs no other file.
    pub(super) fn kubeconfig(&self, api: SocketAddr) -> String {
        let [authority, certificate, key] =
            [&self.authority, &self.certificate, &self.key].map(|pem| BASE64.encode(pem.as_bytes()));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\ncontexts:\n- name: lab\n  context:\n    cluster: lab\n    user: admin\n\
             clusters:\n- name: lab\n  cluster:\n    server: https://{api}\n    certificate-authority-data: {authority}\n\
             users:\n- name: admin\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        )
    }
}

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key`, `service-account.key` and `service-account.pub` into a folder.
pub(super) fn write(folder: &Path, address: IpAddr) -> Result<Identity> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "kubernetes-ca");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let certificate = |name: &str, group: Option<&str>, usage: ExtendedKeyUsagePurpose, names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = names;
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &authority)?;
        anyhow::Ok((signed.pem(), key.serialize_pem()))
    };
    let names = vec![
        SanType::IpAddress(address),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(SERVICE),
        SanType::DnsName("localhost".try_into()?),
        SanType::DnsName("kubernetes.default.svc".try_into()?),
    ];
    let server = certificate("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth, names)?;
    let admin = certificate("admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth, Vec::new())?;
    let service_accounts = KeyPair::generate()?;
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("apiserver.crt", server.0),
        ("apiserver.key", server.1),
        ("service-account.key", service_accounts.serialize_pem()),
        ("service-account.pub", service_accounts.public_key_pem()),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(Identity { authority: authority.pem(), certificate: admin.0, key: admin.1 })
}
