//! Opening, proving and releasing.

use alloc::vec::Vec;

use gridseal_types::{SystemTitle, Tick};

use super::{Event, Job, PDU_SIZE_UNLIMITED, Refusal, Server, Session, Shape};
use crate::{
    acse::{
        Aare, Aarq, AssociateResult, CHALLENGE_SIZE_MIN, Conformance, ContextName, DLMS_VERSION, Diagnostic,
        InitiateError, InitiateErrorKind, InitiateRequest, InitiateResponse, MAX_PDU_MIN, Mechanism,
        RELEASE_NORMAL, Release, VAA_LOGICAL_NAME,
    },
    apdu::{
        action::{ActionOutcome, ActionRequest, ActionResponse},
        exception::{ExceptionResponse, ServiceError},
        reference::{InvokeId, REPLY_TO_HLS_AUTHENTICATION},
        result::ActionResult,
    },
    assoc::{
        CryptoFault, CryptoResult, Done, Operation, PeerChallenge, Protection,
        table::{self, ServerEvent, ServerState},
    },
    wire::Data,
};

/// An AARQ that is being judged.
#[derive(Debug)]
pub(super) struct Opening {
    client_title: Option<SystemTitle>,
    user: Option<u8>,
    /// Password or challenge.
    authentication: Vec<u8>,
    /// Agreed services and the client's PDU size.
    agreed: (Conformance, usize),
    /// Our challenge.
    challenge: Vec<u8>,
}

impl Server {
    pub(super) fn associate(&mut self, now: Tick, bytes: &[u8]) {
        if table::server(self.state, ServerEvent::AssociateRequest).is_none() {
            // An open association is not replaced by whoever can send an AARQ.
            self.event(Event::Refused(Refusal::State));
            return self.transmit_rejection(&Refusal::State);
        }
        self.session = Session::default();
        self.advance(ServerEvent::AssociateRequest);
        self.pending_deadline = Some(now.after(self.settings.pending_timeout));
        let aarq = match Aarq::from_bytes(bytes) {
            Ok(aarq) => aarq,
            Err(error) => return self.reject(Refusal::Malformed(error)),
        };
        if let Err(refusal) = self.judge(&aarq) {
            return self.reject(refusal);
        }
        let opening = Opening {
            client_title: aarq.calling_title,
            user: aarq.calling_user,
            authentication: aarq.authentication.unwrap_or_default().to_vec(),
            agreed: (Conformance::default(), 0),
            challenge: Vec::new(),
        };
        let information = aarq.user_information.to_vec();
        match (self.settings.ciphered, aarq.calling_title) {
            //= DLMS 12.10: the context with ciphering is one of the contexts
            (true, Some(peer)) => {
                self.ask(Job::OpenInitiate(opening), Operation::OpenInitiate { apdu: information, peer });
            }
            (true, None) => self.reject(Refusal::Title),
            (false, _) => self.negotiate(now, opening, &information),
        }
    }

    /// What can be judged without a key.
    fn judge(&self, aarq: &Aarq<'_>) -> Result<(), Refusal> {
        let context =
            if self.settings.ciphered { ContextName::LogicalNameCiphered } else { ContextName::LogicalName };
        if aarq.context != context {
            return Err(Refusal::Context);
        }
        if aarq.mechanism != self.settings.mechanism {
            return Err(Refusal::Mechanism(aarq.mechanism));
        }
        let is_own = aarq.calling_title == Some(self.settings.own_title);
        let needs_title = self.settings.ciphered
            || matches!(aarq.mechanism, Mechanism::Gmac | Mechanism::Sha256 | Mechanism::Ecdsa);
        if is_own || (needs_title && aarq.calling_title.is_none()) {
            return Err(Refusal::Title);
        }
        let size = aarq.authentication.map_or(0, <[u8]>::len);
        let size_min = match aarq.mechanism {
            Mechanism::None => 0,
            Mechanism::LowLevel => 1,
            _ if self.settings.short_challenge => CHALLENGE_SIZE_MIN,
            high => high.challenge_size_min(),
        };
        if size < size_min { Err(Refusal::AuthenticationValue) } else { Ok(()) }
    }

    pub(super) fn initiate_opened(&mut self, now: Tick, opening: Opening, result: CryptoResult) {
        match result {
            Ok(Done::Opened { plain, security_control, .. }) => {
                // The initiate is encrypted and authenticated, or at least as much as everything else must be.
                if Protection::of(security_control).covers(self.settings.required) {
                    self.negotiate(now, opening, &plain);
                } else {
                    self.reject(Refusal::Protection);
                }
            }
            Ok(_) => self.reject(Refusal::Crypto(CryptoFault::Form)),
            Err(fault) => self.reject(Refusal::Crypto(fault)),
        }
    }

    fn negotiate(&mut self, now: Tick, mut opening: Opening, initiate: &[u8]) {
        let initiate = match InitiateRequest::from_bytes(initiate) {
            Ok(initiate) => initiate,
            Err(error) => return self.reject(Refusal::Malformed(error)),
        };
        // A dedicated key in clear is no key; inside a ciphered initiate it was taken out before.
        if initiate.dedicated_key.is_some() || !initiate.response_allowed {
            return self.reject(Refusal::Initiate(InitiateErrorKind::Refused));
        }
        if initiate.version != DLMS_VERSION {
            return self.reject(Refusal::Initiate(InitiateErrorKind::VersionTooLow));
        }
        let conformance = initiate.conformance & self.settings.conformance;
        if conformance.is_empty() {
            return self.reject(Refusal::Initiate(InitiateErrorKind::IncompatibleConformance));
        }
        let size = match initiate.max_pdu {
            0 => PDU_SIZE_UNLIMITED,
            size if size < MAX_PDU_MIN => {
                return self.reject(Refusal::Initiate(InitiateErrorKind::PduSizeTooShort));
            }
            size => usize::from(size),
        };
        opening.agreed = (conformance, size);
        match self.settings.mechanism {
            Mechanism::None => self.accept(now, opening),
            Mechanism::LowLevel => {
                let password = core::mem::take(&mut opening.authentication);
                self.ask(Job::CheckPassword(opening), Operation::CheckPassword(password));
            }
            mechanism => self.ask(Job::Challenge(opening), Operation::Challenge(mechanism)),
        }
    }

    pub(super) fn password_checked(&mut self, now: Tick, opening: Opening, result: &CryptoResult) {
        match result {
            Ok(Done::Verified) => self.accept(now, opening),
            Ok(_) => self.reject(Refusal::Crypto(CryptoFault::Authentication)),
            Err(fault) => self.reject(Refusal::Crypto(*fault)),
        }
    }

    pub(super) fn challenged(&mut self, now: Tick, mut opening: Opening, result: CryptoResult) {
        match result {
            Ok(Done::Bytes(challenge)) if challenge != opening.authentication => {
                opening.challenge = challenge;
                self.accept(now, opening);
            }
            Ok(_) => self.reject(Refusal::Crypto(CryptoFault::Authentication)),
            Err(fault) => self.reject(Refusal::Crypto(fault)),
        }
    }

    fn initiate_response(&self, conformance: Conformance) -> Vec<u8> {
        InitiateResponse {
            quality_of_service: None,
            version: DLMS_VERSION,
            conformance,
            max_pdu: self.settings.max_pdu,
            vaa_name: VAA_LOGICAL_NAME,
        }
        .to_bytes()
    }

    fn accept(&mut self, now: Tick, opening: Opening) {
        let apdu = self.initiate_response(opening.agreed.0);
        if self.settings.ciphered {
            self.ask(Job::SealInitiate(opening), Operation::seal_initiate(apdu));
        } else {
            self.initiate_sealed(now, opening, Ok(Done::Bytes(apdu)));
        }
    }

    pub(super) fn initiate_sealed(&mut self, now: Tick, opening: Opening, result: CryptoResult) {
        let information = match result {
            Ok(Done::Bytes(information)) => information,
            Ok(_) => return self.reject(Refusal::Crypto(CryptoFault::Form)),
            Err(fault) => return self.reject(Refusal::Crypto(fault)),
        };
        let mechanism = self.settings.mechanism;
        let is_high = mechanism.is_high_level();
        let aare = Aare {
            context: self.own_context(),
            result: AssociateResult::Accepted,
            diagnostic: if is_high { Diagnostic::AUTHENTICATION_REQUIRED } else { Diagnostic::NULL },
            responding_title: (self.settings.ciphered || is_high).then_some(self.settings.own_title),
            responding_certificate: None,
            mechanism,
            authentication: is_high.then_some(opening.challenge.as_slice()),
            user_information: Some(&information),
        };
        self.outputs.push_back(super::Output::Transmit(aare.to_bytes()));
        let (conformance, client_pdu_size) = opening.agreed;
        self.session = Session {
            client_title: opening.client_title,
            user: opening.user,
            challenge: opening.authentication,
            conformance,
            client_pdu_size,
            outgoing: None,
            incoming: None,
        };
        if is_high {
            self.advance(ServerEvent::Challenged);
            self.pending_deadline = Some(now.after(self.settings.pending_timeout));
        } else {
            self.advance(ServerEvent::Accepted);
            self.associated();
        }
    }

    fn associated(&mut self) {
        self.pending_deadline = None;
        let (client_title, mechanism) = (self.session.client_title, self.settings.mechanism);
        self.event(Event::Associated { client_title, mechanism });
    }

    const fn own_context(&self) -> ContextName {
        if self.settings.ciphered { ContextName::LogicalNameCiphered } else { ContextName::LogicalName }
    }

    fn reject(&mut self, refusal: Refusal) {
        self.event(Event::Refused(refusal));
        self.transmit_rejection(&refusal);
        self.end(ServerEvent::Rejected);
    }

    /// Towards a peer that has not authenticated itself every failure of security looks alike (rule S11). Sizes and
    /// services are told apart only where no security is demanded.
    fn transmit_rejection(&mut self, refusal: &Refusal) {
        let error = match refusal {
            Refusal::Initiate(kind) if !self.settings.ciphered => Some(InitiateError::initiate(*kind)),
            _ => None,
        };
        let information = error.map(|error| error.to_bytes());
        let diagnostic =
            if information.is_some() { Diagnostic::NO_REASON } else { Diagnostic::AUTHENTICATION_FAILURE };
        let aare = Aare {
            context: self.own_context(),
            result: AssociateResult::RejectedPermanent,
            diagnostic,
            responding_title: None,
            responding_certificate: None,
            mechanism: Mechanism::None,
            authentication: None,
            user_information: information.as_ref().map(<[u8; 4]>::as_slice),
        };
        self.outputs.push_back(super::Output::Transmit(aare.to_bytes()));
    }

    /// Pass 3: the only thing that is served before the client has proved itself.
    pub(super) fn prove(&mut self, plain: &[u8], shape: Shape) {
        //= DLMS 3.2: until pass 4 only the reply to the challenge is served
        let Ok(ActionRequest::Normal { invoke_id, method, parameters: Some(parameters) }) =
            ActionRequest::from_bytes(plain)
        else {
            return self.not_proved(Refusal::State);
        };
        let Ok(Data::OctetString(reply)) = Data::from_bytes(parameters) else {
            return self.not_proved(Refusal::AuthenticationValue);
        };
        if method != REPLY_TO_HLS_AUTHENTICATION {
            return self.not_proved(Refusal::State);
        }
        let (peer, reply) = (self.peer_challenge(), reply.to_vec());
        self.ask(Job::HlsVerify(invoke_id, shape), Operation::HlsVerify { peer, reply });
    }

    fn peer_challenge(&self) -> PeerChallenge {
        PeerChallenge {
            mechanism: self.settings.mechanism,
            title: self.session.client_title,
            challenge: self.session.challenge.clone(),
        }
    }

    fn not_proved(&mut self, refusal: Refusal) {
        self.event(Event::Refused(refusal));
        let answer = ExceptionResponse::NOT_ALLOWED.to_bytes();
        self.outputs.push_back(super::Output::Transmit(answer));
        self.end(ServerEvent::AuthenticationFailed);
    }

    pub(super) fn reply_verified(&mut self, invoke_id: InvokeId, shape: Shape, result: &CryptoResult) {
        match result {
            Ok(Done::Verified) => {
                let peer = self.peer_challenge();
                self.ask(Job::HlsReply(invoke_id, shape), Operation::HlsReply(peer));
            }
            Ok(_) => self.not_proved(Refusal::Crypto(CryptoFault::Authentication)),
            Err(fault) => self.not_proved(Refusal::Crypto(*fault)),
        }
    }

    pub(super) fn reply_made(&mut self, now: Tick, invoke_id: InvokeId, shape: Shape, result: CryptoResult) {
        let reply = match result {
            Ok(Done::Bytes(reply)) => Data::OctetString(&reply).to_bytes(),
            Ok(_) => return self.not_proved(Refusal::Crypto(CryptoFault::Form)),
            Err(fault) => return self.not_proved(Refusal::Crypto(fault)),
        };
        self.session.challenge = Vec::new();
        if !self.advance(ServerEvent::Authenticated) {
            return;
        }
        self.associated();
        let outcome = ActionOutcome { result: ActionResult::Success, returned: Some(Ok(&reply)) };
        self.respond(now, ActionResponse::Normal { invoke_id, outcome }.to_bytes(), shape);
    }

    pub(super) fn release(&mut self, bytes: &[u8]) {
        let release = match Release::from_bytes(bytes) {
            Ok(release) => release,
            Err(error) => return self.refuse(Refusal::Malformed(error), ServiceError::OtherReason),
        };
        if table::server(self.state, ServerEvent::Released).is_none() {
            return self.refuse(Refusal::State, ServiceError::OperationNotPossible);
        }
        //= DLMS 3.3: a ciphered association is released under its key
        match (self.settings.ciphered, release.user_information, self.session.client_title) {
            (true, Some(information), peer) => {
                let apdu = information.to_vec();
                self.ask(Job::OpenRelease, Operation::Open { apdu, peer, is_broadcast: false });
            }
            (true, None, _) if !self.settings.plain_release => {
                self.refuse(Refusal::Protection, ServiceError::DecipheringError);
            }
            _ => self.released(None),
        }
    }

    pub(super) fn release_opened(&mut self, result: CryptoResult) {
        match result {
            Ok(Done::Opened { plain, .. }) if InitiateRequest::from_bytes(&plain).is_ok() => {
                let apdu = self.initiate_response(self.session.conformance);
                self.ask(Job::SealRelease, Operation::seal_initiate(apdu));
            }
            Ok(_) => self.refuse(Refusal::State, ServiceError::OtherReason),
            Err(fault) => self.not_opened(fault),
        }
    }

    pub(super) fn release_sealed(&mut self, result: CryptoResult) {
        let information = match result {
            Ok(Done::Bytes(information)) => Some(information),
            _ => None,
        };
        self.released(information.as_deref());
    }

    fn released(&mut self, user_information: Option<&[u8]>) {
        let release = Release { is_response: true, reason: Some(RELEASE_NORMAL), user_information };
        self.outputs.push_back(super::Output::Transmit(release.to_bytes()));
        if self.state == ServerState::Associated {
            self.event(Event::Released);
        }
        self.end(ServerEvent::Released);
    }
}
