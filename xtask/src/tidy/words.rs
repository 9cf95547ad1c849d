//! Rules for every text file: names of files, traces of a machine, work left open, vectors without a source.

use super::line_findings;
use crate::finding::Finding;

/// Names that say nothing: the thing belongs beside its user.
const FORBIDDEN_MODULES: &[&str] = &["common", "util", "utils", "helper", "helpers", "models"];
/// First folders of paths that exist on one machine only.
const MACHINE_FOLDERS: &[&str] = &["home", "root", "work", "Users"];
/// Written by a tool, or the words of somebody else.
const FOREIGN_FILES: &[&str] = &["Cargo.lock", "fuzz/Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"];

pub(super) fn check_path(path: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut parts: Vec<&str> = path.split('/').collect();
    let file = parts.pop().unwrap_or(path);
    if let Some(module) = file.strip_suffix(".rs") {
        parts.retain(|part| FORBIDDEN_MODULES.contains(part));
        parts.extend(FORBIDDEN_MODULES.contains(&module).then_some(module));
        findings.extend(parts.into_iter().map(|name| {
            Finding::error(
                path,
                1,
                "module-name",
                format!("`{name}` says nothing; put the code beside its user"),
            )
        }));
        // Tests that share a module need the old form: a file beside them would be one more test program.
        if module == "mod" && !super::is_test_path(path) {
            findings.push(Finding::error(
                path,
                1,
                "module-name",
                "write `foo.rs` beside `foo/`, never `mod.rs`",
            ));
        }
    }
    findings
}

pub(super) fn check_text(path: &str, text: &str) -> Vec<Finding> {
    if FOREIGN_FILES.contains(&path) {
        return Vec::new();
    }
    let mut findings: Vec<Finding> = line_findings(path, text, "machine-path", |line| {
        let folder = machine_path(line)?;
        Some(format!("a path under `/{folder}` exists on one machine only"))
    })
    .collect();
    // In Rust only comments count (`source.rs`); in prose the word may be quoted.
    if !path.ends_with(".rs") && !path.ends_with(".md") {
        findings.extend(line_findings(path, text, "bare-todo", bare_todo));
    }
    findings
}

/// Finds a mark of open work without the number of an issue.
pub(super) fn bare_todo(line: &str) -> Option<String> {
    let is_bare = |mark: &str| {
        line.match_indices(mark).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + mark.len()..]);
            let is_word =
                !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric);
            let number = after.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
            let has_issue = number.is_some_and(|(number, _)| number.parse::<u32>().is_ok());
            is_word && !has_issue
        })
    };
    let mark = ["TODO", "FIXME"].into_iter().find(|mark| is_bare(mark))?;
    Some(format!("{mark} without an issue; write TODO(#123): ..."))
}

/// A test vector says where it comes from.
pub(super) fn check_vector(path: &str, text: &str) -> Option<Finding> {
    let is_vector = path.starts_with("tests/vectors/") || path.contains("/tests/vectors/");
    let has_source = text.lines().any(|line| {
        line.split_once('=')
            .is_some_and(|(key, value)| key.trim() == "source" && !value.trim().trim_matches('"').is_empty())
    });
    (is_vector && !has_source).then(|| {
        Finding::error(path, 1, "vector-source", "a vector says where it comes from: source = \"...\"")
    })
}

fn machine_path(line: &str) -> Option<&'static str> {
    MACHINE_FOLDERS.iter().copied().find(|folder| {
        line.match_indices(&format!("/{folder}/")).any(|(at, _)| {
            // Inside a longer path or an address the folder is somebody's word, not the root of a machine.
            !line[..at].ends_with(|c: char| {
                c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '*' | '}' | '~' | '>')
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(findings: Vec<Finding>) -> Vec<(&'static str, usize)> {
        findings.into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        assert_eq!(rules(check_path("crates/io/src/utils.rs")), [("module-name", 1)]);
        assert_eq!(rules(check_path("crates/io/src/helpers/a.rs")), [("module-name", 1)]);
        assert_eq!(rules(check_path("crates/io/src/tls/mod.rs")), [("module-name", 1)]);
        assert!(check_path("crates/gridseal/tests/processes/mod.rs").is_empty());
        assert!(check_path("crates/keys/src/core.rs").is_empty());
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for folder in MACHINE_FOLDERS {
            let text = format!("fine\nsee /{folder}/x\n\"/{folder}/y\"\n");
            assert_eq!(rules(check_text("README.md", &text)), [("machine-path", 2), ("machine-path", 3)]);
            let text =
                format!("docs/{folder}/x, https://example.org/{folder}/x, ../{folder}/x, $HOME/{folder}/x\n");
            assert!(check_text("README.md", &text).is_empty());
        }
    }

    #[test]
    fn open_work_needs_an_issue() {
        assert_eq!(rules(check_text("Makefile", "a: # TODO\n")), [("bare-todo", 1)]);
        assert_eq!(rules(check_text("Makefile", "a: # FIXME(me): b\n")), [("bare-todo", 1)]);
        assert!(check_text("Makefile", "a: # TODO(#7): b, TODOS\n").is_empty());
        assert!(check_text("CONTRIBUTING.md", "no bare `TODO`\n").is_empty());
    }

    #[test]
    fn a_vector_names_its_source() {
        assert!(check_vector("tests/vectors/dlms/a.toml", "input = \"00\"\n").is_some());
        assert!(check_vector("tests/vectors/dlms/a.toml", "source = \"\"\n").is_some());
        assert!(check_vector("tests/vectors/dlms/a.toml", "source = \"Green Book\"\n").is_none());
        assert!(check_vector("Cargo.toml", "").is_none());
    }
}
