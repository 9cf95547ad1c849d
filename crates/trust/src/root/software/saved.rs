//! The part of the software root that survives a power cut, and its form at rest.

use alloc::{boxed::Box, vec::Vec};

use gridseal_crypto::{
    AgreementKey, EnvelopeContext, Key, PublicKey, Rng, Signer, SigningKey, WrappedKey, random,
    role::{AuthValue, Dek, DeviceRootSecret, SoftwareRootKey},
};
use gridseal_types::{EkName, Epoch};

use super::{
    RootError, SoftwareRoot, Volatile,
    statement::{TwoNames, qualified},
};
use crate::{
    root::OwnerPin,
    tpm::{self, RH_OWNER},
};

/// TPM_PT_PERMANENT bits: the TPM made its own endorsement seed; auths set; lock-out.
const TPM_GENERATED_EPS: u32 = 1 << 10;
const OWNER_AUTH_SET: u32 = 1;
const LOCKOUT_AUTH_SET: u32 = 1 << 2;

/// What a TPM keeps in non-volatile memory.
pub(super) struct NonVolatile {
    pub(super) device_root: Key<DeviceRootSecret, 32>,
    endorsement_scalar: Key<SoftwareRootKey, 32>,
    identity_scalar: Key<SoftwareRootKey, 32>,
    /// The endorsement key, prepared.
    pub(super) endorsement: AgreementKey,
    /// The identity key's public half.
    pub(super) identity: PublicKey,
    /// Stands for the storage root key: wraps what is made under it.
    pub(super) storage_root: Key<Dek, 32>,
    /// Name of the storage root key. Nobody sees its public area, so it is drawn and not computed.
    pub(super) storage_root_name: EkName,
    pub(super) owner_auth: Option<Key<AuthValue, 32>>,
    pub(super) lockout_auth: Option<Key<AuthValue, 32>>,
    pub(super) is_locked_out: bool,
    pub(super) epoch: Epoch,
    pub(super) generation: u64,
    pub(super) pin: Option<OwnerPin>,
    pub(super) reset_count: u32,
}

fn draw_name(rng: &mut dyn Rng) -> Result<EkName, RootError> {
    Ok(tpm::name(&random::<32>(rng).map_err(|_| RootError::Rng)?))
}

fn prepare(
    endorsement: &Key<SoftwareRootKey, 32>,
    identity: &Key<SoftwareRootKey, 32>,
) -> Result<(AgreementKey, PublicKey), RootError> {
    let endorsement = AgreementKey::new(endorsement).map_err(|_| RootError::Unsuitable)?;
    let identity = SigningKey::new(identity).map_err(|_| RootError::Unsuitable)?.public();
    Ok((endorsement, identity))
}

impl NonVolatile {
    pub(super) fn make(device_root: Key<DeviceRootSecret, 32>, rng: &mut dyn Rng) -> Result<Self, RootError> {
        let endorsement_scalar = Key::generate_scalar(rng).map_err(|_| RootError::Rng)?;
        let identity_scalar = Key::generate_scalar(rng).map_err(|_| RootError::Rng)?;
        let (endorsement, identity) = prepare(&endorsement_scalar, &identity_scalar)?;
        Ok(Self {
            device_root,
            endorsement_scalar,
            identity_scalar,
            endorsement,
            identity,
            storage_root: Key::generate(rng).map_err(|_| RootError::Rng)?,
            storage_root_name: draw_name(rng)?,
            owner_auth: None,
            lockout_auth: None,
            is_locked_out: false,
            epoch: 0,
            generation: 0,
            pin: None,
            reset_count: 0,
        })
    }

    /// The identity key: it signs what a session has audited, and nothing else.
    pub(super) fn identity_signer(&self) -> Result<SigningKey<SoftwareRootKey>, RootError> {
        SigningKey::new(&self.identity_scalar).map_err(|_| RootError::Unsuitable)
    }

    pub(super) fn clear(&mut self, rng: &mut dyn Rng) -> Result<(), RootError> {
        self.storage_root = Key::generate(rng).map_err(|_| RootError::Rng)?;
        self.storage_root_name = draw_name(rng)?;
        self.owner_auth = None;
        self.lockout_auth = None;
        self.is_locked_out = false;
        self.reset_count = 0;
        Ok(())
    }

    pub(super) const fn permanent(&self) -> u32 {
        let mut bits = TPM_GENERATED_EPS;
        if self.owner_auth.is_some() {
            bits |= OWNER_AUTH_SET;
        }
        if self.lockout_auth.is_some() {
            bits |= LOCKOUT_AUTH_SET;
        }
        bits
    }

    /// Qualified name of a child of the storage root key.
    pub(super) fn qualified_name(&self, name: &EkName) -> EkName {
        let parent = qualified(&RH_OWNER.to_be_bytes(), &self.storage_root_name);
        qualified(parent.as_bytes(), name)
    }

    /// Names of a child of the storage root key.
    pub(super) fn two_names(&self, public: &[u8]) -> TwoNames {
        let name = tpm::name(public);
        TwoNames { name, qualified: self.qualified_name(&name) }
    }
}

/// Form at rest: CBOR array, every key wrapped under the caller's data key.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
struct Saved {
    #[cbor(n(0), with = "minicbor::bytes")]
    device_root: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    endorsement: Vec<u8>,
    #[cbor(n(2), with = "minicbor::bytes")]
    identity: Vec<u8>,
    #[cbor(n(3), with = "minicbor::bytes")]
    storage_root: Vec<u8>,
    #[n(4)]
    storage_root_name: EkName,
    /// Empty while the authorisation is not set.
    #[cbor(n(5), with = "minicbor::bytes")]
    owner_auth: Vec<u8>,
    #[cbor(n(6), with = "minicbor::bytes")]
    lockout_auth: Vec<u8>,
    #[n(7)]
    is_locked_out: bool,
    #[n(8)]
    epoch: Epoch,
    #[n(9)]
    pin: Option<OwnerPin>,
    #[n(10)]
    reset_count: u32,
    #[n(11)]
    platform_open: bool,
    #[n(12)]
    #[cbor(default)]
    generation: u64,
}

/// Each slot has its own place in the associated data, so that two of one role cannot be swapped.
const fn slot(version: u32) -> EnvelopeContext {
    EnvelopeContext::new([0; 16], *b"software root v1", version)
}

impl SoftwareRoot {
    /// The non-volatile part at rest; the volatile part is left out, so that [`SoftwareRoot::restore`] acts as a power cut.
    ///
    /// # Errors
    /// [`RootError::Unsuitable`] before manufacture, [`RootError::Rng`].
    pub fn save(&mut self, dek: &Key<Dek, 32>) -> Result<Vec<u8>, RootError> {
        let kept = self.kept.as_ref().ok_or(RootError::Unsuitable)?;
        let rng = &mut *self.rng;
        let auth = |auth: &Option<Key<AuthValue, 32>>, number, rng: &mut dyn Rng| match auth {
            Some(auth) => {
                auth.wrap(dek, &slot(number), rng).map(|wrapped| wrapped.0).map_err(|_| RootError::Rng)
            }
            None => Ok(Vec::new()),
        };
        let saved = Saved {
            device_root: kept.device_root.wrap(dek, &slot(0), rng).map_err(|_| RootError::Rng)?.0,
            endorsement: kept.endorsement_scalar.wrap(dek, &slot(1), rng).map_err(|_| RootError::Rng)?.0,
            identity: kept.identity_scalar.wrap(dek, &slot(2), rng).map_err(|_| RootError::Rng)?.0,
            storage_root: kept.storage_root.wrap(dek, &slot(3), rng).map_err(|_| RootError::Rng)?.0,
            storage_root_name: kept.storage_root_name,
            owner_auth: auth(&kept.owner_auth, 5, rng)?,
            lockout_auth: auth(&kept.lockout_auth, 6, rng)?,
            is_locked_out: kept.is_locked_out,
            epoch: kept.epoch,
            pin: kept.pin,
            reset_count: kept.reset_count,
            generation: kept.generation,
            platform_open: self.platform_open,
        };
        minicbor::to_vec(&saved).map_err(|_| RootError::Unsuitable)
    }

    /// A root as it is after its power came back.
    ///
    /// # Errors
    /// [`RootError::Unsuitable`] when the bytes are none that [`SoftwareRoot::save`] made under this data key.
    pub fn restore(rng: Box<dyn Rng + Send>, dek: &Key<Dek, 32>, saved: &[u8]) -> Result<Self, RootError> {
        let unsuitable = |_| RootError::Unsuitable;
        let mut decoder = minicbor::Decoder::new(saved);
        let saved_root: Saved = decoder.decode().map_err(|_| RootError::Unsuitable)?;
        if decoder.position() != saved.len() {
            return Err(RootError::Unsuitable);
        }
        let open = |bytes: Vec<u8>, number| {
            Key::unwrap_key(dek, &slot(number), &WrappedKey(bytes)).map_err(unsuitable)
        };
        let auth = |bytes: Vec<u8>, number| match bytes.is_empty() {
            true => Ok(None),
            false => Key::unwrap_key(dek, &slot(number), &WrappedKey(bytes))
                .map(Some)
                .map_err(|_| RootError::Unsuitable),
        };
        let endorsement_scalar = open(saved_root.endorsement, 1)?;
        let identity_scalar = open(saved_root.identity, 2)?;
        let (endorsement, identity) = prepare(&endorsement_scalar, &identity_scalar)?;
        let kept = NonVolatile {
            device_root: Key::unwrap_key(dek, &slot(0), &WrappedKey(saved_root.device_root))
                .map_err(unsuitable)?,
            endorsement_scalar,
            identity_scalar,
            endorsement,
            identity,
            storage_root: Key::unwrap_key(dek, &slot(3), &WrappedKey(saved_root.storage_root))
                .map_err(unsuitable)?,
            storage_root_name: saved_root.storage_root_name,
            owner_auth: auth(saved_root.owner_auth, 5)?,
            lockout_auth: auth(saved_root.lockout_auth, 6)?,
            is_locked_out: saved_root.is_locked_out,
            epoch: saved_root.epoch,
            generation: saved_root.generation,
            pin: saved_root.pin,
            reset_count: saved_root.reset_count.wrapping_add(1),
        };
        Ok(Self {
            rng,
            kept: Some(kept),
            volatile: Volatile::new(),
            platform_open: saved_root.platform_open,
            platform_kept: false,
            measurements: None,
            certificate: Vec::new(),
            firmware_version: 1,
        })
    }
}
