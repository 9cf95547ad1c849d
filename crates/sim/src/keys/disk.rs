//! Databases: what is durable, what a service sees on top of it, and what a watcher reads out of both.

use std::collections::BTreeMap;

use gridseal_crypto::sha256;
use gridseal_keys::{
    Core, TagHead,
    record::{CHANGES, ChangeEntry, DEVICES, DeviceEntry, TRAFFIC_LOG, VERSIONS, VersionEntry, version_key},
};
use gridseal_trust::audit::{AUDIT, AUDIT_BATCH};
use gridseal_types::{
    EkName, N16,
    records::{Commit as _, Durability, MemoryRecords, Records, Write},
    service::keys::KeyKind,
};

/// A key, as a watcher knows it: the start of a hash of its bytes.
pub(super) type KeyHash = [u8; 16];

/// Hash of a key from its hex form.
pub(super) fn hash_of(hex: &str) -> KeyHash {
    let digest = sha256(&[b"gridseal sim key", hex.as_bytes()]);
    *digest.first_chunk().expect("longer")
}

/// A place in the traffic table and a key: whose counters.
pub(super) type Line = (u32, KeyHash);

/// An APDU that a decision accepted as new, as its log says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived {
    pub(super) line: Line,
    pub(super) counter: u32,
    pub(super) tag: TagHead,
}

/// One transaction.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    writes: Vec<Write>,
    pub(super) durability: Durability,
    pub(super) arrived: Vec<Arrived>,
    pub(super) leased: Vec<(Line, u32)>,
    /// Keys that it holds from now on, or no more.
    pub(super) keys: Vec<(Vec<u8>, Option<KeyHash>)>,
}

/// A database at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) rows: MemoryRecords,
    /// Everything that was ever accepted as new.
    pub(super) windows: BTreeMap<Line, BTreeMap<u32, TagHead>>,
    /// Highest counter that is leased.
    pub(super) leases: BTreeMap<Line, u32>,
    /// Keys that it holds, by the key of their row.
    pub(super) keys: BTreeMap<Vec<u8>, KeyHash>,
    /// In how many rows each of them is.
    held: BTreeMap<KeyHash, u32>,
}

impl State {
    pub(super) fn apply(&mut self, commit: &Commit) {
        self.rows.commit(commit.writes.clone()).expect("memory");
        for Arrived { line, counter, tag } in &commit.arrived {
            self.windows.entry(*line).or_default().insert(*counter, *tag);
        }
        for (line, highest) in &commit.leased {
            let known = self.leases.entry(*line).or_default();
            *known = (*known).max(*highest);
        }
        self.hold(&commit.keys);
    }

    fn hold(&mut self, changes: &[(Vec<u8>, Option<KeyHash>)]) {
        for (row, key) in changes {
            let before = match key {
                Some(key) => {
                    *self.held.entry(*key).or_default() += 1;
                    self.keys.insert(row.clone(), *key)
                }
                None => self.keys.remove(row),
            };
            if let Some(count) = before.and_then(|before| self.held.get_mut(&before)) {
                *count -= 1;
            }
        }
    }

    pub(super) fn device(&self, device: &EkName) -> Option<DeviceEntry> {
        let row = self.rows.get(DEVICES, device.as_bytes()).expect("memory")?;
        Some(minicbor::decode(&row).expect("own record"))
    }

    pub(super) fn version(&self, device: &EkName, kind: KeyKind, version: u32) -> Option<VersionEntry> {
        let row = self.rows.get(VERSIONS, &version_key(device, kind, version)).expect("memory")?;
        Some(minicbor::decode(&row).expect("own record"))
    }

    pub(super) fn change(&self, change: &N16) -> Option<ChangeEntry> {
        let row = self.rows.get(CHANGES, change.as_bytes()).expect("memory")?;
        Some(minicbor::decode(&row).expect("own record"))
    }

    /// The key of a version.
    pub(super) fn key(&self, device: &EkName, kind: KeyKind, version: u32) -> Option<KeyHash> {
        self.keys.get(&version_key(device, kind, version)).copied()
    }

    /// Keys of a change, those of its items.
    pub(super) fn keys_of(&self, device: &EkName, items: &[KeyKind], change: N16) -> Vec<KeyHash> {
        let versions = self.device(device).map(|entry| entry.versions).unwrap_or_default();
        let of_change = |(kind, number): &(KeyKind, u32)| {
            let entry = self.version(device, *kind, *number);
            items.contains(kind) && entry.is_some_and(|entry| entry.change == Some(change))
        };
        let versions = versions.into_iter().filter(of_change);
        versions.filter_map(|(kind, number)| self.key(device, kind, number)).collect()
    }

    /// Keys on record as sent.
    pub(super) fn sent(&self) -> Vec<KeyHash> {
        let is_sent = |row: &[u8]| {
            let row = self.rows.get(VERSIONS, row).expect("memory");
            row.is_some_and(|row| minicbor::decode::<VersionEntry>(&row).expect("own record").sent)
        };
        self.keys.iter().filter(|(row, _)| is_sent(row)).map(|(_, key)| *key).collect()
    }

    /// Whether operators have destroyed a key of a device that its meter may have got.
    pub(super) fn has_destroyed(&self, device: &EkName) -> bool {
        let versions = self.device(device).map(|entry| entry.versions).unwrap_or_default();
        let is_destroyed = |(kind, number): (KeyKind, u32)| {
            self.version(device, kind, number).is_some_and(|entry| entry.sent && entry.envelope.0.is_empty())
        };
        versions.into_iter().any(is_destroyed)
    }

    pub(super) fn holds(&self, key: &KeyHash) -> bool {
        self.held.get(key).is_some_and(|count| *count > 0)
    }
}

/// Hashes of keys by their envelopes.
#[derive(Debug)]
pub(super) struct Vault {
    core: &'static Core,
    known: BTreeMap<Vec<u8>, KeyHash>,
}

impl Vault {
    pub(super) const fn new(core: &'static Core) -> Self {
        Self { core, known: BTreeMap::new() }
    }

    fn key(&mut self, device: &DeviceEntry, entry: &VersionEntry) -> Option<KeyHash> {
        if entry.envelope.0.is_empty() {
            return None;
        }
        if let Some(known) = self.known.get(&entry.envelope.0) {
            return Some(*known);
        }
        let key = hash_of(&self.core.danger_version_key(device, entry).expect("own record"));
        self.known.insert(entry.envelope.0.clone(), key);
        Some(key)
    }
}

/// What is durable, and what the service sees: decisions that wait for their commit are on top.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) durable: State,
    pub(super) view: State,
}

impl Disk {
    /// The transaction of a decision; it is in the view from here on.
    pub(super) fn stage(
        &mut self,
        writes: Vec<Write>,
        durability: Durability,
        vault: &mut Vault,
        devices: &[EkName],
    ) -> Commit {
        // The audit log is long, and read by nobody here; its end is kept.
        let kept = |write: &Write| write.table != AUDIT && write.table != AUDIT_BATCH;
        let writes: Vec<Write> = writes.into_iter().filter(kept).collect();
        self.view.rows.commit(writes.clone()).expect("memory");
        let mut commit =
            Commit { writes, durability, arrived: Vec::new(), leased: Vec::new(), keys: Vec::new() };
        for write in &commit.writes {
            let Some(value) = write.value.as_deref().filter(|_| write.table == VERSIONS) else { continue };
            let entry: VersionEntry = minicbor::decode(value).expect("own record");
            let name = write.key.first_chunk().map(|name| EkName(*name)).expect("own key");
            let device = self.view.device(&name).expect("own record");
            commit.keys.push((write.key.clone(), vault.key(&device, &entry)));
        }
        self.view.hold(&commit.keys);
        let State { keys, rows, .. } = &self.view;
        for write in &commit.writes {
            if write.table == TRAFFIC_LOG
                && let Some(blob) = &write.value
            {
                let of = Blob { devices, keys, rows };
                of.read(blob, &mut commit.arrived, &mut commit.leased);
            }
        }
        commit
    }
}

/// Reads a blob of the traffic log by its documented form, not by the code that wrote it.
struct Blob<'s> {
    devices: &'s [EkName],
    keys: &'s BTreeMap<Vec<u8>, KeyHash>,
    rows: &'s MemoryRecords,
}

impl Blob<'_> {
    fn read(&self, blob: &[u8], arrived: &mut Vec<Arrived>, leased: &mut Vec<(Line, u32)>) {
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        let mut rest = &blob[1..];
        while let [kind, body @ ..] = rest {
            let (slot, version) = (number(&body[..4]), number(&body[4..8]));
            let device = &self.devices[slot as usize];
            let row = version_key(device, KeyKind::Guek, version);
            // A key that was destroyed since is in no envelope any more; nothing leaves under it.
            let line = self.keys.get(&row).map(|key| (slot, *key));
            let size = match kind {
                1 => {
                    let tag = body[12..20].try_into().expect("eight bytes");
                    arrived.extend(line.map(|line| Arrived { line, counter: number(&body[8..12]), tag }));
                    20
                }
                2 => {
                    let end = u64::from_be_bytes(body[12..20].try_into().expect("eight bytes"));
                    let highest = self.highest(device, &row, number(&body[8..12]), end);
                    leased.extend(line.zip(highest));
                    20
                }
                3 => 72,
                _ => unreachable!("a kind of entry that is not documented"),
            };
            rest = &body[size..];
        }
    }

    /// The last counter of a block.
    fn highest(&self, device: &EkName, row: &[u8], epoch: u32, end: u64) -> Option<u32> {
        let device: DeviceEntry =
            minicbor::decode(&self.rows.get(DEVICES, device.as_bytes()).expect("memory")?)
                .expect("own record");
        let entry: VersionEntry =
            minicbor::decode(&self.rows.get(VERSIONS, row).expect("memory")?).expect("own record");
        device.layout.counter(epoch, entry.first_epoch, end.checked_sub(1)?)
    }
}
