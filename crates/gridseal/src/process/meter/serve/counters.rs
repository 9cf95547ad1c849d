//! Counters and transfers of keys, durable in a directory or, for one run, in memory.
//!
//! Counters belong to a key, named by a hash of it: a key that comes back goes on where it stood (rule S1).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_dlms::suite::local::{CounterStore, CounterStoreError, KeyCounters, KeySet};
use gridseal_types::SystemTitle;
use serde::{Deserialize, Serialize};

use crate::files;

/// Name of the file.
const FILE: &str = "counters.json";
/// Says that there were counters: without their file the meter does not begin again.
const MARKER: &str = "counters.begun";
/// Transfers that are kept: each must be repeated at start, in order.
const TRANSFERS_MAX: usize = 4_096;

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// By hash of the key, hex.
    keys: BTreeMap<String, KeptCounters>,
    /// What clients brought, in order.
    transfers: Vec<Transfer>,
    /// Transaction-ids: they belong to no key.
    #[serde(default)]
    transactions: KeptTransactions,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptTransactions {
    sending_end: u64,
    /// By system title, hex.
    received: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptCounters {
    sending_end: u64,
    /// By system title, hex.
    received: BTreeMap<String, u32>,
}

/// What a client brought: keys as they came, wrapped; a password in clear, as it came.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Transfer {
    /// Keys by their number in the class, wrapped, hex.
    Keys(Vec<(u8, String)>),
    /// Keys that were agreed upon, by their number in the class, sealed under the directory's key, hex.
    Agreed(Vec<(u8, String)>),
    /// A secret, wrapped, hex.
    Secret(String),
    /// A password, hex.
    Password(String),
}

/// Counters of every key that was ever used here.
#[derive(Debug)]
pub struct Counters {
    path: Option<PathBuf>,
    is_marked: bool,
    kept: Kept,
    /// Hashes of the keys in use.
    pub unicast: String,
    pub broadcast: String,
}

impl Counters {
    /// Reads what is kept. A file that cannot be read, or that was there and is gone, is no reason to begin again.
    pub fn load(dir: Option<&Path>) -> Result<Self> {
        let path = dir.map(|dir| dir.join(FILE));
        let bytes = path.as_deref().map(files::read_if_there).transpose()?.flatten();
        let is_marked = dir.is_some_and(|dir| dir.join(MARKER).exists());
        let kept = match (bytes, &path) {
            (Some(bytes), Some(path)) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?
            }
            (None, Some(path)) if is_marked => bail!(
                "{} is gone: its counters would begin again; bring it back, or take another directory and other keys",
                path.display()
            ),
            _ => Kept::default(),
        };
        Ok(Self { path, is_marked, kept, unicast: String::new(), broadcast: String::new() })
    }

    /// Where the counters of a key stand; at least at `sending_end`.
    pub fn of(&self, hash: &str, sending_end: u64) -> KeyCounters {
        let kept = self.kept.keys.get(hash).cloned().unwrap_or_default();
        let received = kept.received.iter().filter_map(|(title, counter)| Some((title_of(title)?, *counter)));
        KeyCounters { sending_end: kept.sending_end.max(sending_end), received: received.collect() }
    }

    /// Where own transaction-ids go on.
    pub const fn transactions_end(&self) -> u64 {
        self.kept.transactions.sending_end
    }

    /// Highest transaction-id accepted from each peer.
    pub fn transactions_received(&self) -> Vec<(SystemTitle, u64)> {
        let received = self.kept.transactions.received.iter();
        received.filter_map(|(title, id)| Some((title_of(title)?, *id))).collect()
    }

    /// What clients brought, in order.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.kept.transfers.clone()
    }

    /// Keeps one more; durable when it returns.
    pub fn keep(&mut self, transfer: Transfer) -> Result<(), CounterStoreError> {
        if self.kept.transfers.len() >= TRANSFERS_MAX {
            return Err(CounterStoreError);
        }
        self.kept.transfers.push(transfer);
        self.save().inspect_err(|_| {
            self.kept.transfers.pop();
        })
    }

    fn save(&mut self) -> Result<(), CounterStoreError> {
        let Some(path) = &self.path else { return Ok(()) };
        let bytes = serde_json::to_vec(&self.kept).map_err(|_| CounterStoreError)?;
        files::write_atomic(path, &bytes).map_err(|_| CounterStoreError)?;
        if !self.is_marked {
            files::write_atomic(&path.with_file_name(MARKER), b"").map_err(|_| CounterStoreError)?;
            self.is_marked = true;
        }
        Ok(())
    }

    fn entry(&mut self, set: KeySet) -> &mut KeptCounters {
        let hash = match set {
            KeySet::Unicast => &self.unicast,
            KeySet::Broadcast => &self.broadcast,
        };
        self.kept.keys.entry(hash.clone()).or_default()
    }
}

impl CounterStore for Counters {
    fn reserve(&mut self, set: KeySet, end: u64) -> Result<(), CounterStoreError> {
        let entry = self.entry(set);
        entry.sending_end = entry.sending_end.max(end);
        self.save()
    }

    fn accepted(&mut self, set: KeySet, peer: SystemTitle, counter: u32) -> Result<(), CounterStoreError> {
        self.entry(set).received.insert(hex::encode(peer.as_bytes()), counter);
        self.save()
    }

    fn reserve_transactions(&mut self, end: u64) -> Result<(), CounterStoreError> {
        self.kept.transactions.sending_end = self.kept.transactions.sending_end.max(end);
        self.save()
    }

    fn accepted_transaction(&mut self, peer: SystemTitle, id: u64) -> Result<(), CounterStoreError> {
        self.kept.transactions.received.insert(hex::encode(peer.as_bytes()), id);
        self.save()
    }
}

fn title_of(digits: &str) -> Option<SystemTitle> {
    SystemTitle::from_slice(&hex::decode(digits).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_were_there_and_are_gone_are_not_begun_again() {
        let dir = std::env::temp_dir().join(format!("gridseal-meter-counters-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut counters = Counters::load(Some(&dir)).unwrap();
        counters.unicast = "key".into();
        counters.reserve(KeySet::Unicast, 356).unwrap();
        let again = Counters::load(Some(&dir)).unwrap();
        assert_eq!(again.of("key", 100).sending_end, 356);
        std::fs::remove_file(dir.join(FILE)).unwrap();
        let error = Counters::load(Some(&dir)).unwrap_err().to_string();
        assert!(error.contains("counters.json is gone"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
