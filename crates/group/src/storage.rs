//! What a member keeps, and how it comes through a power cut.
//!
//! Two kinds of record, each with two slots of its own: the seat (written once in a tree epoch) and the epoch in force
//! (written for each header and each command). A new record goes into the slot that is not the newest; a cut at any byte
//! leaves the old record or the new one. Secrets in a record were sealed by the member's own vault before.

use alloc::vec::Vec;

use gridseal_crypto::PublicKey;
use gridseal_types::UtcTime;

use crate::{bytes::Reader, header::GroupId, scheme::Scheme, sd::TreeId, tree::Height};

const EPOCH_MAGIC: [u8; 4] = *b"GSM1";
const SEAT_MAGIC: [u8; 4] = *b"GSL1";
/// Longest sealed key or sealed labels in a record, bytes.
const SEALED_SIZE_MAX: usize = 8_192;
/// A slot with nothing but these bytes was erased, or never written.
const ERASED: [u8; 2] = [0x00, 0xFF];

/// The last broadcast command that was obeyed: its epoch, then its number. It only rises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandMark {
    /// Key epoch.
    pub key_epoch: u32,
    /// Number.
    pub number: u64,
}

/// What a member remembers of the epoch in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRecord {
    /// Scheme of the header.
    pub scheme: Scheme,
    /// Tree epoch.
    pub tree_epoch: u32,
    /// Key epoch.
    pub key_epoch: u32,
    /// When the epoch before ends.
    pub deadline: UtcTime,
    /// The last command obeyed.
    pub command: CommandMark,
}

/// What a member was given when it was seated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seating {
    /// Group.
    pub group: GroupId,
    /// Tree.
    pub tree: TreeId,
    /// Height of the tree.
    pub height: Height,
    /// Seat.
    pub seat: u32,
    /// Epochs at or below this one are never taken: the group's epoch when the member was seated.
    pub floor: u32,
    /// Whose headers and commands count.
    pub sender: PublicKey,
}

/// What two slots hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered<T> {
    /// No record was ever completed in them.
    Blank,
    /// The newest whole record, and what was sealed with it.
    Record {
        /// The record.
        record: T,
        /// The sealed key or labels.
        sealed: Vec<u8>,
        /// It lies in the second slot.
        is_second: bool,
    },
    /// Both were written and neither is whole. How far this member had come is not known: it takes no header until the
    /// key service has given it its seating again, with the present epoch as its floor.
    Damaged,
}

trait Slot: Sized {
    const MAGIC: [u8; 4];
    type Age: Ord;
    fn age(&self) -> Self::Age;
    fn put(&self, out: &mut Vec<u8>);
    fn take(reader: &mut Reader<'_>) -> Option<Self>;
}

impl Slot for EpochRecord {
    const MAGIC: [u8; 4] = EPOCH_MAGIC;
    type Age = (u32, u32, CommandMark);

    fn age(&self) -> Self::Age {
        (self.tree_epoch, self.key_epoch, self.command)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.scheme.number());
        out.extend_from_slice(&self.tree_epoch.to_be_bytes());
        out.extend_from_slice(&self.key_epoch.to_be_bytes());
        out.extend_from_slice(&self.deadline.0.to_be_bytes());
        out.extend_from_slice(&self.command.key_epoch.to_be_bytes());
        out.extend_from_slice(&self.command.number.to_be_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            scheme: Scheme::of(reader.u8().ok()?)?,
            tree_epoch: reader.u32().ok()?,
            key_epoch: reader.u32().ok()?,
            deadline: UtcTime(reader.u64().ok()?),
            command: CommandMark { key_epoch: reader.u32().ok()?, number: reader.u64().ok()? },
        })
    }
}

impl Slot for Seating {
    const MAGIC: [u8; 4] = SEAT_MAGIC;
    type Age = (u32, u32);

    fn age(&self) -> Self::Age {
        (self.tree.tree_epoch, self.floor)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.0);
        out.extend_from_slice(&self.tree.tree.to_be_bytes());
        out.extend_from_slice(&self.tree.tree_epoch.to_be_bytes());
        out.push(self.height.value());
        out.extend_from_slice(&self.seat.to_be_bytes());
        out.extend_from_slice(&self.floor.to_be_bytes());
        out.extend_from_slice(self.sender.point());
    }

    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        let group = GroupId(reader.array().ok()?);
        let tree = TreeId { tree: reader.u64().ok()?, tree_epoch: reader.u32().ok()? };
        let height = Height::new(reader.u8().ok()?)?;
        let (seat, floor) = (reader.u32().ok()?, reader.u32().ok()?);
        let sender = PublicKey::from_point(&reader.array().ok()?)?;
        (seat < height.seat_count()).then_some(Self { group, tree, height, seat, floor, sender })
    }
}

fn encode<T: Slot>(record: &T, sealed: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(sealed.len()).ok().filter(|_| sealed.len() <= SEALED_SIZE_MAX)?;
    let mut out = T::MAGIC.to_vec();
    record.put(&mut out);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(sealed);
    let crc = crc32(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    Some(out)
}

fn decode<T: Slot>(bytes: &[u8]) -> Option<(T, Vec<u8>)> {
    let mut reader = Reader::new(bytes);
    if reader.array().ok()? != T::MAGIC {
        return None;
    }
    let record = T::take(&mut reader)?;
    let length = usize::from(reader.u16().ok()?);
    let sealed = reader.bytes(length).ok().filter(|_| length <= SEALED_SIZE_MAX)?.to_vec();
    let covered = bytes.get(..reader.offset())?;
    (reader.u32().ok()? == crc32(covered)).then_some((record, sealed))
}

fn recover<T: Slot>(first: &[u8], second: &[u8]) -> Recovered<T> {
    let found = |(record, sealed), is_second| Recovered::Record { record, sealed, is_second };
    match (decode::<T>(first), decode::<T>(second)) {
        (Some(one), Some(two)) if two.0.age() > one.0.age() => found(two, true),
        (Some(one), _) => found(one, false),
        (None, Some(two)) => found(two, true),
        // With one slot never written the other one is the first record, torn.
        (None, None) if is_erased(first) || is_erased(second) => Recovered::Blank,
        (None, None) => Recovered::Damaged,
    }
}

fn is_erased(slot: &[u8]) -> bool {
    ERASED.iter().any(|value| slot.iter().all(|byte| byte == value))
}

impl EpochRecord {
    /// The record as it goes into a slot: "GSM1" ++ scheme (1) ++ tree epoch (4) ++ key epoch (4) ++ deadline (8) ++
    /// epoch (4) and number (8) of the last command ++ length (2) ++ sealed group key ++ CRC-32 (4), big-endian.
    ///
    /// `None` when the sealed key has more than 8,192 bytes.
    #[must_use]
    pub fn encode(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        encode(self, sealed)
    }

    /// The newest record of two slots.
    #[must_use]
    pub fn recover(first: &[u8], second: &[u8]) -> Recovered<Self> {
        recover(first, second)
    }
}

impl Seating {
    /// The seating as it goes into a slot: "GSL1" ++ group (16) ++ tree (8) ++ tree epoch (4) ++ height (1) ++ seat (4) ++
    /// floor (4) ++ public key of the sender (64) ++ length (2) ++ sealed labels ++ CRC-32 (4), big-endian.
    ///
    /// `None` when the sealed labels have more than 8,192 bytes.
    #[must_use]
    pub fn encode(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        encode(self, sealed)
    }

    /// The newest seating of two slots: that of the highest tree epoch.
    #[must_use]
    pub fn recover(first: &[u8], second: &[u8]) -> Recovered<Self> {
        recover(first, second)
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (crc & 1).wrapping_neg() & 0xEDB8_8320)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key_epoch: u32, number: u64) -> EpochRecord {
        let command = CommandMark { key_epoch, number };
        let scheme = Scheme::SubsetDifference;
        EpochRecord { scheme, tree_epoch: 1, key_epoch, deadline: UtcTime(9), command }
    }

    #[test]
    fn a_record_torn_at_any_byte_leaves_the_one_before() {
        let (old, new) = (record(4, 0).encode(&[4; 60]).unwrap(), record(5, 0).encode(&[5; 60]).unwrap());
        for torn in 0..new.len() {
            let mut slot = record(3, 0).encode(&[3; 60]).unwrap();
            slot[..torn].copy_from_slice(&new[..torn]);
            let (left, sealed) = (record(4, 0), alloc::vec![4; 60]);
            let wanted = Recovered::Record { record: left, sealed, is_second: false };
            assert_eq!(EpochRecord::recover(&old, &slot), wanted, "torn at {torn}");
        }
        let wanted = Recovered::Record { record: record(5, 0), sealed: alloc::vec![5; 60], is_second: true };
        assert_eq!(EpochRecord::recover(&old, &new), wanted);
    }

    #[test]
    fn the_record_of_the_later_command_is_the_newer_one() {
        let (one, two) = (record(4, 7).encode(&[1]).unwrap(), record(4, 8).encode(&[2]).unwrap());
        for (first, second, is_second) in [(&one, &two, true), (&two, &one, false)] {
            let wanted = Recovered::Record { record: record(4, 8), sealed: alloc::vec![2], is_second };
            assert_eq!(EpochRecord::recover(first, second), wanted);
        }
    }

    #[test]
    fn a_first_record_that_is_torn_is_blank_and_two_damaged_slots_are_not() {
        let whole = record(4, 0).encode(&[4; 60]).unwrap();
        let torn = &whole[..whole.len() - 1];
        assert_eq!(EpochRecord::recover(&[], &[]), Recovered::Blank);
        assert_eq!(EpochRecord::recover(torn, &[0xFF; 90]), Recovered::Blank);
        assert_eq!(EpochRecord::recover(&[0; 90], torn), Recovered::Blank);
        assert_eq!(EpochRecord::recover(torn, torn), Recovered::Damaged);
    }

    #[test]
    fn what_is_too_large_for_a_slot_is_refused() {
        assert!(record(1, 0).encode(&[0; SEALED_SIZE_MAX]).is_some());
        assert!(record(1, 0).encode(&[0; SEALED_SIZE_MAX + 1]).is_none());
    }
}
