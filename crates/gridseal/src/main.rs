//! `gridseal`: every process of Gridseal as a subcommand.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "in a binary, pub means: for other modules")]
#![allow(clippy::print_stdout, reason = "what a command says goes to standard output")]

mod cli;
mod config;
mod demo;
mod files;
mod lab;
mod observe;
mod process;
mod setup;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gridseal: {error:#}");
            if error.is::<tools::Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
