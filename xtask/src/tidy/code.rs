//! What must not stand in code.

use super::Finding;
use super::tree::{File, Line, Tree};

/// Lines of code in one file, at most. Beyond it a file holds more than one thing.
const MAX_LINES: usize = 800;

/// Rust code whose own text is not about these rules.
fn subjects(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.rust().filter(|file| !file.path.starts_with("xtask/src/tidy/"))
}

/// One finding for each line of the subjects that a function objects to.
fn each_line(tree: &Tree, object: impl Fn(&Line<'_>) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in subjects(tree) {
        for line in file.lines() {
            findings.extend(object(&line).map(|message| Finding::new(&file.path, line.number, message)));
        }
    }
    findings
}

/// `unwrap` and its likes outside tests.
pub fn unwraps(tree: &Tree) -> Vec<Finding> {
    each_line(tree, |line| {
        let found =
            [".unwrap()", ".unwrap_err()", ".expect(\"\")"].into_iter().find(|call| line.text.contains(call))?;
        (!line.in_test && !line.is_comment()).then(|| format!("`{found}` outside tests"))
    })
}

/// Macros and notes that stand where work is missing.
pub fn unfinished(tree: &Tree) -> Vec<Finding> {
    each_line(tree, |line| {
        let macros = ["todo!(", "unimplemented!(", "dbg!("].into_iter().find(|mark| line.text.contains(mark));
        let notes = || ["TODO", "FIXME", "XXX", "HACK"].into_iter().find(|note| has_word(line.text, note));
        macros.or_else(notes).map(|found| format!("`{}` marks unfinished work", found.trim_end_matches('(')))
    })
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    text.match_indices(word)
        .any(|(at, _)| !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next()))
}

/// `#[ignore]` without a reason.
pub fn ignored(tree: &Tree) -> Vec<Finding> {
    each_line(tree, |line| {
        let text = line.text.trim();
        let bare = text.starts_with("#[ignore]") || (text.starts_with("#[ignore") && text.contains("\"\""));
        bare.then(|| "say why it is ignored: `#[ignore = \"...\"]`".to_string())
    })
}

/// Tests that wait for time to pass.
pub fn sleeps(tree: &Tree) -> Vec<Finding> {
    each_line(tree, |line| {
        let code = !line.is_comment() && line.in_test && !line.waives("sleep");
        let found =
            ["thread::sleep(", "time::sleep(", "sleep_until("].into_iter().find(|call| line.text.contains(call))?;
        code.then(|| format!("`{found})` in a test: wait for the event, or add `// tidy: sleep-ok(reason)`"))
    })
}

/// Files that have grown too long.
pub fn lengths(tree: &Tree) -> Vec<Finding> {
    let long = tree.rust().map(|file| (file, file.lines().count())).filter(|(_, count)| *count > MAX_LINES);
    long.map(|(file, count)| Finding::new(&file.path, 0, format!("has {count} lines, of {MAX_LINES} at most")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str, text: &str) -> Tree {
        Tree { files: vec![File::new(path, text)], ..Tree::default() }
    }

    const SOURCE: &str = "crates/x/src/lib.rs";
    const TEST: &str = "crates/x/tests/it/main.rs";

    #[test]
    fn unwrap_is_found_outside_tests_only() {
        assert_eq!(unwraps(&tree(SOURCE, "a.unwrap();")).len(), 1);
        assert_eq!(unwraps(&tree(SOURCE, "a.expect(\"\");")).len(), 1);
        assert_eq!(unwraps(&tree(SOURCE, "a.expect(\"b holds\").unwrap_or(1);")).len(), 0);
        assert_eq!(unwraps(&tree(SOURCE, "/// a.unwrap();")).len(), 0);
        assert_eq!(unwraps(&tree(SOURCE, "#[cfg(test)]\nmod tests {\n    a.unwrap();\n}\n")).len(), 0);
        assert_eq!(unwraps(&tree(SOURCE, "#[cfg(test)]\nmod tests {\n}\na.unwrap();\n")).len(), 1);
        assert_eq!(unwraps(&tree(TEST, "a.unwrap();")).len(), 0);
    }

    #[test]
    fn unfinished_work_is_found() {
        for text in ["todo!()", "unimplemented!(\"x\")", "// TODO later", "// FIXME", "//XXX:", "dbg!(x);"] {
            assert_eq!(unfinished(&tree(SOURCE, text)).len(), 1, "{text}");
        }
        assert_eq!(unfinished(&tree(SOURCE, "let x = \"XXXX\"; // TODOS_TODO")).len(), 0);
    }

    #[test]
    fn an_ignored_test_has_a_reason() {
        assert_eq!(ignored(&tree(TEST, "#[ignore]")).len(), 1);
        assert_eq!(ignored(&tree(TEST, "    #[ignore = \"\"]")).len(), 1);
        assert_eq!(ignored(&tree(TEST, "#[ignore = \"writes 5 GiB\"]")).len(), 0);
    }

    #[test]
    fn sleeping_tests_are_found() {
        assert_eq!(sleeps(&tree(TEST, "tokio::time::sleep(x).await;")).len(), 1);
        assert_eq!(sleeps(&tree(TEST, "thread::sleep(x); // tidy: sleep-ok(kernel timer)")).len(), 0);
        assert_eq!(sleeps(&tree(TEST, "thread::sleep(x); // tidy: sleep-ok()")).len(), 1);
        assert_eq!(sleeps(&tree(SOURCE, "tokio::time::sleep(x).await;")).len(), 0);
    }

    #[test]
    fn long_files_are_found_unless_generated() {
        assert_eq!(lengths(&tree(SOURCE, &"x\n".repeat(MAX_LINES))).len(), 0);
        assert_eq!(lengths(&tree(SOURCE, &"x\n".repeat(MAX_LINES + 1))).len(), 1);
        assert_eq!(lengths(&tree("crates/x/src/pb.rs", &"x\n".repeat(MAX_LINES + 1))).len(), 0);
    }
}
