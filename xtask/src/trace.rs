//! `cargo xtask trace`: which clauses the code claims, where, and whether a test carries the same tag.
//!
//! A tag is a comment line `//= <standard> <clause>: our paraphrase`.

use crate::say;
use crate::scan;
use crate::tidy::is_test_path;
use crate::workspace::Workspace;
use anyhow::Result;
use std::collections::BTreeMap;

/// Where one clause is named.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    code: Vec<String>,
    tests: Vec<String>,
}

/// Prints the table; with `check`, says whether every clause has a test.
pub(crate) fn run(check: bool) -> Result<bool> {
    let workspace = Workspace::load()?;
    let mut clauses = BTreeMap::new();
    for path in workspace.files()? {
        // The source of this tool shows the form of a tag without claiming a clause.
        let may_claim = path.ends_with(".rs") && !path.starts_with("xtask/");
        if let Some(text) = workspace.read(&path).filter(|_| may_claim) {
            collect(&path, &text, &mut clauses);
        }
    }
    let mut untested = 0;
    for (clause, places) in &clauses {
        let tested = if places.tests.is_empty() { "NO TEST" } else { "tested" };
        untested += usize::from(places.tests.is_empty());
        say(&format!("{clause:<36} {tested:<8} {}", places.code.join(" ")));
    }
    say(&format!("trace: {} clauses, {untested} without a test", clauses.len()));
    Ok(!check || untested == 0)
}

fn collect(path: &str, text: &str, clauses: &mut BTreeMap<String, Places>) {
    let masked = scan::mask(text);
    let tests = scan::test_lines(&masked.code);
    for (index, line) in masked.comments.lines().enumerate() {
        let Some(tag) = line.trim_start().strip_prefix("//=") else { continue };
        let Some((clause, _)) = tag.split_once(": ") else { continue };
        let places = clauses.entry(clause.trim().to_owned()).or_default();
        let is_test = is_test_path(path) || tests.get(index).copied().unwrap_or(false);
        let list = if is_test { &mut places.tests } else { &mut places.code };
        list.push(format!("{path}:{}", index + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_in_a_test_marks_its_clause_as_tested() {
        let text = "//= onboarding 7.2: the owner signs first\nfn a() {}\n//= onboarding 7.3: then the device\n\
                    #[cfg(test)]\nmod tests {\n    //= onboarding 7.2: the owner signs first\n    fn b() {}\n}\n";
        let mut clauses = BTreeMap::new();
        collect("crates/trust/src/a.rs", text, &mut clauses);
        let tested = |clause: &str| clauses.get(clause).map(|places| (places.code.len(), places.tests.len()));
        assert_eq!(tested("onboarding 7.2"), Some((1, 1)));
        assert_eq!(tested("onboarding 7.3"), Some((1, 0)));
        assert_eq!(clauses.len(), 2);
    }

    #[test]
    fn a_tag_in_a_string_claims_nothing() {
        let mut clauses = BTreeMap::new();
        collect("crates/trust/src/a.rs", "let s = \"\n//= onboarding 1: x\n\";\n", &mut clauses);
        assert!(clauses.is_empty());
    }
}
