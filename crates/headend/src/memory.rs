//! Stores in memory, for tests and simulation: nothing in them survives the process.

use core::convert::Infallible;
use std::collections::BTreeMap;

use gridseal_types::{Digest, Reading, ReadingKey, SystemTitle, service::admission::Admission};

use crate::{
    admission::AdmissionStore,
    store::{LIST_MAX, ReadingFilter, ReadingStore, StoreOutcome},
};

/// Admissions in memory.
#[derive(Debug, Default)]
pub struct MemoryAdmissions {
    admissions: BTreeMap<SystemTitle, Admission>,
}

impl AdmissionStore for MemoryAdmissions {
    type Error = Infallible;

    fn by_meter(&self, meter: SystemTitle) -> Result<Option<Admission>, Infallible> {
        Ok(self.admissions.get(&meter).cloned())
    }

    fn by_tls_key(&self, tls_key: &Digest) -> Result<Option<Admission>, Infallible> {
        Ok(self.admissions.values().find(|admission| admission.tls_key == *tls_key).cloned())
    }

    fn put(&mut self, admission: &Admission) -> Result<(), Infallible> {
        self.admissions.insert(admission.meter, admission.clone());
        Ok(())
    }
}

/// Readings in memory.
#[derive(Debug, Default)]
pub struct MemoryReadings {
    readings: BTreeMap<ReadingKey, Reading>,
    conflicts: Vec<Reading>,
}

impl MemoryReadings {
    /// Readings that came second under a key with another value.
    #[must_use]
    pub fn conflicts(&self) -> &[Reading] {
        &self.conflicts
    }
}

impl ReadingStore for MemoryReadings {
    type Error = Infallible;

    fn store(&mut self, readings: &[Reading]) -> Result<Vec<StoreOutcome>, Infallible> {
        let mut outcomes = Vec::with_capacity(readings.len());
        for reading in readings {
            outcomes.push(match self.readings.get(&reading.key) {
                None => {
                    self.readings.insert(reading.key, *reading);
                    StoreOutcome::Stored
                }
                Some(known) if known == reading || self.conflicts.contains(reading) => {
                    StoreOutcome::Duplicate
                }
                Some(_) => {
                    self.conflicts.push(*reading);
                    StoreOutcome::Conflict
                }
            });
        }
        Ok(outcomes)
    }

    fn list(&self, filter: &ReadingFilter) -> Result<Vec<Reading>, Infallible> {
        let matching = self.readings.values().filter(|reading| filter.matches(&reading.key));
        Ok(matching.take(filter.limit.min(LIST_MAX)).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_types::{ObisCode, Quality, Unit, UtcTime};

    fn reading(start: u64, meter: u8, value: i64) -> Reading {
        let key = ReadingKey {
            start: UtcTime(start),
            meter: SystemTitle([meter; 8]),
            obis: ObisCode::ACTIVE_ENERGY_IMPORT,
        };
        Reading { key, interval_s: 900, value, unit: Unit::WattHour, quality: Quality(0) }
    }

    #[test]
    fn a_key_is_stored_once_and_another_value_is_kept_beside_the_first() {
        let mut store = MemoryReadings::default();
        let outcomes =
            store.store(&[reading(0, 1, 5), reading(0, 1, 5), reading(0, 1, 6), reading(0, 1, 6)]).unwrap();
        use StoreOutcome::{Conflict, Duplicate, Stored};
        assert_eq!(outcomes, [Stored, Duplicate, Conflict, Duplicate]);
        assert_eq!(store.list(&ReadingFilter::default()).unwrap(), [reading(0, 1, 5)]);
        assert_eq!(store.conflicts(), [reading(0, 1, 6)]);
    }

    #[test]
    fn lists_are_ordered_filtered_and_paged() {
        let mut store = MemoryReadings::default();
        let all: Vec<_> =
            (0..4).flat_map(|start| (1..=2).map(move |meter| reading(start, meter, 1))).collect();
        store.store(&all.iter().rev().copied().collect::<Vec<_>>()).unwrap();
        let list = |filter: ReadingFilter| store.list(&filter).unwrap();
        assert_eq!(list(ReadingFilter::default()), all);
        let of_one = list(ReadingFilter {
            meter: Some(SystemTitle([2; 8])),
            from: Some(UtcTime(1)),
            until: Some(UtcTime(3)),
            ..Default::default()
        });
        assert_eq!(of_one, [reading(1, 2, 1), reading(2, 2, 1)]);
        let page = list(ReadingFilter { limit: 3, ..Default::default() });
        let next =
            list(ReadingFilter { after: page.last().map(|reading| reading.key), ..Default::default() });
        assert_eq!([page, next].concat(), all);
    }
}
