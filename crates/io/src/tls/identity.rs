//! Who we are in a handshake: a certificate chain and a key that signs wherever it lies.

use std::{fmt, sync::Arc};

use gridseal_crypto::{PublicKey, Signature, Signer, SigningKey, role::ServiceTls};
use gridseal_trust::csr::{signature_to_der, subject_public_key_info};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::TlsError;

/// The key store did not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key store did not sign")]
pub struct SignError;

/// Signs a message with ECDSA P-256 and SHA-256. Called inside the handshake, on the thread that drives it: on a server
/// it must not block.
pub type SignFn = Arc<dyn Fn(&[u8]) -> Result<Signature, SignError> + Send + Sync>;

/// A P-256 key for TLS that offers `ecdsa_secp256r1_sha256` and nothing else.
#[derive(Clone)]
pub struct TlsKey {
    public: PublicKey,
    sign: SignFn,
}

impl TlsKey {
    /// A key in process memory.
    #[must_use]
    pub fn software(key: SigningKey<ServiceTls>) -> Self {
        let public = key.public();
        Self { public, sign: Arc::new(move |message| key.sign(message).map_err(|_| SignError)) }
    }

    /// A key somewhere else, such as a meter's TPM.
    #[must_use]
    pub fn external(public: PublicKey, sign: SignFn) -> Self {
        Self { public, sign }
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsKey({:?})", self.public)
    }
}

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| -> Box<dyn rustls::sign::Signer> { Box::new(self.clone()) })
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(subject_public_key_info(&self.public).to_vec().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signature = (self.sign)(message)
            .map_err(|error| rustls::Error::Other(rustls::OtherError(Arc::new(error))))?;
        Ok(signature_to_der(&signature))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// A certificate chain with the key of its first certificate.
#[derive(Debug, Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Puts chain and key together. `chain` is DER, leaf first, without the root.
    ///
    /// # Errors
    /// [`TlsError::Chain`] for an empty chain or a leaf that does not parse, [`TlsError::KeyMismatch`] for a leaf of
    /// another key.
    pub fn new(chain: Vec<Vec<u8>>, key: TlsKey) -> Result<Self, TlsError> {
        if chain.is_empty() {
            return Err(TlsError::Chain);
        }
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let certified = CertifiedKey::new(chain, Arc::new(key));
        certified.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch,
            _ => TlsError::Chain,
        })?;
        Ok(Self(Arc::new(certified)))
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.0)))
    }
}
