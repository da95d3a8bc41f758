//! Permissions as chmod(1) takes them: octal, or changes such as `u+x`, `go-w`, `a=rX`, `g=u`, comma separated.

use std::str::FromStr;

use cairn_client::FileKind;

/// Everything that can be set.
const ALL: u32 = 0o7777;

/// What becomes of permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeChange {
    /// They are these.
    Set(u32),
    /// They are changed, one step after the other.
    Steps(Vec<Step>),
}

/// Who is meant: bits of the three triples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Who {
    user: bool,
    group: bool,
    other: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Replace,
}

/// A permission that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Read,
    Write,
    Execute,
    /// Execute for directories, and for what somebody may execute already.
    Search,
    SetId,
    Sticky,
    /// What the owner, the group or others have.
    SameAs(u32),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    who: Who,
    action: Action,
    permissions: Vec<Permission>,
}

impl Step {
    /// The bits that the step is about, of something that has `mode` now.
    fn bits(&self, mode: u32, is_dir: bool) -> u32 {
        let Who { user, group, other } = self.who;
        let spread = |triple: u32| {
            let part = |wanted: bool, shift: u32| if wanted { triple << shift } else { 0 };
            part(user, 6) | part(group, 3) | part(other, 0)
        };
        let bits = self.permissions.iter().map(|permission| match permission {
            Permission::Read => spread(4),
            Permission::Write => spread(2),
            Permission::Execute => spread(1),
            Permission::Search if is_dir || mode & 0o111 != 0 => spread(1),
            Permission::Search => 0,
            Permission::SetId => (if user { 0o4000 } else { 0 }) | if group { 0o2000 } else { 0 },
            Permission::Sticky if other => 0o1000,
            Permission::Sticky => 0,
            Permission::SameAs(shift) => spread(mode >> shift & 7),
        });
        bits.fold(0, |all, bits| all | bits)
    }

    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = self.bits(mode, is_dir);
        match self.action {
            Action::Add => mode | bits,
            Action::Remove => mode & !bits,
            Action::Replace => {
                let Who { user, group, other } = self.who;
                let mine = (if user { 0o4700 } else { 0 })
                    | (if group { 0o2070 } else { 0 })
                    | (if other { 0o0007 } else { 0 })
                    | (if user && group && other { 0o1000 } else { 0 });
                // As chmod of GNU: what is inherited below a directory goes only when it is named.
                let mine = if is_dir { mine & !0o6000 } else { mine };
                mode & !mine | bits
            }
        }
    }
}

impl ModeChange {
    /// The permissions of something that has `mode` now.
    pub fn apply(&self, mode: u32, kind: FileKind) -> u32 {
        match self {
            Self::Set(mode) => *mode,
            Self::Steps(steps) => {
                let is_dir = kind == FileKind::Directory;
                steps.iter().fold(mode & ALL, |mode, step| step.apply(mode, is_dir))
            }
        }
    }

    /// The same whatever was there before.
    pub fn fixed(&self) -> Option<u32> {
        match self {
            Self::Set(mode) => Some(*mode),
            Self::Steps(_) => None,
        }
    }
}

fn who(text: &str) -> (Who, &str) {
    let end = text.find(|letter| !"ugoa".contains(letter)).unwrap_or(text.len());
    let (letters, rest) = text.split_at(end);
    // Without a word, everybody: there is no mask of the caller's here.
    let all = letters.is_empty() || letters.contains('a');
    let has = |letter| all || letters.contains(letter);
    (Who { user: has('u'), group: has('g'), other: has('o') }, rest)
}

fn permission(letter: char) -> Option<Permission> {
    Some(match letter {
        'r' => Permission::Read,
        'w' => Permission::Write,
        'x' => Permission::Execute,
        'X' => Permission::Search,
        's' => Permission::SetId,
        't' => Permission::Sticky,
        'u' => Permission::SameAs(6),
        'g' => Permission::SameAs(3),
        'o' => Permission::SameAs(0),
        _ => return None,
    })
}

/// The steps of one clause, as `u=rw-x`.
fn clause(text: &str) -> Option<Vec<Step>> {
    let (who, mut rest) = who(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let action = match rest.chars().next()? {
            '+' => Action::Add,
            '-' => Action::Remove,
            '=' => Action::Replace,
            _ => return None,
        };
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let permissions = rest[..end].chars().map(permission).collect::<Option<Vec<_>>>()?;
        rest = &rest[end..];
        steps.push(Step { who, action, permissions });
    }
    (!steps.is_empty()).then_some(steps)
}

impl FromStr for ModeChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return crate::settings::parse_mode(text).map(Self::Set);
        }
        let steps = text.split(',').map(clause).collect::<Option<Vec<_>>>();
        match steps {
            Some(steps) => Ok(Self::Steps(steps.concat())),
            None => Err(format!("{text:?} is no mode: 750, u+x, go-w, a=rX")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str, mode: u32, kind: FileKind) -> u32 {
        text.parse::<ModeChange>().expect(text).apply(mode, kind)
    }

    #[test]
    fn changes_are_those_of_chmod() {
        use FileKind::{Directory, File};
        for (text, mode, kind, expected) in [
            ("750", 0o644, File, 0o750),
            ("u+x", 0o644, File, 0o744),
            ("+x", 0o644, File, 0o755),
            ("go-w", 0o666, File, 0o644),
            ("a=rX", 0o600, File, 0o444),
            ("a=rX", 0o700, File, 0o555),
            ("a=rX", 0o600, Directory, 0o555),
            ("u=rwX,go=rX", 0o600, Directory, 0o755),
            ("u=rwX,go=rX", 0o600, File, 0o644),
            ("g=u", 0o640, File, 0o660),
            ("o=g", 0o751, File, 0o755),
            ("o=", 0o757, File, 0o750),
            ("u+s", 0o755, File, 0o4755),
            ("g+s", 0o755, Directory, 0o2755),
            ("+t", 0o777, Directory, 0o1777),
            ("u-s", 0o4755, File, 0o755),
            ("u=rw", 0o4755, File, 0o655),
            ("g=rx", 0o2775, Directory, 0o2755),
            ("u=rw-r+x", 0o000, File, 0o300),
            ("a-x,u+X", 0o755, File, 0o644),
            ("a-x,u+X", 0o755, Directory, 0o744),
        ] {
            assert_eq!(change(text, mode, kind), expected, "{text} of {mode:o}: {:o}", change(text, mode, kind));
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "u", "u+q", "x+u", "u+x,", "8", "77777", "u +x", "ug"] {
            assert!(text.parse::<ModeChange>().is_err(), "{text:?}");
        }
        assert!("u+".parse::<ModeChange>().is_ok(), "nothing is added");
    }
}
