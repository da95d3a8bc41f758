//! What every Cargo.toml has in common.

use super::Finding;
use super::tree::{File, Tree};
use toml::{Table, Value};

/// A workspace of its own: cargo-fuzz builds it with another compiler and flags, and it has no part in the product.
const FUZZ: &str = "fuzz/Cargo.toml";

/// All manifests: that of the workspace, and those of its members.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml")) {
        if file.path == "Cargo.toml" {
            findings.extend(reasons(file, "[workspace.dependencies]"));
        } else if file.path == FUZZ {
            findings.extend(reasons(file, "[dependencies]"));
        } else {
            findings.extend(member(file));
        }
    }
    findings
}

/// Every line of a section that names a foreign crate ends in a comment with the reason.
fn reasons(file: &File, section: &str) -> Vec<Finding> {
    let mut inside = false;
    let mut findings = Vec::new();
    for line in file.lines() {
        if line.text.starts_with('[') {
            inside = line.text.trim_end() == section;
            continue;
        }
        let Some((name, value)) = line.text.split_once('=').filter(|_| inside && !line.text.starts_with([' ', '#']))
        else {
            continue;
        };
        let reason = value.rsplit_once(" # ").map(|(_, reason)| reason.trim()).unwrap_or_default();
        if reason.is_empty() && !value.contains("path =") {
            let message = format!("`{}` is here without a reason (`# why` at the end of its line)", name.trim());
            findings.push(Finding::new(&file.path, line.number, message));
        }
    }
    findings
}

/// The manifest of a member takes lints and dependencies from the workspace.
fn member(file: &File) -> Vec<Finding> {
    let table: Table = match file.text().parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding::new(&file.path, 0, format!("is not TOML: {error}"))],
    };
    let mut findings = Vec::new();
    let inherits =
        |value: Option<&Value>| value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true);
    if !inherits(table.get("lints")) {
        findings.push(Finding::new(&file.path, 0, "lacks `[lints] workspace = true`"));
    }
    let package = table.get("package");
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if !inherits(package.and_then(|package| package.get(key))) {
            findings.push(Finding::new(&file.path, 0, format!("lacks `{key}.workspace = true`")));
        }
    }
    let own_name = package.and_then(|package| package.get("name")).and_then(Value::as_str);
    for (name, value) in dependencies(&table) {
        // A crate may name itself, to turn on a feature of its own for its tests.
        if !inherits(Some(value)) && own_name != Some(name) {
            let message = format!("`{name}` is not taken from the workspace (`{name}.workspace = true`)");
            findings.push(Finding::new(&file.path, 0, message));
        }
    }
    findings
}

/// Dependencies of every kind, for every platform.
fn dependencies(table: &Table) -> Vec<(&str, &Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => {
                found.extend(inner.iter().map(|(name, value)| (name.as_str(), value)));
            }
            "target" => found.extend(inner.values().filter_map(Value::as_table).flat_map(dependencies)),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"x\"\nversion.workspace = true\nedition.workspace = true\n\
                        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
                        [lints]\nworkspace = true\n";

    fn found(path: &str, text: &str) -> usize {
        check(&Tree { files: vec![File::new(path, text)], ..Tree::default() }).len()
    }

    #[test]
    fn the_fuzz_workspace_gives_its_own_reasons() {
        let text = |line: &str| format!("[package]\nname = \"x\"\n[dependencies]\n{line}\n[workspace]\n");
        assert_eq!(found(FUZZ, &text("own = { path = \"../crates/own\" }")), 0);
        assert_eq!(found(FUZZ, &text("fuzzer = \"1\" # the fuzzer")), 0);
        assert_eq!(found(FUZZ, &text("fuzzer = \"1\"")), 1);
    }

    #[test]
    fn members_inherit() {
        assert_eq!(found("crates/x/Cargo.toml", GOOD), 0);
        assert_eq!(found("crates/x/Cargo.toml", &GOOD.replace("[lints]", "[other]")), 1);
        assert_eq!(found("crates/x/Cargo.toml", &GOOD.replace("license.workspace = true", "license = \"MIT\"")), 1);
        assert_eq!(found("crates/x/Cargo.toml", &format!("{GOOD}[dependencies]\nbytes.workspace = true\n")), 0);
        assert_eq!(found("crates/x/Cargo.toml", &format!("{GOOD}[dev-dependencies]\nx = {{ path = \".\" }}\n")), 0);
        assert_eq!(found("crates/x/Cargo.toml", "="), 1);
    }

    #[test]
    fn own_versions_of_dependencies_are_found_in_every_table() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let text = format!("{GOOD}[{section}]\nbytes = \"1\"\nb = {{ workspace = true, features = [\"x\"] }}\n");
            assert_eq!(found("crates/x/Cargo.toml", &text), 1, "{section}");
        }
    }

    #[test]
    fn dependencies_of_the_workspace_have_reasons() {
        let text =
            |entry: &str| format!("[workspace.dependencies]\n# --- group\n{entry}\n[profile.dev]\ndebug = false\n");
        assert_eq!(found("Cargo.toml", &text("bytes = \"1\" # shared buffers")), 0);
        assert_eq!(found("Cargo.toml", &text("own = { path = \"crates/own\" }")), 0);
        assert_eq!(found("Cargo.toml", &text("bytes = \"1\"")), 1);
        assert_eq!(found("Cargo.toml", &text("bytes = \"1\" # ")), 1);
    }
}
