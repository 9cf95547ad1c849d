//! All three protections of an APDU, with keys of 16 bytes (suites 0 and 1) or 32 bytes (suite 2).

use alloc::vec::Vec;

use aes::{Aes128, Aes256};
use aes_gcm::{
    AesGcm, KeyInit,
    aead::{Aead, Payload, consts::U12},
};
use gridseal_types::SystemTitle;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{TAG_SIZE, nonce};
use crate::{
    Key, Ticket,
    role::{DedicatedKey, Gak, Gbek, Guek, Role, TransactionKey},
};

/// Bit of the security control octet: authenticated.
const AUTHENTICATED: u8 = 0x10;
/// Bit of the security control octet: encrypted.
const ENCRYPTED: u8 = 0x20;

mod sealed {
    pub trait Sealed {}
}

/// Roles of keys that encrypt APDUs.
pub trait CipherRole: Role + sealed::Sealed {}

macro_rules! cipher_roles {
    ($($role:ty),*) => { $(impl sealed::Sealed for $role {} impl CipherRole for $role {})* };
}
cipher_roles!(Guek, Gbek, DedicatedKey, TransactionKey);

/// What goes into nonce and associated data beside the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who protects.
    pub originator: SystemTitle,
    /// Security control octet; bits 4 (authenticated) and 5 (encrypted) decide what is done.
    pub security_control: u8,
}

/// AES-GCM by key size; `None` for another size, an input beyond the mode's limits, or (opening) a wrong tag.
fn gcm(key: &[u8], nonce: [u8; 12], payload: Payload<'_, '_>, opens: bool) -> Option<Vec<u8>> {
    fn run<C: Aead>(
        cipher: &C,
        nonce: &aes_gcm::aead::Nonce<C>,
        payload: Payload<'_, '_>,
        opens: bool,
    ) -> Option<Vec<u8>> {
        if opens { cipher.decrypt(nonce, payload).ok() } else { cipher.encrypt(nonce, payload).ok() }
    }
    if let Ok(key) = <[u8; 16]>::try_from(key) {
        return run(&AesGcm::<Aes128, U12, U12>::new((&key).into()), (&nonce).into(), payload, opens);
    }
    let key = Zeroizing::new(<[u8; 32]>::try_from(key).ok()?);
    run(&AesGcm::<Aes256, U12, U12>::new((&*key).into()), (&nonce).into(), payload, opens)
}

fn associated<const N: usize>(
    header: Header,
    gak: &Key<Gak, N>,
    covered: &[u8],
    apdu: &[u8],
) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 + N + covered.len() + apdu.len()));
    bytes.push(header.security_control);
    bytes.extend_from_slice(gak.bytes());
    bytes.extend_from_slice(covered);
    bytes.extend_from_slice(apdu);
    bytes
}

/// Protects an APDU as bits 4 and 5 of the security control say; the result is what follows the counter: ciphertext and
/// tag, plain APDU and tag, or ciphertext alone. Consumes the ticket, whose value is the counter.
///
/// `None` when the control asks for neither, for keys of another size, or beyond the limits of the mode.
///
/// # Source
/// DLMS fact sheet, section 5.3.
#[must_use]
pub fn protect<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    ticket: Ticket,
    apdu: &[u8],
) -> Option<Vec<u8>> {
    protect_covering(cipher, gak, header, ticket, (&[], apdu))
}

/// As [`protect`], for `(covered, apdu)` where the tag also covers bytes that stand before the body: the header of
/// general-ciphering, between the authentication key and what is protected.
///
/// # Source
/// DLMS fact sheet, section 5.5.
#[must_use]
pub fn protect_covering<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    ticket: Ticket,
    (covered, apdu): (&[u8], &[u8]),
) -> Option<Vec<u8>> {
    let nonce = nonce(header.originator, ticket.value());
    let control = header.security_control;
    match (control & ENCRYPTED != 0, control & AUTHENTICATED != 0) {
        (true, true) => {
            let aad = associated(header, gak, covered, &[]);
            gcm(cipher.bytes(), nonce, Payload { msg: apdu, aad: &aad }, false)
        }
        (false, true) => {
            let aad = associated(header, gak, covered, apdu);
            let tag = gcm(cipher.bytes(), nonce, Payload { msg: &[], aad: &aad }, false)?;
            Some([apdu, tag.as_slice()].concat())
        }
        (true, false) => unauthenticated(cipher, nonce, apdu),
        (false, false) => None,
    }
}

/// As [`protect`] for `before || length octet || dedicated key || after`: the InitiateRequest that delivers the key.
#[must_use]
#[expect(clippy::too_many_arguments, reason = "the inputs of the standard, each of a type of its own")]
pub fn protect_with_key<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    ticket: Ticket,
    before: &[u8],
    dedicated: &Key<DedicatedKey, N>,
    after: &[u8],
) -> Option<Vec<u8>> {
    let mut apdu = Zeroizing::new(Vec::with_capacity(before.len() + 1 + N + after.len()));
    apdu.extend_from_slice(before);
    apdu.push(u8::try_from(N).ok()?);
    apdu.extend_from_slice(dedicated.bytes());
    apdu.extend_from_slice(after);
    protect(cipher, gak, header, ticket, &apdu)
}

/// The inverse of [`protect`]. `None` when the tag does not verify; without authentication there is no tag, and what
/// comes out may be anything.
///
/// # Source
/// DLMS fact sheet, section 5.3.
#[must_use]
pub fn unprotect<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    invocation_counter: u32,
    body: &[u8],
) -> Option<Vec<u8>> {
    unprotect_covering(cipher, gak, header, invocation_counter, (&[], body))
}

/// As [`unprotect`], for `(covered, body)` where the tag also covers bytes that stand before the body: the header of
/// general-ciphering, between the authentication key and what is protected.
///
/// # Source
/// DLMS fact sheet, section 5.5.
#[must_use]
pub fn unprotect_covering<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    invocation_counter: u32,
    (covered, body): (&[u8], &[u8]),
) -> Option<Vec<u8>> {
    let nonce = nonce(header.originator, invocation_counter);
    let control = header.security_control;
    match (control & ENCRYPTED != 0, control & AUTHENTICATED != 0) {
        (true, true) => {
            let aad = associated(header, gak, covered, &[]);
            gcm(cipher.bytes(), nonce, Payload { msg: body, aad: &aad }, true)
        }
        (false, true) => {
            let (apdu, tag) = body.split_at_checked(body.len().checked_sub(TAG_SIZE)?)?;
            let aad = associated(header, gak, covered, apdu);
            gcm(cipher.bytes(), nonce, Payload { msg: tag, aad: &aad }, true)?;
            Some(apdu.to_vec())
        }
        (true, false) => unauthenticated(cipher, nonce, body),
        (false, false) => None,
    }
}

/// Decrypts without looking at the tag, which need not even be there: what comes out may be anything. For people who
/// look at recorded APDUs of meters whose authentication key they were not given; never for a meter or a service.
///
/// # Source
/// DLMS fact sheet, section 12, trap 15.
#[must_use]
pub fn danger_decrypt_unverified<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    originator: SystemTitle,
    invocation_counter: u32,
    ciphertext: &[u8],
) -> Option<Vec<u8>> {
    unauthenticated(cipher, nonce(originator, invocation_counter), ciphertext)
}

/// Counter mode alone: the same in both directions.
fn unauthenticated<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    nonce: [u8; 12],
    text: &[u8],
) -> Option<Vec<u8>> {
    let mut out = gcm(cipher.bytes(), nonce, Payload { msg: text, aad: &[] }, false)?;
    out.truncate(text.len());
    Some(out)
}

/// GMAC of a challenge: the tag under nonce and `security control || GAK || challenge`. Consumes the ticket.
///
/// # Source
/// DLMS fact sheet, section 4, mechanism 5.
#[must_use]
pub fn gmac<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    ticket: Ticket,
    challenge: &[u8],
) -> Option<[u8; TAG_SIZE]> {
    tag(cipher, gak, header, ticket.value(), challenge)
}

/// Whether the tag is the GMAC of a challenge, in constant time.
#[must_use]
#[expect(clippy::too_many_arguments, reason = "the inputs of the standard, each of a type of its own")]
pub fn gmac_verifies<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    invocation_counter: u32,
    challenge: &[u8],
    found: &[u8],
) -> bool {
    tag(cipher, gak, header, invocation_counter, challenge)
        .is_some_and(|expected| expected.as_slice().ct_eq(found).into())
}

fn tag<R: CipherRole, const N: usize>(
    cipher: &Key<R, N>,
    gak: &Key<Gak, N>,
    header: Header,
    counter: u32,
    challenge: &[u8],
) -> Option<[u8; TAG_SIZE]> {
    let aad = associated(header, gak, &[], challenge);
    let nonce = nonce(header.originator, counter);
    gcm(cipher.bytes(), nonce, Payload { msg: &[], aad: &aad }, false)?.try_into().ok()
}
