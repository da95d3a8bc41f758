//! How to mount: what the command line says, and the words of `-o`.

use rustix::mount::MountFlags;
use std::path::PathBuf;
use std::time::Duration;

/// See the module. The default is a mount for all users of the machine, as root makes one.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Directory of CairnFS that becomes the mount's root.
    pub root: PathBuf,
    /// First column of the mount table.
    pub source: String,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Users other than who mounts may use it.
    pub allow_other: bool,
    /// Everything is shown to belong to this user, and what is made does.
    pub uid: Option<u32>,
    /// The same for the group.
    pub gid: Option<u32>,
    /// Root of this machine is nobody in CairnFS.
    pub root_squash: bool,
    /// Every operation is linearizable: nothing is cached, each write is committed before it returns.
    pub strict: bool,
    /// Operations wait for the cluster for ever instead of failing.
    pub hard: bool,
    /// Changes are acknowledged before they are on disk, as on a local file system; fsync(2) waits for the disk.
    pub relaxed: bool,
    /// How long names and attributes hold; absent, a second, and what the change feed tells at once.
    pub ttl: Option<Duration>,
    /// Flags of mount(2).
    pub flags: MountFlags,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            source: "cairn".to_owned(),
            read_only: false,
            allow_other: false,
            uid: None,
            gid: None,
            root_squash: false,
            strict: false,
            hard: false,
            relaxed: false,
            ttl: None,
            flags: MountFlags::empty(),
        }
    }
}

/// A word of `-o` that means nothing, or not this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("no mount option is called `{0}`")]
    Unknown(String),
    /// Its value cannot be read.
    #[error("mount option `{name}={value}`: {expected}")]
    Value {
        /// The option.
        name: String,
        /// What was given.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Words that mount(8) and fstab(5) use for themselves, and such that say what is so anyway.
const IGNORED: &[&str] = &[
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "async",
    "dev",
    "suid",
    "exec",
    "atime",
    "relatime",
    "norelatime",
    "nostrictatime",
    "nolazytime",
    "soft",
    "default_permissions",
    "no_root_squash",
    "diratime",
    "nodiratime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
];

impl MountOptions {
    /// Takes the words of one `-o`, separated by commas.
    ///
    /// # Errors
    /// A word is not known, or its value cannot be read.
    pub fn apply(&mut self, words: &str) -> Result<(), OptionError> {
        words.split(',').filter(|word| !word.is_empty()).try_for_each(|word| self.apply_word(word))
    }

    fn apply_word(&mut self, word: &str) -> Result<(), OptionError> {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        let wrong = |expected| OptionError::Value {
            name: name.to_owned(),
            value: value.unwrap_or_default().to_owned(),
            expected,
        };
        let number = || value.and_then(|value| value.parse().ok()).ok_or_else(|| wrong("a number is expected"));
        match name {
            "ro" => {
                self.read_only = true;
                self.flags |= MountFlags::RDONLY;
            }
            "allow_other" => self.allow_other = true,
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "root_squash" => self.root_squash = true,
            "strict" => self.strict = true,
            "hard" => self.hard = true,
            "relaxed" => self.relaxed = true,
            "ttl" => self.ttl = Some(Duration::from_millis(u64::from(number()?))),
            "fsname" => value.ok_or_else(|| wrong("a name is expected"))?.clone_into(&mut self.source),
            "subdir" => self.root = value.ok_or_else(|| wrong("a path is expected"))?.into(), // tidy: word-ok(its name)
            "noexec" => self.flags |= MountFlags::NOEXEC,
            "nosuid" => self.flags |= MountFlags::NOSUID,
            "nodev" => self.flags |= MountFlags::NODEV,
            "noatime" => self.flags |= MountFlags::NOATIME,
            "sync" => self.flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => self.flags |= MountFlags::DIRSYNC,
            name if IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("comment") => {}
            _ => return Err(OptionError::Unknown(word.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_options() {
        let mut options = MountOptions::default();
        options
            .apply("rw,noauto,x-systemd.automount,,uid=7,gid=8,strict,hard,relaxed,noexec,ttl=20")
            .expect("known words");
        assert_eq!((options.uid, options.gid), (Some(7), Some(8)));
        assert!(options.strict && options.hard && options.relaxed && !options.read_only && !options.allow_other);
        assert_eq!(options.flags, MountFlags::NOEXEC);
        assert_eq!(options.ttl, Some(Duration::from_millis(20)));
        options.apply("ro,allow_other,root_squash,fsname=h:9000,subdir=/x").expect("known words"); // tidy: word-ok(its name)
        assert!(options.read_only && options.allow_other && options.root_squash);
        assert_eq!((options.source.as_str(), options.root.to_str()), ("h:9000", Some("/x")));
        assert!(options.flags.contains(MountFlags::RDONLY));
    }

    #[test]
    fn other_words_are_refused() {
        let mut options = MountOptions::default();
        assert_eq!(options.apply("rw,nonsense").unwrap_err().to_string(), "no mount option is called `nonsense`");
        assert_eq!(options.apply("uid=me").unwrap_err().to_string(), "mount option `uid=me`: a number is expected");
        assert!(options.apply("uid").is_err());
    }
}
