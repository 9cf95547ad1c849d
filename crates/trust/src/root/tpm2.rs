//! A root of trust in a real TPM 2.0.
//!
//! Commands are built from fragments here, so that templates and structures travel byte-exact; every command sent and every
//! response received is checked by `tpm2-protocol`. Between two requests nothing is loaded, save the two sessions opened for
//! the owner: a TPM has room for three transient objects and three sessions. What is secret (N_root, N_e, K_act, delivered
//! secrets, platformAuth) crosses the bus encrypted to a session salted with the endorsement key.
//!
//! # Source
//! Onboarding specification, sections 3, 6 and 15.

mod keys;
mod nv;
mod session;
mod wire;

use alloc::{boxed::Box, vec::Vec};

use gridseal_crypto::{
    Key, Rng, random,
    role::{AuthValue, DeviceRootSecret},
    tpm::{
        AuthInForce, ChangeAuth, Clear, change_auth_command, platform_clear_command, platform_clear_confirmed,
    },
};
use gridseal_types::{Digest, N16, service::keys::TpmSession};

use super::{
    Assurance, AttestRequest, Attested, Description, DeviceRoot, EndorsementKind, ImportObject, KeyBlob,
    MeasurementSource, OwnerKeys, QuoteRequest, RenewRequest, Renewed, RootError, RootReply, RootRequest,
    TpmTransport,
};
use crate::{
    measured::Logs,
    tpm::{self, ATTESTATION_TEMPLATE, RH_PLATFORM, STORAGE_TEMPLATE, TLS_TEMPLATE},
};

use wire::{Answer, Call, cc, rc};

/// Persistent handle of the endorsement key.
const ENDORSEMENT_HANDLE: u32 = 0x8101_0001;
/// Persistent handle of the storage root key.
const STORAGE_ROOT_HANDLE: u32 = 0x8100_0001;
/// Persistent handle of N_root.
const DEVICE_ROOT_HANDLE: u32 = 0x8180_0001;
/// TPM_PT_PERMANENT.
const PT_PERMANENT: u32 = 0x200;

/// A device root over a TPM.
pub struct Tpm2Root<T> {
    transport: T,
    rng: Box<dyn Rng + Send>,
    endorsement: EndorsementKind,
    measurements: Option<Box<dyn MeasurementSource + Send>>,
    /// Read once: the endorsement key is the same for the device's life.
    endorsement_public: Option<Vec<u8>>,
    /// The next boot is for a recovery.
    keeps_platform: bool,
    /// What has closed the platform hierarchy, kept since a boot for a recovery.
    platform: Option<Key<AuthValue, 32>>,
}

impl<T> core::fmt::Debug for Tpm2Root<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Tpm2Root")
    }
}

impl<T: TpmTransport> Tpm2Root<T> {
    /// A root over this transport. Sends nothing: [`Tpm2Root::boot`] comes first.
    #[must_use]
    pub fn new(transport: T, rng: Box<dyn Rng + Send>) -> Self {
        Self {
            transport,
            rng,
            endorsement: EndorsementKind::P256,
            measurements: None,
            endorsement_public: None,
            keeps_platform: false,
            platform: None,
        }
    }

    /// The same root with this kind of endorsement key, which is made from its template where none is kept.
    #[must_use]
    pub fn with_endorsement(mut self, kind: EndorsementKind) -> Self {
        self.endorsement = kind;
        self
    }

    /// The same root with logs of what was measured. Without them it hands over empty ones.
    #[must_use]
    pub fn with_measurements(mut self, source: Box<dyn MeasurementSource + Send>) -> Self {
        self.measurements = Some(source);
        self
    }

    /// Boot firmware saw the button: the next [`Tpm2Root::boot`] keeps platformAuth in memory, and [`RootRequest::Clear`]
    /// is possible. Only where nothing before it has closed the platform hierarchy.
    pub const fn start_for_recovery(&mut self) {
        self.keeps_platform = true;
    }

    /// The transport, to cut its power in a test.
    pub const fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// What firmware does before the application starts: starts the TPM unless something else has, closes what an earlier
    /// process left open, and, once the device is manufactured, sets a random platformAuth that nobody knows.
    ///
    /// A blank TPM keeps its platform hierarchy open, so that [`RootRequest::Manufacture`] can follow; after it call this
    /// again.
    ///
    /// # Errors
    /// [`RootError`] when the TPM does not answer or does not start.
    pub fn boot(&mut self) -> Result<(), RootError> {
        self.platform = None;
        let keeps_platform = core::mem::take(&mut self.keeps_platform);
        let startup = Call { cc: cc::STARTUP, handles: &[], auths: &[], parameters: &[0, 0] };
        match self.run(&startup) {
            Ok(_) | Err(RootError::Refused { rc: rc::INITIALIZE, .. }) => {}
            Err(error) => return Err(error),
        }
        self.flush_all()?;
        if self.read_public(DEVICE_ROOT_HANDLE)?.is_some() && self.is_platform_open()? {
            let platform = self.close_platform()?;
            self.platform = Some(platform).filter(|_| keeps_platform);
        }
        Ok(())
    }

    /// Sets a random platformAuth, to be forgotten but for a recovery. The platform hierarchy stays enabled: N_root lives in
    /// it.
    fn close_platform(&mut self) -> Result<Key<AuthValue, 32>, RootError> {
        let session = self.own_session()?;
        let new: Key<AuthValue, 32> = Key::generate(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let command = change_auth_command(&ChangeAuth {
            hierarchy: RH_PLATFORM,
            session_handle: session.handle,
            session: &session.key,
            in_force: AuthInForce::Empty,
            new: &new,
            nonce_tpm: session.nonce_tpm,
            nonce_caller: random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?,
            keep_session: false,
        });
        let response = wire::transmit(&mut self.transport, &command)?;
        match wire::response_code(&response)? {
            0 => Ok(new),
            rc => {
                self.flush_context(session.handle)?;
                Err(RootError::Refused { command: cc::HIERARCHY_CHANGE_AUTH, rc })
            }
        }
    }

    /// TPM2_Clear by the platform hierarchy, in a session salted with the endorsement key: platformAuth is not on the bus.
    fn clear_by_platform(&mut self) -> Result<(), RootError> {
        if self.platform.is_none() {
            return Err(RootError::Unsuitable);
        }
        self.flush_all()?;
        // A Clear before this one, whose answer was lost, took the endorsement key from its handle.
        self.endorsement_public = None;
        self.endorsement_public()?;
        let session = self.own_session()?;
        let nonce_caller = random::<16>(&mut *self.rng).map_err(|_| RootError::Rng)?;
        let platform = self.platform.as_ref().ok_or(RootError::Unsuitable)?;
        let clear = Clear {
            session_handle: session.handle,
            session: &session.key,
            in_force: AuthInForce::Value(platform),
            nonce_tpm: session.nonce_tpm,
            nonce_caller,
        };
        let response = wire::transmit(&mut self.transport, &platform_clear_command(&clear))?;
        let outcome = match wire::response_code(&response)? {
            0 if platform_clear_confirmed(&clear, &response) => Ok(()),
            0 => Err(RootError::Malformed),
            rc => Err(RootError::Refused { command: cc::CLEAR, rc }),
        };
        self.flush_all()?;
        outcome
    }

    /// Whether an empty password still opens the platform hierarchy; a disabled hierarchy is a fault.
    fn is_platform_open(&mut self) -> Result<bool, RootError> {
        match self.with_policy_secret(RH_PLATFORM, |_, _| Ok(())) {
            Ok(()) => Ok(true),
            Err(RootError::Refused { rc: rc::BAD_AUTH_S1, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn run(&mut self, call: &Call<'_>) -> Result<Answer, RootError> {
        wire::run(&mut self.transport, call)
    }

    fn manufacture(&mut self, device_root: &Key<DeviceRootSecret, 32>) -> Result<RootReply, RootError> {
        if self.read_public(DEVICE_ROOT_HANDLE)?.is_some() {
            return Err(RootError::Unsuitable);
        }
        self.endorsement_public()?;
        self.ensure_storage_root()?;
        self.define_indices()?;
        // Last: with N_root in place the device counts as manufactured.
        self.keep_device_root(device_root)?;
        self.describe()
    }

    fn describe(&mut self) -> Result<RootReply, RootError> {
        // Not from memory: after a Clear both keys have to be kept again.
        self.endorsement_public = None;
        let ek_public = self.endorsement_public()?;
        self.ensure_storage_root()?;
        Ok(RootReply::Described(Description {
            ek_public,
            epoch: self.epoch()?,
            pin: self.pin()?,
            generation: self.generation()?,
            permanent: self.property(PT_PERMANENT)?,
            platform_open: self.is_platform_open()?,
            iak_public: self.identity_public()?,
            ek_certificate: self.endorsement_certificate()?,
        }))
    }

    fn create_keys(&mut self) -> Result<RootReply, RootError> {
        Ok(RootReply::Keys(OwnerKeys {
            attestation: self.create(&ATTESTATION_TEMPLATE)?,
            storage: self.create(&STORAGE_TEMPLATE)?,
            tls: self.create(&TLS_TEMPLATE)?,
            iak_public: self.identity_public()?,
        }))
    }

    fn attest(&mut self, request: &AttestRequest) -> Result<RootReply, RootError> {
        self.flush_all()?;
        let keys = &request.keys;
        let [qd_storage, qd_tls, qd_identity, qd_quote] = &request.qualifying;
        let name = tpm::name(&keys.attestation.public);
        let (activation, certify, quote) =
            self.with_loaded(STORAGE_ROOT_HANDLE, &keys.attestation, |root, signer| {
                let activation = root.activate((signer, &name), &request.credential, &request.secret)?;
                let certify_loaded = |root: &mut Self, blob: &KeyBlob, qualifying| {
                    root.with_loaded(STORAGE_ROOT_HANDLE, blob, |root, object| {
                        root.certify(object, signer, qualifying)
                    })
                };
                let storage = certify_loaded(root, &keys.storage, qd_storage)?;
                let tls = certify_loaded(root, &keys.tls, qd_tls)?;
                let identity = root.with_identity(|root, object, public| {
                    if public != keys.iak_public {
                        return Err(RootError::Unsuitable);
                    }
                    root.certify(object, signer, qd_identity)
                })?;
                let quote = root.quote(signer, qd_quote, &request.pcr_selection)?;
                Ok((activation, [storage, tls, identity], quote))
            })?;
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

    fn quote_alone(&mut self, request: &QuoteRequest) -> Result<RootReply, RootError> {
        let QuoteRequest { attestation, qualifying, pcr_selection, ima_next } = request;
        let quote = self.with_loaded(STORAGE_ROOT_HANDLE, attestation, |root, signer| {
            root.quote(signer, qualifying, pcr_selection)
        })?;
        Ok(RootReply::Quoted { quote, logs: self.logs(*ima_next)? })
    }

    fn renew(&mut self, request: &RenewRequest) -> Result<RootReply, RootError> {
        let make = |root: &mut Self, template: &[u8], qualifying: &Digest| {
            let key = root.create(template)?;
            let certify = root.with_loaded(STORAGE_ROOT_HANDLE, &request.attestation, |root, signer| {
                root.with_loaded(STORAGE_ROOT_HANDLE, &key, |root, object| {
                    root.certify(object, signer, qualifying)
                })
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

    /// Opens sessions one after the other; none stays open when one fails.
    fn open_sessions(&mut self, wanted: &[(Vec<u8>, N16)]) -> Result<RootReply, RootError> {
        self.flush_all()?;
        let mut sessions = Vec::with_capacity(wanted.len());
        for (salt, caller) in wanted {
            match self.start_salted(&caller.0, salt) {
                Ok((handle, nonce_tpm)) => {
                    sessions.push(TpmSession { handle, nonce_tpm: N16(nonce_tpm) });
                }
                Err(error) => return self.flush_all().and(Err(error)),
            }
        }
        Ok(RootReply::Sessions(sessions))
    }

    /// Opens the owner's and the lockout session; none stays open when one fails.
    fn start_sessions(&mut self, request: &AttestRequest) -> Result<[TpmSession; 2], RootError> {
        let [owner_salt, lockout_salt] = &request.salts;
        let [owner_nonce, lockout_nonce] = &request.nonce_callers;
        let session = |(handle, nonce_tpm)| TpmSession { handle, nonce_tpm: N16(nonce_tpm) };
        let owner = session(self.start_salted(&owner_nonce.0, owner_salt)?);
        match self.start_salted(&lockout_nonce.0, lockout_salt) {
            Ok(lockout) => Ok([owner, session(lockout)]),
            Err(error) => self.flush_context(owner.handle).and(Err(error)),
        }
    }

    fn execute(&mut self, commands: &[Vec<u8>]) -> Result<RootReply, RootError> {
        let mut responses = Vec::with_capacity(commands.len());
        for command in commands {
            let response = wire::transmit(&mut self.transport, command)?;
            let rc = wire::response_code(&response)?;
            responses.push(response);
            if rc != 0 {
                self.flush_all()?;
                break;
            }
        }
        Ok(RootReply::Responses(responses))
    }

    fn import_all(&mut self, storage: &KeyBlob, objects: &[ImportObject]) -> Result<RootReply, RootError> {
        let imported = self.with_loaded(STORAGE_ROOT_HANDLE, storage, |root, parent| {
            objects.iter().map(|object| root.import(parent, object)).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(RootReply::Imported(imported))
    }

    fn unseal_object(&mut self, storage: &KeyBlob, object: &KeyBlob) -> Result<RootReply, RootError> {
        let name = tpm::name(&object.public);
        let secret = self.with_loaded(STORAGE_ROOT_HANDLE, storage, |root, parent| {
            root.with_loaded(parent, object, |root, handle| root.unseal(handle, &name))
        })?;
        Ok(RootReply::Unsealed(secret))
    }
}

impl<T: TpmTransport> DeviceRoot for Tpm2Root<T> {
    fn assurance(&self) -> Assurance {
        Assurance::Tpm
    }

    fn perform(&mut self, request: RootRequest) -> Result<RootReply, RootError> {
        match request {
            RootRequest::Manufacture(device_root) => self.manufacture(&device_root),
            RootRequest::Describe => self.describe(),
            RootRequest::CreateKeys => self.create_keys(),
            RootRequest::CreateSigningKey => {
                self.ensure_storage_root()?;
                self.create(&TLS_TEMPLATE).map(RootReply::SigningKey)
            }
            RootRequest::OwnerSecret(epoch) => self.owner_secret(epoch).map(RootReply::OwnerSecret),
            RootRequest::WritePin(pin) => self.write_pin(&pin).map(|()| RootReply::Done),
            RootRequest::RaiseEpoch => self.raise_epoch().map(|()| RootReply::Done),
            RootRequest::ActivateIdentity { credential, secret } => self
                .with_identity(|root, key, public| {
                    root.activate((key, &tpm::name(public)), &credential, &secret)
                })
                .map(RootReply::Activated),
            RootRequest::RaiseGeneration => self.raise_generation().map(|()| RootReply::Done),
            RootRequest::Attest(request) => self.attest(&request),
            RootRequest::Execute(commands) => self.execute(&commands),
            RootRequest::Quote(request) => self.quote_alone(&request),
            RootRequest::OpenSessions(wanted) => self.open_sessions(&wanted),
            RootRequest::SignAudit { session, qualifying } => self
                .with_identity(|root, key, _| root.sign_audit(session, key, &qualifying))
                .map(RootReply::Audited),
            RootRequest::Renew(request) => self.renew(&request),
            RootRequest::Import { storage, objects } => self.import_all(&storage, &objects),
            RootRequest::Unseal { storage, object } => self.unseal_object(&storage, &object),
            RootRequest::Sign { tls, message } => self
                .with_loaded(STORAGE_ROOT_HANDLE, &tls, |root, key| root.sign(key, &message))
                .map(RootReply::Signature),
            RootRequest::Flush => self.flush_all().map(|()| RootReply::Done),
            RootRequest::Clear => self.clear_by_platform().map(|()| RootReply::Done),
        }
    }
}
