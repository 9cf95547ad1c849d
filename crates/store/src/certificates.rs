//! What the certificate authority has issued, on records.

use core::fmt;

use gridseal_pki::{CertificateRecord, CertificateRecords, ENDPOINT_MANAGER, Holder};
use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    Digest, EkName, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
};

/// Table of all certificates, by serial number.
pub const CERTIFICATES: Table = "certificate";
/// Table of the newest serial number, by SHA-256 of the SubjectPublicKeyInfo.
const NEWEST: Table = "certificate_newest";

/// A record as it is stored.
#[derive(minicbor::Encode, minicbor::Decode)]
struct Row {
    #[n(0)]
    device: Option<EkName>,
    #[n(1)]
    service: Option<String>,
    #[n(2)]
    key: Digest,
    #[cbor(n(3), with = "minicbor::bytes")]
    serial: Vec<u8>,
    #[cbor(n(4), with = "minicbor::bytes")]
    certificate: Vec<u8>,
    #[n(5)]
    not_after: UtcTime,
    #[n(6)]
    issued_at: UtcTime,
}

impl From<CertificateRecord> for Row {
    fn from(record: CertificateRecord) -> Self {
        let CertificateRecord { holder, key, serial, certificate, not_after, issued_at } = record;
        let (device, service) = match holder {
            Holder::Device(device) => (Some(device), None),
            Holder::Service(service) => (None, Some(service)),
        };
        Self { device, service, key, serial, certificate, not_after, issued_at }
    }
}

impl Row {
    fn into_record(self) -> Option<CertificateRecord> {
        let Self { device, service, key, serial, certificate, not_after, issued_at } = self;
        let holder = match (device, service) {
            (Some(device), None) => Holder::Device(device),
            (None, Some(service)) => Holder::Service(service),
            _ => return None,
        };
        Some(CertificateRecord { holder, key, serial, certificate, not_after, issued_at })
    }
}

/// Certificates on record, with those of the batch in the making.
#[derive(Debug)]
pub struct Certificates<'r, R> {
    overlay: Overlay<'r, R>,
    failed: Option<RecordsError>,
}

impl<R: Records> Certificates<'_, R> {
    /// Puts the record of a decision on top, if there is one, with its audit entry (rule S10).
    pub fn remember(&mut self, record: Option<CertificateRecord>) {
        if let Some(record) = record {
            self.failed = self.failed.or(self.put(record).err());
        }
    }

    fn put(&mut self, record: CertificateRecord) -> Result<(), RecordsError> {
        // A serial number is 126 random bits: one that is taken means that the random source repeats itself.
        if self.overlay.get(CERTIFICATES, &record.serial)?.is_some() {
            return Err(RecordsError::Failed);
        }
        let (actor, subject) = match &record.holder {
            Holder::Device(device) => (ENDPOINT_MANAGER, device.to_string()),
            Holder::Service(service) => (service.as_str(), service.clone()),
        };
        let act = Act { actor, act: "certificate.issued", subject: &subject, detail: &Hex(&record.serial) };
        audit::append(&mut self.overlay, record.issued_at, act)?;
        self.overlay.put(NEWEST, record.key.as_bytes(), record.serial.clone());
        let serial = record.serial.clone();
        self.overlay.save(CERTIFICATES, &serial, &Row::from(record));
        Ok(())
    }

    fn newest(&self, key: &Digest) -> Result<Option<CertificateRecord>, RecordsError> {
        let Some(serial) = self.overlay.get(NEWEST, key.as_bytes())? else { return Ok(None) };
        let row: Row = self.overlay.load(CERTIFICATES, &serial)?.ok_or(RecordsError::Damaged)?;
        row.into_record().map(Some).ok_or(RecordsError::Damaged)
    }
}

impl<R: Records> CertificateRecords for Certificates<'_, R> {
    fn newest_for_key(&self, key: &Digest) -> Result<Option<CertificateRecord>, gridseal_pki::RecordsError> {
        self.newest(key).map_err(|_| gridseal_pki::RecordsError)
    }
}

/// Certificates on record in the order of their serial numbers, above one of them: what the authority's key has signed.
///
/// # Errors
/// [`RecordsError`].
pub fn issued(
    records: &impl Records,
    above: &[u8],
    limit: usize,
) -> Result<Vec<CertificateRecord>, RecordsError> {
    let rows = records.range(CERTIFICATES, above, limit)?.into_iter().map(|(_, row)| {
        let row: Row = minicbor::decode(&row).map_err(|_| RecordsError::Damaged)?;
        row.into_record().ok_or(RecordsError::Damaged)
    });
    rows.collect()
}

/// Lets `decide` answer a batch of requests; it gives each record to [`Certificates::remember`] before the next decision.
/// Returns the writes, to be committed before the answers leave, and the answers: what
/// [`crate::Transact::transact`] takes.
///
/// # Errors
/// [`RecordsError`] when one of the records could not be put; no answer may leave then.
pub fn issue_batch<R: Records, T>(
    records: &R,
    decide: impl FnOnce(&mut Certificates<'_, R>) -> T,
) -> Result<(Vec<Write>, T), RecordsError> {
    let mut certificates = Certificates { overlay: Overlay::new(records), failed: None };
    let answers = decide(&mut certificates);
    let Certificates { overlay, failed } = certificates;
    failed.map_or_else(|| Ok((overlay.into_writes(), answers)), Err)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
