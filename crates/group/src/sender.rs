//! The key service's side of a group: who sits where, who was evicted, which epoch is next. Pure: each step returns the
//! plan as it must be durable before anything leaves (rule S2), and the header is made from the durable plan only.

use alloc::vec::Vec;

use gridseal_crypto::{Key, Rng, Signer, group::Master, role::GroupKey};
use gridseal_types::UtcTime;

use crate::{
    header::{self, Facts, GroupId},
    scheme::{Rekey, RekeyError, Scheme},
    sd::{SdSender, TreeId},
    tree::Height,
};

/// Evicted share of a tree above which it is time to seat the members anew, in percent.
const RESEAT_PERCENT: u32 = 1;
/// Age of a tree epoch above which it is time, seconds: labels live long, and each leak counts until then.
const RESEAT_AGE_S: u64 = 365 * 86_400;
/// Epochs of a tree; the last one is never used, so that no number wraps.
const EPOCH_MAX: u32 = u32::MAX - 1;

/// A group as the key service keeps it. Everything is durable before a header leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub id: GroupId,
    /// Tree.
    pub tree: TreeId,
    /// Its height.
    pub height: Height,
    /// When the tree epoch began.
    pub since: UtcTime,
    /// Seats given out. They are never given out again within a tree epoch.
    pub assigned: u32,
    /// Seats evicted, ascending.
    pub evicted: Vec<u32>,
    /// Epoch of the key in force; 0 before the first.
    pub key_epoch: u32,
    /// Whether members left since that epoch: the next header must go out.
    pub rotate_required: bool,
}

/// Why the members should be seated anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reseat {
    /// More than 1 % of the tree was evicted.
    Evicted,
    /// The tree epoch is older than a year.
    Age,
    /// No seat is left.
    Full,
}

/// An epoch whose plan must be made durable before its header is made.
#[derive(Debug)]
pub struct Planned {
    group: Group,
}

impl Group {
    /// A group in its first tree epoch; nobody is seated.
    #[must_use]
    pub const fn new(id: GroupId, tree: u64, height: Height, since: UtcTime) -> Self {
        let tree = TreeId { tree, tree_epoch: 1 };
        Self {
            id,
            tree,
            height,
            since,
            assigned: 0,
            evicted: Vec::new(),
            key_epoch: 0,
            rotate_required: false,
        }
    }

    /// Seats a member in the next free seat. What was sent before stays closed to it: its seat counted as revoked.
    /// Members that may leave together are best seated one after the other.
    ///
    /// # Errors
    /// [`RekeyError::Full`].
    pub fn join(&self) -> Result<(Self, u32), RekeyError> {
        if self.assigned >= self.height.seat_count() {
            return Err(RekeyError::Full);
        }
        let seat = self.assigned;
        Ok((Self { assigned: seat + 1, ..self.clone() }, seat))
    }

    /// Evicts members at once: from the moment that the result is durable no header is for them (rule S8).
    ///
    /// # Errors
    /// [`RekeyError::Seat`] for a seat that nobody has; nothing changes.
    pub fn evict(&self, seats: &[u32]) -> Result<Self, RekeyError> {
        if let Some(seat) = seats.iter().find(|seat| **seat >= self.assigned) {
            return Err(RekeyError::Seat(*seat));
        }
        let mut evicted = self.evicted.clone();
        evicted.extend_from_slice(seats);
        evicted.sort_unstable();
        evicted.dedup();
        Ok(Self { evicted, rotate_required: true, ..self.clone() })
    }

    /// Plans the next epoch. Call it after an eviction, or on schedule.
    ///
    /// # Errors
    /// [`RekeyError::Epochs`].
    pub fn next_epoch(&self) -> Result<Planned, RekeyError> {
        if self.key_epoch >= EPOCH_MAX {
            return Err(RekeyError::Epochs);
        }
        let group = Self { key_epoch: self.key_epoch + 1, rotate_required: false, ..self.clone() };
        Ok(Planned { group })
    }

    /// Whether it is time to seat the members anew, and why.
    #[must_use]
    pub fn needs_reseat(&self, now: UtcTime) -> Option<Reseat> {
        let gone = u64::try_from(self.evicted.len()).unwrap_or(u64::MAX).saturating_mul(100);
        if self.assigned >= self.height.seat_count() {
            Some(Reseat::Full)
        } else if gone > u64::from(self.height.seat_count()) * u64::from(RESEAT_PERCENT) {
            Some(Reseat::Evicted)
        } else if now.0.saturating_sub(self.since.0) > RESEAT_AGE_S {
            Some(Reseat::Age)
        } else {
            None
        }
    }

    /// The next tree epoch: the remaining members in new seats, in their old order. Their new labels go to each of them
    /// by unicast; the old tree serves until the first epoch of the new one. The second value maps old seats to new ones.
    ///
    /// # Errors
    /// [`RekeyError::Epochs`] or, when the members do not fit, [`RekeyError::Full`].
    pub fn reseat(&self, height: Height, now: UtcTime) -> Result<(Self, Vec<(u32, u32)>), RekeyError> {
        let tree_epoch = self.tree.tree_epoch.checked_add(1).ok_or(RekeyError::Epochs)?;
        let remaining = (0..self.assigned).filter(|seat| self.evicted.binary_search(seat).is_err());
        let moves: Vec<(u32, u32)> = remaining.zip(0..).collect();
        let assigned = u32::try_from(moves.len()).map_err(|_| RekeyError::Full)?;
        if assigned > height.seat_count() {
            return Err(RekeyError::Full);
        }
        let group = Self {
            tree: TreeId { tree_epoch, ..self.tree },
            height,
            since: now,
            assigned,
            evicted: Vec::new(),
            key_epoch: 0,
            rotate_required: true,
            ..self.clone()
        };
        Ok((group, moves))
    }
}

impl Planned {
    /// The plan as it must be durable before [`Self::header`].
    #[must_use]
    pub const fn group(&self) -> &Group {
        &self.group
    }

    /// Draws the epoch's key and makes its header. Call it only after [`Self::group`] is durable. Two senders after a
    /// fail-over may make one epoch twice: members keep the first they see, neither opens the other.
    ///
    /// # Errors
    /// [`RekeyError`].
    pub fn header<S: Signer>(
        &self,
        master: &Master,
        signer: &S,
        deadline: UtcTime,
        rng: &mut dyn Rng,
    ) -> Result<(Vec<u8>, Key<GroupKey, 16>), RekeyError> {
        let key = Key::generate(rng)?;
        let Group { id, tree, height, assigned, ref evicted, key_epoch, .. } = self.group;
        let mut sender = SdSender::new(master, tree, height, assigned, evicted.clone());
        let body = sender.rekey(key_epoch, &[], &key, rng)?;
        let facts = Facts { scheme: Scheme::SubsetDifference, group: id, tree, key_epoch, deadline };
        Ok((header::seal(&facts, &body, &key, signer)?, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group::new(GroupId([1; 16]), 7, Height::new(4).unwrap(), UtcTime(0))
    }

    #[test]
    fn seats_are_never_given_out_twice_within_a_tree_epoch() {
        let mut group = group();
        let mut seats = Vec::new();
        while let Ok((next, seat)) = group.join() {
            seats.push(seat);
            group = next.evict(&[seat]).unwrap();
        }
        assert_eq!(seats, (0..16).collect::<Vec<_>>());
        assert_eq!(group.needs_reseat(UtcTime(0)), Some(Reseat::Full));
        assert_eq!(group.evict(&[16]).unwrap_err(), RekeyError::Seat(16));
    }

    #[test]
    fn re_seating_keeps_the_remaining_in_order_and_starts_a_tree_epoch() {
        let mut group = group();
        for _ in 0..10 {
            group = group.join().unwrap().0;
        }
        let group = group.evict(&[0, 4, 9]).unwrap();
        assert_eq!(group.needs_reseat(UtcTime(0)), Some(Reseat::Evicted));
        let (next, moves) = group.reseat(Height::new(3).unwrap(), UtcTime(5)).unwrap();
        assert_eq!(moves, [(1, 0), (2, 1), (3, 2), (5, 3), (6, 4), (7, 5), (8, 6)]);
        assert_eq!((next.tree.tree_epoch, next.assigned, next.key_epoch), (2, 7, 0));
        assert!(next.evicted.is_empty() && next.rotate_required);
        assert_eq!(group.reseat(Height::new(2).unwrap(), UtcTime(5)).unwrap_err(), RekeyError::Full);
    }

    #[test]
    fn epochs_end_before_they_wrap() {
        let last = Group { key_epoch: EPOCH_MAX, ..group() };
        assert_eq!(last.next_epoch().unwrap_err(), RekeyError::Epochs);
    }
}
