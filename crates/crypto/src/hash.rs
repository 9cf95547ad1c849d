//! Hashing and comparing in constant time.

use subtle::ConstantTimeEq;

use crate::backend::{Active, Backend};

/// SHA-256 over the concatenated parts.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    Active::sha256(parts)
}

/// Whether two byte strings are equal, in time that depends on their lengths alone.
#[must_use]
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
