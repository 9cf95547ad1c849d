//! The manufacturer's public log of voucher entries: a Merkle tree to which every entry is added before anybody gets it. An
//! owner who reads the log sees a second entry after the same element: a fork.
//!
//! It names no device: an entry stands there as the hashes of itself and of the element before, which only those who have the
//! voucher know.
//!
//! # Source
//! Onboarding specification, sections 7.5, 7.8 and row A22; tree of RFC 6962. The file is ours (ADR 20).

use alloc::{collections::BTreeSet, vec::Vec};

use gridseal_crypto::{KeyError, Signer};
use gridseal_types::{Code, Digest, UtcTime};

use super::{
    cose::{Sign1, SignedType, key_id, sign},
    document::read_digest,
    voucher::{VerifiedVoucher, VoucherKey},
    wire::{Read, Reader, Writer, encode},
};
use crate::audit::tree::{self, Head, Proofs};

/// Size of one entry in the file, in bytes.
const ENTRY_SIZE: usize = 64;
/// Most siblings of a proof.
const PATH_MAX: usize = 64;
const HEAD_SIZE_MAX: usize = 512;
/// Largest file: 2^24 entries.
const LOG_SIZE_MAX: usize = ENTRY_SIZE << 24;

/// One entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogEntry {
    /// Hash of the element before.
    pub previous: Digest,
    /// Hash of the voucher entry.
    pub entry: Digest,
}

impl LogEntry {
    /// Hash of the leaf: over both hashes, one after the other.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        tree::leaf_hash(&[*self.previous.as_bytes(), *self.entry.as_bytes()].concat())
    }

    /// The last entry of a voucher, `None` while it has none.
    #[must_use]
    pub fn last_of(voucher: &VerifiedVoucher) -> Option<Self> {
        match voucher.hashes() {
            [.., previous, entry] => Some(Self { previous: *previous, entry: *entry }),
            _ => None,
        }
    }
}

/// The whole log.
#[derive(Debug, Clone, Default)]
pub struct VoucherLog {
    entries: Vec<LogEntry>,
    sorted: BTreeSet<LogEntry>,
}

impl VoucherLog {
    /// The entries of a log whose head is checked apart.
    #[must_use]
    pub fn new(entries: Vec<LogEntry>) -> Self {
        Self { sorted: entries.iter().copied().collect(), entries }
    }

    /// Adds an entry and gives its index. An entry that is there keeps its place.
    ///
    /// # Errors
    /// [`Code::Fork`] when another entry follows the same element: one successor only.
    pub fn append(&mut self, entry: LogEntry) -> Result<u64, Code> {
        if self.sorted.contains(&entry) {
            let at = self.entries.iter().position(|known| *known == entry);
            return at.and_then(|at| u64::try_from(at).ok()).ok_or(Code::Fork);
        }
        if self.successors(&entry.previous).next().is_some() {
            return Err(Code::Fork);
        }
        let index = self.size();
        self.sorted.insert(entry);
        self.entries.push(entry);
        Ok(index)
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX)
    }

    /// Whether it holds this entry.
    #[must_use]
    pub fn contains(&self, entry: &LogEntry) -> bool {
        self.sorted.contains(entry)
    }

    /// Every entry after an element. A log without a fork has at most one.
    pub fn successors(&self, previous: &Digest) -> impl Iterator<Item = &Digest> {
        let (first, last) = (Digest([0; 32]), Digest([0xff; 32]));
        let from = LogEntry { previous: *previous, entry: first };
        let to = LogEntry { previous: *previous, entry: last };
        self.sorted.range(from..=to).map(|entry| &entry.entry)
    }

    /// Whether two entries follow the same element.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        let pairs = self.sorted.iter().zip(self.sorted.iter().skip(1));
        pairs.into_iter().any(|(one, next)| one.previous == next.previous)
    }

    /// Size and root of the first `size` entries; `None` when there are fewer.
    #[must_use]
    pub fn head_at(&self, size: u64) -> Option<Head> {
        let entries = self.entries.get(..usize::try_from(size).ok()?)?;
        let mut root = tree::Root::new();
        entries.iter().for_each(|entry| root.push(entry.leaf()));
        Some(Head { size, root: root.digest() })
    }

    /// Proofs against the whole log.
    #[must_use]
    pub fn proofs(&self) -> Proofs {
        Proofs::new(self.entries.iter().map(LogEntry::leaf).collect())
    }

    /// The signed head.
    ///
    /// # Errors
    /// As given by the signer.
    pub fn head<S: Signer<Error = KeyError>>(&self, signer: &S, now: UtcTime) -> Result<Vec<u8>, KeyError> {
        sign_head(signer, &self.head_at(self.size()).unwrap_or_else(empty), now)
    }

    /// The file: `[head: signed, entries: bytes]`, signed now.
    ///
    /// # Errors
    /// As given by the signer.
    pub fn encode<S: Signer<Error = KeyError>>(&self, signer: &S, now: UtcTime) -> Result<Vec<u8>, KeyError> {
        let head = self.head(signer, now)?;
        let entries: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|e| [*e.previous.as_bytes(), *e.entry.as_bytes()].concat())
            .collect();
        Ok(encode(|w| {
            w.array(2).bytes(&head).bytes(&entries);
        }))
    }

    /// Reads a file: the signed head, and the entries, which must be those of the head.
    ///
    /// # Errors
    /// [`Code::Format`]; [`Code::Voucher`] when the head is not signed by one of `voucher_keys` or is another list's.
    pub fn open(bytes: &[u8], voucher_keys: &[VoucherKey]) -> Result<(LogHead, Self), Code> {
        let (head, entries) = decode_file(bytes)?;
        let head = LogHead::verify(head, voucher_keys)?;
        let log = Self::new(entries);
        if log.head_at(log.size()) == Some(head.head) { Ok((head, log)) } else { Err(Code::Voucher) }
    }
}

fn empty() -> Head {
    Head { size: 0, root: tree::Root::new().digest() }
}

fn decode_file(bytes: &[u8]) -> Read<(&[u8], Vec<LogEntry>)> {
    Reader::whole(bytes, |r| {
        r.array(2..=2, |r, _| {
            let head = r.bytes(1..=HEAD_SIZE_MAX)?;
            let entries = r.bytes(0..=LOG_SIZE_MAX)?;
            let (entries, rest) = entries.as_chunks::<ENTRY_SIZE>();
            if !rest.is_empty() {
                return r.fail("an entry is cut off");
            }
            let entry = |bytes: &[u8; ENTRY_SIZE]| {
                let (previous, entry) = bytes.split_at(32);
                let digest = |half: &[u8]| Digest::from_slice(half).unwrap_or(Digest([0; 32]));
                LogEntry { previous: digest(previous), entry: digest(entry) }
            };
            Ok((head, entries.iter().map(entry).collect()))
        })
    })
}

fn sign_head<S: Signer<Error = KeyError>>(
    signer: &S,
    head: &Head,
    now: UtcTime,
) -> Result<Vec<u8>, KeyError> {
    let payload = encode(|w| {
        w.map(3).key(1).uint(head.size).key(2).bytes(head.root.as_bytes()).key(3).uint(now.0);
    });
    sign(signer, SignedType::Log, &payload)
}

/// A log's head whose signature was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// Key id of the manufacturer's voucher key: which log it is.
    pub signer: Digest,
    /// Size and root.
    pub head: Head,
    /// When it was signed.
    pub at: UtcTime,
}

impl LogHead {
    /// Checks the signature of a head: `{1: size, 2: root, 3: when}`.
    ///
    /// # Errors
    /// [`Code::Voucher`].
    pub fn verify(bytes: &[u8], voucher_keys: &[VoucherKey]) -> Result<Self, Code> {
        let signed = Sign1::decode(bytes).map_err(|_| Code::Voucher)?;
        let trusted = voucher_keys.iter().find(|trusted| key_id(&trusted.key) == signed.key_id);
        if !trusted.is_some_and(|trusted| signed.verify(SignedType::Log, &trusted.key)) {
            return Err(Code::Voucher);
        }
        let (head, at) = decode_head(signed.payload).map_err(|_| Code::Voucher)?;
        Ok(Self { signer: signed.key_id, head, at })
    }

    /// Checks that the last entry of a voucher is in the log.
    ///
    /// # Errors
    /// [`Code::Voucher`].
    pub fn includes(&self, voucher: &VerifiedVoucher, proof: &LogProof) -> Result<(), Code> {
        let leaf = LogEntry::last_of(voucher).ok_or(Code::Voucher)?.leaf();
        if tree::is_included(&leaf, proof.index, &self.head, &proof.path) {
            Ok(())
        } else {
            Err(Code::Voucher)
        }
    }
}

fn decode_head(bytes: &[u8]) -> Read<(Head, UtcTime)> {
    let (mut size, mut root, mut at) = (None, None, None);
    Reader::whole(bytes, |r| {
        r.map(|r, key| {
            match key {
                1 => size = Some(r.uint(0..=u64::MAX)?),
                2 => root = Some(read_digest(r)?),
                3 => at = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok((Head { size: r.required(size)?, root: r.required(root)? }, r.required(at)?))
    })
}

/// Where an entry is in the log: index and siblings from the leaf to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProof {
    /// Index.
    pub index: u64,
    /// Siblings.
    pub path: Vec<Digest>,
}

impl LogProof {
    pub(super) fn write(&self, w: &mut Writer) {
        w.array(2).uint(self.index).list(&self.path, |w, sibling| {
            w.bytes(sibling.as_bytes());
        });
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Read<Self> {
        r.array(2..=2, |r, _| {
            Ok(Self { index: r.uint(0..=u64::MAX)?, path: r.list(0..=PATH_MAX, read_digest)? })
        })
    }
}

/// File and head on any bytes: no panic, and equal input gives equal output.
pub(super) fn fuzz_entry(bytes: &[u8]) {
    assert_eq!(decode_file(bytes), decode_file(bytes), "equal input gives equal output");
    assert_eq!(decode_head(bytes), decode_head(bytes), "equal input gives equal output");
    super::witness::fuzz_entry(bytes);
    assert!(VoucherLog::open(bytes, &[]).is_err(), "without a key nothing is verified");
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_crypto::{Key, SigningKey, role::VoucherSigning};

    const NOW: UtcTime = UtcTime(7);

    fn digest(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn entry(previous: u8, entry: u8) -> LogEntry {
        LogEntry { previous: digest(previous), entry: digest(entry) }
    }

    fn signer(number: u8) -> SigningKey<VoucherSigning> {
        SigningKey::new(&Key::take(&mut [number; 32])).unwrap()
    }

    #[test]
    fn a_second_successor_is_refused_and_the_first_keeps_its_place() {
        let mut log = VoucherLog::default();
        assert_eq!(log.append(entry(1, 2)), Ok(0));
        assert_eq!(log.append(entry(2, 3)), Ok(1));
        assert_eq!(log.append(entry(1, 4)), Err(Code::Fork));
        assert_eq!(log.append(entry(1, 2)), Ok(0));
        assert_eq!(log.size(), 2);
    }

    #[test]
    fn a_fork_in_the_log_is_seen() {
        let log = VoucherLog::new(alloc::vec![entry(1, 2), entry(5, 6), entry(1, 4)]);
        assert_eq!(log.successors(&digest(1)).count(), 2);
        assert!(log.is_forked());
        assert!(!VoucherLog::new(alloc::vec![entry(1, 2), entry(5, 6), entry(2, 4)]).is_forked());
        assert_eq!(log.successors(&digest(5)).count(), 1);
        assert_eq!(log.successors(&digest(2)).count(), 0);
        assert!(log.contains(&entry(1, 4)) && !log.contains(&entry(5, 4)));
    }

    #[test]
    fn a_log_is_read_as_it_was_signed() {
        let log = VoucherLog::new((1..20).map(|number| entry(number, number + 100)).collect());
        let (file, keys) = (log.encode(&signer(1), NOW).unwrap(), [signer(1).public().into()]);
        let (head, read) = VoucherLog::open(&file, &keys).unwrap();
        assert_eq!((head.head, head.at), (log.head_at(19).unwrap(), NOW));
        assert_eq!(read.entries, log.entries);
        assert_eq!(VoucherLog::open(&file, &[signer(2).public().into()]).err(), Some(Code::Voucher));
        for at in (0..file.len()).step_by(7) {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(VoucherLog::open(&changed, &keys).is_err(), "byte {at}");
        }
        let (shorter, longer) = (log.head_at(18).unwrap(), log.head_at(20));
        assert!(shorter.root != head.head.root && longer.is_none());
    }

    #[test]
    fn proofs_of_the_whole_tree_are_those_of_the_standard() {
        for size in 0..70usize {
            let leaves: Vec<_> = (0..size).map(|at| entry(u8::try_from(at).unwrap(), 200).leaf()).collect();
            let proofs = Proofs::new(leaves.clone());
            for index in 0..=size {
                assert_eq!(
                    proofs.inclusion(index),
                    tree::inclusion_proof(&leaves, index),
                    "{index} of {size}"
                );
            }
        }
    }
}
