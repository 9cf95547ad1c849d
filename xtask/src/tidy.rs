//! `cargo xtask tidy`: the rules of the house that a machine can check in a second.

mod edges;
mod source;
mod words;

use crate::finding::{Finding, Level};
use crate::say;
use crate::workspace::Workspace;
use anyhow::Result;

pub(crate) use edges::no_std_packages;

/// Runs all checks, prints what they find and says whether there was no error.
pub(crate) fn run() -> Result<bool> {
    let workspace = Workspace::load()?;
    let files = workspace.files()?;
    let mut findings = edges::check(&workspace.packages);
    for path in &files {
        findings.extend(words::check_path(path));
        let Some(text) = workspace.read(path) else { continue };
        findings.extend(words::check_text(path, &text));
        if path.ends_with(".rs") {
            findings.extend(source::check(path, &text));
        } else if path.ends_with(".toml") {
            findings.extend(edges::check_manifest_text(path, &text));
            findings.extend(words::check_vector(path, &text));
        }
    }
    findings.sort();
    for finding in &findings {
        say(&finding.to_string());
    }
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    let warnings = findings.len() - errors;
    let packages = workspace.packages.len();
    say(&format!("tidy: {} files, {packages} packages, {errors} errors, {warnings} warnings", files.len()));
    Ok(errors == 0)
}

/// Is this file made of tests or benches only?
pub(crate) fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

fn line_findings<'a>(
    path: &'a str,
    text: &'a str,
    rule: &'static str,
    message: impl Fn(&str) -> Option<String> + 'a,
) -> impl Iterator<Item = Finding> + 'a {
    text.lines().enumerate().filter_map(move |(index, line)| {
        message(line).map(|said| Finding::error(path, index + 1, rule, said))
    })
}
