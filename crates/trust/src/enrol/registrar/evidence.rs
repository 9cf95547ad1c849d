//! What the registrar checks of a device: its hello and its evidence.
//!
//! # Source
//! Onboarding specification, sections 6.3, 6.6 and 7.2.

use gridseal_types::{Code, EkName, UtcTime};

use super::{DeviceFacts, Rules, SessionRecord};
use crate::{
    csr::parse_csr,
    endorsement::{Assured, Fault},
    enrol::session::{EvidenceBody, HelloBody, qualifying, suite_of},
    measured::{Appraisal, Measurements, Reason},
    root::Attest,
    tpm,
};

/// TPM_PT_PERMANENT: somebody has disabled Clear.
const DISABLE_CLEAR: u32 = 1 << 8;

/// The certificate of the endorsement key, unless it was believed before; costs signatures, so it comes after everything
/// that costs none. What it says, when one was presented and could be judged.
pub(super) fn check_endorsement(
    facts: &DeviceFacts,
    rules: &Rules,
    hello: &HelloBody,
    now: UtcTime,
) -> Result<Option<Assured>, Fault> {
    if facts.is_endorsed {
        return Ok(None);
    }
    let endorsement = tpm::endorsement_key(&facts.ek_pub).map_err(|_| Fault::OtherKey)?;
    let assured = rules.endorsements.judge(&facts.model, &endorsement, &hello.ek_chain, now)?;
    if rules.endorsements.required && assured.is_none() { Err(Fault::Missing) } else { Ok(assured) }
}

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
    if hello.suites != [suite_of(&facts.ek_pub)?] {
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

/// Why evidence fails.
pub(super) enum Failure {
    /// A check with a code of its own.
    Check(Code),
    /// The measured software.
    Software(Reason),
}

impl From<Code> for Failure {
    fn from(code: Code) -> Self {
        Self::Check(code)
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::Software(reason)
    }
}

/// C3, opened: certify of three keys, quote, measured software, certificate request, state of the TPM.
pub(super) fn check_evidence(
    facts: &DeviceFacts,
    record: &SessionRecord,
    rules: &Rules,
    body: &EvidenceBody,
) -> Result<Appraisal, Failure> {
    let [attestation_public, storage, tls, identity] = &record.keys;
    let attestation = tpm::attestation_key(&attestation_public.0)?;
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
    let selection = rules.policies.pcr_selection(&facts.model).ok_or(Reason::NoPolicy)?;
    let quoted =
        tpm::attest::verify_quote(&body.quote, &attestation, &qualifying(4, &th2), &selection, None)?;
    let appraisal = rules.policies.appraise(
        &facts.model,
        &Measurements {
            logs: &body.logs,
            ima_next: record.ima_next,
            quoted: &quoted,
            attestation_key: tpm::name(&attestation_public.0),
            before: facts.measured.as_ref(),
        },
    )?;
    if parse_csr(&body.csr)? != tpm::tls_key(&tls.0)? {
        return Err(Code::Csr.into());
    }
    if body.permanent & DISABLE_CLEAR != 0 {
        return Err(Code::Owned.into());
    }
    if body.platform_open && !rules.danger_accept_open_platform {
        return Err(Code::PlatformOpen.into());
    }
    Ok(appraisal)
}
