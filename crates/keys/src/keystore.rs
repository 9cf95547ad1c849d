//! The software keystore: the service's own long-lived keys, wrapped under one key that lives in a file of its own until
//! an HSM takes its place (decision D8). It is always reported as software.

use alloc::vec::Vec;

use gridseal_crypto::{
    AgreementKey, Curve, CurvePublic, CurveSigner, EnvelopeContext, Key, KeyError, PublicKey, Rng, Signer,
    SigningKey, WrappedKey,
    role::{AuthRoot, ConfigSigning, Dek, DlmsSigning, OwnerEncryption},
};
use gridseal_trust::enrol::{
    cose::{Sign1, SignedType},
    document::{Delegation, Use},
    voucher::VoucherKey,
};
use gridseal_types::{Digest, UtcTime, service::keys::Bytes};

use crate::{DataKeys, KeysError};

/// Version of the keystore's own keys.
const VERSION: u32 = 1;

/// Context of a signing key: bound to its curve.
const fn signing_context(tenant: [u8; 16], curve: Curve) -> EnvelopeContext {
    let suite = match curve {
        Curve::P256 => 1,
        Curve::P384 => 2,
    };
    let EnvelopeContext { object, version, origin, .. } = own_context(tenant);
    EnvelopeContext { tenant, object, version, suite, origin }
}

/// The keystore as it lies on disk: envelopes and public facts only.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
pub struct KeystoreFile {
    /// Tenant.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub tenant: [u8; 16],
    /// K_config, wrapped.
    #[n(1)]
    config_signing: Bytes,
    /// Owner encryption key, wrapped.
    #[n(2)]
    owner_encryption: Bytes,
    /// Root of TPM authorisations, wrapped; one that was made before there was one draws them at random.
    #[cbor(n(3), default)]
    auth_root: Option<Bytes>,
    /// Signing keys as a DLMS client, of P-256 and of P-384, wrapped; one that was made before there were any speaks suite 0.
    #[cbor(n(4), default)]
    signing: Vec<Bytes>,
}

/// The public halves of the keystore's keys: what the owner key is asked to delegate to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKeys {
    /// K_config.
    pub config: PublicKey,
    /// Owner encryption key.
    pub encryption: PublicKey,
}

const fn own_context(tenant: [u8; 16]) -> EnvelopeContext {
    EnvelopeContext::new(tenant, [0; 16], VERSION)
}

impl KeystoreFile {
    /// Draws the service's own keys.
    ///
    /// # Errors
    /// [`KeysError`] when the random source fails.
    pub fn create(dek: &Key<Dek, 32>, tenant: [u8; 16], rng: &mut dyn Rng) -> Result<Self, KeysError> {
        let config = Key::<ConfigSigning, 32>::generate_scalar(rng)?;
        let encryption = Key::<OwnerEncryption, 32>::generate_scalar(rng)?;
        Ok(Self {
            tenant,
            config_signing: Bytes(config.wrap(dek, &own_context(tenant), rng)?.0),
            owner_encryption: Bytes(encryption.wrap(dek, &own_context(tenant), rng)?.0),
            auth_root: Some(Bytes(
                Key::<AuthRoot, 32>::generate(rng)?.wrap(dek, &own_context(tenant), rng)?.0,
            )),
            signing: alloc::vec![
                Bytes(
                    Key::<DlmsSigning, 32>::generate_scalar(rng)?
                        .wrap(dek, &signing_context(tenant, Curve::P256), rng)?
                        .0
                ),
                Bytes(
                    Key::<DlmsSigning, 48>::generate_scalar(rng)?
                        .wrap(dek, &signing_context(tenant, Curve::P384), rng)?
                        .0
                ),
            ],
        })
    }

    fn scalars(&self, dek: &Key<Dek, 32>) -> Result<Scalars, KeysError> {
        let context = own_context(self.tenant);
        let wrapped = |bytes: &Bytes| WrappedKey(bytes.0.clone());
        Ok((
            Key::unwrap_key(dek, &context, &wrapped(&self.config_signing))?,
            Key::unwrap_key(dek, &context, &wrapped(&self.owner_encryption))?,
        ))
    }

    fn auth_root(&self, dek: &Key<Dek, 32>) -> Result<Option<Key<AuthRoot, 32>>, KeysError> {
        let Some(wrapped) = &self.auth_root else { return Ok(None) };
        Ok(Some(Key::unwrap_key(dek, &own_context(self.tenant), &WrappedKey(wrapped.0.clone()))?))
    }

    /// Signing keys of P-256 and of P-384.
    fn signers(&self, dek: &Key<Dek, 32>) -> Result<Signers, KeysError> {
        let [short, long] = self.signing.as_slice() else { return Ok(Signers::default()) };
        let context = |curve| signing_context(self.tenant, curve);
        let short: Key<DlmsSigning, 32> =
            Key::unwrap_key(dek, &context(Curve::P256), &WrappedKey(short.0.clone()))?;
        let long: Key<DlmsSigning, 48> =
            Key::unwrap_key(dek, &context(Curve::P384), &WrappedKey(long.0.clone()))?;
        Ok(Signers {
            short: Some(CurveSigner::new(&short)?),
            long: Some(CurveSigner::new(&long)?),
            #[cfg(feature = "danger-inventory")]
            inventory: alloc::vec![
                ("DlmsSigning", short.danger_reveal_hex()),
                ("DlmsSigning", long.danger_reveal_hex()),
            ],
        })
    }

    /// Public signing keys as a DLMS client, of P-256 and of P-384; none of a keystore that was made before there were any.
    ///
    /// # Errors
    /// [`KeysError`] when the data key is another.
    pub fn signing_keys(&self, dek: &Key<Dek, 32>) -> Result<Vec<CurvePublic>, KeysError> {
        let Signers { short, long, .. } = self.signers(dek)?;
        Ok(short.iter().chain(&long).map(CurveSigner::public).collect())
    }

    /// The public keys.
    ///
    /// # Errors
    /// [`KeysError`] when the data key is another.
    pub fn public_keys(&self, dek: &Key<Dek, 32>) -> Result<PublicKeys, KeysError> {
        let (config, encryption) = self.scalars(dek)?;
        Ok(PublicKeys {
            config: SigningKey::new(&config)?.public(),
            encryption: AgreementKey::new(&encryption)?.public(),
        })
    }
}

/// Signs as a DLMS client.
#[derive(Debug, Default)]
struct Signers {
    short: Option<CurveSigner>,
    long: Option<CurveSigner>,
    #[cfg(feature = "danger-inventory")]
    inventory: Vec<(&'static str, alloc::string::String)>,
}

type Scalars = (Key<ConfigSigning, 32>, Key<OwnerEncryption, 32>);

/// A delegation to K_config.
#[derive(Debug)]
pub(crate) struct Delegated {
    /// Encoded COSE_Sign1.
    pub(crate) signed: Vec<u8>,
    pub(crate) generation: u32,
    /// Until when it holds.
    pub(crate) not_after: UtcTime,
    owner_key: Digest,
}

impl Delegated {
    fn to(config: &PublicKey, signed: Vec<u8>) -> Result<Self, KeysError> {
        let sign1 = Sign1::decode(&signed).map_err(|_| KeysError::Delegation)?;
        let parsed = Delegation::decode(sign1.payload).map_err(|_| KeysError::Delegation)?;
        if parsed.key != *config || !parsed.allows(Use::Config) || !parsed.allows(Use::Redirect) {
            return Err(KeysError::Delegation);
        }
        Ok(Self {
            generation: parsed.generation,
            not_after: parsed.not_after,
            owner_key: parsed.owner_key,
            signed,
        })
    }
}

/// The opened keystore, in the memory of `keys-core` only.
#[derive(Debug)]
pub struct Keystore {
    /// Tenant.
    pub tenant: [u8; 16],
    pub(crate) dek: DataKeys,
    pub(crate) config: SigningKey<ConfigSigning>,
    pub(crate) encryption: AgreementKey,
    pub(crate) auth_root: Option<Key<AuthRoot, 32>>,
    signers: Signers,
    /// Under which K_config works.
    delegation: Delegated,
    /// By the owner's next key, for devices that know that one already.
    next_delegation: Option<Delegated>,
    /// Manufacturers' keys, against which delivery records are checked.
    pub(crate) voucher_keys: Vec<VoucherKey>,
    #[cfg(feature = "danger-inventory")]
    inventory: Vec<(&'static str, alloc::string::String)>,
}

impl Keystore {
    /// Opens a keystore for work under a delegation of the owner key.
    ///
    /// # Errors
    /// [`KeysError::Keystore`] when the data key is another; [`KeysError::Delegation`] when the delegation is not for
    /// this keystore's K_config with both uses.
    pub fn open(
        file: &KeystoreFile,
        dek: Key<Dek, 32>,
        delegation: Vec<u8>,
        voucher_keys: Vec<VoucherKey>,
    ) -> Result<Self, KeysError> {
        let (config_scalar, encryption_scalar) = file.scalars(&dek)?;
        let config = SigningKey::new(&config_scalar)?;
        let encryption = AgreementKey::new(&encryption_scalar)?;
        let delegation = Delegated::to(&config.public(), delegation)?;
        let auth_root = file.auth_root(&dek)?;
        #[cfg_attr(
            not(feature = "danger-inventory"),
            expect(unused_mut, reason = "told of with the feature")
        )]
        let mut signers = file.signers(&dek)?;
        #[cfg(feature = "danger-inventory")]
        let of_signers = core::mem::take(&mut signers.inventory);
        Ok(Self {
            tenant: file.tenant,
            #[cfg(feature = "danger-inventory")]
            inventory: alloc::vec![
                ("ConfigSigning", config_scalar.danger_reveal_hex()),
                ("OwnerEncryption", encryption_scalar.danger_reveal_hex()),
                ("Dek", dek.danger_reveal_hex()),
            ]
            .into_iter()
            .chain(of_signers)
            .collect(),
            dek: DataKeys::unnumbered(dek),
            config,
            encryption,
            auth_root,
            signers,
            delegation,
            next_delegation: None,
            voucher_keys,
        })
    }

    /// The same keystore with a delegation by the owner's next key: devices that were rekeyed to it get this one.
    ///
    /// # Errors
    /// [`KeysError::Delegation`] as [`Keystore::open`].
    pub fn with_next_delegation(mut self, delegation: Vec<u8>) -> Result<Self, KeysError> {
        self.next_delegation = Some(Delegated::to(&self.config.public(), delegation)?);
        Ok(self)
    }

    /// The delegation that a device verifies by the owner key that it knows: of the next key, when it was rekeyed to that.
    pub(crate) fn delegation(&self, owner_key: Option<&Digest>) -> &Delegated {
        let next = self.next_delegation.as_ref();
        next.filter(|next| owner_key == Some(&next.owner_key)).unwrap_or(&self.delegation)
    }

    /// The same keystore with data keys of their own, wrapped under the tenant's key. The key it was opened with opens
    /// what it has wrapped before, and wraps nothing more.
    #[must_use]
    pub fn with_data_keys(mut self, keys: DataKeys) -> Self {
        #[cfg(feature = "danger-inventory")]
        self.inventory.extend(keys.danger_all().map(|key| ("Dek", key.key().danger_reveal_hex())));
        self.dek = keys.and(self.dek);
        self
    }

    /// Signs a payload that this service built.
    pub(crate) fn sign(&self, kind: SignedType, payload: &[u8]) -> Result<Vec<u8>, KeyError> {
        gridseal_trust::enrol::cose::sign(&self.config, kind, payload)
    }

    /// Signs as a DLMS client with a key of a curve.
    pub(crate) const fn signer(&self, curve: Curve) -> Option<&CurveSigner> {
        match curve {
            Curve::P256 => self.signers.short.as_ref(),
            Curve::P384 => self.signers.long.as_ref(),
        }
    }

    /// Public key of a curve with which this service signs as a DLMS client: what its certificate is for.
    #[must_use]
    pub fn signing_public(&self, curve: Curve) -> Option<CurvePublic> {
        self.signer(curve).map(CurveSigner::public)
    }

    /// The service's own keys, role and hex, for a demo's search of other processes.
    #[cfg(feature = "danger-inventory")]
    pub(crate) fn danger_inventory(&self) -> &[(&'static str, alloc::string::String)] {
        &self.inventory
    }
}
