//! The repository as the checks see it: its files and its packages.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One package of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Path of the manifest, relative to the root of the repository.
    pub(crate) manifest: String,
    /// Names of normal and build dependencies; those of tests do not ship and are left out.
    pub(crate) dependencies: Vec<String>,
}

/// The workspace on disk.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) packages: Vec<Package>,
}

impl Workspace {
    /// Asks cargo for the packages, without the network.
    pub(crate) fn load() -> Result<Self> {
        let json = output("cargo", &["metadata", "--no-deps", "--offline", "--format-version", "1"], None)?;
        Self::from_metadata(&json)
    }

    pub(crate) fn from_metadata(json: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(json).context("output of cargo metadata")?;
        let root = text(&metadata, "workspace_root")?;
        let mut packages = Vec::new();
        for package in list(&metadata, "packages")? {
            let manifest = Path::new(text(package, "manifest_path")?);
            let manifest = manifest.strip_prefix(root).unwrap_or(manifest);
            let mut dependencies = Vec::new();
            for dependency in list(package, "dependencies")? {
                if dependency["kind"] != "dev" {
                    dependencies.push(text(dependency, "name")?.to_owned());
                }
            }
            dependencies.sort();
            dependencies.dedup();
            packages.push(Package {
                name: text(package, "name")?.to_owned(),
                manifest: manifest.to_string_lossy().into_owned(),
                dependencies,
            });
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root: PathBuf::from(root), packages })
    }

    /// All files that are in the repository or could be added to it, as sorted paths from the root.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let listing = output(
            "git",
            &["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            Some(&self.root),
        )?;
        let mut files: Vec<String> =
            listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// The text of a file; `None` if it is gone from the disk, is a link or is not text.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let path = self.root.join(path);
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
        if is_file { std::fs::read_to_string(&path).ok() } else { None }
    }
}

fn text<'v>(value: &'v Value, field: &str) -> Result<&'v str> {
    value[field].as_str().with_context(|| format!("cargo metadata has no text `{field}`"))
}

fn list<'v>(value: &'v Value, field: &str) -> Result<&'v Vec<Value>> {
    value[field].as_array().with_context(|| format!("cargo metadata has no list `{field}`"))
}

fn output(program: &str, arguments: &[&str], folder: Option<&Path>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.output().with_context(|| format!("run {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {}", arguments.join(" "), errors.trim());
    String::from_utf8(output.stdout).with_context(|| format!("output of {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_tests_are_left_out() {
        let json = r#"{
            "workspace_root": "/repository",
            "packages": [{
                "name": "gridseal-dlms",
                "manifest_path": "/repository/crates/dlms/Cargo.toml",
                "dependencies": [
                    {"name": "gridseal-types", "kind": null},
                    {"name": "gridseal-sim", "kind": "dev"},
                    {"name": "cc", "kind": "build"}
                ]
            }]
        }"#;
        let workspace = Workspace::from_metadata(json).unwrap();
        let [package] = workspace.packages.as_slice() else { panic!("one package") };
        assert_eq!(package.manifest, "crates/dlms/Cargo.toml");
        assert_eq!(package.dependencies, ["cc", "gridseal-types"]);
    }

    #[test]
    fn metadata_without_packages_is_an_error() {
        assert!(Workspace::from_metadata(r#"{"workspace_root": "/repository"}"#).is_err());
    }
}
