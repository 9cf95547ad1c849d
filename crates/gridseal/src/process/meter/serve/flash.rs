//! Parts of the device's state as files of the meter's directory, or in memory for one run.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use gridseal_meter::cosem::{Part, Saved, StoreError};

use crate::files;

/// Where parts are kept.
#[derive(Debug, Default)]
pub struct Flash {
    dir: Option<PathBuf>,
    /// Without a directory.
    memory: BTreeMap<Part, Vec<u8>>,
}

const fn file_of(part: Part) -> Option<&'static str> {
    match part {
        Part::Setup => Some("setup.cbor"),
        Part::Image => Some("image.cbor"),
        Part::Blocks => Some("image.blocks"),
        _ => None,
    }
}

impl Flash {
    pub fn new(dir: Option<&Path>) -> Self {
        Self { dir: dir.map(Path::to_path_buf), memory: BTreeMap::new() }
    }

    /// What was kept by the run before.
    pub fn saved(&self) -> Result<Saved> {
        let Some(dir) = &self.dir else { return Ok(Saved::default()) };
        let read = |part| match file_of(part) {
            Some(name) => files::read_if_there(&dir.join(name)),
            None => Ok(None),
        };
        Ok(Saved { setup: read(Part::Setup)?, image: read(Part::Image)?, blocks: read(Part::Blocks)? })
    }

    fn path(&self, part: Part) -> Result<Option<PathBuf>, StoreError> {
        let name = file_of(part).ok_or(StoreError)?;
        Ok(self.dir.as_ref().map(|dir| dir.join(name)))
    }

    pub fn keep(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        match self.path(part)? {
            Some(path) => files::write_atomic(&path, bytes).map_err(|_| StoreError),
            None => {
                self.memory.insert(part, bytes.to_vec());
                Ok(())
            }
        }
    }

    pub fn append(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        match self.path(part)? {
            Some(path) => append(&path, bytes).map_err(|_| StoreError),
            None => {
                self.memory.entry(part).or_default().extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}
