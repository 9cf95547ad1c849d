//! Certificate requests (PKCS#10) for P-256 keys, written and read by hand: a device links no X.509 library.
//!
//! A device whose key sits in a TPM makes the bytes to be signed, lets the TPM sign them and assembles the request. The
//! registrar takes nothing out of a request but its public key, and that only with the proof of possession.
//!
//! # Source
//! RFC 2986 section 4 (PKCS#10), RFC 5480 section 2 (P-256 keys), RFC 5758 section 3.2 (ecdsa-with-SHA256).
#![warn(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)]

use alloc::vec::Vec;

use gridseal_crypto::{PublicKey, Signature, tpm::EndorsementKey};
use gridseal_types::Code;

/// Largest request that is read, bytes.
pub const CSR_SIZE_MAX: usize = 2_048;

/// Length of a P-256 SubjectPublicKeyInfo, bytes.
pub const SPKI_SIZE: usize = 91;

/// SubjectPublicKeyInfo of P-256 up to the point's x: id-ecPublicKey, secp256r1, BIT STRING, 04.
const SPKI_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
/// AlgorithmIdentifier contents: ecdsa-with-SHA256 without parameters.
const ECDSA_SHA256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const OID_COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const ATTRIBUTES: u8 = 0xa0;

/// SubjectPublicKeyInfo of a key, DER. Its SHA-256 is what pins and admissions name.
#[must_use]
pub fn subject_public_key_info(key: &PublicKey) -> [u8; SPKI_SIZE] {
    let mut der = [0; SPKI_SIZE];
    let bytes = SPKI_PREFIX.iter().chain(key.point());
    der.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    der
}

/// AlgorithmIdentifier of RSA keys, DER: rsaEncryption with NULL parameters.
const RSA_ENCRYPTION: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// SubjectPublicKeyInfo of an endorsement key, DER: what its certificate has, and what a manifest names by its SHA-256.
#[must_use]
pub fn endorsement_key_info(key: &EndorsementKey) -> Vec<u8> {
    match key {
        EndorsementKey::P256(key) => subject_public_key_info(key).to_vec(),
        EndorsementKey::Rsa2048(key) => {
            let numbers = tlv(SEQUENCE, &[&unsigned(key.modulus()), &tlv(INTEGER, &[&[1, 0, 1]])]);
            tlv(SEQUENCE, &[&RSA_ENCRYPTION, &tlv(BIT_STRING, &[&[0], &numbers])])
        }
    }
}

/// The key of a SubjectPublicKeyInfo; `None` unless it is exactly a P-256 key with an uncompressed point on the curve.
#[must_use]
pub fn key_of_spki(der: &[u8]) -> Option<PublicKey> {
    PublicKey::from_point(der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()?)
}

/// A signature r || s as DER `SEQUENCE { r INTEGER, s INTEGER }`, at most 72 bytes: the form of certificates and TLS.
#[must_use]
pub fn signature_to_der(signature: &Signature) -> Vec<u8> {
    signature_parts_to_der(signature)
}

/// As [`signature_to_der`], for r and s of any one size.
pub(crate) fn signature_parts_to_der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    tlv(SEQUENCE, &[&unsigned(r), &unsigned(s)])
}

/// r || s of a DER signature; `None` for anything but two minimal, positive integers of at most 32 bytes.
#[must_use]
pub fn signature_from_der(der: &[u8]) -> Option<Signature> {
    let (mut body, rest) = take(der, SEQUENCE)?;
    let mut signature = [0; 64];
    for half in signature.chunks_exact_mut(32) {
        let (integer, after) = take(body, INTEGER)?;
        body = after;
        let magnitude = match integer {
            [0, next @ ..] if next.first()? >= &0x80 => next,
            [0x01..=0x7f, ..] => integer,
            _ => return None,
        };
        let start = half.len().checked_sub(magnitude.len())?;
        half.get_mut(start..)?.copy_from_slice(magnitude);
    }
    (body.is_empty() && rest.is_empty()).then_some(signature)
}

/// CertificationRequestInfo, DER: what the key has to sign (ECDSA with SHA-256).
///
/// `subject` becomes the common name and serves people who read the request; the certificate's subject comes from the
/// issuer's register. At most 64 bytes of it are used (RFC 5280, ub-common-name).
#[must_use]
pub fn csr_to_be_signed(subject: &str, key: &PublicKey) -> Vec<u8> {
    let end = (0..=64.min(subject.len())).rev().find(|&end| subject.is_char_boundary(end)).unwrap_or(0);
    let text = subject.as_bytes().get(..end).unwrap_or_default();
    let attribute =
        tlv(SEQUENCE, &[&tlv(OBJECT_IDENTIFIER, &[&OID_COMMON_NAME]), &tlv(UTF8_STRING, &[text])]);
    let name = tlv(SEQUENCE, &[&tlv(SET, &[&attribute])]);
    tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &name, &subject_public_key_info(key), &tlv(ATTRIBUTES, &[])])
}

/// The request, DER, from [`csr_to_be_signed`] and its signature.
#[must_use]
pub fn assemble_csr(to_be_signed: &[u8], signature: &Signature) -> Vec<u8> {
    let algorithm = tlv(SEQUENCE, &[&ECDSA_SHA256]);
    let bits = tlv(BIT_STRING, &[&[0], &signature_to_der(signature)]);
    tlv(SEQUENCE, &[to_be_signed, &algorithm, &bits])
}

/// Public key of a request whose self-signature verifies. Subject and attributes are not looked into.
///
/// # Errors
/// [`Code::Csr`] unless it is one PKCS#10 of version 1, at most [`CSR_SIZE_MAX`] bytes, DER with minimal lengths, for a
/// P-256 key, signed by that key with ecdsa-with-SHA256, and nothing follows it.
pub fn parse_csr(der: &[u8]) -> Result<PublicKey, Code> {
    parse(der).ok_or(Code::Csr)
}

fn parse(der: &[u8]) -> Option<PublicKey> {
    if der.len() > CSR_SIZE_MAX {
        return None;
    }
    let (request, trailing) = take(der, SEQUENCE)?;
    let (body, after_body) = take(request, SEQUENCE)?;
    let to_be_signed = consumed(request, after_body)?;
    let (algorithm, after_algorithm) = take(after_body, SEQUENCE)?;
    let (bits, rest) = take(after_algorithm, BIT_STRING)?;

    let (version, after_version) = take(body, INTEGER)?;
    let (_subject, after_subject) = take(after_version, SEQUENCE)?;
    let (_, after_key) = take(after_subject, SEQUENCE)?;
    let key = key_of_spki(consumed(after_subject, after_key)?)?;
    let (_attributes, after_attributes) = take(after_key, ATTRIBUTES)?;

    let (unused_bits, signature) = bits.split_first()?;
    let is_complete = trailing.is_empty() && rest.is_empty() && after_attributes.is_empty();
    if !is_complete || version != [0] || algorithm != ECDSA_SHA256 || *unused_bits != 0 {
        return None;
    }
    key.verifies(to_be_signed, &signature_from_der(signature)?).then_some(key)
}

/// Public key of a certificate, DER, `None` unless it is a P-256 key. Nothing is verified: for asking "is this for my
/// own key?" of a chain that arrived authenticated.
#[must_use]
pub fn certificate_key(der: &[u8]) -> Option<PublicKey> {
    let (certificate, _) = take(der, SEQUENCE)?;
    let (body, _) = take(certificate, SEQUENCE)?;
    // Version [0], serial number, signature algorithm, issuer, validity, subject.
    let after_version = take(body, ATTRIBUTES).map_or(body, |(_, rest)| rest);
    let (_, after_serial) = take(after_version, INTEGER)?;
    let mut rest = after_serial;
    for _ in 0..4 {
        (_, rest) = take(rest, SEQUENCE)?;
    }
    let (_, after_key) = take(rest, SEQUENCE)?;
    key_of_spki(consumed(rest, after_key)?)
}

/// Entry for the fuzzer: no panic; what is accepted re-assembles to the same bytes.
pub fn fuzz_entry(input: &[u8]) {
    if let Some(signature) = signature_from_der(input) {
        assert_eq!(signature_to_der(&signature), input, "one encoding for one signature");
    }
    let _ = certificate_key(input);
    if parse_csr(input).is_ok() {
        assert!(input.len() <= CSR_SIZE_MAX, "accepted beyond the limit");
    }
}

/// Contents of the element with this tag at the front, and what follows it.
fn take(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match (first, rest) {
        (0..=0x7f, _) => (usize::from(first), rest),
        (0x81, [length @ 0x80..=0xff, rest @ ..]) => (usize::from(*length), rest),
        (0x82, [high @ 1..=0xff, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    if found == tag { rest.split_at_checked(length) } else { None }
}

/// The front of `whole` that is no longer in `rest`.
fn consumed<'a>(whole: &'a [u8], rest: &[u8]) -> Option<&'a [u8]> {
    whole.get(..whole.len().checked_sub(rest.len())?)
}

/// One element. Contents stay below 64 KiB: all callers write requests of bounded parts.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = u16::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).unwrap_or(u16::MAX);
    let mut der = alloc::vec![tag];
    match length.to_be_bytes() {
        [0, low @ 0..=0x7f] => der.push(low),
        [0, low] => der.extend([0x81, low]),
        [high, low] => der.extend([0x82, high, low]),
    }
    parts.iter().for_each(|part| der.extend_from_slice(part));
    der
}

/// INTEGER of an unsigned big-endian number: leading zeros gone, one zero in front of a set top bit.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|&byte| byte != 0).unwrap_or(number.len().saturating_sub(1));
    let magnitude = number.get(start..).unwrap_or_default();
    let sign: &[u8] = if magnitude.first().is_some_and(|&byte| byte >= 0x80) { &[0] } else { &[] };
    tlv(INTEGER, &[sign, magnitude])
}

#[cfg(test)]
mod tests {
    use gridseal_crypto::{Key, Rng, RngError, Signer, SigningKey, role::ServiceTls};
    use proptest::prelude::*;

    use super::*;

    struct Counting(u8);
    impl Rng for Counting {
        fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
            for byte in buffer {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
            Ok(())
        }
    }

    fn key() -> SigningKey<ServiceTls> {
        SigningKey::new(&Key::generate_scalar(&mut Counting(0)).unwrap()).unwrap()
    }

    fn request(subject: &str) -> Vec<u8> {
        let body = csr_to_be_signed(subject, &key().public());
        let signature = key().sign(&body).unwrap();
        assemble_csr(&body, &signature)
    }

    /// Wraps other contents into a request that the key has really signed.
    fn signed(body: &[u8], algorithm: &[u8], unused_bits: u8) -> Vec<u8> {
        let signature = signature_to_der(&key().sign(body).unwrap());
        let bits = tlv(BIT_STRING, &[&[unused_bits], &signature]);
        tlv(SEQUENCE, &[body, &tlv(SEQUENCE, &[algorithm]), &bits])
    }

    #[test]
    fn a_request_gives_its_key_back() {
        for subject in ["meter", "", &"ü".repeat(200)] {
            assert_eq!(parse_csr(&request(subject)), Ok(key().public()));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let whole = request("meter 4711");
        for length in 0..whole.len() {
            assert_eq!(parse_csr(&whole[..length]), Err(Code::Csr), "{length} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_csr(&flipped), Err(Code::Csr), "bit {bit}");
        }
    }

    #[test]
    fn trailing_bytes_and_oversize_are_refused() {
        let mut longer = request("meter");
        longer.push(0);
        assert_eq!(parse_csr(&longer), Err(Code::Csr));
        let body = |filler: usize| {
            let name = tlv(SEQUENCE, &[&alloc::vec![0; filler]]);
            let spki = subject_public_key_info(&key().public());
            tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &name, &spki, &tlv(ATTRIBUTES, &[])])
        };
        assert!(parse_csr(&signed(&body(1_000), &ECDSA_SHA256, 0)).is_ok());
        assert_eq!(parse_csr(&signed(&body(2_000), &ECDSA_SHA256, 0)), Err(Code::Csr));
    }

    #[test]
    fn a_request_of_another_version_algorithm_or_shape_is_refused_although_signed() {
        let spki = subject_public_key_info(&key().public());
        let (name, attributes) = (tlv(SEQUENCE, &[]), tlv(ATTRIBUTES, &[]));
        let good = tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &name, &spki, &attributes]);
        assert!(parse_csr(&signed(&good, &ECDSA_SHA256, 0)).is_ok());
        assert_eq!(parse_csr(&signed(&good, &ECDSA_SHA256, 1)), Err(Code::Csr));
        let sha384 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
        assert_eq!(parse_csr(&signed(&good, &sha384, 0)), Err(Code::Csr));
        let null_parameters = [ECDSA_SHA256.as_slice(), &[5, 0]].concat();
        assert_eq!(parse_csr(&signed(&good, &null_parameters, 0)), Err(Code::Csr));
        let version_2 = tlv(SEQUENCE, &[&tlv(INTEGER, &[&[1]]), &name, &spki, &attributes]);
        assert_eq!(parse_csr(&signed(&version_2, &ECDSA_SHA256, 0)), Err(Code::Csr));
        let no_attributes = tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &name, &spki]);
        assert_eq!(parse_csr(&signed(&no_attributes, &ECDSA_SHA256, 0)), Err(Code::Csr));
        let extra = tlv(SEQUENCE, &[&tlv(INTEGER, &[&[0]]), &name, &spki, &attributes, &[5, 0]]);
        assert_eq!(parse_csr(&signed(&extra, &ECDSA_SHA256, 0)), Err(Code::Csr));
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let mut spki = subject_public_key_info(&key().public());
        spki[SPKI_SIZE - 1] ^= 1;
        assert_eq!(key_of_spki(&spki), None);
    }

    #[test]
    fn the_key_of_a_certificate_is_found_with_and_without_a_version() {
        let spki = subject_public_key_info(&key().public());
        let (serial, part) = (tlv(INTEGER, &[&[7]]), tlv(SEQUENCE, &[]));
        let version = tlv(ATTRIBUTES, &[&tlv(INTEGER, &[&[2]])]);
        for version in [version, Vec::new()] {
            let body = tlv(SEQUENCE, &[&version, &serial, &part, &part, &part, &part, &spki]);
            let certificate = tlv(SEQUENCE, &[&body, &part, &tlv(BIT_STRING, &[&[0]])]);
            assert_eq!(certificate_key(&certificate), Some(key().public()));
            for length in 0..certificate.len() {
                assert_eq!(certificate_key(&certificate[..length]), None, "{length} bytes");
            }
            let one_short =
                tlv(SEQUENCE, &[&tlv(SEQUENCE, &[&version, &serial, &part, &part, &part, &spki])]);
            assert_eq!(certificate_key(&one_short), None);
        }
    }

    #[test]
    fn short_and_high_integers_keep_their_value() {
        let mut signature = [0; 64];
        signature[31] = 0x80;
        signature[63] = 1;
        let der = signature_to_der(&signature);
        assert_eq!(der, [0x30, 7, 2, 2, 0, 0x80, 2, 1, 1]);
        assert_eq!(signature_from_der(&der), Some(signature));
    }

    #[test]
    fn integers_that_are_zero_negative_padded_or_long_are_refused() {
        for r in [&[][..], &[0], &[0x80], &[0, 0x7f], &[1; 33], &[0, 0xff, 0xff].repeat(12)] {
            let der = tlv(SEQUENCE, &[&tlv(INTEGER, &[r]), &tlv(INTEGER, &[&[1]])]);
            assert_eq!(signature_from_der(&der), None, "{r:02x?}");
        }
    }

    #[test]
    fn lengths_that_are_not_minimal_are_refused() {
        assert_eq!(take(&[0x30, 0x81, 0x01, 0x00], SEQUENCE), None);
        assert_eq!(take(&[0x30, 0x82, 0x00, 0x80], SEQUENCE), None);
        assert_eq!(take(&[0x30, 0x80, 0x00, 0x00], SEQUENCE), None);
    }

    proptest! {
        #[test]
        fn signatures_round_trip(halves in prop::collection::vec(1..=u8::MAX, 64)) {
            let signature: Signature = halves.try_into().unwrap();
            prop_assert_eq!(signature_from_der(&signature_to_der(&signature)), Some(signature));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(input in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_entry(&input);
        }
    }
}
