//! The push machine: from a captured row to the head-end's confirmation that it is durable there. On the same link the
//! head-end may ask ([`request`]): a key change comes to the meter that way.

mod keys;
mod record;
mod request;
mod retry;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::VecDeque;

use gridseal_crypto::{CounterError, InvocationCounter, Reservation, Ticket};
use gridseal_dlms::{
    apdu::{
        ciphered::{GENERAL_GLO_CIPHERING, GeneralGlo},
        notification::{DataNotificationConfirm, LongInvokeId},
    },
    frame::wrapper::{MANAGEMENT_CLIENT, MANAGEMENT_LOGICAL_DEVICE, WrapperDecoder, WrapperFrame},
    suite::protect::seal_general_glo,
    wire::DecodeError,
};
use gridseal_types::{Kind, SystemTitle, Tick, UtcTime};

use crate::{load_profile::SET_BACK_MAX_S, row::Row};
use keys::KeyRing;
use record::{Kept, Record};
use request::Answer;

pub use keys::{PushKeys, RequestRefusal};
pub use record::RecordError;
pub use retry::retry_delay;

/// Most rows kept until they are confirmed: ten days of quarter hours. A full queue refuses the new row, with an event;
/// an older one is never dropped for it.
pub const QUEUE_ROWS_MAX: usize = 960;
/// Most frames sent and not yet confirmed. Below the key service's window of 64 counters, so a repeat is recognised.
pub const IN_FLIGHT_MAX: usize = 16;
/// Counter values reserved at a time; what a restart leaves of them is skipped.
pub const COUNTER_BLOCK: u32 = 16;
/// How long the head-end may take to confirm before the frames in flight are repeated.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// After so many unconfirmed tries a row is sealed again under a fresh counter: its old counter may have fallen below
/// the key service's window, and then the same bytes would be refused for ever.
pub const RESEAL_ATTEMPTS: u32 = 6;
/// Largest APDU accepted from the head-end, bytes.
pub const APDU_SIZE_MAX: usize = 256;

/// Names one record to be persisted; rises with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersistId(u64);

/// What drives the machine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A row was captured; later than every row before it.
    Captured(Row),
    /// The link to the head-end stands, authenticated on both sides.
    Connected,
    /// The link is gone.
    Disconnected,
    /// Bytes came over the link.
    Received(&'a [u8]),
    /// The record is durable, in place of the one before.
    Persisted(PersistId),
    /// Answer to [`Output::Random`].
    Random([u8; 8]),
    /// The deadline has passed.
    Timeout,
}

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Write the record durably and atomically in place of the one before, then answer [`Input::Persisted`]. If that
    /// fails, do not answer: restart from what is durable.
    Persist {
        /// To be repeated in the answer.
        id: PersistId,
        /// The whole state; give it to [`Push::resume`].
        record: Vec<u8>,
        /// End of the counter values that it reserves: a record with a higher one must never be followed by an older.
        reserved_end: u64,
        /// Key changes since the delivery: likewise.
        key_changes: u32,
    },
    /// Send the bytes (one wrapper frame) over the link.
    Transmit(Vec<u8>),
    /// Draw 8 random bytes and answer [`Input::Random`].
    Random,
    /// Log, count, tell.
    Event(Event),
}

/// What happened. No value of a reading is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A row was sealed; its frame leaves once it is durable.
    Sealed {
        /// Interval start.
        start: UtcTime,
        /// Counter that was used for it.
        invocation_counter: u32,
    },
    /// The head-end has the row durably; it left the queue.
    Confirmed {
        /// Interval start.
        start: UtcTime,
    },
    /// The queue is full of rows that nobody confirmed: this new row was not taken. It is lost to push.
    QueueFull {
        /// Interval start.
        start: UtcTime,
    },
    /// No confirmation in time; the frames in flight are repeated after a delay.
    Unconfirmed {
        /// Tries so far without any confirmation.
        attempts: u32,
        /// Frames in flight.
        in_flight: usize,
    },
    /// A confirmation for nothing that is queued: a late repeat, or a confused head-end.
    UnknownConfirm {
        /// Its id.
        long_invoke_id: LongInvokeId,
    },
    /// The head-end sent what it must not; the link counts as down. The shell closes it and connects anew.
    LinkRefused(DecodeError),
    /// The clock was set back by more than a day: so many rows of times that are yet to come were dropped.
    FutureForgotten {
        /// Rows.
        count: usize,
    },
    /// The last counter value of this key is used: rows wait until the key is changed.
    CounterExhausted,
    /// A row whose time no date-time expresses was not taken.
    RowRefused {
        /// Interval start.
        start: UtcTime,
    },
    /// A request of the head-end was answered; the answer leaves once it is durable.
    Answered {
        /// Counter that was used for it.
        invocation_counter: u32,
    },
    /// A request of the head-end was not opened; it gets no answer.
    RequestRefused(RequestRefusal),
    /// New keys are in use.
    KeysChanged {
        /// Key changes since the delivery.
        changes: u32,
    },
}

/// The caller broke the contract; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The answer names a record that is not the one being persisted.
    #[error("no such record is being persisted")]
    NotPersisting,
    /// The row does not begin after the one before it, nor more than a day before that.
    #[error("row does not begin after the last one")]
    RowNotLater,
}

impl PushError {
    /// Always the caller.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

/// Who the meter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushConfig {
    /// System title under which it seals.
    pub system_title: SystemTitle,
    /// Number of the present pair of keys, changed with them: frames of another generation are sealed again. The
    /// counter goes on either way, so a wrong number costs bytes and never a nonce.
    pub key_generation: u32,
}

#[derive(Debug)]
struct Entry {
    row: Row,
    long_invoke_id: LongInvokeId,
    sealed: Option<Sealed>,
}

#[derive(Debug)]
struct Sealed {
    frame: Vec<u8>,
    /// The frame is durable once this version of the state is.
    version: u64,
    is_sent: bool,
    attempts: u32,
}

#[derive(Debug)]
enum Link {
    Down,
    Up { decoder: WrapperDecoder, wait: Wait },
}

/// What the link waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Something to send.
    Row,
    Confirm {
        until: Tick,
    },
    Random,
    Retry {
        at: Tick,
    },
}

/// The push machine. Call [`Push::handle`], then [`Push::poll`] until `None`, then wait until [`Push::deadline`].
#[derive(Debug)]
pub struct Push {
    config: PushConfig,
    keys: KeyRing,
    /// A request's response that is not sealed yet.
    answer: Option<Answer>,
    /// Sealed responses, each with the version of the state that makes it durable.
    answers: VecDeque<(u64, Vec<u8>)>,
    counter: InvocationCounter,
    /// End of the last block asked for: what the next record says.
    reserved_end: u64,
    /// A block that is not durable yet, with the version that makes it so.
    reservation: Option<(Reservation, u64)>,
    is_exhausted: bool,
    next_invoke_id: u32,
    last_row: Option<Row>,
    queue: VecDeque<Entry>,
    /// Rises with each change that must be durable.
    version: u64,
    persisting: Option<PersistId>,
    persisted: u64,
    link: Link,
    attempts: u32,
    outputs: VecDeque<Output>,
}

impl Push {
    /// A meter whose keys were never used. With keys that were, this repeats nonces: use [`Push::resume`] whenever
    /// there is a record.
    #[must_use]
    pub fn begin(config: PushConfig, keys: PushKeys) -> Self {
        Self::from_record(config, KeyRing::delivered(keys), Record::new(config.key_generation))
    }

    /// Goes on from the last durable record. Every counter value below its reservation counts as used.
    ///
    /// # Errors
    /// [`RecordError`]: do not begin anew instead.
    pub fn resume(config: PushConfig, keys: PushKeys, record: &[u8]) -> Result<Self, RecordError> {
        let record = Record::decode(record)?;
        // Keys of a former delivery are nobody's any more.
        let is_same = record.key_generation == config.key_generation;
        let ring = if is_same { KeyRing::resume(keys, &record.keys)? } else { KeyRing::delivered(keys) };
        Ok(Self::from_record(config, ring, record))
    }

    fn from_record(config: PushConfig, keys: KeyRing, record: Record) -> Self {
        let is_same_key = record.key_generation == config.key_generation;
        let entry = |kept: Kept| Entry {
            row: kept.row,
            long_invoke_id: LongInvokeId::confirmed(kept.invoke_id),
            sealed: kept.frame.filter(|_| is_same_key).map(Sealed::durable),
        };
        Self {
            config,
            keys,
            answer: None,
            answers: VecDeque::new(),
            counter: InvocationCounter::resume(record.reserved_end),
            reserved_end: record.reserved_end,
            reservation: None,
            is_exhausted: false,
            next_invoke_id: record.next_invoke_id,
            last_row: record.last_row,
            queue: record.queue.into_iter().map(entry).collect(),
            version: 0,
            persisting: None,
            persisted: 0,
            link: Link::Down,
            attempts: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Newest row taken: the load profile goes on from it.
    #[must_use]
    pub const fn last_row(&self) -> Option<&Row> {
        self.last_row.as_ref()
    }

    /// Rows not yet confirmed.
    #[must_use]
    pub fn queued_count(&self) -> usize {
        self.queue.len()
    }

    /// Feeds one input. `now` never goes backwards.
    ///
    /// # Errors
    /// [`PushError`] when the caller breaks the contract; nothing changed then. What the head-end does wrong is an
    /// event.
    pub fn handle(&mut self, now: Tick, input: Input<'_>) -> Result<(), PushError> {
        match input {
            Input::Captured(row) => self.captured(row)?,
            Input::Connected => self.connected(),
            Input::Disconnected => self.disconnected(),
            Input::Received(bytes) => self.received(now, bytes),
            Input::Persisted(id) => self.persisted(id)?,
            Input::Random(random) => self.delay(now, random),
            Input::Timeout => self.timed_out(now),
        }
        self.seal_answer();
        self.seal_waiting();
        self.persist_changes();
        self.transmit(now);
        Ok(())
    }

    /// The next thing to do. Drain after every [`Push::handle`], until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)` if nothing else happens.
    #[must_use]
    pub const fn deadline(&self) -> Option<Tick> {
        match self.link {
            Link::Up { wait: Wait::Confirm { until: at } | Wait::Retry { at }, .. } => Some(at),
            _ => None,
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn captured(&mut self, row: Row) -> Result<(), PushError> {
        if let Some(last) = self.last_row.filter(|last| row.start <= last.start) {
            if last.start.0.saturating_sub(row.start.0) <= SET_BACK_MAX_S {
                return Err(PushError::RowNotLater);
            }
            self.forget_future(row.start);
        }
        let long_invoke_id = LongInvokeId::confirmed(self.next_invoke_id);
        if self.queue.len() >= QUEUE_ROWS_MAX {
            self.event(Event::QueueFull { start: row.start });
        } else if row.notification(long_invoke_id).is_none() {
            self.event(Event::RowRefused { start: row.start });
        } else {
            self.next_invoke_id = (self.next_invoke_id + 1) & LongInvokeId::ID_MAX;
            self.last_row = Some(row);
            self.queue.push_back(Entry { row, long_invoke_id, sealed: None });
            self.version += 1;
        }
        Ok(())
    }

    /// Rows that begin later than the one that ends now come from a clock that was fast. No head-end takes them, and those
    /// behind them would wait until that time has come; the register goes on, so their energy is in the next row.
    fn forget_future(&mut self, now: UtcTime) {
        let before = self.queue.len();
        self.queue.retain(|entry| entry.row.start < now);
        let count = before - self.queue.len();
        self.version += 1;
        self.event(Event::FutureForgotten { count });
    }

    fn connected(&mut self) {
        self.link = Link::Up { decoder: WrapperDecoder::new(APDU_SIZE_MAX), wait: Wait::Row };
        self.repeat_all();
    }

    /// Who asked is gone. A request that was not answered yet was not carried out either.
    fn disconnected(&mut self) {
        self.link = Link::Down;
        self.answer = None;
        self.answers.clear();
    }

    /// Frames in flight are to be sent again, with the same bytes.
    fn repeat_all(&mut self) {
        self.queue
            .iter_mut()
            .filter_map(|entry| entry.sealed.as_mut())
            .for_each(|sealed| sealed.is_sent = false);
    }

    fn received(&mut self, now: Tick, bytes: &[u8]) {
        // The shell may have read on before it heard that the link is refused.
        let Link::Up { decoder, .. } = &mut self.link else { return };
        let mut outcome = decoder.push(bytes);
        let frames: Vec<_> = core::iter::from_fn(|| decoder.poll()).collect();
        for frame in frames {
            let taken = if frame.apdu().first() == Some(&GENERAL_GLO_CIPHERING) {
                GeneralGlo::from_bytes(frame.apdu()).map(|apdu| self.requested(&frame, &apdu))
            } else {
                DataNotificationConfirm::from_bytes(frame.apdu())
                    .map(|confirm| self.confirmed(now, confirm.long_invoke_id))
            };
            if let Err(error) = taken {
                outcome = Err(error);
                break;
            }
        }
        if let Err(error) = outcome {
            self.disconnected();
            self.event(Event::LinkRefused(error));
        }
    }

    fn requested(&mut self, frame: &WrapperFrame, apdu: &GeneralGlo<'_>) {
        let own = self.config.system_title;
        let is_addressed =
            (frame.source(), frame.destination()) == (MANAGEMENT_CLIENT, MANAGEMENT_LOGICAL_DEVICE);
        let opened = match (is_addressed, &self.answer) {
            (false, _) => Err(RequestRefusal::Address),
            (true, Some(_)) => Err(RequestRefusal::Busy),
            (true, None) => self.keys.open(own, apdu),
        };
        match opened {
            Err(refusal) => self.event(Event::RequestRefused(refusal)),
            Ok(plain) => {
                // The client's counter is used, whatever comes of the request.
                self.version += 1;
                self.answer = Some(request::serve(&self.keys, own, &plain));
            }
        }
    }

    /// Seals the response under the keys of its request; what it acknowledges is in use from then on. Both are in one
    /// record, so that no crash leaves one without the other.
    fn seal_answer(&mut self) {
        let Some(Answer { plain, .. }) = &self.answer else { return };
        if let Some(plain) = plain {
            let ticket = match self.counter.take() {
                Ok(ticket) => ticket,
                Err(CounterError::NothingReserved) => return self.reserve(),
                Err(_) => return self.exhausted(),
            };
            let (invocation_counter, title) = (ticket.value(), self.config.system_title);
            let frame = seal_general_glo(&self.keys.guek, &self.keys.gak, title, ticket, plain)
                .ok()
                .and_then(|apdu| WrapperFrame::new(MANAGEMENT_LOGICAL_DEVICE, MANAGEMENT_CLIENT, apdu).ok());
            self.version += 1;
            self.answers.extend(frame.map(|frame| (self.version, frame.to_bytes())));
            self.event(Event::Answered { invocation_counter });
        }
        if let Some(change) = self.answer.take().and_then(|answer| answer.change) {
            self.version += 1;
            self.keys.apply(change);
            self.event(Event::KeysChanged { changes: self.keys.changes() });
            // What waits for its confirmation was sealed under the former keys.
            self.queue.iter_mut().for_each(|entry| entry.sealed = None);
            if let Some(last) = self.answers.back_mut() {
                // S2: an acknowledgement leaves when the keys that it acknowledges are durable.
                last.0 = self.version;
            }
        }
    }

    fn confirmed(&mut self, now: Tick, long_invoke_id: LongInvokeId) {
        let persisted = self.persisted;
        let is_meant =
            |entry: &Entry| entry.long_invoke_id == long_invoke_id && entry.may_have_left(persisted);
        let index = self.queue.iter().position(is_meant);
        let Some(entry) = index.and_then(|index| self.queue.remove(index)) else {
            return self.event(Event::UnknownConfirm { long_invoke_id });
        };
        // Not persisted for its own sake: a row that comes back after a crash is repeated, and recognised.
        self.event(Event::Confirmed { start: entry.row.start });
        self.attempts = 0;
        let is_waiting = self.in_flight() > 0;
        if let Link::Up { wait, .. } = &mut self.link {
            *wait = if is_waiting { Wait::Confirm { until: now + CONFIRM_TIMEOUT } } else { Wait::Row };
        }
    }

    fn persisted(&mut self, id: PersistId) -> Result<(), PushError> {
        if self.persisting != Some(id) {
            return Err(PushError::NotPersisting);
        }
        self.persisting = None;
        self.persisted = id.0;
        if let Some((reservation, version)) = self.reservation
            && version <= self.persisted
        {
            self.counter.extend(reservation);
            self.reservation = None;
        }
        Ok(())
    }

    fn delay(&mut self, now: Tick, random: [u8; 8]) {
        // A confirmation, or a new link, may have ended the wait since the question.
        if let Link::Up { wait: wait @ Wait::Random, .. } = &mut self.link {
            *wait = Wait::Retry { at: now + retry_delay(self.attempts, random) };
        }
    }

    fn timed_out(&mut self, now: Tick) {
        let in_flight = self.in_flight();
        let Link::Up { wait, .. } = &mut self.link else { return };
        match *wait {
            Wait::Confirm { until } if until <= now => {
                *wait = Wait::Random;
                self.attempts = self.attempts.saturating_add(1);
                let attempts = self.attempts;
                self.event(Event::Unconfirmed { attempts, in_flight });
                self.outputs.push_back(Output::Random);
                self.queue.iter_mut().for_each(Entry::count_attempt);
            }
            Wait::Retry { at } if at <= now => {
                *wait = Wait::Row;
                self.repeat_all();
            }
            _ => {}
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.iter().filter(|entry| entry.sealed.as_ref().is_some_and(|sealed| sealed.is_sent)).count()
    }

    /// Seals rows in order while counter values last, and asks for a further block when they do not.
    fn seal_waiting(&mut self) {
        let Some(first) = self.queue.iter().position(|entry| entry.sealed.is_none()) else { return };
        for index in first..self.queue.len() {
            if self.queue.get(index).is_none_or(|entry| entry.sealed.is_some()) {
                continue;
            }
            match self.counter.take() {
                Ok(ticket) => self.seal(index, ticket),
                Err(CounterError::NothingReserved) => return self.reserve(),
                Err(_) => return self.exhausted(),
            }
        }
    }

    fn seal(&mut self, index: usize, ticket: Ticket) {
        let Some(entry) = self.queue.get_mut(index) else { return };
        let invocation_counter = ticket.value();
        let KeyRing { guek, gak, .. } = &self.keys;
        let title = self.config.system_title;
        // `captured` let in only what has a notification, and that is far below every limit of size.
        let frame = entry
            .row
            .notification(entry.long_invoke_id)
            .and_then(|plain| seal_general_glo(guek, gak, title, ticket, &plain).ok())
            .and_then(|apdu| WrapperFrame::new(MANAGEMENT_LOGICAL_DEVICE, MANAGEMENT_CLIENT, apdu).ok());
        let Some(frame) = frame else { return };
        self.version += 1;
        entry.sealed =
            Some(Sealed { frame: frame.to_bytes(), version: self.version, is_sent: false, attempts: 0 });
        let start = entry.row.start;
        self.event(Event::Sealed { start, invocation_counter });
    }

    fn reserve(&mut self) {
        if self.reservation.is_some() {
            return;
        }
        match self.counter.reserve(COUNTER_BLOCK) {
            Ok(reservation) => {
                self.version += 1;
                self.reserved_end = reservation.end();
                self.reservation = Some((reservation, self.version));
            }
            Err(_) => self.exhausted(),
        }
    }

    fn exhausted(&mut self) {
        if !core::mem::replace(&mut self.is_exhausted, true) {
            self.event(Event::CounterExhausted);
        }
    }

    /// One record at a time: changes that come while one is being written go into the next.
    fn persist_changes(&mut self) {
        if self.persisting.is_some() || self.version == self.persisted {
            return;
        }
        let id = PersistId(self.version);
        self.persisting = Some(id);
        let mut record = Record::new(self.config.key_generation);
        record.reserved_end = self.reserved_end;
        record.next_invoke_id = self.next_invoke_id;
        record.last_row = self.last_row;
        record.queue = self.queue.iter().map(Entry::kept).collect();
        record.keys = self.keys.kept();
        let (reserved_end, key_changes) = (self.reserved_end, self.keys.changes());
        self.outputs.push_back(Output::Persist { id, record: record.encode(), reserved_end, key_changes });
    }

    /// Sends the oldest frames that are durable and not in flight, up to the limit, unless a retry is being waited for.
    fn transmit(&mut self, now: Tick) {
        let Link::Up { wait, .. } = &mut self.link else { return };
        let persisted = self.persisted;
        while let Some((_, frame)) = self.answers.pop_front_if(|(version, _)| *version <= persisted) {
            self.outputs.push_back(Output::Transmit(frame));
        }
        if matches!(wait, Wait::Random | Wait::Retry { .. }) {
            return;
        }
        let oldest = self.queue.iter_mut().take(IN_FLIGHT_MAX).filter_map(|entry| entry.sealed.as_mut());
        for sealed in oldest.filter(|sealed| !sealed.is_sent && sealed.version <= persisted) {
            sealed.is_sent = true;
            self.outputs.push_back(Output::Transmit(sealed.frame.clone()));
            *wait = Wait::Confirm { until: now + CONFIRM_TIMEOUT };
        }
    }
}

impl Sealed {
    /// A frame out of the durable record. It may have been sent before the restart.
    const fn durable(frame: Vec<u8>) -> Self {
        Self { frame, version: 0, is_sent: false, attempts: 0 }
    }
}

impl Entry {
    /// Whether the head-end can have seen the row: nothing leaves before it is durable.
    fn may_have_left(&self, persisted: u64) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.version <= persisted)
    }

    fn count_attempt(&mut self) {
        let Some(sealed) = self.sealed.as_mut().filter(|sealed| sealed.is_sent) else { return };
        sealed.attempts += 1;
        if sealed.attempts >= RESEAL_ATTEMPTS {
            self.sealed = None;
        }
    }

    fn kept(&self) -> Kept {
        Kept {
            row: self.row,
            invoke_id: self.long_invoke_id.id(),
            frame: self.sealed.as_ref().map(|sealed| sealed.frame.clone()),
        }
    }
}
