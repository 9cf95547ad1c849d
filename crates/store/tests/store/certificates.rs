//! The authority's records: newest by key, all kept, each with its audit entry.

use gridseal_pki::{CertificateRecord, CertificateRecords, Holder};
use gridseal_store::{
    SqliteRecords,
    certificates::{CERTIFICATES, issue_batch},
};
use gridseal_trust::audit::{self, AUDIT, verify_chain};
use gridseal_types::{
    Digest, EkName, UtcTime,
    records::{Commit, MemoryRecords, Records, RecordsError},
};

fn record(holder: Holder, key: u8, serial: u8) -> CertificateRecord {
    CertificateRecord {
        holder,
        key: Digest([key; 32]),
        serial: vec![serial; 16],
        certificate: vec![serial; 400],
        not_after: UtcTime(1_000),
        issued_at: UtcTime(u64::from(serial)),
    }
}

#[test]
fn the_newest_certificate_of_a_key_is_found_and_the_former_stay() {
    let mut records = SqliteRecords::in_memory().unwrap();
    let device = record(Holder::Device(EkName([7; 34])), 1, 1);
    let (first, second) =
        (record(Holder::Service("headend".into()), 2, 2), record(Holder::Service("headend".into()), 2, 3));
    records
        .transact(|records| {
            issue_batch(records, |certificates| {
                assert_eq!(certificates.newest_for_key(&device.key), Ok(None));
                certificates.remember(Some(device.clone()));
                certificates.remember(None);
                assert_eq!(
                    certificates.newest_for_key(&device.key),
                    Ok(Some(device.clone())),
                    "within the batch"
                );
                certificates.remember(Some(first.clone()));
                certificates.remember(Some(second.clone()));
            })
        })
        .unwrap();
    let (writes, newest) = issue_batch(&records, |certificates| {
        [1, 2, 3].map(|key| certificates.newest_for_key(&Digest([key; 32])).unwrap())
    })
    .unwrap();
    assert_eq!(newest, [Some(device), Some(second), None]);
    assert_eq!(writes, []);
    assert_eq!(records.range(CERTIFICATES, &[], 10).unwrap().len(), 3);
}

#[test]
fn every_certificate_has_an_audit_entry_in_its_transaction() {
    let mut records = MemoryRecords::default();
    let (writes, ()) = issue_batch(&records, |certificates| {
        certificates.remember(Some(record(Holder::Device(EkName([7; 34])), 1, 1)));
        certificates.remember(Some(record(Holder::Service("headend".into()), 2, 2)));
    })
    .unwrap();
    records.commit(writes).unwrap();
    let entries = records.range(AUDIT, &[], 10).unwrap();
    let end = audit::end(&records).unwrap();
    let chain = verify_chain(entries.iter().map(|(_, value)| value.as_slice()), end).unwrap();
    let told: Vec<_> = chain.iter().map(|entry| (entry.actor.as_str(), entry.act.as_str())).collect();
    assert_eq!(told, [("endpoint-manager", "certificate.issued"), ("headend", "certificate.issued")]);
    assert_eq!(chain[0].subject, "07".repeat(34));
    assert_eq!(chain[1].detail, "02".repeat(16));
}

#[test]
fn a_serial_number_that_comes_twice_fails_the_batch() {
    let records = MemoryRecords::default();
    let batch = issue_batch(&records, |certificates| {
        certificates.remember(Some(record(Holder::Service("headend".into()), 1, 1)));
        certificates.remember(Some(record(Holder::Service("headend".into()), 2, 1)));
    });
    assert_eq!(batch, Err(RecordsError::Failed));
}
