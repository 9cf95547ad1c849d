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

/// Counters that a run is expected to use at most; what it uses more than that fails rather than be used twice.
const ROOM: u64 = 1 << 12;
/// Hints that may be followed in vain.
const TRIED_MAX: usize = 16;

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
    /// Counters above `sent` that were used in vain because of a hint, first and behind the last: none is used again.
    tried: Vec<(u64, u64)>,
}

impl Counts {
    /// The first counter from `from` on that has room before what was used in vain.
    fn free_from(&self, from: u64) -> u64 {
        let mut tried: Vec<_> = self.tried.clone();
        tried.sort_unstable();
        tried.into_iter().fold(
            from,
            |from, (first, end)| {
                if from < end && first < from.saturating_add(ROOM) { end } else { from }
            },
        )
    }
}

/// Counters as they are on disk: lines `key-check own-title sent END`, `key-check own-title received TITLE COUNTER`, for
/// whoever uses them `key-check own-title transactions END`, and `key-check own-title tried FIRST END` for counters that a
/// hint had us use in an association that did not come about.
pub struct Counters {
    path: Option<PathBuf>,
    owner: Owner,
    all: BTreeMap<Owner, Counts>,
    /// Where sending began that follows a hint nobody has vouched for.
    trial: Option<u64>,
    /// Where sending stands in this run.
    at: u64,
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
        "tried" => counts.tried.push((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)),
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
        Ok(Self { path: path.map(Path::to_path_buf), owner, all, trial: None, at: 0, _lock: lock })
    }

    /// Whether they outlive this run.
    pub const fn are_durable(&self) -> bool {
        self.path.is_some()
    }

    /// Where sending goes on: behind everything that was reserved, and not below `first`.
    pub fn sending_end(&mut self, first: u32) -> u64 {
        let first = u64::from(first);
        self.at = self.all.get(&self.owner).map_or(first, |counts| counts.free_from(counts.sent.max(first)));
        self.at
    }

    /// Where sending may go on for trial, above a counter of which anybody may have told; `None` when too many such hints
    /// were followed in vain. Until [`Counters::confirm`] the hint moves no counter but those that are used.
    pub fn begin_trial(&mut self, seen: u32) -> Option<u64> {
        let counts = self.all.entry(self.owner).or_default();
        let begin = counts.free_from(counts.sent.max(u64::from(seen).saturating_add(1)));
        let goes_on = counts.tried.iter().any(|(_, end)| *end == begin);
        if !goes_on && counts.tried.len() >= TRIED_MAX {
            return None;
        }
        self.trial = Some(begin);
        Some(begin)
    }

    /// The meter has proved itself to an association under counters for trial: sending goes on behind them from now on.
    pub fn confirm(&mut self) -> Result<(), CounterStoreError> {
        let Some(begin) = self.trial.take() else { return Ok(()) };
        self.change(|counts| {
            let used = counts.tried.iter().filter(|(first, end)| *first <= begin && begin < *end);
            counts.sent = used.map(|(_, end)| *end).max().unwrap_or(0).max(counts.sent);
            let sent = counts.sent;
            counts.tried.retain(|(_, end)| *end > sent);
        })?;
        self.at = self.all.get(&self.owner).map_or(begin, |counts| counts.sent);
        Ok(())
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
            for (first, end) in &counts.tried {
                writeln!(text, "{owner} tried {first} {end}")?;
            }
            for (peer, counter) in &counts.received {
                writeln!(text, "{owner} received {} {counter}", hex::encode(peer.as_bytes()))?;
            }
        }
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
        match (set, self.trial) {
            (KeySet::Unicast, Some(begin)) => self.change(|counts| {
                match counts.tried.iter_mut().find(|(first, end)| *first <= begin && begin <= *end) {
                    Some((_, old)) => *old = end.max(*old),
                    None => counts.tried.push((begin, end)),
                }
            }),
            (KeySet::Unicast, None) => {
                let at = self.at;
                let tried = self.all.get(&self.owner).map_or(&[][..], |counts| counts.tried.as_slice());
                if tried.iter().any(|(first, behind)| at < *behind && *first < end) {
                    return Err(CounterStoreError);
                }
                self.change(|counts| {
                    counts.sent = counts.sent.max(end);
                    counts.tried.retain(|(_, behind)| *behind > end);
                })?;
                self.at = end;
                Ok(())
            }
            // A client of one meter broadcasts nothing.
            (KeySet::Broadcast, _) => Err(CounterStoreError),
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
        let mut again = Counters::load(Some(&path), OWNER).unwrap();
        assert_eq!(
            (again.sending_end(100), again.received().collect::<Vec<_>>()),
            (356, vec![(METER, 5_001)])
        );
        assert_eq!(again.sending_end(1_000), 1_000);
        drop(again);
        let mut other = Counters::load(Some(&path), ([9; 4], OWNER.1)).unwrap();
        assert_eq!(other.sending_end(7), 7, "another key has counters of its own");
        assert_eq!(other.transactions_end(), 77, "and goes on with the transactions of the title");
        drop(other);
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("sent", "said")).unwrap();
        assert!(Counters::load(Some(&path), OWNER).is_err(), "a broken file lets nothing through");
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(path.with_extension("txt.lock")));
        assert!(!Counters::load(None, OWNER).unwrap().are_durable());
    }

    //= DLMS 12.17: a hint never lowers the own counter and never moves it far
    #[test]
    fn a_hint_moves_the_counter_when_the_meter_has_proved_itself_and_what_was_tried_is_used_once() {
        let path = std::env::temp_dir().join(format!("gridseal-dlms-hints-{}.txt", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let load = || Counters::load(Some(&path), OWNER).unwrap();
        let mut used = std::collections::BTreeSet::new();
        let mut take = |counters: &mut Counters, begin: u64| {
            counters.reserve(KeySet::Unicast, begin + 256).unwrap();
            (begin..begin + 256).for_each(|counter| assert!(used.insert(counter), "{counter} is used twice"));
        };
        // One hint in vain, again and again, and others.
        for seen in [100_000, 100_000, 100_100, 99_900, 800_000] {
            let mut counters = load();
            let begin = counters.sending_end(100);
            take(&mut counters, begin);
            let begin = counters.begin_trial(seen).unwrap();
            assert!(begin > u64::from(seen));
            take(&mut counters, begin);
        }
        assert!((1_380..2_000).contains(&load().sending_end(100)), "nobody vouched for it");
        let mut counters = load();
        let begin = counters.begin_trial(300_000).unwrap();
        take(&mut counters, begin);
        counters.confirm().unwrap();
        let end = counters.sending_end(100);
        assert_eq!(end, 300_001 + 256);
        take(&mut counters, end);
        drop(counters);
        let mut counters = load();
        // What is left of the hints is stepped over when it comes near.
        counters.reserve(KeySet::Unicast, 799_900).unwrap();
        assert!(counters.reserve(KeySet::Unicast, 800_050).is_err(), "not into what was used");
        assert_eq!(counters.sending_end(100), 800_001 + 256);
        for n in 0..TRIED_MAX as u32 + 3 {
            let begin = counters.begin_trial(2_000_000 + n * 500_000);
            assert_eq!(begin.is_some(), n < TRIED_MAX as u32 - 1, "{n}");
            if let Some(begin) = begin {
                counters.reserve(KeySet::Unicast, begin + 256).unwrap();
            }
        }
        drop(counters);
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(path.with_extension("txt.lock")));
    }
}
