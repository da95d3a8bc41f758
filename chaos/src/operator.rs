//! The commands of an operator, given as one would: by running `cairn`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// Bytes of a program's words that are shown when it fails.
const SHOWN_MAX: usize = 400;

/// Who operates a cluster.
#[derive(Clone, Debug)]
pub struct Operator {
    cairn: PathBuf,
    meta: SocketAddr,
}

/// What a command ended with.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Operator {
    /// Of the cluster with this metadata server.
    pub fn new(cairn: &Path, meta: SocketAddr) -> Self {
        Self { cairn: cairn.to_owned(), meta }
    }

    /// Runs `cairn` with these arguments; a command that is not done within `patience` is killed.
    ///
    /// # Errors
    /// It cannot be started or took too long. What it ended with is no error.
    pub async fn run(&self, args: &[&str], patience: Duration) -> Result<Said> {
        let mut command = Command::new(&self.cairn);
        command.arg("--meta").arg(self.meta.to_string()).args(args);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(patience, command.output()).await;
        let words = args.join(" ");
        let output = output.with_context(|| format!("`cairn {words}` took more than {} s", patience.as_secs()))?;
        let output = output.with_context(|| format!("starting {}", self.cairn.display()))?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let status = output.status.code().unwrap_or(-1);
        Ok(Said { status, out: said(&output.stdout), err: said(&output.stderr) })
    }

    /// [`Operator::run`] of a command that must succeed.
    ///
    /// # Errors
    /// It failed; what it said is in the message.
    pub async fn done(&self, args: &[&str], patience: Duration) -> Result<Said> {
        let said = self.run(args, patience).await?;
        ensure!(said.status == 0, "`cairn {}` ended with {}", args.join(" "), said.brief());
        Ok(said)
    }

    /// [`Operator::done`] of a command that prints JSON.
    ///
    /// # Errors
    /// It failed or printed something else.
    pub async fn json(&self, args: &[&str], patience: Duration) -> Result<Value> {
        let said = self.done(args, patience).await?;
        said.json().with_context(|| format!("`cairn {}` printed no JSON: {}", args.join(" "), said.brief()))
    }
}

impl Said {
    /// What it printed, if that is JSON.
    ///
    /// # Errors
    /// It is not.
    pub fn json(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.out)?)
    }

    /// Exit status and first words, for people.
    pub fn brief(&self) -> String {
        let words = if self.err.is_empty() { &self.out } else { &self.err };
        let words: String = words.replace('\n', " | ").chars().take(SHOWN_MAX).collect();
        format!("{}: {words}", self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn endings_and_words_are_kept() {
        let operator = Operator::new(Path::new("/bin/echo"), (Ipv4Addr::LOCALHOST, 1).into());
        let said = operator.done(&["status"], Duration::from_secs(60)).await.expect("echo works");
        assert_eq!(said.out, "--meta 127.0.0.1:1 status");
        assert!(operator.json(&["status"], Duration::from_secs(60)).await.is_err());
        let fails = Operator::new(Path::new("/bin/false"), (Ipv4Addr::LOCALHOST, 1).into());
        assert_eq!(fails.run(&[], Duration::from_secs(60)).await.expect("runs").status, 1);
        assert!(fails.done(&["fsck"], Duration::from_secs(60)).await.is_err());
    }
}
