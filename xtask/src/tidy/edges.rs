//! Which crate may name which: our own layers, primitives, the async runtime.

use crate::finding::Finding;
use crate::workspace::Package;

const WORDS: &[&str] = &["types"];
const LAYER_0: &[&str] = &["types", "crypto"];
const LAYER_1: &[&str] = &["dlms", "lmn", "sts", "trust", "group"];
const LAYER_2: &[&str] = &["onboarding", "keys", "pki", "headend", "gateway", "meter"];
const LAYER_3: &[&str] = &["store", "io", "api"];

/// Each crate with the lists it may draw from; a new edge needs a record in `docs/adr` and a row here.
const EDGES: &[(&str, &[&[&str]])] = &[
    ("types", &[]),
    ("crypto", &[WORDS]),
    ("dlms", &[LAYER_0]),
    ("lmn", &[LAYER_0]),
    ("sts", &[LAYER_0]),
    ("trust", &[LAYER_0]),
    ("group", &[LAYER_0]),
    ("onboarding", &[LAYER_0, &["trust"]]),
    ("keys", &[LAYER_0, &["dlms", "group", "sts", "trust"]]),
    ("pki", &[LAYER_0, &["trust"]]),
    ("headend", &[WORDS, &["dlms", "group", "trust"]]),
    ("gateway", &[LAYER_0, &["dlms", "lmn", "trust", "group"]]),
    ("meter", &[LAYER_0, &["dlms", "lmn", "sts", "trust", "group"]]),
    ("store", &[LAYER_0, LAYER_1, LAYER_2]),
    ("io", &[LAYER_0, LAYER_1]),
    // The TLS settings of `io` (ADR 5).
    ("api", &[LAYER_0, LAYER_1, LAYER_2, &["io"]]),
    ("sim", &[LAYER_0, LAYER_1, LAYER_2]),
    ("gridseal", &[LAYER_0, LAYER_1, LAYER_2, LAYER_3, &["sim"]]),
    ("xtask", &[]),
];

/// Crates from outside that only some of ours may name, and why.
const GUARDED: &[Guard] = &[
    Guard {
        crates: &[
            "aes",
            "aes-gcm",
            "aes-kw",
            "aws-lc-rs",
            "cmac",
            "ecdsa",
            "ghash",
            "hkdf",
            "hmac",
            "md-5",
            "ml-dsa",
            "p256",
            "p384",
            "ring",
            "sha1",
            "sha2",
            "sha3",
            "subtle",
            "zeroize",
        ],
        users: &["crypto"],
        reason: "primitives are named by gridseal-crypto alone",
    },
    Guard {
        crates: &["tokio", "tokio-postgres", "tokio-rustls", "tokio-util"],
        users: &["io", "store", "api", "gridseal"],
        reason: "the async runtime stays in io, store, api and gridseal",
    },
    Guard {
        crates: &["anyhow"],
        users: &["gridseal", "xtask"],
        reason: "a library has error enums; anyhow is for binaries",
    },
];

struct Guard {
    crates: &'static [&'static str],
    users: &'static [&'static str],
    reason: &'static str,
}

/// Names that say nothing: the thing belongs beside its user.
const FORBIDDEN_NAMES: &[&str] = &["common", "utils", "helpers", "core", "models"];

/// The packages of layers 0 and 1, which build without the standard library.
pub(crate) fn no_std_packages(packages: &[Package]) -> Vec<String> {
    let names = packages.iter().map(|package| package.name.as_str());
    names.filter(|name| is_no_std(short(name))).map(str::to_owned).collect()
}

/// Is this crate, by its short name, one of layers 0 and 1?
pub(super) fn is_no_std(short_name: &str) -> bool {
    LAYER_0.contains(&short_name) || LAYER_1.contains(&short_name)
}

pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<Finding> {
    let name = short(&package.name);
    let fault = |rule, message| Finding::error(&package.manifest, 1, rule, message);
    let mut findings = Vec::new();
    if FORBIDDEN_NAMES.contains(&name) {
        findings.push(fault("crate-name", format!("`{name}` says nothing; put the code beside its user")));
    }
    let Some((_, allowed)) = EDGES.iter().find(|(row, _)| *row == name) else {
        findings.push(fault(
            "crate-edge",
            format!("`{}` has no row in the table of edges (xtask/src/tidy/edges.rs)", package.name),
        ));
        return findings;
    };
    for dependency in &package.dependencies {
        let is_allowed = || allowed.iter().any(|list| list.contains(&short(dependency)));
        if is_ours(dependency) && !is_allowed() {
            findings.push(fault(
                "crate-edge",
                format!(
                    "`{}` may not depend on `{dependency}`: arrows point down, as the table lists",
                    package.name
                ),
            ));
        }
        for guard in GUARDED {
            if guard.crates.contains(&dependency.as_str()) && !guard.users.contains(&name) {
                findings.push(fault("guarded-crate", format!("`{dependency}`: {}", guard.reason)));
            }
        }
    }
    findings
}

/// What `cargo metadata` does not tell: does the crate take the lints of the workspace?
pub(super) fn check_manifest_text(path: &str, text: &str) -> Option<Finding> {
    let is_member =
        path == "xtask/Cargo.toml" || (path.starts_with("crates/") && path.ends_with("/Cargo.toml"));
    let squeezed: String = text.chars().filter(|c| *c != ' ').collect();
    let takes_lints =
        squeezed.contains("[lints]\nworkspace=true") || squeezed.contains("lints.workspace=true");
    (is_member && !takes_lints).then(|| {
        Finding::error(path, 1, "lints", "the workspace's lints are not taken: [lints] workspace = true")
    })
}

fn is_ours(package: &str) -> bool {
    package == "xtask" || package == "gridseal" || package.starts_with("gridseal-")
}

fn short(package: &str) -> &str {
    package.strip_prefix("gridseal-").unwrap_or(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            manifest: "Cargo.toml".to_owned(),
            dependencies: dependencies.iter().map(|&d| d.to_owned()).collect(),
        }
    }

    fn rules(name: &str, dependencies: &[&str]) -> Vec<&'static str> {
        check(&[package(name, dependencies)]).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn arrows_point_down() {
        assert!(rules("gridseal-crypto", &["gridseal-types", "aes-gcm", "zeroize"]).is_empty());
        assert!(rules("gridseal-keys", &["gridseal-trust", "gridseal-dlms"]).is_empty());
        assert_eq!(rules("gridseal-types", &["gridseal-crypto"]), ["crate-edge"]);
        assert_eq!(rules("gridseal-dlms", &["gridseal-trust"]), ["crate-edge"]);
        assert_eq!(rules("gridseal-io", &["gridseal-onboarding"]), ["crate-edge"]);
        assert_eq!(rules("gridseal-store", &["gridseal-io"]), ["crate-edge"]);
        assert_eq!(rules("xtask", &["gridseal-types"]), ["crate-edge"]);
    }

    #[test]
    fn the_head_end_reaches_neither_key_service_nor_key_types() {
        for dependency in ["gridseal-keys", "gridseal-pki", "gridseal-crypto"] {
            assert_eq!(rules("gridseal-headend", &[dependency]), ["crate-edge"]);
        }
    }

    #[test]
    fn primitives_and_runtime_stay_where_they_belong() {
        assert_eq!(rules("gridseal-dlms", &["aes-gcm"]), ["guarded-crate"]);
        assert_eq!(rules("gridseal-io", &["aws-lc-rs"]), ["guarded-crate"]);
        assert_eq!(rules("gridseal-trust", &["tokio"]), ["guarded-crate"]);
        assert_eq!(rules("gridseal-keys", &["anyhow"]), ["guarded-crate"]);
        assert!(rules("gridseal-io", &["tokio", "rustls"]).is_empty());
    }

    #[test]
    fn an_unknown_crate_and_an_empty_name_are_found() {
        assert_eq!(rules("gridseal-billing", &[]), ["crate-edge"]);
        assert_eq!(rules("gridseal-core", &[]), ["crate-name", "crate-edge"]);
    }

    #[test]
    fn every_row_draws_from_known_crates() {
        for (name, lists) in EDGES {
            for dependency in lists.iter().flat_map(|list| list.iter()) {
                assert!(EDGES.iter().any(|(row, _)| row == dependency), "{name} -> {dependency}");
            }
        }
    }

    #[test]
    fn only_protocol_crates_build_without_std() {
        let packages =
            [package("gridseal-types", &[]), package("gridseal-keys", &[]), package("gridseal-trust", &[])];
        assert_eq!(no_std_packages(&packages), ["gridseal-types", "gridseal-trust"]);
    }

    #[test]
    fn a_manifest_takes_the_lints() {
        assert!(
            check_manifest_text("crates/io/Cargo.toml", "[package]\n[lints]\nworkspace = true\n").is_none()
        );
        assert!(check_manifest_text("crates/io/Cargo.toml", "[package]\n").is_some());
        assert!(check_manifest_text("fuzz/Cargo.toml", "[package]\n").is_none());
    }
}
