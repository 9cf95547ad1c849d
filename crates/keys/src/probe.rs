//! Probes: which keys a meter has, found out without driving it into its lock-out (section 7.3 of the specification).

use alloc::vec::Vec;

use gridseal_types::{
    DeviceState, SystemTitle, UtcTime,
    records::Records,
    service::keys::{Denial, ExchangeReply, Probe},
};

use crate::{
    core::{Stop, Work},
    record::{DeviceEntry, ProbeBudget},
    traffic::Pair,
};

/// Seconds from the first plan to the second.
const BACKOFF_FIRST_S: u64 = 60;
/// Most seconds between two plans; tries of longer ago count no more.
const BACKOFF_MAX_S: u64 = 24 * 3_600;
/// Failed authentications after which a meter locks out, unless its profile says otherwise.
pub const LOCKOUT_DEFAULT: u16 = 10;

/// GET normal of the logical device name, attribute 2 of 0.0.42.0.0.255, class 1.
fn probe_apdu(invoke: u8) -> Vec<u8> {
    alloc::vec![0xC0, 1, 0xC0 | invoke & 0x0F, 0, 1, 0, 0, 42, 0, 0, 255, 2, 0]
}

/// The place after this one, in turn.
fn next_place(place: u8, count: usize) -> u8 {
    let next = place.saturating_add(1);
    if usize::from(next) < count { next } else { 0 }
}

impl ProbeBudget {
    /// How many tries are left now, below the lock-out.
    ///
    /// # Errors
    /// Not before the time that is given.
    fn left(&mut self, now: UtcTime, lockout: u16) -> Result<u16, UtcTime> {
        // A clock that was put back must not make the wait longer than its longest.
        if now < self.next_at && self.next_at.0.saturating_sub(now.0) <= BACKOFF_MAX_S {
            return Err(self.next_at);
        }
        if now.0.saturating_sub(self.next_at.0) >= BACKOFF_MAX_S {
            (self.tries, self.under_way) = (0, 0);
        }
        match lockout.saturating_sub(1).saturating_sub(self.tries) {
            0 => Err(UtcTime(self.next_at.0.saturating_add(BACKOFF_MAX_S))),
            left => Ok(left),
        }
    }

    /// One of the tries has not failed.
    pub(crate) const fn answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Counts a plan.
    fn spend(&mut self, now: UtcTime, tries: u16) -> u8 {
        self.tries = self.tries.saturating_add(tries);
        self.under_way = tries;
        self.backoff_s = self.backoff_s.saturating_mul(2).clamp(BACKOFF_FIRST_S, BACKOFF_MAX_S);
        self.next_at = UtcTime(now.0.saturating_add(self.backoff_s));
        self.plans = self.plans.wrapping_add(1);
        let invoke = (self.plans & 0x0F) as u8;
        self.invoke = Some(invoke);
        invoke
    }
}

/// Whether a device in its state may be probed.
fn may_probe(entry: &DeviceEntry) -> bool {
    let installing = entry.state == DeviceState::Installing && !entry.attested;
    entry.state.may_exchange() || entry.state.may_probe() || installing
}

impl<R: Records> Work<'_, R> {
    /// One sealed GET for each pair of keys that the meter may have, as far as the budget reaches.
    pub(crate) fn probe_plan(&mut self, title: SystemTitle) -> Result<ExchangeReply, Stop> {
        let before = self.titled(title)?;
        let mut entry = before.clone();
        if !may_probe(&entry) {
            return Err(Denial::StateForbids.into());
        }
        let pairs = self.pairs_of(entry.slot);
        let lockout = entry.lockout;
        let left = entry.probe.left(self.now, lockout).map_err(|at| Denial::RetryLater { at })?;
        let count = pairs.len().min(usize::from(left));
        if count == 0 {
            return Err(Denial::UnknownKey.into());
        }
        let invoke = entry.probe.spend(self.now, u16::try_from(count).unwrap_or(u16::MAX));
        let mut probes = Vec::with_capacity(count);
        let turn = (0..).zip(pairs.iter().copied()).cycle().skip(usize::from(entry.probe.first)).take(count);
        for (candidate, pair) in turn {
            entry.probe.first = next_place(candidate, pairs.len());
            let sealed = self.seal_own(&entry, pair, probe_apdu(invoke))?;
            probes.push(Probe { candidate, gak_version: pair.gak, sealed });
        }
        self.note(&mut entry, "probe.planned", &count)?;
        self.save_device(&entry);
        if let Some(slot) = self.traffic.slot_mut(entry.slot) {
            slot.watched = true;
        }
        Ok(ExchangeReply::Probes(probes))
    }

    /// Pairs that a device may have, in the order in which they are tried.
    pub(crate) fn pairs_of(&self, slot: u32) -> Vec<Pair> {
        let Some(slot) = self.traffic.slot(slot) else { return Vec::new() };
        slot.active.iter().chain(slot.candidates()).map(|hot| hot.pair).collect()
    }

    /// Counts one try under a pair that is not the one in use.
    pub(crate) fn spend_try(&mut self, entry: &mut DeviceEntry) -> Result<(), Stop> {
        if !may_probe(entry) {
            return Err(Denial::StateForbids.into());
        }
        let (invoke, under_way) = (entry.probe.invoke, entry.probe.under_way);
        let lockout = entry.lockout;
        entry.probe.left(self.now, lockout).map_err(|at| Denial::RetryLater { at })?;
        entry.probe.spend(self.now, 1);
        entry.probe.invoke = invoke;
        entry.probe.under_way = under_way.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_come_ever_more_seldom_and_stop_below_the_lock_out() {
        let mut budget = ProbeBudget::default();
        let (mut now, mut tries) = (UtcTime(1_000_000), 0);
        while let Ok(left) = budget.left(now, 10) {
            let spent = left.min(4);
            tries += spent;
            budget.spend(now, spent);
            assert!(budget.left(now, 10).is_err(), "not at once again");
            now = budget.next_at;
        }
        assert_eq!(tries, 9, "one below the lock-out");
        assert!(budget.left(UtcTime(now.0 + BACKOFF_MAX_S - 1), 10).is_err());
        assert!(budget.left(UtcTime(5), 10).is_err(), "nor does a clock that was put back help");
        assert_eq!(budget.left(UtcTime(now.0 + BACKOFF_MAX_S), 10), Ok(9), "a day later it has forgotten");
    }
}
