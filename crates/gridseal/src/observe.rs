//! Events of a process: one JSON object per line on standard output. The demo shows them, an operator's collector reads
//! them. Never a key, never a value of a reading.

pub mod journal;

use std::{
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use journal::Journal;

/// Events of which a process keeps a record of its own.
const REFUSALS: [&str; 12] = [
    "refused",
    "quarantined",
    "root-failed",
    "redirect-refused",
    "frame-refused",
    "link-refused",
    "forbidden",
    "handshake-failed",
    "request-refused",
    "installation-refused",
    "order-failed",
    "job-refused",
];

/// Where a process tells what happens.
#[derive(Debug, Clone)]
pub struct Observer {
    /// `None` tells nothing.
    process: Option<String>,
    journal: Option<Arc<Mutex<Journal>>>,
}

impl Observer {
    /// An observer of one process.
    pub fn new(process: impl Into<String>) -> Self {
        Self { process: Some(process.into()), journal: None }
    }

    /// Keeps what is refused in a journal in this directory.
    pub fn with_journal(mut self, dir: &Path) -> Result<Self> {
        let journal = Journal::open(dir)
            .with_context(|| format!("cannot open {}", dir.join(journal::FILE).display()))?;
        self.journal = Some(Arc::new(Mutex::new(journal)));
        Ok(self)
    }

    /// An observer that tells nothing: for one of many.
    pub const fn quiet() -> Self {
        Self { process: None, journal: None }
    }

    /// Tells an event with its fields.
    pub fn event(&self, event: &str, fields: &[(&str, &dyn std::fmt::Display)]) {
        let Some(process) = &self.process else { return };
        let mut line = Map::new();
        line.insert("at".into(), gridseal_io::clock::utc_now().0.into());
        line.insert("process".into(), process.clone().into());
        line.insert("event".into(), event.into());
        for (name, value) in fields {
            line.insert((*name).into(), Value::String(value.to_string()));
        }
        if REFUSALS.contains(&event)
            && let Some(Ok(mut journal)) = self.journal.as_ref().map(|journal| journal.lock())
        {
            // A full disk is no reason to stop serving: the event is told in any case.
            let _ = journal.append(line.clone());
        }
        let mut out = std::io::stdout().lock();
        // A reader that is gone is no reason to stop serving.
        let _ = writeln!(out, "{}", Value::Object(line));
        let _ = out.flush();
    }

    /// Tells a message as it was on the wire, when frames are to be told.
    pub fn frame(&self, wanted: bool, direction: &str, wire: &[u8]) {
        if wanted {
            self.event("frame", &[("direction", &direction), ("wire", &hex::encode(wire))]);
        }
    }
}

/// What somebody else wrote, without anything that a terminal acts upon: that moves its cursor, turns the direction of
/// writing, or is not seen.
pub fn printable(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
            )
    };
    text.chars().map(|c| if acts(c) { '\u{FFFD}' } else { c }).collect()
}

/// Prints a line of a command's answer. A reader that has seen enough (`| head`) ends the command, quietly; an answer that
/// cannot be written otherwise is a failure.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: cannot write the answer: {error}");
            std::process::exit(1);
        }
    }
}

/// Prints a line of an answer that must not be lost, such as a token: when it cannot be written, the command fails.
pub fn tell(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints a line for a person who watches; whether anybody still does changes nothing.
pub fn show(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
