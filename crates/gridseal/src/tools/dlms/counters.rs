//! The invocation counters of a client, in a file or for this run alone.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_dlms::suite::local::{CounterStore, CounterStoreError, KeySet};
use gridseal_types::SystemTitle;

use crate::{files, tools::Usage};

/// First line of the file.
const HEAD: &str = "gridseal dlms counters 1";

/// Whose counters: check value of the unicast key, own title.
type Owner = ([u8; 4], SystemTitle);

/// Counters of one owner.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    /// No sending counter below it is used again.
    sent: u64,
    /// No own transaction-id below it is used again; it belongs to the title, whatever the key.
    transactions: u64,
    /// Highest counter that was accepted from each peer.
    received: BTreeMap<SystemTitle, u32>,
}

/// Counters as they are on disk: lines `key-check own-title sent END`, `key-check own-title received TITLE COUNTER` and, for
/// whoever uses them, `key-check own-title transactions END`.
pub struct Counters {
    path: Option<PathBuf>,
    owner: Owner,
    all: BTreeMap<Owner, Counts>,
    /// Keeps a second client away: two would use the same counters.
    _lock: Option<File>,
}

/// Takes `FILE.lock` until the file is dropped.
fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&name);
    let file = file.with_context(|| format!("cannot open {}", Path::new(&name).display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => bail!("another client uses the counters in {}", path.display()),
    }
}

fn parse(line: &str, all: &mut BTreeMap<Owner, Counts>) -> Option<()> {
    let mut fields = line.split(' ');
    let check = hex::decode(fields.next()?).ok()?.try_into().ok()?;
    let title = SystemTitle::from_slice(&hex::decode(fields.next()?).ok()?)?;
    let counts = all.entry((check, title)).or_default();
    match fields.next()? {
        "sent" => counts.sent = fields.next()?.parse().ok()?,
        "transactions" => counts.transactions = fields.next()?.parse().ok()?,
        "received" => {
            let peer = SystemTitle::from_slice(&hex::decode(fields.next()?).ok()?)?;
            counts.received.insert(peer, fields.next()?.parse().ok()?);
        }
        _ => return None,
    }
    fields.next().is_none().then_some(())
}

impl Counters {
    /// Reads the file; one that is not there is empty. A broken file is refused: a lost counter would repeat nonces.
    pub fn load(path: Option<&Path>, owner: Owner) -> Result<Self> {
        let mut all = BTreeMap::new();
        let lock = path.map(lock).transpose()?;
        let bytes = path.map(files::read_if_there).transpose()?.flatten();
        if let (Some(path), Some(bytes)) = (path, bytes) {
            let text = String::from_utf8(bytes).context("file of counters is not text")?;
            let mut lines = text.lines();
            if lines.next() != Some(HEAD) {
                bail!(Usage(format!("{} is not a file of counters", path.display())));
            }
            for (index, line) in lines.enumerate() {
                if parse(line, &mut all).is_none() {
                    bail!(Usage(format!("{}: line {} is broken", path.display(), index + 2)));
                }
            }
        }
        Ok(Self { path: path.map(Path::to_path_buf), owner, all, _lock: lock })
    }

    /// Whether they outlive this run.
    pub const fn are_durable(&self) -> bool {
        self.path.is_some()
    }

    /// Where sending goes on: behind everything that was reserved, and not below `first`.
    pub fn sending_end(&self, first: u32) -> u64 {
        self.all.get(&self.owner).map_or(0, |counts| counts.sent).max(first.into())
    }

    /// Where own transaction-ids go on: behind all that were reserved under any key.
    pub fn transactions_end(&self) -> u64 {
        let own = self.all.iter().filter(|((_, title), _)| *title == self.owner.1);
        own.map(|(_, counts)| counts.transactions).max().unwrap_or_default()
    }

    /// Highest counters accepted from peers.
    pub fn received(&self) -> impl Iterator<Item = (SystemTitle, u32)> + '_ {
        let counts = self.all.get(&self.owner);
        counts
            .into_iter()
            .flat_map(|counts| counts.received.iter().map(|(title, counter)| (*title, *counter)))
    }

    /// Durable when this returns.
    fn save(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = format!("{HEAD}\n");
        for ((check, title), counts) in &self.all {
            let owner = format!("{} {}", hex::encode(check), hex::encode(title.as_bytes()));
            writeln!(text, "{owner} sent {}", counts.sent)?;
            if counts.transactions > 0 {
                writeln!(text, "{owner} transactions {}", counts.transactions)?;
            }
            for (peer, counter) in &counts.received {
                writeln!(text, "{owner} received {} {counter}", hex::encode(peer.as_bytes()))?;
            }
        }
        // A name without a directory is one in this directory.
        let path = if path.parent() == Some(Path::new("")) { &Path::new(".").join(path) } else { path };
        files::write_atomic(path, text.as_bytes())
    }

    fn change(&mut self, change: impl FnOnce(&mut Counts)) -> Result<(), CounterStoreError> {
        let before = self.all.clone();
        change(self.all.entry(self.owner).or_default());
        self.save().map_err(|error| {
            eprintln!("gridseal: {error:#}");
            self.all = before;
            CounterStoreError
        })
    }
}

impl CounterStore for Counters {
    fn reserve(&mut self, set: KeySet, end: u64) -> Result<(), CounterStoreError> {
        match set {
            KeySet::Unicast => self.change(|counts| counts.sent = counts.sent.max(end)),
            // A client of one meter broadcasts nothing.
            KeySet::Broadcast => Err(CounterStoreError),
        }
    }

    fn accepted(&mut self, _: KeySet, peer: SystemTitle, counter: u32) -> Result<(), CounterStoreError> {
        self.change(|counts| {
            let last = counts.received.entry(peer).or_insert(counter);
            *last = (*last).max(counter);
        })
    }

    fn reserve_transactions(&mut self, end: u64) -> Result<(), CounterStoreError> {
        self.change(|counts| counts.transactions = counts.transactions.max(end))
    }

    // Only a server judges the transactions of its peers.
    fn accepted_transaction(&mut self, _: SystemTitle, _: u64) -> Result<(), CounterStoreError> {
        Err(CounterStoreError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = ([1, 2, 3, 4], SystemTitle(*b"MMM\0\0\0\0\x01"));
    const METER: SystemTitle = SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);

    #[test]
    fn counters_outlive_the_run_never_go_down_and_belong_to_one_key() {
        let path = std::env::temp_dir().join(format!("gridseal-dlms-counters-{}.txt", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut counters = Counters::load(Some(&path), OWNER).unwrap();
        assert_eq!(counters.sending_end(100), 100);
        counters.reserve(KeySet::Unicast, 356).unwrap();
        counters.accepted(KeySet::Unicast, METER, 5_001).unwrap();
        counters.accepted(KeySet::Unicast, METER, 4_000).unwrap();
        counters.reserve_transactions(77).unwrap();
        assert!(Counters::load(Some(&path), OWNER).is_err(), "one client at a time");
        drop(counters);
        let again = Counters::load(Some(&path), OWNER).unwrap();
        assert_eq!(
            (again.sending_end(100), again.received().collect::<Vec<_>>()),
            (356, vec![(METER, 5_001)])
        );
        assert_eq!(again.sending_end(1_000), 1_000);
        drop(again);
        let other = Counters::load(Some(&path), ([9; 4], OWNER.1)).unwrap();
        assert_eq!(other.sending_end(7), 7, "another key has counters of its own");
        assert_eq!(other.transactions_end(), 77, "and goes on with the transactions of the title");
        drop(other);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("sent", "said")).unwrap();
        assert!(Counters::load(Some(&path), OWNER).is_err(), "a broken file lets nothing through");
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(path.with_extension("txt.lock")));
        assert!(!Counters::load(None, OWNER).unwrap().are_durable());
    }
}
