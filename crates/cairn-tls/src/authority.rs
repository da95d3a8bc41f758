//! The certificate authority of a cluster.

use crate::clock::unix_now;
use crate::files::{self, CA_CERT, CA_KEY, CERT, KEY, TlsError};
use crate::identity::NAME_OF_SERVERS;
use crate::subject::Subject;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType, string::Ia5String,
};
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;

/// Clocks of two machines may differ by this much: a certificate is valid so long before it was made.
const SKEW: Duration = Duration::from_secs(3600);

/// How long a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity(Duration);

impl Validity {
    /// Of certificates, unless another one is said: a quarter and some days to renew it in.
    pub const HOLDER: Self = Self(Duration::from_secs(100 * 24 * 3600));
    /// Of the authority.
    pub const AUTHORITY: Self = Self(Duration::from_secs(3650 * 24 * 3600));

    /// # Errors
    /// Shorter than a minute or longer than the authority lives.
    pub fn new(length: Duration) -> Result<Self, String> {
        if length < Duration::from_secs(60) || length > Self::AUTHORITY.0 {
            let days = Self::AUTHORITY.0.as_secs() / (24 * 3600);
            return Err(format!("a certificate is valid for a minute to {days} days, not for {length:?}"));
        }
        Ok(Self(length))
    }
}

/// What was issued, as PEM.
pub struct Issued {
    /// Certificates of the authority.
    pub ca_cert: String,
    /// Certificate of the holder.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Issued {
    /// Writes the three files that a process is started with, in place of those that are there: first the certificate that
    /// is trusted, last the key, so that a process that looks in between finds a pair that does not match and waits.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write(&self, dir: &Path) -> Result<(), TlsError> {
        files::make_dir(dir)?;
        files::write(&dir.join(CA_CERT), &self.ca_cert, 0o644)?;
        files::write(&dir.join(CERT), &self.cert, 0o644)?;
        files::write(&dir.join(KEY), &self.key, 0o600)
    }
}

/// Who issues certificates.
pub struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

fn make_error(error: rcgen::Error) -> TlsError {
    TlsError::Make(error.to_string())
}

fn at(seconds: i64) -> Result<OffsetDateTime, TlsError> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| TlsError::Make(format!("the clock: {error}")))
}

/// What all certificates have in common.
fn params(name: &str, validity: Validity) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    let now = unix_now();
    params.not_before = at(now - SKEW.as_secs().cast_signed())?;
    params.not_after = at(now + validity.0.as_secs().cast_signed())?;
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

impl Authority {
    /// Makes an authority with a key of its own, and its files in `dir`.
    ///
    /// # Errors
    /// There is one already; of the disk.
    pub fn init(dir: &Path, name: &str) -> Result<Self, TlsError> {
        for file in [CA_KEY, CA_CERT] {
            files::ensure_absent(&dir.join(file))?;
        }
        let mut params = params(&format!("CairnFS authority {name}"), Validity::AUTHORITY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(make_error)?;
        let cert = params.self_signed(&key).map_err(make_error)?.pem();
        files::make_dir(dir)?;
        files::write(&dir.join(CA_KEY), &key.serialize_pem(), 0o600)?;
        files::write(&dir.join(CA_CERT), &cert, 0o644)?;
        Ok(Self { cert, issuer: Issuer::new(params, key) })
    }

    /// The authority whose files are in `dir`.
    ///
    /// # Errors
    /// There is none, or its files are damaged or open to others.
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let (key_path, cert_path) = (dir.join(CA_KEY), dir.join(CA_CERT));
        let key = KeyPair::from_pem(&files::read_key(&key_path)?)
            .map_err(|error| TlsError::Content { path: key_path, what: format!("no key: {error}") })?;
        let cert = files::read(&cert_path)?;
        let issuer = Issuer::from_ca_cert_pem(&cert, key)
            .map_err(|error| TlsError::Content { path: cert_path, what: format!("no certificate: {error}") })?;
        Ok(Self { cert, issuer })
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// None that a valid authority has.
    pub fn issue(&self, subject: &Subject, validity: Validity) -> Result<Issued, TlsError> {
        let mut params = params(&subject.to_string(), validity)?;
        let uri = Ia5String::try_from(subject.uri()).map_err(make_error)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if subject.kind().is_server() {
            // Whoever dials checks this name: certificates of clients do not have it and cannot be a server's.
            let name = Ia5String::try_from(NAME_OF_SERVERS).map_err(make_error)?;
            params.subject_alt_names.push(SanType::DnsName(name));
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(make_error)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(make_error)?;
        Ok(Issued { ca_cert: self.cert.clone(), cert: cert.pem(), key: key.serialize_pem() })
    }
}
