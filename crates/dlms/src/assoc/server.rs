//! The server's side of one association: one client on one connection.
//!
//! A meter makes one [`Server`] for each pair of link and client, with the settings of that client, and gives each its
//! own [`AssociationHandle`]. Objects are borrowed with each input.

mod associate;
mod serve;
mod transfer;

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use gridseal_types::{Kind, SystemTitle, Tick};

use super::{
    AccessContext, AssociationHandle, CryptoFault, CryptoId, CryptoResult, Done, Objects, Operation,
    Protection,
    table::{self, ServerEvent, ServerState},
};
use crate::{
    acse::{Conformance, InitiateErrorKind, Mechanism},
    apdu::{
        carrier::{Carrier, CipheredApdu, LAYERS_OVERHEAD_MAX, Signing},
        exception::{ExceptionResponse, ServiceError, StateError},
        reference::InvokeId,
        tag,
    },
    frame::block::{BLOCK_OVERHEAD, BlockError, BlockSettings, BlockTransfer},
    wire::DecodeError,
};
use associate::Opening;
use transfer::{Incoming, Outgoing};

/// PDU size that stands for "no limit", bytes.
const PDU_SIZE_UNLIMITED: usize = 65_535;
/// Largest message that may open an association whatever the agreed size, bytes.
const ASSOCIATION_SIZE_MAX: usize = 4_096;

/// What a server demands of one client.
#[derive(Debug, Clone, Copy)]
pub struct ServerSettings {
    /// Client's service access point: the wPort, or the HDLC client address.
    pub client_sap: u16,
    /// Own system title.
    pub own_title: SystemTitle,
    /// Whether the context with ciphering is demanded; the other one is refused either way.
    pub ciphered: bool,
    /// The mechanism that is demanded.
    pub mechanism: Mechanism,
    /// What every request must be protected with; needs [`ServerSettings::ciphered`].
    pub required: Protection,
    /// What every response is protected with beyond what its request had.
    pub response: Protection,
    /// Who may send to all: whose APDUs a broadcast without a title is, and nobody else's counts then. With none a
    /// broadcast names its sender, and every holder of the broadcast key is one.
    pub broadcast_title: Option<SystemTitle>,
    /// Whether every request must be signed.
    pub requires_signature: bool,
    /// Whether every response is signed, and not only those to signed requests.
    pub signs_responses: bool,
    /// Services on offer.
    pub conformance: Conformance,
    /// Largest APDU that is taken, bytes; 0 = no limit.
    pub max_pdu: u16,
    /// Largest request or list of results that is put together from blocks, bytes.
    pub assembled_size_max: usize,
    /// Limits of general-block-transfer; its own limit of an APDU's size counts as well.
    pub blocks: BlockSettings,
    /// Whether a release without protection closes a ciphered association. Links that end with the association, such
    /// as TCP, lose nothing by it; on a shared line anybody could close it.
    pub plain_release: bool,
    /// Whether a counter that is too low is answered with the lowest one that is accepted, as some profiles demand.
    pub counter_error: bool,
    /// Whether mechanism 7 takes a client's challenge of 8 to 31 bytes, where the standard demands 32: the unmodified
    /// Gurux client sends 16. Only that client's own proof of the server is weaker for it.
    pub short_challenge: bool,
    /// How long the reply to a challenge is waited for.
    pub pending_timeout: Duration,
}

impl ServerSettings {
    /// No security at all: a public client, for the clock and the counters. Everything else begins from here.
    #[must_use]
    pub fn public(client_sap: u16, own_title: SystemTitle) -> Self {
        Self {
            client_sap,
            own_title,
            ciphered: false,
            mechanism: Mechanism::None,
            required: Protection::None,
            response: Protection::None,
            broadcast_title: None,
            requires_signature: false,
            signs_responses: false,
            conformance: Conformance::SPOKEN,
            max_pdu: 1_024,
            assembled_size_max: 65_535,
            blocks: BlockSettings::default(),
            plain_release: false,
            counter_error: false,
            short_challenge: false,
            pending_timeout: Duration::from_secs(60),
        }
    }

    /// Largest APDU that is taken, bytes: what was announced, and in a ciphered association the protection around it,
    /// because some clients count only what they protect.
    #[must_use]
    pub fn apdu_size_max(&self) -> usize {
        match self.max_pdu {
            0 => PDU_SIZE_UNLIMITED,
            size if self.ciphered => usize::from(size).saturating_add(LAYERS_OVERHEAD_MAX),
            size => usize::from(size),
        }
    }

    /// Ciphered, every APDU encrypted and authenticated, with this mechanism.
    #[must_use]
    pub fn ciphered(client_sap: u16, own_title: SystemTitle, mechanism: Mechanism) -> Self {
        Self {
            ciphered: true,
            mechanism,
            required: Protection::AuthenticatedEncrypted,
            response: Protection::AuthenticatedEncrypted,
            ..Self::public(client_sap, own_title)
        }
    }
}

/// What happens to a server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// One whole APDU of the client.
    Received(&'a [u8]),
    /// One whole APDU that was addressed to all: it must be under the broadcast key and is never answered.
    Broadcast(&'a [u8]),
    /// An operation was performed.
    CryptoDone(CryptoId, CryptoResult),
    /// A plain notification (DataNotification, EventNotification) is to be sent, protected as responses are. One that is
    /// larger than what the client takes is refused: its general blocks and those of a response look alike.
    Notify(Vec<u8>),
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
    /// Something was found out: for the security log and the application.
    Event(Event),
}

/// What a server found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The association is open.
    Associated {
        /// The client's title.
        client_title: Option<SystemTitle>,
        /// How it authenticated itself.
        mechanism: Mechanism,
    },
    /// Something was refused; the peer was told less.
    Refused(Refusal),
    /// The association was released by the client.
    Released,
    /// The association ended with the link, or the reply to a challenge did not come in time.
    Lost,
}

/// Why something was refused: for the log alone (rule S11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are not what they should be.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// Another application context than the one that this client must have.
    #[error("application context is not the one of this client")]
    Context,
    /// Another mechanism than the one that this client must have.
    #[error("mechanism {} is not the one of this client", .0.number())]
    Mechanism(Mechanism),
    /// The client's title is missing, or is our own.
    #[error("calling title is missing or our own")]
    Title,
    /// The authentication value is missing or too short.
    #[error("authentication value is missing or too short")]
    AuthenticationValue,
    /// Initiate: version, services or size.
    #[error("initiate was refused")]
    Initiate(InitiateErrorKind),
    /// An operation was refused.
    #[error(transparent)]
    Crypto(#[from] CryptoFault),
    /// A plain APDU where a protected one is demanded, or the other way round.
    #[error("apdu is not protected as this association demands")]
    Protection,
    /// The state does not allow it.
    #[error("service is not allowed in this state")]
    State,
    /// The service was not agreed upon, or is none.
    #[error("service {0:#04x} was not agreed upon")]
    Service(u8),
    /// General block transfer.
    #[error(transparent)]
    Blocks(#[from] BlockError),
}

/// The machine was not used as it can be. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An operation is still being performed.
    #[error("an operation is still being performed")]
    Busy,
    /// This operation was not asked for.
    #[error("no such operation was asked for")]
    UnknownOperation,
    /// There is no association.
    #[error("there is no association")]
    State,
}

impl ServerError {
    /// Always the caller.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

/// How a request came, and so how its response goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// `None` for a plain APDU.
    carrier: Option<Carrier>,
    protection: Protection,
    signing: Signing,
    is_broadcast: bool,
}

impl Shape {
    const PLAIN: Self =
        Self { carrier: None, protection: Protection::None, signing: Signing::None, is_broadcast: false };
}

/// What goes on after an operation.
#[derive(Debug)]
enum Job {
    OpenInitiate(Opening),
    CheckPassword(Opening),
    Challenge(Opening),
    SealInitiate(Opening),
    OpenRequest { is_broadcast: bool },
    OpenRelease,
    SealRelease,
    HlsVerify(InvokeId, Shape),
    HlsReply(InvokeId, Shape),
    SealResponse,
    SealNotification,
}

/// What was agreed upon in an association.
#[derive(Debug, Default)]
struct Session {
    client_title: Option<SystemTitle>,
    user: Option<u8>,
    /// The client's challenge, until it was answered.
    challenge: Vec<u8>,
    conformance: Conformance,
    /// Largest APDU that the client takes, bytes.
    client_pdu_size: usize,
    outgoing: Option<Outgoing>,
    incoming: Option<Incoming>,
}

/// The server's side of one association.
#[derive(Debug)]
pub struct Server {
    settings: ServerSettings,
    handle: AssociationHandle,
    state: ServerState,
    session: Session,
    job: Option<(CryptoId, Job)>,
    next_id: u32,
    blocks: BlockTransfer,
    outputs: VecDeque<Output>,
    pending_deadline: Option<Tick>,
}

impl Server {
    /// A server without an association. `handle` names the association to whoever performs the operations.
    #[must_use]
    pub fn new(settings: ServerSettings, handle: AssociationHandle) -> Self {
        Self {
            settings,
            handle,
            state: ServerState::Idle,
            session: Session::default(),
            job: None,
            next_id: 0,
            blocks: BlockTransfer::new(settings.blocks),
            outputs: VecDeque::new(),
            pending_deadline: None,
        }
    }

    /// Whether blocks of an answer are still to be asked for: each of them is protected when it is.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.session.outgoing.as_ref().is_some_and(|outgoing| !outgoing.is_last)
    }

    /// Feeds one input. `now` never goes backwards; drain [`Server::poll`] afterwards.
    ///
    /// # Errors
    /// [`ServerError`] for a mistake of the caller; faults of the peer are [`Event::Refused`].
    pub fn handle(
        &mut self,
        now: Tick,
        input: Input<'_>,
        objects: &mut dyn Objects,
    ) -> Result<(), ServerError> {
        match input {
            Input::Received(_) | Input::Broadcast(_) | Input::Notify(_) if self.job.is_some() => {
                return Err(ServerError::Busy);
            }
            Input::Received(apdu) => self.received(now, apdu, objects),
            Input::Broadcast(apdu) => {
                let (apdu, peer) = (apdu.to_vec(), self.settings.broadcast_title);
                self.ask(
                    Job::OpenRequest { is_broadcast: true },
                    Operation::Open { apdu, peer, is_broadcast: true },
                );
            }
            Input::CryptoDone(id, result) => {
                let (_, job) =
                    self.job.take_if(|(asked, _)| *asked == id).ok_or(ServerError::UnknownOperation)?;
                self.performed(now, job, result, objects);
            }
            Input::Notify(apdu) => {
                if self.state != ServerState::Associated {
                    return Err(ServerError::State);
                }
                self.notify(apdu);
            }
            Input::Timeout => self.timed_out(now),
            Input::Disconnected => {
                if self.state != ServerState::Idle {
                    self.event(Event::Lost);
                }
                self.end(ServerEvent::Disconnected);
            }
        }
        self.drain_blocks();
        Ok(())
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to give [`Input::Timeout`].
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        [self.pending_deadline, self.blocks.deadline()].into_iter().flatten().min()
    }

    /// Present state.
    #[must_use]
    pub const fn state(&self) -> ServerState {
        self.state
    }

    /// The services that were agreed upon.
    #[must_use]
    pub const fn conformance(&self) -> Conformance {
        self.session.conformance
    }

    fn received(&mut self, now: Tick, apdu: &[u8], objects: &mut dyn Objects) {
        //= DLMS 1.2: what is above the agreed size is not taken
        let limit = match self.state {
            // The messages that agree upon a size are not yet bound by it.
            ServerState::Idle => self.settings.apdu_size_max().max(ASSOCIATION_SIZE_MAX),
            _ => self.size_max(apdu),
        };
        if apdu.len() > limit {
            return self.refuse(Refusal::Blocks(BlockError::TooLong { limit }), ServiceError::PduTooLong);
        }
        if apdu.first() != Some(&tag::GENERAL_BLOCK_TRANSFER) {
            return self.received_whole(now, apdu, objects);
        }
        let is_agreed = self.state == ServerState::Associated
            && self.session.conformance.has(Conformance::GENERAL_BLOCK_TRANSFER);
        if !is_agreed {
            return self.refuse(Refusal::State, ServiceError::ServiceNotSupported);
        }
        match self.blocks.received(now, apdu) {
            Ok(None) => {}
            Ok(Some(whole)) => self.received_whole(now, &whole, objects),
            Err(error) => self.refuse(Refusal::Blocks(error), ServiceError::PduTooLong),
        }
    }

    /// Largest APDU that is taken in the form of this one, bytes: one of the four carriers adds less than other layers.
    fn size_max(&self, apdu: &[u8]) -> usize {
        let limit = self.settings.apdu_size_max();
        match apdu.first() {
            Some(&(tag::GENERAL_CIPHERING | tag::GENERAL_SIGNING)) => limit,
            _ if self.settings.max_pdu == 0 || !self.settings.ciphered => limit,
            _ => limit.saturating_sub(LAYERS_OVERHEAD_MAX).saturating_add(Carrier::GeneralGlo.overhead_max()),
        }
    }

    fn received_whole(&mut self, now: Tick, apdu: &[u8], objects: &mut dyn Objects) {
        let first = apdu.first().copied().unwrap_or_default();
        match first {
            crate::acse::AARQ => self.associate(now, apdu),
            crate::acse::RLRQ => self.release(apdu),
            _ if !matches!(self.state, ServerState::Pending | ServerState::Associated) => {
                self.refuse(Refusal::State, ServiceError::OperationNotPossible);
            }
            _ if CipheredApdu::is_protected(first) => {
                if !self.settings.ciphered {
                    return self.refuse(Refusal::Protection, ServiceError::DecipheringError);
                }
                let peer = self.session.client_title;
                let apdu = apdu.to_vec();
                self.ask(
                    Job::OpenRequest { is_broadcast: false },
                    Operation::Open { apdu, peer, is_broadcast: false },
                );
            }
            //= DLMS 12.5: a plain apdu inside a ciphered association is refused
            _ if self.settings.required != Protection::None => {
                self.refuse(Refusal::Protection, ServiceError::DecipheringError);
            }
            _ => self.opened(now, apdu, Shape::PLAIN, objects),
        }
    }

    fn performed(&mut self, now: Tick, job: Job, result: CryptoResult, objects: &mut dyn Objects) {
        match job {
            Job::OpenInitiate(opening) => self.initiate_opened(now, opening, result),
            Job::CheckPassword(opening) => self.password_checked(now, opening, &result),
            Job::Challenge(opening) => self.challenged(now, opening, result),
            Job::SealInitiate(opening) => self.initiate_sealed(now, opening, result),
            Job::OpenRelease => self.release_opened(result),
            Job::SealRelease => self.release_sealed(result),
            Job::HlsVerify(invoke_id, shape) => self.reply_verified(invoke_id, shape, &result),
            Job::HlsReply(invoke_id, shape) => self.reply_made(now, invoke_id, shape, result),
            Job::SealResponse => match result {
                Ok(Done::Bytes(apdu)) => self.transmit(now, apdu),
                Ok(_) => self.event(Event::Refused(Refusal::Crypto(CryptoFault::Form))),
                Err(fault) => self.event(Event::Refused(Refusal::Crypto(fault))),
            },
            Job::SealNotification => match result {
                Ok(Done::Bytes(apdu)) => self.push(apdu),
                Ok(_) => self.event(Event::Refused(Refusal::Crypto(CryptoFault::Form))),
                Err(fault) => self.event(Event::Refused(Refusal::Crypto(fault))),
            },
            Job::OpenRequest { is_broadcast } => match result {
                Ok(Done::Opened { plain, security_control, carrier, signing }) => {
                    let protection = Protection::of(security_control);
                    let shape = Shape { carrier: Some(carrier), protection, signing, is_broadcast };
                    //= DLMS 12.8: less protection than demanded is refused, whatever it is called
                    let required = if is_broadcast {
                        Protection::AuthenticatedEncrypted
                    } else {
                        self.settings.required
                    };
                    let is_signed =
                        is_broadcast || !self.settings.requires_signature || signing != Signing::None;
                    if protection.covers(required) && is_signed {
                        self.opened(now, &plain, shape, objects);
                    } else if is_broadcast {
                        self.event(Event::Refused(Refusal::Protection));
                    } else {
                        self.refuse(Refusal::Protection, ServiceError::DecipheringError);
                    }
                }
                Ok(_) => self.refuse(Refusal::State, ServiceError::OtherReason),
                // A broadcast is never answered.
                Err(fault) if is_broadcast => self.event(Event::Refused(Refusal::Crypto(fault))),
                Err(fault) => self.not_opened(fault),
            },
        }
    }

    fn not_opened(&mut self, fault: CryptoFault) {
        let service = match fault {
            CryptoFault::Counter { lowest, .. } if self.settings.counter_error => {
                ServiceError::InvocationCounter(lowest)
            }
            _ => ServiceError::DecipheringError,
        };
        self.refuse(Refusal::Crypto(fault), service);
    }

    /// A plain APDU that came as it must.
    fn opened(&mut self, now: Tick, plain: &[u8], shape: Shape, objects: &mut dyn Objects) {
        if shape.is_broadcast {
            // Whatever it answers stays here.
            if let Err(refusal) = self.serve(plain, shape, objects) {
                self.event(Event::Refused(refusal));
            }
            return;
        }
        if self.state == ServerState::Pending {
            return self.prove(plain, shape);
        }
        if table::server(self.state, ServerEvent::Service).is_none() {
            return self.refuse(Refusal::State, ServiceError::OperationNotPossible);
        }
        match self.serve(plain, shape, objects) {
            Ok(Some(response)) => self.respond(now, response, shape),
            Ok(None) => {}
            Err(refusal) => {
                let service = match refusal {
                    Refusal::Service(_) => ServiceError::ServiceNotSupported,
                    _ => ServiceError::OtherReason,
                };
                self.refuse(refusal, service);
            }
        }
    }

    /// Protects a response as its request was, layer by layer, and at least as this association demands.
    fn respond(&mut self, now: Tick, plain: Vec<u8>, shape: Shape) {
        //= DLMS 5.6: a response has the layers of its request, and those that are demanded
        let protection = shape.protection.and(self.settings.response);
        let signing = self.response_signing(shape);
        let first = plain.first().copied().unwrap_or_default();
        match shape.carrier.or(self.settings.ciphered.then_some(Carrier::Glo)) {
            Some(carrier) if protection != Protection::None => {
                let carrier = if carrier.carries(first) { carrier } else { carrier.general() };
                let peer = self.session.client_title;
                let seal = Operation::Seal { carrier, protection, signing, peer, apdu: plain };
                self.ask(Job::SealResponse, seal);
            }
            _ => self.transmit(now, plain),
        }
    }

    /// Protects a notification; no request says how.
    fn notify(&mut self, plain: Vec<u8>) {
        let (protection, peer) = (self.settings.response, self.session.client_title);
        if !self.settings.ciphered || protection == Protection::None {
            return self.push(plain);
        }
        let signing = self.response_signing(Shape::PLAIN);
        let carrier = Carrier::GeneralGlo;
        let seal = Operation::Seal { carrier, protection, signing, peer, apdu: plain };
        self.ask(Job::SealNotification, seal);
    }

    fn push(&mut self, apdu: Vec<u8>) {
        let limit = self.session.client_pdu_size;
        if apdu.len() > limit {
            return self.event(Event::Refused(Refusal::Blocks(BlockError::TooLong { limit })));
        }
        self.outputs.push_back(Output::Transmit(apdu));
    }

    const fn response_signing(&self, shape: Shape) -> Signing {
        match shape.signing {
            Signing::None if self.settings.signs_responses => Signing::Inside,
            signing => signing,
        }
    }

    /// Sends an APDU, in blocks when the client takes no larger ones.
    fn transmit(&mut self, now: Tick, apdu: Vec<u8>) {
        self.blocks.answered();
        let limit = self.session.client_pdu_size;
        if apdu.len() <= limit {
            return self.outputs.push_back(Output::Transmit(apdu));
        }
        let is_agreed = self.session.conformance.has(Conformance::GENERAL_BLOCK_TRANSFER);
        let size = limit.saturating_sub(BLOCK_OVERHEAD);
        let sent =
            if is_agreed { self.blocks.send(now, apdu, size) } else { Err(BlockError::TooLong { limit }) };
        if let Err(error) = sent {
            self.refuse(Refusal::Blocks(error), ServiceError::PduTooLong);
        }
    }

    fn drain_blocks(&mut self) {
        while let Some(block) = self.blocks.poll() {
            self.outputs.push_back(Output::Transmit(block));
        }
    }

    fn timed_out(&mut self, now: Tick) {
        if self.pending_deadline.is_some_and(|deadline| deadline <= now) {
            self.event(Event::Lost);
            self.end(ServerEvent::Disconnected);
        }
        if let Err(error) = self.blocks.timed_out(now) {
            self.event(Event::Refused(Refusal::Blocks(error)));
        }
    }

    /// Tells the log why, and the peer as little as it may know: one answer before it has authenticated itself.
    fn refuse(&mut self, refusal: Refusal, service: ServiceError) {
        let answer = match self.state {
            ServerState::Associated => {
                let state = if service == ServiceError::ServiceNotSupported {
                    StateError::ServiceUnknown
                } else {
                    StateError::ServiceNotAllowed
                };
                ExceptionResponse { state, service }
            }
            _ => ExceptionResponse::NOT_ALLOWED,
        };
        self.event(Event::Refused(refusal));
        self.outputs.push_back(Output::Transmit(answer.to_bytes()));
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

    /// Goes where the table says; false when the event is illegal, and then nothing changed.
    fn advance(&mut self, event: ServerEvent) -> bool {
        let next = table::server(self.state, event);
        self.state = next.unwrap_or(self.state);
        next.is_some()
    }

    /// Ends the association and has its secrets forgotten.
    fn end(&mut self, event: ServerEvent) {
        if !self.advance(event) {
            return;
        }
        self.session = Session::default();
        self.job = None;
        self.pending_deadline = None;
        self.blocks.reset();
        let id = CryptoId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.outputs.push_back(Output::Crypto(self.handle, id, Operation::End));
    }

    fn context(&self, shape: Shape) -> AccessContext {
        AccessContext {
            client_sap: self.settings.client_sap,
            client_title: match shape.is_broadcast {
                true => self.settings.broadcast_title,
                false => self.session.client_title,
            },
            user: self.session.user,
            mechanism: if shape.is_broadcast { Mechanism::None } else { self.settings.mechanism },
            protection: shape.protection,
            is_signed: !matches!(shape.signing, Signing::None),
            is_broadcast: shape.is_broadcast,
        }
    }

    /// Bytes that a plain response may have so that its protected form fits.
    fn response_size_max(&self, shape: Shape) -> usize {
        let overhead = match shape.carrier {
            None if self.settings.response == Protection::None => 0,
            None => Carrier::GeneralGlo.overhead_max(),
            Some(carrier) => carrier.overhead_max(),
        };
        let signing = self.response_signing(shape).overhead_max();
        self.session.client_pdu_size.saturating_sub(overhead).saturating_sub(signing)
    }
}
