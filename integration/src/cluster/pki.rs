//! Who is who in a cluster: certificates, keys and kubeconfigs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::API;

/// The first address of the service range, by which pods know the API server.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A certificate and its key; PEM.
struct Signed {
    certificate: String,
    key: String,
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let pem = key.serialize_pem();
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, key)?, key: pem })
    }

    fn sign(&self, name: &str, group: Option<&str>, usages: &[Usage], names: Vec<SanType>) -> Result<Signed> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        params.subject_alt_names = names;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Signed { certificate, key: key.serialize_pem() })
    }
}

/// The cluster's authorities and the folder they write to.
pub(super) struct Pki {
    cluster: Authority,
    folder: PathBuf,
}

impl Pki {
    /// Writes what the control plane needs into `folder`.
    pub(super) fn write(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let pki = Self { cluster: Authority::new("kubernetes-ca")?, folder: folder.to_owned() };
        let front = Authority::new("front-proxy-ca")?;
        let mut names = [API, Ipv4Addr::LOCALHOST, SERVICE].map(|ip| SanType::IpAddress(IpAddr::V4(ip))).to_vec();
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            names.push(SanType::DnsName(name.try_into()?));
        }
        let server = pki.cluster.sign("kube-apiserver", None, &[Usage::ServerAuth], names)?;
        let client = |name, group| pki.cluster.sign(name, group, &[Usage::ClientAuth], Vec::new());
        let of_kubelets = client("kube-apiserver-kubelet-client", Some("system:masters"))?;
        let aggregator = front.sign("front-proxy-client", None, &[Usage::ClientAuth], Vec::new())?;
        let service_accounts = KeyPair::generate()?;
        for (name, text) in [
            ("ca.crt", pki.cluster.issuer.pem()),
            ("ca.key", pki.cluster.key.clone()),
            ("front-proxy-ca.crt", front.issuer.pem()),
            ("apiserver.crt", server.certificate),
            ("apiserver.key", server.key),
            ("apiserver-kubelet.crt", of_kubelets.certificate),
            ("apiserver-kubelet.key", of_kubelets.key),
            ("front-proxy-client.crt", aggregator.certificate),
            ("front-proxy-client.key", aggregator.key),
            ("service-account.key", service_accounts.serialize_pem()),
            ("service-account.pub", service_accounts.public_key_pem()),
        ] {
            write(&folder.join(name), &text)?;
        }
        for (file, name, group) in [
            ("admin", "admin", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
            ("proxy", "system:kube-proxy", None),
        ] {
            pki.kubeconfig(&folder.join(format!("{file}.kubeconfig")), file, &client(name, group)?)?;
        }
        Ok(pki)
    }

    /// Writes what a node's programs show and whom they trust into the node's folder.
    pub(super) fn node(&self, name: &str, address: Ipv4Addr, folder: &Path) -> Result<()> {
        let names = vec![SanType::IpAddress(IpAddr::V4(address)), SanType::DnsName(name.try_into()?)];
        let user = format!("system:node:{name}");
        let signed = self.cluster.sign(&user, Some("system:nodes"), &[Usage::ClientAuth, Usage::ServerAuth], names)?;
        self.kubeconfig(&folder.join("kubelet.kubeconfig"), &user, &signed)?;
        write(&folder.join("kubelet.crt"), &signed.certificate)?;
        write(&folder.join("kubelet.key"), &signed.key)?;
        for file in ["ca.crt", "proxy.kubeconfig"] {
            fs::copy(self.folder.join(file), folder.join(file))
                .with_context(|| folder.join(file).display().to_string())?;
        }
        Ok(())
    }

    /// One that needs no other file.
    fn kubeconfig(&self, path: &Path, user: &str, signed: &Signed) -> Result<()> {
        let [authority, certificate, key] =
            [&self.cluster.issuer.pem(), &signed.certificate, &signed.key].map(|pem| BASE64.encode(pem.as_bytes()));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             contexts: [{{name: lab, context: {{cluster: lab, user: \"{user}\"}}}}]\n\
             clusters: [{{name: lab, cluster: {{server: \"https://{API}:6443\", certificate-authority-data: {authority}}}}}]\n\
             users: [{{name: \"{user}\", user: {{client-certificate-data: {certificate}, client-key-data: {key}}}}}]\n"
        );
        write(path, &text)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
