//! `mount.fuse.cairn SOURCE DIR -o OPTIONS`: how mount(8) calls this program, as a command line of `cairn mount`. Pure.
//!
//! SOURCE is `HOST:PORT[,HOST:PORT...][/DIRECTORY]`; a host without a port means port 9000.

use std::{ffi::OsString, os::unix::ffi::OsStrExt, path::Path};

use crate::failure::Failure;

/// The names by which mount(8) calls us.
const NAMES: &[&str] = &["mount.fuse.cairn", "mount.cairn"];
const PORT_DEFAULT: &str = "9000";
const USAGE: &str = "usage: mount.fuse.cairn HOST:PORT[,HOST:PORT...][/DIRECTORY] MOUNTPOINT [-o OPTIONS]";

/// Options that stand for a flag of `cairn mount` or of `cairn`.
const FLAGS: &[(&str, &str)] = &[
    ("cache_memory", "--cache-memory"),
    ("cache_dir", "--cache-dir"),
    ("cache_size", "--cache-size"),
    ("certs", "--certs"),
    ("config", "--config"),
    ("log", "--log"),
];

/// What mount(8) wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// This command line.
    Run(Vec<OsString>),
    /// Nothing is to be done (`-f`).
    Nothing,
}

/// Whether the program was called by mount(8).
pub fn is_called(program: &OsString) -> bool {
    Path::new(program).file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known))
}

/// The command line of `cairn` that does what mount(8) wants. `for_all`: who mounts is root, who mounts for everybody.
///
/// # Errors
/// Usage.
pub fn translate(mut words: impl Iterator<Item = OsString>, for_all: bool) -> Result<Call, Failure> {
    let wrong = |what: String| Failure::Usage(format!("{what}\n{USAGE}"));
    let program = words.next().unwrap_or_else(|| "cairn".into());
    let (mut places, mut options, mut verbose, mut nothing) = (Vec::new(), Vec::new(), false, false);
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or("");
        let mut value = |name: &str| words.next().ok_or_else(|| wrong(format!("{name} needs a value")));
        match text {
            "-o" => options.push(text_of(&value("-o")?)?),
            // Its type, which our name says already.
            "-t" => drop(value("-t")?),
            "-N" => return Err(wrong("-N: mounting in another namespace is not offered".to_owned())),
            "-h" | "--help" => return Err(Failure::Usage(USAGE.to_owned())),
            _ if text.starts_with("-o") => options.push(text[2..].to_owned()),
            _ if text.len() > 1 && text.starts_with('-') && text[1..].bytes().all(|flag| b"sfnvrw".contains(&flag)) => {
                verbose |= text.contains('v');
                nothing |= text.contains('f');
                options.extend(text.contains('r').then(|| "ro".to_owned()));
            }
            _ if text.starts_with('-') => return Err(wrong(format!("{text}: no such flag"))),
            _ => places.push(word),
        }
    }
    let [source, point] = <[OsString; 2]>::try_from(places)
        .map_err(|places| wrong(format!("a source and a mount point are needed, {} were given", places.len())))?;
    if nothing {
        return Ok(Call::Nothing);
    }
    let (meta, dir) = take_apart(&text_of(&source)?)
        .ok_or_else(|| wrong(format!("{}: no address of a metadata server", crate::text::path(Path::new(&source)))))?;
    let mut line: Vec<OsString> = vec![program, "mount".into(), "--meta".into(), meta.into()];
    line.extend(["--source".into(), source]);
    if let Some(dir) = dir {
        line.extend(["--subdir".into(), dir.into()]); // tidy: word-ok(its name)
    }
    let mut rest: Vec<&str> = if for_all { vec!["allow_other"] } else { Vec::new() };
    for option in options.iter().flat_map(|options| options.split(',')).filter(|option| !option.is_empty()) {
        let flag = option.split_once('=').and_then(|(name, value)| {
            FLAGS.iter().find(|(known, _)| *known == name).map(|(_, flag)| [(*flag).into(), value.into()])
        });
        match flag {
            Some(flag) => line.extend(flag),
            None => rest.push(option),
        }
    }
    if !rest.is_empty() {
        line.extend(["-o".into(), rest.join(",").into()]);
    }
    if verbose {
        line.push("--verbose".into());
    }
    line.extend(["--".into(), point]);
    Ok(Call::Run(line))
}

fn text_of(word: &OsString) -> Result<String, Failure> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::usage(crate::text::bytes(word.as_bytes()), "is not UTF-8"))
}

/// Addresses and directory of a source.
fn take_apart(source: &str) -> Option<(String, Option<String>)> {
    let (hosts, dir) = match source.find('/') {
        Some(at) => (&source[..at], Some(source[at..].to_owned())),
        None => (source, None),
    };
    let with_port = |host: &str| {
        let after_address = host.rsplit(']').next().unwrap_or(host);
        match after_address.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() && (host.contains(']') || !name.is_empty()) => {
                Some(host.to_owned())
            }
            Some(_) => None,
            None if host.is_empty() => None,
            None => Some(format!("{host}:{PORT_DEFAULT}")),
        }
    };
    let hosts: Option<Vec<String>> = hosts.split(',').map(with_port).collect();
    let dir = dir.filter(|dir| dir != "/");
    hosts.map(|hosts| (hosts.join(","), dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &str, for_all: bool) -> Result<String, Failure> {
        let words = ["mount.fuse.cairn"].into_iter().chain(words.split_whitespace()).map(OsString::from);
        Ok(match translate(words, for_all)? {
            Call::Nothing => "nothing".to_owned(),
            Call::Run(line) => line[1..].join(" ".as_ref()).into_string().unwrap(),
        })
    }

    #[test]
    fn names() {
        assert!(is_called(&"/sbin/mount.fuse.cairn".into()) && is_called(&"mount.cairn".into()));
        assert!(!is_called(&"/usr/bin/cairn".into()));
    }

    #[test]
    fn calls_of_mount_become_command_lines() {
        assert_eq!(
            call("a:9000,b:9001/x/y /mnt -o rw,noatime,cache_memory=64MiB,strict", true).unwrap(),
            "mount --meta a:9000,b:9001 --source a:9000,b:9001/x/y --subdir /x/y --cache-memory 64MiB \
            -o allow_other,rw,noatime,strict -- /mnt" // tidy: word-ok(its name)
        );
        assert_eq!(call("a /mnt", false).unwrap(), "mount --meta a:9000 --source a -- /mnt");
        assert_eq!(call("/mnt", false).unwrap_err().exit_code(), std::process::ExitCode::from(2));
        assert_eq!(
            call("a:1/ /mnt -sn -v -o hard -oro", false).unwrap(),
            "mount --meta a:1 --source a:1/ -o hard,ro --verbose -- /mnt"
        );
        assert_eq!(call("a /mnt -f", false).unwrap(), "nothing");
        assert_eq!(
            call("[::1]:9000 /mnt -t fuse.cairn", false).unwrap(),
            "mount --meta [::1]:9000 --source [::1]:9000 -- /mnt"
        );
        assert_eq!(call("[::1] /mnt", false).unwrap(), "mount --meta [::1]:9000 --source [::1] -- /mnt");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for words in
            ["a", "", "a b c", "a:x /mnt", ":9000 /mnt", "a,,b /mnt", "a /mnt -o", "a /mnt --bind", "a /mnt -N 1"]
        {
            assert!(matches!(call(words, false), Err(Failure::Usage(_))), "{words}");
        }
    }
}
