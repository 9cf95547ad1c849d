//! Admitted meters, beside the readings.

use gridseal_headend::admission::AdmissionStore;
use gridseal_types::{Digest, SystemTitle, service::admission::Admission};
use rusqlite::{OptionalExtension, ToSql, params};

use super::readings::{ReadingsError, SqliteReadings};

const BY_METER: &str = "SELECT admission FROM admission WHERE meter = ?1";
const BY_TLS_KEY: &str = "SELECT admission FROM admission WHERE tls_key = ?1";
// A TLS key that another meter has breaks the table's constraint: the port's caller has asked for it before.
const PUT: &str = "INSERT INTO admission(meter, tls_key, admission) VALUES(?1, ?2, ?3)
                   ON CONFLICT(meter) DO UPDATE SET tls_key = excluded.tls_key, admission = excluded.admission";

impl SqliteReadings {
    fn admission(&self, sql: &str, key: &dyn ToSql) -> Result<Option<Admission>, ReadingsError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let bytes: Option<Vec<u8>> = statement.query_row([key], |row| row.get(0)).optional()?;
        bytes.map(|bytes| minicbor::decode(&bytes).map_err(|_| ReadingsError::Content)).transpose()
    }
}

impl AdmissionStore for SqliteReadings {
    type Error = ReadingsError;

    fn by_meter(&self, meter: SystemTitle) -> Result<Option<Admission>, ReadingsError> {
        self.admission(BY_METER, meter.as_bytes())
    }

    fn by_tls_key(&self, tls_key: &Digest) -> Result<Option<Admission>, ReadingsError> {
        self.admission(BY_TLS_KEY, tls_key.as_bytes())
    }

    fn put(&mut self, admission: &Admission) -> Result<(), ReadingsError> {
        // Encoding into memory cannot fail for this type.
        let bytes = minicbor::to_vec(admission).unwrap_or_default();
        let Admission { meter, tls_key, .. } = admission;
        self.connection.prepare_cached(PUT)?.execute(params![meter.as_bytes(), tls_key.as_bytes(), bytes])?;
        Ok(())
    }
}
