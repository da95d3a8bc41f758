//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// Everything written or copied at once: the default length of a block.
pub const BLOCK_LEN: u64 = 4 * MIB;
const SIZE_DEFAULT: u64 = 1024 * MIB;
const SIZE_QUICK: u64 = 64 * MIB;
const ROUNDS_DEFAULT: u32 = 3;

/// Measure a CairnFS cluster beside the limits of this machine; the report is JSON on standard output
#[derive(Parser, Debug)]
#[command(name = "cairn-bench", version, subcommand_negates_reqs = true)]
pub struct Args {
    /// Directory for scratch files and the cluster's data: a new directory is made in it and removed at the end
    /// [default: the temporary directory]
    #[arg(global = true, long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Length of the big file, as 1GiB; a multiple of 4 MiB [default: 1GiB, with --quick 64MiB]
    #[arg(global = true, long, value_name = "BYTES", value_parser = parse_size)]
    size: Option<u64>,
    /// How often everything is measured [default: 3, with --quick 1]
    #[arg(global = true, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Measure only these; ratios are reported where both sides were measured
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<Step>,
    /// Drop the page cache before each sequential read (needs root)
    #[arg(long)]
    pub cold: bool,
    /// A short form that shows that everything works; its figures mean little
    #[arg(global = true, long)]
    pub quick: bool,
    /// The program `cairn` [default: the one beside this program]
    #[arg(global = true, long, value_name = "FILE")]
    pub cairn: Option<PathBuf>,
    /// Write the report here instead of to standard output
    #[arg(global = true, long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Args {
    /// Length of the big file.
    pub fn size(&self) -> u64 {
        self.size.unwrap_or(if self.quick { SIZE_QUICK } else { SIZE_DEFAULT })
    }

    /// How often everything is measured.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { ROUNDS_DEFAULT })
    }

    /// What is measured, in the order of one round.
    pub fn steps(&self) -> Vec<Step> {
        let all = Step::value_variants().iter().copied();
        all.filter(|step| self.only.is_empty() || self.only.contains(step)).collect()
    }

    /// How long operations on small files are repeated.
    pub fn phase(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { 2000 })
    }
}

/// One thing to measure. The order is that of a round: each limit stands beside what is held against it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Step {
    /// Copying memory
    Memcpy,
    /// CRC32C over chunks of 64 KiB
    Crc32c,
    /// One frame with 4 KiB there and back between two processes
    FrameEcho,
    /// Appending 4 KiB to a local file, fdatasync after each
    Append,
    /// Small files, durable, 1 client
    DurableSmallX1,
    /// Small files, durable, 16 clients
    DurableSmallX16,
    /// Writing a local file, fdatasync every 32 MiB and every 4 MiB
    RawWrite,
    /// A big file written and read, durable
    DurableSeq,
    /// Bytes from one process to another over TCP on loopback, and between two threads
    TcpCopy,
    /// Writing three local files at once, fdatasync every 32 MiB
    RawWriteThree,
    /// Writing a local file without any sync
    PageCacheWrite,
    /// The same bytes from one process to three over TCP on loopback
    TcpFanout,
    /// The same, and each of the three writes a file without any sync
    TcpFanoutFiles,
    /// A big file written and read, relaxed
    RelaxedSeq,
    /// Small files, relaxed, 1 client
    RelaxedSmallX1,
    /// Small files, relaxed, 16 clients
    RelaxedSmallX16,
}

impl Step {
    /// Whether a cluster is needed.
    pub fn needs_cluster(self) -> bool {
        matches!(
            self,
            Self::DurableSmallX1
                | Self::DurableSmallX16
                | Self::DurableSeq
                | Self::RelaxedSeq
                | Self::RelaxedSmallX1
                | Self::RelaxedSmallX16
        )
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Measure what the project claims about connections, as ratios: kept and fresh connections (TCP and TLS), replicas
    /// written at once and one after another, operations that fail while replicas are gone
    Claims,
    /// Measure how fast the content of a lost store is made anew on the others, and what readers notice of it
    Repair,
    /// Compute how likely it is that stores which fail together lose data, for our placement and two others
    Copysets(Copysets),
    /// Measure the storage engine alone: storing and reading blocks beside raw file I/O with the same syncs and beside a file
    /// per block, then opening stores of many blocks
    Engine(Engine),
    /// Measure names: files made, looked at, listed, renamed and removed by many clients, beside the engine's committer alone
    /// and a bare frame there and back
    Metadata(Metadata),
    /// Measure a mounted cluster as programs use it, beside mount points of other file systems: big files with fio, small
    /// files, one big file beside the client library. Needs root, /dev/fuse and fio
    Mount(Mount),
    /// Make very many small files on metadata with the embedded engine alone, list, look at and remove them, and say what
    /// each costs on the disk and whether memory grows with them
    Files(Files),
    /// Open a store and say how long that took
    #[command(hide = true)]
    OpenStore {
        /// Its directory
        dir: PathBuf,
    },
    /// The other end of a measurement between processes
    #[command(hide = true)]
    Peer(Peer),
}

/// What is measured of the engine besides storing and reading.
#[derive(clap::Args, Debug)]
pub struct Engine {
    /// Stores of so many blocks of 4 MiB are made (sparse: they take 45 bytes of disk a block) and opened
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1000000,10000000", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub blocks: Vec<u64>,
}

/// How many files are made, and how.
#[derive(clap::Args, Debug)]
pub struct Files {
    /// Files [with --quick at most 20000]
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub count: u64,
    /// Files in each directory
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub per_directory: u64,
    /// Memory for cached rows, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub cache_mib: u64,
    /// Remove them at the end, too
    #[arg(long)]
    pub remove: bool,
}

/// What a mount is measured beside.
#[derive(clap::Args, Debug)]
pub struct Mount {
    /// Another file system, by name and mount point: NAME=DIR, or NAME:durable=DIR where a sync there reaches the disks of
    /// all replicas
    #[arg(long, value_name = "NAME=DIR", value_parser = crate::mount::parse_peer)]
    pub peer: Vec<crate::mount::Subject>,
    /// Only rows whose name has this in it
    #[arg(long, value_name = "TEXT")]
    pub rows: Option<String>,
}

/// Under which loads names are measured.
#[derive(clap::Args, Debug)]
pub struct Metadata {
    /// Clients at once, each with a connection of its own
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,16,64", value_parser = parse_count)]
    pub clients: Vec<usize>,
}

/// Which clusters are looked at: every combination of the lists.
#[derive(clap::Args, Debug)]
pub struct Copysets {
    /// Nodes, each with one store
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "9,30,100,1000", value_parser = parse_count)]
    pub nodes: Vec<usize>,
    /// Groups that each store is a member of: six in a new cluster, 64 on a store of 16 TiB that is full
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "6,64", value_parser = parse_count)]
    pub groups_per_store: Vec<usize>,
    /// Stores that fail at the same moment
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "3,5,10", value_parser = parse_count)]
    pub losses: Vec<usize>,
    /// Replicas of every block
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_count)]
    pub replicas: usize,
    /// Sets of failing stores that are drawn where there are more than that; else all are counted
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub trials: u64,
    /// Decides placement and draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// How this program starts itself as the other end of a connection.
#[derive(clap::Args, Debug)]
pub struct Peer {
    /// What to do
    pub role: PeerRole,
    /// Where the measuring process listens
    #[arg(long)]
    pub to: SocketAddr,
    /// How much goes through the connection
    #[arg(long, default_value_t = 0)]
    pub bytes: u64,
    /// Where received bytes are written
    #[arg(long)]
    pub file: Option<PathBuf>,
}

/// What the other end of a connection does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PeerRole {
    Send,
    Receive,
    Echo,
}

/// Bounded, so that a table of pairs of stores fits into memory.
fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=10_000).contains(count));
    count.ok_or_else(|| "expected a whole number from 1 to 10000".to_owned())
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        unit => return Err(format!("unknown unit {unit:?}; allowed: K, M, G, T (powers of 1024)")),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a whole number and a unit, as 1GiB".to_owned())?;
    let bytes = number.checked_mul(1 << shift).ok_or("too big")?;
    if bytes == 0 || !bytes.is_multiple_of(BLOCK_LEN) {
        return Err(format!("{bytes} bytes is not a multiple of 4 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_hold_together() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("64m"), Ok(64 << 20));
        assert_eq!(parse_size("8388608"), Ok(8 << 20));
        for bad in ["", "0", "1", "6M", "G", "1X", "-4M", "99999999T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_keeps_the_order_of_a_round() {
        let args = Args::parse_from(["cairn-bench", "--only", "tcp-copy,memcpy"]);
        assert_eq!(args.steps(), [Step::Memcpy, Step::TcpCopy]);
        assert_eq!(Args::parse_from(["cairn-bench"]).steps().len(), Step::value_variants().len());
    }
}
