//! What lands where, by the rules of `cp`. Pure: takes paths and facts, touches nothing.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::text;

/// The name a source has in the directory it is copied into; `None` where it has none (`/`, `.`, `..`): then its
/// content goes there.
pub fn last_name(source: &Path) -> Option<&OsStr> {
    // Path::file_name would drop a final `/.`, which to cp means "what is in it".
    let bytes = source.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/')? + 1;
    let start = bytes[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    match &bytes[start..end] {
        b"." | b".." => None,
        name => Some(OsStr::from_bytes(name)),
    }
}

/// Whether a path ends in `/`, which only a directory may.
pub fn names_directory(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

/// What stands at the target of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A directory, or a link to one: sources go into it.
    Directory,
    /// Something else: a single source replaces it.
    Other,
    /// Nothing: a single source gets this name.
    Nothing,
}

/// Where one source goes, or why it cannot be copied.
#[derive(Debug, PartialEq, Eq)]
pub struct Landing {
    pub source: PathBuf,
    pub place: Result<PathBuf, String>,
}

/// Where each source goes.
///
/// # Errors
/// What is wrong with the target as a whole.
pub fn landings(sources: Vec<PathBuf>, target: &Path, stands: Target) -> Result<Vec<Landing>, String> {
    if sources.len() > 1 && stands != Target::Directory {
        return Err("is not a directory, and there are several sources".to_owned());
    }
    let mut taken = HashSet::new();
    let land = |source: PathBuf| {
        let place = match stands {
            Target::Directory => last_name(&source).map_or_else(|| target.to_path_buf(), |name| target.join(name)),
            Target::Other | Target::Nothing => target.to_path_buf(),
        };
        let place = if taken.insert(place.clone()) {
            Ok(place)
        } else {
            Err(format!("would replace {}, which was just copied", text::path(&place)))
        };
        Landing { source, place }
    };
    Ok(sources.into_iter().map(land).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(sources: &[&str], target: &str, stands: Target) -> Result<Vec<Result<String, String>>, String> {
        let landings = landings(sources.iter().map(PathBuf::from).collect(), Path::new(target), stands)?;
        Ok(landings.into_iter().map(|landing| landing.place.map(|path| path.display().to_string())).collect())
    }

    #[test]
    fn names() {
        for (path, name) in [
            ("/usr/lib", Some("lib")),
            ("/usr/lib//", Some("lib")),
            ("lib", Some("lib")),
            ("/usr/lib/.", None),
            ("/usr/lib/./", None),
            (".", None),
            ("..", None),
            ("a/..", None),
            ("/", None),
            ("", None),
            ("...", Some("...")),
        ] {
            assert_eq!(last_name(Path::new(path)), name.map(OsStr::new), "{path}");
        }
    }

    #[test]
    fn one_source() {
        let one = |source, stands| places(&[source], "/t", stands).unwrap().remove(0).unwrap();
        assert_eq!(one("/a/b", Target::Directory), "/t/b");
        assert_eq!(one("/a/b/", Target::Directory), "/t/b");
        assert_eq!(one("/a/b/.", Target::Directory), "/t");
        assert_eq!(one("/a/b", Target::Nothing), "/t");
        assert_eq!(one("/a/b", Target::Other), "/t");
    }

    #[test]
    fn several_sources_need_a_directory_and_names_of_their_own() {
        assert!(places(&["a", "b"], "/t", Target::Nothing).is_err());
        assert!(places(&["a", "b"], "/t", Target::Other).is_err());
        let both = places(&["x/a", "y/a", "y/b"], "/t", Target::Directory).unwrap();
        assert_eq!(both[0].as_deref(), Ok("/t/a"));
        assert!(both[1].as_ref().unwrap_err().contains("just copied"));
        assert_eq!(both[2].as_deref(), Ok("/t/b"));
    }
}
