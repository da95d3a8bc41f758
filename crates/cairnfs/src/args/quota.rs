//! `cairn quota`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::settings::ByteSize;

/// Limit what may lie below directories
///
/// The nearest directory above with a quota is the one that counts. Moving something across that border is refused, except
/// for a directory with a quota of its own: copy it and remove the former. What is in the trash counts until it is dropped.
#[derive(Debug, Args)]
pub struct Quota {
    #[command(subcommand)]
    pub what: QuotaWhat,
}

/// What to do with quotas.
#[derive(Debug, Subcommand)]
pub enum QuotaWhat {
    /// Set or change a directory's quota; what is below already is counted in the background
    Set(QuotaSet),
    /// Show the quota that something counts against, and what is used
    Get(QuotaGet),
    /// List all quotas
    Ls(QuotaLs),
    /// Remove a directory's quota
    Rm(QuotaRm),
}

/// See [`QuotaWhat::Set`].
#[derive(Debug, Args)]
pub struct QuotaSet {
    /// Bytes of all files, as 500G; 0 = no limit
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<ByteSize>,
    /// Files, directories and links, as 1M; 0 = no limit
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub inodes: Option<u64>,
    /// The directory
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
}

/// See [`QuotaWhat::Get`].
#[derive(Debug, Args)]
pub struct QuotaGet {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A directory, or anything below one
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// See [`QuotaWhat::Ls`].
#[derive(Debug, Args)]
pub struct QuotaLs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// See [`QuotaWhat::Rm`].
#[derive(Debug, Args)]
pub struct QuotaRm {
    /// The directory
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
}

/// A count with a decimal unit: `1000`, `20K`, `1M`.
fn parse_count(text: &str) -> Result<u64, String> {
    let complaint = || "a count is allowed, as 1000, 20K or 1M (K, M, G: powers of 1000)".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" | "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err(complaint()),
    };
    digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(complaint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_decimal_units() {
        assert_eq!((parse_count("12"), parse_count("20K"), parse_count("3M")), (Ok(12), Ok(20_000), Ok(3_000_000)));
        assert!(parse_count("1Ki").is_err() && parse_count("").is_err() && parse_count("-1").is_err());
    }
}
