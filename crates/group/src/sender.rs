//! The key service's side of a group: who sits where, who was evicted, which epoch is next. Pure: each step returns the
//! plan as it must be durable before anything leaves (rule S2), and the header is made from the durable plan only.

use alloc::vec::Vec;

use gridseal_crypto::{Key, Rng, Signer, group::Master, role::GroupKey};
use gridseal_types::UtcTime;

use crate::{
    header::{self, Facts, GroupId},
    schedule::Policy,
    scheme::{Rekey, RekeyError, Scheme},
    sd::{SdSender, TreeId},
    tree::Height,
};

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
    /// When that epoch was planned.
    pub epoch_since: UtcTime,
    /// What happened since: the next header must go out for it.
    pub change: Change,
    /// What the epoch in force was planned for, until [`Group::sent`] says that its header left: a crash in between must
    /// not make an eviction wait for the next scheduled epoch.
    pub unsent: Change,
}

/// What happened to a group since its epoch was planned; the weightier one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing.
    None,
    /// Members joined: they have no key until the next epoch.
    Joined,
    /// Members left or were evicted.
    Left,
    /// Members were evicted because their secrets are known to others: the epoch before ends with the next header.
    Compromised,
}

/// An epoch whose plan must be made durable before its header is made.
#[derive(Debug)]
pub struct Planned {
    group: Group,
    deadline: UtcTime,
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
            epoch_since: since,
            change: Change::None,
            unsent: Change::None,
        }
    }

    /// Seats a member in the next free seat. What was sent before stays closed to it: its seat counted as revoked, and
    /// the group's present epoch is the floor of its seating. Members that may leave together are best seated one after
    /// the other.
    ///
    /// # Errors
    /// [`RekeyError::Full`].
    pub fn join(&self) -> Result<(Self, u32), RekeyError> {
        if self.assigned >= self.height.seat_count() {
            return Err(RekeyError::Full);
        }
        let seat = self.assigned;
        let change = self.change.max(Change::Joined);
        Ok((Self { assigned: seat + 1, change, ..self.clone() }, seat))
    }

    /// Members leave, or are evicted: from the moment that the result is durable no header is for them (rule S8). Those
    /// that are gone already change nothing.
    ///
    /// # Errors
    /// [`RekeyError::Seat`] for a seat that nobody has; nothing changes.
    pub fn evict(&self, seats: &[u32]) -> Result<Self, RekeyError> {
        self.without(seats, Change::Left)
    }

    /// The same for members whose secrets are known to others: the present epoch gets no overlap with the next one.
    ///
    /// # Errors
    /// [`RekeyError::Seat`] for a seat that nobody has; nothing changes.
    pub fn compromise(&self, seats: &[u32]) -> Result<Self, RekeyError> {
        self.without(seats, Change::Compromised)
    }

    fn without(&self, seats: &[u32], change: Change) -> Result<Self, RekeyError> {
        if let Some(seat) = seats.iter().find(|seat| **seat >= self.assigned) {
            return Err(RekeyError::Seat(*seat));
        }
        let mut evicted = self.evicted.clone();
        evicted.extend_from_slice(seats);
        evicted.sort_unstable();
        evicted.dedup();
        let is_more = evicted.len() > self.evicted.len() || (change > Change::Left && !seats.is_empty());
        let change = if is_more { self.change.max(change) } else { self.change };
        Ok(Self { evicted, change, ..self.clone() })
    }

    /// Plans the next epoch. Call it when [`Group::due`] says so.
    ///
    /// # Errors
    /// [`RekeyError::Epochs`].
    pub fn next_epoch(&self, policy: &Policy, now: UtcTime) -> Result<Planned, RekeyError> {
        if self.key_epoch >= EPOCH_MAX {
            return Err(RekeyError::Epochs);
        }
        let overlap_s = if self.owed() == Change::Compromised { 0 } else { policy.overlap_s };
        let deadline = UtcTime(now.0.saturating_add(overlap_s));
        let key_epoch = self.key_epoch + 1;
        let group =
            Self { key_epoch, epoch_since: now, change: Change::None, unsent: self.owed(), ..self.clone() };
        Ok(Planned { group, deadline })
    }

    /// What the next header must go out for: what happened since the last plan, and what a plan was made for whose header
    /// never left.
    #[must_use]
    pub fn owed(&self) -> Change {
        self.change.max(self.unsent)
    }

    /// The header of this epoch left. An older one says nothing of the plan in force.
    #[must_use]
    pub fn sent(&self, key_epoch: u32) -> Self {
        let unsent = if key_epoch == self.key_epoch { Change::None } else { self.unsent };
        Self { unsent, ..self.clone() }
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
            epoch_since: now,
            // Whoever left since the last epoch is not in the new tree: its first epoch must go out.
            change: self.owed().max(Change::Left),
            unsent: Change::None,
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

    /// When the epoch before will end.
    #[must_use]
    pub const fn deadline(&self) -> UtcTime {
        self.deadline
    }

    /// Draws the epoch's key and makes its header. Call it only after [`Self::group`] is durable, and send the header only
    /// after the key is. A crash in between costs a number: the next epoch is planned anew. Two senders after a fail-over
    /// may make one epoch twice: members keep the first that they see, and the epoch after that brings all together.
    ///
    /// # Errors
    /// [`RekeyError`].
    pub fn header<S: Signer>(
        self,
        master: &Master,
        signer: &S,
        rng: &mut dyn Rng,
    ) -> Result<(Vec<u8>, Key<GroupKey, 16>), RekeyError> {
        let key = Key::generate(rng)?;
        let deadline = self.deadline;
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
        assert_eq!(group.join().unwrap_err(), RekeyError::Full);
        assert_eq!(group.evict(&[16]).unwrap_err(), RekeyError::Seat(16));
    }

    #[test]
    fn re_seating_keeps_the_remaining_in_order_and_starts_a_tree_epoch() {
        let mut group = group();
        for _ in 0..10 {
            group = group.join().unwrap().0;
        }
        let group = group.evict(&[0, 4, 9]).unwrap();
        let (next, moves) = group.reseat(Height::new(3).unwrap(), UtcTime(5)).unwrap();
        assert_eq!(moves, [(1, 0), (2, 1), (3, 2), (5, 3), (6, 4), (7, 5), (8, 6)]);
        assert_eq!((next.tree.tree_epoch, next.assigned, next.key_epoch), (2, 7, 0));
        assert!(next.evicted.is_empty() && next.change == Change::Left);
        assert_eq!(group.reseat(Height::new(2).unwrap(), UtcTime(5)).unwrap_err(), RekeyError::Full);
    }

    #[test]
    fn the_epoch_before_overlaps_unless_secrets_are_known_to_others() {
        let group = Group { assigned: 9, ..group() };
        let policy = Policy::default();
        let deadline = |group: Group| group.next_epoch(&policy, UtcTime(1_000)).unwrap().deadline();
        assert_eq!(deadline(group.clone()), UtcTime(1_000 + policy.overlap_s));
        assert_eq!(deadline(group.evict(&[1]).unwrap()), UtcTime(1_000 + policy.overlap_s));
        assert_eq!(deadline(group.compromise(&[1]).unwrap()), UtcTime(1_000));
        let both = group.compromise(&[1]).unwrap().evict(&[2]).unwrap().join().unwrap().0;
        assert_eq!(both.change, Change::Compromised);
        assert_eq!(both.next_epoch(&policy, UtcTime(5)).unwrap().group().change, Change::None);
    }

    #[test]
    fn who_is_gone_already_changes_nothing_unless_its_secrets_became_known() {
        let group = Group { assigned: 9, evicted: alloc::vec![3], ..group() };
        assert_eq!(group.evict(&[3]).unwrap(), group);
        assert_eq!(group.evict(&[]).unwrap(), group);
        assert_eq!(group.compromise(&[]).unwrap(), group);
        assert_eq!(group.compromise(&[3]).unwrap().change, Change::Compromised);
        assert_eq!(group.evict(&[3, 9]).unwrap_err(), RekeyError::Seat(9));
    }

    #[test]
    fn a_crash_between_plan_and_header_does_not_make_an_eviction_wait() {
        let policy = Policy::default();
        let mut group = group();
        for _ in 0..4 {
            group = group.join().unwrap().0;
        }
        let group = group.evict(&[1]).unwrap();
        let planned = group.next_epoch(&policy, UtcTime(5)).unwrap().group().clone();
        // The process ended here: the plan is durable, no header left.
        assert_eq!(planned.owed(), Change::Left);
        let again = planned.next_epoch(&policy, UtcTime(6)).unwrap().group().clone();
        assert_eq!((again.key_epoch, again.owed()), (planned.key_epoch + 1, Change::Left));
        assert_eq!(again.sent(planned.key_epoch).owed(), Change::Left, "an older header says nothing");
        assert_eq!(again.sent(again.key_epoch).owed(), Change::None);
    }

    #[test]
    fn epochs_end_before_they_wrap() {
        let last = Group { key_epoch: EPOCH_MAX, ..group() };
        assert_eq!(last.next_epoch(&Policy::default(), UtcTime(0)).unwrap_err(), RekeyError::Epochs);
    }
}
