//! `gridseal`: every process of Gridseal as a subcommand.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "in a binary, pub means: for other modules")]
#![allow(clippy::print_stdout, reason = "what a command says goes to standard output")]

mod cli;
mod config;
mod demo;
mod fault;
mod files;
mod lab;
mod observe;
mod process;
mod setup;
mod tools;

use std::process::ExitCode;

use gridseal_keys::KeysError;
use gridseal_store::OpenError;
use gridseal_trust::root::RootError;
use gridseal_types::records::RecordsError;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) if error.is::<fault::Told>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gridseal: {}", with_code(&error));
            if error.is::<tools::Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// An error with its causes, and in brackets the code of the one that a machine can act on.
fn with_code(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match error.chain().find_map(code_of) {
        Some(code) if !text.contains(code) => format!("{text} ({code})"),
        _ => text,
    }
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    if let Some(error) = cause.downcast_ref::<RecordsError>() {
        return Some(error.code());
    }
    if let Some(KeysError::Records(error)) = cause.downcast_ref() {
        return Some(error.code());
    }
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return Some(error.code());
    }
    if let Some(RootError::Transport) = cause.downcast_ref() {
        return Some("root.lost");
    }
    let is_full = |error: &std::io::Error| matches!(error.kind(), StorageFull | QuotaExceeded);
    cause.downcast_ref().is_some_and(is_full).then_some(RecordsError::Full.code())
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn s11_an_error_that_ends_a_process_names_its_code_once() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let wrapped = anyhow::Error::from(full).context("cannot write device.cbor");
        assert!(with_code(&wrapped).ends_with("(store.full)"), "{}", with_code(&wrapped));
        let lost = Err::<(), _>(RootError::Transport).context("the TPM does not start").unwrap_err();
        assert_eq!(with_code(&lost), "the TPM does not start: TPM did not answer (root.lost)");
        let named = Err::<(), _>(RecordsError::Full).context("cannot commit (store.full)").unwrap_err();
        assert_eq!(with_code(&named).matches("store.full").count(), 1);
        assert_eq!(with_code(&anyhow::anyhow!("no code")), "no code");
    }
}
