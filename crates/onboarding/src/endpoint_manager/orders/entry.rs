//! What an answered order changes in the register.

use alloc::{format, string::String, vec::Vec};

use gridseal_crypto::sha256;
use gridseal_trust::{
    audit::{self, Act},
    csr::subject_public_key_info,
    enrol::registrar::Issued,
    measured::{Appraisal, Reason},
    tpm,
};
use gridseal_types::{
    Code, DeviceState, Digest, UtcTime,
    records::{Overlay, Records, RecordsError},
    service::keys::Bytes,
};

use super::{RECEIPTS, receipt_key};
use crate::endpoint_manager::register::{RegisterEntry, Software};

/// A change of a device's entry, durable together with its book.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryChange {
    /// None.
    Nothing,
    /// It has been heard.
    Heard,
    /// Its software was verified as of this time; and the firmware version that its TPM tells.
    Attested(UtcTime, Appraisal, u64),
    /// Its IMA list does not continue what was judged before: all of it is asked for.
    MeasureAnew,
    /// An authenticated check failed.
    Quarantined(Code, Option<Reason>),
    /// It works again.
    Resumed,
    /// A configuration is installed.
    Provisioned {
        /// Its hash.
        configuration: Digest,
        /// New keys that it certifies.
        renewed: Option<Renewed>,
    },
    /// It knows the owner's new key.
    Rekeyed {
        /// Index of the newest entry.
        index: u32,
        /// Its hash.
        entry: Digest,
        /// Voucher with it.
        voucher: Bytes,
        /// Hash of a new redirect, and its T1.
        redirect: Option<(Digest, Bytes)>,
    },
    /// Its ownership has ended.
    Ended {
        /// Released or decommissioned.
        state: DeviceState,
        /// Encoded receipt file.
        receipt: Vec<u8>,
    },
}

/// New keys of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// TPMT_PUBLIC of the TLS key.
    pub tls_pub: Bytes,
    /// TPMT_PUBLIC of the storage key.
    pub storage_pub: Option<Bytes>,
    /// Certificate.
    pub issued: Issued,
}

/// Applies a change, with its audit record.
///
/// # Errors
/// [`RecordsError`] from the store.
pub(super) fn apply<R: Records>(
    overlay: &mut Overlay<'_, R>,
    now: UtcTime,
    entry: &mut RegisterEntry,
    change: EntryChange,
) -> Result<(), RecordsError> {
    let before = entry.state;
    let (act, detail): (&str, String) = match change {
        EntryChange::Nothing => return Ok(()),
        EntryChange::Heard => {
            let Some(since) = entry.silent_since.take() else { return Ok(()) };
            ("device.heard-again", format!("silent since {}", since.0))
        }
        EntryChange::MeasureAnew => {
            entry.software = None;
            return Ok(());
        }
        EntryChange::Attested(at, Appraisal { verdict, policy, progress }, tpm_firmware) => {
            entry.software = Some(Software { verdict, policy, progress, tpm_firmware: Some(tpm_firmware) });
            // Not the later of both: what is on record may come from a clock that was fast (rule S14).
            entry.attested_at = at;
            entry.state_pending = true;
            // Another one may be told right now.
            entry.revision = entry.revision.saturating_add(1);
            // Held only because its attestation was old: no check failed, and this one went well.
            if entry.state == DeviceState::Quarantined && entry.quarantine == Some(Code::Time) {
                entry.state = DeviceState::Operating;
                entry.quarantine = None;
            }
            ("device.attested", format!("software {}", verdict.name()))
        }
        EntryChange::Quarantined(code, reason) => {
            entry.quarantine = Some(code);
            entry.state = DeviceState::Quarantined;
            let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
            ("device.quarantined", format!("{}{reason}", code.name()))
        }
        EntryChange::Resumed => {
            entry.state = DeviceState::Operating;
            entry.quarantine = None;
            ("device.resumed", String::new())
        }
        EntryChange::Provisioned { configuration, renewed } => {
            entry.policy_version = entry.policy_version.saturating_add(1);
            entry.configuration = configuration;
            let detail = format!("configuration {}", entry.policy_version);
            if let Some(renewed) = renewed {
                renew(entry, renewed)?;
            }
            ("device.provisioned", detail)
        }
        EntryChange::Rekeyed { index, entry: hash, voucher, redirect } => {
            (entry.entry_index, entry.entry, entry.voucher) = (index, hash, voucher);
            if let Some((hash, registration)) = redirect {
                entry.redirects.push(hash);
                entry.registration_pending = Some(registration);
            }
            ("device.rekeyed", format!("entry {index}"))
        }
        EntryChange::Ended { state, receipt } => {
            entry.state = state;
            overlay.put(RECEIPTS, &receipt_key(&entry.device, entry.epoch), receipt);
            let name =
                if state == DeviceState::Released { "device.released" } else { "device.decommissioned" };
            (name, format!("epoch {}", entry.epoch))
        }
    };
    if entry.state != before {
        entry.revision = entry.revision.saturating_add(1);
        entry.admission_pending = entry.tls_key.is_some();
        // A final state the key service knows by itself: it verified the receipt.
        entry.state_pending = !entry.state.is_final();
    }
    let act = Act { actor: "endpoint-manager", act, subject: &entry.device, detail: &detail };
    audit::append(overlay, now, act).map(|_| ())
}

/// The state of a device at work follows from what is under way with it.
///
/// # Errors
/// [`RecordsError`] from the store.
pub(super) fn settle<R: Records>(
    overlay: &mut Overlay<'_, R>,
    now: UtcTime,
    entry: &mut RegisterEntry,
    state: DeviceState,
) -> Result<(), RecordsError> {
    if !entry.state.may_exchange() || entry.state == state {
        return Ok(());
    }
    let detail = format!("from {}", entry.state.name());
    entry.state = state;
    entry.revision = entry.revision.saturating_add(1);
    entry.admission_pending = entry.tls_key.is_some();
    entry.state_pending = true;
    let act = format!("device.{}", state.name());
    let act = Act { actor: "endpoint-manager", act: &act, subject: &entry.device, detail: &detail };
    audit::append(overlay, now, act).map(|_| ())
}

fn renew(entry: &mut RegisterEntry, renewed: Renewed) -> Result<(), RecordsError> {
    let key = tpm::tls_key(&renewed.tls_pub.0).map_err(|_| RecordsError::Damaged)?;
    entry.tls_key = Some(Digest(sha256(&[&subject_public_key_info(&key)])));
    entry.certificate = Some(renewed.issued);
    if let Some([_, storage, tls, _]) = &mut entry.keys {
        *tls = renewed.tls_pub;
        if let Some(public) = renewed.storage_pub {
            *storage = public;
        }
    }
    // The head-end takes the new key, and the former one no more.
    entry.revision = entry.revision.saturating_add(1);
    entry.admission_pending = true;
    Ok(())
}
