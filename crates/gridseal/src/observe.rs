//! Events of a process: one JSON object per line on standard output. The demo shows them, an operator's collector reads
//! them. Never a key, never a value of a reading.

use std::io::Write;

use serde_json::{Map, Value};

/// Where a process tells what happens.
#[derive(Debug, Clone)]
pub struct Observer {
    /// `None` tells nothing.
    process: Option<String>,
}

impl Observer {
    /// An observer of one process.
    pub fn new(process: impl Into<String>) -> Self {
        Self { process: Some(process.into()) }
    }

    /// An observer that tells nothing: for one of many.
    pub const fn quiet() -> Self {
        Self { process: None }
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

/// Prints a line of a command's answer. A reader that has seen enough (`| head`) ends the command, quietly.
pub fn say(line: &str) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
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
