//! `cairn cert`.

use std::path::Path;

use cairn_tls::{Authority, Identity, TlsError, Validity, unix_now};
use serde::Serialize;

use super::Complaints;
use crate::{
    args::{self, CertWhat},
    failure::Failure,
    output::Out,
    text,
};

const NS_PER_S: i64 = 1_000_000_000;

#[derive(Serialize)]
struct CertJson<'a> {
    dir: &'a Path,
    role: &'static str,
    name: &'a str,
    not_before: String,
    not_after: String,
    expired: bool,
    sha256: String,
}

fn failed(error: &TlsError) -> Failure {
    Failure::Failed { message: error.to_string(), general: true }
}

/// Runs the command.
pub fn run(args: &args::Cert, out: &mut Out) -> Result<(), Failure> {
    match &args.what {
        CertWhat::Init(args) => {
            Authority::init(&args.ca, &args.name).map_err(|error| failed(&error))?;
            out.line(format_args!("{}: the authority; keep its ca.key where no server runs", text::path(&args.ca)))
        }
        CertWhat::Issue(args) => {
            let subject = args.subject().map_err(|complaint| Failure::usage("NAME", complaint))?;
            let authority = Authority::load(&args.ca).map_err(|error| failed(&error))?;
            let issued = authority.issue(&subject, args.valid_for.unwrap_or(Validity::HOLDER));
            issued.and_then(|issued| issued.write(&args.out)).map_err(|error| failed(&error))?;
            show(&args.out, false, out)
        }
        CertWhat::Renew(args) => {
            let authority = Authority::load(&args.ca).map_err(|error| failed(&error))?;
            each(&args.dirs, out, |dir, out| {
                let identity = Identity::load(dir).map_err(|error| failed(&error))?;
                let issued = authority.issue(identity.subject(), args.valid_for.unwrap_or(Validity::HOLDER));
                issued.and_then(|issued| issued.write(dir)).map_err(|error| failed(&error))?;
                show(dir, false, out)
            })
        }
        CertWhat::Show(args) => each(&args.dirs, out, |dir, out| show(dir, args.json, out)),
    }
}

/// Does something for every directory, and goes on where it fails for one.
fn each(
    dirs: &[impl AsRef<Path>],
    out: &mut Out,
    mut one: impl FnMut(&Path, &mut Out) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut complaints = Complaints::new("cert");
    for dir in dirs {
        complaints.hear(one(dir.as_ref(), out))?;
    }
    complaints.end()
}

fn show(dir: &Path, json: bool, out: &mut Out) -> Result<(), Failure> {
    let identity = Identity::load(dir).map_err(|error| failed(&error))?;
    let (facts, subject) = (identity.facts(), identity.subject());
    let until = text::rfc3339(facts.not_after.saturating_mul(NS_PER_S));
    let is_expired = facts.not_after < unix_now();
    if json {
        out.json(&CertJson {
            dir,
            role: subject.kind().word(),
            name: subject.name(),
            not_before: text::rfc3339(facts.not_before.saturating_mul(NS_PER_S)),
            not_after: until.clone(),
            expired: is_expired,
            sha256: facts.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect(),
        })?;
    } else {
        out.line(format_args!("{}: {subject}, valid until {until}", text::path(dir)))?;
    }
    if is_expired {
        out.flush()?;
        return Err(Failure::at(
            text::path(dir),
            format_args!("expired on {until}: `cairn cert renew` issues a new one"),
        ));
    }
    Ok(())
}
