//! The member's side: which headers it takes, what it keeps, and for how long the key before still opens.
//!
//! A header is judged by [`Member::receive`]; the result's [`EpochRecord`] goes into the storage slot that is not in use,
//! and only then [`Member::stored`] puts the epoch in force. A cut at any byte leaves the old record or the new one.

use alloc::vec::Vec;

use gridseal_crypto::{Key, PublicKey, role::GroupKey};
use gridseal_types::UtcTime;

use crate::{
    epoch::{Command, CommandError, EpochKeys},
    header::{Facts, GroupId, Header, HeaderError},
    scheme::Receive,
    sd::TreeId,
};

/// Why a header changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// Not a header of this group's sender.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// For another group or tree.
    #[error("header is for another group or tree")]
    Other,
    /// Not above the epoch in force.
    #[error("epoch {found} is not above {present}")]
    Epoch {
        /// Epoch of the header.
        found: u32,
        /// Epoch in force.
        present: u32,
    },
    /// No key for this member: it was evicted, or joined later, or the body is damaged.
    #[error("header has no key for this member")]
    NoKey,
    /// A record waits to be stored.
    #[error("a record is not stored yet")]
    Busy,
}

/// What a member remembers of an epoch. The key is wrapped by the member's own vault before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRecord {
    /// Tree epoch.
    pub tree_epoch: u32,
    /// Key epoch.
    pub key_epoch: u32,
    /// When the epoch before ends.
    pub deadline: UtcTime,
}

/// A member of a group.
#[derive(Debug)]
pub struct Member<R> {
    group: GroupId,
    tree: TreeId,
    sender: PublicKey,
    receiver: R,
    present: Option<EpochKeys>,
    before: Option<EpochKeys>,
    waiting: Option<EpochKeys>,
    last_command: Option<u64>,
}

impl<R: Receive> Member<R> {
    /// A member in its seat. `present` is the epoch of its last stored record, if it has one.
    #[must_use]
    pub const fn new(
        group: GroupId,
        tree: TreeId,
        sender: PublicKey,
        receiver: R,
        present: Option<EpochKeys>,
    ) -> Self {
        Self { group, tree, sender, receiver, present, before: None, waiting: None, last_command: None }
    }

    /// The epoch in force; 0 before the first.
    #[must_use]
    pub fn key_epoch(&self) -> u32 {
        self.present.as_ref().map_or(0, |keys| keys.facts.key_epoch)
    }

    /// Takes a header. The record must be stored, with the key of [`Self::waiting_key`], before [`Self::stored`].
    ///
    /// # Errors
    /// [`ReceiveError`]; nothing changed.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<EpochRecord, ReceiveError> {
        if self.waiting.is_some() {
            return Err(ReceiveError::Busy);
        }
        let header = Header::open(bytes, &self.sender)?;
        let facts = header.facts;
        if facts.group != self.group || facts.tree != self.tree {
            return Err(ReceiveError::Other);
        }
        let present = self.key_epoch();
        if facts.key_epoch <= present {
            return Err(ReceiveError::Epoch { found: facts.key_epoch, present });
        }
        let key = self.receiver.receive(facts.key_epoch, header.body).filter(|key| header.is_key(key));
        let key = key.ok_or(ReceiveError::NoKey)?;
        self.waiting = Some(EpochKeys::new(facts, key));
        Ok(record_of(&facts))
    }

    /// The key to be stored with the record, under the member's own key.
    #[must_use]
    pub fn waiting_key(&self) -> Option<&Key<GroupKey, 16>> {
        self.waiting.as_ref().map(EpochKeys::group_key)
    }

    /// The record is durable: the new epoch is in force. A record that could not be stored is forgotten with `false`, and
    /// the header may come again.
    pub fn stored(&mut self, is_durable: bool) {
        if let Some(keys) = self.waiting.take()
            && is_durable
        {
            self.before = self.present.replace(keys);
            self.last_command = None;
        }
    }

    /// The keys in force.
    #[must_use]
    pub const fn keys(&self) -> Option<&EpochKeys> {
        self.present.as_ref()
    }

    /// The keys of the epoch before, for receiving only, until the deadline that the present header announced (rule S8).
    #[must_use]
    pub fn keys_before(&self, now: UtcTime) -> Option<&EpochKeys> {
        let deadline = self.present.as_ref()?.facts.deadline;
        self.before.as_ref().filter(|_| now < deadline)
    }

    /// Judges a broadcast command that came out of a broadcast of the epoch in force.
    ///
    /// # Errors
    /// [`CommandError`]; nothing changed.
    pub fn command(&mut self, bytes: &[u8]) -> Result<Command, CommandError> {
        let facts = self.present.as_ref().ok_or(CommandError::Signature)?.facts;
        let command = Command::open(bytes, &facts, &self.sender, self.last_command)?;
        self.last_command = Some(command.number);
        Ok(command)
    }

    /// The scheme's half, for measurements.
    #[must_use]
    pub const fn receiver(&self) -> &R {
        &self.receiver
    }
}

const fn record_of(facts: &Facts) -> EpochRecord {
    EpochRecord { tree_epoch: facts.tree.tree_epoch, key_epoch: facts.key_epoch, deadline: facts.deadline }
}

const MAGIC: [u8; 4] = *b"GSM1";
/// Longest wrapped key in a record, bytes.
const WRAPPED_SIZE_MAX: usize = 512;

impl EpochRecord {
    /// The record with its wrapped key as it goes into a slot: "GSM1" ++ tree epoch (4) ++ key epoch (4) ++ deadline (8)
    /// ++ length (2) ++ wrapped key ++ CRC-32 (4), big-endian.
    #[must_use]
    pub fn encode(&self, wrapped: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.tree_epoch.to_be_bytes());
        out.extend_from_slice(&self.key_epoch.to_be_bytes());
        out.extend_from_slice(&self.deadline.0.to_be_bytes());
        out.extend_from_slice(&u16::try_from(wrapped.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(wrapped);
        let crc = crc32(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<(Self, Vec<u8>)> {
        let mut reader = crate::bytes::Reader::new(bytes);
        if reader.array().ok()? != MAGIC {
            return None;
        }
        let record = Self {
            tree_epoch: reader.u32().ok()?,
            key_epoch: reader.u32().ok()?,
            deadline: UtcTime(reader.u64().ok()?),
        };
        let length = usize::from(reader.u16().ok()?);
        let wrapped = reader.bytes(length).ok().filter(|_| length <= WRAPPED_SIZE_MAX)?.to_vec();
        let covered = bytes.get(..reader.offset())?;
        (reader.u32().ok()? == crc32(covered)).then_some((record, wrapped))
    }

    /// The newest whole record of two slots, its wrapped key, and whether it lies in the second one. `None` when there is
    /// none: the member then has no epoch, and any later header brings it back.
    #[must_use]
    pub fn recover(first: &[u8], second: &[u8]) -> Option<(Self, Vec<u8>, bool)> {
        let age = |found: &(Self, Vec<u8>)| (found.0.tree_epoch, found.0.key_epoch);
        match (Self::decode(first), Self::decode(second)) {
            (Some(one), Some(two)) if age(&two) > age(&one) => Some((two.0, two.1, true)),
            (Some(one), _) => Some((one.0, one.1, false)),
            (None, Some(two)) => Some((two.0, two.1, true)),
            (None, None) => None,
        }
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

    #[test]
    fn a_record_torn_at_any_byte_leaves_the_one_before() {
        let record = |key_epoch| EpochRecord { tree_epoch: 1, key_epoch, deadline: UtcTime(9) };
        let (old, new) = (record(4).encode(&[4; 60]), record(5).encode(&[5; 60]));
        for torn in 0..new.len() {
            let mut slot = record(3).encode(&[3; 60]);
            slot[..torn].copy_from_slice(&new[..torn]);
            let (found, wrapped, second) = EpochRecord::recover(&old, &slot).unwrap();
            assert_eq!((found, wrapped, second), (record(4), alloc::vec![4; 60], false), "torn at {torn}");
        }
        let (found, _, second) = EpochRecord::recover(&old, &new).unwrap();
        assert_eq!((found, second), (record(5), true));
        assert_eq!(EpochRecord::recover(&[], &[0; 100]), None);
    }
}
