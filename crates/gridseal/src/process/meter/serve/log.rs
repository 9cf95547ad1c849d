//! The security log: what was refused and why, who is associated, what was changed. No key, no reading.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Mutex,
};

use anyhow::{Context, Result};
use gridseal_io::clock::utc_now;
use serde_json::json;

/// How entries are written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where entries go.
#[derive(Debug)]
pub struct Log {
    form: Form,
    file: Option<Mutex<File>>,
}

/// Whom an entry is about.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Other end of the connection.
    pub address: SocketAddr,
    /// Client's service access point, where one is known.
    pub client_sap: Option<u16>,
}

impl Log {
    /// Opens the log; a file is made readable by its owner alone.
    pub fn open(path: Option<&Path>, form: Form) -> Result<Self> {
        let open = |path: &Path| {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Self { form, file: path.map(open).transpose()?.map(Mutex::new) })
    }

    /// Writes an entry. A log that cannot be written any more ends the process: what is refused must not go unseen.
    pub fn entry(&self, event: &str, peer: Option<Peer>, cause: &str) {
        let at = utc_now();
        let line = json!({
            "at": at.0, "event": event, "peer": peer.map(|peer| peer.address.to_string()),
            "client_sap": peer.and_then(|peer| peer.client_sap), "cause": cause,
        });
        let written = match &self.file {
            Some(file) => match file.lock() {
                Ok(mut file) => writeln!(file, "{line}").is_ok(),
                Err(_) => false,
            },
            None => {
                let mut out = std::io::stderr().lock();
                match self.form {
                    Form::Json => writeln!(out, "{line}"),
                    Form::Text => {
                        let who = peer.map_or(String::new(), |peer| {
                            let sap = peer.client_sap.map_or(String::new(), |sap| format!(" client {sap}"));
                            format!(" {}{sap}", peer.address)
                        });
                        writeln!(out, "{at}{who} {event}: {cause}")
                    }
                }
                .is_ok()
            }
        };
        if !written {
            std::process::exit(1);
        }
    }
}
