//! Which crate may know which.

use super::Finding;
use super::tree::Tree;
use crate::workspace::Package;

/// Crates of the product, each with the crates of the product that it may depend on, in whatever way.
const ARROWS: &[(&str, &[&str])] = &[
    ("cairn-proto", &[]),
    ("cairn-metrics", &[]),
    ("cairn-net", &["cairn-proto"]),
    ("cairn-tls", &["cairn-proto", "cairn-net"]),
    ("cairn-client", &["cairn-proto", "cairn-net", "cairn-metrics"]),
    ("cairn-meta", &["cairn-proto"]),
    ("cairn-engines", &["cairn-proto", "cairn-meta"]),
    ("cairn-store", &["cairn-proto"]),
    ("cairn-server", &["cairn-proto", "cairn-net", "cairn-meta", "cairn-engines", "cairn-store", "cairn-metrics"]),
    ("cairn-cache", &["cairn-proto", "cairn-client"]),
    ("cairn-fuse", &["cairn-proto", "cairn-client"]),
    ("cairnfs", &["cairn-proto", "cairn-client", "cairn-server", "cairn-fuse", "cairn-cache", "cairn-tls"]),
];

/// Packages of the workspace that are no part of the product: they may use anything, nothing may use them.
const OUTSIDE: &[&str] = &["xtask", "cairn-bench", "cairn-chaos", "cairn-sim", "cairn-fuzz", TESTBED];

/// Starts servers of others: the tests of the product may use it, the product may not.
const TESTBED: &str = "cairn-testbed";

/// Foreign crates that would break what a crate promises, in its product code.
const ABSENT: &[(&str, &[&str], &str)] = &[
    (
        "cairn-proto",
        &["tokio", "tokio-util", "rustix", "socket2", "fastrand", "getrandom", "rand", "fjall"],
        "it is pure: no I/O, no clock, no randomness",
    ),
    ("cairn-store", &["tokio", "tokio-util", "socket2", "fjall", "prost"], "it is synchronous and sees only a disk"),
    ("cairn-metrics", &["tokio", "tokio-util", "socket2", "hyper"], "it turns numbers into text, nothing else"),
    ("cairn-meta", &["socket2", "tonic", "tokio-postgres"], "it never sees a socket"),
    ("cairn-client", &["fjall"], "it sees metadata through the wire only"),
];

/// Modules of the binary that run a role. Every other module of it is a face.
const ROLE_MODULES: &[&str] = &["up", "meta", "node", "role", "roles"];

/// Dependencies of the manifests against [`ARROWS`] and [`ABSENT`].
pub fn check(tree: &Tree) -> Vec<Finding> {
    tree.packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let name = package.name.as_str();
    if OUTSIDE.contains(&name) {
        return Vec::new();
    }
    let place = format!("crates/{name}/Cargo.toml");
    let Some((_, allowed)) = ARROWS.iter().find(|(found, _)| *found == name) else {
        return vec![Finding::new(&place, 0, format!("`{name}` has no place among the arrows: say what it may know"))];
    };
    let absent = ABSENT.iter().find(|(found, _, _)| *found == name);
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let used = dependency.name.as_str();
        let of_the_workspace = OUTSIDE.contains(&used) || ARROWS.iter().any(|(found, _)| *found == used);
        // A crate may name itself, to turn on a feature of its own for its tests.
        let tests = used == TESTBED && dependency.kind.as_deref() == Some("dev");
        if (of_the_workspace || dependency.path.is_some()) && used != name && !tests && !allowed.contains(&used) {
            findings.push(Finding::new(&place, 0, format!("`{name}` must not depend on `{used}`")));
        }
        if let Some((_, crates, why)) = absent
            && dependency.kind.as_deref() != Some("dev")
            && crates.contains(&used)
        {
            findings.push(Finding::new(&place, 0, format!("`{name}` must not depend on `{used}`: {why}")));
        }
    }
    findings
}

/// Names of crates in the code of the faces.
pub fn faces(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let Some(inside) =
            file.path.strip_prefix("crates/cairnfs/src/").or_else(|| file.path.strip_prefix("crates/cairn-fuse/src/"))
        else {
            continue;
        };
        let runs_a_role = inside.split('/').any(|part| ROLE_MODULES.contains(&part.trim_end_matches(".rs")));
        let hidden: &[&str] = match runs_a_role {
            true => &["cairn_net", "cairn_meta", "cairn_store"],
            false => &["cairn_net", "cairn_meta", "cairn_store", "cairn_server"],
        };
        for line in file.lines().filter(|line| !line.is_comment()) {
            for name in hidden.iter().filter(|name| line.text.contains(&format!("{name}::"))) {
                findings.push(Finding::new(&file.path, line.number, format!("a face must not see `{name}`")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::tree::File;
    use super::*;
    use crate::workspace::Dependency;

    fn depends(name: &str, on: &str, kind: Option<&str>) -> usize {
        let dependency = Dependency { name: on.to_string(), kind: kind.map(String::from), ..Dependency::default() };
        check_package(&Package { name: name.to_string(), dependencies: vec![dependency], ..Package::default() }).len()
    }

    #[test]
    fn allowed_arrows_pass() {
        assert_eq!(depends("cairn-net", "cairn-proto", None), 0);
        assert_eq!(depends("cairn-server", "cairn-net", None), 0);
        assert_eq!(depends("cairnfs", "cairn-server", None), 0);
        assert_eq!(depends("cairn-bench", "cairn-store", None), 0);
        assert_eq!(depends("cairn-net", "cairn-net", Some("dev")), 0);
        assert_eq!(depends("cairn-engines", "cairn-testbed", Some("dev")), 0);
        assert_eq!(depends("cairn-engines", "cairn-testbed", None), 1);
    }

    #[test]
    fn every_other_arrow_is_found_also_in_tests() {
        for (name, on) in [
            ("cairn-proto", "cairn-net"),
            ("cairn-store", "cairn-net"),
            ("cairn-store", "cairn-meta"),
            ("cairn-meta", "cairn-store"),
            ("cairn-client", "cairn-server"),
            ("cairn-server", "cairn-client"),
            ("cairnfs", "cairn-net"),
            ("cairn-net", "cairn-bench"),
        ] {
            for kind in [None, Some("dev"), Some("build")] {
                assert_eq!(depends(name, on, kind), 1, "{name} -> {on} ({kind:?})");
            }
        }
        assert_eq!(depends("cairn-unknown", "bytes", None), 1);
    }

    #[test]
    fn foreign_crates_that_break_a_promise_are_found() {
        assert_eq!(depends("cairn-store", "tokio", None), 1);
        assert_eq!(depends("cairn-store", "tokio", Some("dev")), 0);
        assert_eq!(depends("cairn-proto", "rustix", Some("build")), 1);
        assert_eq!(depends("cairn-proto", "bytes", None), 0);
    }

    #[test]
    fn faces_see_the_client_only() {
        let found =
            |path: &str, text: &str| faces(&Tree { files: vec![File::new(path, text)], ..Tree::default() }).len();
        assert_eq!(found("crates/cairnfs/src/put.rs", "use cairn_client::DfsClient;"), 0);
        assert_eq!(found("crates/cairnfs/src/put.rs", "use cairn_server::Node;"), 1);
        assert_eq!(found("crates/cairnfs/src/up.rs", "use cairn_server::Node;"), 0);
        assert_eq!(found("crates/cairnfs/src/roles/node.rs", "use cairn_server::Node;"), 0);
        assert_eq!(found("crates/cairnfs/src/up.rs", "let x = cairn_meta::Keys::new();"), 1);
        assert_eq!(found("crates/cairn-client/src/lib.rs", "use cairn_net::Pool;"), 0);
    }
}
