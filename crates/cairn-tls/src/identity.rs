//! What a process shows of itself and whom it trusts.

use crate::files::{self, CA_CERT, CERT, KEY, TlsError};
use crate::subject::{Kind, Subject};
use cairn_net::PeerCertificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The name that every certificate of a server has, and that everybody who dials expects: who in particular it is, the
/// introductions settle.
pub(crate) const NAME_OF_SERVERS: &str = "server.cairn";

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Whom it was issued to; `None` for an authority, and for certificates of others.
    pub subject: Option<Subject>,
    /// Seconds since 1970 from which on it is valid.
    pub not_before: i64,
    /// Seconds since 1970 after which it is not.
    pub not_after: i64,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

/// Reads a certificate.
///
/// # Errors
/// It is none.
pub fn facts_of(der: &[u8]) -> Result<Facts, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| format!("unreadable certificate: {error}"))?;
    let names = parsed.subject_alternative_name().map_err(|error| format!("unreadable certificate: {error}"))?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Subject::from_uri(uri),
        _ => None,
    });
    let (first, second) = (uris.next(), uris.next());
    let digest = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .map(|suite| suite.common.hash_provider.hash(der));
    let fingerprint = digest.and_then(|digest| digest.as_ref().try_into().ok()).ok_or("SHA-256 is missing")?;
    Ok(Facts {
        // Two holders are none: which one would it be?
        subject: first.filter(|_| second.is_none()),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        fingerprint,
    })
}

/// What peers are told of a certificate that was verified.
pub(crate) fn peer_of(chain: Option<&[CertificateDer<'_>]>) -> Result<Arc<PeerCertificate>, String> {
    let der = chain.and_then(<[_]>::first).ok_or("the other side shows no certificate")?;
    let facts = facts_of(der)?;
    let subject = facts.subject.ok_or("the other side's certificate was not issued for CairnFS")?;
    Ok(Arc::new(PeerCertificate {
        role: subject.kind().role(),
        name: subject.name().to_owned(),
        admin: subject.kind() == Kind::Admin,
        fingerprint: facts.fingerprint,
    }))
}

/// Both sides of TLS, ready to be used.
pub(crate) struct Configs {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

/// See the module.
pub struct Identity {
    dir: PathBuf,
    facts: Facts,
    subject: Subject,
    pub(crate) configs: Configs,
    /// The files as they were.
    stamps: [Option<[i64; 4]>; 3],
}

fn stamps(dir: &Path) -> [Option<[i64; 4]>; 3] {
    [CA_CERT, CERT, KEY].map(|file| files::stamp(&dir.join(file)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = files::read(path)?;
    let content = |what: String| TlsError::Content { path: path.to_owned(), what };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| content(format!("no certificate in PEM: {error}")))?;
    if found.is_empty() { Err(content("there is no certificate in it".to_owned())) } else { Ok(found) }
}

impl Identity {
    /// Reads `ca.crt`, `tls.crt` and `tls.key` of a directory.
    ///
    /// # Errors
    /// One is missing, damaged, open to others (the key), of somebody else (the pair), or not issued by the authority.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        // Before the files: a change in between is seen by the next look.
        let stamps = stamps(dir);
        let (ca_path, cert_path, key_path) = (dir.join(CA_CERT), dir.join(CERT), dir.join(KEY));
        let chain = certificates(&cert_path)?;
        let content = |path: &Path, what: String| TlsError::Content { path: path.to_owned(), what };
        let facts = facts_of(&chain[0]).map_err(|what| content(&cert_path, what))?;
        let subject = facts.subject.clone().ok_or_else(|| {
            content(&cert_path, "it was not issued for CairnFS: make one with `cairn cert issue`".to_owned())
        })?;
        let key = PrivateKeyDer::from_pem_slice(files::read_key(&key_path)?.as_bytes())
            .map_err(|error| content(&key_path, format!("no key in PEM: {error}")))?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(&ca_path)? {
            roots.add(authority).map_err(|error| content(&ca_path, format!("no authority: {error}")))?;
        }
        let configs = Configs::new(chain, &key, Arc::new(roots)).map_err(|what| content(&cert_path, what))?;
        Ok(Self { dir: dir.to_owned(), facts, subject, configs, stamps })
    }

    /// Whom the certificate was issued to.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// What the certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where it was read.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the files are no longer those that were read.
    pub fn is_outdated(&self) -> bool {
        stamps(&self.dir) != self.stamps
    }
}

impl Configs {
    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        roots: Arc<RootCertStore>,
    ) -> Result<Self, String> {
        // Named, not the process's default: a default panics as soon as two providers are compiled in.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = [&rustls::version::TLS13];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| format!("its authorities: {error}"))?;
        let wrong = |error: rustls::Error| format!("it does not fit its key: {error}");
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(wrong)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key.clone_key())
            .map_err(wrong)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}
