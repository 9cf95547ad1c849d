//! The traffic log: what a batch changed in counters and windows, as one blob in the batch's own commit.
//!
//! Version u8, then entries; numbers big-endian:
//!
//! | entry | bytes |
//! |---|---|
//! | 1 opened | slot u32, version u32, counter u32, head of the tag 8 |
//! | 2 leased | slot u32, version u32, epoch u32, end u64 |
//! | 3 sealed | slot u32, version u32, gak version u32, counter u32, at u64, idempotency 16, digest 32 |

use alloc::vec::Vec;

use gridseal_types::{Digest, N16, records::RecordsError};

use crate::window::TagHead;

/// Form of the blob.
const VERSION: u8 = 1;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A fresh APDU was opened.
    Opened { slot: u32, version: u32, counter: u32, tag: TagHead },
    /// A block of counters was leased.
    Leased { slot: u32, version: u32, epoch: u32, end: u64 },
    /// An APDU was sealed under an idempotency key.
    Sealed(SealedBefore),
}

/// A seal that may be asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedBefore {
    pub(crate) slot: u32,
    pub(crate) version: u32,
    pub(crate) gak_version: u32,
    pub(crate) counter: u32,
    pub(crate) at: u64,
    pub(crate) idempotency: N16,
    pub(crate) digest: Digest,
}

/// A blob in the making, and how many entries it has.
#[derive(Debug, Default)]
pub(crate) struct Log(Vec<u8>, usize);

impl Log {
    fn start(&mut self, kind: u8, slot: u32, version: u32) {
        if self.0.is_empty() {
            self.0.push(VERSION);
        }
        self.1 += 1;
        self.0.push(kind);
        self.0.extend_from_slice(&slot.to_be_bytes());
        self.0.extend_from_slice(&version.to_be_bytes());
    }

    pub(crate) fn opened(&mut self, slot: u32, version: u32, counter: u32, tag: TagHead) {
        self.start(1, slot, version);
        self.0.extend_from_slice(&counter.to_be_bytes());
        self.0.extend_from_slice(&tag);
    }

    pub(crate) fn leased(&mut self, slot: u32, version: u32, epoch: u32, end: u64) {
        self.start(2, slot, version);
        self.0.extend_from_slice(&epoch.to_be_bytes());
        self.0.extend_from_slice(&end.to_be_bytes());
    }

    pub(crate) fn sealed(&mut self, seal: &SealedBefore) {
        self.start(3, seal.slot, seal.version);
        self.0.extend_from_slice(&seal.gak_version.to_be_bytes());
        self.0.extend_from_slice(&seal.counter.to_be_bytes());
        self.0.extend_from_slice(&seal.at.to_be_bytes());
        self.0.extend_from_slice(seal.idempotency.as_bytes());
        self.0.extend_from_slice(seal.digest.as_bytes());
    }

    /// The blob and the number of its entries; none when nothing was logged.
    pub(crate) fn take(&mut self) -> Option<(Vec<u8>, usize)> {
        let Self(blob, entries) = core::mem::take(self);
        (entries > 0).then_some((blob, entries))
    }
}

struct Cursor<'b>(&'b [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordsError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(RecordsError::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, RecordsError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, RecordsError> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Reads a blob.
///
/// # Errors
/// [`RecordsError::Damaged`], or what `each` fails with.
pub(crate) fn read(
    blob: &[u8],
    mut each: impl FnMut(Entry) -> Result<(), RecordsError>,
) -> Result<(), RecordsError> {
    let mut cursor = Cursor(blob);
    if cursor.array::<1>()? != [VERSION] {
        return Err(RecordsError::Damaged);
    }
    while !cursor.0.is_empty() {
        let [kind] = cursor.array()?;
        let (slot, version) = (cursor.u32()?, cursor.u32()?);
        each(match kind {
            1 => Entry::Opened { slot, version, counter: cursor.u32()?, tag: cursor.array()? },
            2 => Entry::Leased { slot, version, epoch: cursor.u32()?, end: cursor.u64()? },
            3 => Entry::Sealed(SealedBefore {
                slot,
                version,
                gak_version: cursor.u32()?,
                counter: cursor.u32()?,
                at: cursor.u64()?,
                idempotency: N16(cursor.array()?),
                digest: Digest(cursor.array()?),
            }),
            _ => return Err(RecordsError::Damaged),
        })?;
    }
    Ok(())
}

/// Counters and window of one version, in a folded row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) version: u32,
    pub(crate) epoch: u32,
    pub(crate) end: u64,
    pub(crate) window: Vec<(u32, TagHead)>,
}

/// Appends a version to a folded row.
pub(crate) fn fold_into(row: &mut Vec<u8>, folded: &Folded) {
    row.extend_from_slice(&folded.version.to_be_bytes());
    row.extend_from_slice(&folded.epoch.to_be_bytes());
    row.extend_from_slice(&folded.end.to_be_bytes());
    row.push(u8::try_from(folded.window.len()).unwrap_or(u8::MAX));
    for (counter, tag) in &folded.window {
        row.extend_from_slice(&counter.to_be_bytes());
        row.extend_from_slice(tag);
    }
}

/// Reads a folded row.
///
/// # Errors
/// [`RecordsError::Damaged`].
pub(crate) fn unfold(row: &[u8]) -> Result<Vec<Folded>, RecordsError> {
    let mut cursor = Cursor(row);
    let mut all = Vec::new();
    while !cursor.0.is_empty() {
        let (version, epoch, end) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
        let [count] = cursor.array()?;
        let window =
            (0..count).map(|_| Ok((cursor.u32()?, cursor.array()?))).collect::<Result<_, RecordsError>>()?;
        all.push(Folded { version, epoch, end, window });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_logged_is_read_back_and_a_cut_or_foreign_blob_is_damaged() {
        let sealed = SealedBefore {
            slot: 1,
            version: 2,
            gak_version: 3,
            counter: 4,
            at: 5,
            idempotency: N16([6; 16]),
            digest: Digest([7; 32]),
        };
        let mut log = Log::default();
        assert!(log.take().is_none());
        log.opened(1, 2, 3, [4; 8]);
        log.leased(5, 6, 7, 1 << 32);
        log.sealed(&sealed);
        let (blob, count) = log.take().unwrap();
        assert_eq!(count, 3);
        let mut entries = Vec::new();
        read(&blob, |entry| {
            entries.push(entry);
            Ok(())
        })
        .unwrap();
        let expected = [
            Entry::Opened { slot: 1, version: 2, counter: 3, tag: [4; 8] },
            Entry::Leased { slot: 5, version: 6, epoch: 7, end: 1 << 32 },
            Entry::Sealed(sealed),
        ];
        assert_eq!(entries, expected);
        let ends = [1, 22, 43, blob.len()];
        for cut in 0..=blob.len() {
            let read = read(&blob[..cut], |_| Ok(()));
            assert_eq!(read.is_ok(), ends.contains(&cut), "{cut}");
        }
        assert!(
            read(&[2], |_| Ok(())).is_err() && read(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0], |_| Ok(())).is_err()
        );
    }

    #[test]
    fn a_folded_row_comes_back_as_it_was() {
        let folded = [
            Folded { version: 1, epoch: 2, end: 64, window: alloc::vec![(5, [1; 8]), (9, [2; 8])] },
            Folded { version: 3, epoch: 0, end: 0, window: Vec::new() },
        ];
        let mut row = Vec::new();
        folded.iter().for_each(|one| fold_into(&mut row, one));
        assert_eq!(unfold(&row).unwrap(), folded);
        assert!(unfold(&row[..row.len() - 1]).is_err());
    }
}
