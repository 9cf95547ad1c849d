//! The way of a reading: frame, opened APDU, readings, durable row, acknowledgement.

mod output;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use gridseal_dlms::{
    apdu::{
        ciphered::GeneralGlo,
        notification::{DataNotification, DataNotificationConfirm, Leniency, LongInvokeId},
        tag,
    },
    frame::wrapper::{WrapperDecoder, WrapperFrame},
};
use gridseal_types::{
    Kind, Reading, SystemTitle, Tick, UtcTime,
    service::{admission::Admission, keys::OpenVerdict},
};

use crate::{
    admission::Served,
    plausibility::implausible,
    push::{PushModel, decode_push},
    store::StoreOutcome,
};

pub use output::{CloseReason, Event, Output, Refusal};

/// Largest APDU accepted from a meter, bytes.
pub const FRAME_SIZE_MAX: usize = 4_096;
/// Most APDUs in one request to the key service (decision D1: 256 per batch).
pub const OPEN_BATCH_MAX: usize = 256;
/// Most requests to the key service at a time (decision D1).
pub const OPEN_BATCHES_MAX: usize = 8;
/// Frames that must wait before a further request goes out beside one that runs: below that they collect, and the
/// next request carries them together.
pub const OPEN_TOPUP_MIN: usize = 16;
/// Most frames that wait to be opened; more are refused, and the meter repeats them.
pub const QUEUE_FRAMES_MAX: usize = 16_384;
/// Most frames of one connection between arrival and acknowledgement.
pub const FRAMES_PER_CONNECTION_MAX: usize = 64;
/// Most frames whose readings go into one commit (decision D6).
pub const STORE_FRAMES_MAX: usize = 5_000;
/// Pause after the key service or the store failed.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Names a connection. The shell gives each a number that it does not use again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names a request to the key service or to the store; rises with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// What drives the machine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A link stands, and [`crate::admission::lookup`] says that its meter is served.
    Connected {
        /// Its number.
        connection: ConnectionId,
        /// Who is at the other end.
        served: Served,
    },
    /// A link is gone.
    Disconnected {
        /// Its number.
        connection: ConnectionId,
    },
    /// Bytes came over a link.
    Received {
        /// Its number.
        connection: ConnectionId,
        /// The bytes, in the order of the stream.
        bytes: &'a [u8],
    },
    /// The key service answered.
    Opened {
        /// Which request.
        batch: BatchId,
        /// One verdict for each APDU, in order.
        verdicts: Vec<OpenVerdict>,
        /// Calendar time, for the plausibility of the meters' clocks.
        at: UtcTime,
    },
    /// The key service could not be asked, or refused the whole request: it is repeated later.
    OpenFailed {
        /// Which request.
        batch: BatchId,
    },
    /// The store answered: all readings are durable.
    Stored {
        /// Which request.
        batch: BatchId,
        /// One outcome for each reading, in order.
        outcomes: Vec<StoreOutcome>,
    },
    /// The store failed and holds none of these readings: it is asked again later.
    StoreFailed {
        /// Which request.
        batch: BatchId,
    },
    /// A newer admission was recorded.
    Admitted(&'a Admission),
    /// The deadline has passed.
    Timeout,
}

/// The caller broke the contract; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The answer names no request that is out.
    #[error("no such request is out")]
    UnknownBatch,
    /// The answer has another number of parts than the request.
    #[error("answer has {found} parts, expected {expected}")]
    Count {
        /// Parts expected.
        expected: usize,
        /// Parts found.
        found: usize,
    },
    /// The number of a connection that stands is given to another.
    #[error("connection number is in use")]
    ConnectionInUse,
}

impl IngestError {
    /// Always the caller, or the service whose answer it passes on.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

#[derive(Debug)]
struct Connection {
    served: Served,
    decoder: WrapperDecoder,
    /// Frames between arrival and acknowledgement or refusal.
    waiting: usize,
    /// Newest interval start that was stored or is about to be.
    newest: UtcTime,
}

/// A frame that is to be opened.
#[derive(Debug)]
struct Frame {
    connection: ConnectionId,
    meter: SystemTitle,
    wrapper: WrapperFrame,
}

/// A frame whose readings are to be stored.
#[derive(Debug)]
struct Decoded {
    connection: ConnectionId,
    source: u16,
    destination: u16,
    long_invoke_id: LongInvokeId,
    readings: Vec<Reading>,
}

/// The ingest machine. Call [`Ingest::handle`], then [`Ingest::poll`] until `None`, then wait until
/// [`Ingest::deadline`].
///
/// A frame is acknowledged when, and only when, all its readings are durable: new, there already, or kept beside
/// another value. Whatever else happens to it is an event and no acknowledgement, so that the meter keeps the row and
/// nothing that somebody could still repair is lost; the meter's growing pauses bound the repeats. A verdict
/// `Duplicate` takes the same way as `Fresh`, because the readings may not have been stored the first time.
#[derive(Debug)]
pub struct Ingest {
    model: PushModel,
    connections: BTreeMap<ConnectionId, Connection>,
    queue: VecDeque<Frame>,
    opening: BTreeMap<BatchId, Vec<Frame>>,
    decoded: VecDeque<Decoded>,
    storing: Option<(BatchId, Vec<Decoded>)>,
    next_batch: u64,
    open_again_at: Option<Tick>,
    store_again_at: Option<Tick>,
    outputs: VecDeque<Output>,
}

impl Ingest {
    /// A machine for meters of one model.
    #[must_use]
    pub const fn new(model: PushModel) -> Self {
        Self {
            model,
            connections: BTreeMap::new(),
            queue: VecDeque::new(),
            opening: BTreeMap::new(),
            decoded: VecDeque::new(),
            storing: None,
            next_batch: 0,
            open_again_at: None,
            store_again_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// Connections that stand.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Feeds one input. `now` never goes backwards.
    ///
    /// # Errors
    /// [`IngestError`] when the caller breaks the contract; nothing changed then. What a meter does wrong is an event.
    pub fn handle(&mut self, now: Tick, input: Input<'_>) -> Result<(), IngestError> {
        match input {
            Input::Connected { connection, served } => self.connected(connection, served)?,
            Input::Disconnected { connection } => self.forget(connection),
            Input::Received { connection, bytes } => self.received(connection, bytes),
            Input::Opened { batch, verdicts, at } => self.opened(batch, verdicts, at)?,
            Input::OpenFailed { batch } => self.open_failed(now, batch)?,
            Input::Stored { batch, outcomes } => self.stored(batch, &outcomes)?,
            Input::StoreFailed { batch } => self.store_failed(now, batch)?,
            Input::Admitted(admission) => self.admitted(admission),
            Input::Timeout => {}
        }
        self.open_again_at = self.open_again_at.filter(|at| *at > now);
        self.store_again_at = self.store_again_at.filter(|at| *at > now);
        self.open_waiting();
        self.store_waiting();
        Ok(())
    }

    /// The next thing to do. Drain after every [`Ingest::handle`], until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)` if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        self.open_again_at.into_iter().chain(self.store_again_at).min()
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn refuse(&mut self, connection: ConnectionId, meter: SystemTitle, reason: Refusal) {
        self.event(Event::Refused { meter, reason });
        self.settle(connection);
    }

    /// A frame of the connection is done with.
    fn settle(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.waiting = connection.waiting.saturating_sub(1);
        }
    }

    fn connected(&mut self, connection: ConnectionId, served: Served) -> Result<(), IngestError> {
        if self.connections.contains_key(&connection) {
            return Err(IngestError::ConnectionInUse);
        }
        let decoder = WrapperDecoder::new(FRAME_SIZE_MAX);
        let state = Connection { served, decoder, waiting: 0, newest: UtcTime::default() };
        self.connections.insert(connection, state);
        Ok(())
    }

    /// Frames that were not sent to be opened go with their link: the meter repeats them on the next one.
    fn forget(&mut self, connection: ConnectionId) {
        if self.connections.remove(&connection).is_some() {
            self.queue.retain(|frame| frame.connection != connection);
        }
    }

    fn close(&mut self, connection: ConnectionId, reason: CloseReason) {
        self.forget(connection);
        self.outputs.push_back(Output::Close { connection, reason });
    }

    fn admitted(&mut self, admission: &Admission) {
        let ends = |state: &Connection| !state.served.may_go_on(admission);
        let ended: Vec<_> =
            self.connections.iter().filter(|(_, state)| ends(state)).map(|(number, _)| *number).collect();
        for connection in ended {
            self.close(connection, CloseReason::NotServed);
        }
    }

    fn received(&mut self, connection: ConnectionId, bytes: &[u8]) {
        // The shell may have read on before it heard that the link is closed.
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let meter = state.served.meter();
        let outcome = state.decoder.push(bytes);
        let frames: Vec<_> = core::iter::from_fn(|| state.decoder.poll()).collect();
        for wrapper in frames {
            if let Err(reason) = self.arrived(connection, meter, wrapper) {
                self.event(Event::Refused { meter, reason });
                return self.close(connection, CloseReason::Protocol);
            }
        }
        if let Err(error) = outcome {
            self.event(Event::Refused { meter, reason: Refusal::Frame(error) });
            self.close(connection, CloseReason::Protocol);
        }
    }

    /// Takes a frame into the queue. The header is read before the key service is troubled: a link carries the APDUs
    /// of its own meter, ciphered, and nothing else.
    fn arrived(
        &mut self,
        connection: ConnectionId,
        meter: SystemTitle,
        wrapper: WrapperFrame,
    ) -> Result<(), Refusal> {
        let apdu = GeneralGlo::from_bytes(wrapper.apdu()).map_err(Refusal::Apdu)?;
        if apdu.system_title != Some(meter) {
            return Err(Refusal::SystemTitle);
        }
        let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
        if state.waiting >= FRAMES_PER_CONNECTION_MAX || self.queue.len() >= QUEUE_FRAMES_MAX {
            self.event(Event::Refused { meter, reason: Refusal::QueueFull });
            return Ok(());
        }
        state.waiting += 1;
        self.queue.push_back(Frame { connection, meter, wrapper });
        Ok(())
    }

    /// Asks at once when nothing is out; while something is, frames collect until a further request is worth it.
    fn open_waiting(&mut self) {
        while self.open_again_at.is_none() && self.opening.len() < OPEN_BATCHES_MAX {
            let wanted = if self.opening.is_empty() { 1 } else { OPEN_TOPUP_MIN };
            // While the store lags, frames wait sealed: the limit of the queue then holds for all.
            if self.queue.len() < wanted || self.decoded.len() >= STORE_FRAMES_MAX {
                return;
            }
            let count = self.queue.len().min(OPEN_BATCH_MAX);
            let frames: Vec<_> = self.queue.drain(..count).collect();
            let apdus = frames.iter().map(|frame| frame.wrapper.apdu().to_vec()).collect();
            let batch = self.new_batch();
            self.opening.insert(batch, frames);
            self.outputs.push_back(Output::Open { batch, apdus });
        }
    }

    fn new_batch(&mut self) -> BatchId {
        self.next_batch += 1;
        BatchId(self.next_batch)
    }

    fn opened(&mut self, batch: BatchId, verdicts: Vec<OpenVerdict>, at: UtcTime) -> Result<(), IngestError> {
        let expected = self.opening.get(&batch).ok_or(IngestError::UnknownBatch)?.len();
        check_count(expected, verdicts.len())?;
        let frames = self.opening.remove(&batch).unwrap_or_default();
        for (frame, verdict) in frames.into_iter().zip(verdicts) {
            let (connection, meter) = (frame.connection, frame.meter);
            let (frame, verdict) = match self.response(frame, verdict) {
                None => continue,
                Some(other) => other,
            };
            match self.judge(frame, verdict, at) {
                Ok(decoded) => self.decoded.push_back(decoded),
                Err(reason) => self.refuse(connection, meter, reason),
            }
        }
        Ok(())
    }

    /// Hands a meter's answer to a request on; what is none is given back.
    fn response(&mut self, frame: Frame, verdict: OpenVerdict) -> Option<(Frame, OpenVerdict)> {
        match verdict {
            OpenVerdict::Fresh { system_title, plain, .. }
            | OpenVerdict::Duplicate { system_title, plain }
                if system_title == frame.meter && is_response(&plain) =>
            {
                let connection = frame.connection;
                self.settle(connection);
                let apdu = frame.wrapper.into_apdu();
                self.outputs.push_back(Output::Response { connection, apdu, plain });
                None
            }
            other => Some((frame, other)),
        }
    }

    fn judge(&mut self, frame: Frame, verdict: OpenVerdict, at: UtcTime) -> Result<Decoded, Refusal> {
        let Frame { connection, meter, wrapper } = frame;
        let (system_title, plain, is_in_order) = match verdict {
            OpenVerdict::Fresh { system_title, plain, late } => (system_title, plain, !late),
            OpenVerdict::Duplicate { system_title, plain } => (system_title, plain, false),
            OpenVerdict::Replay => return Err(Refusal::Replay),
            _ => return Err(Refusal::Rejected),
        };
        // The key service says whose key opened it; the link says who sent it. Both must be one meter.
        if system_title != meter {
            return Err(Refusal::SystemTitle);
        }
        let push =
            DataNotification::from_bytes(&plain, Leniency::DateTimeTag).map_err(Refusal::Notification)?;
        let readings = decode_push(&self.model, meter, &push).map_err(Refusal::Form)?;
        if let Some(why) = readings.iter().find_map(|reading| implausible(reading, at)) {
            return Err(Refusal::Implausible(why));
        }
        if is_in_order {
            readings.iter().for_each(|reading| self.note_order(connection, reading));
        }
        Ok(Decoded {
            connection,
            // The answer goes back where the frame came from.
            source: wrapper.destination(),
            destination: wrapper.source(),
            long_invoke_id: push.long_invoke_id,
            readings,
        })
    }

    /// Counters rise with time, so a fresh reading older than one before it means that the meter's clock was set back.
    fn note_order(&mut self, connection: ConnectionId, reading: &Reading) {
        let Some(state) = self.connections.get_mut(&connection) else { return };
        let key = reading.key;
        if key.start < state.newest {
            self.event(Event::OutOfOrder { key });
        } else {
            state.newest = key.start;
        }
    }

    fn open_failed(&mut self, now: Tick, batch: BatchId) -> Result<(), IngestError> {
        let frames = self.opening.remove(&batch).ok_or(IngestError::UnknownBatch)?;
        // In front and in order: the key service's window takes old counters only while they are not too old.
        for frame in frames.into_iter().rev().filter(|frame| self.connections.contains_key(&frame.connection))
        {
            self.queue.push_front(frame);
        }
        self.open_again_at = Some(now + RETRY_DELAY);
        self.event(Event::KeyServiceFailed);
        Ok(())
    }

    /// One commit at a time: what comes while it runs goes together into the next.
    fn store_waiting(&mut self) {
        if self.storing.is_some() || self.store_again_at.is_some() || self.decoded.is_empty() {
            return;
        }
        let count = self.decoded.len().min(STORE_FRAMES_MAX);
        let frames: Vec<_> = self.decoded.drain(..count).collect();
        let readings = frames.iter().flat_map(|frame| frame.readings.iter().copied()).collect();
        let batch = self.new_batch();
        self.storing = Some((batch, frames));
        self.outputs.push_back(Output::Store { batch, readings });
    }

    fn stored(&mut self, batch: BatchId, outcomes: &[StoreOutcome]) -> Result<(), IngestError> {
        let frames = match &self.storing {
            Some((storing, frames)) if *storing == batch => frames,
            _ => return Err(IngestError::UnknownBatch),
        };
        check_count(frames.iter().map(|frame| frame.readings.len()).sum(), outcomes.len())?;
        let Some((_, frames)) = self.storing.take() else { return Ok(()) };
        let keys: Vec<_> =
            frames.iter().flat_map(|frame| &frame.readings).map(|reading| reading.key).collect();
        for (key, outcome) in keys.into_iter().zip(outcomes) {
            if *outcome == StoreOutcome::Conflict {
                self.event(Event::Conflict { key });
            }
        }
        let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        let (stored, duplicates) = (count(StoreOutcome::Stored), count(StoreOutcome::Duplicate));
        self.event(Event::Stored { stored, duplicates });
        frames.into_iter().for_each(|frame| self.acknowledge(&frame));
        Ok(())
    }

    fn acknowledge(&mut self, frame: &Decoded) {
        let connection = frame.connection;
        self.settle(connection);
        if !self.connections.contains_key(&connection) || !frame.long_invoke_id.is_confirmed() {
            return;
        }
        let confirm = DataNotificationConfirm { long_invoke_id: frame.long_invoke_id }.to_bytes();
        if let Ok(wrapper) = WrapperFrame::new(frame.source, frame.destination, confirm) {
            self.outputs.push_back(Output::Acknowledge { connection, frame: wrapper.to_bytes() });
        }
    }

    fn store_failed(&mut self, now: Tick, batch: BatchId) -> Result<(), IngestError> {
        match self.storing.take() {
            Some((storing, frames)) if storing == batch => {
                frames.into_iter().rev().for_each(|frame| self.decoded.push_front(frame));
                self.store_again_at = Some(now + RETRY_DELAY);
                self.event(Event::StoreFailed);
                Ok(())
            }
            other => {
                self.storing = other;
                Err(IngestError::UnknownBatch)
            }
        }
    }
}

/// Whether a plain APDU answers a request: get-response, set-response, action-response.
fn is_response(plain: &[u8]) -> bool {
    matches!(plain.first(), Some(&(tag::GET_RESPONSE | tag::SET_RESPONSE | tag::ACTION_RESPONSE)))
}

const fn check_count(expected: usize, found: usize) -> Result<(), IngestError> {
    if expected == found { Ok(()) } else { Err(IngestError::Count { expected, found }) }
}
