//! The breaker, the limiter, and demand.

use gridseal_dlms::{apdu::result::DataAccessResult, wire::Data};
use gridseal_types::{ObisCode, UtcTime};

use super::{
    Device, Keyholder, Note, measure,
    object::{items, name, number},
};

/// The breaker.
const BREAKER: ObisCode = ObisCode::new([0, 0, 96, 3, 10, 255]);
/// Class of demand registers.
const DEMAND: u16 = 5;
/// Class of limiters.
const LIMITER: u16 = 71;
/// Largest demand, kept by its own register.
const MAXIMUM: ObisCode = ObisCode::new([1, 0, 1, 6, 0, 255]);

/// States of attribute 3 of the breaker.
mod state {
    pub(super) const DISCONNECTED: u8 = 0;
    pub(super) const CONNECTED: u8 = 1;
    pub(super) const READY: u8 = 2;
}

/// What a limiter has seen.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since when the value has been on the other side of the threshold.
    since: Option<UtcTime>,
    /// Whether the value counts as over the threshold.
    is_over: bool,
}

impl Device {
    /// remote_disconnect and remote_reconnect, as the control mode allows. A power cut leaves the breaker as it is.
    pub(super) fn switch(
        &mut self,
        obis: ObisCode,
        is_on: bool,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let object = self.objects.get_mut(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let mode = object.number(4);
        let state = match (mode, is_on) {
            (0, _) => return Err(DataAccessResult::ReadWriteDenied),
            (_, false) => state::DISCONNECTED,
            // Modes 2 and 4 reconnect at once, the others wait for a person at the meter.
            (2 | 4, true) => state::CONNECTED,
            (_, true) if object.number(3) == i64::from(state::CONNECTED) => state::CONNECTED,
            (_, true) => state::READY,
        };
        let was_connected = object.number(2) == 1;
        let is_connected = state == state::CONNECTED;
        object.keep(2, &Data::Boolean(is_connected));
        object.keep(3, &Data::Enum(state));
        if was_connected != is_connected {
            self.note(Note::Switched { is_connected });
        }
        // It has switched, whether that can be kept or not.
        let _ = self.keep_setup(keys);
        Ok(())
    }

    /// State of the breaker, attribute 3.
    pub(super) fn breaker_state(&self) -> Option<u8> {
        u8::try_from(self.objects.get(&BREAKER)?.number(3)).ok()
    }

    /// The breaker as it was when power went.
    pub(super) fn show_breaker(&mut self, state: u8) {
        if let Some(breaker) = self.objects.get_mut(&BREAKER) {
            breaker.keep(2, &Data::Boolean(state == state::CONNECTED));
            breaker.keep(3, &Data::Enum(state));
        }
    }

    /// Whether the consumer gets power.
    #[must_use]
    pub fn is_supplied(&self) -> bool {
        self.objects.get(&BREAKER).is_none_or(|breaker| breaker.number(2) == 1)
    }

    /// A limiter was configured: an emergency may begin or end, the active threshold follows.
    pub(super) fn limiter_changed(&mut self, obis: ObisCode) {
        let now = self.now();
        let Some(object) = self.objects.get(&obis) else { return };
        let profile = object.data(8);
        let (id, activation, duration) = match items(&profile) {
            [id, activation, duration] => {
                (number(id).unwrap_or(0), self.instant(activation), number(duration).unwrap_or(0))
            }
            _ => (0, None, 0),
        };
        let is_member = items(&object.data(9)).iter().any(|group| number(group) == Some(id));
        let until = activation.map(|from| (from, UtcTime(from.0.saturating_add_signed(duration))));
        let is_emergency = is_member && until.is_some_and(|(from, until)| from <= now && now < until);
        let threshold = if is_emergency { object.kept(5) } else { object.kept(4) };
        let threshold = threshold.map(<[u8]>::to_vec);
        if let Some(object) = self.objects.get_mut(&obis) {
            object.keep(10, &Data::Boolean(is_emergency));
            threshold.iter().for_each(|threshold| object.keep_encoded(3, threshold));
        }
    }

    /// Compares the monitored value with the active threshold; runs a script when it stays above, or below, for long
    /// enough.
    pub(super) fn watch_limiter(&mut self, keys: &mut dyn Keyholder) {
        let now = self.now();
        let limiter = self.objects.values().find(|object| object.class.id == LIMITER);
        let Some(obis) = limiter.map(|limiter| limiter.obis) else { return };
        self.limiter_changed(obis);
        let Some(object) = self.objects.get(&obis) else { return };
        let Some(threshold) = number(&object.data(3)).filter(|threshold| *threshold > 0) else { return };
        let monitored = object.data(2);
        let [_, monitored, attribute] = items(&monitored) else { return };
        let attribute = number(attribute).and_then(|id| i8::try_from(id).ok()).unwrap_or(0);
        let value = name(monitored).and_then(|name| self.read_whole(name, attribute, keys));
        let value = value.and_then(|value| number(&Data::from_bytes(&value).ok()?));
        let Some(value) = value else { return };
        let is_over = value > threshold && self.is_supplied();
        if is_over == self.watch.is_over {
            self.watch.since = None;
            return;
        }
        let since = *self.watch.since.get_or_insert(now);
        let duration = object.number(if is_over { 6 } else { 7 });
        if i64::try_from(now.0.saturating_sub(since.0)).unwrap_or(i64::MAX) < duration {
            return;
        }
        self.watch = Watch { since: None, is_over };
        let actions = object.data(11);
        if let Some(script) = items(&actions).get(usize::from(!is_over)) {
            let script = script.to_bytes();
            self.run_script(&script, keys);
        }
    }

    /// Ends periods of demand that are over.
    pub(super) fn advance_demand(&mut self) {
        let names = self.objects.values().filter(|object| object.class.id == DEMAND);
        for obis in names.map(|object| object.obis).collect::<Vec<_>>() {
            let period_s = self.objects.get(&obis).map_or(0, |object| object.number(8));
            let Some(period_s) = u64::try_from(period_s).ok().filter(|period| *period > 0) else { continue };
            let start = UtcTime(self.told.0.checked_div(period_s).unwrap_or(0).saturating_mul(period_s));
            let since = *self.demand_since.entry(obis).or_insert(start);
            if start > since {
                self.end_demand(obis, since, start);
            }
        }
    }

    fn end_demand(&mut self, obis: ObisCode, since: UtcTime, end: UtcTime) {
        let demand = Data::DoubleLongUnsigned(measure::demand(since, end));
        let at = self.local(super::clock::shifted(end, self.offset_s));
        self.demand_since.insert(obis, end);
        if let Some(object) = self.objects.get_mut(&obis) {
            object.keep(3, &demand);
            object.keep(6, &Data::OctetString(&at));
            object.keep(7, &Data::OctetString(&at));
        }
        if let Some(maximum) = self.objects.get_mut(&MAXIMUM).filter(|object| object.class.id == 4)
            && number(&demand) > number(&maximum.data(2))
        {
            maximum.keep(2, &demand);
            maximum.keep(5, &Data::OctetString(&at));
        }
    }

    /// reset: the last average is 0 and a period begins; next_period: the running one ends here.
    pub(super) fn demand_method(&mut self, obis: ObisCode, method: i8) -> Result<(), DataAccessResult> {
        let told = self.told;
        let since = self.demand_since.get(&obis).copied().unwrap_or(told);
        self.end_demand(obis, since, told);
        if let Some(object) = self.objects.get_mut(&obis).filter(|_| method == 1) {
            object.keep(3, &Data::DoubleLongUnsigned(0));
        }
        Ok(())
    }
}
