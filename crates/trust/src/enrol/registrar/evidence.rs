//! What the registrar checks of a device: its hello and its evidence.
//!
//! # Source
//! Onboarding specification, sections 6.3, 6.6 and 7.2.

use alloc::vec::Vec;

use gridseal_types::{Code, Digest, EkName};

use super::{DeviceFacts, Rules, SessionRecord};
use crate::{
    csr::parse_csr,
    enrol::{
        document::Policy,
        session::{EvidenceBody, HelloBody, SUITE_P256, qualifying},
    },
    root::Attest,
    tpm,
};

/// Most combinations of allowed PCR values that are tried without a log.
const COMBINATIONS_MAX: usize = 256;
/// TPM_PT_PERMANENT: somebody has disabled Clear.
const DISABLE_CLEAR: u32 = 1 << 8;

/// C1, opened: everything that needs no answer of the device. Returns the Name of the attestation key.
pub(super) fn check_hello(facts: &DeviceFacts, hello: &HelloBody) -> Result<EkName, Code> {
    if hello.ek_name != facts.device {
        return Err(Code::Unknown);
    }
    if !facts.state.may_onboard() {
        return Err(Code::State);
    }
    if hello.epoch != facts.epoch {
        return Err(Code::EpochMismatch);
    }
    if hello.voucher_head != facts.entry {
        return Err(Code::Fork);
    }
    if !facts.redirects.contains(&hello.redirect) {
        return Err(Code::RedirectSig);
    }
    if hello.ek_pub != facts.ek_pub || tpm::name(&hello.ek_pub) != facts.device {
        return Err(Code::Endorsement);
    }
    if hello.suites != [SUITE_P256] {
        return Err(Code::Suite);
    }
    let attestation = tpm::attestation_key(&hello.ak_pub)?;
    let keys = [
        attestation,
        tpm::storage_key(&hello.sto_pub)?,
        tpm::tls_key(&hello.tls_pub)?,
        tpm::identity_key(&hello.iak_pub)?,
    ];
    let distinct =
        keys.iter().enumerate().all(|(at, key)| !keys.iter().skip(at.saturating_add(1)).any(|k| k == key));
    if distinct { Ok(tpm::name(&hello.ak_pub)) } else { Err(Code::AkAttr) }
}

/// TPML_PCR_SELECTION that covers the policy's PCRs in the SHA-256 bank.
pub(super) fn pcr_selection(policy: &Policy) -> Vec<u8> {
    let indices: Vec<u8> = policy.pcrs.iter().map(|(pcr, _)| *pcr).collect();
    tpm::pcr_selection(&indices)
}

/// C3, opened: certify of three keys, quote, measured software, certificate request, state of the TPM.
pub(super) fn check_evidence(
    facts: &DeviceFacts,
    record: &SessionRecord,
    rules: &Rules,
    body: &EvidenceBody,
) -> Result<(), Code> {
    let [attestation, storage, tls, identity] = &record.keys;
    let attestation = tpm::attestation_key(&attestation.0)?;
    // The transcript after C2 is what the evidence is bound to.
    let th2 = record.transcript;
    let certified: [(&Attest, u8, &[u8]); 3] = [
        (&body.certify_storage, 1, &storage.0),
        (&body.certify_tls, 2, &tls.0),
        (&body.certify_identity, 3, &identity.0),
    ];
    for (attest, purpose, public) in certified {
        tpm::attest::verify_certify(attest, &attestation, &qualifying(purpose, &th2), &tpm::name(public))?;
    }
    let selection = pcr_selection(&rules.policy);
    let quoted =
        tpm::attest::verify_quote(&body.quote, &attestation, &qualifying(4, &th2), &selection, None)?;
    if rules.policy.model != facts.model {
        return Err(Code::Policy);
    }
    check_measurements(&rules.policy, body, &quoted.pcr_digest)?;
    if parse_csr(&body.csr)? != tpm::tls_key(&tls.0)? {
        return Err(Code::Csr);
    }
    if body.permanent & DISABLE_CLEAR != 0 {
        return Err(Code::Owned);
    }
    if body.platform_open && !rules.danger_accept_open_platform {
        return Err(Code::PlatformOpen);
    }
    Ok(())
}

/// Whether the quoted digest is that of allowed PCR values. Log replay comes later: logs must be empty, and the policy
/// must say that they may be.
fn check_measurements(policy: &Policy, body: &EvidenceBody, quoted: &Digest) -> Result<(), Code> {
    if !policy.logs_may_be_empty || !body.event_log.is_empty() || !body.ima_log.is_empty() {
        return Err(Code::Policy);
    }
    let combinations =
        policy.pcrs.iter().try_fold(1usize, |product, (_, values)| product.checked_mul(values.len()));
    let combinations = combinations.filter(|count| *count <= COMBINATIONS_MAX).ok_or(Code::Policy)?;
    let matches = (0..combinations).any(|combination| {
        let mut rest = combination;
        let values: Vec<Digest> = policy
            .pcrs
            .iter()
            .filter_map(|(_, values)| {
                let at = rest.checked_rem(values.len())?;
                rest = rest.checked_div(values.len())?;
                values.get(at).copied()
            })
            .collect();
        tpm::pcr_digest(&values) == *quoted
    });
    if matches { Ok(()) } else { Err(Code::Policy) }
}
