//! What each kind of order makes the device do.
//!
//! # Source
//! Onboarding specification, sections 6.5, 11 and 18.6.

use alloc::{boxed::Box, vec::Vec};

use gridseal_crypto::tpm::is_clear_response;
use gridseal_types::{Code, Tick};

use super::{
    Device, EndingStage, Installed, RenewedKeys, State, Unexpected,
    orders::{Job, Ordering},
};
use crate::{
    csr::{assemble_csr, csr_to_be_signed},
    enrol::{
        order::{
            AUDIT_PURPOSE, Answer, QUOTE_PURPOSE, RENEWED_STORAGE_PURPOSE, RENEWED_TLS_PURPOSE,
            RenewedStorage, Task,
        },
        session::{DeliveredObject, config_digest, qualifying},
    },
    measured::LOG_SIZE_MAX,
    root::{
        Attest, ImportObject, KeyBlob, OwnerKeys, QuoteRequest, RenewRequest, Renewed, RootReply, RootRequest,
    },
    tpm::{self, Tunnelled},
};

/// TPM_PT_PERMANENT: owner and lockout authorisation are set.
const AUTHS_SET: u32 = 0b101;

/// What an order waits for.
pub(super) enum Act {
    /// What the root says of itself now.
    Describing,
    /// Objects of a configuration.
    Importing {
        installed: Box<Installed>,
        keys: OwnerKeys,
    },
    Quoting,
    Opening,
    /// Tunnelled commands; the session of a Clear that may be signed for, if there is one.
    Executing {
        clears: bool,
        audited: Option<u32>,
    },
    /// The identity key signs for the session of a Clear.
    Auditing(Vec<Vec<u8>>),
    /// After a Clear: primary keys are made again.
    Recreating {
        responses: Vec<Vec<u8>>,
        audit: Option<Attest>,
    },
    /// Sessions are closed.
    Closing {
        responses: Vec<Vec<u8>>,
        audit: Option<Attest>,
    },
    Renewing,
    /// The new TLS key signs its certificate request.
    Requesting {
        tls: Renewed,
        storage: Option<Renewed>,
        to_be_signed: Vec<u8>,
    },
}

impl Act {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Describing => "describing-for-order",
            Self::Importing { .. } => "importing-for-order",
            Self::Quoting => "quoting-for-order",
            Self::Opening => "opening-sessions",
            Self::Executing { .. } => "executing-for-order",
            Self::Auditing(_) => "signing-audit",
            Self::Recreating { .. } => "recreating-keys",
            Self::Closing { .. } => "closing-sessions",
            Self::Renewing => "renewing-keys",
            Self::Requesting { .. } => "signing-renewal",
        }
    }
}

impl Device {
    fn act(&mut self, job: Box<Job>, act: Act, request: RootRequest) {
        self.root(request);
        self.state = State::Ordering(Ordering::Acting(job, act));
    }

    /// Whether a Clear has taken the owner's keys: an ending is ordered and the TPM shows no authorisation.
    pub(super) const fn is_cleared(&self) -> bool {
        match (&self.record.orders.ending, &self.description) {
            (Some(_), Some(description)) => description.permanent & AUTHS_SET == 0,
            _ => false,
        }
    }

    /// Begins with an order whose number is stored.
    pub(super) fn carry_out(&mut self, now: Tick, job: Box<Job>) {
        match &job.order.task {
            Task::Provision(_) | Task::Attest { .. } | Task::Sessions { .. } => {
                self.act(job, Act::Describing, RootRequest::Describe);
            }
            Task::Commands(commands) => match self.check_tunnel(commands) {
                Ok((clears, audited)) => {
                    let request = RootRequest::Execute(commands.clone());
                    self.act(job, Act::Executing { clears, audited }, request);
                }
                Err(code) => self.answer(job, Err(code)),
            },
            Task::Suspend => {
                self.record.orders.is_suspended = true;
                self.answer(job, Ok(Answer::Suspended));
            }
            Task::Resume => {
                self.record.orders.is_suspended = false;
                self.answer(job, Ok(Answer::Resumed));
            }
            // Stored with its number. Its result follows when everything else is done.
            Task::Release { .. } | Task::Decommission => self.fetched(now, true),
            Task::Renew { with_storage } => {
                let Some(keys) = &self.record.keys else { return self.answer(job, Err(Code::State)) };
                let request = RenewRequest {
                    attestation: keys.attestation.clone(),
                    tls: qualifying(RENEWED_TLS_PURPOSE, &job.digest),
                    storage: with_storage.then(|| qualifying(RENEWED_STORAGE_PURPOSE, &job.digest)),
                };
                self.act(job, Act::Renewing, RootRequest::Renew(request));
            }
            // The new entries are stored with the number, and pinned.
            Task::Rekey { .. } => {
                let pin = self.description.as_ref().and_then(|description| description.pin);
                self.answer(job, pin.map(Answer::Rekeyed).ok_or(Code::Pin));
            }
        }
    }

    /// One answer of the root.
    pub(super) fn acted(
        &mut self,
        now: Tick,
        job: Box<Job>,
        act: Act,
        reply: RootReply,
    ) -> Result<(), Unexpected> {
        match (act, reply) {
            (Act::Describing, RootReply::Described(description)) => {
                self.description = Some(description);
                self.described_for(job);
            }
            (Act::Importing { mut installed, keys }, RootReply::Imported(imported)) => {
                match Self::check_imported(&mut installed, imported) {
                    Ok(names) => {
                        self.replace_installed(*installed, keys);
                        self.answer(job, Ok(Answer::Provisioned(names)));
                    }
                    Err(code) => self.answer(job, Err(code)),
                }
            }
            (Act::Quoting, RootReply::Quoted { quote, logs }) => {
                let Some(description) = &self.description else { return self.lost(now) };
                let answer = Answer::Attested {
                    quote,
                    permanent: description.permanent,
                    platform_open: description.platform_open,
                    logs,
                };
                let Answer::Attested { logs, .. } = &answer else { return self.lost(now) };
                // A log is never cut: this device measures more than the protocol carries.
                let fits = logs.event_log.len().max(logs.ima_log.len()) <= LOG_SIZE_MAX;
                self.answer(job, if fits { Ok(answer) } else { Err(Code::Size) });
            }
            (Act::Opening, RootReply::Sessions(sessions)) => {
                let Some(description) = &self.description else { return self.lost(now) };
                self.sessions = sessions.iter().map(|session| session.handle).collect();
                let permanent = description.permanent;
                self.answer(job, Ok(Answer::Sessions { sessions, permanent }));
            }
            (Act::Executing { clears, audited }, RootReply::Responses(responses)) => {
                let is_cleared = clears && responses.last().is_some_and(|last| is_clear_response(last));
                match audited.filter(|_| is_cleared) {
                    Some(session) => {
                        let qualifying = qualifying(AUDIT_PURPOSE, &job.digest);
                        let request = RootRequest::SignAudit { session, qualifying };
                        self.act(job, Act::Auditing(responses), request);
                    }
                    None if is_cleared => self.recreate(job, responses, None),
                    None => self.close(job, responses, None),
                }
            }
            (Act::Auditing(responses), RootReply::Audited(audit)) => {
                self.recreate(job, responses, Some(audit));
            }
            (Act::Recreating { responses, audit }, RootReply::Described(description)) => {
                self.description = Some(description);
                if let Some(ending) = &mut self.record.orders.ending {
                    ending.stage = EndingStage::Cleared;
                }
                self.close(job, responses, audit);
            }
            (Act::Closing { responses, audit }, RootReply::Done) => {
                self.sessions.clear();
                self.answer(job, Ok(Answer::Responses { responses, audit }));
            }
            (Act::Renewing, RootReply::Renewed { tls, storage }) => {
                let Ok(key) = tpm::tls_key(&tls.key.public) else {
                    self.answer(job, Err(Code::Csr));
                    return Ok(());
                };
                let to_be_signed = csr_to_be_signed(&self.firmware.subject, &key);
                let request = RootRequest::Sign { tls: tls.key.clone(), message: to_be_signed.clone() };
                self.act(job, Act::Requesting { tls, storage, to_be_signed }, request);
            }
            (Act::Requesting { tls, storage, to_be_signed }, RootReply::Signature(signature)) => {
                let csr = assemble_csr(&to_be_signed, &signature);
                self.renewed(job, tls, storage, csr);
            }
            (act, _) => {
                self.state = State::Ordering(Ordering::Acting(job, act));
                return Err(Unexpected);
            }
        }
        Ok(())
    }

    /// The root has refused. A Clear that was executed stays executed, whatever the evidence: its response is the receipt.
    pub(super) fn failed(&mut self, job: Box<Job>, act: Act) {
        match act {
            Act::Auditing(responses) => self.recreate(job, responses, None),
            Act::Importing { .. } => self.answer(job, Err(Code::Object)),
            _ => self.answer(job, Err(Code::Tpm)),
        }
    }

    fn lost(&mut self, now: Tick) -> Result<(), Unexpected> {
        self.fetched(now, false);
        Ok(())
    }

    /// Commands are tunnelled in sessions of the order before, and only what the allow-list has: a Clear while the order
    /// that ends the ownership is stored, as the last command.
    fn check_tunnel(&self, commands: &[Vec<u8>]) -> Result<(bool, Option<u32>), Code> {
        if self.sessions.is_empty() {
            return Err(Code::State);
        }
        let (mut clears, mut audited) = (false, None);
        for command in commands {
            match tpm::check_tunnelled(command, &self.sessions)? {
                _ if clears => return Err(Code::Command),
                Tunnelled::ChangeAuth => {}
                Tunnelled::Clear { audited: session } if self.record.orders.ending.is_some() => {
                    (clears, audited) = (true, session);
                }
                Tunnelled::Clear { .. } => return Err(Code::Command),
            }
        }
        Ok((clears, audited))
    }

    fn recreate(&mut self, job: Box<Job>, responses: Vec<Vec<u8>>, audit: Option<Attest>) {
        self.act(job, Act::Recreating { responses, audit }, RootRequest::Describe);
    }

    fn close(&mut self, job: Box<Job>, responses: Vec<Vec<u8>>, audit: Option<Attest>) {
        self.act(job, Act::Closing { responses, audit }, RootRequest::Flush);
    }

    /// The root is described as it is now: permanent bits, counter of generations.
    fn described_for(&mut self, job: Box<Job>) {
        match &job.order.task {
            Task::Attest { pcr_selection, ima_next } => {
                let Some(keys) = &self.record.keys else { return self.answer(job, Err(Code::State)) };
                let request = QuoteRequest {
                    attestation: keys.attestation.clone(),
                    qualifying: qualifying(QUOTE_PURPOSE, &job.digest),
                    pcr_selection: pcr_selection.clone(),
                    ima_next: *ima_next,
                };
                self.act(job, Act::Quoting, RootRequest::Quote(request));
            }
            Task::Sessions { salts, nonce_callers } => {
                let wanted = salts.iter().cloned().zip(nonce_callers.iter().copied()).collect();
                self.act(job, Act::Opening, RootRequest::OpenSessions(wanted));
            }
            _ => match self.check_provision(&job) {
                Ok((installed, objects, keys)) if objects.is_empty() => {
                    self.replace_installed(*installed, keys);
                    self.answer(job, Ok(Answer::Provisioned(Vec::new())));
                }
                Ok((installed, objects, keys)) => {
                    let storage = keys.storage.clone();
                    let act = Act::Importing { installed, keys };
                    self.act(job, act, RootRequest::Import { storage, objects });
                }
                Err(code) => self.answer(job, Err(code)),
            },
        }
    }

    /// A configuration for the TLS key in use, or for the renewed one: then with it for the renewed storage key.
    fn check_provision(&self, job: &Job) -> Result<(Box<Installed>, Vec<ImportObject>, OwnerKeys), Code> {
        let Task::Provision(config) = &job.order.task else { return Err(Code::State) };
        let keys = self.record.keys.as_ref().ok_or(Code::State)?;
        let pin = self.description.as_ref().and_then(|description| description.pin).ok_or(Code::Pin)?;
        let check =
            |tls: &KeyBlob| self.check_config((**config).clone(), &pin, tls, config_digest(&job.payload));
        match (check(&keys.tls), &self.record.orders.renewed) {
            (Err(Code::Csr), Some(RenewedKeys { tls, storage })) => {
                let (installed, objects) = check(tls)?;
                let storage = storage.clone().unwrap_or_else(|| keys.storage.clone());
                Ok((installed, objects, OwnerKeys { tls: tls.clone(), storage, ..keys.clone() }))
            }
            (checked, _) => checked.map(|(installed, objects)| (installed, objects, keys.clone())),
        }
    }

    /// The new configuration in place of the old one. Secrets that it does not bring stay, unless their parent is gone;
    /// a counter goes on with the key that it counts for.
    fn replace_installed(&mut self, mut installed: Installed, keys: OwnerKeys) {
        installed.confirmed = true;
        let before = self.record.keys.replace(keys);
        let is_parent_kept =
            before.map(|keys| keys.storage) == self.record.keys.as_ref().map(|k| k.storage.clone());
        if let Some(old) = self.record.installed.take().filter(|_| is_parent_kept) {
            let is_rekeyed = installed.key(DeliveredObject::GUEK).is_some();
            if !is_rekeyed {
                installed.is_counting = old.is_counting;
                installed.generation = old.generation;
            }
            let kept = old.keys.into_iter().filter(|key| installed.key(key.id).is_none());
            let kept: Vec<_> = kept.collect();
            installed.keys.extend(kept);
        }
        let tls = self.record.keys.as_ref().map(|keys| &keys.tls);
        if self.record.orders.renewed.as_ref().map(|renewed| &renewed.tls) == tls {
            self.record.orders.renewed = None;
        }
        self.record.installed = Some(installed);
    }

    fn renewed(&mut self, job: Box<Job>, tls: Renewed, storage: Option<Renewed>, csr: Vec<u8>) {
        let (storage_key, storage) = match storage {
            Some(Renewed { key, certify }) => {
                let public = key.public.clone();
                (Some(key), Some(RenewedStorage { public, certify }))
            }
            None => (None, None),
        };
        let answer =
            Answer::Renewed { tls_pub: tls.key.public.clone(), certify_tls: tls.certify, csr, storage };
        self.record.orders.renewed = Some(RenewedKeys { tls: tls.key, storage: storage_key });
        self.answer(job, Ok(answer));
    }
}
