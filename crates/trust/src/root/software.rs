//! A root of trust in process memory: the structures of a TPM 2.0, byte for byte, without one.
//!
//! For tests, load and simulation; it says so ([`Assurance::Software`]). It has what a TPM has: a part that survives a power
//! cut ([`SoftwareRoot::save`]) and a part that does not ([`SoftwareRoot::power_cut`]). Private keys never leave
//! `gridseal-crypto` in the clear: a [`KeyBlob`] holds a scalar wrapped under the root's own storage key, so that blobs of
//! another root do not load.
//!
//! Deterministic for a given random source, but for signatures where the back end draws its own randomness.

mod keys;
mod ownership;
mod saved;
mod statement;

use alloc::{boxed::Box, vec::Vec};

use gridseal_crypto::{
    AgreementKey, Key, Rng, Signer, SigningKey,
    role::{AuthValue, DeviceRootSecret, SoftwareRootKey},
    tpm::{SecretLabel, SessionNonces, TpmSessionKey, open_credential, open_duplicate, recover_secret},
};
use gridseal_types::{Digest, EkName, N16, service::keys::TpmSession};

use super::{
    Assurance, AttestRequest, Attested, Description, DeviceRoot, ImportObject, KeyBlob, MeasurementSource,
    OwnerKeys, QuoteRequest, RenewRequest, Renewed, RootError, RootReply, RootRequest,
};
use crate::enrol::secrets::owner_secret;
use crate::measured::Logs;
use crate::tpm::{
    self, ATTESTATION_TEMPLATE, ENDORSEMENT_TEMPLATE, PCR_COUNT, STORAGE_TEMPLATE, TLS_TEMPLATE,
};

use saved::NonVolatile;

/// Response codes, as a TPM gives them.
mod rc {
    pub(super) const INTEGRITY_P1: u32 = 0x1df;
    pub(super) const INTEGRITY_P3: u32 = 0x3df;
    pub(super) const ECC_POINT_P1: u32 = 0x1e7;
    /// TPM_RC_TYPE of handle 3: the session audits nothing.
    pub(super) const TYPE_H3: u32 = 0x38a;
    pub(super) const VALUE_P2: u32 = 0x2c4;
}

/// Command codes, for errors.
mod cc {
    pub(super) const ACTIVATE_CREDENTIAL: u32 = 0x147;
    pub(super) const GET_SESSION_AUDIT_DIGEST: u32 = 0x14d;
    pub(super) const IMPORT: u32 = 0x156;
    pub(super) const LOAD: u32 = 0x157;
    pub(super) const QUOTE: u32 = 0x158;
    pub(super) const START_AUTH_SESSION: u32 = 0x176;
}

const fn refused(command: u32, rc: u32) -> RootError {
    RootError::Refused { command, rc }
}

/// Handle of the first session.
const FIRST_SESSION: u32 = 0x0200_0000;

/// A salted HMAC session.
struct Session {
    handle: u32,
    key: TpmSessionKey,
    nonce_tpm: [u8; 16],
    /// Digest of what it audited.
    audited: Option<[u8; 32]>,
}

/// What a power cut takes.
struct Volatile {
    sessions: Vec<Session>,
    pcrs: [Digest; PCR_COUNT as usize],
    clock: u64,
}

impl Volatile {
    const fn new() -> Self {
        Self { sessions: Vec::new(), pcrs: [Digest([0; 32]); PCR_COUNT as usize], clock: 0 }
    }

    fn pcr_digest(&self, selection: &tpm::PcrSelection) -> Digest {
        let values: Vec<Digest> =
            selection.indices().filter_map(|index| self.pcrs.get(usize::from(index)).copied()).collect();
        tpm::pcr_digest(&values)
    }
}

/// A device root in process memory.
pub struct SoftwareRoot {
    rng: Box<dyn Rng + Send>,
    kept: Option<NonVolatile>,
    volatile: Volatile,
    platform_open: bool,
    /// Boot firmware has kept the platform's authorisation.
    platform_kept: bool,
    measurements: Option<Box<dyn MeasurementSource + Send>>,
    certificate: Vec<u8>,
    firmware_version: u64,
}

impl core::fmt::Debug for SoftwareRoot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SoftwareRoot")
            .field("is_manufactured", &self.kept.is_some())
            .field("sessions", &self.volatile.sessions.len())
            .finish_non_exhaustive()
    }
}

impl SoftwareRoot {
    /// A blank root: [`RootRequest::Manufacture`] comes first.
    #[must_use]
    pub fn new(rng: Box<dyn Rng + Send>) -> Self {
        Self {
            rng,
            kept: None,
            volatile: Volatile::new(),
            platform_open: false,
            platform_kept: false,
            measurements: None,
            certificate: Vec::new(),
            firmware_version: 1,
        }
    }

    /// Loses what a TPM loses with its power: sessions and PCR values.
    pub fn power_cut(&mut self) {
        self.volatile = Volatile::new();
        self.platform_kept = false;
        if let Some(kept) = &mut self.kept {
            kept.reset_count = kept.reset_count.wrapping_add(1);
        }
    }

    /// What TPM2_Clear does: owner and lockout authorisation and all keys under the storage root key are gone;
    /// endorsement and identity key, N_root, epoch and pin stay.
    ///
    /// # Errors
    /// [`RootError::Unsuitable`] before manufacture, [`RootError::Rng`].
    pub fn clear(&mut self) -> Result<(), RootError> {
        let kept = self.kept.as_mut().ok_or(RootError::Unsuitable)?;
        kept.clear(&mut *self.rng)
    }

    /// Extends a PCR of the SHA-256 bank.
    ///
    /// # Errors
    /// [`RootError::Unsuitable`] for an index that does not exist.
    pub fn extend_pcr(&mut self, index: u8, measured: &Digest) -> Result<(), RootError> {
        let pcr = self.volatile.pcrs.get_mut(usize::from(index)).ok_or(RootError::Unsuitable)?;
        *pcr = tpm::digest(&[pcr.as_bytes(), measured.as_bytes()]);
        Ok(())
    }

    /// Gives the root logs of what was measured. Without them it hands over empty ones.
    pub fn set_measurements(&mut self, source: Box<dyn MeasurementSource + Send>) {
        self.measurements = Some(source);
    }

    /// Gives the root a certificate of its endorsement key, as the maker of a TPM does.
    pub fn set_certificate(&mut self, der: Vec<u8>) {
        self.certificate = der;
    }

    /// Makes the root report another version of its firmware, as a TPM does after an update. Not kept on disk.
    pub const fn set_firmware_version(&mut self, version: u64) {
        self.firmware_version = version;
    }

    /// Makes the root report a platform hierarchy that anybody local can use, as a device with bad firmware does.
    pub const fn set_platform_open(&mut self, is_open: bool) {
        self.platform_open = is_open;
    }

    /// Starts as boot firmware does that saw the button: [`RootRequest::Clear`] is possible until power goes.
    pub const fn start_for_recovery(&mut self) {
        self.platform_kept = true;
    }

    /// Number of sessions that are open now.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.volatile.sessions.len()
    }

    /// Of owner and lockout authorisation: `None` when it is not set, else whether it is the given one. A TPM tells
    /// nobody; a simulation must know whether the owner could still get in.
    #[must_use]
    pub fn authorisations_match(&self, known: [Option<&Key<AuthValue, 32>>; 2]) -> [Option<bool>; 2] {
        let Some(kept) = &self.kept else { return [None; 2] };
        let [owner, lockout] = known;
        let is_same = |set: &Option<Key<AuthValue, 32>>, known: Option<&Key<AuthValue, 32>>| {
            set.as_ref().map(|set| known.is_some_and(|known| set.ct_eq(known).into()))
        };
        [is_same(&kept.owner_auth, owner), is_same(&kept.lockout_auth, lockout)]
    }

    /// Whether a wrong lockout authorisation has disabled the lockout hierarchy.
    #[must_use]
    pub fn is_locked_out(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.is_locked_out)
    }

    fn kept(&self) -> Result<&NonVolatile, RootError> {
        self.kept.as_ref().ok_or(RootError::Unsuitable)
    }

    fn manufacture(&mut self, device_root: Key<DeviceRootSecret, 32>) -> Result<RootReply, RootError> {
        if self.kept.is_some() {
            return Err(RootError::Unsuitable);
        }
        self.kept = Some(NonVolatile::make(device_root, &mut *self.rng)?);
        self.describe()
    }

    fn describe(&self) -> Result<RootReply, RootError> {
        let kept = self.kept()?;
        Ok(RootReply::Described(Description {
            ek_public: tpm::with_point(&ENDORSEMENT_TEMPLATE, &kept.endorsement.public()),
            epoch: kept.epoch,
            generation: kept.generation,
            pin: kept.pin,
            permanent: kept.permanent(),
            platform_open: self.platform_open,
            iak_public: tpm::with_point(&ATTESTATION_TEMPLATE, &kept.identity),
            ek_certificate: self.certificate.clone(),
        }))
    }

    fn create_keys(&mut self) -> Result<RootReply, RootError> {
        let kept = self.kept.as_ref().ok_or(RootError::Unsuitable)?;
        Ok(RootReply::Keys(OwnerKeys {
            attestation: kept.create(&ATTESTATION_TEMPLATE, &mut *self.rng)?,
            storage: kept.create(&STORAGE_TEMPLATE, &mut *self.rng)?,
            tls: kept.create(&TLS_TEMPLATE, &mut *self.rng)?,
            iak_public: tpm::with_point(&ATTESTATION_TEMPLATE, &kept.identity),
        }))
    }

    fn activate_identity(&self, credential: &[u8], secret: &[u8]) -> Result<RootReply, RootError> {
        let kept = self.kept()?;
        let name = tpm::name(&tpm::with_point(&ATTESTATION_TEMPLATE, &kept.identity));
        recover_secret(SecretLabel::Identity, &kept.endorsement, secret)
            .and_then(|seed| open_credential(&seed, name.as_bytes(), credential))
            .map(RootReply::Activated)
            .ok_or(refused(cc::ACTIVATE_CREDENTIAL, rc::INTEGRITY_P1))
    }

    fn attest(&mut self, request: &AttestRequest) -> Result<RootReply, RootError> {
        self.volatile.sessions.clear();
        let kept = self.kept.as_ref().ok_or(RootError::Unsuitable)?;
        let attestation_name = tpm::name(&request.keys.attestation.public);
        let signer = SigningKey::new(&kept.load(&request.keys.attestation, tpm::attestation_key)?)
            .map_err(|_| RootError::Unsuitable)?;
        let activation = recover_secret(SecretLabel::Identity, &kept.endorsement, &request.secret)
            .and_then(|seed| open_credential(&seed, attestation_name.as_bytes(), &request.credential))
            .ok_or(refused(cc::ACTIVATE_CREDENTIAL, rc::INTEGRITY_P1))?;
        // As a TPM does: certifying a key means that it loads here.
        kept.load(&request.keys.storage, tpm::storage_key)?;
        kept.load(&request.keys.tls, tpm::tls_key)?;
        let selection = tpm::PcrSelection::decode(&request.pcr_selection)
            .map_err(|_| refused(cc::QUOTE, rc::VALUE_P2))?;
        if request.keys.iak_public != tpm::with_point(&ATTESTATION_TEMPLATE, &kept.identity) {
            return Err(RootError::Unsuitable);
        }
        self.volatile.clock = self.volatile.clock.wrapping_add(1);
        let context = statement::Context {
            signer: &signer,
            qualified_signer: kept.qualified_name(&attestation_name),
            clock: self.volatile.clock,
            reset_count: kept.reset_count,
            firmware_version: self.firmware_version,
        };
        let [storage, tls, iak, quote] = &request.qualifying;
        let certify = [
            context.certify(storage, &kept.two_names(&request.keys.storage.public))?,
            context.certify(tls, &kept.two_names(&request.keys.tls.public))?,
            context.certify(iak, &statement::endorsement_child(&request.keys.iak_public))?,
        ];
        let quote = context.quote(quote, &selection, &self.volatile.pcr_digest(&selection))?;
        let logs = self.logs(request.ima_next)?;
        let sessions = self.start_sessions(request)?;
        Ok(RootReply::Attested(Box::new(Attested { activation, sessions, certify, quote, logs })))
    }

    fn logs(&mut self, ima_next: u64) -> Result<Logs, RootError> {
        match &mut self.measurements {
            Some(source) => source.read(ima_next),
            None => Ok(Logs::default()),
        }
    }

    /// Opens the owner's and the lockout session.
    fn start_sessions(&mut self, request: &AttestRequest) -> Result<[TpmSession; 2], RootError> {
        let wanted: Vec<_> = request.salts.iter().cloned().zip(request.nonce_callers).collect();
        self.open_salted(&wanted)?.try_into().map_err(|_| RootError::Malformed)
    }

    fn open_salted(&mut self, wanted: &[(Vec<u8>, N16)]) -> Result<Vec<TpmSession>, RootError> {
        self.volatile.sessions.clear();
        let endorsement = &self.kept.as_ref().ok_or(RootError::Unsuitable)?.endorsement;
        let mut opened = Vec::with_capacity(wanted.len());
        for (index, (salt, caller)) in (0u32..).zip(wanted) {
            let Some(salt) = recover_secret(SecretLabel::Secret, endorsement, salt) else {
                self.volatile.sessions.clear();
                return Err(refused(cc::START_AUTH_SESSION, rc::ECC_POINT_P1));
            };
            let nonce_tpm = gridseal_crypto::random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
            let key = SessionNonces { caller: caller.0, tpm: nonce_tpm }.session_key(&salt);
            let handle = FIRST_SESSION | index;
            opened.push(TpmSession { handle, nonce_tpm: N16(nonce_tpm) });
            self.volatile.sessions.push(Session { handle, key, nonce_tpm, audited: None });
        }
        Ok(opened)
    }

    /// What an attestation key signs outside of C3.
    fn with_attestation<R>(
        &mut self,
        attestation: &KeyBlob,
        make: impl FnOnce(&NonVolatile, &Volatile, &statement::Context<'_>) -> Result<R, RootError>,
    ) -> Result<R, RootError> {
        let kept = self.kept.as_ref().ok_or(RootError::Unsuitable)?;
        let signer = SigningKey::new(&kept.load(attestation, tpm::attestation_key)?)
            .map_err(|_| RootError::Unsuitable)?;
        self.volatile.clock = self.volatile.clock.wrapping_add(1);
        let context = statement::Context {
            signer: &signer,
            qualified_signer: kept.qualified_name(&tpm::name(&attestation.public)),
            clock: self.volatile.clock,
            reset_count: kept.reset_count,
            firmware_version: self.firmware_version,
        };
        make(kept, &self.volatile, &context)
    }

    fn quote_alone(&mut self, request: &QuoteRequest) -> Result<RootReply, RootError> {
        let selection = tpm::PcrSelection::decode(&request.pcr_selection)
            .map_err(|_| refused(cc::QUOTE, rc::VALUE_P2))?;
        let quote = self.with_attestation(&request.attestation, |_, volatile, context| {
            context.quote(&request.qualifying, &selection, &volatile.pcr_digest(&selection))
        })?;
        Ok(RootReply::Quoted { quote, logs: self.logs(request.ima_next)? })
    }

    fn renew(&mut self, request: &RenewRequest) -> Result<RootReply, RootError> {
        let make = |root: &mut Self, template: &[u8], qualifying: &Digest| {
            let kept = root.kept.as_ref().ok_or(RootError::Unsuitable)?;
            let key = kept.create(template, &mut *root.rng)?;
            let certify = root.with_attestation(&request.attestation, |kept, _, context| {
                context.certify(qualifying, &kept.two_names(&key.public))
            })?;
            Ok::<_, RootError>(Renewed { key, certify })
        };
        let tls = make(self, &TLS_TEMPLATE, &request.tls)?;
        let storage = match &request.storage {
            Some(qualifying) => Some(make(self, &STORAGE_TEMPLATE, qualifying)?),
            None => None,
        };
        Ok(RootReply::Renewed { tls, storage })
    }

    fn sign_audit(&mut self, session: u32, qualifying: &Digest) -> Result<RootReply, RootError> {
        let kept = self.kept.as_ref().ok_or(RootError::Unsuitable)?;
        let session = self.volatile.sessions.iter().find(|open| open.handle == session);
        let audited = session
            .and_then(|session| session.audited)
            .ok_or(refused(cc::GET_SESSION_AUDIT_DIGEST, rc::TYPE_H3))?;
        self.volatile.clock = self.volatile.clock.wrapping_add(1);
        let signer = kept.identity_signer()?;
        let identity = tpm::with_point(&ATTESTATION_TEMPLATE, &kept.identity);
        let context = statement::Context {
            signer: &signer,
            qualified_signer: statement::endorsement_child(&identity).qualified,
            clock: self.volatile.clock,
            reset_count: kept.reset_count,
            firmware_version: self.firmware_version,
        };
        context.session_audit(qualifying, &audited).map(RootReply::Audited)
    }

    fn import(&self, storage: &KeyBlob, objects: &[ImportObject]) -> Result<RootReply, RootError> {
        let parent = self.storage_parent(storage)?;
        let mut imported: Vec<(KeyBlob, EkName)> = Vec::with_capacity(objects.len());
        // Objects of one delivery share a seed: it is recovered once.
        let mut last = None;
        for object in objects {
            let seed = match last.take() {
                Some((in_sym_seed, seed)) if in_sym_seed == &object.in_sym_seed => seed,
                _ => recover_secret(SecretLabel::Duplicate, &parent, &object.in_sym_seed)
                    .ok_or(refused(cc::IMPORT, rc::INTEGRITY_P3))?,
            };
            open_duplicate(&seed, &object.public, &object.duplicate)
                .ok_or(refused(cc::IMPORT, rc::INTEGRITY_P3))?;
            let private = [object.duplicate.as_slice(), &object.in_sym_seed].concat();
            imported.push((KeyBlob { public: object.public.clone(), private }, tpm::name(&object.public)));
            last = Some((&object.in_sym_seed, seed));
        }
        Ok(RootReply::Imported(imported))
    }

    /// The blob of an imported object is the duplicate itself: only the storage key opens it, and that only loads here.
    fn unseal(&self, storage: &KeyBlob, object: &KeyBlob) -> Result<RootReply, RootError> {
        let parent = self.storage_parent(storage)?;
        let (duplicate, in_sym_seed) = keys::split_import(&object.private).ok_or(RootError::Unsuitable)?;
        recover_secret(SecretLabel::Duplicate, &parent, in_sym_seed)
            .and_then(|seed| open_duplicate(&seed, &object.public, duplicate))
            .map(RootReply::Unsealed)
            .ok_or(refused(cc::LOAD, rc::INTEGRITY_P1))
    }

    fn storage_parent(&self, storage: &KeyBlob) -> Result<AgreementKey, RootError> {
        let scalar: Key<SoftwareRootKey, 32> = self.kept()?.load(storage, tpm::storage_key)?;
        AgreementKey::new(&scalar).map_err(|_| RootError::Unsuitable)
    }

    fn sign(&self, tls: &KeyBlob, message: &[u8]) -> Result<RootReply, RootError> {
        let scalar: Key<SoftwareRootKey, 32> = self.kept()?.load(tls, tpm::tls_key)?;
        let signer = SigningKey::new(&scalar).map_err(|_| RootError::Unsuitable)?;
        signer.sign(message).map(RootReply::Signature).map_err(|_| RootError::Unsuitable)
    }
}

impl DeviceRoot for SoftwareRoot {
    fn assurance(&self) -> Assurance {
        Assurance::Software
    }

    fn perform(&mut self, request: RootRequest) -> Result<RootReply, RootError> {
        match request {
            RootRequest::Manufacture(device_root) => self.manufacture(device_root),
            RootRequest::Describe => self.describe(),
            RootRequest::CreateKeys => self.create_keys(),
            RootRequest::CreateSigningKey => {
                let kept = self.kept.as_ref().ok_or(RootError::Unsuitable)?;
                kept.create(&TLS_TEMPLATE, &mut *self.rng).map(RootReply::SigningKey)
            }
            RootRequest::OwnerSecret(epoch) => {
                Ok(RootReply::OwnerSecret(owner_secret(&self.kept()?.device_root, epoch)))
            }
            RootRequest::WritePin(pin) => {
                self.kept.as_mut().ok_or(RootError::Unsuitable)?.pin = Some(pin);
                Ok(RootReply::Done)
            }
            RootRequest::RaiseEpoch => {
                let kept = self.kept.as_mut().ok_or(RootError::Unsuitable)?;
                kept.epoch = kept.epoch.checked_add(1).ok_or(RootError::Unsuitable)?;
                Ok(RootReply::Done)
            }
            RootRequest::ActivateIdentity { credential, secret } => {
                self.activate_identity(&credential, &secret)
            }
            RootRequest::RaiseGeneration => {
                let kept = self.kept.as_mut().ok_or(RootError::Unsuitable)?;
                kept.generation = kept.generation.checked_add(1).ok_or(RootError::Unsuitable)?;
                Ok(RootReply::Done)
            }
            RootRequest::Attest(request) => self.attest(&request),
            RootRequest::Execute(commands) => self.execute(&commands).map(RootReply::Responses),
            RootRequest::Quote(request) => self.quote_alone(&request),
            RootRequest::OpenSessions(wanted) => self.open_salted(&wanted).map(RootReply::Sessions),
            RootRequest::SignAudit { session, qualifying } => self.sign_audit(session, &qualifying),
            RootRequest::Renew(request) => self.renew(&request),
            RootRequest::Import { storage, objects } => self.import(&storage, &objects),
            RootRequest::Unseal { storage, object } => self.unseal(&storage, &object),
            RootRequest::Sign { tls, message } => self.sign(&tls, &message),
            RootRequest::Flush => {
                self.volatile.sessions.clear();
                Ok(RootReply::Done)
            }
            RootRequest::Clear if self.platform_kept => {
                self.volatile.sessions.clear();
                self.clear().map(|()| RootReply::Done)
            }
            RootRequest::Clear => Err(RootError::Unsuitable),
        }
    }
}
