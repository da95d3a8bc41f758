//! Certificates and connections: who is let in, who is not, and what happens when files change.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, on files of their own")]

use cairn_net::testing::PipeNet;
use cairn_net::{Net, PeerCertificate, Stream};
use cairn_proto::pb::Role;
use cairn_tls::{Authority, CA_CERT, CERT, Identity, KEY, Kind, Subject, TlsError, TlsNet, Validity};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ADDR: &str = "server:1";

struct Scene {
    dir: TempDir,
    authority: Authority,
    net: PipeNet,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::init(&dir.path().join("ca"), "test").unwrap();
        Self { dir, authority, net: PipeNet::new() }
    }

    fn issue(&self, kind: Kind, name: &str) -> PathBuf {
        self.issue_from(&self.authority, kind, name)
    }

    fn issue_from(&self, authority: &Authority, kind: Kind, name: &str) -> PathBuf {
        let dir = self.dir.path().join(format!("{}-{name}", kind.word()));
        let subject = Subject::new(kind, name).unwrap();
        authority.issue(&subject, Validity::HOLDER).unwrap().write(&dir).unwrap();
        dir
    }

    fn tls(&self, dir: &Path) -> TlsNet {
        TlsNet::new(Arc::new(self.net.clone()), dir).unwrap()
    }
}

type Established = io::Result<(Box<dyn Stream>, Option<Arc<PeerCertificate>>)>;

async fn establish(mut stream: Box<dyn Stream>) -> Established {
    let certificate = stream.establish().await?;
    Ok((stream, certificate))
}

/// What both ends make of each other; the first bytes are exchanged, too, since a client hears of a refusal only then.
async fn meet(
    server: &dyn Net,
    client: &dyn Net,
) -> (io::Result<Option<Arc<PeerCertificate>>>, io::Result<Option<Arc<PeerCertificate>>>) {
    let mut listener = server.bind(ADDR).await.unwrap();
    let accept = async {
        let (stream, _) = listener.accept().await?;
        let (stream, certificate) = establish(stream).await?;
        let (mut read, mut write) = stream.split();
        let mut byte = [0];
        read.read_exact(&mut byte).await?;
        write.write_all(&byte).await?;
        write.flush().await?;
        // Until the other end has read it.
        let _ = read.read(&mut byte).await;
        Ok(certificate)
    };
    let dial = async {
        let (stream, certificate) = establish(client.connect(ADDR).await?).await?;
        let (mut read, mut write) = stream.split();
        write.write_all(b"x").await?;
        write.flush().await?;
        let mut byte = [0];
        read.read_exact(&mut byte).await?;
        if byte == *b"x" { Ok(certificate) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    tokio::join!(accept, dial)
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let scene = Scene::new();
    for (kind, role) in [(Kind::Client, Role::Client), (Kind::Node, Role::Node), (Kind::Admin, Role::Client)] {
        let (server, client) = (scene.tls(&scene.issue(Kind::Meta, "m1")), scene.tls(&scene.issue(kind, "who")));
        let (heard, told) = meet(&server, &client).await;
        let (heard, told) = (heard.unwrap().unwrap(), told.unwrap().unwrap());
        assert_eq!((heard.role, heard.name.as_str(), heard.admin), (role, "who", kind == Kind::Admin));
        assert_eq!((told.role, told.name.as_str(), told.admin), (Role::Meta, "m1", false));
        assert_eq!(heard.fingerprint, client.identity().facts().fingerprint);
    }
}

#[tokio::test]
async fn who_is_not_of_this_authority_gets_nowhere() {
    let scene = Scene::new();
    let other = Authority::init(&scene.dir.path().join("other"), "other").unwrap();
    let stranger = scene.tls(&scene.issue_from(&other, Kind::Client, "stranger"));
    let (ours, theirs) =
        (scene.tls(&scene.issue(Kind::Node, "n1")), scene.tls(&scene.issue_from(&other, Kind::Node, "x")));
    let client = scene.tls(&scene.issue(Kind::Client, "c"));
    for (server, client) in [(&ours, &stranger), (&theirs, &client)] {
        let (heard, told) = meet(server, client).await;
        assert!(heard.is_err() && told.is_err());
    }
}

#[tokio::test]
async fn a_client_cannot_pose_as_a_server() {
    let scene = Scene::new();
    for kind in [Kind::Client, Kind::Admin] {
        let (poser, client) = (scene.tls(&scene.issue(kind, "poser")), scene.tls(&scene.issue(Kind::Client, "c")));
        let (heard, told) = meet(&poser, &client).await;
        assert!(heard.is_err() && told.is_err());
    }
}

#[tokio::test]
async fn plain_connections_and_garbage_are_refused() {
    let scene = Scene::new();
    let server = scene.tls(&scene.issue(Kind::Meta, "m1"));
    let (heard, told) = meet(&server, &scene.net).await;
    assert!(heard.is_err() && told.is_err(), "a client without TLS");
    let client = scene.tls(&scene.issue(Kind::Client, "c"));
    let mut listener = scene.net.bind(ADDR).await.unwrap();
    let plain = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (_read, mut write) = stream.split();
        write.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        write.flush().await.unwrap();
    };
    let dial = async { establish(client.connect(ADDR).await.unwrap()).await.err() };
    assert!(tokio::join!(plain, dial).1.is_some(), "a server without TLS");
}

#[tokio::test]
async fn certificates_end() {
    let scene = Scene::new();
    assert!(Validity::new(Duration::from_secs(1)).is_err());
    let expired = scene.issue(Kind::Client, "late");
    let ca = scene.dir.path().join("ca");
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let ca_key = KeyPair::from_pem(&read(ca.join(cairn_tls::CA_KEY))).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(ca.join(CA_CERT)), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.not_after = time::OffsetDateTime::from_unix_timestamp(cairn_tls::unix_now() - 60).unwrap();
    let uri = Subject::new(Kind::Client, "late").unwrap().uri();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let key = KeyPair::from_pem(&read(expired.join(KEY))).unwrap();
    fs::write(expired.join(CERT), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    let (server, client) = (scene.tls(&scene.issue(Kind::Meta, "m1")), scene.tls(&expired));
    let (heard, told) = meet(&server, &client).await;
    assert!(heard.is_err() && told.is_err());
}

#[tokio::test]
async fn new_files_are_taken_over_and_bad_ones_are_not() {
    let scene = Scene::new();
    let (server, dir) = (scene.tls(&scene.issue(Kind::Meta, "m1")), scene.issue(Kind::Client, "c"));
    let client = scene.tls(&dir);
    let first = client.identity().facts().fingerprint;
    assert!(!client.reload().unwrap(), "nothing was changed");
    scene.issue(Kind::Client, "c");
    assert!(client.reload().unwrap());
    let second = client.identity().facts().fingerprint;
    assert_ne!(first, second);
    assert_eq!(meet(&server, &client).await.0.unwrap().unwrap().fingerprint, second);
    fs::write(dir.join(CERT), "nothing").unwrap();
    assert!(client.reload().is_err());
    assert_eq!(client.identity().facts().fingerprint, second, "the old one stays in use");
    assert!(meet(&server, &client).await.0.is_ok());
}

#[test]
fn what_is_wrong_with_files_is_named() {
    let scene = Scene::new();
    let said = |dir: &Path| Identity::load(dir).err().map(|error| error.to_string()).unwrap_or_default();
    let dir = scene.issue(Kind::Node, "n1");
    fs::set_permissions(dir.join(KEY), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(&dir).contains("chmod 600"), "{}", said(&dir));
    let dir = scene.issue(Kind::Node, "n2");
    fs::copy(scene.issue(Kind::Node, "n3").join(KEY), dir.join(KEY)).unwrap();
    assert!(said(&dir).contains("does not fit its key"), "{}", said(&dir));
    let dir = scene.issue(Kind::Node, "n4");
    fs::write(dir.join(CA_CERT), "").unwrap();
    assert!(said(&dir).contains("no certificate in it"), "{}", said(&dir));
    let dir = scene.issue(Kind::Node, "n5");
    fs::copy(scene.dir.path().join("ca").join(CA_CERT), dir.join(CERT)).unwrap();
    assert!(said(&dir).contains("not issued for CairnFS"), "{}", said(&dir));
    fs::remove_file(dir.join(CERT)).unwrap();
    assert!(said(&dir).contains(CERT), "{}", said(&dir));
    assert!(matches!(Authority::init(&scene.dir.path().join("ca"), "x"), Err(TlsError::Exists { .. })));
    let key = scene.dir.path().join("ca").join(cairn_tls::CA_KEY);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(Authority::load(&scene.dir.path().join("ca")), Err(TlsError::Open { .. })));
}

/// A certificate that `cairn cert issue node n1` made, as OpenSSL reads it.
#[test]
fn certificates_of_before_are_read() {
    let pem = include_bytes!("../fixtures/node-n1.crt");
    let der = CertificateDer::from_pem_slice(pem).unwrap();
    let facts = cairn_tls::facts_of(&der).unwrap();
    assert_eq!(facts.subject, Some(Subject::new(Kind::Node, "n1").unwrap()));
    assert_eq!((facts.not_before, facts.not_after), (1_796_121_533, 1_804_765_133));
    let fingerprint: String = facts.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(fingerprint, "c4543dbe1e741a6006f675f0f47a3cdb5062f4d0c25a1c3f34bd1b624814db66");
    for cut in 0..der.len() {
        assert!(cairn_tls::facts_of(&der[..cut]).is_err(), "{cut} bytes of it");
    }
}
