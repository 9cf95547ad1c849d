//! Opening, proving and releasing.

use alloc::vec::Vec;

use gridseal_types::Tick;

use super::{Client, Event, Job, PDU_SIZE_UNLIMITED, Refusal};
use crate::{
    acse::{
        Aare, Aarq, AssociateResult, CHALLENGE_SIZE_MIN, ContextName, DLMS_VERSION, Diagnostic,
        InitiateRequest, InitiateResponse, MAX_PDU_MIN, Mechanism, RELEASE_NORMAL, Release, VAA_LOGICAL_NAME,
    },
    apdu::{
        action::{ActionRequest, ActionResponse},
        reference::{InvokeId, REPLY_TO_HLS_AUTHENTICATION},
        result::ActionResult,
    },
    assoc::{
        Operation,
        table::{ClientEvent, ClientState},
    },
    wire::Data,
};

/// What is known while an association is opened.
#[derive(Default)]
pub(super) struct Opening {
    /// Own challenge or password, as it goes into the AARQ.
    authentication: Option<Vec<u8>>,
    pub(super) server_challenge: Vec<u8>,
}

impl core::fmt::Debug for Opening {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Opening")
    }
}

impl Client {
    const fn own_context(&self) -> ContextName {
        if self.settings.ciphered { ContextName::LogicalNameCiphered } else { ContextName::LogicalName }
    }

    pub(super) fn associate(&mut self, now: Tick) {
        match self.settings.mechanism {
            Mechanism::None => self.initiate(now),
            Mechanism::LowLevel => self.ask(Job::Password, Operation::Password),
            mechanism => self.ask(Job::Challenge, Operation::Challenge(mechanism)),
        }
    }

    pub(super) fn challenge_made(&mut self, now: Tick, challenge: Vec<u8>) {
        self.opening.authentication = Some(challenge);
        self.initiate(now);
    }

    pub(super) fn password_given(&mut self, now: Tick, password: Vec<u8>) {
        self.opening.authentication = Some(password);
        self.initiate(now);
    }

    fn initiate_request(&self) -> Vec<u8> {
        InitiateRequest {
            dedicated_key: None,
            response_allowed: true,
            quality_of_service: None,
            version: DLMS_VERSION,
            conformance: self.settings.conformance,
            max_pdu: self.settings.max_pdu,
        }
        .to_bytes()
    }

    fn initiate(&mut self, now: Tick) {
        self.deadline = Some(now.after(self.settings.response_timeout));
        let apdu = self.initiate_request();
        if self.settings.ciphered {
            let dedicated = self.settings.carrier.is_dedicated();
            self.ask(Job::SealInitiate, Operation::SealInitiate { apdu, dedicated });
        } else {
            self.transmit_request(&apdu);
        }
    }

    pub(super) fn transmit_request(&mut self, user_information: &[u8]) {
        let aarq = Aarq {
            context: self.own_context(),
            calling_title: self.settings.own_title,
            calling_certificate: None,
            calling_user: self.settings.user,
            mechanism: self.settings.mechanism,
            authentication: self.opening.authentication.as_deref(),
            user_information,
        }
        .to_bytes();
        self.outputs.push_back(super::Output::Transmit(aarq));
    }

    /// An AARE: judged in full before anything is taken from it.
    pub(super) fn answered(&mut self, now: Tick, bytes: &[u8]) {
        let aare = match Aare::from_bytes(bytes) {
            Ok(aare) => aare,
            Err(error) => return self.ignore(Refusal::Malformed(error)),
        };
        if let Err(refusal) = self.judge(&aare) {
            return self.refuse(refusal);
        }
        let information = aare.user_information.unwrap_or_default().to_vec();
        self.session.server_title = aare.responding_title.or(self.settings.server_title);
        self.opening.server_challenge = aare.authentication.unwrap_or_default().to_vec();
        if self.settings.ciphered {
            let peer = self.session.server_title;
            let open = Operation::Open { apdu: information, peer, is_broadcast: false };
            self.ask(Job::OpenInitiate, open);
        } else {
            self.agreed(now, &information);
        }
    }

    fn judge(&self, aare: &Aare<'_>) -> Result<(), Refusal> {
        let settings = &self.settings;
        if aare.result != AssociateResult::Accepted {
            return Err(Refusal::Rejected(aare.result, aare.diagnostic));
        }
        if aare.context != self.own_context() {
            return Err(Refusal::Mismatch);
        }
        //= DLMS 3.2: high level security goes on with pass 3; a server that leaves it out is not believed
        let is_high = settings.mechanism.is_high_level();
        if is_high != (aare.diagnostic == Diagnostic::AUTHENTICATION_REQUIRED) {
            return Err(Refusal::Authentication);
        }
        if is_high && aare.mechanism != settings.mechanism {
            return Err(Refusal::Mismatch);
        }
        let is_other = settings
            .server_title
            .is_some_and(|expected| aare.responding_title.is_some_and(|found| found != expected));
        let is_own = aare.responding_title.is_some() && aare.responding_title == settings.own_title;
        let needs_title = settings.ciphered
            || matches!(settings.mechanism, Mechanism::Gmac | Mechanism::Sha256 | Mechanism::Ecdsa);
        let is_missing = aare.responding_title.or(settings.server_title).is_none();
        if is_other || is_own || (needs_title && is_missing) {
            return Err(Refusal::Title);
        }
        //= DLMS 4: a client gives up when the server's challenge is its own
        let challenge = aare.authentication.unwrap_or_default();
        let is_reflected = Some(challenge) == self.opening.authentication.as_deref();
        let size_min = if settings.short_challenge {
            CHALLENGE_SIZE_MIN
        } else {
            settings.mechanism.challenge_size_min()
        };
        if is_high && (is_reflected || challenge.len() < size_min) {
            return Err(Refusal::Challenge);
        }
        if aare.user_information.is_none() { Err(Refusal::Initiate) } else { Ok(()) }
    }

    pub(super) fn agreed(&mut self, now: Tick, initiate: &[u8]) {
        let initiate = match InitiateResponse::from_bytes(initiate) {
            Ok(initiate) => initiate,
            Err(error) => return self.refuse(Refusal::Malformed(error)),
        };
        let conformance = initiate.conformance & self.settings.conformance;
        let is_acceptable = initiate.version == DLMS_VERSION
            && initiate.vaa_name == VAA_LOGICAL_NAME
            && (initiate.max_pdu == 0 || initiate.max_pdu >= MAX_PDU_MIN)
            && !conformance.is_empty();
        if !is_acceptable {
            return self.refuse(Refusal::Initiate);
        }
        self.session.conformance = conformance;
        self.session.max_pdu = initiate.max_pdu;
        self.session.server_pdu_size = match initiate.max_pdu {
            0 => PDU_SIZE_UNLIMITED,
            size => usize::from(size),
        };
        if !self.settings.mechanism.is_high_level() {
            return self.associated(ClientEvent::Accepted);
        }
        if self.advance(ClientEvent::Challenged).is_err() {
            return;
        }
        self.deadline = Some(now.after(self.settings.response_timeout));
        let peer = self.peer_challenge();
        self.ask(Job::HlsReply, Operation::HlsReply(peer));
    }

    /// Pass 3.
    pub(super) fn prove(&mut self, now: Tick, reply: &[u8]) {
        let parameters = Data::OctetString(reply).to_bytes();
        self.invoke_id = self.invoke_id.wrapping_add(1) & 0x0F;
        let action = ActionRequest::Normal {
            invoke_id: InvokeId::confirmed(self.invoke_id),
            method: REPLY_TO_HLS_AUTHENTICATION,
            parameters: Some(&parameters),
        };
        self.protect(now, action.to_bytes());
    }

    /// Pass 4.
    pub(super) fn server_replied(&mut self, plain: &[u8]) {
        let outcome = match ActionResponse::from_bytes(plain) {
            Ok(ActionResponse::Normal { invoke_id, outcome }) if invoke_id.id() == self.invoke_id => outcome,
            Ok(_) => return self.ignore(Refusal::Unexpected),
            Err(error) => return self.ignore(Refusal::Malformed(error)),
        };
        let returned = outcome.returned.and_then(Result::ok).map(Data::from_bytes);
        match (outcome.result, returned) {
            (ActionResult::Success, Some(Ok(Data::OctetString(reply)))) => {
                let (peer, reply) = (self.peer_challenge(), reply.to_vec());
                self.ask(Job::HlsVerify, Operation::HlsVerify { peer, reply });
            }
            _ => self.refuse(Refusal::Authentication),
        }
    }

    pub(super) fn proved(&mut self) {
        self.associated(ClientEvent::Proved);
    }

    fn associated(&mut self, event: ClientEvent) {
        if self.advance(event).is_err() {
            return;
        }
        self.opening = Opening::default();
        self.deadline = None;
        self.event(Event::Associated {
            server_title: self.session.server_title,
            conformance: self.session.conformance,
            max_pdu: self.session.max_pdu,
        });
    }

    pub(super) fn release(&mut self) {
        if self.settings.ciphered {
            let apdu = self.initiate_request();
            self.ask(Job::SealRelease, Operation::seal_initiate(apdu));
        } else {
            self.transmit_release(None);
        }
    }

    pub(super) fn transmit_release(&mut self, user_information: Option<&[u8]>) {
        let release = Release { is_response: false, reason: Some(RELEASE_NORMAL), user_information };
        self.outputs.push_back(super::Output::Transmit(release.to_bytes()));
    }

    pub(super) fn release_answered(&mut self, bytes: &[u8]) {
        match Release::from_bytes(bytes) {
            Ok(release) => match release.user_information {
                Some(information) if self.settings.ciphered => {
                    let (apdu, peer) = (information.to_vec(), self.session.server_title);
                    self.ask(Job::OpenRelease, Operation::Open { apdu, peer, is_broadcast: false });
                }
                // What is closed by our own wish needs no proof to be closed.
                _ => self.released(),
            },
            Err(error) => self.ignore(Refusal::Malformed(error)),
        }
    }

    pub(super) fn released(&mut self) {
        if self.state == ClientState::Releasing {
            self.event(Event::Released);
        }
        self.end(ClientEvent::Released);
    }
}
