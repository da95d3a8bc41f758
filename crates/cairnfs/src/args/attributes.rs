//! `cairn ln`, `chmod`, `chown`, `touch`, `mkfifo`, `mknod`, `xattr`, `acl`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

use crate::mode::ModeChange;

/// Give a file a further name, or make a symbolic link
#[derive(Debug, Args)]
pub struct Ln {
    /// Make a symbolic link; TARGET may be anything
    #[arg(short, long)]
    pub symbolic: bool,
    /// Replace a file of the name LINK; only with -s
    #[arg(short, long, requires = "symbolic")]
    pub force: bool,
    /// What the new name leads to
    #[arg(value_name = "TARGET")]
    pub target: PathBuf,
    /// The new name
    #[arg(value_name = "LINK")]
    pub link: PathBuf,
}

/// Change permissions
#[derive(Debug, Args)]
pub struct Chmod {
    /// Also change what is below directories, as `a+rX`; symbolic links there are left alone
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Permissions in octal, as 750, or changes: u+x, go-w, a=rX, g=u, comma separated
    #[arg(value_name = "MODE", allow_hyphen_values = true)]
    pub mode: ModeChange,
    /// What to change; symbolic links are followed
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Numbers of an owner and a group, as `1000:100`, `1000` or `:100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part {
            "" => Ok(None),
            _ => part.parse().map(Some).map_err(|_| format!("{part:?} is not the number of a user or group")),
        };
        let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
        let owner = Self { uid: number(uid)?, gid: number(gid)? };
        if owner == (Self { uid: None, gid: None }) { Err("an owner, a group or both".to_owned()) } else { Ok(owner) }
    }
}

/// Change owner and group
#[derive(Debug, Args)]
pub struct Chown {
    /// Change a symbolic link itself
    #[arg(short = 'P', long)]
    pub no_dereference: bool,
    /// Numbers of owner and group: 1000:100, 1000 or :100
    #[arg(value_name = "OWNER")]
    pub owner: Owner,
    /// What to change
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Make named pipes
#[derive(Debug, Args)]
pub struct Mkfifo {
    /// Permissions in octal, as 640
    #[arg(short, long, value_name = "MODE", value_parser = crate::settings::parse_mode, default_value = "644")]
    pub mode: u32,
    /// The names
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Kinds of special files, as mknod(1) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpecialKind {
    /// A named pipe
    #[value(name = "p")]
    Fifo,
    /// A block device
    #[value(name = "b")]
    Block,
    /// A character device
    #[value(name = "c", alias = "u")]
    Char,
    /// A socket
    #[value(name = "s")]
    Socket,
}

/// Make a special file: a named pipe, a socket or a device
///
/// Metadata keeps it as it is; a device works where a mount gives it to the operating system.
#[derive(Debug, Args)]
pub struct Mknod {
    /// Permissions in octal, as 640
    #[arg(short, long, value_name = "MODE", value_parser = crate::settings::parse_mode, default_value = "644")]
    pub mode: u32,
    /// The name
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// What it is
    #[arg(value_name = "TYPE")]
    pub kind: SpecialKind,
    /// Major number of a device
    #[arg(value_name = "MAJOR")]
    pub major: Option<u32>,
    /// Minor number of a device
    #[arg(value_name = "MINOR", requires = "major")]
    pub minor: Option<u32>,
}

/// Set the times of files to now, making those that are not there
#[derive(Debug, Args)]
pub struct Touch {
    /// Do not make files
    #[arg(short = 'c', long)]
    pub no_create: bool,
    /// The files
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Show or change extended attributes
#[derive(Debug, Args)]
pub struct Xattr {
    #[command(subcommand)]
    pub what: XattrWhat,
}

/// What to do with extended attributes.
#[derive(Debug, Subcommand)]
pub enum XattrWhat {
    /// Print the value of one, as it is
    Get(XattrName),
    Set(XattrSet),
    /// List their names
    Ls(XattrLs),
    /// Remove one
    Rm(XattrName),
}

/// An attribute of a file.
#[derive(Debug, Args)]
pub struct XattrName {
    /// Of a symbolic link itself
    #[arg(short = 'P', long)]
    pub no_dereference: bool,
    /// Its name, as user.origin
    #[arg(value_name = "NAME")]
    pub name: OsString,
    /// The file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// See [`XattrWhat::Ls`].
#[derive(Debug, Args)]
pub struct XattrLs {
    /// Of a symbolic link itself
    #[arg(short = 'P', long)]
    pub no_dereference: bool,
    /// The file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Set one: its name begins with user., trusted. or security.
#[derive(Debug, Args)]
pub struct XattrSet {
    /// Of a symbolic link itself
    #[arg(short = 'P', long)]
    pub no_dereference: bool,
    /// Fail if it is there
    #[arg(long, conflicts_with = "replace")]
    pub create: bool,
    /// Fail if it is not there
    #[arg(long)]
    pub replace: bool,
    /// Its name, as user.origin
    #[arg(value_name = "NAME")]
    pub name: OsString,
    /// Its value, at most 48 KiB
    #[arg(value_name = "VALUE")]
    pub value: OsString,
    /// The file
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Show or change access control lists
#[derive(Debug, Args)]
pub struct AclArgs {
    #[command(subcommand)]
    pub what: AclWhat,
}

/// What to do with access control lists.
#[derive(Debug, Subcommand)]
pub enum AclWhat {
    /// Print them as getfacl does; users and groups are numbers
    Get(AclGet),
    Set(AclSet),
}

/// See [`AclWhat::Get`].
#[derive(Debug, Args)]
pub struct AclGet {
    /// Files and directories
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// Set a list, or remove it
///
/// ENTRIES are separated by commas: user::rw-,user:1000:rwx,group::r--,mask::rwx,other::---. A mask that is needed and not
/// given is worked out.
#[derive(Debug, Args)]
pub struct AclSet {
    /// The list that what is made in a directory inherits, not its own
    #[arg(short, long)]
    pub default: bool,
    /// Remove the list; the permissions stay as they are
    #[arg(long, conflicts_with = "entries")]
    pub remove: bool,
    /// The whole list
    #[arg(short, long, value_name = "ENTRIES")]
    pub entries: Option<String>,
    /// Files and directories
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn owners_are_numbers() {
        let owner = |text: &str| text.parse::<Owner>().ok().map(|owner| (owner.uid, owner.gid));
        assert_eq!(owner("10:20"), Some((Some(10), Some(20))));
        assert_eq!((owner("10"), owner(":20")), (Some((Some(10), None)), Some((None, Some(20)))));
        assert_eq!((owner(""), owner(":"), owner("me"), owner("1:x")), (None, None, None, None));
    }
}
