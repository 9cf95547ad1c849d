//! The TCG crypto-agile event log: what firmware and boot loaders have measured, replayed into PCR values.
//!
//! Layout, little-endian: one TCG_PCClientPCREvent (pcrIndex u32, eventType u32 = EV_NO_ACTION, SHA-1 digest 20 bytes,
//! eventSize u32, TCG_EfiSpecIdEvent), then TCG_PCR_EVENT2 to the end: pcrIndex u32, eventType u32, count u32, count times
//! algorithm u16 and digest, eventSize u32, event.
//!
//! # Source
//! TCG PC Client Platform Firmware Profile, section 10; onboarding specification, section 8.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_types::Digest;

use super::{LogError, LogFlaw, extended, read::LogReader};
use crate::tpm::ALG_SHA256;

const EV_NO_ACTION: u32 = 3;
/// Signature of the first event of a crypto-agile log.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
/// Event that tells at which locality the TPM was started.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// Localities at which a TPM can be started.
const LOCALITIES: [u8; 3] = [0, 3, 4];
/// Most digest algorithms of one log.
const ALGORITHMS_MAX: u32 = 8;
/// Largest digest, bytes.
const DIGEST_SIZE_MAX: u16 = 64;
/// PCRs from this one on belong to dynamic launches, which we do not replay.
pub const PCR_END: usize = 17;

/// Values of the PCRs that a log extends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    values: [Option<Digest>; PCR_END],
    /// Events that were replayed.
    pub events: usize,
}

impl Replay {
    /// The value of a PCR, `None` when the log does not extend it.
    #[must_use]
    pub fn value(&self, pcr: u8) -> Option<Digest> {
        self.values.get(usize::from(pcr)).copied().flatten()
    }
}

/// Algorithms and digest sizes of the Spec ID event.
fn read_algorithms(event: &[u8], offset: usize) -> Result<Vec<(u16, u16)>, LogError> {
    let mut reader = LogReader::part(event, offset);
    let at_signature = reader.error("Spec ID signature", LogFlaw::Value);
    if reader.take(SPEC_ID.len(), "Spec ID signature")? != SPEC_ID {
        return Err(at_signature);
    }
    // platformClass, versions and errata, uintnSize.
    reader.take(8, "Spec ID version")?;
    let at_count = reader.error("numberOfAlgorithms", LogFlaw::Length);
    let count = reader.u32("numberOfAlgorithms")?;
    if !(1..=ALGORITHMS_MAX).contains(&count) {
        return Err(at_count);
    }
    let mut algorithms: Vec<(u16, u16)> = Vec::new();
    for _ in 0..count {
        let at_algorithm = reader.error("algorithmId", LogFlaw::Value);
        let (algorithm, size) = (reader.u16("algorithmId")?, reader.u16("digestSize")?);
        let is_repeated = algorithms.iter().any(|(known, _)| *known == algorithm);
        let is_wrong = algorithm == ALG_SHA256 && size != 32;
        if is_repeated || is_wrong || !(1..=DIGEST_SIZE_MAX).contains(&size) {
            return Err(at_algorithm);
        }
        algorithms.push((algorithm, size));
    }
    let vendor_size = reader.u8("vendorInfoSize")?;
    reader.take(usize::from(vendor_size), "vendorInfo")?;
    if !reader.is_empty() {
        return Err(reader.error("Spec ID event", LogFlaw::Length));
    }
    if algorithms.iter().any(|(algorithm, _)| *algorithm == ALG_SHA256) {
        Ok(algorithms)
    } else {
        Err(LogError { field: "algorithms", offset, flaw: LogFlaw::NoSha256 })
    }
}

/// The SHA-256 digest of one event, which has every algorithm of the log exactly once.
fn read_digests(reader: &mut LogReader<'_>, algorithms: &[(u16, u16)]) -> Result<Digest, LogError> {
    let at_count = reader.error("digest count", LogFlaw::Length);
    let count = usize::try_from(reader.u32("digest count")?).map_err(|_| at_count)?;
    if count != algorithms.len() {
        return Err(at_count);
    }
    let mut seen: Vec<u16> = Vec::new();
    let mut sha256 = None;
    for _ in 0..count {
        let at_algorithm = reader.error("digest algorithm", LogFlaw::Value);
        let algorithm = reader.u16("digest algorithm")?;
        let known = algorithms.iter().find(|(known, _)| *known == algorithm);
        let (_, size) = known.filter(|_| !seen.contains(&algorithm)).ok_or(at_algorithm)?;
        seen.push(algorithm);
        let digest = reader.take(usize::from(*size), "digest")?;
        if algorithm == ALG_SHA256 {
            sha256 = Digest::from_slice(digest);
        }
    }
    sha256.ok_or(at_count)
}

/// PCR 0 of a TPM that was started at this locality.
fn started_at(locality: u8) -> Digest {
    let mut value = [0; Digest::SIZE];
    if let Some(last) = value.last_mut() {
        *last = locality;
    }
    Digest(value)
}

/// Replays a log.
///
/// # Errors
/// [`LogError`]: not a crypto-agile log, no SHA-256 bank, cut, lying counts, or a PCR that is none of a static boot.
pub fn replay(log: &[u8]) -> Result<Replay, LogError> {
    let mut reader = LogReader::new(log)?;
    let at_first = reader.error("first event", LogFlaw::Value);
    let (pcr, kind) = (reader.u32("pcrIndex")?, reader.u32("eventType")?);
    if (pcr, kind) != (0, EV_NO_ACTION) {
        return Err(at_first);
    }
    reader.take(20, "digest")?;
    let offset = reader.offset().saturating_add(4);
    let algorithms = read_algorithms(reader.counted("event")?, offset)?;
    let mut replay = Replay { values: [None; PCR_END], events: 0 };
    let mut startup = None;
    while !reader.is_empty() {
        let at_pcr = reader.error("pcrIndex", LogFlaw::Value);
        let pcr = usize::try_from(reader.u32("pcrIndex")?).map_err(|_| at_pcr)?;
        let kind = reader.u32("eventType")?;
        let digest = read_digests(&mut reader, &algorithms)?;
        let at_event = reader.error("event", LogFlaw::Value);
        let event = reader.counted("event")?;
        replay.events = replay.events.saturating_add(1);
        if kind == EV_NO_ACTION {
            let Some(rest) = event.strip_prefix(STARTUP_LOCALITY).filter(|_| pcr == 0) else { continue };
            // It comes once, before PCR 0 is extended.
            match rest {
                [locality]
                    if LOCALITIES.contains(locality) && startup.is_none() && replay.value(0).is_none() =>
                {
                    startup = Some(started_at(*locality));
                }
                _ => return Err(at_event),
            }
            continue;
        }
        let value = replay.values.get_mut(pcr).ok_or(at_pcr)?;
        let fresh = startup.filter(|_| pcr == 0).unwrap_or(Digest([0; 32]));
        *value = Some(extended(&value.unwrap_or(fresh), &digest));
    }
    if let (None, Some(value)) = (replay.value(0), startup)
        && let Some(first) = replay.values.first_mut()
    {
        *first = Some(value);
    }
    Ok(replay)
}
