//! `keys-core`: what a batch of requests changes, and what each is answered.

use alloc::{collections::BTreeMap, vec::Vec};

use gridseal_crypto::{EnvelopeError, Key, KeyError, Rng, RngError, role::OwnerSecret};
use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    Code, DeviceState, EkName, UtcTime,
    records::{Overlay, Records, RecordsError, Write},
    service::keys::{KeyReply, KeyRequest, OpenVerdict},
};

use crate::{
    Keystore,
    record::{DEVICES, DeviceEntry, context, opened},
};

/// The service itself failed: nothing of the batch is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The record store failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// An envelope does not open: wrong data key, or rows that were moved or changed.
    #[error("keystore or record does not open")]
    Keystore,
    /// The random source failed.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// A private key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The delegation is not for this keystore.
    #[error("delegation does not name this keystore's key for both uses")]
    Delegation,
}

impl From<EnvelopeError> for KeysError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::Rng(error) => Self::Rng(error),
            _ => Self::Keystore,
        }
    }
}

/// Why one request is not done: refused to the caller, or the whole service failing.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Code),
    Failed(KeysError),
}

impl<E: Into<KeysError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Code> for Stop {
    fn from(code: Code) -> Self {
        Self::Refused(code)
    }
}

impl From<gridseal_trust::enrol::wire::FormatError> for Stop {
    fn from(_: gridseal_trust::enrol::wire::FormatError) -> Self {
        Self::Refused(Code::Format)
    }
}

/// What a batch comes to: commit `writes` in one transaction, then let `replies` go.
#[derive(Debug)]
pub struct Decision {
    /// Changes.
    pub writes: Vec<Write>,
    /// One reply per request, in order.
    pub replies: Vec<KeyReply>,
}

/// The deciding part of the key service.
#[derive(Debug)]
pub struct Core {
    pub(crate) keystore: Keystore,
    /// Longest age of an attestation, seconds (rule S13).
    pub(crate) attestation_age_max_s: u64,
}

/// One decision in the making.
pub(crate) struct Work<'w, R> {
    pub(crate) core: &'w Core,
    pub(crate) records: Overlay<'w, R>,
    pub(crate) now: UtcTime,
    pub(crate) rng: &'w mut dyn Rng,
    /// APDU digests of this batch, for the one audit entry that covers them.
    pub(crate) opened: Vec<[u8; 32]>,
    /// Why APDUs of this batch were rejected, and how many: the wire does not tell.
    rejected: BTreeMap<&'static str, usize>,
}

impl Core {
    /// Age of an attestation after which nothing is opened any more, by default.
    pub const ATTESTATION_AGE_DEFAULT_S: u64 = 26 * 3_600;

    /// A core on an opened keystore.
    #[must_use]
    pub const fn new(keystore: Keystore, attestation_age_max_s: u64) -> Self {
        Self { keystore, attestation_age_max_s }
    }

    /// The keystore.
    #[must_use]
    pub const fn keystore(&self) -> &Keystore {
        &self.keystore
    }

    /// Decides a batch. A refused request changes nothing but the audit log.
    ///
    /// # Errors
    /// [`KeysError`]: nothing of the batch is to be done or answered.
    pub fn decide<R: Records>(
        &self,
        records: &R,
        now: UtcTime,
        rng: &mut dyn Rng,
        requests: Vec<KeyRequest>,
    ) -> Result<Decision, KeysError> {
        let mut work = Work {
            core: self,
            records: Overlay::new(records),
            now,
            rng,
            opened: Vec::new(),
            rejected: BTreeMap::new(),
        };
        let mut replies = Vec::with_capacity(requests.len());
        for request in requests {
            replies.push(work.one(request)?);
        }
        work.audit_opened()?;
        Ok(Decision { writes: work.records.into_writes(), replies })
    }
}

impl<R: Records> Work<'_, R> {
    fn one(&mut self, request: KeyRequest) -> Result<KeyReply, KeysError> {
        let (name, audited) = (name_of(&request), !matches!(request, KeyRequest::OpenApdu { .. }));
        let done = match request {
            KeyRequest::Deliver { record, system_title } => self.deliver(&record, system_title),
            KeyRequest::SignRedirect { payload } => self.sign_redirect(&payload),
            KeyRequest::OpenHello { wire } => self.open_hello(&wire),
            KeyRequest::Challenge(challenge) => self.challenge(&challenge),
            KeyRequest::OpenMessage { sid, wire } => self.open_message(&sid, &wire),
            KeyRequest::Own { sid, act, th3, sessions, permanent } => {
                self.own(&sid, &act, th3, &sessions, permanent)
            }
            KeyRequest::ConfirmOwnership { sid, responses } => self.confirm_ownership(&sid, &responses),
            KeyRequest::Provision(provision) => self.provision(provision),
            KeyRequest::Finish { sid, receipt, th6, th7, now, attested_at } => {
                self.finish(&sid, &receipt, &th6, th7, now, attested_at)
            }
            KeyRequest::SetState { device, state, attested_at } => {
                self.set_state(&device, state, attested_at)
            }
            KeyRequest::OpenApdu { apdu } => self.open_apdu(&apdu),
            _ => Err(Stop::Refused(Code::Format)),
        };
        match done {
            Ok(reply) => Ok(reply),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Refused(code)) => {
                if audited {
                    self.audit("refused", &name, &code.name())?;
                    return Ok(KeyReply::Refused { code });
                }
                *self.rejected.entry(code.name()).or_default() += 1;
                Ok(KeyReply::Apdu(OpenVerdict::Rejected))
            }
        }
    }

    pub(crate) fn audit(
        &mut self,
        act: &str,
        subject: &dyn core::fmt::Display,
        detail: &dyn core::fmt::Display,
    ) -> Result<(), RecordsError> {
        audit::append(&mut self.records, self.now, Act { actor: "keys", act, subject, detail })
    }

    /// One entry for all APDUs of the batch: their number and a hash over their digests (class B of rule S10).
    fn audit_opened(&mut self) -> Result<(), RecordsError> {
        for (code, count) in core::mem::take(&mut self.rejected) {
            self.audit("apdus.rejected", &code, &count)?;
        }
        if self.opened.is_empty() {
            return Ok(());
        }
        let digests: Vec<&[u8]> = self.opened.iter().map(<[u8; 32]>::as_slice).collect();
        let root = gridseal_types::Digest(gridseal_crypto::sha256(&digests));
        let count = self.opened.len();
        self.audit("apdus.opened", &root, &count)
    }

    pub(crate) fn device(&self, device: &EkName) -> Result<DeviceEntry, Stop> {
        self.records.load(DEVICES, device.as_bytes())?.ok_or(Stop::Refused(Code::Unknown))
    }

    pub(crate) fn save_device(&mut self, entry: &DeviceEntry) {
        self.records.save(DEVICES, entry.device.as_bytes(), entry);
    }

    pub(crate) fn owner_secret(&self, entry: &DeviceEntry) -> Result<Key<OwnerSecret, 32>, KeysError> {
        let context = context(&self.core.keystore.tenant, &entry.device, entry.epoch);
        opened(&self.core.keystore.dek, &context, &entry.secret)
    }

    fn set_state(
        &mut self,
        device: &EkName,
        state: DeviceState,
        attested_at: UtcTime,
    ) -> Result<KeyReply, Stop> {
        let mut entry = self.device(device)?;
        if (entry.state, entry.attested_at) != (state, attested_at) {
            entry.state = state;
            entry.attested_at = attested_at;
            self.audit("device.state", device, &state.name())?;
            self.save_device(&entry);
        }
        Ok(KeyReply::Done)
    }
}

const fn name_of(request: &KeyRequest) -> &'static str {
    match request {
        KeyRequest::Deliver { .. } => "deliver",
        KeyRequest::SignRedirect { .. } => "sign-redirect",
        KeyRequest::OpenHello { .. } => "open-hello",
        KeyRequest::Challenge(_) => "challenge",
        KeyRequest::OpenMessage { .. } => "open-message",
        KeyRequest::Own { .. } => "own",
        KeyRequest::ConfirmOwnership { .. } => "confirm-ownership",
        KeyRequest::Provision(_) => "provision",
        KeyRequest::Finish { .. } => "finish",
        KeyRequest::SetState { .. } => "set-state",
        _ => "open-apdu",
    }
}
