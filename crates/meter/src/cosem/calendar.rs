//! What runs by itself: scripts, schedules, the activity calendar and its special days.

use gridseal_dlms::{
    apdu::{
        reference::{AttributeId, MethodId},
        result::DataAccessResult,
    },
    wire::{Data, Date, Reader, Time},
};
use gridseal_types::{ObisCode, UtcTime};

use super::{
    Device, Keyholder, Rights, clock,
    object::{items, name, number},
    residential,
};

/// Classes.
const SCRIPT_TABLE: u16 = 9;
const SPECIAL_DAYS: u16 = 11;
const ACTIVITY_CALENDAR: u16 = 20;
const ACTION_SCHEDULE: u16 = 22;
/// The tariff that is active.
const ACTIVE_TARIFF: ObisCode = ObisCode::new(residential::TARIFF);
/// Actions that one cause may set off, scripts run by scripts included.
const ACTIONS_MAX: u8 = 64;
/// Seconds that are looked back at: what a device slept through longer is not made up for.
const LOOK_BACK_S: u64 = 60;
/// Most special days.
const SPECIAL_DAYS_MAX: usize = 366;
/// Classes that hold rights and keys: no script reaches them. An image guards itself by its signature.
const GUARDED: [u16; 4] = [15, 17, 30, 64];

/// What runs now.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    /// Script of the running part of the day.
    running: Option<(ObisCode, u16)>,
    /// Actions that the present cause may still set off.
    budget: u8,
}

/// One action of a script.
struct Step {
    writes: bool,
    class: u16,
    obis: ObisCode,
    member: i8,
    parameter: Vec<u8>,
}

/// A local civil time.
#[derive(Debug, Clone, Copy)]
struct Civil {
    date: Date,
    time: Time,
    days_in_month: u8,
}

impl Civil {
    fn of(local: UtcTime) -> Self {
        let (year, month, day, hour, minute, second) = local.civil();
        let weekday = u8::try_from((local.0 / 86_400).saturating_add(3) % 7).unwrap_or(0).saturating_add(1);
        let exists = |day: &u8| UtcTime::from_civil(year, month, *day, 0, 0, 0).is_some();
        let days_in_month = (28..=31).filter(exists).max().unwrap_or(28);
        Self {
            date: Date { year, month, day, weekday },
            time: Time { hour, minute, second, hundredths: 0 },
            days_in_month,
        }
    }

    /// Whether a date with wildcards names this day.
    fn is_on(&self, pattern: Date) -> bool {
        let is_day = match pattern.day {
            0xFF => true,
            0xFE => self.date.day == self.days_in_month,
            0xFD => self.date.day.saturating_add(1) == self.days_in_month,
            day => day == self.date.day,
        };
        is_day
            && (pattern.year == 0xFFFF || pattern.year == self.date.year)
            && (pattern.month == 0xFF || pattern.month == self.date.month)
            && (pattern.weekday == 0xFF || pattern.weekday == self.date.weekday)
    }

    /// Whether a time with wildcards names this second; an unspecified second is second 0.
    fn is_at(&self, pattern: Time) -> bool {
        let second = if pattern.second == 0xFF { 0 } else { pattern.second };
        second == self.time.second
            && (pattern.hour == 0xFF || pattern.hour == self.time.hour)
            && (pattern.minute == 0xFF || pattern.minute == self.time.minute)
    }

    /// Seconds since midnight; an unspecified part is 0.
    fn seconds(time: Time) -> u32 {
        let part = |octet: u8, unit: u32| if octet == 0xFF { 0 } else { unit.saturating_mul(octet.into()) };
        part(time.hour, 3_600).saturating_add(part(time.minute, 60)).saturating_add(part(time.second, 1))
    }
}

fn date(value: &Data<'_>) -> Option<Date> {
    match value {
        Data::OctetString(bytes) => Date::decode(&mut Reader::new(bytes)).ok(),
        Data::Date(date) => Some(*date),
        Data::DateTime(at) => Some(at.date),
        _ => None,
    }
}

fn time(value: &Data<'_>) -> Option<Time> {
    match value {
        Data::OctetString(bytes) => Time::decode(&mut Reader::new(bytes)).ok(),
        Data::Time(time) => Some(*time),
        _ => None,
    }
}

fn script(value: &Data<'_>) -> Option<(ObisCode, u16)> {
    let [table, selector] = items(value) else { return None };
    Some((name(table)?, u16::try_from(number(selector)?).ok()?))
}

impl Device {
    fn civil(&self, at: UtcTime) -> Civil {
        let clock = self.objects.get(&ObisCode::CLOCK).map_or(0, |clock| clock.number(3));
        Civil::of(clock::shifted(at, clock.saturating_mul(-60)))
    }

    /// Runs what became due since the last look.
    pub(super) fn run_due(&mut self, keys: &mut dyn Keyholder) {
        let now = self.now();
        let from = self.looked_at.0.max(now.0.saturating_sub(LOOK_BACK_S));
        let mut due: Vec<(ObisCode, u16)> = Vec::new();
        for second in from..now.0 {
            let civil = self.civil(UtcTime(second.saturating_add(1)));
            let schedules = self.objects.values().filter(|object| object.class.id == ACTION_SCHEDULE);
            for schedule in schedules {
                let times = schedule.data(4);
                let is_due = items(&times).iter().any(|entry| match items(entry) {
                    [at, on] => {
                        time(at).is_some_and(|at| civil.is_at(at))
                            && date(on).is_some_and(|on| civil.is_on(on))
                    }
                    _ => false,
                });
                if is_due {
                    due.extend(script(&schedule.data(2)));
                }
            }
        }
        let since = core::mem::replace(&mut self.looked_at, now);
        for (table, selector) in due {
            let _ = self.run(table, selector, keys);
        }
        self.run_calendar(since, now, keys);
    }

    fn run_calendar(&mut self, since: UtcTime, now: UtcTime, keys: &mut dyn Keyholder) {
        let calendars = self.objects.values().filter(|object| object.class.id == ACTIVITY_CALENDAR);
        let Some(calendar) = calendars.map(|object| object.obis).next() else { return };
        let activation = self.objects.get(&calendar).and_then(|object| self.instant(&object.data(10)));
        if activation.is_some_and(|at| since < at && at <= now) {
            self.activate_calendar(calendar);
        }
        let wanted = self.wanted_script(calendar, self.civil(now));
        if wanted.is_some() && wanted != self.calendar.running {
            self.calendar.running = wanted;
            if let Some((table, selector)) = wanted {
                let _ = self.run(table, selector, keys);
            }
        }
    }

    /// Script of the part of the day in which a civil time lies.
    fn wanted_script(&self, calendar: ObisCode, now: Civil) -> Option<(ObisCode, u16)> {
        let object = self.objects.get(&calendar)?;
        let day = self.special_day(now).or_else(|| {
            let (seasons, weeks) = (object.data(3), object.data(4));
            let week = current_week(items(&seasons), now)?;
            let week = items(&weeks).iter().map(items).find(|entry| entry.first() == Some(week))?;
            number(week.get(usize::from(now.date.weekday))?)
        })?;
        let days = object.data(5);
        let day = items(&days).iter().map(items).find(|entry| entry.first().and_then(number) == Some(day))?;
        let parts = items(day.get(1)?);
        let has_begun = |part: &&Data<'_>| {
            let start = items(part).first().and_then(time);
            start.is_some_and(|start| Civil::seconds(start) <= Civil::seconds(now.time))
        };
        let key = |part: &&Data<'_>| items(part).first().and_then(time).map(Civil::seconds);
        let [_, table, selector] = items(parts.iter().filter(has_begun).max_by_key(key)?) else {
            return None;
        };
        Some((name(table)?, u16::try_from(number(selector)?).ok()?))
    }

    fn special_day(&self, now: Civil) -> Option<i64> {
        let table = self.objects.values().find(|object| object.class.id == SPECIAL_DAYS)?;
        let entries = table.data(2);
        items(&entries).iter().find_map(|entry| match items(entry) {
            [_, on, day] if date(on).is_some_and(|on| now.is_on(on)) => number(day),
            _ => None,
        })
    }

    /// The passive calendar becomes the active one.
    pub(super) fn activate_calendar(&mut self, obis: ObisCode) {
        let Some(object) = self.objects.get_mut(&obis) else { return };
        for (active, passive) in (2..=5).zip(6..=9) {
            if let Some(value) = object.kept(passive).map(<[u8]>::to_vec) {
                object.keep_encoded(active, &value);
            }
        }
        self.calendar.running = None;
    }

    /// insert (replaces the entry with the same index) and delete.
    pub(super) fn special_days_method(
        &mut self,
        obis: ObisCode,
        method: i8,
        value: &Data<'_>,
    ) -> Result<(), DataAccessResult> {
        let object = self.objects.get_mut(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let kept = object.data(2);
        let index = if method == 1 { items(value).first() } else { Some(value) };
        let is_other = |entry: &&Data<'_>| items(entry).first() != index;
        let mut entries: Vec<Data<'_>> = items(&kept).iter().filter(is_other).cloned().collect();
        if method == 1 {
            entries.push(value.clone());
        } else if entries.len() == items(&kept).len() {
            return Err(DataAccessResult::ObjectUndefined);
        }
        if entries.len() > SPECIAL_DAYS_MAX {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let encoded = Data::Array(entries).to_bytes();
        object.keep_encoded(2, &encoded);
        Ok(())
    }

    /// Runs an encoded reference to a script: `{table, selector}`.
    pub(super) fn run_script(&mut self, reference: &[u8], keys: &mut dyn Keyholder) {
        if let Some((table, selector)) = Data::from_bytes(reference).ok().as_ref().and_then(script) {
            let _ = self.run(table, selector, keys);
        }
    }

    fn run(
        &mut self,
        table: ObisCode,
        selector: u16,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let is_table = self.objects.get(&table).is_some_and(|object| object.class.id == SCRIPT_TABLE);
        if !is_table {
            return Err(DataAccessResult::ObjectUndefined);
        }
        self.execute(table, &Data::LongUnsigned(selector), keys, 1)
    }

    /// execute of a script table. `depth` counts scripts that run scripts.
    pub(super) fn execute(
        &mut self,
        obis: ObisCode,
        selector: &Data<'_>,
        keys: &mut dyn Keyholder,
        depth: u8,
    ) -> Result<(), DataAccessResult> {
        if depth == 1 {
            self.calendar.budget = ACTIONS_MAX;
        }
        let scripts = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?.data(2);
        let found = items(&scripts).iter().map(items).find(|entry| entry.first() == Some(selector));
        let actions = found.and_then(|entry| entry.get(1)).ok_or(DataAccessResult::ScopeOfAccessViolated)?;
        let steps: Option<Vec<Step>> = items(actions).iter().map(step).collect();
        for step in steps.ok_or(DataAccessResult::OtherReason)? {
            self.calendar.budget =
                self.calendar.budget.checked_sub(1).ok_or(DataAccessResult::OtherReason)?;
            self.take_step(&step, keys, depth)?;
        }
        Ok(())
    }

    fn take_step(
        &mut self,
        step: &Step,
        keys: &mut dyn Keyholder,
        depth: u8,
    ) -> Result<(), DataAccessResult> {
        let object = self.objects.get(&step.obis).ok_or(DataAccessResult::ObjectUndefined)?;
        if object.class.id != step.class || GUARDED.contains(&step.class) {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        // Whatever nobody may do with an object no script does either.
        let limit = object.limit.unwrap_or(Rights::ALL);
        if !(if step.writes { limit.write } else { limit.invoke }) {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        if !step.writes {
            let method = MethodId::new(step.class, step.obis, step.member);
            return self.invoke(method, Some(&step.parameter), None, keys, depth).map(|_| ());
        }
        // The active tariff is a script's to write, and nobody else's.
        let is_tariff = (step.class, step.obis, step.member) == (1, ACTIVE_TARIFF, 2);
        let is_writable = is_tariff || object.writable.contains(&step.member);
        let attribute = object.class.attribute(step.member).filter(|_| is_writable);
        let attribute = attribute.ok_or(DataAccessResult::ReadWriteDenied)?;
        let value = Data::from_bytes(&step.parameter).map_err(|_| DataAccessResult::TypeUnmatched)?;
        attribute.value.check(&value).map_err(|_| DataAccessResult::TypeUnmatched)?;
        self.set(AttributeId::new(step.class, step.obis, step.member), &step.parameter, None, keys)
    }
}

fn step(value: &Data<'_>) -> Option<Step> {
    let [service, class, obis, member, parameter] = items(value) else { return None };
    Some(Step {
        writes: number(service)? == 1,
        class: u16::try_from(number(class)?).ok()?,
        obis: name(obis)?,
        member: i8::try_from(number(member)?).ok()?,
        parameter: parameter.to_bytes(),
    })
}

/// Name of the week of the season that began last; before the first season of a year the last one goes on.
fn current_week<'a, 'd>(seasons: &'a [Data<'d>], now: Civil) -> Option<&'a Data<'d>> {
    let start = |season: &&'a Data<'d>| {
        let at = clock::date_time(items(season).get(1)?)?;
        let part = |octet: u8| if octet == 0xFF { 1 } else { octet };
        Some((part(at.date.month), part(at.date.day), Civil::seconds(at.time)))
    };
    let present = Some((now.date.month, now.date.day, Civil::seconds(now.time)));
    let begun = seasons.iter().filter(|season| start(season) <= present).max_by_key(start);
    let season = begun.or_else(|| seasons.iter().max_by_key(start))?;
    items(season).get(2)
}
