//! Data keys: what wraps meter keys at rest, themselves wrapped under the tenant's key. A new one takes over when it is
//! time; the former ones open what they have wrapped until the job of [`crate::Core::rewrap_step`] has moved it all.

use alloc::vec::Vec;

use gridseal_crypto::{
    DataKey, EnvelopeError, Key, Rng, SealedUnder, WrappedKey,
    role::{Dek, KeystoreKek},
};
use gridseal_types::{
    UtcTime,
    records::{Records, RecordsError},
    service::keys::Bytes,
};

use crate::{
    KeysError,
    record::{DEVICES, DeviceEntry, VERSIONS, VersionEntry},
};

/// Rows read at a time.
const STEP: usize = 256;

/// How long a data key wraps new keys, seconds: one year.
///
/// # Source
/// Key service specification, section 4.
pub const DATA_KEY_PERIOD_S: u64 = 365 * 24 * 3_600;

/// Data keys as they lie on disk: envelopes under the tenant's key.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub struct DataKeysFile {
    /// From the oldest to the one in use.
    #[n(0)]
    keys: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
struct Entry {
    #[n(0)]
    id: u64,
    #[n(1)]
    wrapped: Bytes,
    #[n(2)]
    since: UtcTime,
}

impl DataKeysFile {
    /// No data key yet; the first call of [`DataKeysFile::renew`] makes number 1. Number 0 is the key of envelopes from
    /// before data keys had numbers.
    #[must_use]
    pub const fn new() -> Self {
        Self { keys: Vec::new() }
    }

    /// Draws the next data key, which wraps everything from now on, and returns its number. To be on disk before the
    /// first envelope under it is.
    ///
    /// # Errors
    /// [`EnvelopeError::Rng`].
    pub fn renew(
        &mut self,
        kek: &Key<KeystoreKek, 32>,
        tenant: [u8; 16],
        now: UtcTime,
        rng: &mut dyn Rng,
    ) -> Result<u64, EnvelopeError> {
        let id = self.keys.last().map_or(1, |entry| entry.id.saturating_add(1));
        let key = DataKey::new(id, Key::generate(rng)?);
        let wrapped = Bytes(key.wrap(kek, tenant, rng)?.0);
        self.keys.push(Entry { id, wrapped, since: now });
        Ok(id)
    }

    /// Whether the key in use has been so for its period, or there is none.
    #[must_use]
    pub fn is_due(&self, now: UtcTime) -> bool {
        self.keys.last().is_none_or(|entry| now.0.saturating_sub(entry.since.0) >= DATA_KEY_PERIOD_S)
    }

    /// Forgets a former data key for good: for one that wraps nothing any more. The one in use stays; then, and when
    /// there is none of that number, the answer is `false`.
    pub fn destroy(&mut self, id: u64) -> bool {
        let former = self.keys.iter().rev().skip(1).any(|entry| entry.id == id);
        self.keys.retain(|entry| !former || entry.id != id);
        former
    }

    /// Forgets all former data keys but the last one, for good. Whether there were any.
    pub fn destroy_before_last(&mut self) -> bool {
        let outdated = self.keys.len().saturating_sub(2);
        self.keys.drain(..outdated);
        outdated > 0
    }

    /// Opens all data keys.
    ///
    /// # Errors
    /// [`KeysError::Keystore`] when one does not open under this key as what it is, or there is none.
    pub fn open(&self, kek: &Key<KeystoreKek, 32>, tenant: [u8; 16]) -> Result<DataKeys, KeysError> {
        let open =
            |entry: &Entry| DataKey::unwrap_key(kek, tenant, entry.id, &WrappedKey(entry.wrapped.0.clone()));
        let mut keys = self.keys.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let current = keys.pop().ok_or(KeysError::Keystore)?;
        Ok(DataKeys { current, former: keys })
    }
}

impl Default for DataKeysFile {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether keys on record are wrapped under a data key that has a number: then the file with the data keys has to be there.
///
/// # Errors
/// [`RecordsError`].
pub fn needs_data_keys(records: &impl Records) -> Result<bool, RecordsError> {
    let is_numbered =
        |envelope: &Bytes| WrappedKey(envelope.0.clone()).data_key_id().is_some_and(|id| id > 0);
    let any = |table, is_under: &dyn Fn(&[u8]) -> Result<bool, RecordsError>| {
        let mut after = Vec::new();
        loop {
            let rows = records.range(table, &after, STEP)?;
            let Some((last, _)) = rows.last() else { return Ok(false) };
            after.clone_from(last);
            for (_, row) in &rows {
                if is_under(row)? {
                    return Ok(true);
                }
            }
        }
    };
    let secret = |row: &[u8]| {
        let entry: DeviceEntry = minicbor::decode(row).map_err(|_| RecordsError::Damaged)?;
        Ok(is_numbered(&entry.secret))
    };
    let key = |row: &[u8]| {
        let entry: VersionEntry = minicbor::decode(row).map_err(|_| RecordsError::Damaged)?;
        Ok(is_numbered(&entry.envelope))
    };
    Ok(any(DEVICES, &secret)? || any(VERSIONS, &key)?)
}

/// Opened data keys, in the memory of `keys-core` only.
#[derive(Debug)]
pub struct DataKeys {
    current: DataKey,
    former: Vec<DataKey>,
}

impl DataKeys {
    /// The one key from before data keys had numbers.
    #[must_use]
    pub const fn unnumbered(key: Key<Dek, 32>) -> Self {
        Self { current: DataKey::new(0, key), former: Vec::new() }
    }

    /// The same keys, and those of another set as former ones.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.former.push(other.current);
        self.former.extend(other.former);
        self
    }

    /// The key that wraps.
    #[must_use]
    pub const fn current(&self) -> &DataKey {
        &self.current
    }

    /// All of them, for a demo's search of other processes.
    #[cfg(feature = "danger-inventory")]
    pub(crate) fn danger_all(&self) -> impl Iterator<Item = &DataKey> {
        core::iter::once(&self.current).chain(&self.former)
    }

    /// The key that an envelope names.
    #[must_use]
    pub fn of(&self, envelope: &WrappedKey) -> Option<&DataKey> {
        let id = envelope.data_key_id()?;
        core::iter::once(&self.current).chain(&self.former).find(|key| key.id() == id)
    }
}

impl<'k> From<&'k DataKeys> for SealedUnder<'k> {
    fn from(keys: &'k DataKeys) -> Self {
        Self::from(&keys.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_crypto::{EnvelopeContext, RngError, role::Guek};

    struct Counting(u8);

    impl Rng for Counting {
        fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RngError> {
            for byte in bytes {
                *byte = self.0;
                self.0 = self.0.wrapping_add(1);
            }
            Ok(())
        }
    }

    const TENANT: [u8; 16] = [4; 16];

    #[test]
    fn a_renewed_key_wraps_and_the_former_ones_still_open() {
        let kek: Key<KeystoreKek, 32> = Key::take(&mut [1; 32]);
        let mut file = DataKeysFile::new();
        assert!(file.is_due(UtcTime(0)) && file.open(&kek, TENANT).is_err());
        let mut rng = Counting(0);
        assert_eq!(file.renew(&kek, TENANT, UtcTime(10), &mut rng).unwrap(), 1);
        assert!(!file.is_due(UtcTime(9 + DATA_KEY_PERIOD_S)) && file.is_due(UtcTime(10 + DATA_KEY_PERIOD_S)));
        let context = EnvelopeContext::new(TENANT, [7; 16], 1);
        let guek: Key<Guek, 16> = Key::take(&mut [9; 16]);
        let old = guek.wrap(&file.open(&kek, TENANT).unwrap(), &context, &mut rng).unwrap();

        assert_eq!(file.renew(&kek, TENANT, UtcTime(20), &mut rng).unwrap(), 2);
        let file_bytes = minicbor::to_vec(&file).unwrap();
        let mut file: DataKeysFile = minicbor::decode(&file_bytes).unwrap();
        let keys = file.open(&kek, TENANT).unwrap();
        let new = guek.wrap(&keys, &context, &mut rng).unwrap();
        assert_eq!((old.data_key_id(), new.data_key_id()), (Some(1), Some(2)));
        for wrapped in [&old, &new] {
            assert!(Key::<Guek, 16>::unwrap_key(keys.of(wrapped).unwrap(), &context, wrapped).is_ok());
        }
        assert!(!file.destroy_before_last(), "the last one stays");
        assert!(!file.destroy(2), "the one in use");
        assert!(file.destroy(1) && !file.destroy(1));
        let keys = file.open(&kek, TENANT).unwrap();
        assert!(keys.of(&old).is_none() && keys.of(&new).is_some());
        assert_eq!(file.renew(&kek, TENANT, UtcTime(30), &mut rng).unwrap(), 3, "no number comes twice");
        assert_eq!(file.renew(&kek, TENANT, UtcTime(40), &mut rng).unwrap(), 4);
        assert!(file.destroy_before_last() && !file.destroy_before_last());
        let keys = file.open(&kek, TENANT).unwrap();
        assert!(keys.of(&new).is_none() && keys.current().id() == 4 && keys.former.len() == 1);
    }

    #[test]
    fn data_keys_open_for_their_tenant_and_number_only() {
        let kek: Key<KeystoreKek, 32> = Key::take(&mut [1; 32]);
        let mut file = DataKeysFile::new();
        let mut rng = Counting(0);
        file.renew(&kek, TENANT, UtcTime(10), &mut rng).unwrap();
        file.renew(&kek, TENANT, UtcTime(10), &mut rng).unwrap();
        assert!(file.open(&kek, TENANT).is_ok());
        assert!(file.open(&kek, [5; 16]).is_err(), "another tenant's");
        assert!(file.open(&Key::take(&mut [2; 32]), TENANT).is_err(), "another tenant key");
        let (first, second) = file.keys.split_at_mut(1);
        core::mem::swap(&mut first[0].wrapped, &mut second[0].wrapped);
        assert!(file.open(&kek, TENANT).is_err(), "swapped");
    }
}
