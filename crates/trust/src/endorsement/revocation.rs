//! Revocation lists of the issuers of endorsement key certificates, imported by the owner.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::{collections::BTreeSet, vec::Vec};

use gridseal_crypto::HashAlgorithm;

use super::{Certificate, Fault, REVOCATION_LIST_SIZE_MAX, certificate::signature_hash};
use crate::der::{self, BIT_STRING, Der, INTEGER, SEQUENCE};

/// A list, read but not believed: it counts only once its issuer's certificate is known and its signature verifies.
///
/// It counts beyond its nextUpdate too: what was revoked stays so. That a newer one is due is the operator's concern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevocationList {
    to_be_signed: Vec<u8>,
    hash: HashAlgorithm,
    signature: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    serials: BTreeSet<Vec<u8>>,
}

impl RevocationList {
    /// Reads a list, DER.
    ///
    /// # Errors
    /// [`Fault::Size`], [`Fault::Format`], [`Fault::Algorithm`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > REVOCATION_LIST_SIZE_MAX {
            return Err(Fault::Size);
        }
        Self::read(bytes).ok_or(Fault::Format)?
    }

    fn read(bytes: &[u8]) -> Option<Result<Self, Fault>> {
        let mut outer = Der::new(bytes).inside(SEQUENCE)?;
        let to_be_signed = outer.optional(SEQUENCE)?;
        let algorithm = outer.optional(SEQUENCE)?;
        let signature = der::bits(outer.expect(BIT_STRING)?)?;
        let mut body = Der::new(to_be_signed.contents);
        body.expect(INTEGER);
        body.optional(SEQUENCE)?;
        let issuer = body.optional(SEQUENCE)?;
        // thisUpdate, and nextUpdate where there is one.
        body.any()?;
        let mut entries = body.any();
        if entries.is_some_and(|element| element.tag != SEQUENCE) {
            entries = body.any();
        }
        let mut serials = BTreeSet::new();
        let mut list = Der::new(
            entries.filter(|element| element.tag == SEQUENCE).map_or(&[][..], |element| element.contents),
        );
        while !list.is_empty() {
            serials.insert(list.inside(SEQUENCE)?.expect(INTEGER)?.to_vec());
        }
        let Some(hash) = signature_hash(algorithm.whole) else { return Some(Err(Fault::Algorithm)) };
        Some(Ok(Self {
            to_be_signed: to_be_signed.whole.to_vec(),
            hash,
            signature: signature.to_vec(),
            issuer: issuer.whole.to_vec(),
            serials,
        }))
    }

    /// Whether this list, if `issuer` really made it, revokes a certificate.
    pub(super) fn revokes(&self, certificate: &Certificate, issuer: &Certificate) -> bool {
        if self.issuer != certificate.issuer || !self.serials.contains(&certificate.serial) {
            return false;
        }
        let Some(key) = &issuer.key else { return false };
        let digest = self.hash.digest(&self.to_be_signed);
        der::signature_verifies(key, self.hash, &digest, &self.signature)
    }
}
