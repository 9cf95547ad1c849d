//! The last counters, in a file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_lmn::mbus::{MeterAddress, registry::LastMessage};

use super::keys::Keys;
use crate::{files, tools::Usage};

/// First line of the file.
const HEAD: &str = "gridseal lmn counters 1";

type Last = BTreeMap<(MeterAddress, [u8; 4]), LastMessage>;

/// Counters as they are on disk: a line for each meter and key, `address key-check-value counter tag`.
pub struct State {
    path: PathBuf,
    last: Last,
}

fn array<const N: usize>(text: &str) -> Option<[u8; N]> {
    hex::decode(text).ok()?.try_into().ok()
}

fn parse(line: &str) -> Option<((MeterAddress, [u8; 4]), LastMessage)> {
    let mut fields = line.split(' ');
    let name = (MeterAddress(array(fields.next()?)?), array(fields.next()?)?);
    let last = LastMessage { counter: fields.next()?.parse().ok()?, tag: array(fields.next()?)? };
    fields.next().is_none().then_some((name, last))
}

impl State {
    /// Reads the file; one that is not there is empty. A broken file is refused: a lost counter would let replays in.
    pub fn load(path: &Path) -> Result<Self> {
        let mut last = Last::new();
        if let Some(bytes) = files::read_if_there(path)? {
            let text = String::from_utf8(bytes).context("file of counters is not text")?;
            let mut lines = text.lines();
            if lines.next() != Some(HEAD) {
                bail!(Usage(format!("{} is not a file of counters", path.display())));
            }
            for (index, line) in lines.enumerate() {
                let Some((name, message)) = parse(line) else {
                    bail!(Usage(format!("{}: line {} is broken", path.display(), index + 2)));
                };
                last.insert(name, message);
            }
        }
        Ok(Self { path: path.to_path_buf(), last })
    }

    /// What was on disk.
    pub const fn last(&self) -> &Last {
        &self.last
    }

    /// Writes the counters, if they have changed; durable when this returns.
    pub fn save(&mut self, keys: &Keys) -> Result<()> {
        if keys.last() == &self.last {
            return Ok(());
        }
        let mut text = format!("{HEAD}\n");
        for ((meter, check), last) in keys.last() {
            let (meter, check, tag) = (hex::encode(meter.0), hex::encode(check), hex::encode(last.tag));
            writeln!(text, "{meter} {check} {} {tag}", last.counter)?;
        }
        files::write_atomic(&self.path, text.as_bytes())?;
        self.last.clone_from(keys.last());
        Ok(())
    }
}
