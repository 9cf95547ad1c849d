//! Judges what a device has measured by the owner's signed policies: pass, grace or fail, with a coded reason.
//!
//! A policy is one signed document per firmware release, loaded once and shared; the verdict names it by its digest.
//!
//! # Source
//! Onboarding specification, section 8.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "judges bytes from outside"
)]

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::fmt;

use gridseal_crypto::{ForeignKey, HashAlgorithm, sha256};
use gridseal_types::{Code, Digest, EkName};

use super::{
    LogFlaw, Logs, event_log,
    event_log::Replay,
    ima::{self, Entry},
};
use crate::{
    der,
    enrol::document::{OutOfDate, Policy},
    tpm,
};

/// Most policies of one model.
pub const POLICIES_MAX: usize = 8;
/// Most combinations of allowed PCR values, times prefixes of the IMA list, that are tried against one quote.
const TRIES_MAX: usize = 8_192;
/// Most combinations of allowed PCR values.
const COMBINATIONS_MAX: usize = 256;
/// Most signatures of files that are verified for one device and message.
const SIGNATURES_MAX: usize = 1_024;
/// Path of the entry with which IMA begins: the hash over the PCRs of the boot.
const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

/// Outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Verdict {
    /// The current release.
    #[n(0)]
    Pass,
    /// A known release that is not current: provisioned, an update is due.
    #[n(1)]
    Grace,
}

impl Verdict {
    /// Name as reported.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Grace => "grace",
        }
    }
}

/// Why a device did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// There is no policy for the model.
    NoPolicy,
    /// The event log is malformed.
    EventLog(LogFlaw),
    /// The IMA list is malformed.
    ImaLog(LogFlaw),
    /// The list begins neither at the first entry nor at the one that was asked for.
    ImaFirst,
    /// A log is missing that the policy wants.
    LogMissing,
    /// There are IMA entries, and no policy of the model says anything about files.
    ImaUnexpected,
    /// The logs do not lead to the values that the TPM quoted.
    QuoteMismatch,
    /// The list does not continue what was seen before although the TPM was not reset: for a new session the whole is asked.
    ImaDiscontinuous,
    /// A PCR has a value that the policy does not allow; without a log it cannot be told which.
    PcrValue(Option<u8>),
    /// An entry's file or digest is not in the policy, and no allowed key signed it.
    ImaFile(u64),
    /// An entry is a violation.
    ImaViolation(u64),
    /// The entry `boot_aggregate` is not that of the PCRs.
    ImaBootAggregate,
    /// More signatures than are verified at once.
    ImaSignatures,
    /// A known release that is not current; its policy says that this fails.
    NotCurrent,
}

impl Reason {
    /// Code as reported, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoPolicy => "policy.none",
            Self::EventLog(_) => "event-log.format",
            Self::ImaLog(_) => "ima.format",
            Self::ImaFirst => "ima.first",
            Self::LogMissing => "log.missing",
            Self::ImaUnexpected => "ima.unexpected",
            Self::QuoteMismatch => "quote.mismatch",
            Self::ImaDiscontinuous => "ima.discontinuous",
            Self::PcrValue(_) => "pcr.value",
            Self::ImaFile(_) => "ima.file",
            Self::ImaViolation(_) => "ima.violation",
            Self::ImaBootAggregate => "ima.boot-aggregate",
            Self::ImaSignatures => "ima.signatures",
            Self::NotCurrent => "policy.not-current",
        }
    }

    /// The protocol's code.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::QuoteMismatch | Self::ImaDiscontinuous => Code::Quote,
            _ => Code::Policy,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::EventLog(flaw) | Self::ImaLog(flaw) => write!(f, " ({flaw})"),
            Self::PcrValue(Some(pcr)) => write!(f, " (PCR {pcr})"),
            Self::ImaFile(entry) | Self::ImaViolation(entry) => write!(f, " (entry {entry})"),
            _ => Ok(()),
        }
    }
}

/// How far a device's IMA list was judged: the next message need only bring what follows. It holds for one boot, one
/// attestation key and one policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, minicbor::Encode, minicbor::Decode)]
pub struct Progress {
    /// Name of the attestation key.
    #[n(0)]
    pub attestation_key: EkName,
    /// resetCount and restartCount of the quote, as this key shows them.
    #[n(1)]
    pub reset_count: u32,
    /// See above.
    #[n(2)]
    pub restart_count: u32,
    /// Policy under which the entries were judged.
    #[n(3)]
    pub policy: Digest,
    /// Entries judged.
    #[n(4)]
    pub next: u64,
    /// PCR 10 after them.
    #[n(5)]
    pub value: Digest,
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appraisal {
    /// Outcome.
    pub verdict: Verdict,
    /// Digest of the policy that the device meets.
    pub policy: Digest,
    /// How far the IMA list was judged, when there is one.
    pub progress: Option<Progress>,
}

/// Keys whose signatures of files count, by the SHA-256 of their SubjectPublicKeyInfo.
#[derive(Clone, Debug, Default)]
pub struct ImaKeys(BTreeMap<Digest, ForeignKey>);

impl ImaKeys {
    /// Adds the key of a SubjectPublicKeyInfo, DER; returns its id, `None` for a kind that is not supported.
    pub fn add(&mut self, spki: &[u8]) -> Option<Digest> {
        let key = der::foreign_key(spki)?;
        let id = Digest(sha256(&[spki]));
        self.0.insert(id, key);
        Some(id)
    }
}

/// A signed policy, verified, and the digest by which it is known.
#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    policy: Policy,
}

/// The owner's policies: for each model those of its releases, the current one first.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    models: BTreeMap<String, Vec<Known>>,
    keys: ImaKeys,
}

/// What one device is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Measurements<'m> {
    /// What it handed over.
    pub logs: &'m Logs,
    /// First entry that it was asked for.
    pub ima_next: u64,
    /// The verified quote.
    pub quoted: &'m tpm::attest::Quoted,
    /// Name of the attestation key.
    pub attestation_key: EkName,
    /// What was judged before.
    pub before: Option<&'m Progress>,
}

/// Why a policy does not fit the others of its model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Grounds {
    /// Two policies of a model have the same version.
    #[error("two policies of one model have the same version")]
    SameVersion,
    /// The policies of a model must cover the same PCRs: a device is asked before its release is known.
    #[error("the policies of one model do not cover the same PCRs")]
    Coverage,
    /// PCR 10 has fixed values beside rules for files.
    #[error("PCR 10 has fixed values beside rules for files")]
    FixedIma,
    /// It covers no PCR.
    #[error("the policy covers no PCR")]
    Nothing,
    /// Its PCRs are not in ascending order, each once.
    #[error("the PCRs of the policy are not ascending")]
    Order,
    /// More than [`POLICIES_MAX`] of a model.
    #[error("too many policies of one model")]
    TooMany,
    /// More combinations of allowed PCR values than are tried.
    #[error("too many combinations of allowed PCR values")]
    Combinations,
}

impl Known {
    fn judges_files(&self) -> bool {
        !self.policy.ima_keys.is_empty() || !self.policy.ima_paths.is_empty()
    }

    fn indices(&self) -> Vec<u8> {
        let mut indices: Vec<u8> = self.policy.pcrs.iter().map(|(pcr, _)| *pcr).collect();
        if self.judges_files() {
            indices.push(ima::PCR);
        }
        indices.sort_unstable();
        indices
    }

    fn allowed(&self, pcr: u8) -> &[Digest] {
        self.policy
            .pcrs
            .iter()
            .find(|(index, _)| *index == pcr)
            .map_or(&[][..], |(_, values)| values.as_slice())
    }

    fn check(&self) -> Result<(), Grounds> {
        if self.judges_files() && !self.allowed(ima::PCR).is_empty() {
            return Err(Grounds::FixedIma);
        }
        let indices = self.policy.pcrs.iter().map(|(pcr, _)| pcr);
        if !indices.clone().zip(indices.skip(1)).all(|(before, after)| before < after) {
            return Err(Grounds::Order);
        }
        if self.indices().is_empty() {
            return Err(Grounds::Nothing);
        }
        let combinations = self.policy.pcrs.iter().try_fold(1usize, |product, (_, values)| {
            product.checked_mul(values.len()).filter(|product| *product <= COMBINATIONS_MAX)
        });
        combinations.map(|_| ()).ok_or(Grounds::Combinations)
    }
}

impl PolicySet {
    /// An empty set that knows these keys of signed files.
    #[must_use]
    pub const fn new(keys: ImaKeys) -> Self {
        Self { models: BTreeMap::new(), keys }
    }

    /// Adds a policy whose signature the caller has verified; `digest` is that of its payload.
    ///
    /// # Errors
    /// [`Grounds`]: the set is as before.
    pub fn add(&mut self, digest: Digest, policy: Policy) -> Result<(), Grounds> {
        let known = Known { digest, policy };
        known.check()?;
        let others = self.models.get(&known.policy.model).map_or(&[][..], Vec::as_slice);
        if others.len() >= POLICIES_MAX {
            return Err(Grounds::TooMany);
        }
        if others.iter().any(|other| other.policy.version == known.policy.version) {
            return Err(Grounds::SameVersion);
        }
        if others.iter().any(|other| other.indices() != known.indices()) {
            return Err(Grounds::Coverage);
        }
        let all = self.models.entry(known.policy.model.clone()).or_default();
        all.push(known);
        all.sort_by_key(|known| core::cmp::Reverse(known.policy.version));
        Ok(())
    }

    fn known(&self, model: &str) -> &[Known] {
        self.models.get(model).map_or(&[][..], Vec::as_slice)
    }

    /// Models with a policy.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// TPML_PCR_SELECTION that a device of this model has to quote. One whose model has no policy quotes what another's
    /// would, so that its evidence is complete when it is refused. `None` without any policy.
    #[must_use]
    pub fn pcr_selection(&self, model: &str) -> Option<Vec<u8>> {
        let known = self.known(model).first().or_else(|| self.models.values().flatten().next())?;
        Some(tpm::pcr_selection(&known.indices()))
    }

    /// First IMA entry that a device is asked for: what was judged before, by the same key under a policy that is still
    /// known, is not asked again.
    #[must_use]
    pub fn ima_next(&self, model: &str, attestation_key: &EkName, before: Option<&Progress>) -> u64 {
        let is_known = |progress: &&Progress| {
            progress.attestation_key == *attestation_key
                && self.known(model).iter().any(|known| known.digest == progress.policy)
        };
        before.filter(is_known).map_or(0, |progress| progress.next)
    }

    /// Judges a device. The caller has verified the quote's signature, nonce and selection.
    ///
    /// # Errors
    /// The reason of the current policy when none is met.
    pub fn appraise(&self, model: &str, device: &Measurements<'_>) -> Result<Appraisal, Reason> {
        let known = self.known(model);
        let current = known.first().ok_or(Reason::NoPolicy)?;
        let work = Work::new(device)?;
        if !work.entries.is_empty() && !known.iter().any(Known::judges_files) {
            return Err(Reason::ImaUnexpected);
        }
        let mut first = None;
        for candidate in known {
            // Entries that were judged before count under the policy that judged them and no other.
            if work.resumed.is_some_and(|progress| progress.policy != candidate.digest) {
                continue;
            }
            let progress = match self.meets(candidate, &work, device) {
                Ok(progress) => progress,
                Err(reason) => {
                    first = first.or(Some(reason));
                    continue;
                }
            };
            let is_current = candidate.digest == current.digest;
            let verdict = match (is_current, candidate.policy.out_of_date) {
                (true, _) => Verdict::Pass,
                (false, OutOfDate::Grace) => Verdict::Grace,
                (false, OutOfDate::Fail) => return Err(Reason::NotCurrent),
            };
            return Ok(Appraisal { verdict, policy: candidate.digest, progress });
        }
        let reason = first.unwrap_or(Reason::ImaDiscontinuous);
        let is_resumed = work.resumed.is_some();
        // What continues an earlier list may fail to because of a reset that the counters do not show.
        Err(if is_resumed && reason == Reason::QuoteMismatch { Reason::ImaDiscontinuous } else { reason })
    }

    fn meets(
        &self,
        known: &Known,
        work: &Work<'_>,
        device: &Measurements<'_>,
    ) -> Result<Option<Progress>, Reason> {
        let is_without_event_log = work.replay.is_none();
        let is_without_ima = work.values.len() <= 1 && work.resumed.is_none();
        let wants_logs = !known.policy.logs_may_be_empty;
        if wants_logs && (is_without_event_log || (known.judges_files() && is_without_ima)) {
            return Err(Reason::LogMissing);
        }
        let matched = matching(known, work, &device.quoted.pcr_digest)?;
        if !known.judges_files() {
            return Ok(None);
        }
        let judged = work.entries.get(..matched.entries).unwrap_or_default();
        self.judge_files(known, work, judged, &matched)?;
        let value = work.values.get(matched.entries).copied().unwrap_or(Digest([0; 32]));
        let count = u64::try_from(matched.entries).unwrap_or(u64::MAX);
        Ok(Some(Progress {
            attestation_key: device.attestation_key,
            reset_count: device.quoted.reset_count,
            restart_count: device.quoted.restart_count,
            policy: known.digest,
            next: work.first.saturating_add(count),
            value,
        }))
    }

    fn judge_files(
        &self,
        known: &Known,
        work: &Work<'_>,
        entries: &[Entry],
        matched: &Matched,
    ) -> Result<(), Reason> {
        let mut verified = 0usize;
        for (at, entry) in (work.first..).zip(entries) {
            if entry.is_violation {
                return Err(Reason::ImaViolation(at));
            }
            if known.policy.allows_file(&entry.path, &entry.algorithm, &entry.digest) {
                continue;
            }
            if at == 0 && entry.path == BOOT_AGGREGATE {
                if matched.is_boot_aggregate(&entry.digest) {
                    continue;
                }
                return Err(Reason::ImaBootAggregate);
            }
            if entry.signature.is_empty() || known.policy.ima_keys.is_empty() {
                return Err(Reason::ImaFile(at));
            }
            verified = verified.saturating_add(known.policy.ima_keys.len());
            if verified > SIGNATURES_MAX {
                return Err(Reason::ImaSignatures);
            }
            if !self.is_signed(known, entry) {
                return Err(Reason::ImaFile(at));
            }
        }
        Ok(())
    }

    /// Whether an allowed key signed the digest of a file.
    fn is_signed(&self, known: &Known, entry: &Entry) -> bool {
        let Some((hash, signature)) = file_signature(entry) else { return false };
        let mut keys = known.policy.ima_keys.iter().filter_map(|id| self.keys.0.get(id));
        keys.any(|key| der::signature_verifies(key, hash, &entry.digest, signature))
    }
}

/// Hash and signature bytes of `security.ima`, version 2: type 3, version 2, hash, key id of 4 bytes, size u16 big-endian,
/// signature. The hash must be the one of the entry's digest.
fn file_signature(entry: &Entry) -> Option<(HashAlgorithm, &[u8])> {
    let (head, signature) = entry.signature.split_first_chunk::<9>()?;
    let [kind, version, algorithm, _, _, _, _, size @ ..] = head;
    let (number, hash) = match entry.algorithm.as_slice() {
        b"sha256" => (4, HashAlgorithm::Sha256),
        b"sha384" => (5, HashAlgorithm::Sha384),
        b"sha512" => (6, HashAlgorithm::Sha512),
        _ => return None,
    };
    let is_whole = usize::from(u16::from_be_bytes(*size)) == signature.len();
    ((*kind, *version, *algorithm) == (3, 2, number) && is_whole).then_some((hash, signature))
}

/// The logs, read once.
struct Work<'m> {
    replay: Option<Replay>,
    entries: Vec<Entry>,
    /// Index of the first entry.
    first: u64,
    /// PCR 10 before the first entry and after each.
    values: Vec<Digest>,
    /// What the entries continue.
    resumed: Option<&'m Progress>,
}

impl<'m> Work<'m> {
    fn new(device: &Measurements<'m>) -> Result<Self, Reason> {
        let logs = device.logs;
        let replay = match logs.event_log.is_empty() {
            true => None,
            false => Some(event_log::replay(&logs.event_log).map_err(|error| Reason::EventLog(error.flaw))?),
        };
        let entries = ima::entries(&logs.ima_log).map_err(|error| Reason::ImaLog(error.flaw))?;
        let resumed = match logs.ima_first {
            0 => None,
            first if first == device.ima_next => {
                // Forgotten meanwhile: the next session asks for the whole list.
                Some(device.before.filter(|before| before.next == first).ok_or(Reason::ImaDiscontinuous)?)
            }
            _ => return Err(Reason::ImaFirst),
        };
        let same_boot = |progress: &Progress| {
            progress.reset_count == device.quoted.reset_count
                && progress.restart_count == device.quoted.restart_count
        };
        if !resumed.is_none_or(same_boot) {
            return Err(Reason::ImaDiscontinuous);
        }
        let mut value = resumed.map_or(Digest([0; 32]), |progress| progress.value);
        let mut values = Vec::with_capacity(entries.len().saturating_add(1));
        values.push(value);
        for entry in &entries {
            value = entry.extend(&value);
            values.push(value);
        }
        Ok(Self { replay, entries, first: logs.ima_first, values, resumed })
    }
}

/// The values that gave the quoted digest.
struct Matched {
    pcrs: Vec<(u8, Digest)>,
    /// Entries of the IMA list that the quote covers; later ones came after it.
    entries: usize,
}

impl Matched {
    /// Whether this is SHA-256 over PCRs 0 to 9, or 0 to 7 as older kernels have it.
    fn is_boot_aggregate(&self, digest: &[u8]) -> bool {
        [9u8, 7].iter().any(|last| {
            let value = |pcr: u8| self.pcrs.iter().find(|(index, _)| *index == pcr).map(|(_, value)| *value);
            let values: Option<Vec<Digest>> = (0..=*last).map(value).collect();
            values.is_some_and(|values| tpm::pcr_digest(&values).as_bytes() == digest)
        })
    }
}

/// Finds values that the policy allows, or that the event log leads to, which give the quoted digest.
fn matching(known: &Known, work: &Work<'_>, quoted: &Digest) -> Result<Matched, Reason> {
    let replayed = |pcr: u8| work.replay.as_ref().and_then(|replay| replay.value(pcr));
    let mut wrong = None;
    let mut choices: Vec<(u8, Vec<Digest>)> = Vec::new();
    for (pcr, allowed) in &known.policy.pcrs {
        let values = match replayed(*pcr) {
            // What the log says is what is compared with the quote; whether it is allowed is another question.
            Some(value) => {
                if !allowed.contains(&value) {
                    wrong = wrong.or(Some(*pcr));
                }
                alloc::vec![value]
            }
            None => allowed.clone(),
        };
        choices.push((*pcr, values));
    }
    let is_replayed = work.replay.is_some() || work.values.len() > 1 || work.resumed.is_some();
    let found = search(known, work, &choices, quoted);
    match (found, wrong) {
        (Some(_), Some(pcr)) => Err(Reason::PcrValue(Some(pcr))),
        (Some(matched), None) => Ok(matched),
        (None, _) if is_replayed => Err(Reason::QuoteMismatch),
        (None, _) => Err(Reason::PcrValue(None)),
    }
}

fn search(known: &Known, work: &Work<'_>, choices: &[(u8, Vec<Digest>)], quoted: &Digest) -> Option<Matched> {
    let combinations =
        choices.iter().try_fold(1usize, |product, (_, values)| product.checked_mul(values.len()))?;
    if combinations > COMBINATIONS_MAX {
        return None;
    }
    // The device reads its list after the quote was made: it may have grown. The longest prefix is tried first.
    let prefixes = if known.judges_files() { work.values.len() } else { 1 };
    let least = prefixes.saturating_sub(TRIES_MAX.checked_div(combinations.max(1)).unwrap_or(1).max(1));
    for entries in (least..prefixes).rev() {
        for combination in 0..combinations {
            let mut rest = combination;
            let mut pcrs: Vec<(u8, Digest)> = Vec::with_capacity(choices.len().saturating_add(1));
            for (pcr, values) in choices {
                let at = rest.checked_rem(values.len())?;
                rest = rest.checked_div(values.len())?;
                pcrs.push((*pcr, *values.get(at)?));
            }
            if known.judges_files() {
                pcrs.push((ima::PCR, *work.values.get(entries)?));
            }
            pcrs.sort_unstable_by_key(|(pcr, _)| *pcr);
            let values: Vec<Digest> = pcrs.iter().map(|(_, value)| *value).collect();
            if tpm::pcr_digest(&values) == *quoted {
                return Some(Matched { pcrs, entries });
            }
        }
    }
    None
}
