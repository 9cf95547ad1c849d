//! Tamper-evident record of acts on keys, certificates and rights (rule S10): each entry carries the hash of the one
//! before, and goes into the transaction of the act it records. If it cannot be written, the act is not done.
//!
//! Acts of class A have an entry each, by [`append`]; seal and open of APDUs (class B) have one for each batch, by
//! [`append_batch`], with the root of a Merkle [`tree`] over them.

use alloc::{string::String, vec::Vec};

use gridseal_crypto::sha256;
use gridseal_types::{
    Digest, UtcTime,
    records::{Overlay, Records, RecordsError, Table},
};

mod batch;
pub mod tree;

pub use batch::{
    AUDIT_BATCH, Batch, BatchBroken, GROUP_ITEMS, ITEM_SIZE, Item, ItemProof, PRUNED, Summary, append_batch,
    prove_item, proven_item, prune, verify_batch, verify_batches,
};

/// Table of the entries, keyed by their big-endian sequence number.
pub const AUDIT: Table = "audit";
/// Table of the chain's end: one row, empty key.
const AUDIT_HEAD: Table = "audit_head";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Entry {
    /// Number, from 1 without gaps.
    #[n(0)]
    pub sequence: u64,
    /// Hash of the entry before, zero for the first.
    #[n(1)]
    pub previous: Digest,
    /// When, by the clock of the party that writes.
    #[n(2)]
    pub at: UtcTime,
    /// Who asked: name of a service.
    #[n(3)]
    pub actor: String,
    /// What was done or refused: `ownership.confirmed`, `refused`.
    #[n(4)]
    pub act: String,
    /// To whom: a device in hex, or empty.
    #[n(5)]
    pub subject: String,
    /// Code or number that belongs to it; never a value of a key or a reading.
    #[n(6)]
    pub detail: String,
    /// Root and number of the APDUs that a class B entry stands for.
    #[n(7)]
    pub batch: Option<Summary>,
}

#[derive(Debug, Clone, Copy, Default, minicbor::Encode, minicbor::Decode)]
struct Head {
    #[n(0)]
    sequence: u64,
    #[n(1)]
    hash: Option<Digest>,
}

/// What is to be recorded.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "borrows values that need only be displayed")]
pub struct Act<'a> {
    /// Who asked.
    pub actor: &'a str,
    /// What.
    pub act: &'a str,
    /// To whom.
    pub subject: &'a dyn core::fmt::Display,
    /// Code or number.
    pub detail: &'a dyn core::fmt::Display,
}

/// Appends an entry to a decision in the making and returns its number.
///
/// # Errors
/// [`RecordsError`]: then the act must not be done.
pub fn append<R: Records>(
    records: &mut Overlay<'_, R>,
    at: UtcTime,
    act: Act<'_>,
) -> Result<u64, RecordsError> {
    append_entry(records, at, act, None)
}

/// Appends an entry and returns its number.
fn append_entry<R: Records>(
    records: &mut Overlay<'_, R>,
    at: UtcTime,
    act: Act<'_>,
    batch: Option<Summary>,
) -> Result<u64, RecordsError> {
    let head: Head = records.load(AUDIT_HEAD, &[])?.unwrap_or_default();
    let entry = Entry {
        sequence: head.sequence.saturating_add(1),
        previous: head.hash.unwrap_or(Digest([0; 32])),
        at,
        actor: act.actor.into(),
        act: act.act.into(),
        subject: alloc::format!("{}", act.subject),
        detail: alloc::format!("{}", act.detail),
        batch,
    };
    let bytes = minicbor::to_vec(&entry).map_err(|_| RecordsError::Failed)?;
    let head = Head { sequence: entry.sequence, hash: Some(Digest(sha256(&[&bytes]))) };
    records.put(AUDIT, &entry.sequence.to_be_bytes(), bytes);
    records.save(AUDIT_HEAD, &[], &head);
    Ok(entry.sequence)
}

/// A break in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("audit chain breaks at entry {sequence}: it is missing, or it or the one before was changed")]
pub struct ChainBroken {
    /// First entry that does not fit.
    pub sequence: u64,
}

/// Why a log cannot be believed, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogBroken {
    /// The chain of entries.
    #[error(transparent)]
    Chain(#[from] ChainBroken),
    /// What is retained of a batch.
    #[error(transparent)]
    Batch(#[from] BatchBroken),
    /// It is not the log of which somebody noted the head: shortened, or written anew.
    #[error("log does not continue its first {size} entries as they were noted")]
    Head {
        /// Entries in the head.
        size: u64,
    },
}

/// Whether the log whose entries are given, encoded, continues the one with this head.
///
/// # Errors
/// [`LogBroken::Head`].
pub fn verify_head<'e>(entries: impl Iterator<Item = &'e [u8]>, noted: &tree::Head) -> Result<(), LogBroken> {
    let found = head(entries.take(usize::try_from(noted.size).unwrap_or(usize::MAX)));
    if found == *noted { Ok(()) } else { Err(LogBroken::Head { size: noted.size }) }
}

/// Head of the Merkle tree over entries, encoded: what a witness notes, to recognise the log by.
pub fn head<'e>(entries: impl Iterator<Item = &'e [u8]>) -> tree::Head {
    let mut root = tree::Root::new();
    entries.for_each(|entry| root.push(tree::leaf_hash(entry)));
    tree::Head { size: root.size(), root: root.digest() }
}

/// The end of a chain as it is on record: number and hash of the last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Number of the last entry, 0 for an empty log.
    pub sequence: u64,
    /// Its hash, zero for an empty log.
    pub hash: Digest,
}

/// Reads the end of a chain.
///
/// # Errors
/// [`RecordsError`].
pub fn end<R: Records>(records: &R) -> Result<End, RecordsError> {
    let head: Head = Overlay::new(records).load(AUDIT_HEAD, &[])?.unwrap_or_default();
    Ok(End { sequence: head.sequence, hash: head.hash.unwrap_or(Digest([0; 32])) })
}

/// Checks a chain of encoded entries from the first on to its recorded end, and returns them decoded. A tail that was cut
/// off is noticed as long as the end itself was not changed with it; against that only a witness helps.
///
/// # Errors
/// [`ChainBroken`].
pub fn verify_chain<'e>(
    entries: impl Iterator<Item = &'e [u8]>,
    end: End,
) -> Result<Vec<Entry>, ChainBroken> {
    let mut previous = Digest([0; 32]);
    let mut chain: Vec<Entry> = Vec::new();
    for bytes in entries {
        let sequence = chain.last().map_or(1, |entry| entry.sequence.saturating_add(1));
        let entry: Entry = minicbor::decode(bytes).map_err(|_| ChainBroken { sequence })?;
        if entry.sequence != sequence || entry.previous != previous {
            return Err(ChainBroken { sequence });
        }
        previous = Digest(sha256(&[bytes]));
        chain.push(entry);
    }
    let last = chain.last().map_or(0, |entry| entry.sequence);
    if last != end.sequence || previous != end.hash {
        return Err(ChainBroken { sequence: last.saturating_add(1) });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_types::records::{Commit, MemoryRecords};

    #[test]
    fn a_changed_removed_or_swapped_entry_breaks_the_chain() {
        let mut store = MemoryRecords::default();
        for number in 0..4 {
            let mut overlay = Overlay::new(&store);
            let act = Act { actor: "keys", act: "tested", subject: &"", detail: &number };
            append(&mut overlay, UtcTime(7), act).expect("memory");
            let writes = overlay.into_writes();
            store.commit(writes).expect("memory");
        }
        let entries: Vec<Vec<u8>> =
            store.range(AUDIT, &[], 10).unwrap().into_iter().map(|(_, value)| value).collect();
        let end = end(&store).unwrap();
        let check = |entries: &[Vec<u8>]| {
            verify_chain(entries.iter().map(Vec::as_slice), end).map(|chain| chain.len())
        };
        assert_eq!(check(&entries), Ok(4));
        assert_eq!(check(&entries[..3]), Err(ChainBroken { sequence: 4 }), "a cut tail");
        let mut changed = entries.clone();
        *changed[1].last_mut().unwrap() ^= 1;
        assert_eq!(check(&changed), Err(ChainBroken { sequence: 3 }));
        let mut removed = entries.clone();
        removed.remove(1);
        assert_eq!(check(&removed), Err(ChainBroken { sequence: 2 }));
        let mut swapped = entries.clone();
        swapped.swap(2, 3);
        assert_eq!(check(&swapped), Err(ChainBroken { sequence: 3 }));

        let slices = |entries: &[Vec<u8>]| head(entries.iter().map(Vec::as_slice));
        let continues = |entries: &[Vec<u8>], noted| verify_head(entries.iter().map(Vec::as_slice), &noted);
        let noted = slices(&entries[..3]);
        assert_eq!((noted.size, continues(&entries, noted)), (3, Ok(())));
        assert_eq!(continues(&entries[..2], noted), Err(LogBroken::Head { size: 3 }), "shorter than it was");
        assert_eq!(continues(&changed, noted), Err(LogBroken::Head { size: 3 }), "written anew");
    }
}
