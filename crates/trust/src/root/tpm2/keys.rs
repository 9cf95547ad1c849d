//! Keys: primaries, children of the storage root key, and what they do.

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, Signature, random,
    role::{ActivationSecret, DeviceRootSecret, OwnerSecret},
    sha256,
    tpm::{EndorsementKey, SealedSecret, encrypted_device_root},
};
use gridseal_types::{Code, Digest, EkName, Epoch};

use super::{
    DEVICE_ROOT_HANDLE, ENDORSEMENT_HANDLE, STORAGE_ROOT_HANDLE, Tpm2Root,
    wire::{Answer, Auth, Call, PARAMETER_SIZE_MAX, cc, rc},
};
use crate::{
    enrol::secrets::owner_secret_input,
    root::{Attest, EndorsementKind, ImportObject, KeyBlob, RootError, TpmTransport},
    tpm::{
        self, ALG_NULL, ALG_SHA256, DEVICE_ROOT_TEMPLATE, ENDORSEMENT_RSA_TEMPLATE, ENDORSEMENT_TEMPLATE,
        RH_ENDORSEMENT, RH_NULL, RH_OWNER, RH_PLATFORM, Reader, STORAGE_TEMPLATE, parse_signature, tpm2b,
    },
};

/// TPM2B_SENSITIVE_CREATE with empty auth and no data.
const NO_SENSITIVE: [u8; 6] = [0, 4, 0, 0, 0, 0];
const ST_HASHCHECK: u16 = 0x8024;

/// TPMT_PUBLIC of a template with `unique` of a point that is not there yet: two empty coordinates.
pub(super) fn without_point(template: &[u8]) -> Vec<u8> {
    [template, &[0; 4]].concat()
}

/// The TCG fixes `unique` of the endorsement templates: two coordinates of 32 zero bytes, or a modulus of 256.
fn endorsement_template(kind: EndorsementKind) -> Vec<u8> {
    let mut public;
    match kind {
        EndorsementKind::P256 => {
            public = ENDORSEMENT_TEMPLATE.to_vec();
            tpm2b(&mut public, &[0; 32]);
            tpm2b(&mut public, &[0; 32]);
        }
        EndorsementKind::Rsa2048 => {
            public = ENDORSEMENT_RSA_TEMPLATE.to_vec();
            tpm2b(&mut public, &[0; 256]);
        }
    }
    public
}

/// Parameters of Create and CreatePrimary after inSensitive: inPublic, outsideInfo, creationPCR.
fn creation_parameters(in_sensitive: &[u8], public: &[u8]) -> Vec<u8> {
    let mut parameters = in_sensitive.to_vec();
    tpm2b(&mut parameters, public);
    parameters.extend_from_slice(&[0; 6]);
    parameters
}

/// The first TPM2B of a parameter area.
fn first_value(parameters: &[u8], field: &'static str) -> Result<Vec<u8>, RootError> {
    Ok(Reader::new(parameters).tpm2b(PARAMETER_SIZE_MAX, field)?.to_vec())
}

impl<T: TpmTransport> Tpm2Root<T> {
    /// Runs `work` with a transient object, which is gone afterwards, however `work` ends.
    pub(super) fn with_object<R>(
        &mut self,
        handle: u32,
        work: impl FnOnce(&mut Self, u32) -> Result<R, RootError>,
    ) -> Result<R, RootError> {
        let result = work(self, handle);
        let flushed = self.flush_context(handle);
        let value = result?;
        flushed.map(|()| value)
    }

    fn create_primary(&mut self, hierarchy: u32, public: &[u8]) -> Result<(u32, Vec<u8>), RootError> {
        let parameters = creation_parameters(&NO_SENSITIVE, public);
        let call = Call {
            cc: cc::CREATE_PRIMARY,
            handles: &[hierarchy],
            auths: &[Auth::Empty],
            parameters: &parameters,
        };
        let answer = self.run(&call)?;
        match first_value(&answer.parameters, "outPublic") {
            Ok(public) => Ok((answer.handle, public)),
            Err(error) => self.flush_context(answer.handle).and(Err(error)),
        }
    }

    fn evict_control(&mut self, hierarchy: u32, object: u32, persistent: u32) -> Result<(), RootError> {
        let call = Call {
            cc: cc::EVICT_CONTROL,
            handles: &[hierarchy, object],
            auths: &[Auth::Empty],
            parameters: &persistent.to_be_bytes(),
        };
        self.run(&call).map(|_| ())
    }

    /// The public area of a persistent object, `None` when there is none.
    pub(super) fn read_public(&mut self, handle: u32) -> Result<Option<Vec<u8>>, RootError> {
        match self.run(&Call { cc: cc::READ_PUBLIC, handles: &[handle], auths: &[], parameters: &[] }) {
            Ok(answer) => first_value(&answer.parameters, "outPublic").map(Some),
            Err(RootError::Refused { rc: rc::HANDLE_H1, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn persistent_primary(
        &mut self,
        hierarchy: u32,
        public: &[u8],
        persistent: u32,
    ) -> Result<Vec<u8>, RootError> {
        if let Some(public) = self.read_public(persistent)? {
            return Ok(public);
        }
        let (handle, public) = self.create_primary(hierarchy, public)?;
        // Persistent objects of the endorsement hierarchy are kept by the owner.
        self.with_object(handle, |root, object| root.evict_control(RH_OWNER, object, persistent))?;
        Ok(public)
    }

    /// The endorsement key's public area; made from the template and kept when it is missing, as after Clear.
    pub(super) fn endorsement_public(&mut self) -> Result<Vec<u8>, RootError> {
        if let Some(public) = &self.endorsement_public {
            return Ok(public.clone());
        }
        let template = endorsement_template(self.endorsement);
        let public = self.persistent_primary(RH_ENDORSEMENT, &template, ENDORSEMENT_HANDLE)?;
        match (tpm::endorsement_key(&public).map_err(RootError::Endorsement)?, self.endorsement) {
            (EndorsementKey::P256(_), EndorsementKind::P256)
            | (EndorsementKey::Rsa2048(_), EndorsementKind::Rsa2048) => {}
            // Somebody keeps another kind at the handle: this device has another Name than it was made with.
            _ => return Err(RootError::Endorsement(Code::Endorsement)),
        }
        self.endorsement_public = Some(public.clone());
        Ok(public)
    }

    /// Makes and keeps the storage root key when it is missing.
    pub(super) fn ensure_storage_root(&mut self) -> Result<(), RootError> {
        let public =
            self.persistent_primary(RH_OWNER, &without_point(&STORAGE_TEMPLATE), STORAGE_ROOT_HANDLE)?;
        tpm::storage_key(&public).map(|_| ()).map_err(|_| RootError::Unsuitable)
    }

    /// Gives N_root to the TPM, encrypted to a session, as a persistent HMAC key of the platform hierarchy.
    pub(super) fn keep_device_root(
        &mut self,
        device_root: &Key<DeviceRootSecret, 32>,
    ) -> Result<(), RootError> {
        let session = self.own_session()?;
        let caller = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let sensitive = encrypted_device_root(&session.key, &caller, &session.nonce_tpm, device_root);
        let parameters = creation_parameters(&sensitive, &DEVICE_ROOT_TEMPLATE);
        let call =
            Call { cc: cc::CREATE_PRIMARY, handles: &[RH_PLATFORM], auths: &[], parameters: &parameters };
        let answer = self.run_decrypting(&session, &caller, call, &[&RH_PLATFORM.to_be_bytes()])?;
        self.with_object(answer.handle, |root, object| {
            root.evict_control(RH_PLATFORM, object, DEVICE_ROOT_HANDLE)
        })
    }

    /// `N_e`, encrypted on its way to us.
    pub(super) fn owner_secret(&mut self, epoch: Epoch) -> Result<Key<OwnerSecret, 32>, RootError> {
        let public = self.read_public(DEVICE_ROOT_HANDLE)?.ok_or(RootError::Unsuitable)?;
        let mut parameters = Vec::with_capacity(22);
        tpm2b(&mut parameters, &owner_secret_input(epoch));
        parameters.extend_from_slice(&ALG_SHA256.to_be_bytes());
        let call = Call { cc: cc::HMAC, handles: &[DEVICE_ROOT_HANDLE], auths: &[], parameters: &parameters };
        let secret = self.run_encrypted(call, [Auth::Empty].into(), &[tpm::name(&public).as_bytes()])?;
        secret.into_key().ok_or(RootError::Malformed)
    }

    /// Create under the storage root key.
    pub(super) fn create(&mut self, template: &[u8]) -> Result<KeyBlob, RootError> {
        let parameters = creation_parameters(&NO_SENSITIVE, &without_point(template));
        let call = Call {
            cc: cc::CREATE,
            handles: &[STORAGE_ROOT_HANDLE],
            auths: &[Auth::Empty],
            parameters: &parameters,
        };
        let answer = self.run(&call)?;
        let mut reader = Reader::new(&answer.parameters);
        let mut private = Vec::new();
        tpm2b(&mut private, reader.tpm2b(PARAMETER_SIZE_MAX, "outPrivate")?);
        let public = reader.tpm2b(PARAMETER_SIZE_MAX, "outPublic")?.to_vec();
        Ok(KeyBlob { public, private })
    }

    /// The identity key's public area; the key itself is made again when needed.
    pub(super) fn identity_public(&mut self) -> Result<Vec<u8>, RootError> {
        self.with_identity(|_, _, public| Ok(public.to_vec()))
    }

    pub(super) fn with_identity<R>(
        &mut self,
        work: impl FnOnce(&mut Self, u32, &[u8]) -> Result<R, RootError>,
    ) -> Result<R, RootError> {
        let (handle, public) =
            self.create_primary(RH_ENDORSEMENT, &without_point(&tpm::ATTESTATION_TEMPLATE))?;
        self.with_object(handle, |root, object| work(root, object, &public))
    }

    /// Loads a blob under `parent` and runs `work` with it.
    pub(super) fn with_loaded<R>(
        &mut self,
        parent: u32,
        blob: &KeyBlob,
        work: impl FnOnce(&mut Self, u32) -> Result<R, RootError>,
    ) -> Result<R, RootError> {
        let mut parameters = blob.private.clone();
        tpm2b(&mut parameters, &blob.public);
        let call = Call { cc: cc::LOAD, handles: &[parent], auths: &[Auth::Empty], parameters: &parameters };
        let handle = self.run(&call)?.handle;
        self.with_object(handle, work)
    }

    /// ActivateCredential: recovers K_act, encrypted on its way to us.
    pub(super) fn activate(
        &mut self,
        (attestation, attestation_name): (u32, &EkName),
        credential: &[u8],
        secret: &[u8],
    ) -> Result<Key<ActivationSecret, 32>, RootError> {
        let endorsement_name = tpm::name(&self.endorsement_public()?);
        let parameters = [credential, secret].concat();
        let activation = self.with_policy_secret(RH_ENDORSEMENT, |root, policy| {
            let call = Call {
                cc: cc::ACTIVATE_CREDENTIAL,
                handles: &[attestation, ENDORSEMENT_HANDLE],
                auths: &[],
                parameters: &parameters,
            };
            let auths = [Auth::Empty, Auth::Policy(policy)].into();
            root.run_encrypted(call, auths, &[attestation_name.as_bytes(), endorsement_name.as_bytes()])
        })?;
        activation.into_key().ok_or(RootError::Malformed)
    }

    /// Splits TPM2B_ATTEST and TPMT_SIGNATURE.
    fn attest_of(answer: &Answer) -> Result<Attest, RootError> {
        let mut reader = Reader::new(&answer.parameters);
        let attest = reader.tpm2b(PARAMETER_SIZE_MAX, "attest")?.to_vec();
        Ok(Attest { attest, signature: reader.rest().to_vec() })
    }

    /// Certify with the key's own scheme.
    pub(super) fn certify(
        &mut self,
        object: u32,
        signer: u32,
        qualifying: &Digest,
    ) -> Result<Attest, RootError> {
        let mut parameters = Vec::with_capacity(36);
        tpm2b(&mut parameters, qualifying.as_bytes());
        parameters.extend_from_slice(&ALG_NULL.to_be_bytes());
        let call = Call {
            cc: cc::CERTIFY,
            handles: &[object, signer],
            auths: &[Auth::Empty, Auth::Empty],
            parameters: &parameters,
        };
        Self::attest_of(&self.run(&call)?)
    }

    /// Quote with the key's own scheme.
    pub(super) fn quote(
        &mut self,
        signer: u32,
        qualifying: &Digest,
        pcr_selection: &[u8],
    ) -> Result<Attest, RootError> {
        let mut parameters = Vec::with_capacity(46);
        tpm2b(&mut parameters, qualifying.as_bytes());
        parameters.extend_from_slice(&ALG_NULL.to_be_bytes());
        parameters.extend_from_slice(pcr_selection);
        let call = Call { cc: cc::QUOTE, handles: &[signer], auths: &[Auth::Empty], parameters: &parameters };
        Self::attest_of(&self.run(&call)?)
    }

    /// GetSessionAuditDigest with the key's own scheme; the endorsement hierarchy, whose authorisation is empty, allows it.
    pub(super) fn sign_audit(
        &mut self,
        session: u32,
        signer: u32,
        qualifying: &Digest,
    ) -> Result<Attest, RootError> {
        let mut parameters = Vec::with_capacity(36);
        tpm2b(&mut parameters, qualifying.as_bytes());
        parameters.extend_from_slice(&ALG_NULL.to_be_bytes());
        let call = Call {
            cc: cc::GET_SESSION_AUDIT_DIGEST,
            handles: &[RH_ENDORSEMENT, signer, session],
            auths: &[Auth::Empty, Auth::Empty],
            parameters: &parameters,
        };
        Self::attest_of(&self.run(&call)?)
    }

    /// Import of one object under a loaded storage key.
    pub(super) fn import(
        &mut self,
        storage: u32,
        object: &ImportObject,
    ) -> Result<(KeyBlob, EkName), RootError> {
        let mut parameters = Vec::with_capacity(256);
        tpm2b(&mut parameters, &[]);
        tpm2b(&mut parameters, &object.public);
        parameters.extend_from_slice(&object.duplicate);
        parameters.extend_from_slice(&object.in_sym_seed);
        parameters.extend_from_slice(&ALG_NULL.to_be_bytes());
        let call =
            Call { cc: cc::IMPORT, handles: &[storage], auths: &[Auth::Empty], parameters: &parameters };
        let answer = self.run(&call)?;
        let mut private = Vec::new();
        tpm2b(&mut private, &first_value(&answer.parameters, "outPrivate")?);
        let name = tpm::name(&object.public);
        Ok((KeyBlob { public: object.public.clone(), private }, name))
    }

    /// Unseal, encrypted on its way to us.
    pub(super) fn unseal(&mut self, object: u32, name: &EkName) -> Result<SealedSecret, RootError> {
        let call = Call { cc: cc::UNSEAL, handles: &[object], auths: &[], parameters: &[] };
        self.run_encrypted(call, [Auth::Empty].into(), &[name.as_bytes()])
    }

    /// Sign of a digest made here: the key is unrestricted, a NULL ticket will do.
    pub(super) fn sign(&mut self, key: u32, message: &[u8]) -> Result<Signature, RootError> {
        let mut parameters = Vec::with_capacity(44);
        tpm2b(&mut parameters, &sha256(&[message]));
        parameters.extend_from_slice(&ALG_NULL.to_be_bytes());
        parameters.extend_from_slice(&ST_HASHCHECK.to_be_bytes());
        parameters.extend_from_slice(&RH_NULL.to_be_bytes());
        parameters.extend_from_slice(&[0, 0]);
        let call = Call { cc: cc::SIGN, handles: &[key], auths: &[Auth::Empty], parameters: &parameters };
        Ok(parse_signature(&self.run(&call)?.parameters)?)
    }
}
