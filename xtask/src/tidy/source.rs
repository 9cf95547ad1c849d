//! Rules for Rust files: sizes, crate roots, and words that only look harmless.

use super::{edges, is_test_path, line_findings};
use crate::finding::Finding;
use crate::scan::{self, Masked};

/// Lines of a file, tests not counted.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function: one screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Two worlds use the same two letters for different keys, so neither may.
const AMBIGUOUS_NAMES: &[&str] = &["ek", "ak", "EK", "AK"];
const PRINTING_MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented"];

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let masked = scan::mask(text);
    let mut findings: Vec<Finding> =
        ambiguous_names(path, &masked).chain(unfinished(path, &masked)).collect();
    if !is_test_path(path) {
        let tests = scan::test_lines(&masked.code);
        findings.extend(sizes(path, &masked, &tests));
        findings.extend(printing(path, &masked, &tests));
    }
    if path.ends_with("/src/lib.rs") {
        findings.extend(crate_root(path, &masked));
    }
    findings
}

fn sizes(path: &str, masked: &Masked, tests: &[bool]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let generated = path.ends_with("/generated.rs");
    let lines = tests.iter().filter(|is_test| !**is_test).count();
    if lines > FILE_LINES_MAX && !generated {
        let message =
            format!("{lines} lines without tests, at most {FILE_LINES_MAX}: split it by state or by noun");
        findings.push(Finding::error(path, lines, "file-size", message));
    }
    for function in scan::functions(&masked.code) {
        let lines = function.last_line - function.first_line + 1;
        let is_test = tests.get(function.first_line - 1).copied().unwrap_or(false);
        if lines > FUNCTION_LINES_MAX && !is_test && !generated {
            let message =
                format!("`{}` has {lines} lines, one screen is {FUNCTION_LINES_MAX}", function.name);
            findings.push(Finding::warning(path, function.first_line, "function-size", message));
        }
    }
    findings
}

fn crate_root(path: &str, masked: &Masked) -> Vec<Finding> {
    let mut findings: Vec<Finding> = scan::items_beyond_modules(&masked.code)
        .into_iter()
        .map(|line| Finding::error(path, line, "crate-root", "a crate root holds docs, `mod` and `use` only"))
        .collect();
    let crate_folder = path.strip_prefix("crates/").and_then(|rest| rest.split('/').next());
    let squeezed: String = masked.code.chars().filter(|c| !c.is_whitespace()).collect();
    let is_no_std = squeezed.contains("#![no_std]") || squeezed.contains("#![cfg_attr(not(test),no_std)]");
    if crate_folder.is_some_and(edges::is_no_std) && !is_no_std {
        findings.push(Finding::error(path, 1, "no-std", "layers 0 and 1 build without std: #![no_std]"));
    }
    findings
}

fn ambiguous_names<'a>(path: &'a str, masked: &'a Masked) -> impl Iterator<Item = Finding> + 'a {
    line_findings(path, &masked.code, "ambiguous-name", |line| {
        let (name, _) = scan::words(line).find(|(word, _)| AMBIGUOUS_NAMES.contains(word))?;
        let meant = match name {
            "ek" | "EK" => "write `guek` (DLMS) or `endorsement_key` (TPM)",
            _ => "write `gak` (DLMS) or `attestation_key` (TPM)",
        };
        Some(format!("`{name}` means two things; {meant}"))
    })
}

fn unfinished<'a>(path: &'a str, masked: &'a Masked) -> impl Iterator<Item = Finding> + 'a {
    line_findings(path, &masked.code, "unfinished", |line| {
        let name = macro_of(line, UNFINISHED_MACROS)?;
        Some(format!("`{name}!` is an answer of a program that is not finished"))
    })
    .chain(line_findings(path, &masked.comments, "bare-todo", super::words::bare_todo))
}

fn printing(path: &str, masked: &Masked, tests: &[bool]) -> Vec<Finding> {
    let is_library = path.starts_with("crates/")
        && path.contains("/src/")
        && !path.starts_with("crates/gridseal/")
        && !path.contains("/src/bin/")
        && !path.ends_with("/src/main.rs");
    if !is_library {
        return Vec::new();
    }
    line_findings(path, &masked.code, "printing", |line| {
        let name = macro_of(line, PRINTING_MACROS)?;
        Some(format!("`{name}!` in a library: return an event, the shell logs it"))
    })
    .filter(|finding| !tests.get(finding.line - 1).copied().unwrap_or(false))
    .collect()
}

fn macro_of<'l>(line: &'l str, names: &[&str]) -> Option<&'l str> {
    scan::words(line)
        .find(|(word, after)| names.contains(word) && after.starts_with('!'))
        .map(|(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        check(path, text).into_iter().map(|finding| (finding.rule, finding.line)).collect()
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let code = "const A: u8 = 0;\n".repeat(FILE_LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const B: u8 = 0;\n".repeat(100));
        assert!(rules("crates/io/src/a.rs", &format!("{code}{tests}")).is_empty());
        assert_eq!(
            rules("crates/io/src/a.rs", &format!("{code}{code}")),
            [("file-size", 2 * FILE_LINES_MAX)]
        );
        assert!(rules("crates/io/src/a/generated.rs", &format!("{code}{code}")).is_empty());
        assert!(rules("crates/io/tests/a.rs", &format!("{code}{code}")).is_empty());
    }

    #[test]
    fn a_long_function_is_a_warning() {
        let text = format!("\nfn long() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_LINES_MAX));
        let findings = check("crates/io/src/a.rs", &text);
        assert_eq!(findings.len(), 1);
        assert!(findings.iter().all(|f| f.level == crate::finding::Level::Warning && f.line == 2));
    }

    #[test]
    fn ambiguous_key_names_are_found_in_code_only() {
        let path = "crates/trust/src/a.rs";
        assert_eq!(
            rules(path, "struct EK;\nfn f(ak: u8) {}\n"),
            [("ambiguous-name", 1), ("ambiguous-name", 2)]
        );
        assert!(rules(path, "let ek_name = \"ek\"; // the EK\nlet weak = 1;\n").is_empty());
    }

    #[test]
    fn unfinished_work_needs_an_issue() {
        let path = "crates/io/src/a.rs";
        assert_eq!(
            rules(path, "// TODO: later\nfn f() { todo!() }\n"),
            [("unfinished", 2), ("bare-todo", 1)]
        );
        assert!(rules(path, "// TODO(#12): a second link\nlet s = \"TODO\";\n").is_empty());
    }

    #[test]
    fn libraries_do_not_print_but_binaries_and_tests_do() {
        let text = "fn f() { println!(); }\n#[cfg(test)]\nmod tests {\n    fn g() { println!(); }\n}\n";
        assert_eq!(rules("crates/io/src/a.rs", text), [("printing", 1)]);
        assert!(rules("crates/gridseal/src/demo.rs", text).is_empty());
        assert!(rules("crates/io/src/bin/tool.rs", text).is_empty());
        assert!(rules("crates/io/benches/a.rs", text).is_empty());
    }

    #[test]
    fn a_protocol_crate_says_no_std_and_keeps_code_out_of_its_root() {
        assert!(rules("crates/dlms/src/lib.rs", "//! Docs.\n#![no_std]\npub mod wire;\n").is_empty());
        assert_eq!(rules("crates/dlms/src/lib.rs", "pub mod wire;\n"), [("no-std", 1)]);
        assert_eq!(rules("crates/io/src/lib.rs", "pub mod a;\nfn f() {}\n"), [("crate-root", 2)]);
    }
}
