//! TPMS_ATTEST as the software root makes them.

use alloc::vec::Vec;

use gridseal_crypto::{Signer, SigningKey, role::SoftwareRootKey};
use gridseal_types::{Digest, EkName};

use super::RootError;
use crate::{
    root::Attest,
    tpm::{
        self, ALG_SHA256, PcrSelection, RH_ENDORSEMENT,
        attest::{GENERATED, ST_CERTIFY, ST_QUOTE, ST_SESSION_AUDIT},
        signature_structure, tpm2b,
    },
};

/// Name and qualified name of an object.
pub(super) struct TwoNames {
    pub(super) name: EkName,
    pub(super) qualified: EkName,
}

/// `000b || SHA-256(parent's qualified name || name)`.
pub(super) fn qualified(parent: &[u8], name: &EkName) -> EkName {
    let digest = tpm::digest(&[parent, name.as_bytes()]);
    let mut qualified = [0; EkName::SIZE];
    let bytes = ALG_SHA256.to_be_bytes().into_iter().chain(*digest.as_bytes());
    qualified.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    EkName(qualified)
}

/// Names of a primary of the endorsement hierarchy.
pub(super) fn endorsement_child(public: &[u8]) -> TwoNames {
    let name = tpm::name(public);
    TwoNames { name, qualified: qualified(&RH_ENDORSEMENT.to_be_bytes(), &name) }
}

/// What is the same in all statements of one request.
pub(super) struct Context<'k> {
    pub(super) signer: &'k SigningKey<SoftwareRootKey>,
    pub(super) qualified_signer: EkName,
    pub(super) clock: u64,
    pub(super) reset_count: u32,
    pub(super) firmware_version: u64,
}

impl Context<'_> {
    /// Fields up to `attested`: magic, type, qualifiedSigner, extraData, clockInfo, firmwareVersion.
    fn head(&self, kind: u16, qualifying: &Digest) -> Vec<u8> {
        let mut attest = Vec::with_capacity(180);
        attest.extend_from_slice(&GENERATED.to_be_bytes());
        attest.extend_from_slice(&kind.to_be_bytes());
        tpm2b(&mut attest, self.qualified_signer.as_bytes());
        tpm2b(&mut attest, qualifying.as_bytes());
        attest.extend_from_slice(&self.clock.to_be_bytes());
        attest.extend_from_slice(&self.reset_count.to_be_bytes());
        // restartCount 0, safe 1.
        attest.extend_from_slice(&[0, 0, 0, 0, 1]);
        attest.extend_from_slice(&self.firmware_version.to_be_bytes());
        attest
    }

    fn signed(&self, attest: Vec<u8>) -> Result<Attest, RootError> {
        let signature = self.signer.sign(&attest).map_err(|_| RootError::Unsuitable)?;
        Ok(Attest { signature: signature_structure(&signature), attest })
    }

    /// TPM2_Certify.
    pub(super) fn certify(&self, qualifying: &Digest, object: &TwoNames) -> Result<Attest, RootError> {
        let mut attest = self.head(ST_CERTIFY, qualifying);
        tpm2b(&mut attest, object.name.as_bytes());
        tpm2b(&mut attest, object.qualified.as_bytes());
        self.signed(attest)
    }

    /// TPM2_GetSessionAuditDigest of a session that audited nothing but what `audited` is the digest of.
    pub(super) fn session_audit(&self, qualifying: &Digest, audited: &[u8; 32]) -> Result<Attest, RootError> {
        let mut attest = self.head(ST_SESSION_AUDIT, qualifying);
        // exclusiveSession: no other command was audited in between.
        attest.push(1);
        tpm2b(&mut attest, audited);
        self.signed(attest)
    }

    /// TPM2_Quote.
    pub(super) fn quote(
        &self,
        qualifying: &Digest,
        selection: &PcrSelection,
        pcr_digest: &Digest,
    ) -> Result<Attest, RootError> {
        let mut attest = self.head(ST_QUOTE, qualifying);
        attest.extend_from_slice(&selection.encode());
        tpm2b(&mut attest, pcr_digest.as_bytes());
        self.signed(attest)
    }
}
