//! Where simulations leave what an outside program counts again.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};
use gridseal_sim::keys::Evidence;

/// Files of the evidence.
const EVENTS: &str = "events.jsonl";
const NONCES: &str = "nonces.jsonl";

/// Whether evidence may go into this directory: evidence of two runs must not be mixed.
pub fn is_free(dir: &Path) -> bool {
    !dir.exists() || std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Evidence on its way into a directory; the first failure is kept until the end.
pub struct Folder {
    events: BufWriter<File>,
    nonces: BufWriter<File>,
    failed: Option<std::io::Error>,
}

impl Folder {
    /// Makes the directory and its files.
    pub fn create(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = |name: &str| {
            let path = dir.join(name);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            file.map(BufWriter::new).with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Self { events: file(EVENTS)?, nonces: file(NONCES)?, failed: None })
    }

    fn keep(&mut self, written: std::io::Result<()>) {
        if self.failed.is_none() {
            self.failed = written.err();
        }
    }

    /// Everything is on its way to the disk, or why not.
    pub fn finish(mut self) -> Result<()> {
        let flushed = self.events.flush().and_then(|()| self.nonces.flush());
        self.keep(flushed);
        self.failed.map_or(Ok(()), |failed| Err(failed).context("cannot write the evidence"))
    }
}

impl Evidence for Folder {
    fn event(&mut self, line: &str) {
        let written = self.events.write_all(line.as_bytes());
        self.keep(written);
    }

    fn nonce(&mut self, line: &str) {
        let written = self.nonces.write_all(line.as_bytes());
        self.keep(written);
    }
}
