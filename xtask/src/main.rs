//! Repository chores: `cargo xtask tidy`, `cargo xtask trace`, `cargo xtask ci`.

mod ci;
mod finding;
mod scan;
mod tidy;
mod trace;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  tidy                 sizes, names, crate edges, banned words; exit 1 on an error
  trace [--check]      clauses that the code claims, and whether a test carries each;
                       with --check, exit 1 if one has no test
  ci [--only STEP]     the list that `make test` runs, fast steps first
  ci --list            the names of its steps
";

#[expect(clippy::disallowed_methods, reason = "this is a binary: it reads its own command line")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let passed = match words.as_slice() {
        ["tidy"] => tidy::run()?,
        ["trace"] => trace::run(false)?,
        ["trace", "--check"] => trace::run(true)?,
        ["ci"] => ci::run(None)?,
        ["ci", "--only", step] => ci::run(Some(step))?,
        ["ci", "--list"] => ci::list()?,
        ["help" | "--help" | "-h"] => {
            say(USAGE.trim_end());
            true
        }
        _ => {
            eprint!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints one line of the result.
#[expect(clippy::print_stdout, reason = "this is a command line tool and its output is the product")]
fn say(line: &str) {
    println!("{line}");
}
