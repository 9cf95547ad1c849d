//! Orders: the question for one, what is checked and stored before it is carried out, and its result.
//!
//! The number of an order is on flash before the device acts on it, its result before it is sent (rule S2); the same bytes
//! are the same order and get the same result. What an order makes the device do is in [`super::act`].
//!
//! # Source
//! Onboarding specification, sections 11 and 18.6.

use alloc::{boxed::Box, vec::Vec};

use gridseal_crypto::{Key, role::OwnerSecret, sha256};
use gridseal_types::{Code, Digest, Nonce, Tick, service::keys::Bytes};

use super::{
    Accepted, Device, Ending, EndingStage, Event, Input, Output, OwnerChain, Peer, State, Unexpected,
    act::Act,
};
use crate::{
    enrol::{
        cose::{Sign1, SignedType},
        document::{Delegation, Entry, EntryKind, Use},
        order::{
            Answer, Envelope, Kind, Order, OrderBody, PollBody, ResultBody, Task, order_digest, seal_poll,
            seal_result,
        },
        secrets::OwnerSecretExt,
        session,
        voucher::{VerifiedVoucher, Voucher},
    },
    root::{OwnerPin, RootError, RootReply, RootRequest},
    tpm,
};

/// Random bytes for R2 or R3.
const NONCE_SIZE: usize = 32;

/// An order that is carried out.
pub(super) struct Job {
    pub(super) secret: Key<OwnerSecret, 32>,
    r: Nonce,
    /// SHA-256 of its payload.
    pub(super) digest: Digest,
    pub(super) payload: Vec<u8>,
    pub(super) order: Order,
    /// Of the delegation under which it was signed.
    generation: u32,
    /// The owner may not order this, or not now; said in the result.
    refusal: Option<Code>,
}

/// Where an exchange about orders stands.
pub(super) enum Ordering {
    /// N_e of the present epoch is derived.
    Deriving,
    /// R3 is drawn.
    Naming(Key<OwnerSecret, 32>),
    /// The question was sent.
    Asking { secret: Key<OwnerSecret, 32>, wire: Vec<u8>, via: Peer },
    /// The order's number is being stored.
    Storing(Box<Job>),
    /// The pin is being written: the delegation is newer than the pinned one, or the owner has a new key.
    Pinning(Box<Job>, OwnerPin),
    /// The order is carried out.
    Acting(Box<Job>, Act),
    /// R2 is drawn.
    Answering(Box<Job>, Result<Answer, Code>),
    /// The result is being stored.
    StoringResult(Kind, Option<Code>),
    /// The result was sent.
    Telling(Peer),
}

impl Ordering {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Deriving => "deriving-order-secret",
            Self::Naming(_) => "naming-poll",
            Self::Asking { .. } => "asking-for-orders",
            Self::Storing(_) => "storing-order",
            Self::Pinning(..) => "pinning-for-order",
            Self::Acting(_, act) => act.name(),
            Self::Answering(..) => "naming-result",
            Self::StoringResult(..) => "storing-result",
            Self::Telling(_) => "telling-result",
        }
    }
}

/// What the acceptance of an order changes on flash, with its number.
enum Change {
    None,
    Ending(Box<Ending>),
    Owner(Box<(OwnerChain, VerifiedVoucher)>),
}

/// What came in answer to a question.
enum Found {
    /// The last accepted order once more.
    Again(Box<Job>),
    /// A new one.
    New(Box<Job>, Change),
}

impl Device {
    /// Begins an exchange: first the result that nobody has acknowledged since power came, then a question. A result that
    /// its owner does not take holds up no later order.
    pub(super) fn fetch_orders(&mut self, now: Tick) {
        let is_answered =
            self.record.orders.accepted.as_ref().is_some_and(|accepted| accepted.result.is_some());
        if is_answered && !self.is_told && !self.is_passed_over {
            return self.tell(now, self.first_way());
        }
        let epoch = self.description.as_ref().map(|description| description.epoch);
        match epoch.filter(|_| self.verify_chain()) {
            Some(epoch) => {
                self.root(RootRequest::OwnerSecret(epoch));
                self.state = State::Ordering(Ordering::Deriving);
            }
            None => self.fetched(now, false),
        }
    }

    /// One step of an exchange about orders.
    pub(super) fn ordering(
        &mut self,
        now: Tick,
        ordering: Ordering,
        input: Input<'_>,
    ) -> Result<(), Unexpected> {
        match (ordering, input) {
            (Ordering::Deriving, Input::Root(Ok(RootReply::OwnerSecret(secret)))) => {
                self.outputs.push_back(Output::Random(NONCE_SIZE));
                self.state = State::Ordering(Ordering::Naming(secret));
            }
            (Ordering::Naming(secret), Input::Random(bytes)) => self.ask(now, secret, bytes),
            (Ordering::Asking { secret, .. }, Input::Received(answer)) => {
                self.reply_due = None;
                self.asked(now, secret, answer);
            }
            (
                Ordering::Asking { secret, wire, via: Peer::HeadEnd },
                Input::NoReply | Input::Timeout | Input::Taken,
            ) => {
                let via = Peer::ConfigServer;
                self.transmit(now, via, wire.clone());
                self.state = State::Ordering(Ordering::Asking { secret, wire, via });
            }
            (Ordering::Storing(job), Input::Persisted) => {
                self.event(Event::OrderAccepted { seq: job.order.seq, kind: job.order.task.kind() });
                self.pin(now, job);
            }
            (Ordering::Pinning(job, pin), Input::Root(Ok(RootReply::Done))) => {
                if let Some(description) = &mut self.description {
                    description.pin = Some(pin);
                }
                self.begin(now, job);
            }
            (Ordering::Acting(job, act), Input::Root(Ok(reply))) => return self.acted(now, job, act, reply),
            // The TPM says no to what was ordered: the owner is to know. One that does not answer is asked again with
            // the same order.
            (
                Ordering::Acting(job, act),
                Input::Root(Err(error @ (RootError::Refused { .. } | RootError::Unsuitable))),
            ) => {
                self.event(Event::RootFailed(error));
                self.failed(job, act);
            }
            (Ordering::Answering(job, outcome), Input::Random(bytes)) => self.seal(now, &job, outcome, bytes),
            (Ordering::StoringResult(kind, refused), Input::Persisted) => {
                self.event(Event::OrderAnswered { seq: self.record.order_seq(), kind, refused });
                self.tell(now, self.first_way());
            }
            (Ordering::Telling(_), Input::Taken) => {
                self.reply_due = None;
                self.told(now);
            }
            (Ordering::Telling(Peer::HeadEnd), Input::NoReply | Input::Timeout | Input::Received(_)) => {
                self.tell(now, Peer::ConfigServer);
            }
            (Ordering::Telling(_), Input::NoReply | Input::Timeout | Input::Received(_))
                if !self.is_passed_over && self.record.orders.ending.is_none() =>
            {
                self.is_passed_over = true;
                self.reply_due = None;
                self.fetch_orders(now);
            }
            (
                Ordering::Asking { .. } | Ordering::Telling(_),
                Input::NoReply | Input::Timeout | Input::Received(_) | Input::Taken,
            ) => {
                self.event(Event::Unanswered);
                self.fetched(now, false);
            }
            (Ordering::Deriving | Ordering::Pinning(..) | Ordering::Acting(..), Input::Root(Err(error))) => {
                self.event(Event::RootFailed(error));
                self.fetched(now, false);
            }
            (ordering, _) => {
                self.state = State::Ordering(ordering);
                return Err(Unexpected);
            }
        }
        Ok(())
    }

    /// The head-end while the TLS key is there, then the config server.
    const fn first_way(&self) -> Peer {
        if self.is_cleared() { Peer::ConfigServer } else { Peer::HeadEnd }
    }

    /// An exchange is over; `reached` when the owner has answered.
    pub(super) fn fetched(&mut self, now: Tick, reached: bool) {
        (self.reply_due, self.is_passed_over) = (None, false);
        let again_s = core::mem::take(&mut self.again_s);
        self.event(Event::OrdersFetched { reached, again_s });
        if self.record.orders.ending.is_some() {
            self.pursue_ending(now, reached);
        } else {
            self.state = State::Operating;
        }
    }

    /// The owner's chain as it has grown, verified; what was verified since power came is not verified again.
    fn verify_chain(&mut self) -> bool {
        if self.chain.is_none() {
            let kept = self.record.orders.owner.as_ref().map(|owner| &owner.voucher.0);
            let voucher = kept.or_else(|| self.record.redirect.as_ref().map(|signed| &signed.voucher));
            let verified = voucher
                .and_then(|bytes| Voucher::decode(bytes).ok())
                .and_then(|voucher| voucher.verify(&self.firmware.voucher_keys).ok());
            self.chain = verified;
        }
        self.chain.is_some()
    }

    fn ask(&mut self, now: Tick, secret: Key<OwnerSecret, 32>, random: &[u8]) {
        let Some(r3) = Nonce::from_slice(random) else { return self.fetched(now, false) };
        let body = PollBody { last_seq: self.record.order_seq() };
        let Ok(wire) = seal_poll(&secret.seal_poll(&r3), &secret.kid(), &r3, &body) else {
            return self.fetched(now, false);
        };
        let via = self.first_way();
        self.transmit(now, via, wire.clone());
        self.state = State::Ordering(Ordering::Asking { secret, wire, via });
    }

    fn asked(&mut self, now: Tick, secret: Key<OwnerSecret, 32>, answer: &[u8]) {
        if let Ok(session::Envelope::Error { code, retry_after_s }) = session::Envelope::decode(answer) {
            // Nothing to do, or an error that nobody signed.
            self.again_s = retry_after_s;
            return self.fetched(now, code == Code::Busy);
        }
        match self.check_order(secret, answer) {
            Ok(Found::Again(job)) => self.again(now, job),
            Ok(Found::New(job, change)) => self.accept(job, change, answer),
            Err(code) => {
                self.event(Event::Refused(code));
                self.fetched(now, false);
            }
        }
    }

    /// Order of checks: size, format, seal, number, signature, then what the payload says.
    fn check_order(&self, secret: Key<OwnerSecret, 32>, wire: &[u8]) -> Result<Found, Code> {
        let envelope = Envelope::decode(wire)?;
        let Envelope::Order { seq, r, .. } = envelope else { return Err(Code::Format) };
        let body = OrderBody::decode(&envelope.open(&secret.seal_order(seq, &r))?)?;
        let signed = Sign1::decode(&body.signed)?;
        let accepted = self.record.orders.accepted.as_ref();
        let is_again = accepted.is_some_and(|accepted| accepted.message == message_digest(wire));
        if !is_again && seq <= self.record.order_seq() {
            return Err(Code::Rollback);
        }
        let chain = self.chain.as_ref().ok_or(Code::State)?;
        let generation = if is_again {
            // Checked when it was accepted; the owner may have a new key since.
            let delegation = Sign1::decode(&body.delegation)?;
            Delegation::decode(delegation.payload)?.generation
        } else {
            self.check_signer(chain, &body, &signed)?
        };
        let order = Order::decode(signed.payload)?;
        let description = self.description.as_ref().ok_or(Code::State)?;
        let is_ours = order.seq == seq
            && order.epoch == description.epoch
            && order.ek_name == tpm::name(&description.ek_public);
        if !is_ours {
            return Err(Code::Rollback);
        }
        let (payload, digest) = (signed.payload.to_vec(), order_digest(signed.payload));
        let mut job = Job { secret, r, digest, payload, order, generation, refusal: None };
        let change = self.prepare(&job, chain).unwrap_or_else(|code| {
            job.refusal = Some(code);
            Change::None
        });
        Ok(if is_again { Found::Again(Box::new(job)) } else { Found::New(Box::new(job), change) })
    }

    /// K_config of the current owner, of a generation that is not below the pinned one; gives that generation.
    fn check_signer(
        &self,
        chain: &VerifiedVoucher,
        body: &OrderBody,
        signed: &Sign1<'_>,
    ) -> Result<u32, Code> {
        let delegation = chain.delegate(&body.delegation, Use::Config)?;
        let pin = self.description.as_ref().and_then(|description| description.pin).ok_or(Code::Pin)?;
        chain.contains(&pin)?;
        // A new entry restarts the generation at 0; under the same entry it never falls.
        let least = if pin.entry == chain.head() { pin.generation } else { 0 };
        let is_current = delegation.generation >= least && delegation.not_after >= self.record.floor;
        if is_current && signed.verify(SignedType::Order, &delegation.key) {
            Ok(delegation.generation)
        } else {
            Err(Code::ConfigChain)
        }
    }

    /// What is refused in the result, and what has to be stored together with the number.
    fn prepare(&self, job: &Job, chain: &VerifiedVoucher) -> Result<Change, Code> {
        let kind = job.order.task.kind();
        if let Some(ending) = &self.record.orders.ending {
            // What is on its way to its end does this and nothing else.
            let is_in_turn = ending.seq == job.order.seq || matches!(kind, Kind::Sessions | Kind::Commands);
            return if is_in_turn { Ok(Change::None) } else { Err(Code::State) };
        }
        match &job.order.task {
            Task::Release { entry, second } => {
                let next = self.extended(core::slice::from_ref(entry), core::slice::from_ref(second))?.1;
                let is_transfer = entry_kind(entry)? == EntryKind::Transfer;
                if !is_transfer || next.epoch != chain.epoch.saturating_add(1) {
                    return Err(Code::Voucher);
                }
                let pin = OwnerPin { index: next.index(), generation: 0, entry: next.head() };
                Ok(Change::Ending(ending_of(job, Some(pin)).into()))
            }
            Task::Decommission => Ok(Change::Ending(ending_of(job, None).into())),
            Task::Rekey { entries, second } => {
                if entries.iter().any(|entry| entry_kind(entry) != Ok(EntryKind::Rekey)) {
                    return Err(Code::Voucher);
                }
                let is_done = self.kept_voucher()?.entries.ends_with(entries);
                if is_done {
                    return Ok(Change::None);
                }
                let (voucher, verified) = self.extended(entries, second)?;
                let (urls, pins) = self.config_servers().ok_or(Code::State)?;
                let owner = OwnerChain { voucher: Bytes(voucher.encode()), urls, pins };
                Ok(Change::Owner(Box::new((owner, verified))))
            }
            _ => Ok(Change::None),
        }
    }

    fn kept_voucher(&self) -> Result<Voucher, Code> {
        let kept = self.record.orders.owner.as_ref().map(|owner| &owner.voucher.0);
        let kept = kept.or_else(|| self.record.redirect.as_ref().map(|signed| &signed.voucher));
        Ok(Voucher::decode(kept.ok_or(Code::State)?)?)
    }

    /// The owner's voucher with further entries, every signature and link checked.
    fn extended(&self, entries: &[Vec<u8>], second: &[Vec<u8>]) -> Result<(Voucher, VerifiedVoucher), Code> {
        let seconds = second.iter().map(Vec::as_slice).chain(core::iter::repeat(&[][..]));
        let voucher = entries
            .iter()
            .zip(seconds)
            .fold(self.kept_voucher()?, |voucher, (entry, second)| voucher.continued(entry, second));
        let verified = voucher.verify(&self.firmware.voucher_keys)?;
        Ok((voucher, verified))
    }

    fn accept(&mut self, job: Box<Job>, change: Change, wire: &[u8]) {
        self.record.orders.accepted =
            Some(Accepted { seq: job.order.seq, message: message_digest(wire), result: None });
        self.is_told = false;
        self.idle = 0;
        self.record.floor = self.record.floor.max(job.order.now);
        match change {
            Change::None => {}
            Change::Ending(ending) => self.record.orders.ending = Some(*ending),
            Change::Owner(changed) => {
                let (owner, verified) = *changed;
                // A new session has to begin with a voucher that has these entries.
                self.record.redirect = None;
                self.verified = None;
                self.record.orders.owner = Some(owner);
                self.chain = Some(verified);
            }
        }
        self.outputs.push_back(Output::Persist);
        self.state = State::Ordering(Ordering::Storing(job));
    }

    /// The same bytes: the stored result, or what a power cut has interrupted.
    fn again(&mut self, now: Tick, job: Box<Job>) {
        let result = self.record.orders.accepted.as_ref().and_then(|accepted| accepted.result.as_ref());
        if result.is_some() { self.tell(now, self.first_way()) } else { self.pin(now, job) }
    }

    /// Raises the pin to what the order shows, before the order is acted on.
    fn pin(&mut self, now: Tick, job: Box<Job>) {
        let Some(chain) = &self.chain else { return self.fetched(now, false) };
        // The delegation of a rekey order is the old key's, and a new entry begins at 0.
        let is_rekeyed = matches!(job.order.task, Task::Rekey { .. }) && job.refusal.is_none();
        let generation = if is_rekeyed { 0 } else { job.generation };
        let pin = OwnerPin { index: chain.index(), generation, entry: chain.head() };
        let stored = self.description.as_ref().and_then(|description| description.pin);
        if stored.is_some_and(|stored| stored.entry == pin.entry && stored.generation >= generation) {
            self.begin(now, job);
        } else {
            self.root(RootRequest::WritePin(pin));
            self.state = State::Ordering(Ordering::Pinning(job, pin));
        }
    }

    fn begin(&mut self, now: Tick, job: Box<Job>) {
        match job.refusal {
            Some(code) => self.answer(job, Err(code)),
            None => self.carry_out(now, job),
        }
    }

    /// The order is done or refused; what it changed in the record becomes durable with its result.
    pub(super) fn answer(&mut self, job: Box<Job>, outcome: Result<Answer, Code>) {
        self.outputs.push_back(Output::Random(NONCE_SIZE));
        self.state = State::Ordering(Ordering::Answering(job, outcome));
    }

    fn seal(&mut self, now: Tick, job: &Job, outcome: Result<Answer, Code>, random: &[u8]) {
        let Some(r2) = Nonce::from_slice(random) else { return self.fetched(now, false) };
        let refused = outcome.as_ref().err().copied();
        let body = ResultBody { order: job.digest, outcome };
        let key = job.secret.seal_result(job.order.seq, &job.r, &r2);
        let Ok(wire) = seal_result(&key, job.order.seq, &r2, &body) else {
            return self.fetched(now, false);
        };
        if let Some(accepted) = &mut self.record.orders.accepted {
            accepted.result = Some(Bytes(wire));
        }
        self.outputs.push_back(Output::Persist);
        self.state = State::Ordering(Ordering::StoringResult(job.order.task.kind(), refused));
    }

    fn tell(&mut self, now: Tick, via: Peer) {
        let result = self.record.orders.accepted.as_ref().and_then(|accepted| accepted.result.clone());
        let Some(Bytes(wire)) = result else { return self.fetched(now, false) };
        self.transmit(now, via, wire);
        self.state = State::Ordering(Ordering::Telling(via));
    }

    /// The result has arrived. There may be a next order.
    fn told(&mut self, now: Tick) {
        self.is_told = true;
        match &mut self.record.orders.ending {
            Some(ending) if ending.stage == EndingStage::Cleared => {
                ending.stage = EndingStage::Told;
                self.outputs.push_back(Output::Persist);
                self.state = State::StoringEnding;
            }
            _ => self.fetch_orders(now),
        }
    }
}

fn message_digest(wire: &[u8]) -> Digest {
    Digest(sha256(&[wire]))
}

fn entry_kind(signed: &[u8]) -> Result<EntryKind, Code> {
    Ok(Entry::decode(Sign1::decode(signed)?.payload)?.kind)
}

fn ending_of(job: &Job, next: Option<OwnerPin>) -> Ending {
    Ending {
        kind: job.order.task.kind(),
        seq: job.order.seq,
        r: job.r,
        order: job.digest,
        epoch: job.order.epoch,
        next,
        stage: EndingStage::Ordered,
    }
}
