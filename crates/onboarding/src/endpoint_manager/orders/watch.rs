//! Who is silent, and whose attestation has grown too old.

use alloc::{format, string::String, vec::Vec};

use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    Code, DeviceState, UtcTime,
    records::{Overlay, Records, RecordsError, Write},
};

use super::{Book, OrderRules};
use crate::endpoint_manager::register::{DEVICES, RegisterEntry};

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Serial number.
    pub serial: String,
    /// What: `silent` or `attestation-stale`.
    pub what: &'static str,
    /// For how long, seconds.
    pub for_s: u64,
}

/// Looks at up to `limit` devices after `after`: a device that did not ask for too long is told of once; one whose
/// attestation is too old is quarantined as well, with `E_TIME`, until a good one comes. To be committed.
///
/// Returns the writes, the alarms and where to go on; `None` at the end.
///
/// # Errors
/// [`RecordsError`] from the store.
#[expect(clippy::type_complexity, reason = "writes, alarms, where to go on")]
pub fn watch<R: Records>(
    records: &R,
    now: UtcTime,
    rules: &OrderRules,
    (after, limit): (&[u8], usize),
) -> Result<(Vec<Write>, Vec<Alarm>, Option<Vec<u8>>), RecordsError> {
    let rows = records.range(DEVICES, after, limit)?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
    let mut overlay = Overlay::new(records);
    let mut alarms = Vec::new();
    for (_, value) in &rows {
        let mut entry: RegisterEntry = minicbor::decode(value).map_err(|_| RecordsError::Damaged)?;
        if !entry.state.may_exchange() || entry.keys.is_none() {
            continue;
        }
        let before = entry.clone();
        let polled_at = Book::of(&overlay, &entry.device)?.polled_at;
        let heard_at = [polled_at, entry.attested_at].into_iter().filter(|at| *at <= now).max();
        let silent_s = now.0.saturating_sub(heard_at.unwrap_or(UtcTime(0)).0);
        if silent_s >= rules.silence_s && entry.silent_since.is_none() {
            entry.silent_since = Some(UtcTime(now.0.saturating_sub(silent_s)));
            alarms.push(Alarm { serial: entry.serial.clone(), what: "silent", for_s: silent_s });
            note(&mut overlay, now, &entry, ("device.silent", format!("{silent_s} s")))?;
        }
        // One from the future was told by a clock that was wrong: it says nothing (rule S14).
        let age_s = now.0.abs_diff(entry.attested_at.0);
        if age_s >= rules.attest_max_s {
            entry.state = DeviceState::Quarantined;
            entry.quarantine = Some(Code::Time);
            entry.admission_pending = true;
            entry.state_pending = true;
            entry.revision = entry.revision.saturating_add(1);
            alarms.push(Alarm { serial: entry.serial.clone(), what: "attestation-stale", for_s: age_s });
            note(&mut overlay, now, &entry, ("device.quarantined", format!("E_TIME {age_s} s")))?;
        }
        if entry != before {
            overlay.save(DEVICES, entry.device.as_bytes(), &entry);
        }
    }
    Ok((overlay.into_writes(), alarms, next))
}

fn note<R: Records>(
    overlay: &mut Overlay<'_, R>,
    now: UtcTime,
    entry: &RegisterEntry,
    (act, detail): (&str, String),
) -> Result<(), RecordsError> {
    let act = Act { actor: "endpoint-manager", act, subject: &entry.device, detail: &detail };
    audit::append(overlay, now, act).map(|_| ())
}
