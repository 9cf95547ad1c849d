//! When a group needs its next epoch, and when its members need new seats.

use gridseal_types::UtcTime;

use crate::sender::{Change, Group};

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

/// How often a group changes its key. Times are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long the epoch before still counts, for receiving only; nothing after a compromise.
    pub overlap_s: u64,
    /// Longest life of an epoch.
    pub rotate_after_s: u64,
    /// How long newcomers wait, so that many of them cost one header.
    pub join_wait_s: u64,
    /// Share of the seated that may be evicted before the rest is seated anew, in percent: the list only grows.
    pub reseat_percent: u8,
    /// Longest life of a tree epoch: labels live long, and each leak counts until its end.
    pub reseat_after_s: u64,
}

impl Default for Policy {
    /// A day of overlap, a month for an epoch, six hours for newcomers, 1 % or a year for a tree epoch.
    fn default() -> Self {
        Self {
            overlap_s: DAY_S,
            rotate_after_s: 30 * DAY_S,
            join_wait_s: 6 * HOUR_S,
            reseat_percent: 1,
            reseat_after_s: 365 * DAY_S,
        }
    }
}

/// What a group needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Due {
    /// The next epoch, for this change, or for its age when nothing changed.
    Rotate(Change),
    /// New seats.
    Reseat(Reseat),
}

/// Why the members should be seated anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reseat {
    /// Too many were evicted.
    Evicted,
    /// The tree epoch is too old.
    Age,
    /// No seat is left, and seats of evicted members would come free.
    Full,
}

impl Group {
    /// What is due. Evictions come first: their header never waits for new seats.
    #[must_use]
    pub fn due(&self, policy: &Policy, now: UtcTime) -> Option<Due> {
        if now.0 >= self.rotate_at(policy).0 {
            return Some(Due::Rotate(self.owed()));
        }
        self.needs_reseat(policy, now).map(Due::Reseat)
    }

    /// When the next epoch is due if nothing else happens.
    #[must_use]
    pub fn rotate_at(&self, policy: &Policy) -> UtcTime {
        let wait_s = match self.owed() {
            Change::Left | Change::Compromised => 0,
            Change::Joined => policy.join_wait_s.min(policy.rotate_after_s),
            Change::None => policy.rotate_after_s,
        };
        UtcTime(self.epoch_since.0.saturating_add(wait_s))
    }

    /// Whether it is time to seat the members anew, and why.
    #[must_use]
    pub fn needs_reseat(&self, policy: &Policy, now: UtcTime) -> Option<Reseat> {
        let gone = u64::try_from(self.evicted.len()).unwrap_or(u64::MAX);
        let allowed = u64::from(self.assigned) * u64::from(policy.reseat_percent);
        if gone.saturating_mul(100) > allowed {
            Some(Reseat::Evicted)
        } else if gone > 0 && self.assigned >= self.height.seat_count() {
            Some(Reseat::Full)
        } else if now.0.saturating_sub(self.since.0) > policy.reseat_after_s {
            Some(Reseat::Age)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{header::GroupId, tree::Height};

    const NOW: UtcTime = UtcTime(1_000_000_000);

    fn group() -> Group {
        let group = Group::new(GroupId([1; 16]), 7, Height::new(10).unwrap(), NOW);
        Group { assigned: 1_000, ..group }
    }

    fn later(seconds: u64) -> UtcTime {
        UtcTime(NOW.0 + seconds)
    }

    #[test]
    fn an_eviction_is_due_at_once_a_newcomer_waits_for_others_and_age_comes_last() {
        let policy = Policy::default();
        assert_eq!(group().due(&policy, NOW), None);
        let left = group().evict(&[1]).unwrap();
        assert_eq!(left.due(&policy, NOW), Some(Due::Rotate(Change::Left)));
        let known = left.compromise(&[2]).unwrap();
        assert_eq!(known.due(&policy, NOW), Some(Due::Rotate(Change::Compromised)));
        let (joined, _) = group().join().unwrap();
        assert_eq!(joined.due(&policy, later(policy.join_wait_s - 1)), None);
        assert_eq!(joined.due(&policy, later(policy.join_wait_s)), Some(Due::Rotate(Change::Joined)));
        assert_eq!(group().due(&policy, later(policy.rotate_after_s)), Some(Due::Rotate(Change::None)));
        let now = joined.rotate_at(&policy);
        let planned = joined.next_epoch(&policy, now).unwrap().group().clone();
        assert!(
            planned.due(&policy, later(policy.join_wait_s)).is_none() || planned.owed() == Change::Joined
        );
        let next = planned.sent(planned.key_epoch);
        assert_eq!((next.due(&policy, now), next.epoch_since), (None, now));
    }

    #[test]
    fn new_seats_are_due_for_evictions_for_age_and_when_seats_come_free_by_them() {
        let policy = Policy::default();
        let quiet = |evicted: u32| Group { evicted: (0..evicted).collect(), ..group() };
        assert_eq!(quiet(10).due(&policy, NOW), None);
        assert_eq!(quiet(11).due(&policy, NOW), Some(Due::Reseat(Reseat::Evicted)));
        let full = Group { assigned: 1_024, ..quiet(1) };
        assert_eq!(full.due(&policy, NOW), Some(Due::Reseat(Reseat::Full)));
        let whole = Group { assigned: 1_024, ..group() };
        assert_eq!(whole.due(&policy, NOW), None, "new seats would free none");
        let old = Group { epoch_since: later(policy.reseat_after_s), ..group() };
        assert_eq!(old.due(&policy, later(policy.reseat_after_s + 1)), Some(Due::Reseat(Reseat::Age)));
        let both = quiet(11).evict(&[999]).unwrap();
        assert_eq!(both.due(&policy, NOW), Some(Due::Rotate(Change::Left)), "the header comes first");
    }
}
