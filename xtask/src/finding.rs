//! What a check has to say about a place in the repository.

use std::fmt;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The check fails.
    Error,
    /// A reason to look, not a failure.
    Warning,
}

/// One breach of one rule at one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    /// Counted from 1, as editors do.
    pub(crate) line: usize,
    pub(crate) level: Level,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn error(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, level: Level::Error, rule, message: message.into() }
    }

    pub(crate) fn warning(path: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(path, line, rule, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        write!(f, "{}:{}: {level}[{}]: {}", self.path, self.line, self.rule, self.message)
    }
}
