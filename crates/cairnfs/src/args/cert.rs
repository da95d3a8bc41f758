//! `cairn cert`: the certificates of a cluster.

use std::path::PathBuf;

use cairn_tls::{Kind, Subject, Validity};
use clap::{Args, Subcommand};

use crate::span::Span;

/// Make the certificates that the processes of a cluster show each other
///
/// One directory holds the authority, and should be where no server runs. Each process gets a directory of its own, with
/// ca.crt, tls.crt and tls.key, and is started with --certs DIR:
///
///   cairn cert init --ca ca
///   cairn cert issue meta m1 --ca ca --out certs/m1     (and so on: node n1, client alice, admin ops)
///   cairn meta --certs certs/m1 --data DIR
///
/// A running process takes over files that are replaced within seconds.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct Cert {
    #[command(subcommand)]
    pub what: CertWhat,
}

/// What is done with certificates.
#[derive(Debug, Subcommand)]
pub enum CertWhat {
    Init(CertInit),
    Issue(CertIssue),
    Renew(CertRenew),
    Show(CertShow),
}

/// Make the authority of a cluster: a key, and a certificate that is valid for ten years
#[derive(Debug, Args)]
pub struct CertInit {
    /// Directory for ca.key and ca.crt
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// What the authority is called, for people
    #[arg(long, value_name = "NAME", default_value = "cairn")]
    pub name: String,
}

/// Issue a certificate with a key of its own
///
/// ROLE is meta, node, client or admin: what a process may introduce itself as. NAME tells it from others of its role:
/// letters, digits, `.`, `-` and `_`.
#[derive(Debug, Args)]
pub struct CertIssue {
    /// What it is for: meta, node, client or admin
    #[arg(value_name = "ROLE")]
    pub role: Kind,
    /// Whom it is for
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// Directory for ca.crt, tls.crt and tls.key
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long it is valid [default: 2400h, 100 days]
    #[arg(long, value_name = "TIME", value_parser = validity)]
    pub valid_for: Option<Validity>,
}

impl CertIssue {
    /// The holder.
    ///
    /// # Errors
    /// The name cannot be one.
    pub fn subject(&self) -> Result<Subject, String> {
        Subject::new(self.role, &self.name)
    }
}

/// Issue the certificate of a directory anew: same holder, new key
#[derive(Debug, Args)]
pub struct CertRenew {
    /// Directories with ca.crt, tls.crt and tls.key
    #[arg(value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,
    /// How long it is valid [default: 2400h, 100 days]
    #[arg(long, value_name = "TIME", value_parser = validity)]
    pub valid_for: Option<Validity>,
}

/// Show whose certificate a directory has and how long it is valid; the exit status is 1 when it cannot be used
#[derive(Debug, Args)]
pub struct CertShow {
    /// Directories with ca.crt, tls.crt and tls.key
    #[arg(value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn validity(text: &str) -> Result<Validity, String> {
    let span: Span = text.parse().map_err(str::to_owned)?;
    Validity::new(span.get())
}
