//! Class B of rule S10: seal and open of APDUs are committed by one Merkle root for each batch, in the batch's own
//! transaction. What the root was made of is retained beside the entry until it is pruned, for proofs on demand.
//!
//! A leaf of the tree holds [`GROUP_ITEMS`] consecutive items, so the root costs about half a compression of SHA-256 for
//! each APDU; a proof shows the whole group.

use alloc::vec::Vec;

use gridseal_types::{
    Digest, SystemTitle, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
};

use super::{
    Act, Entry, append_entry,
    tree::{self, Root, leaf_hash},
};

/// Table of the items of each batch, by the big-endian sequence number of its entry.
pub const AUDIT_BATCH: Table = "audit_batch";
/// Act of the entry that [`prune`] leaves; its detail is the sequence number of the last batch without items.
pub const PRUNED: &str = "audit.pruned";
/// Items in one leaf.
pub const GROUP_ITEMS: usize = 16;
/// Bytes of an encoded item.
pub const ITEM_SIZE: usize = 26;
/// Bytes of a full leaf.
const GROUP_SIZE: usize = GROUP_ITEMS * ITEM_SIZE;

/// One APDU that was sealed or opened, or was not.
///
/// Encoded in [`ITEM_SIZE`] bytes: operation 1, system title 8, version 4, counter 4, verdict 1, tag 8; numbers
/// big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// What was asked for; the key service's own numbers.
    pub operation: u8,
    /// The meter's system title.
    pub system_title: SystemTitle,
    /// Version of the key, 0 when none was found.
    pub version: u32,
    /// Invocation counter.
    pub counter: u32,
    /// What came of it; the key service's own numbers.
    pub verdict: u8,
    /// First bytes of the APDU's tag.
    pub tag: [u8; 8],
}

impl Item {
    /// The encoded item.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ITEM_SIZE] {
        let mut bytes = [0; ITEM_SIZE];
        bytes[0] = self.operation;
        bytes[1..9].copy_from_slice(self.system_title.as_bytes());
        bytes[9..13].copy_from_slice(&self.version.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.counter.to_be_bytes());
        bytes[17] = self.verdict;
        bytes[18..].copy_from_slice(&self.tag);
        bytes
    }

    /// The item from its encoded form.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ITEM_SIZE]) -> Self {
        let [operation, rest @ ..] = *bytes;
        let [t0, t1, t2, t3, t4, t5, t6, t7, v0, v1, v2, v3, c0, c1, c2, c3, verdict, tag @ ..] = rest;
        Self {
            operation,
            system_title: SystemTitle([t0, t1, t2, t3, t4, t5, t6, t7]),
            version: u32::from_be_bytes([v0, v1, v2, v3]),
            counter: u32::from_be_bytes([c0, c1, c2, c3]),
            verdict,
            tag,
        }
    }
}

/// What an entry says about its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct Summary {
    /// Number of items.
    #[n(0)]
    pub count: u32,
    /// Root of the tree over their groups.
    #[n(1)]
    pub root: Digest,
}

/// The items of a batch in the making.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    items: Vec<u8>,
    root: Root,
}

impl Batch {
    /// No item yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new(), root: Root::new() }
    }

    /// Adds an item.
    pub fn push(&mut self, item: &Item) {
        self.items.extend_from_slice(&item.to_bytes());
        if self.items.len().is_multiple_of(GROUP_SIZE) {
            let group = self.items.rchunks(GROUP_SIZE).next().unwrap_or_default();
            self.root.push(leaf_hash(group));
        }
    }

    /// Number of items.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.items.len() / ITEM_SIZE
    }

    /// Whether there is no item.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Count and root, and the encoded items.
    #[must_use]
    pub fn finish(mut self) -> (Summary, Vec<u8>) {
        let rest = self.items.chunks_exact(GROUP_SIZE).remainder();
        if !rest.is_empty() {
            self.root.push(leaf_hash(rest));
        }
        let count = u32::try_from(self.len()).unwrap_or(u32::MAX);
        (Summary { count, root: self.root.digest() }, self.items)
    }
}

/// Appends the one entry of a batch to a decision in the making, and retains the items. An empty batch leaves nothing.
///
/// # Errors
/// [`RecordsError`]: then nothing of the batch must be done.
pub fn append_batch<R: Records>(
    records: &mut Overlay<'_, R>,
    at: UtcTime,
    act: Act<'_>,
    batch: Batch,
) -> Result<(), RecordsError> {
    if batch.is_empty() {
        return Ok(());
    }
    let (summary, items) = batch.finish();
    let sequence = append_entry(records, at, act, Some(summary))?;
    records.put(AUDIT_BATCH, &sequence.to_be_bytes(), items);
    Ok(())
}

/// Why the items that are retained for an entry are not those of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchBroken {
    /// There are none, though they were not pruned.
    #[error("items of audit entry {sequence} are missing")]
    Missing {
        /// The entry.
        sequence: u64,
    },
    /// More or fewer than the entry says.
    #[error("items of audit entry {sequence} are cut or too many")]
    Count {
        /// The entry.
        sequence: u64,
    },
    /// Changed or in another order.
    #[error("items of audit entry {sequence} do not have its root")]
    Root {
        /// The entry.
        sequence: u64,
    },
}

fn leaves(items: &[u8]) -> Vec<Digest> {
    items.chunks(GROUP_SIZE).map(leaf_hash).collect()
}

/// Checks the retained items of an entry against what the entry says. An entry without a batch has nothing to check.
///
/// # Errors
/// [`BatchBroken`].
pub fn verify_batch(entry: &Entry, items: Option<&[u8]>) -> Result<(), BatchBroken> {
    let (Some(summary), sequence) = (entry.batch, entry.sequence) else { return Ok(()) };
    let items = items.ok_or(BatchBroken::Missing { sequence })?;
    let size = usize::try_from(summary.count).unwrap_or(usize::MAX).saturating_mul(ITEM_SIZE);
    if items.len() != size {
        return Err(BatchBroken::Count { sequence });
    }
    if tree::root(&leaves(items)) != summary.root {
        return Err(BatchBroken::Root { sequence });
    }
    Ok(())
}

/// That one item was in a batch: its group, and the way from there to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemProof {
    /// The encoded items of the group.
    pub group: Vec<u8>,
    /// Siblings from the leaf to the root.
    pub siblings: Vec<Digest>,
}

/// The proof for the item at `index` of the retained items. `None` beyond their end.
#[must_use]
pub fn prove_item(items: &[u8], index: usize) -> Option<ItemProof> {
    if index >= items.len() / ITEM_SIZE {
        return None;
    }
    let group = index / GROUP_ITEMS;
    Some(ItemProof {
        group: items.chunks(GROUP_SIZE).nth(group)?.to_vec(),
        siblings: tree::inclusion_proof(&leaves(items), group)?,
    })
}

/// The item at `index` of the batch, if the proof shows it; `None` otherwise.
#[must_use]
pub fn proven_item(summary: &Summary, index: usize, proof: &ItemProof) -> Option<Item> {
    let head = tree::Head {
        size: u64::from(summary.count).div_ceil(u64::try_from(GROUP_ITEMS).ok()?),
        root: summary.root,
    };
    let group = u64::try_from(index / GROUP_ITEMS).ok()?;
    if !tree::is_included(&leaf_hash(&proof.group), group, &head, &proof.siblings) {
        return None;
    }
    let item = proof.group.chunks_exact(ITEM_SIZE).nth(index % GROUP_ITEMS)?;
    Some(Item::from_bytes(item.try_into().ok()?))
}

/// Forgets the items of up to `limit` batches whose entries come before `before`, the oldest first, and leaves an entry
/// that says so; the roots stay. No change when there is nothing to forget.
///
/// # Errors
/// [`RecordsError`].
pub fn prune<R: Records>(
    records: &R,
    at: UtcTime,
    actor: &str,
    before: u64,
    limit: usize,
) -> Result<Vec<Write>, RecordsError> {
    let old = records.range(AUDIT_BATCH, &[], limit)?.into_iter().map(|(key, _)| key);
    let old: Vec<Vec<u8>> = old.take_while(|key| key.as_slice() < before.to_be_bytes().as_slice()).collect();
    let Some(last) = old.last() else { return Ok(Vec::new()) };
    let last = u64::from_be_bytes(last.as_slice().try_into().map_err(|_| RecordsError::Damaged)?);
    let mut overlay = Overlay::new(records);
    append_entry(&mut overlay, at, Act { actor, act: PRUNED, subject: &AUDIT_BATCH, detail: &last }, None)?;
    old.iter().for_each(|key| overlay.delete(AUDIT_BATCH, key));
    Ok(overlay.into_writes())
}

/// Checks the retained items of all entries of a chain that was verified. `items` gives those of an entry. Returns how
/// many batches had their items.
///
/// # Errors
/// What `items` fails with, or the first [`BatchBroken`].
pub fn verify_batches<E: From<BatchBroken>>(
    chain: &[Entry],
    mut items: impl FnMut(u64) -> Result<Option<Vec<u8>>, E>,
) -> Result<usize, E> {
    let pruned = chain.iter().filter(|entry| entry.act == PRUNED && entry.subject == AUDIT_BATCH);
    let pruned = pruned.filter_map(|entry| entry.detail.parse::<u64>().ok()).max().unwrap_or(0);
    let mut count = 0_usize;
    for entry in chain.iter().filter(|entry| entry.batch.is_some()) {
        match items(entry.sequence)? {
            None if entry.sequence <= pruned => {}
            items => {
                verify_batch(entry, items.as_deref())?;
                count = count.saturating_add(1);
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
