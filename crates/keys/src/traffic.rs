//! The traffic plane: one slot per device with the keys, counters and windows that its APDUs need, in memory.
//!
//! Keys lie in the slots as [`SealedPair`]s and are opened per APDU. What an APDU changes in a slot is appended to the
//! batch's log blob; [`Traffic::fold`] writes slots as rows from time to time and forgets the log up to there.

use alloc::{boxed::Box, vec, vec::Vec};

use gridseal_crypto::{
    ApduKeys, PairContext, PairSeal, Rng, RngError, SealedPair, random,
    role::{Gak, Guek},
};
use gridseal_types::{
    DeviceState, N16, SystemTitle, UtcTime,
    records::{Records, RecordsError, Write},
};

pub(crate) mod index;
pub(crate) mod log;
pub(crate) mod seals;

use crate::{
    MeterKey,
    lease::{CounterLayout, Lease},
    record::{TRAFFIC, TRAFFIC_LOG},
    window::Window,
};
use index::Index;
use log::{Entry, Folded, Log, fold_into, unfold};
use seals::Seals;

/// Rows read at a time while loading.
const STEP: usize = 256;
/// Log entries after which a fold is worth its rows: at least so many, and so many for each row that it writes. They bound
/// what a start has to replay, 336 bytes for each meter.
const FOLD_ENTRIES_MIN: usize = 1 << 18;
const FOLD_ENTRIES_PER_ROW: usize = 16;

/// Two keys that a meter may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) guek: u32,
    pub(crate) gak: u32,
}

/// A pair with its keys.
#[derive(Debug, Clone)]
pub(crate) struct HotPair {
    pub(crate) pair: Pair,
    pub(crate) first_epoch: u32,
    /// One of the two is compromised: good for its replacement and for nothing else.
    pub(crate) flagged: bool,
    /// Security suite of both: part of the security control octet.
    pub(crate) suite: u8,
    pub(crate) keys: SealedPair,
}

/// Counters of one version of an encryption key, both ways.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) lease: Lease,
    pub(crate) window: Window,
}

/// What only few devices have at a time.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Other pairs that the meter may use, the likelier first.
    pub(crate) candidates: Vec<HotPair>,
    /// Counters of the other encryption keys.
    pub(crate) counters: Vec<(u32, Counters)>,
}

/// One device.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) title: SystemTitle,
    /// Keys in use, if there are any.
    pub(crate) active: Option<HotPair>,
    pub(crate) state: DeviceState,
    pub(crate) layout: CounterLayout,
    /// Whether rule S13 asks for a fresh attestation.
    pub(crate) attested: bool,
    /// Whether more than counters may follow from an APDU: a change is not resolved, or a first contact is awaited.
    pub(crate) watched: bool,
    /// The active pair may open but not seal: one of the two is held back.
    pub(crate) held: bool,
    /// Counts used are in doubt.
    pub(crate) doubt: bool,
    dirty: bool,
    pub(crate) attested_at: UtcTime,
    /// Counters of the active encryption key.
    pub(crate) counters: Counters,
    pub(crate) extra: Option<Box<Extra>>,
}

impl Slot {
    fn new(title: SystemTitle) -> Self {
        Self {
            title,
            active: None,
            state: DeviceState::Registered,
            layout: CounterLayout::default(),
            attested: true,
            watched: false,
            held: false,
            doubt: false,
            dirty: false,
            attested_at: UtcTime(0),
            counters: Counters::default(),
            extra: None,
        }
    }

    /// Something of each cache line of the slot.
    fn lines_ahead(&self) -> u64 {
        let keys = self.active.as_ref().map_or(0, |hot| u64::from(hot.pair.guek));
        key_of(self.title)
            ^ keys
            ^ self.attested_at.0
            ^ self.counters.lease.next
            ^ u64::from(self.extra.is_some())
    }

    /// Counters of a version of the encryption key; made when they are not there.
    pub(crate) fn counters_of(&mut self, version: u32) -> &mut Counters {
        if self.active.as_ref().is_some_and(|active| active.pair.guek == version) {
            return &mut self.counters;
        }
        let extra = self.extra.get_or_insert_default();
        let found = extra.counters.iter().position(|(of, _)| *of == version);
        let at = found.unwrap_or_else(|| {
            extra.counters.push((version, Counters::default()));
            extra.counters.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found there, or pushed there")]
        &mut extra.counters[at].1
    }

    /// Counters of a version, when there are any.
    pub(crate) fn counters_known(&self, version: u32) -> Option<&Counters> {
        if self.active.as_ref().is_some_and(|active| active.pair.guek == version) {
            return Some(&self.counters);
        }
        let counters = &self.extra.as_ref()?.counters;
        counters.iter().find(|(of, _)| *of == version).map(|(_, counters)| counters)
    }

    /// A pair that the meter may use.
    pub(crate) fn hot(&self, pair: Pair) -> Option<HotPair> {
        self.active.iter().chain(self.candidates()).find(|hot| hot.pair == pair).cloned()
    }

    pub(crate) fn candidates(&self) -> &[HotPair] {
        self.extra.as_ref().map_or(&[], |extra| &extra.candidates)
    }

    /// Sets which pairs the meter may use; counters stay with their keys.
    pub(crate) fn set_pairs(&mut self, active: Option<HotPair>, candidates: Vec<HotPair>) {
        let before = self.active.as_ref().map(|active| active.pair.guek);
        let after = active.as_ref().map(|active| active.pair.guek);
        if before != after {
            let counters = core::mem::take(&mut self.counters);
            if let Some(before) = before {
                self.extra.get_or_insert_default().counters.push((before, counters));
            }
            let extra = self.extra.get_or_insert_default();
            if let Some(at) = extra.counters.iter().position(|(of, _)| Some(*of) == after) {
                self.counters = extra.counters.swap_remove(at).1;
            } else {
                self.counters = Counters::default();
            }
        }
        self.active = active;
        if !candidates.is_empty() || self.extra.is_some() {
            self.extra.get_or_insert_default().candidates = candidates;
        }
        if self.extra.as_ref().is_some_and(|extra| extra.candidates.is_empty() && extra.counters.is_empty()) {
            self.extra = None;
        }
    }
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Traffic {
    seal: PairSeal,
    pub(crate) slots: Vec<Slot>,
    index: Index,
    pub(crate) log: Log,
    /// Sequence number of the last log blob.
    sequence: u64,
    /// Entries logged since the last fold began.
    logged: usize,
    dirty: Vec<u32>,
    fold: Option<Folding>,
    pub(crate) seals: Seals,
}

/// A fold under way: slots that are still to be written, and the blob up to which the log can then go.
#[derive(Debug)]
struct Folding {
    queue: Vec<u32>,
    up_to: u64,
}

pub(crate) fn key_of(title: SystemTitle) -> u64 {
    u64::from_be_bytes(title.0)
}

impl Traffic {
    pub(crate) fn new(rng: &mut dyn Rng) -> Result<Self, RngError> {
        let seed = u64::from_be_bytes(random(rng)?);
        Ok(Self {
            seal: PairSeal::generate(rng)?,
            slots: Vec::new(),
            index: Index::new(seed),
            log: Log::default(),
            sequence: 0,
            logged: 0,
            dirty: Vec::new(),
            fold: None,
            seals: Seals::new(seed),
        })
    }

    pub(crate) fn find(&self, title: SystemTitle) -> Option<u32> {
        self.index.find(key_of(title))
    }

    /// Reads what a batch is about to need, so that its waits for memory overlap instead of following one another. Has no
    /// effect but speed.
    pub(crate) fn read_ahead(&self, titles: impl Iterator<Item = SystemTitle>) {
        let places: Vec<u32> = titles.filter_map(|title| self.find(title)).collect();
        let slots = places.iter().filter_map(|place| self.slot(*place));
        let lines = slots.clone().fold(0, |sum, slot| sum ^ slot.lines_ahead());
        let windows = slots.fold(0, |sum, slot| sum ^ slot.counters.window.tag_ahead());
        core::hint::black_box((lines, windows));
    }

    pub(crate) fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(number).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(number).ok()?)
    }

    /// The slot of a device, made when it is new.
    pub(crate) fn admit(&mut self, number: u32, title: SystemTitle) -> Result<&mut Slot, RecordsError> {
        let at = usize::try_from(number).map_err(|_| RecordsError::Damaged)?;
        while self.slots.len() <= at {
            self.slots.push(Slot::new(SystemTitle([0; 8])));
        }
        self.index.insert(key_of(title), number);
        let slot = self.slots.get_mut(at).ok_or(RecordsError::Damaged)?;
        slot.title = title;
        Ok(slot)
    }

    pub(crate) fn seal_pair(
        &mut self,
        guek: &MeterKey<Guek>,
        gak: &MeterKey<Gak>,
        context: &PairContext,
    ) -> Option<SealedPair> {
        match (guek, gak) {
            (MeterKey::Short(guek), MeterKey::Short(gak)) => self.seal.seal(guek, gak, context),
            (MeterKey::Long(guek), MeterKey::Long(gak)) => self.seal.seal(guek, gak, context),
            _ => None,
        }
    }

    pub(crate) fn open_pair(&self, title: SystemTitle, hot: &HotPair) -> Option<ApduKeys> {
        let Pair { guek, gak } = hot.pair;
        let context = PairContext { system_title: title, guek_version: guek, gak_version: gak };
        self.seal.open(&hot.keys, &context)
    }

    /// Marks a slot as changed since it was folded.
    pub(crate) fn touch(&mut self, number: u32) {
        let Some(slot) = self.slot_mut(number) else { return };
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(number);
        }
    }

    /// The log blob of a batch as a write, if there is one.
    pub(crate) fn take_log(&mut self) -> Option<Write> {
        let (value, entries) = self.log.take()?;
        self.logged = self.logged.saturating_add(entries);
        self.sequence = self.sequence.saturating_add(1);
        Some(Write { table: TRAFFIC_LOG, key: self.sequence.to_be_bytes().to_vec(), value: Some(value) })
    }

    /// Brings back what rows and log hold, in the slots that were admitted.
    pub(crate) fn load<R: Records>(&mut self, records: &R) -> Result<(), RecordsError> {
        let mut after = Vec::new();
        loop {
            let rows = records.range(TRAFFIC, &after, STEP)?;
            let Some((last, _)) = rows.last() else { break };
            after.clone_from(last);
            for (key, row) in &rows {
                let number =
                    u32::from_be_bytes(key.as_slice().try_into().map_err(|_| RecordsError::Damaged)?);
                let slot = self.slot_mut(number).ok_or(RecordsError::Damaged)?;
                for Folded { version, epoch: of, end, window } in unfold(row)? {
                    let counters = slot.counters_of(version);
                    counters.lease = Lease { epoch: of, next: end, end };
                    window.into_iter().for_each(|(counter, tag)| {
                        counters.window.arrive(counter, tag);
                    });
                }
            }
        }
        self.replay(records)
    }

    fn replay<R: Records>(&mut self, records: &R) -> Result<(), RecordsError> {
        let mut after = Vec::new();
        loop {
            let rows = records.range(TRAFFIC_LOG, &after, STEP)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after.clone_from(last);
            self.sequence =
                u64::from_be_bytes(last.as_slice().try_into().map_err(|_| RecordsError::Damaged)?);
            for (_, blob) in &rows {
                log::read(blob, |entry| self.replay_entry(entry))?;
            }
        }
    }

    fn replay_entry(&mut self, entry: Entry) -> Result<(), RecordsError> {
        let number = match entry {
            Entry::Opened { slot, version, counter, tag } => {
                let of = self.slot_mut(slot).ok_or(RecordsError::Damaged)?;
                of.counters_of(version).window.arrive(counter, tag);
                slot
            }
            Entry::Leased { slot, version, epoch, end } => {
                let of = self.slot_mut(slot).ok_or(RecordsError::Damaged)?;
                let lease = &mut of.counters_of(version).lease;
                if epoch > lease.epoch || end > lease.end {
                    *lease = Lease { epoch, next: end, end };
                }
                slot
            }
            Entry::Sealed(seal) => {
                self.seals.remember(seal);
                seal.slot
            }
        };
        self.touch(number);
        self.logged = self.logged.saturating_add(1);
        Ok(())
    }

    /// Writes up to `limit` changed slots as rows, or forgets up to `limit` log blobs that the rows have made needless.
    /// Nothing to write: nothing to fold.
    pub(crate) fn fold<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        limit: usize,
    ) -> Result<Vec<Write>, RecordsError> {
        if self.fold.is_none() {
            // Seals that may still be asked for again outlive the blobs that told of them.
            for seal in self.seals.unexpired(now) {
                self.log.sealed(&seal);
            }
            let carried = self.take_log();
            let up_to = self.sequence.saturating_sub(u64::from(carried.is_some()));
            let queue = core::mem::take(&mut self.dirty);
            self.logged = 0;
            if queue.is_empty() && !log_has(records, up_to)? {
                return Ok(carried.into_iter().collect());
            }
            self.fold = Some(Folding { queue, up_to });
            return Ok(carried.into_iter().collect());
        }
        let Some(mut folding) = self.fold.take() else { return Ok(Vec::new()) };
        let mut writes = Vec::new();
        if folding.queue.is_empty() {
            for (key, _) in records.range(TRAFFIC_LOG, &[], limit)? {
                if key.as_slice() <= folding.up_to.to_be_bytes().as_slice() {
                    writes.push(Write { table: TRAFFIC_LOG, key, value: None });
                }
            }
            if writes.len() == limit {
                self.fold = Some(folding);
            }
            return Ok(writes);
        }
        for _ in 0..limit {
            let Some(number) = folding.queue.pop() else { break };
            let Some(slot) = self.slot_mut(number) else { continue };
            slot.dirty = false;
            writes.push(Write {
                table: TRAFFIC,
                key: number.to_be_bytes().to_vec(),
                value: Some(row_of(slot)),
            });
        }
        self.fold = Some(folding);
        Ok(writes)
    }

    /// Whether enough was logged for a fold to begin.
    pub(crate) fn is_fold_due(&self) -> bool {
        self.logged >= FOLD_ENTRIES_MIN.max(self.dirty.len().saturating_mul(FOLD_ENTRIES_PER_ROW))
    }

    /// Whether a fold is under way.
    pub(crate) const fn is_folding(&self) -> bool {
        self.fold.is_some()
    }

    /// The seal that was made under this idempotency key, if it can still be asked for.
    pub(crate) fn sealed_before(&self, idempotency: &N16) -> Option<log::SealedBefore> {
        self.seals.find(idempotency)
    }
}

fn log_has<R: Records>(records: &R, up_to: u64) -> Result<bool, RecordsError> {
    let first = records.range(TRAFFIC_LOG, &[], 1)?;
    Ok(first.first().is_some_and(|(key, _)| key.as_slice() <= up_to.to_be_bytes().as_slice()))
}

fn row_of(slot: &Slot) -> Vec<u8> {
    let mut row = vec![];
    let mut one = |version: u32, counters: &Counters| {
        let Lease { epoch, end, .. } = counters.lease;
        fold_into(&mut row, &Folded { version, epoch, end, window: counters.window.entries() });
    };
    if let Some(active) = &slot.active {
        one(active.pair.guek, &slot.counters);
    }
    for (version, counters) in slot.extra.iter().flat_map(|extra| &extra.counters) {
        one(*version, counters);
    }
    row
}
