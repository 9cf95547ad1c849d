//! The client's side of one association, typed by request.
//!
//! One request is on its way at a time. What does not belong to it, is not protected as it must be, or does not open,
//! is [`Event::Ignored`]: nothing changes, the true answer may still come until [`Client::deadline`].

mod associate;
mod exchange;
mod request;

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use gridseal_types::{Kind, SystemTitle, Tick};

pub use request::{AccessItem, AccessReply, ActionOutcomeOwned, OwnedSelection, Request, Response};

use super::{
    AssociationHandle, CryptoFault, CryptoId, CryptoResult, Done, Operation, PeerChallenge, Protection,
    table::{self, ClientEvent, ClientState},
};
use crate::{
    acse::{AssociateResult, Conformance, Diagnostic, Mechanism},
    apdu::{
        carrier::{Carrier, CipheredApdu, LAYERS_OVERHEAD_MAX, Signing},
        exception::ExceptionResponse,
        tag,
    },
    frame::block::{BLOCK_OVERHEAD, BlockError, BlockSettings, BlockTransfer},
    wire::DecodeError,
};
use associate::Opening;
use exchange::Exchange;

/// PDU size that stands for "no limit", bytes.
const PDU_SIZE_UNLIMITED: usize = 65_535;
/// Largest message that may open an association whatever the agreed size, bytes.
const ASSOCIATION_SIZE_MAX: usize = 4_096;

/// What a client wants of one association.
#[derive(Debug, Clone, Copy)]
pub struct ClientSettings {
    /// Own system title; needed with ciphering and with mechanisms 5, 6 and 7.
    pub own_title: Option<SystemTitle>,
    /// The server's title when it is known beforehand: another one is refused.
    pub server_title: Option<SystemTitle>,
    /// User of this client, if the server tells users apart.
    pub user: Option<u8>,
    /// Whether the context with ciphering is used.
    pub ciphered: bool,
    /// Mechanism.
    pub mechanism: Mechanism,
    /// How protected APDUs are carried; a dedicated key is made when it needs one.
    pub carrier: Carrier,
    /// What requests are protected with; [`Protection::None`] without ciphering.
    pub protection: Protection,
    /// Whether and where requests are signed; responses must be alike. Needs protection.
    pub signing: Signing,
    /// What responses must be protected with at least.
    pub required: Protection,
    /// Services that are proposed.
    pub conformance: Conformance,
    /// Largest APDU that is taken, bytes; 0 = no limit.
    pub max_pdu: u16,
    /// Largest response that is put together from blocks, bytes.
    pub assembled_size_max: usize,
    /// Limits of general-block-transfer.
    pub blocks: BlockSettings,
    /// Whether mechanism 7 takes a server's challenge of 8 to 31 bytes, where the standard demands 32. Only that server's
    /// own proof of this client is weaker for it.
    pub short_challenge: bool,
    /// How long an answer is waited for.
    pub response_timeout: Duration,
}

impl ClientSettings {
    /// No security at all: for the clock and the counters. Everything else begins from here.
    #[must_use]
    pub fn public() -> Self {
        Self {
            own_title: None,
            server_title: None,
            user: None,
            ciphered: false,
            mechanism: Mechanism::None,
            carrier: Carrier::Glo,
            protection: Protection::None,
            signing: Signing::None,
            required: Protection::None,
            conformance: Conformance::SPOKEN,
            max_pdu: 1_024,
            assembled_size_max: 1_048_576,
            blocks: BlockSettings::default(),
            short_challenge: false,
            response_timeout: Duration::from_secs(20),
        }
    }

    /// Largest APDU that is taken, bytes: what was announced, and in a ciphered association the protection around it,
    /// because some servers count only what they protect.
    #[must_use]
    pub fn apdu_size_max(&self) -> usize {
        match self.max_pdu {
            0 => PDU_SIZE_UNLIMITED,
            size if self.ciphered => usize::from(size).saturating_add(LAYERS_OVERHEAD_MAX),
            size => usize::from(size),
        }
    }

    /// Ciphered, every APDU encrypted and authenticated in both directions, with this mechanism.
    #[must_use]
    pub fn ciphered(own_title: SystemTitle, mechanism: Mechanism) -> Self {
        Self {
            own_title: Some(own_title),
            ciphered: true,
            mechanism,
            protection: Protection::AuthenticatedEncrypted,
            required: Protection::AuthenticatedEncrypted,
            ..Self::public()
        }
    }
}

/// What happens to a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// Open the association.
    Associate,
    /// Ask this.
    Request(Request),
    /// Close the association.
    Release,
    /// One whole APDU of the server.
    Received(&'a [u8]),
    /// An operation was performed.
    CryptoDone(CryptoId, CryptoResult),
    /// The deadline has passed.
    Timeout,
    /// The link is gone.
    Disconnected,
}

/// What the caller must do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send this APDU.
    Transmit(Vec<u8>),
    /// Perform this, and answer with [`Input::CryptoDone`]; [`Operation::End`] needs no answer.
    Crypto(AssociationHandle, CryptoId, Operation),
    /// Something was found out.
    Event(Event),
}

/// What a client found out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The association is open; both sides have proved what the mechanism demands.
    Associated {
        /// The server's title.
        server_title: Option<SystemTitle>,
        /// Services that both speak.
        conformance: Conformance,
        /// Largest APDU that the server takes, bytes; 0 = no limit.
        max_pdu: u16,
    },
    /// The association did not come about.
    Refused(Refusal),
    /// The answer to the request.
    Response(Response),
    /// The request has no answer.
    Failed(Failure),
    /// Something arrived that is not taken; nothing changed.
    Ignored(Refusal),
    /// A plain DataNotification or EventNotification, protected as responses must be.
    Notification(Vec<u8>),
    /// The association is released.
    Released,
    /// The association ended with the link.
    Lost,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing valid came in time.
    #[error("no valid answer in time")]
    Timeout,
    /// The server says that it does not take the request. Said without protection by anybody.
    #[error("server refuses the request: {:?}", .0.service)]
    Exception(ExceptionResponse),
    /// An operation was refused.
    #[error(transparent)]
    Crypto(#[from] CryptoFault),
    /// The answer is larger than the limit, or its blocks do not follow one another.
    #[error("answer in blocks is not whole")]
    Blocks,
    /// The request is too large for the server, and no transfer in blocks was agreed upon.
    #[error("request is larger than the server takes")]
    TooLong,
}

/// Why something of the server is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The server refused the association. Said without protection by anybody.
    #[error("server refused the association: {0}, {1}")]
    Rejected(AssociateResult, Diagnostic),
    /// An exception-response in place of an answer.
    #[error("server answers with an exception: {:?}", .0.service)]
    Exception(ExceptionResponse),
    /// The bytes are not what they should be.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Context or mechanism is not the one that was asked for.
    #[error("context or mechanism is not the one that was asked for")]
    Mismatch,
    /// The server's title is missing, not the one expected, or our own.
    #[error("responding title is missing or wrong")]
    Title,
    /// The server's challenge is missing, too short, or our own sent back.
    #[error("challenge is missing, too short or our own")]
    Challenge,
    /// The server wants to do without the authentication that was asked for, or more than that.
    #[error("authentication is not the one that was asked for")]
    Authentication,
    /// Version, services or size of the InitiateResponse.
    #[error("initiate response is not acceptable")]
    Initiate,
    /// An operation was refused.
    #[error(transparent)]
    Crypto(#[from] CryptoFault),
    /// Less protection than responses must have: a downgrade.
    #[error("apdu is not protected as this association demands")]
    Protection,
    /// It answers nothing that was asked.
    #[error("apdu answers nothing that was asked")]
    Unexpected,
    /// General block transfer.
    #[error(transparent)]
    Blocks(#[from] BlockError),
    /// Nothing came in time.
    #[error("no answer in time")]
    Timeout,
}

/// The machine was not used as it can be. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The state does not allow it: not associated, or a request is on its way.
    #[error("not possible in this state")]
    State,
    /// An operation is still being performed.
    #[error("an operation is still being performed")]
    Busy,
    /// This operation was not asked for.
    #[error("no such operation was asked for")]
    UnknownOperation,
    /// The settings contradict each other: ciphering without a title, a mechanism that is not spoken.
    #[error("settings contradict each other")]
    Settings,
    /// The service was not agreed upon.
    #[error("service was not agreed upon")]
    Service,
    /// A list is empty or has more than 255 items, or a value is no A-XDR value.
    #[error("request has no valid form")]
    Form,
}

impl ClientError {
    /// Always the caller.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

/// What goes on after an operation.
#[derive(Debug)]
enum Job {
    Challenge,
    Password,
    SealInitiate,
    OpenInitiate,
    HlsReply,
    HlsVerify,
    SealRequest,
    SealRelease,
    OpenResponse,
    OpenRelease,
}

/// What was agreed upon in an association.
#[derive(Debug, Default)]
struct Session {
    server_title: Option<SystemTitle>,
    conformance: Conformance,
    server_pdu_size: usize,
    max_pdu: u16,
}

/// The client's side of one association.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    handle: AssociationHandle,
    state: ClientState,
    opening: Opening,
    session: Session,
    exchange: Option<Exchange>,
    invoke_id: u8,
    job: Option<(CryptoId, Job)>,
    next_id: u32,
    blocks: BlockTransfer,
    outputs: VecDeque<Output>,
    deadline: Option<Tick>,
}

impl Client {
    /// A client without an association. `handle` names the association to whoever performs the operations.
    ///
    /// # Errors
    /// [`ClientError::Settings`] when the settings contradict each other: ciphering or mechanism 5, 6 or 7 without a
    /// title, protection without ciphering, signatures without protection, mechanism 2.
    pub fn new(settings: ClientSettings, handle: AssociationHandle) -> Result<Self, ClientError> {
        let needs_title = settings.ciphered
            || matches!(settings.mechanism, Mechanism::Gmac | Mechanism::Sha256 | Mechanism::Ecdsa);
        let is_plain = settings.protection == Protection::None && settings.required == Protection::None;
        let is_possible = (!needs_title || settings.own_title.is_some())
            && (settings.ciphered || is_plain)
            && (settings.protection != Protection::None || settings.signing == Signing::None)
            //= DLMS 4: mechanism 2 is recognised and refused
            && settings.mechanism != Mechanism::Manufacturer;
        if !is_possible {
            return Err(ClientError::Settings);
        }
        Ok(Self {
            settings,
            handle,
            state: ClientState::Idle,
            opening: Opening::default(),
            session: Session::default(),
            exchange: None,
            invoke_id: 0,
            job: None,
            next_id: 0,
            blocks: BlockTransfer::new(settings.blocks),
            outputs: VecDeque::new(),
            deadline: None,
        })
    }

    /// Feeds one input. `now` never goes backwards; drain [`Client::poll`] afterwards.
    ///
    /// # Errors
    /// [`ClientError`] for a mistake of the caller; faults of the server are events.
    pub fn handle(&mut self, now: Tick, input: Input<'_>) -> Result<(), ClientError> {
        match input {
            Input::CryptoDone(id, result) => {
                let (_, job) =
                    self.job.take_if(|(asked, _)| *asked == id).ok_or(ClientError::UnknownOperation)?;
                self.performed(now, &job, result);
            }
            Input::Timeout => self.timed_out(now),
            Input::Disconnected => {
                if self.state != ClientState::Idle {
                    self.event(Event::Lost);
                }
                self.end(ClientEvent::Disconnected);
            }
            _ if self.job.is_some() => return Err(ClientError::Busy),
            Input::Associate => {
                self.advance(ClientEvent::Associate)?;
                self.deadline = Some(now.after(self.settings.response_timeout));
                self.associate(now);
            }
            Input::Request(request) => self.request(now, request)?,
            Input::Release => {
                self.advance(ClientEvent::Release)?;
                self.deadline = Some(now.after(self.settings.response_timeout));
                self.release();
            }
            Input::Received(apdu) => self.received(now, apdu),
        }
        while let Some(block) = self.blocks.poll() {
            self.outputs.push_back(Output::Transmit(block));
        }
        Ok(())
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to give [`Input::Timeout`].
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        [self.deadline, self.blocks.deadline()].into_iter().flatten().min()
    }

    /// Present state.
    #[must_use]
    pub const fn state(&self) -> ClientState {
        self.state
    }

    fn received(&mut self, now: Tick, apdu: &[u8]) {
        let limit = match self.state {
            // The messages that agree upon a size are not yet bound by it.
            ClientState::Opening => self.settings.apdu_size_max().max(ASSOCIATION_SIZE_MAX),
            _ => self.settings.apdu_size_max(),
        };
        if apdu.len() > limit {
            return self.ignore(Refusal::Blocks(BlockError::TooLong { limit }));
        }
        if apdu.first() != Some(&tag::GENERAL_BLOCK_TRANSFER) {
            return self.received_whole(now, apdu);
        }
        let is_agreed = self.session.conformance.has(Conformance::GENERAL_BLOCK_TRANSFER)
            && self.state == ClientState::Requesting;
        if !is_agreed {
            return self.ignore(Refusal::Unexpected);
        }
        match self.blocks.received(now, apdu) {
            Ok(None) => self.deadline = Some(now.after(self.settings.response_timeout)),
            Ok(Some(whole)) => self.received_whole(now, &whole),
            Err(error) => self.ignore(Refusal::Blocks(error)),
        }
    }

    fn received_whole(&mut self, now: Tick, apdu: &[u8]) {
        let first = apdu.first().copied().unwrap_or_default();
        match (self.state, first) {
            (ClientState::Opening, crate::acse::AARE) => self.answered(now, apdu),
            (ClientState::Releasing, crate::acse::RLRE) => self.release_answered(apdu),
            (ClientState::Proving | ClientState::Requesting, tag::EXCEPTION_RESPONSE) => {
                self.exception(apdu);
            }
            (ClientState::Opening, tag::EXCEPTION_RESPONSE) => self.exception(apdu),
            (
                ClientState::Proving
                | ClientState::Requesting
                | ClientState::Associated
                | ClientState::Releasing,
                _,
            ) => self.service(now, apdu, first),
            _ => self.ignore(Refusal::Unexpected),
        }
    }

    fn service(&mut self, now: Tick, apdu: &[u8], first: u8) {
        if CipheredApdu::is_protected(first) {
            if !self.settings.ciphered {
                return self.ignore(Refusal::Unexpected);
            }
            let (apdu, peer) = (apdu.to_vec(), self.session.server_title);
            return self.ask(Job::OpenResponse, Operation::Open { apdu, peer, is_broadcast: false });
        }
        //= DLMS 12.5: a plain answer inside a ciphered association is a downgrade and refused
        if self.settings.required != Protection::None {
            return self.ignore(Refusal::Protection);
        }
        self.opened(now, apdu);
    }

    fn performed(&mut self, now: Tick, job: &Job, result: CryptoResult) {
        match (job, result) {
            (Job::Challenge, Ok(Done::Bytes(challenge))) => self.challenge_made(now, challenge),
            (Job::Password, Ok(Done::Bytes(password))) => self.password_given(now, password),
            (Job::SealInitiate, Ok(Done::Bytes(initiate))) => self.transmit_request(&initiate),
            (Job::OpenInitiate, Ok(Done::Opened { plain, security_control, .. })) => {
                if Protection::of(security_control).covers(self.settings.required) {
                    self.agreed(now, &plain);
                } else {
                    self.refuse(Refusal::Protection);
                }
            }
            (Job::HlsReply, Ok(Done::Bytes(reply))) => self.prove(now, &reply),
            (Job::HlsVerify, Ok(Done::Verified)) => self.proved(),
            (Job::SealRequest, Ok(Done::Bytes(apdu))) => self.transmit(now, apdu),
            (Job::SealRelease, Ok(Done::Bytes(initiate))) => self.transmit_release(Some(&initiate)),
            (Job::OpenResponse, Ok(Done::Opened { plain, security_control, carrier, signing })) => {
                let covers = Protection::of(security_control).covers(self.settings.required);
                // A notification answers no request.
                if covers && (is_notification(&plain) || self.is_mirrored(carrier, signing)) {
                    self.opened(now, &plain);
                } else {
                    self.ignore(Refusal::Protection);
                }
            }
            (Job::OpenRelease, Ok(Done::Opened { .. })) => self.released(),
            (Job::OpenResponse | Job::OpenRelease, Err(fault)) => self.ignore(Refusal::Crypto(fault)),
            (Job::SealRequest, Err(fault)) if self.state == ClientState::Requesting => {
                self.fail(Failure::Crypto(fault));
            }
            (Job::SealRelease, _) => self.transmit_release(None),
            (_, Err(fault)) => self.refuse(Refusal::Crypto(fault)),
            (_, Ok(_)) => self.refuse(Refusal::Crypto(CryptoFault::Form)),
        }
    }

    /// Protects a plain request as the settings say and sends it.
    fn protect(&mut self, now: Tick, plain: Vec<u8>) {
        let first = plain.first().copied().unwrap_or_default();
        let (carrier, protection) = (self.settings.carrier, self.settings.protection);
        if protection == Protection::None {
            return self.transmit(now, plain);
        }
        let carrier = if carrier.carries(first) { carrier } else { carrier.general() };
        let (signing, peer) = (self.settings.signing, self.session.server_title);
        self.ask(Job::SealRequest, Operation::Seal { carrier, protection, signing, peer, apdu: plain });
    }

    /// Whether a response has the layers of the request: one under another key, or without the signature, is a downgrade.
    fn is_mirrored(&self, carrier: Carrier, signing: Signing) -> bool {
        //= DLMS 5.6: a response has the layers of its request, and those that are demanded
        let own = self.settings.carrier;
        let is_carried = !matches!(own, Carrier::GeneralCiphering(_)) || carrier == own;
        is_carried && (self.settings.signing == Signing::None || signing == self.settings.signing)
    }

    fn transmit(&mut self, now: Tick, apdu: Vec<u8>) {
        self.deadline = Some(now.after(self.settings.response_timeout));
        let limit = self.session.server_pdu_size;
        if apdu.len() <= limit {
            return self.outputs.push_back(Output::Transmit(apdu));
        }
        let is_agreed = self.session.conformance.has(Conformance::GENERAL_BLOCK_TRANSFER);
        let size = limit.saturating_sub(BLOCK_OVERHEAD);
        if !is_agreed || self.blocks.send(now, apdu, size).is_err() {
            self.fail(Failure::TooLong);
        }
    }

    /// Bytes that a plain request may have so that its protected form fits.
    fn request_size_max(&self) -> usize {
        let overhead = match self.settings.protection {
            Protection::None => 0,
            _ => self.settings.carrier.general().overhead_max(),
        };
        let signing = self.settings.signing.overhead_max();
        self.session.server_pdu_size.saturating_sub(overhead).saturating_sub(signing)
    }

    fn exception(&mut self, apdu: &[u8]) {
        let exception = match ExceptionResponse::from_bytes(apdu) {
            Ok(exception) => exception,
            Err(error) => return self.ignore(Refusal::Malformed(error)),
        };
        if self.state == ClientState::Requesting {
            self.fail(Failure::Exception(exception));
        } else {
            self.refuse(Refusal::Exception(exception));
        }
    }

    fn timed_out(&mut self, now: Tick) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            match self.state {
                ClientState::Requesting => self.fail(Failure::Timeout),
                ClientState::Opening | ClientState::Proving => self.refuse(Refusal::Timeout),
                // Whoever wanted to leave leaves.
                ClientState::Releasing => self.released(),
                ClientState::Idle | ClientState::Associated => self.deadline = None,
            }
        }
        if let Err(error) = self.blocks.timed_out(now) {
            self.ignore(Refusal::Blocks(error));
        }
    }

    /// The request has no answer; the association lives on.
    fn fail(&mut self, failure: Failure) {
        if self.state == ClientState::Requesting {
            self.finish();
            self.event(Event::Failed(failure));
        } else {
            self.refuse(Refusal::Unexpected);
        }
    }

    fn finish(&mut self) {
        self.state = table::client(self.state, ClientEvent::Finished).unwrap_or(self.state);
        self.exchange = None;
        self.job = None;
        self.deadline = None;
        self.blocks.reset();
    }

    /// The association does not come about.
    fn refuse(&mut self, refusal: Refusal) {
        self.event(Event::Refused(refusal));
        self.end(ClientEvent::Refused);
    }

    fn ignore(&mut self, refusal: Refusal) {
        self.event(Event::Ignored(refusal));
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn ask(&mut self, job: Job, operation: Operation) {
        let id = CryptoId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.job = Some((id, job));
        self.outputs.push_back(Output::Crypto(self.handle, id, operation));
    }

    fn advance(&mut self, event: ClientEvent) -> Result<(), ClientError> {
        self.state = table::client(self.state, event).ok_or(ClientError::State)?;
        Ok(())
    }

    /// Ends the association and has its secrets forgotten.
    fn end(&mut self, event: ClientEvent) {
        if self.advance(event).is_err() {
            return;
        }
        (self.opening, self.session) = (Opening::default(), Session::default());
        (self.exchange, self.job, self.deadline) = (None, None, None);
        self.blocks.reset();
        let id = CryptoId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.outputs.push_back(Output::Crypto(self.handle, id, Operation::End));
    }

    fn peer_challenge(&self) -> PeerChallenge {
        PeerChallenge {
            mechanism: self.settings.mechanism,
            title: self.session.server_title,
            challenge: self.opening.server_challenge.clone(),
        }
    }
}

/// Whether an APDU is sent without being asked for.
fn is_notification(plain: &[u8]) -> bool {
    let unasked = [tag::DATA_NOTIFICATION, tag::EVENT_NOTIFICATION, tag::INFORMATION_REPORT];
    plain.first().is_some_and(|first| unasked.contains(first))
}
