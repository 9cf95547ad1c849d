//! Entries for the fuzzer and for the replay of kept inputs.

use alloc::vec::Vec;

use gridseal_types::{Digest, EkName};

use super::{Logs, Measurements, PolicySet, Progress, event_log, ima};
use crate::{
    enrol::{
        cose::SignedType,
        document::{OutOfDate, Policy},
    },
    tpm,
};

/// A log of firmware: what is replayed is replayed again to the same values.
pub fn event_log(bytes: &[u8]) {
    let Ok(replay) = event_log::replay(bytes) else { return };
    assert_eq!(event_log::replay(bytes).as_ref(), Ok(&replay), "equal input, equal values");
    assert!(replay.events.saturating_mul(16) <= bytes.len(), "an event takes room");
}

/// An IMA list: any part of it from an entry on reads as the rest of the entries, and the judge of both never agrees with
/// a quote of nothing.
pub fn ima_log(bytes: &[u8]) {
    let Ok(entries) = ima::entries(bytes) else { return };
    assert!(entries.len().saturating_mul(24) <= bytes.len(), "an entry takes room");
    for first in [0u64, 1, 2, u64::MAX] {
        let (from, rest) = ima::from(bytes, first).expect("what reads can be cut");
        let skipped = usize::try_from(from).unwrap_or(usize::MAX);
        if !rest.is_empty() {
            assert_eq!(ima::entries(rest).as_deref(), Ok(entries.get(skipped..).unwrap_or_default()));
        }
    }
    let mut policies = PolicySet::default();
    let policy = Policy {
        model: "M".into(),
        release: "1".into(),
        pcrs: Vec::new(),
        ima_keys: alloc::vec![Digest([0; 32])],
        ima_paths: Vec::new(),
        version: 1,
        out_of_date: OutOfDate::Fail,
        logs_may_be_empty: true,
        issued: gridseal_types::UtcTime(0),
    };
    policies.add(SignedType::Policy.hash(&policy.encode()), policy).expect("one policy");
    let quoted = tpm::attest::Quoted {
        pcr_digest: Digest([0; 32]),
        safe: true,
        reset_count: 0,
        restart_count: 0,
        firmware_version: 0,
    };
    let before = Progress {
        attestation_key: EkName([0; 34]),
        reset_count: 0,
        restart_count: 0,
        policy: Digest([0; 32]),
        next: 1,
        value: Digest([0; 32]),
    };
    for ima_first in [0, 1] {
        let logs = Logs { event_log: Vec::new(), ima_first, ima_log: bytes.to_vec() };
        let device = Measurements {
            logs: &logs,
            ima_next: ima_first,
            quoted: &quoted,
            attestation_key: EkName([0; 34]),
            before: Some(&before),
        };
        assert!(policies.appraise("M", &device).is_err(), "a quote of nothing is met by nothing");
    }
}
