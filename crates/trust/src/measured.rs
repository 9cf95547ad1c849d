//! What a device has measured: logs as firmware and kernel keep them, replayed against the PCRs that a quote covers, and
//! judged by signed policies.
//!
//! Both logs come from the device and are believed in nothing: a log counts only when the values that it leads to are
//! those that the TPM has quoted. All work is bounded by the size of the input and by named limits.
//!
//! # Source
//! Onboarding specification, section 8; TCG PC Client Platform Firmware Profile (event log); Linux IMA templates
//! `ima-ng` and `ima-sig`.

pub mod appraise;
pub mod event_log;
#[doc(hidden)]
pub mod fuzz_entry;
pub mod ima;
mod read;

pub use appraise::{Appraisal, Grounds, ImaKeys, Measurements, PolicySet, Progress, Reason, Verdict};
pub use read::{LogError, LogFlaw};

use alloc::vec::Vec;

use gridseal_types::Digest;

use crate::tpm;

/// Largest event log or IMA log in one message, bytes.
pub const LOG_SIZE_MAX: usize = 262_144;

/// What a device hands over with its quote. Empty logs say that it keeps none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Logs {
    /// TCG event log, whole.
    pub event_log: Vec<u8>,
    /// Index of the first IMA entry that follows.
    pub ima_first: u64,
    /// IMA entries, binary or text.
    pub ima_log: Vec<u8>,
}

/// A PCR after one more measurement: `SHA-256(before || measured)`.
fn extended(before: &Digest, measured: &Digest) -> Digest {
    tpm::digest(&[before.as_bytes(), measured.as_bytes()])
}
