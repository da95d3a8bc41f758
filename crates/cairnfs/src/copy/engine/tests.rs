use std::{collections::HashMap, ffi::OsStr};

use parking_lot::Mutex;

use super::*;
use crate::copy::progress::Progress;

/// A tree in memory; what is done to the target is written down in order.
struct Fake {
    tree: HashMap<PathBuf, Vec<(&'static str, bool)>>,
    done: Mutex<Vec<String>>,
    fail: &'static str,
}

impl Fake {
    fn note(&self, what: &str, path: &Path) -> Result<(), Failure> {
        self.done.lock().push(format!("{what} {}", path.display()));
        if self.fail == format!("{what} {}", path.display()) { Err(Failure::at(path.display(), "bad")) } else { Ok(()) }
    }
}

impl Direction for Fake {
    type DirFacts = ();
    type LeafFacts = ();

    async fn enter(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        self.note("enter", &dir.target)
    }

    async fn list(&self, mut listing: Listing<Self>) -> Listed<Self> {
        let entries = self.tree.get(listing.source()).cloned().unwrap_or_default();
        for (name, is_dir) in entries {
            if is_dir {
                listing.dir(OsStr::new(name), ());
            } else if listing.leaf(OsStr::new(name), ()).await.is_err() {
                break;
            }
        }
        listing.end()
    }

    async fn copy(&self, leaf: &Leaf<Self>, _: &Report) -> Result<Copied, Failure> {
        tokio::task::yield_now().await;
        self.note("copy", &leaf.target).map(|()| Copied::File(1))
    }

    async fn leave(&self, dir: &Dir<Self>) -> Result<(), Failure> {
        self.note("leave", &dir.target)
    }
}

async fn run_fake(fail: &'static str) -> (Vec<String>, Result<(), Failure>) {
    let tree = HashMap::from([
        (PathBuf::from("/s"), vec![("a", true), ("f", false), ("b", true)]),
        (PathBuf::from("/s/a"), vec![("g", false), ("c", true)]),
        (PathBuf::from("/s/a/c"), vec![("h", false), ("i", false)]),
    ]);
    let fake = Arc::new(Fake { tree, done: Mutex::default(), fail });
    let report = Arc::new(Report::new("put", Progress::new(false)));
    run(&fake, vec![Root::Dir("/s".into(), "/t".into(), ())], 2, &report).await;
    let mut out = crate::output::Out::new().unwrap();
    let result = report.end(crate::args::Ending::Quiet, &mut out);
    (Arc::into_inner(fake).unwrap().done.into_inner(), result)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_made_before_and_left_after_its_content() {
    let (done, result) = run_fake("").await;
    assert_eq!(result, Ok(()));
    let at = |what: &str| done.iter().position(|line| line == what).unwrap_or_else(|| panic!("{what} in {done:?}"));
    for (before, after) in [
        ("enter /t", "enter /t/a"),
        ("enter /t/a", "enter /t/a/c"),
        ("enter /t/a/c", "copy /t/a/c/h"),
        ("copy /t/a/c/h", "leave /t/a/c"),
        ("copy /t/a/c/i", "leave /t/a/c"),
        ("leave /t/a/c", "leave /t/a"),
        ("copy /t/a/g", "leave /t/a"),
        ("leave /t/a", "leave /t"),
        ("leave /t/b", "leave /t"),
        ("copy /t/f", "leave /t"),
    ] {
        assert!(at(before) < at(after), "{before} before {after}: {done:?}");
    }
    assert_eq!(done.len(), 12, "each once: {done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_does_not_stop_the_rest() {
    let (done, result) = run_fake("copy /t/a/c/h").await;
    assert_eq!(result, Err(Failure::Told));
    assert_eq!(done.len(), 12, "{done:?}");

    let (done, result) = run_fake("enter /t/a").await;
    assert_eq!(result, Err(Failure::Told));
    assert!(!done.iter().any(|line| line != "enter /t/a" && line.contains("/t/a")), "nothing below: {done:?}");
    assert_eq!(done.last().map(String::as_str), Some("leave /t"));
}
