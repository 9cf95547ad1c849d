//! Errors with a code: what an operator looks up in `docs/operations.md`, and a collector tells apart.

use std::fmt;

use anyhow::Error;
use serde_json::{Value, json};

use crate::tools::Usage;

/// An error, or the context of one, with a stable name.
#[derive(Debug)]
pub struct Coded {
    /// The name: `store.stale`.
    pub code: &'static str,
    /// What happened, naming the file.
    pub message: String,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Coded {}

/// A [`Coded`] error.
pub fn coded(code: &'static str, message: impl Into<String>) -> Error {
    Coded { code, message: message.into() }.into()
}

/// A process that this one has started has told the reason on the same standard error.
#[derive(Debug)]
pub struct Told;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reason was told")
    }
}

impl std::error::Error for Told {}

/// The code of an error: its own, or what kind it is of.
pub fn code_of(error: &Error) -> &'static str {
    if let Some(coded) = error.downcast_ref::<Coded>() {
        coded.code
    } else if error.is::<Usage>() {
        "USAGE"
    } else if error.chain().any(|cause| cause.is::<std::io::Error>()) {
        "IO"
    } else {
        "FAILED"
    }
}

/// An error as commands print it with `--json`: in the shape of a denial of the key service.
pub fn as_json(error: &Error) -> Value {
    json!({ "error": code_of(error), "message": format!("{error:#}"), "retryable": false })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_code_is_found_wherever_it_stands_and_told_once() {
        let io = || std::io::Error::other("disk");
        let coded_context = Err::<(), _>(io())
            .with_context(|| Coded { code: "keys.keystore", message: "keystore.cbor".into() })
            .context("outer")
            .unwrap_err();
        assert_eq!(code_of(&coded_context), "keys.keystore");
        assert_eq!(format!("{coded_context:#}"), "outer: keystore.cbor (keys.keystore): disk");
        assert_eq!(code_of(&Err::<(), _>(io()).context("cannot read x").unwrap_err()), "IO");
        assert_eq!(code_of(&Usage("no".into()).into()), "USAGE");
        assert_eq!(as_json(&coded("config.invalid", "x"))["error"], "config.invalid");
    }
}
