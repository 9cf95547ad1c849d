//! What a row of readings holds, in clear or sealed.

use gridseal_crypto::{EnvelopeContext, EnvelopeError, Key, Rng, open_bytes, role::Dek, seal_bytes};
use gridseal_types::{Quality, Reading, ReadingKey, Unit, UtcTime};

use super::readings::ReadingsError;

const LABEL: &[u8] = b"gs-readings-v1";

/// A reading without its key.
#[derive(Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Content {
    #[n(0)]
    interval_s: u32,
    #[n(1)]
    value: i64,
    #[n(2)]
    unit: Unit,
    #[n(3)]
    quality: Quality,
}

impl From<&Reading> for Content {
    fn from(reading: &Reading) -> Self {
        let Reading { interval_s, value, unit, quality, .. } = *reading;
        Self { interval_s, value, unit, quality }
    }
}

impl Content {
    pub(crate) const fn into_reading(self, key: ReadingKey) -> Reading {
        let Self { interval_s, value, unit, quality } = self;
        Reading { key, interval_s, value, unit, quality }
    }
}

/// Where a content belongs: the key of its reading, and 0 for the current row or the number of the conflict. A sealed
/// content that was moved to another place does not open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) key: ReadingKey,
    pub(crate) number: u32,
}

impl Place {
    fn context(&self) -> EnvelopeContext {
        let ReadingKey { start, meter, obis } = self.key;
        let (mut tenant, mut object) = ([0; 16], [0; 16]);
        tenant[..8].copy_from_slice(&start.0.to_be_bytes());
        object[..8].copy_from_slice(meter.as_bytes());
        object[8..14].copy_from_slice(obis.groups());
        EnvelopeContext::new(tenant, object, self.number)
    }
}

/// What is stored as commitment to a key, so that a wrong one is found before the first row.
pub(crate) fn commitment(key: &Key<Dek, 32>) -> [u8; 32] {
    key.hashed(LABEL)
}

/// Turns contents into stored bytes and back. Each interval start has a key of its own, derived from the data key:
/// random nonces under one key for all rows of all years would one day repeat (rule S1).
#[derive(Debug)]
pub(crate) struct Sealer<'k> {
    key: Option<&'k Key<Dek, 32>>,
    /// Rows come sorted by interval start or nearly so.
    latest: Option<(UtcTime, Key<Dek, 32>)>,
}

impl<'k> Sealer<'k> {
    /// `None` leaves contents in clear.
    pub(crate) const fn new(key: Option<&'k Key<Dek, 32>>) -> Self {
        Self { key, latest: None }
    }

    fn key_of(&mut self, start: UtcTime) -> Option<&Key<Dek, 32>> {
        let key = self.key?;
        if self.latest.as_ref().is_none_or(|(known, _)| *known != start) {
            self.latest = Some((start, key.derive(&[LABEL, &start.0.to_be_bytes()])));
        }
        self.latest.as_ref().map(|(_, key)| key)
    }

    pub(crate) fn seal(
        &mut self,
        place: Place,
        content: &Content,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, EnvelopeError> {
        // Encoding into memory cannot fail for these types.
        let plain = minicbor::to_vec(content).unwrap_or_default();
        match self.key_of(place.key.start) {
            Some(key) => seal_bytes(key, &place.context(), &plain, rng),
            None => Ok(plain),
        }
    }

    pub(crate) fn open(&mut self, place: Place, stored: &[u8]) -> Result<Content, ReadingsError> {
        let content = match self.key_of(place.key.start) {
            Some(key) => minicbor::decode(&open_bytes(key, &place.context(), stored)?),
            None => minicbor::decode(stored),
        };
        content.map_err(|_| ReadingsError::Content)
    }
}
