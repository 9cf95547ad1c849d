//! The owner's look at a manufacturer's log of voucher entries: that it only grows, that it holds our entries, and that none
//! of our devices was sold a second time.

use alloc::{string::String, vec::Vec};

use gridseal_trust::{
    audit::{self, Act, tree::Head},
    enrol::{
        voucher::Voucher,
        voucher_log::{LogEntry, LogHead, VoucherLog},
    },
};
use gridseal_types::{
    Code, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
};

use super::register::{DEVICES, RegisterEntry};

/// Heads seen, by the key id of the manufacturer's voucher key: the first is that of a log that was read whole.
const LOGS: Table = "em_voucher_logs";
/// Most heads that wait for the log to be read.
const HEADS_MAX: usize = 64;
/// Devices looked at in one step.
const STEP: usize = 256;

/// Remembers the head that came with a shipment, to be compared when the log is read. To be committed.
///
/// # Errors
/// [`RecordsError`] from the store; inside, [`Code::Fork`] when another list of this size was seen before, [`Code::Busy`] when
/// too many heads wait.
pub fn remember<R: Records>(
    records: &R,
    head: &LogHead,
) -> Result<(Vec<Write>, Result<(), Code>), RecordsError> {
    let mut overlay = Overlay::new(records);
    let mut seen = overlay.load::<Vec<Head>>(LOGS, head.signer.as_bytes())?.unwrap_or_default();
    match seen.iter().find(|seen| seen.size == head.head.size) {
        Some(same) if *same == head.head => return Ok((Vec::new(), Ok(()))),
        Some(_) => return Ok((Vec::new(), Err(Code::Fork))),
        None if seen.len() >= HEADS_MAX => return Ok((Vec::new(), Err(Code::Busy))),
        None => seen.push(head.head),
    }
    overlay.save(LOGS, head.signer.as_bytes(), &seen);
    Ok((overlay.into_writes(), Ok(())))
}

/// What was found in a log that continues every head seen before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Devices of ours whose entries are all there, each with one successor.
    pub in_order: u64,
    /// Serial numbers of devices with an entry that the log does not hold.
    pub missing: Vec<String>,
    /// Serial numbers of devices with a second successor after one of their elements: sold twice.
    pub forked: Vec<String>,
}

/// Reads a log that was opened and signed by `head`. To be committed; forks are audited.
///
/// # Errors
/// [`RecordsError`] from the store; inside, [`Code::Fork`] when the log does not continue one that was seen before.
pub fn read<R: Records>(
    records: &R,
    now: UtcTime,
    head: &LogHead,
    log: &VoucherLog,
) -> Result<(Vec<Write>, Result<Findings, Code>), RecordsError> {
    let mut overlay = Overlay::new(records);
    let seen = overlay.load::<Vec<Head>>(LOGS, head.signer.as_bytes())?.unwrap_or_default();
    let note = |overlay: &mut Overlay<'_, R>, act: &str, detail: &dyn core::fmt::Display| {
        audit::append(overlay, now, Act { actor: "owner", act, subject: &head.signer, detail })
    };
    if let Some(other) = seen.iter().find(|seen| log.head_at(seen.size).as_ref() != Some(*seen)) {
        note(&mut overlay, "voucher-log.forked", &other.size)?;
        return Ok((overlay.into_writes(), Err(Code::Fork)));
    }
    let mut findings = Findings::default();
    let mut after: Vec<u8> = Vec::new();
    loop {
        let rows = records.range(DEVICES, &after, STEP)?;
        let Some((last, _)) = rows.last() else { break };
        after.clone_from(last);
        for (_, value) in &rows {
            let entry: RegisterEntry = minicbor::decode(value).map_err(|_| RecordsError::Damaged)?;
            let Some((signer, hashes)) = Voucher::decode(&entry.voucher.0)
                .ok()
                .and_then(|voucher| Some((voucher.signer()?, voucher.element_hashes()?)))
            else {
                return Err(RecordsError::Damaged);
            };
            if signer != head.signer {
                continue;
            }
            // Nothing follows our entry: whatever stands after it was not sold by us.
            let links = hashes.windows(2).filter_map(|pair| match pair {
                [previous, entry] => Some(LogEntry { previous: *previous, entry: *entry }),
                _ => None,
            });
            let links: Vec<LogEntry> = links.collect();
            let is_forked = links
                .iter()
                .any(|link| log.successors(&link.previous).any(|successor| *successor != link.entry))
                || hashes.last().is_some_and(|last| log.successors(last).next().is_some());
            if is_forked {
                note(&mut overlay, "voucher.forked", &entry.serial)?;
                findings.forked.push(entry.serial);
            } else if links.iter().all(|link| log.contains(link)) {
                findings.in_order = findings.in_order.saturating_add(1);
            } else {
                note(&mut overlay, "voucher.not-logged", &entry.serial)?;
                findings.missing.push(entry.serial);
            }
        }
    }
    note(&mut overlay, "voucher-log.read", &head.head.size)?;
    overlay.save(LOGS, head.signer.as_bytes(), &alloc::vec![head.head]);
    Ok((overlay.into_writes(), Ok(findings)))
}
