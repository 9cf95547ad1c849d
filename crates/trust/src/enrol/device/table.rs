//! (state, input) to state: the protocol on one screen.

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use gridseal_types::{Code, Digest, Nonce, Tick, service::keys::Bytes};

use super::{
    Attested2, Device, EPOCH_STEPS_MAX, EndingStage, Event, FAILURES_MAX, Input, Orders, Output, OwnerChain,
    Peer, Secrets, Session, State, Unexpected, keep,
};
use crate::{
    csr::{assemble_csr, csr_to_be_signed},
    enrol::{
        init::{InitChallenge, InitHello, InitProof, init_proof, is_challenge},
        secrets::{ActivationSecretExt, OwnerSecretExt, SessionSecretExt},
        session::{
            Envelope, EvidenceBody, HelloBody, InstalledBody, ResponsesBody, Step, Transcript, qualifying,
            seal_hello, seal_message, sid_of, suite_of,
        },
    },
    measured::LOG_SIZE_MAX,
    root::{AttestRequest, Description, RootReply, RootRequest},
    tpm,
};

/// Random bytes for a nonce.
const NONCE_SIZE: usize = 32;
/// Random bytes for a jitter.
const JITTER_SIZE: usize = 8;
/// After power came, the first ceiling of the back-off doubled so often: 2 min in the field.
const START_DOUBLINGS: u32 = 2;

impl Device {
    /// Feed one input. `now` never goes backwards.
    ///
    /// # Errors
    /// [`Unexpected`] when the state does not take this input; the state is unchanged.
    pub fn handle(&mut self, now: Tick, input: Input<'_>) -> Result<(), Unexpected> {
        let state = core::mem::replace(&mut self.state, State::Off);
        match (state, input) {
            (state, Input::Presence) => {
                self.state = state;
                self.present(now);
            }
            (State::Off, Input::Start) => self.power_came(now),
            (State::Describing, Input::Root(Ok(RootReply::Described(description)))) => {
                self.described(now, description);
            }
            (State::Recovering(epoch, step), input) => return self.recovering((epoch, step), input),
            (State::NamingInit, Input::Random(bytes)) => self.say_init_hello(now, bytes),
            (State::AwaitingRedirect { m, wire, is_proof }, Input::Received(answer)) => {
                self.init_answered(now, (m, wire, is_proof), answer);
            }
            (
                State::ProvingIdentity { m, n, wire, challenge },
                Input::Root(Ok(RootReply::Activated(credential))),
            ) => {
                let proof = init_proof(&credential, &wire, &challenge);
                let wire = InitProof { m, n, proof }.encode();
                self.transmit(now, Peer::InitServer, wire.clone());
                self.state = State::AwaitingRedirect { m, wire, is_proof: true };
            }
            (State::StoringRedirect, Input::Persisted) => match self.record.recovery {
                Some(epoch) => {
                    self.event(Event::RecoveryAccepted);
                    self.recover(epoch);
                }
                None => {
                    self.event(Event::OwnerFound);
                    self.make_keys();
                }
            },
            (State::MakingKeys, Input::Root(Ok(RootReply::Keys(keys)))) => {
                self.record.keys = Some(keys);
                self.outputs.push_back(Output::Persist);
                self.state = State::StoringKeys;
            }
            (State::StoringKeys, Input::Persisted) => {
                self.event(Event::KeysMade);
                self.derive_secret();
            }
            (State::DerivingSecret, Input::Root(Ok(RootReply::OwnerSecret(secret)))) => {
                self.outputs.push_back(Output::Random(NONCE_SIZE));
                self.state = State::NamingHello(Box::new(secret));
            }
            (State::NamingHello(secret), Input::Random(bytes)) => self.say_hello(now, *secret, bytes),
            (State::AwaitingChallenge(session), Input::Received(wire)) => {
                self.challenge_received(now, session, wire);
            }
            (State::Pinning(session), Input::Root(Ok(RootReply::Done))) => {
                if let (Some(description), Some(challenge)) = (&mut self.description, &session.challenge) {
                    description.pin = Some(challenge.pin);
                }
                self.raise_or_attest(session);
            }
            (State::Raising(session), Input::Root(Ok(RootReply::Done))) => {
                if let Some(description) = &mut self.description {
                    description.epoch = description.epoch.saturating_add(1);
                }
                self.raise_or_attest(session);
            }
            (State::Attesting(session), Input::Root(Ok(RootReply::Attested(attested)))) => {
                self.attested(session, *attested);
            }
            (
                State::SigningRequest { session, to_be_signed },
                Input::Root(Ok(RootReply::Signature(signature))),
            ) => {
                self.say_evidence(now, session, &assemble_csr(&to_be_signed, &signature));
            }
            (State::AwaitingCommands(session), Input::Received(wire)) => {
                self.commands_received(now, session, wire);
            }
            (State::Executing(session), Input::Root(Ok(RootReply::Responses(responses)))) => {
                self.say_responses(now, session, responses);
            }
            (State::AwaitingConfiguration(session), Input::Received(wire)) => {
                self.configuration_received(now, session, wire);
            }
            (
                State::Importing { session, mut installed, wire },
                Input::Root(Ok(RootReply::Imported(imported))),
            ) => match Self::check_imported(&mut installed, imported) {
                Ok(names) => self.install(session, installed, names, &wire),
                Err(code) => self.give_up(code),
            },
            (State::Installing { session, names }, Input::Persisted) => {
                self.say_installed(now, session, names)
            }
            (State::AwaitingDone(session), Input::Received(wire)) => self.done_received(now, session, wire),
            (State::Confirming, Input::Persisted) => self.operate(),
            (State::Operating, Input::CounterBegun) => self.note(|installed| &mut installed.is_counting),
            (State::Operating, Input::TerminusAccepted) => self.note(|installed| &mut installed.confirmed),
            (State::Operating, Input::TerminusRefused) => self.terminus_refused(),
            (State::Operating, Input::OwnerLost) => self.seek_owner(),
            (State::Operating, Input::FetchOrders) => self.fetch_orders(now),
            (State::Ordering(ordering), input) => return self.ordering(now, ordering, input),
            (State::StoringEnding, Input::Persisted) => self.finish(now),
            (State::Finishing(finishing), input) => return self.finishing(now, finishing, input),
            (State::Offering, Input::Taken) => self.offer_taken(),
            (State::Offering, Input::NoReply | Input::Timeout | Input::Received(_)) => {
                self.event(Event::Unanswered);
                self.after_offer(now);
            }
            (State::StoringEnd, Input::Persisted) => self.after_offer(now),
            (State::Flushing, Input::Root(_)) => self.back_off(State::Off),
            (State::Jittering { then, doublings }, Input::Random(bytes)) => {
                self.wait(now, *then, doublings, bytes);
            }
            (State::Waiting { then, .. }, Input::Timeout) => self.resume(now, *then),
            // A root that fails leaves nothing to rely on: the attempt starts over after a wait.
            (
                State::Describing
                | State::ProvingIdentity { .. }
                | State::MakingKeys
                | State::DerivingSecret
                | State::Pinning(_)
                | State::Raising(_)
                | State::Attesting(_)
                | State::SigningRequest { .. }
                | State::Executing(_)
                | State::Importing { .. },
                Input::Root(Err(error)),
            ) => {
                self.event(Event::RootFailed(error));
                self.flush();
            }
            // "Taken" is no answer to a question: whoever says so has not answered.
            (waiting, Input::NoReply | Input::Timeout | Input::Taken) if waiting.awaits_reply() => {
                self.unanswered(waiting);
            }
            (state, _) => {
                self.state = state;
                return Err(Unexpected);
            }
        }
        Ok(())
    }

    /// Power comes to a whole town at once: a device that has to ask somebody waits first, a random time. One that
    /// operates has its own way to its terminus.
    fn power_came(&mut self, now: Tick) {
        self.powered = now;
        let has_way = self.record.installed.is_some() || self.record.recovery.is_some();
        if has_way || self.present_at.is_some() {
            self.describe();
        } else {
            self.jitter(State::Off, START_DOUBLINGS);
        }
    }

    pub(super) fn describe(&mut self) {
        self.root(RootRequest::Describe);
        self.state = State::Describing;
    }

    fn described(&mut self, now: Tick, description: Description) {
        self.description = Some(description);
        if let Some(epoch) = self.record.recovery {
            return self.recover(epoch);
        }
        if self.is_present(now) && !self.is_told_ending() {
            return self.name_init();
        }
        let ending = self.record.orders.ending.as_ref().map(|ending| ending.stage);
        match ending {
            Some(EndingStage::Told) => self.finish(now),
            Some(_) => self.fetch_orders(now),
            None if self.record.ended.is_some() => self.offer_or_go_on(now),
            None if self.record.installed.is_some() && !self.renews() => self.operate(),
            None => self.begin_onboarding(),
        }
    }

    /// Begins a session, or the search for the owner.
    pub(super) fn begin_onboarding(&mut self) {
        // Who seeks his owner asks for a redirect of today.
        if self.seek_tries.is_none() && self.verify_stored_redirect() {
            self.make_keys();
        } else {
            self.name_init();
        }
    }

    fn name_init(&mut self) {
        self.outputs.push_back(Output::Random(NONCE_SIZE));
        self.state = State::NamingInit;
    }

    fn operate(&mut self) {
        let confirmed = !self.is_unconfirmed();
        if confirmed {
            self.failures = 0;
        }
        self.event(Event::Operating { confirmed });
        self.state = State::Operating;
    }

    /// Notes a fact about what is installed, durably, unless it is known.
    fn note(&mut self, fact: fn(&mut super::Installed) -> &mut bool) {
        self.state = State::Operating;
        if let Some(fact) = self.record.installed.as_mut().map(fact)
            && !core::mem::replace(fact, true)
        {
            self.outputs.push_back(Output::Persist);
            self.state = State::Confirming;
        }
    }

    fn terminus_refused(&mut self) {
        if self.is_unconfirmed() {
            // The owner did not see C7, or not yet. A new session replaces what it delivered; until one does, that stays:
            // a C7 under way may still arrive, and then the owner opens no other session.
            self.is_renewing = true;
            self.back_off(State::Off);
        } else {
            self.state = State::Operating;
        }
    }

    /// The owner's head-end knows the device no more: as after a loss of everything that he had on record. The way to him is
    /// asked for anew, a few times; what is installed stays until a session has replaced it, and counts again when none does.
    fn seek_owner(&mut self) {
        self.is_renewing = true;
        self.seek_tries = Some(super::SEEK_TRIES);
        self.back_off(State::Off);
    }

    /// Whether a new session is to replace what is installed.
    fn renews(&mut self) -> bool {
        match &mut self.seek_tries {
            Some(0) => {
                self.seek_tries = None;
                self.is_renewing = false;
            }
            Some(left) => *left = left.saturating_sub(1),
            None => {}
        }
        self.is_renewing
    }

    fn is_unconfirmed(&self) -> bool {
        self.record.installed.as_ref().is_some_and(|installed| !installed.confirmed)
    }

    fn say_init_hello(&mut self, now: Tick, random: &[u8]) {
        let (Some(m), Some(description)) = (Nonce::from_slice(random), &self.description) else {
            return self.back_off(State::Off);
        };
        let Ok(suite) = suite_of(&description.ek_public) else { return self.give_up(Code::Suite) };
        let hello = InitHello {
            m,
            suites: alloc::vec![suite],
            ek_name: tpm::name(&description.ek_public),
            epoch: description.epoch,
            iak_pub: Some(description.iak_public.clone()),
            ek_pub: Some(description.ek_public.clone()),
        };
        let wire = hello.encode();
        self.transmit(now, Peer::InitServer, wire.clone());
        self.state = State::AwaitingRedirect { m, wire, is_proof: false };
    }

    fn init_answered(&mut self, now: Tick, (m, wire, is_proof): (Nonce, Vec<u8>, bool), answer: &[u8]) {
        if !is_challenge(answer) {
            return self.redirect_received(now, (m, wire, is_proof), answer);
        }
        self.reply_due = None;
        match self.check_init_challenge(now, &m, is_proof, answer) {
            Ok(InitChallenge { credential, secret, n, .. }) => {
                self.challenged.push_back(now);
                self.root(RootRequest::ActivateIdentity { credential, secret });
                self.state = State::ProvingIdentity { m, n, wire, challenge: answer.to_vec() };
            }
            Err(code) => self.refuse(now, code, State::AwaitingRedirect { m, wire, is_proof }, answer),
        }
    }

    fn redirect_received(&mut self, now: Tick, (m, wire, is_proof): (Nonce, Vec<u8>, bool), answer: &[u8]) {
        self.reply_due = None;
        let checked = self.check_redirect(answer, &m).and_then(|(answer, verified)| {
            self.check_recovery(now, &verified)?;
            Ok((answer, verified))
        });
        match checked {
            Ok((_, verified)) if self.is_at_home(&verified) => {
                // Nothing to recover from: what is installed goes on.
                self.present_at = None;
                self.event(Event::Refused(Code::State));
                self.describe();
            }
            Ok((answer, verified)) => {
                self.failures = 0;
                self.record.recovery = self.recovery_in(&verified);
                self.record.redirect_seq = Some((verified.redirect.epoch, verified.redirect.seq));
                self.record.redirect = Some(answer.signed);
                self.verified = Some(verified);
                self.outputs.push_back(Output::Persist);
                self.state = State::StoringRedirect;
            }
            Err(code) => self.refuse(now, code, State::AwaitingRedirect { m, wire, is_proof }, answer),
        }
    }

    fn make_keys(&mut self) {
        if self.record.keys.is_some() {
            self.derive_secret();
        } else {
            self.root(RootRequest::CreateKeys);
            self.state = State::MakingKeys;
        }
    }

    fn derive_secret(&mut self) {
        match &self.verified {
            Some(verified) => {
                let epoch = verified.voucher.epoch;
                self.root(RootRequest::OwnerSecret(epoch));
                self.state = State::DerivingSecret;
            }
            None => self.give_up(Code::State),
        }
    }

    fn say_hello(
        &mut self,
        now: Tick,
        owner_secret: gridseal_crypto::Key<gridseal_crypto::role::OwnerSecret, 32>,
        random: &[u8],
    ) {
        let (Some(m), Some(description), Some(keys), Some(redirect)) =
            (Nonce::from_slice(random), &self.description, &self.record.keys, self.verified.clone())
        else {
            return self.give_up(Code::State);
        };
        let ek_name = tpm::name(&description.ek_public);
        let Ok(suite) = suite_of(&description.ek_public) else { return self.give_up(Code::Suite) };
        let body = HelloBody {
            suites: alloc::vec![suite],
            ek_name,
            ek_pub: description.ek_public.clone(),
            ek_chain: Some(description.ek_certificate.clone())
                .filter(|der| !der.is_empty())
                .into_iter()
                .collect(),
            epoch: redirect.voucher.epoch,
            ak_pub: keys.attestation.public.clone(),
            sto_pub: keys.storage.public.clone(),
            tls_pub: keys.tls.public.clone(),
            iak_pub: keys.iak_public.clone(),
            redirect: redirect.hash,
            voucher_head: redirect.voucher.head(),
            place: self.firmware.place.clone(),
            installed: self
                .record
                .installed
                .as_ref()
                .filter(|installed| installed.confirmed)
                .map(|installed| (installed.policy_version, installed.digest)),
        };
        let Ok(wire) = seal_hello(&owner_secret.seal_c1(&m), &owner_secret.kid(), &m, &body.encode()) else {
            return self.give_up(Code::Size);
        };
        let session = Session {
            redirect,
            ek_name,
            suite,
            m,
            sid: sid_of(&wire),
            transcript: Transcript::new().after(Step::HELLO, &wire),
            owner_secret,
            challenge: None,
            secrets: None,
            pending: wire,
        };
        self.say(now, Step::HELLO, Box::new(session), State::AwaitingChallenge);
    }

    /// Sends the pending message of a session for the first time.
    fn say(&mut self, now: Tick, step: Step, session: Box<Session>, next: fn(Box<Session>) -> State) {
        self.event(Event::Sent(step));
        self.transmit(now, Peer::ConfigServer, session.pending.clone());
        self.state = next(session);
    }

    fn accepted(&mut self, step: Step, session: &mut Session, wire: &[u8]) {
        self.reply_due = None;
        self.failures = 0;
        session.transcript = session.transcript.after(step, wire);
        self.event(Event::Accepted(step));
    }

    fn challenge_received(&mut self, now: Tick, mut session: Box<Session>, wire: &[u8]) {
        match self.check_challenge(&session, wire) {
            Ok(challenge) => {
                self.accepted(Step::CHALLENGE, &mut session, wire);
                self.root(RootRequest::WritePin(challenge.pin));
                session.challenge = Some(challenge);
                self.state = State::Pinning(session);
            }
            Err(code) => self.refuse(now, code, State::AwaitingChallenge(session), wire),
        }
    }

    fn raise_or_attest(&mut self, session: Box<Session>) {
        let (Some(description), Some(challenge), Some(keys)) =
            (&self.description, &session.challenge, &self.record.keys)
        else {
            return self.give_up(Code::State);
        };
        let steps = challenge.payload.epoch.checked_sub(description.epoch);
        match steps {
            Some(0) => {
                let th2 = session.transcript.value();
                let request = AttestRequest {
                    keys: keys.clone(),
                    credential: challenge.payload.credential.clone(),
                    secret: challenge.payload.secret.clone(),
                    salts: challenge.payload.salts.clone(),
                    nonce_callers: challenge.payload.nonce_callers,
                    qualifying: [1, 2, 3, 4].map(|purpose| qualifying(purpose, &th2)),
                    pcr_selection: challenge.payload.pcr_selection.clone(),
                    ima_next: challenge.payload.ima_next,
                };
                self.root(RootRequest::Attest(request));
                self.state = State::Attesting(session);
            }
            Some(steps) if steps <= EPOCH_STEPS_MAX => {
                self.root(RootRequest::RaiseEpoch);
                self.state = State::Raising(session);
            }
            _ => self.give_up(Code::EpochMismatch),
        }
    }

    fn attested(&mut self, mut session: Box<Session>, attested: crate::root::Attested) {
        let Some(keys) = &self.record.keys else { return self.give_up(Code::State) };
        let Ok(tls_key) = tpm::tls_key(&keys.tls.public) else { return self.give_up(Code::Csr) };
        let to_be_signed = csr_to_be_signed(&self.firmware.subject, &tls_key);
        let request = RootRequest::Sign { tls: keys.tls.clone(), message: to_be_signed.clone() };
        let (activation, attested) = keep(attested);
        let derived = session.owner_secret.session(&session.transcript.value(), &activation);
        session.secrets = Some(Secrets { activation, session: derived, attested });
        self.root(request);
        self.state = State::SigningRequest { session, to_be_signed };
    }

    fn say_evidence(&mut self, now: Tick, mut session: Box<Session>, csr: &[u8]) {
        let th2 = session.transcript.value();
        let Some(description) = &self.description else { return self.give_up(Code::State) };
        let Some(Secrets { activation, attested: Attested2 { sessions, statements }, .. }) =
            &mut session.secrets
        else {
            return self.give_up(Code::State);
        };
        let Some(([storage, tls, identity], quote, logs)) = statements.take() else {
            return self.give_up(Code::State);
        };
        if logs.event_log.len().max(logs.ima_log.len()) > LOG_SIZE_MAX {
            // A log is never cut: this device measures more than the protocol carries.
            return self.give_up(Code::Size);
        }
        let body = EvidenceBody {
            act: activation.act(&th2),
            sessions: *sessions,
            certify_storage: storage,
            certify_tls: tls,
            certify_identity: identity,
            quote,
            logs,
            csr: csr.to_vec(),
            permanent: description.permanent,
            platform_open: description.platform_open,
        };
        match seal_next(&mut session, Step::EVIDENCE, &body.encode()) {
            Ok(()) => self.say(now, Step::EVIDENCE, session, State::AwaitingCommands),
            Err(code) => self.give_up(code),
        }
    }

    fn commands_received(&mut self, now: Tick, mut session: Box<Session>, wire: &[u8]) {
        match Self::check_commands(&session, wire) {
            Ok(commands) => {
                self.accepted(Step::COMMANDS, &mut session, wire);
                self.root(RootRequest::Execute(commands));
                self.state = State::Executing(session);
            }
            Err(code) => self.refuse(now, code, State::AwaitingCommands(session), wire),
        }
    }

    fn say_responses(&mut self, now: Tick, mut session: Box<Session>, responses: Vec<Vec<u8>>) {
        let body = ResponsesBody { th4: session.transcript.value(), responses };
        match seal_next(&mut session, Step::RESPONSES, &body.encode()) {
            Ok(()) => self.say(now, Step::RESPONSES, session, State::AwaitingConfiguration),
            Err(code) => self.give_up(code),
        }
    }

    fn configuration_received(&mut self, now: Tick, session: Box<Session>, wire: &[u8]) {
        match self.check_configuration(&session, wire) {
            Ok((installed, objects)) => {
                self.reply_due = None;
                let Some(keys) = &self.record.keys else { return self.give_up(Code::State) };
                let storage = keys.storage.clone();
                self.root(RootRequest::Import { storage, objects });
                self.state = State::Importing { session, installed, wire: wire.to_vec() };
            }
            Err(code) => self.refuse(now, code, State::AwaitingConfiguration(session), wire),
        }
    }

    fn install(
        &mut self,
        mut session: Box<Session>,
        installed: Box<super::Installed>,
        names: Vec<gridseal_types::EkName>,
        wire: &[u8],
    ) {
        self.accepted(Step::PROVISION, &mut session, wire);
        self.record.installed = Some(*installed);
        // Orders of an epoch go on counting, whatever else begins anew.
        let owner = self.record.redirect.as_ref().map(|signed| OwnerChain {
            voucher: Bytes(signed.voucher.clone()),
            urls: session.redirect.redirect.urls.clone(),
            pins: session.redirect.redirect.pins.clone(),
        });
        let accepted = self.record.orders.accepted.take();
        self.record.orders = Orders { accepted, owner, ..Orders::default() };
        self.record.ended = None;
        self.chain = None;
        self.is_renewing = false;
        self.seek_tries = None;
        self.record.suite = session.suite;
        self.outputs.push_back(Output::Persist);
        self.state = State::Installing { session, names };
    }

    fn say_installed(&mut self, now: Tick, mut session: Box<Session>, names: Vec<gridseal_types::EkName>) {
        let th6: Digest = session.transcript.value();
        let Some(secrets) = &session.secrets else { return self.give_up(Code::State) };
        let body = InstalledBody { th6, receipt: secrets.activation.receipt(&th6), names };
        match seal_next(&mut session, Step::INSTALLED, &body.encode()) {
            Ok(()) => self.say(now, Step::INSTALLED, session, State::AwaitingDone),
            Err(code) => self.give_up(code),
        }
    }

    fn done_received(&mut self, now: Tick, mut session: Box<Session>, wire: &[u8]) {
        match Self::check_done(&session, wire) {
            Ok(finished) => {
                self.accepted(Step::DONE, &mut session, wire);
                self.record.floor = self.record.floor.max(finished.now);
                if let Some(installed) = &mut self.record.installed {
                    installed.confirmed = true;
                }
                self.outputs.push_back(Output::Persist);
                self.state = State::Confirming;
            }
            Err(code) => self.refuse(now, code, State::AwaitingDone(session), wire),
        }
    }

    /// An answer that was not accepted: unauthenticated as it is, it only ever costs a wait.
    fn refuse(&mut self, _now: Tick, code: Code, waiting: State, answer: &[u8]) {
        let event = match Envelope::decode(answer) {
            Ok(Envelope::Error { .. }) => Event::Unanswered,
            _ => Event::Refused(code),
        };
        self.event(event);
        self.retry(waiting);
    }

    fn unanswered(&mut self, waiting: State) {
        self.event(Event::Unanswered);
        self.retry(waiting);
    }

    /// Repeats the same bytes after a wait, or gives the session up after [`FAILURES_MAX`] failures in a row.
    fn retry(&mut self, waiting: State) {
        self.reply_due = None;
        self.failures = self.failures.saturating_add(1);
        if !self.failures.is_multiple_of(FAILURES_MAX) {
            self.back_off(waiting);
        } else if matches!(waiting, State::AwaitingDone(_)) {
            // Complete but for the owner's word: the terminus tells whether C7 arrived.
            self.operate();
        } else {
            self.flush();
        }
    }

    /// What the owner authenticated does not fit: nothing was changed, a new session may do better.
    fn give_up(&mut self, code: Code) {
        self.event(Event::Refused(code));
        self.failures = self.failures.saturating_add(1);
        self.flush();
    }

    fn flush(&mut self) {
        self.reply_due = None;
        self.root(RootRequest::Flush);
        self.state = State::Flushing;
        let is_confirmed = self.record.installed.as_ref().is_some_and(|installed| installed.confirmed);
        // What was installed before this session gets its next chance at the terminus.
        self.is_renewing = false;
        self.seek_tries = None;
        if self.failures >= 2 * FAILURES_MAX && !is_confirmed {
            // The owner may have moved: ask the init server again.
            self.record.redirect = None;
            self.verified = None;
        }
    }

    pub(super) fn back_off(&mut self, then: State) {
        self.jitter(then, self.failures.min(20));
    }

    /// Waits a random time up to the first ceiling of the back-off, doubled so often.
    pub(super) fn jitter(&mut self, then: State, doublings: u32) {
        self.outputs.push_back(Output::Random(JITTER_SIZE));
        self.state = State::Jittering { then: Box::new(then), doublings };
    }

    fn wait(&mut self, now: Tick, then: State, doublings: u32, random: &[u8]) {
        let pace = self.firmware.pace;
        let doubled = pace.first.saturating_mul(1 << doublings);
        let ceiling_ms = u64::try_from(doubled.min(pace.most).as_millis()).unwrap_or(u64::MAX);
        let drawn = random.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        // Full jitter, at least one millisecond, so that time moves.
        let delay = drawn.checked_rem(ceiling_ms).unwrap_or(0).saturating_add(1);
        self.state = State::Waiting { until: now + Duration::from_millis(delay), then: Box::new(then) };
    }

    /// After a wait: the same bytes again, or a new attempt.
    fn resume(&mut self, now: Tick, then: State) {
        match &then {
            State::AwaitingRedirect { wire, .. } => {
                let wire = wire.clone();
                self.transmit(now, Peer::InitServer, wire);
            }
            State::AwaitingChallenge(session)
            | State::AwaitingCommands(session)
            | State::AwaitingConfiguration(session)
            | State::AwaitingDone(session) => {
                let wire = session.pending.clone();
                self.transmit(now, Peer::ConfigServer, wire);
            }
            _ => {
                self.is_offered = false;
                return self.describe();
            }
        }
        self.state = then;
    }
}

impl State {
    const fn awaits_reply(&self) -> bool {
        matches!(
            self,
            Self::AwaitingRedirect { .. }
                | Self::AwaitingChallenge(_)
                | Self::AwaitingCommands(_)
                | Self::AwaitingConfiguration(_)
                | Self::AwaitingDone(_)
        )
    }
}

/// Seals the next message of the device once and keeps it for every repetition.
fn seal_next(session: &mut Session, step: Step, body: &[u8]) -> Result<(), Code> {
    let secrets = session.secrets.as_ref().ok_or(Code::State)?;
    session.pending = seal_message(&secrets.session.device_to_owner(), step, &session.sid, body)?;
    session.transcript = session.transcript.after(step, &session.pending);
    Ok(())
}
