//! Settings: the TOML file, and the value types that flags, environment and file share, so that each is checked by the
//! same words. Flags and environment are read by clap (args.rs); a command takes the flag, else the file, else its
//! default.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, de};

use crate::{failure::Failure, span::Span, text};

/// Where the metadata server is looked for when nothing says otherwise.
pub const META_DEFAULT: &str = "127.0.0.1:9000";

/// Most bytes a settings file may have.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// A whole number within limits that are part of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

/// Files in flight at once.
pub type Jobs = Bounded<1, 512>;
/// Storage nodes of `cairn up`.
pub type NodeCount = Bounded<1, 64>;
/// Metadata servers of a cluster on one machine.
pub type MetaCount = Bounded<1, 8>;
/// Seconds between two looks.
pub type WatchSeconds = Bounded<1, 86_400>;
/// Copies of every block.
pub type Replicas = Bounded<1, 7>;
/// First port of `cairn up`; node i listens on this + i, its console 80 ports above.
pub type BasePort = Bounded<1, 65_391>;
/// First port of the consoles of `cairn up`; node i has its console on this + i.
pub type ConsolePort = Bounded<1, 65_471>;

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// The number, or `None` outside the limits.
    pub const fn new(value: u64) -> Option<Self> {
        if MIN <= value && value <= MAX { Some(Self(value)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    fn complaint() -> String {
        format!("a whole number from {MIN} to {MAX} is allowed")
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bounded<MIN, MAX> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::new).ok_or_else(Self::complaint)
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = i64::deserialize(deserializer)?;
        let complaint = || de::Error::custom(format!("wrong value {value}: {}", Self::complaint()));
        u64::try_from(value).ok().and_then(Self::new).ok_or_else(complaint)
    }
}

/// Copies of every block that a directory's policy may ask for.
pub type PolicyReplicas = Bounded<1, 5>;
/// Entries of a ledger to show.
pub type LedgerLimit = Bounded<1, 1_000_000>;

/// A node or a store as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `node:3`, or a bare number.
    Node(u32),
    /// `store:7`.
    Store(u32),
    /// The node at this address.
    Address(String),
}

impl FromStr for Target {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || "a node or store is allowed, as node:3, store:7, 3 (a node) or 127.0.0.1:9003".to_owned();
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0).ok_or_else(complaint);
        match text.rsplit_once(':') {
            None => number(text).map(Self::Node),
            Some(("node", id)) => number(id).map(Self::Node),
            Some(("store", id)) => number(id).map(Self::Store),
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Address(text.to_owned())),
            Some(_) => Err(complaint()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => write!(f, "node:{id}"),
            Self::Store(id) => write!(f, "store:{id}"),
            Self::Address(addr) => f.write_str(addr),
        }
    }
}

/// A store where only stores are meant: `store:7`, or a bare number.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_store(text: &str) -> Result<Target, String> {
    let number = text.strip_prefix("store:").unwrap_or(text).parse::<u32>();
    match number {
        Ok(number) if number > 0 => Ok(Target::Store(number)),
        _ => Err("a store is allowed, as store:7 or 7".to_owned()),
    }
}

/// Bytes in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize(pub u32);

impl FromStr for BlockSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const STEP: u64 = 64 << 10;
        const MAX: u64 = 64 << 20;
        let size = text.parse::<ByteSize>()?.0;
        match u32::try_from(size) {
            Ok(len) if (STEP..=MAX).contains(&size) && size.is_multiple_of(STEP) => Ok(Self(len)),
            _ => Err("a multiple of 64K from 64K to 64M is allowed".to_owned()),
        }
    }
}

/// When writes are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DurabilityName {
    /// Once on disk.
    Durable,
    /// Before they are on disk.
    Relaxed,
}

/// Where the roles of `cairn up` show metrics and health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsolePorts {
    /// Metadata on this port, node i on this + i.
    From(ConsolePort),
    /// Nowhere.
    Off,
}

impl FromStr for ConsolePorts {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::From).map_err(|complaint: String| format!("`off` or {complaint}")),
        }
    }
}

impl<'de> Deserialize<'de> for ConsolePorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a port or \"off\" is allowed")]
        enum Form {
            Number(u64),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(port) => port.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(|complaint| de::Error::custom(format!("wrong value \"{text}\": {complaint}")))
    }
}

/// A count of bytes, written as `4096`, `500G`, `1.5TiB`. Units are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let complaint = || "a size is allowed, as 4096, 500G or 1.5TiB (K, M, G, T, P: powers of 1024)".to_owned();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text[digits.len()..].to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
        let shift = match unit {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            "P" => 50,
            _ => return Err(complaint()),
        };
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(complaint);
        }
        let parts: f64 = digits.parse().map_err(|_| complaint())?;
        let bytes = parts * (1_u64 << shift) as f64;
        if shift == 0 || !(0.0..=9e18).contains(&bytes) {
            return Err(complaint());
        }
        Ok(Self(bytes as u64))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size is allowed, as 4096 or \"500G\"")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => {
                text.parse().map_err(|complaint| de::Error::custom(format!("wrong value \"{text}\": {complaint}")))
            }
        }
    }
}

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Permissions in octal, as `755` or `0o755`.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permissions in octal are allowed, from 0 to 7777".to_owned()),
    }
}

/// The settings file. Every key is optional; an unknown one is an error.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSettings {
    pub meta: Option<String>,
    pub certs: Option<PathBuf>,
    pub jobs: Option<Jobs>,
    pub log: Option<String>,
    pub log_format: Option<LogFormat>,
    #[serde(default)]
    pub up: UpSettings,
    #[serde(default)]
    pub meta_server: MetaSettings,
    #[serde(default)]
    pub node: NodeSettings,
}

/// Table `[up]`.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpSettings {
    pub data: Option<PathBuf>,
    pub engine: Option<String>,
    pub metas: Option<MetaCount>,
    pub nodes: Option<NodeCount>,
    pub replicas: Option<Replicas>,
    pub suspect_after: Option<Span>,
    pub out_after: Option<Span>,
    pub listen: Option<IpAddr>,
    pub base_port: Option<BasePort>,
    pub console: Option<ConsolePorts>,
    pub processes: Option<bool>,
}

/// Table `[meta_server]`.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaSettings {
    pub data: Option<PathBuf>,
    pub engine: Option<String>,
    pub listen: Option<String>,
    pub advertise: Option<String>,
    pub console: Option<String>,
    pub replicas: Option<Replicas>,
    pub suspect_after: Option<Span>,
    pub out_after: Option<Span>,
    pub session_lease: Option<Span>,
}

/// Table `[node]`.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    pub data: Option<PathBuf>,
    pub stores: Option<Vec<PathBuf>>,
    pub listen: Option<String>,
    pub advertise: Option<String>,
    pub console: Option<String>,
    pub zone: Option<String>,
    pub rack: Option<String>,
    pub host: Option<String>,
    pub capacity: Option<ByteSize>,
    pub scrub_period: Option<Span>,
    pub compare_period: Option<Span>,
    pub repair_rate: Option<ByteSize>,
}

/// Where a settings file is looked for when none is named, in this order; the first that exists is taken.
pub fn usual_places(xdg_config_home: Option<PathBuf>, home: Option<PathBuf>) -> Vec<PathBuf> {
    let own = xdg_config_home.filter(|dir| dir.is_absolute()).or(home.map(|home| home.join(".config")));
    own.into_iter().chain([PathBuf::from("/etc")]).map(|dir| dir.join("cairn/cairn.toml")).collect()
}

impl FileSettings {
    /// Reads the named file, or the first of the usual places that has one, or nothing.
    ///
    /// # Errors
    /// A usage failure that names file, line, key and what is allowed. A named file must exist.
    pub fn load(named: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = named.filter(|path| !path.as_os_str().is_empty()) {
            return Self::read(path)
                .and_then(|found| found.ok_or_else(|| Failure::usage(text::path(path), "no such settings file")));
        }
        let from_env = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        for path in usual_places(from_env("XDG_CONFIG_HOME"), from_env("HOME")) {
            if let Some(settings) = Self::read(&path)? {
                return Ok(settings);
            }
        }
        Ok(Self::default())
    }

    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Failure::usage(text::path(path), error)),
        };
        let content = io::read_to_string(io::Read::take(file, FILE_LEN_MAX))
            .map_err(|error| Failure::usage(text::path(path), error))?;
        Self::parse(&content).map(Some).map_err(|complaint| Failure::usage(text::path(path), complaint))
    }

    /// # Errors
    /// What is wrong, with line and column, the line itself and what is allowed.
    fn parse(content: &str) -> Result<Self, String> {
        toml::from_str(content).map_err(|error| error.to_string().trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("500G", 500 << 30), ("1.5TiB", 3 << 39), ("2kb", 2048), ("7MiB", 7 << 20)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "1.5", "1X", "1e400K", "99999999P", "nanK", "-2K"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn targets() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("3"), Ok(Target::Node(3)));
        assert_eq!(target("node:3"), Ok(Target::Node(3)));
        assert_eq!(target("store:7"), Ok(Target::Store(7)));
        for addr in ["127.0.0.1:9003", "[::1]:9003", "far.away:9003"] {
            assert_eq!(target(addr), Ok(Target::Address(addr.to_owned())));
        }
        for text in ["", "0", "node:", "node:x", "store:0", "store:-1", "x", ":1", "a:", "a:99999"] {
            assert!(target(text).is_err(), "{text}");
        }
        assert_eq!((parse_store("7"), parse_store("store:7")), (Ok(Target::Store(7)), Ok(Target::Store(7))));
        assert!(parse_store("node:7").is_err() && parse_store("0").is_err());
    }

    #[test]
    fn block_sizes() {
        let size = |text: &str| text.parse::<BlockSize>().ok();
        assert_eq!(size("64K"), Some(BlockSize(65_536)));
        assert_eq!(size("64M"), Some(BlockSize(64 << 20)));
        assert_eq!(size("4MiB"), Some(BlockSize(4 << 20)));
        assert_eq!([size("0"), size("63K"), size("65K"), size("65M"), size("5G"), size("x")], [None; 6]);
    }

    #[test]
    fn modes() {
        assert_eq!(parse_mode("755"), Ok(0o755));
        assert_eq!(parse_mode("0o1777"), Ok(0o1777));
        assert!(parse_mode("778").is_err() && parse_mode("17777").is_err() && parse_mode("").is_err());
    }

    #[test]
    fn a_whole_file() {
        let settings = FileSettings::parse(
            "meta = 'a:9000,b:9000'\njobs = 4\nlog_format = 'json'\n[up]\nnodes = 5\nlisten = '::1'\nconsole = 'off'\n[node]\ncapacity = '1T'\nstores = ['/disks/1', '/disks/2']\n",
        )
        .unwrap();
        assert_eq!(settings.meta.as_deref(), Some("a:9000,b:9000"));
        assert_eq!(settings.jobs, Jobs::new(4));
        assert_eq!(settings.log_format, Some(LogFormat::Json));
        assert_eq!(settings.up.nodes, NodeCount::new(5));
        assert_eq!(settings.up.console, Some(ConsolePorts::Off));
        assert_eq!(settings.node.capacity, Some(ByteSize(1 << 40)));
        assert_eq!(settings.node.stores, Some(vec!["/disks/1".into(), "/disks/2".into()]));
        assert_eq!(FileSettings::parse("").unwrap(), FileSettings::default());
    }

    #[test]
    fn complaints_name_line_key_and_what_is_allowed() {
        let complaint = |content| FileSettings::parse(content).unwrap_err();
        let text = complaint("meta = 'x'\n\n[up]\nnoodles = 3\n");
        assert!(text.contains("line 4") && text.contains("`noodles`") && text.contains("`nodes`"), "{text}");
        let text = complaint("jobs = 0\n");
        assert!(text.contains("line 1") && text.contains("wrong value 0") && text.contains("1 to 512"), "{text}");
        let text = complaint("log_format = 'xml'\n");
        assert!(text.contains("`xml`") && text.contains("`text`") && text.contains("`json`"), "{text}");
        let text = complaint("[up]\nconsole = 'on'\n");
        assert!(text.contains("line 2") && text.contains("`off`") && text.contains("1 to 65471"), "{text}");
        let text = complaint("[node]\ncapacity = 'much'\n");
        assert!(text.contains("line 2") && text.contains("much") && text.contains("500G"), "{text}");
    }

    #[test]
    fn own_file_comes_before_the_system_one() {
        let path = |text| Some(PathBuf::from(text));
        let places = usual_places(None, path("/u/ann"));
        assert_eq!(places[0], Path::new("/u/ann/.config/cairn/cairn.toml"));
        assert_eq!(places[1], Path::new("/etc/cairn/cairn.toml"));
        assert_eq!(usual_places(path("/cfg"), path("/u/ann"))[0], Path::new("/cfg/cairn/cairn.toml"));
        assert_eq!(usual_places(path("relative"), None).len(), 1, "XDG ignores relative directories");
    }
}
