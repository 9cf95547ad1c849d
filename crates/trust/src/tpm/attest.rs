//! TPMS_ATTEST: statements of a TPM, verified.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use gridseal_crypto::{PublicKey, ct_eq};
use gridseal_types::{Code, Digest, EkName};

use super::{Flaw, PcrSelection, Reader, StructureError, parse_signature};
use crate::root::Attest;

/// First word of everything that a TPM says of itself; a restricted key signs nothing else that begins with it.
pub const GENERATED: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_CERTIFY.
pub const ST_CERTIFY: u16 = 0x8017;
/// TPM_ST_ATTEST_QUOTE.
pub const ST_QUOTE: u16 = 0x8018;

/// TPM_ST_ATTEST_SESSION_AUDIT.
pub const ST_SESSION_AUDIT: u16 = 0x8016;

/// Largest TPM2B_NAME: algorithm and a SHA-512 digest.
const NAME_SIZE_MAX: usize = 66;
const DATA_SIZE_MAX: usize = 66;

/// What a verified quote says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quoted {
    /// SHA-256 over the selected PCR values, ascending.
    pub pcr_digest: Digest,
    /// Whether the clock never ran backwards: clear after a power cut. Recorded, no reason to refuse.
    pub safe: bool,
    /// Resets; obfuscated for keys of the owner hierarchy, comparable between quotes of one key.
    pub reset_count: u32,
    /// Restarts; as [`Quoted::reset_count`].
    pub restart_count: u32,
    /// Version of the TPM's firmware; as [`Quoted::reset_count`].
    pub firmware_version: u64,
}

/// The head that all attests share; the reader is left at the attested part.
struct Head<'a> {
    extra_data: &'a [u8],
    clock_ms: u64,
    reset_count: u32,
    restart_count: u32,
    safe: bool,
    firmware_version: u64,
}

fn read_head<'a>(reader: &mut Reader<'a>, kind: u16) -> Result<Head<'a>, StructureError> {
    let at_magic = reader.error("magic", Flaw::Value);
    if reader.u32("magic")? != GENERATED {
        return Err(at_magic);
    }
    reader.one_of(&[kind], "type")?;
    reader.tpm2b(NAME_SIZE_MAX, "qualifiedSigner")?;
    let extra_data = reader.tpm2b(DATA_SIZE_MAX, "extraData")?;
    let clock_ms = reader.u64("clock")?;
    let reset_count = reader.u32("resetCount")?;
    let restart_count = reader.u32("restartCount")?;
    let at_safe = reader.error("safe", Flaw::Value);
    let safe = match reader.u8("safe")? {
        0 => false,
        1 => true,
        _ => return Err(at_safe),
    };
    let firmware_version = reader.u64("firmwareVersion")?;
    Ok(Head { extra_data, clock_ms, reset_count, restart_count, safe, firmware_version })
}

fn read_certify(attest: &[u8]) -> Result<(Head<'_>, &[u8]), StructureError> {
    let mut reader = Reader::new(attest);
    let head = read_head(&mut reader, ST_CERTIFY)?;
    let name = reader.tpm2b(NAME_SIZE_MAX, "name")?;
    // Not comparable by a server: it covers the parents.
    reader.tpm2b(NAME_SIZE_MAX, "qualifiedName")?;
    reader.finish("TPMS_ATTEST")?;
    Ok((head, name))
}

fn read_quote(attest: &[u8]) -> Result<(Head<'_>, PcrSelection, Digest), StructureError> {
    let mut reader = Reader::new(attest);
    let head = read_head(&mut reader, ST_QUOTE)?;
    let selection = PcrSelection::read(&mut reader)?;
    let at_digest = reader.error("pcrDigest", Flaw::Value);
    let digest = Digest::from_slice(reader.tpm2b(Digest::SIZE, "pcrDigest")?).ok_or(at_digest)?;
    reader.finish("TPMS_ATTEST")?;
    Ok((head, selection, digest))
}

fn read_session_audit(attest: &[u8]) -> Result<(Head<'_>, &[u8]), StructureError> {
    let mut reader = Reader::new(attest);
    let head = read_head(&mut reader, ST_SESSION_AUDIT)?;
    // Whether nothing else ran meanwhile: no reason to refuse.
    reader.u8("exclusiveSession")?;
    let digest = reader.tpm2b(Digest::SIZE, "sessionDigest")?;
    reader.finish("TPMS_ATTEST")?;
    Ok((head, digest))
}

fn is_signed(attest: &Attest, key: &PublicKey) -> bool {
    parse_signature(&attest.signature).is_ok_and(|signature| key.verifies(&attest.attest, &signature))
}

/// Checks that the TPM of `attestation_key` certified, for the purpose that `qualifying` names, the object called `name`.
///
/// The caller has checked that `attestation_key` is a restricted key of that TPM ([`super::attestation_key`]), and checks
/// the public area behind `name`.
///
/// # Errors
/// [`Code::Certify`].
///
/// # Source
/// Onboarding specification, section 6.6.
pub fn verify_certify(
    attest: &Attest,
    attestation_key: &PublicKey,
    qualifying: &Digest,
    name: &EkName,
) -> Result<(), Code> {
    let (head, certified) = read_certify(&attest.attest).map_err(|_| Code::Certify)?;
    let is_right = ct_eq(head.extra_data, qualifying.as_bytes())
        && certified == name.as_bytes()
        && is_signed(attest, attestation_key);
    if is_right { Ok(()) } else { Err(Code::Certify) }
}

/// Checks a quote: exactly the PCRs of `pcr_selection` (TPML_PCR_SELECTION, SHA-256 bank alone), and their digest where one
/// is expected.
///
/// # Errors
/// [`Code::Quote`]; which rule failed is not told.
///
/// # Source
/// Onboarding specification, section 6.6.
pub fn verify_quote(
    attest: &Attest,
    attestation_key: &PublicKey,
    qualifying: &Digest,
    pcr_selection: &[u8],
    expected_pcr_digest: Option<&Digest>,
) -> Result<Quoted, Code> {
    let wanted = PcrSelection::decode(pcr_selection).map_err(|_| Code::Quote)?;
    let (head, selection, pcr_digest) = read_quote(&attest.attest).map_err(|_| Code::Quote)?;
    let is_right = ct_eq(head.extra_data, qualifying.as_bytes())
        && selection == wanted
        && expected_pcr_digest.is_none_or(|expected| *expected == pcr_digest)
        && is_signed(attest, attestation_key);
    if !is_right {
        return Err(Code::Quote);
    }
    let Head { reset_count, restart_count, safe, firmware_version, .. } = head;
    Ok(Quoted { pcr_digest, safe, reset_count, restart_count, firmware_version })
}

/// What a verified statement about an audit session says besides its digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audited {
    /// The TPM's clock, milliseconds: true for a key of the endorsement hierarchy.
    pub clock_ms: u64,
    /// Resets: as the clock.
    pub reset_count: u32,
}

/// Checks that the TPM of `identity_key` says, for the purpose that `qualifying` names, that a session has audited exactly
/// the commands behind `digest`.
///
/// # Errors
/// [`Code::Tpm`].
pub fn verify_session_audit(
    attest: &Attest,
    identity_key: &PublicKey,
    qualifying: &Digest,
    digest: &[u8; 32],
) -> Result<Audited, Code> {
    let (head, audited) = read_session_audit(&attest.attest).map_err(|_| Code::Tpm)?;
    let is_right = ct_eq(head.extra_data, qualifying.as_bytes())
        && ct_eq(audited, digest)
        && is_signed(attest, identity_key);
    let Head { clock_ms, reset_count, .. } = head;
    if is_right { Ok(Audited { clock_ms, reset_count }) } else { Err(Code::Tpm) }
}

/// Reads what it can of an attest and a signature, for the fuzzer.
pub(super) fn fuzz_entry(attest: &[u8], signature: &[u8]) -> bool {
    (read_certify(attest).is_ok() || read_quote(attest).is_ok() || read_session_audit(attest).is_ok())
        && parse_signature(signature).is_ok()
}
