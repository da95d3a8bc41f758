//! Which engine, as an operator writes it: `file:DIR`, `postgres://...` or `etcd://...`. Passwords are never shown.

use crate::limits::{ETCD_PREFIX_MAX, ETCD_QUOTA_DEFAULT};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

const PG_TABLE_DEFAULT: &str = "cairn_kv";
const ETCD_PORT: u16 = 2379;
const ETCD_PREFIX_DEFAULT: &str = "cairn";

/// Why a text names no engine. Says no password.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{why}")]
pub struct UrlError {
    why: String,
}

fn wrong<T>(why: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError { why: why.into() })
}

/// A table of PostgreSQL, and how to get there.
#[derive(Clone, PartialEq)]
pub(crate) struct PostgresPlace {
    pub(crate) config: Box<tokio_postgres::Config>,
    /// Quoted, with its schema if it has one.
    pub(crate) table: String,
    pub(crate) allow_async: bool,
}

/// Keys of etcd, and how to get there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EtcdPlace {
    /// `host:port` of each member.
    pub(crate) members: Vec<String>,
    pub(crate) login: Option<(String, String)>,
    pub(crate) prefix: String,
    /// Bytes that the database may have.
    pub(crate) quota: u64,
    /// Whether old revisions are forgotten by us.
    pub(crate) compact: bool,
}

#[derive(Clone, PartialEq)]
pub(crate) enum Place {
    File(PathBuf),
    Postgres(PostgresPlace),
    Etcd(EtcdPlace),
}

/// An engine's place. Shown without password; [`EngineUrl::secret`] has it.
#[derive(Clone, PartialEq)]
pub struct EngineUrl {
    text: String,
    pub(crate) place: Place,
}

impl Eq for EngineUrl {}

impl EngineUrl {
    /// The directory of the embedded engine, if it is that.
    pub fn dir(&self) -> Option<&PathBuf> {
        match &self.place {
            Place::File(dir) => Some(dir),
            _ => None,
        }
    }

    /// As it was given, with the word PASSWORD in the place of a password: for a line that a user completes.
    pub fn template(&self) -> String {
        let (before, query) = self.text.split_once('?').map_or((self.text.as_str(), None), |(a, b)| (a, Some(b)));
        let mut shown = match (before.find("://"), before.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => match before[scheme + 3..at].split_once(':') {
                Some((user, _)) => format!("{}{user}:PASSWORD{}", &before[..scheme + 3], &before[at..]),
                None => before.to_owned(),
            },
            _ => before.to_owned(),
        };
        let pairs = query.into_iter().flat_map(|query| query.split('&'));
        for (index, pair) in pairs.enumerate() {
            shown.push(if index == 0 { '?' } else { '&' });
            shown.push_str(if pair.starts_with("password=") { "password=PASSWORD" } else { pair });
        }
        shown
    }

    /// As it was given, with password: for a child process, never for a log.
    pub fn secret(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.text.split('?').next().unwrap_or_default();
        match (shown.find("://"), shown.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => {
                let user = shown[scheme + 3..at].split(':').next().unwrap_or_default();
                write!(f, "{}{user}{}", &shown[..scheme + 3], &shown[at..])
            }
            _ => f.write_str(shown),
        }
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineUrl({self})")
    }
}

impl FromStr for EngineUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let place = match text.split_once(':') {
            Some(("file", dir)) => file(dir)?,
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => postgres(text)?,
            Some(("etcd", rest)) if rest.starts_with("//") => etcd(&rest[2..])?,
            _ => {
                return wrong(
                    "an engine is file:DIR, postgres://USER:PASSWORD@HOST/DATABASE or etcd://HOST:2379,.../PREFIX",
                );
            }
        };
        Ok(Self { text: text.to_owned(), place })
    }
}

fn file(dir: &str) -> Result<Place, UrlError> {
    let dir = dir.strip_prefix("//").unwrap_or(dir);
    if dir.is_empty() {
        return wrong("file: needs a directory, as file:/var/lib/cairn/meta");
    }
    Ok(Place::File(PathBuf::from(dir)))
}

type Options<'a> = Vec<(&'a str, String)>;

/// `?name=value&...` behind an address.
fn query(text: &str) -> Result<(&str, Options<'_>), UrlError> {
    let Some((before, query)) = text.split_once('?') else { return Ok((text, Vec::new())) };
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return wrong(format!("\"{pair}\" behind the ? is no NAME=VALUE"));
        };
        pairs.push((name, decoded(value)?));
    }
    Ok((before, pairs))
}

fn decoded(text: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let Some(code) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return wrong("a % is followed by two digits from 0 to f");
        };
        bytes.push(code);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).or_else(|_| wrong("what %XX stands for is no text"))
}

fn flag(name: &str, value: &str) -> Result<bool, UrlError> {
    match value {
        "1" | "true" | "on" | "yes" => Ok(true),
        "0" | "false" | "off" | "no" => Ok(false),
        _ => wrong(format!("{name}={value}: on or off is allowed")),
    }
}

fn identifier(name: &str, value: &str) -> Result<String, UrlError> {
    let first = value.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = value.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if first && rest && value.len() <= 63 {
        return Ok(format!("\"{value}\""));
    }
    wrong(format!("{name}={value}: a name of a to z, 0 to 9 and _ is allowed"))
}

fn postgres(text: &str) -> Result<Place, UrlError> {
    let (before, pairs) = query(text)?;
    let (mut table, mut schema, mut allow_async) = (None, None, false);
    let mut kept = Vec::new();
    for (name, value) in pairs {
        match name {
            "table" => table = Some(identifier(name, &value)?),
            "schema" => schema = Some(identifier(name, &value)?),
            "allow_async" => allow_async = flag(name, &value)?,
            "sslmode" if value != "disable" && value != "prefer" => {
                return wrong(format!("sslmode={value}: connections to the engine are not encrypted by this program"));
            }
            _ => kept.push(format!("{name}={value}")),
        }
    }
    let with_query = if kept.is_empty() { before.to_owned() } else { format!("{before}?{}", kept.join("&")) };
    let config: tokio_postgres::Config = with_query.parse().map_err(|error: tokio_postgres::Error| {
        // The parser's words name the option, never a value.
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        UrlError { why: format!("no URL of PostgreSQL: {cause}") }
    })?;
    if config.get_hosts().is_empty() {
        return wrong("postgres:// needs a host, as postgres://USER:PASSWORD@HOST/DATABASE");
    }
    let table = table.unwrap_or_else(|| format!("\"{PG_TABLE_DEFAULT}\""));
    let table = schema.map_or_else(|| table.clone(), |schema| format!("{schema}.{table}"));
    Ok(Place::Postgres(PostgresPlace { config: Box::new(config), table, allow_async }))
}

fn etcd(rest: &str) -> Result<Place, UrlError> {
    let (before, pairs) = query(rest)?;
    let (login, before) = match before.rsplit_once('@') {
        None => (None, before),
        Some((login, before)) => {
            let Some((user, password)) = login.split_once(':') else {
                return wrong("in front of the @ stands USER:PASSWORD");
            };
            (Some((decoded(user)?, decoded(password)?)), before)
        }
    };
    let (addrs, prefix) = before.split_once('/').unwrap_or((before, ""));
    let members = addrs.split(',').map(member).collect::<Result<Vec<_>, _>>()?;
    let prefix = match decoded(prefix.trim_end_matches('/'))? {
        none if none.is_empty() => ETCD_PREFIX_DEFAULT.to_owned(),
        prefix => prefix,
    };
    if prefix.len() > ETCD_PREFIX_MAX || prefix.contains('\0') {
        return wrong(format!("a prefix has at most {ETCD_PREFIX_MAX} bytes, and no zero byte"));
    }
    let (mut quota, mut compact) = (ETCD_QUOTA_DEFAULT, true);
    for (name, value) in pairs {
        match name {
            "quota" => quota = bytes(&value)?,
            "compact" => compact = flag(name, &value)?,
            _ => return wrong(format!("{name} is no option of etcd://: quota=2GiB and compact=off are")),
        }
    }
    Ok(Place::Etcd(EtcdPlace { members, login, prefix, quota, compact }))
}

fn member(addr: &str) -> Result<String, UrlError> {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let named = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    let fine = match addr.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, behind)) => {
            host.parse::<std::net::Ipv6Addr>().is_ok()
                && behind.strip_prefix(':').is_none_or(port)
                && (behind.is_empty() || behind.starts_with(':'))
        }
        None => match addr.split_once(':') {
            Some((host, number)) => named(host) && port(number),
            None => named(addr),
        },
    };
    if !fine {
        return wrong(format!(
            "\"{addr}\" is no HOST:PORT of an etcd member, as etcd://10.0.0.1:2379,10.0.0.2:2379/cairn"
        ));
    }
    let has_port = addr.rsplit_once(':').is_some_and(|(host, _)| !host.contains('[') || host.ends_with(']'));
    Ok(if has_port { addr.to_owned() } else { format!("{addr}:{ETCD_PORT}") })
}

fn bytes(value: &str) -> Result<u64, UrlError> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &value[digits.len()..] {
        "" => 0,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return wrong(format!("quota={value}: bytes are allowed, as 2GiB or 8G")),
    };
    match digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => wrong(format!("quota={value}: bytes are allowed, as 2GiB or 8G")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<EngineUrl, UrlError> {
        text.parse()
    }

    fn etcd(text: &str) -> EtcdPlace {
        match url(text).unwrap().place {
            Place::Etcd(place) => place,
            _ => panic!("{text} is etcd"),
        }
    }

    #[test]
    fn directories() {
        for text in ["file:/a b", "file:///a b"] {
            assert_eq!(url(text).unwrap().dir(), Some(&PathBuf::from("/a b")));
        }
        assert_eq!(url("file:rel").unwrap().dir(), Some(&PathBuf::from("rel")));
        assert_eq!(url("etcd://a").unwrap().dir(), None);
    }

    #[test]
    fn etcd_members_prefix_and_options() {
        let place = etcd("etcd://10.0.0.1:2379,b,[::1]:4001,[::1]/some/where/?quota=8GiB&compact=off");
        assert_eq!(place.members, ["10.0.0.1:2379", "b:2379", "[::1]:4001", "[::1]:2379"]);
        assert_eq!((place.prefix.as_str(), place.quota, place.compact), ("some/where", 8 << 30, false));
        let place = etcd("etcd://us%40er:p%3Aw@a:1");
        assert_eq!(place.login, Some(("us@er".into(), "p:w".into())));
        assert_eq!((place.prefix.as_str(), place.quota, place.compact), ("cairn", 2 << 30, true));
    }

    #[test]
    fn postgres_tables_and_options() {
        let place = |text: &str| match url(text).unwrap().place {
            Place::Postgres(place) => place,
            _ => panic!("{text} is PostgreSQL"),
        };
        let plain = place("postgres://ann:pw@host/db");
        assert_eq!((plain.table.as_str(), plain.allow_async), ("\"cairn_kv\"", false));
        assert_eq!((plain.config.get_user(), plain.config.get_dbname()), (Some("ann"), Some("db")));
        let full = place("postgresql://h:1,g:2/db?schema=s&table=t_1&allow_async=1&application_name=x");
        assert_eq!((full.table.as_str(), full.allow_async), ("\"s\".\"t_1\"", true));
        assert_eq!((full.config.get_ports(), full.config.get_application_name()), (&[1, 2][..], Some("x")));
    }

    #[test]
    fn wrong_ones_say_what_is_allowed() {
        for (text, word) in [
            ("", "file:DIR"),
            ("/dir", "file:DIR"),
            ("file:", "directory"),
            ("http://a", "etcd://"),
            ("etcd:a", "etcd://"),
            ("etcd://", "HOST:PORT"),
            ("etcd://a:0", "HOST:PORT"),
            ("etcd://a:x/p", "HOST:PORT"),
            ("etcd://a,,b", "HOST:PORT"),
            ("etcd://user@a", "USER:PASSWORD"),
            ("etcd://a?quota=-1", "quota"),
            ("etcd://a?quota=99999999999G", "quota"),
            ("etcd://a?x=1", "compact=off"),
            ("etcd://a?compact=maybe", "on or off"),
            ("etcd://a/%zz", "%"),
            ("postgres://h:x/db", "port"),
            ("postgres://h/db?table=Robert'); --", "table"),
            ("postgres://h/db?sslmode=require", "encrypted"),
            ("postgres://h/db?what=1", "what"),
            ("postgres:///db", "host"),
        ] {
            let error = url(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("postgres://ann:s3cret@host:5/db?application_name=s3cret", "postgres://ann@host:5/db"),
            ("etcd://ann:s3@cret@a:1,b:2/p", "etcd://ann@a:1,b:2/p"),
            ("etcd://a:1,b:2/p?quota=1G", "etcd://a:1,b:2/p"),
            ("file:/a@b", "file:/a@b"),
        ] {
            let url = url(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.secret()), (shown, text));
            assert!(!format!("{url:?}").contains("cret"), "{url:?}");
        }
        for (text, template) in [
            ("postgres://ann:s3cret@host/db?table=t&x=1", "postgres://ann:PASSWORD@host/db?table=t&x=1"),
            ("etcd://ann:s3@cret@a:1,b:2/p", "etcd://ann:PASSWORD@a:1,b:2/p"),
            ("etcd://a:1,b:2/p?quota=1G", "etcd://a:1,b:2/p?quota=1G"),
            ("file:/a@b", "file:/a@b"),
        ] {
            let url = EngineUrl { text: text.to_owned(), place: Place::File(PathBuf::new()) };
            assert_eq!(url.template(), template);
        }
        let hidden = EngineUrl { text: "postgres://h/db?password=x".into(), place: Place::File(PathBuf::new()) };
        assert_eq!(hidden.template(), "postgres://h/db?password=PASSWORD");
        let refused = url("postgres://ann:s3cret@host/db?port=zz").unwrap_err().to_string();
        assert!(!refused.contains("s3cret"), "{refused}");
    }
}
