//! The security log: what was refused and why, who is associated, what was changed. No key, no reading.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result};
use gridseal_io::clock::utc_now;
use serde_json::json;

/// Most bytes of one file: whoever is refused for ever fills two of them, not the disk.
const FILE_SIZE_MAX: u64 = 16 << 20;

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
    file: Option<Mutex<Kept>>,
}

/// A file, and the one before it under the same name with `.1` behind.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Kept {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { path: path.to_owned(), size: file.metadata()?.len(), file })
    }

    fn write(&mut self, line: &str, size_max: u64) -> io::Result<()> {
        if self.size + line.len() as u64 + 1 > size_max && self.size > 0 {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            *self = Self::open(&self.path)?;
        }
        writeln!(self.file, "{line}")?;
        self.size += line.len() as u64 + 1;
        Ok(())
    }
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
        let open = |path: &Path| Kept::open(path).with_context(|| format!("cannot write {}", path.display()));
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
                Ok(mut file) => file.write(&line.to_string(), FILE_SIZE_MAX).is_ok(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_gives_way_and_only_one_before_it_is_kept() {
        let dir = std::env::temp_dir().join(format!("gridseal-security-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("security.log");
        let mut kept = Kept::open(&path).unwrap();
        for n in 0..10 {
            kept.write(&format!("entry {n}"), 24).unwrap();
        }
        drop(kept);
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read("security.log"), "entry 9\n");
        assert_eq!(read("security.log.1"), "entry 6\nentry 7\nentry 8\n");
        let mut kept = Kept::open(&path).unwrap();
        for name in ["x", "y", "z"] {
            kept.write(&format!("entry {name}"), 24).unwrap();
        }
        assert_eq!(read("security.log"), "entry z\n");
        assert_eq!(read("security.log.1"), "entry 9\nentry x\nentry y\n");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
