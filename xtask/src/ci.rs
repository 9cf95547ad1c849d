//! `cargo xtask ci`: everything that must pass before a change lands, fast steps first.
//!
//! This is the only place that holds the list: `make test` and `.ci/run` call it.

use crate::workspace::Workspace;
use crate::{say, tidy};
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

struct Step {
    name: &'static str,
    /// Arguments of cargo; `None` is the tidy check, which runs in this process.
    cargo: Option<Vec<String>>,
    /// Variables of the environment for this step.
    environment: &'static [(&'static str, &'static str)],
}

impl Step {
    fn cargo(name: &'static str, arguments: &str) -> Self {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Self { name, cargo: Some(arguments), environment: &[] }
    }
}

/// Runs the list, or one step of it; stops at the first that fails.
pub(crate) fn run(only: Option<&str>) -> Result<bool> {
    let steps = steps(&Workspace::load()?, has_nextest());
    let chosen: Vec<&Step> = steps.iter().filter(|step| only.is_none_or(|name| name == step.name)).collect();
    if chosen.is_empty() {
        say("no such step; `cargo xtask ci --list` names them");
        return Ok(false);
    }
    for step in chosen {
        say(&format!("== {}", step.name));
        if !run_step(step)? {
            say(&format!("== {} failed; repeat it with: cargo xtask ci --only {}", step.name, step.name));
            return Ok(false);
        }
    }
    Ok(true)
}

/// Prints the names of the steps.
pub(crate) fn list() -> Result<bool> {
    for step in steps(&Workspace::load()?, has_nextest()) {
        let command = step.cargo.map_or_else(|| "xtask tidy".to_owned(), |words| words.join(" "));
        say(&format!("{:<8} cargo {command}", step.name));
    }
    Ok(true)
}

fn steps(workspace: &Workspace, has_nextest: bool) -> Vec<Step> {
    let mut steps = vec![
        Step::cargo("fmt", "fmt --all --check"),
        Step { name: "tidy", cargo: None, environment: &[] },
        Step::cargo("clippy", "clippy --locked --workspace --all-targets -- -D warnings"),
    ];
    // On the host this still proves `no_std`: a crate that says so cannot name `std`.
    let packages = tidy::no_std_packages(&workspace.packages);
    if !packages.is_empty() {
        let list = packages.join(" --package ");
        steps.push(Step::cargo("no-std", &format!("build --locked --no-default-features --package {list}")));
    }
    steps.push(Step {
        environment: &[("RUSTDOCFLAGS", "-D rustdoc::broken_intra_doc_links")],
        ..Step::cargo("doc", "doc --locked --workspace --no-deps")
    });
    steps.push(Step::cargo("doctest", "test --locked --workspace --doc"));
    // Last, so that the closing line of the whole output counts the tests that matter.
    steps.push(if has_nextest {
        Step::cargo("test", "nextest run --locked --workspace")
    } else {
        Step::cargo("test", "test --locked --workspace --lib --bins --tests")
    });
    steps
}

fn run_step(step: &Step) -> Result<bool> {
    let Some(arguments) = &step.cargo else { return tidy::run() };
    let status = Command::new("cargo")
        .args(arguments)
        .envs(step.environment.iter().copied())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("run cargo for step {}", step.name))?;
    Ok(status.success())
}

fn has_nextest() -> bool {
    let status = Command::new("cargo")
        .args(["nextest", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;
    use std::path::PathBuf;

    fn workspace(names: &[&str]) -> Workspace {
        let package = |name: &&str| Package {
            name: (*name).to_owned(),
            manifest: "Cargo.toml".to_owned(),
            dependencies: Vec::new(),
        };
        Workspace { root: PathBuf::new(), packages: names.iter().map(package).collect() }
    }

    fn command(steps: &[Step], name: &str) -> Option<String> {
        steps.iter().find(|step| step.name == name)?.cargo.as_ref().map(|words| words.join(" "))
    }

    #[test]
    fn protocol_crates_are_built_without_std() {
        let steps = steps(&workspace(&["gridseal-io", "gridseal-trust", "gridseal-types"]), true);
        let command = command(&steps, "no-std").unwrap();
        assert!(command.ends_with("--package gridseal-trust --package gridseal-types"));
    }

    #[test]
    fn tests_come_last_with_either_runner() {
        for (has_nextest, start) in [(true, "nextest run"), (false, "test --locked")] {
            let steps = steps(&workspace(&[]), has_nextest);
            assert_eq!(steps.last().map(|step| step.name), Some("test"));
            assert!(command(&steps, "test").unwrap().starts_with(start));
        }
    }
}
