//! The owner's config server: a blind relay in the DMZ. The head-end relays orders and results by the same machine.
//!
//! It checks size and envelope, queues sealed messages, hands them to the endpoint manager when that asks, and gives the
//! answers back. It holds no key of any device and opens nothing; killing it leaves no way inside.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::time::Duration;

use gridseal_trust::enrol::{
    order,
    relay::{RelayItem, RelayPull, RelayWork},
    session::{EVIDENCE_SIZE_MAX, Envelope, HELLO_SIZE_MAX, MESSAGE_SIZE_MAX, Step, encode_error, id_of},
};
use gridseal_types::{Code, Digest, Kid, N16, Tick};

use crate::limits::{Buckets, NAMES_MAX, SOURCES_MAX};

/// Most messages that wait for the endpoint manager.
pub const QUEUE_COUNT_MAX: usize = 4_096;
/// Most bytes that wait.
pub const QUEUE_SIZE_MAX: usize = 64 * 1024 * 1024;
/// Most answers that are kept for a device that asks again.
pub const ANSWERS_COUNT_MAX: usize = 4_096;
/// Work that was handed out and not answered is handed out again when the device repeats it after this time.
const HAND_OUT_AGAIN: Duration = Duration::from_secs(5);

/// A connection of a device that waits for its answer; a name the shell gives.
pub type Connection = u64;

/// What a device is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A message; an empty one when there is nothing to say, as to a result.
    Message(Vec<u8>),
    /// Not yet: repeat the same bytes.
    NotYet,
    /// Too much at the moment.
    Busy,
    /// This peer asks too often: come back after this time.
    TooMany(Duration),
    /// Larger than the kind of message allows.
    TooLarge,
}

/// What the shell must do: answer a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    /// Connection.
    pub connection: Connection,
    /// Answer.
    pub answer: Answer,
    /// Why it was refused here, for the log; the wire does not tell.
    pub refused: Option<Code>,
}

/// How many messages are taken in an hour.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From one source; repetitions of what is under way or answered do not count.
    pub source_per_hour: u32,
    /// C1 of one pseudonym from one source: somebody else's do not count, or he could lock the device out.
    pub pseudonym_per_hour: u32,
}

impl Limits {
    /// A source may be the gateway of a whole town's mobile network.
    pub const DEFAULT: Self = Self { source_per_hour: 72_000, pseudonym_per_hour: 24 };
}

/// Whether it is a message that devices send, of a size that it may have.
fn check(message: &[u8]) -> Result<(), Code> {
    let Ok(envelope) = Envelope::decode(message) else {
        return match order::Envelope::decode(message)? {
            order::Envelope::Poll { .. } | order::Envelope::Result { .. } => Ok(()),
            order::Envelope::Order { .. } => Err(Code::State),
        };
    };
    let size_max = match envelope.step() {
        Some(Step::HELLO) => HELLO_SIZE_MAX,
        Some(Step::EVIDENCE) => EVIDENCE_SIZE_MAX,
        Some(Step::RESPONSES | Step::INSTALLED) => MESSAGE_SIZE_MAX,
        _ => return Err(Code::State),
    };
    if message.len() > size_max { Err(Code::Size) } else { Ok(()) }
}

#[derive(Debug)]
struct Pending {
    digest: Digest,
    source: N16,
    message: Vec<u8>,
    connection: Option<Connection>,
    handed_out: Option<Tick>,
}

/// The relay.
#[derive(Debug)]
pub struct ConfigServer {
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    by_digest: BTreeMap<Digest, u64>,
    queue: VecDeque<u64>,
    queued_size: usize,
    answers: BTreeMap<Digest, Vec<u8>>,
    answers_order: VecDeque<Digest>,
    outputs: VecDeque<Output>,
    sources: Buckets<N16>,
    pseudonyms: Buckets<(Kid, N16)>,
}

impl Default for ConfigServer {
    fn default() -> Self {
        Self::new(0)
    }
}

impl ConfigServer {
    /// An empty relay. `first_id` makes work ids of a restarted server differ from those before.
    #[must_use]
    pub const fn new(first_id: u64) -> Self {
        Self::with_limits(first_id, Limits::DEFAULT)
    }

    /// As [`ConfigServer::new`], with limits of the operator's choice.
    #[must_use]
    pub const fn with_limits(first_id: u64, limits: Limits) -> Self {
        Self {
            next_id: first_id,
            pending: BTreeMap::new(),
            by_digest: BTreeMap::new(),
            queue: VecDeque::new(),
            queued_size: 0,
            answers: BTreeMap::new(),
            answers_order: VecDeque::new(),
            outputs: VecDeque::new(),
            sources: Buckets::new(limits.source_per_hour, SOURCES_MAX),
            pseudonyms: Buckets::new(limits.pseudonym_per_hour, NAMES_MAX),
        }
    }

    /// Next output. Drain after every call.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether work waits for the endpoint manager.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    fn answer(&mut self, connection: Connection, answer: Answer) {
        self.outputs.push_back(Output { connection, answer, refused: None });
    }

    fn refuse(&mut self, connection: Connection, answer: Answer, code: Code) {
        self.outputs.push_back(Output { connection, answer, refused: Some(code) });
    }

    /// By source, then by pseudonym, before anybody behind this server hears of it.
    fn admit(&mut self, now: Tick, source: N16, message: &[u8]) -> Result<(), Duration> {
        self.sources.take(now, source)?;
        match Envelope::decode(message) {
            Ok(Envelope::Hello { kid, .. }) => self.pseudonyms.take(now, (kid, source)),
            _ => Ok(()),
        }
    }

    /// A device sent a message.
    pub fn message(&mut self, now: Tick, connection: Connection, source: N16, message: Vec<u8>) {
        match check(&message) {
            Ok(()) => {}
            Err(Code::Size) => return self.refuse(connection, Answer::TooLarge, Code::Size),
            Err(code) => {
                let error = encode_error(&id_of(&message), Code::Refused, 0);
                return self.refuse(connection, Answer::Message(error), code);
            }
        }
        let digest = Digest(gridseal_crypto::sha256(&[&message]));
        if let Some(known) = self.answers.get(&digest).cloned() {
            return self.answer(connection, Answer::Message(known));
        }
        if let Some(&id) = self.by_digest.get(&digest) {
            return self.repeated(now, id, connection);
        }
        if let Err(wait) = self.admit(now, source, &message) {
            return self.refuse(connection, Answer::TooMany(wait), Code::Busy);
        }
        if self.pending.len() >= QUEUE_COUNT_MAX
            || self.queued_size.saturating_add(message.len()) > QUEUE_SIZE_MAX
        {
            return self.refuse(connection, Answer::Busy, Code::Busy);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.queued_size = self.queued_size.saturating_add(message.len());
        self.by_digest.insert(digest, id);
        let pending = Pending { digest, source, message, connection: Some(connection), handed_out: None };
        self.pending.insert(id, pending);
        self.queue.push_back(id);
    }

    /// The same bytes again while they are under way: the newer connection gets the answer.
    fn repeated(&mut self, now: Tick, id: u64, connection: Connection) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let older = pending.connection.replace(connection);
        if pending.handed_out.is_some_and(|at| now.since(at) >= HAND_OUT_AGAIN) {
            // Whoever took it is gone.
            pending.handed_out = None;
            self.queue.push_back(id);
        }
        if let Some(older) = older {
            self.answer(older, Answer::NotYet);
        }
    }

    /// A device's connection has waited long enough, or is gone. The work goes on.
    pub fn give_up(&mut self, connection: Connection) {
        let waiting = self.pending.values_mut().find(|pending| pending.connection == Some(connection));
        if let Some(pending) = waiting {
            pending.connection = None;
            self.answer(connection, Answer::NotYet);
        }
    }

    /// The endpoint manager brings answers and takes work.
    pub fn pull(&mut self, now: Tick, pull: RelayPull) -> RelayWork {
        for (id, reply) in pull.replies {
            self.replied(id, reply);
        }
        let most = usize::try_from(pull.most).unwrap_or(1);
        let mut work = Vec::new();
        while work.len() < most {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            pending.handed_out = Some(now);
            work.push(RelayItem { id, source: pending.source, message: pending.message.clone() });
        }
        RelayWork(work)
    }

    /// Another endpoint manager asks, the same one after a restart mostly: what was handed out and is not answered was lost
    /// with the one before. It is handed out again, oldest first; who was not gone after all answers it twice.
    pub fn taken_over(&mut self) {
        for (id, pending) in self.pending.iter_mut().rev() {
            if pending.handed_out.take().is_some() {
                self.queue.push_front(*id);
            }
        }
    }

    fn replied(&mut self, id: u64, reply: Option<Vec<u8>>) {
        let Some(pending) = self.pending.remove(&id) else { return };
        self.by_digest.remove(&pending.digest);
        self.queued_size = self.queued_size.saturating_sub(pending.message.len());
        let message = match reply {
            // An acknowledged result: the same bytes again ask whether it is still known.
            Some(reply) if reply.is_empty() => reply,
            Some(reply) => {
                self.remember(pending.digest, reply.clone());
                reply
            }
            // Refusals are not kept: the same bytes may be accepted later.
            None => encode_error(&id_of(&pending.message), Code::Refused, 0),
        };
        if let Some(connection) = pending.connection {
            self.answer(connection, Answer::Message(message));
        }
    }

    fn remember(&mut self, digest: Digest, reply: Vec<u8>) {
        if self.answers_order.len() >= ANSWERS_COUNT_MAX
            && let Some(oldest) = self.answers_order.pop_front()
        {
            self.answers.remove(&oldest);
        }
        if self.answers.insert(digest, reply).is_none() {
            self.answers_order.push_back(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn c3(fill: u8) -> Vec<u8> {
        let mut message = vec![0x84, 0x01, 0x03, 0x50];
        message.extend_from_slice(&[7; 16]);
        message.push(0x54);
        message.extend_from_slice(&[fill; 20]);
        message
    }

    fn answered(connection: Connection, answer: Answer) -> Output {
        Output { connection, answer, refused: None }
    }

    fn c1(kid: u8, m: u64) -> Vec<u8> {
        let mut message = vec![0x85, 0x01, 0x01, 0x50];
        message.extend_from_slice(&[kid; 16]);
        message.extend_from_slice(&[0x58, 32]);
        message.extend_from_slice(&[0; 24]);
        message.extend_from_slice(&m.to_be_bytes());
        message.push(0x54);
        message.extend_from_slice(&[9; 20]);
        message
    }

    fn drained(server: &mut ConfigServer) -> Vec<Output> {
        core::iter::from_fn(|| server.poll()).collect()
    }

    #[test]
    fn a_message_is_relayed_once_and_its_answer_repeated_for_the_same_bytes() {
        let mut server = ConfigServer::new(100);
        server.message(Tick(0), 1, N16([0; 16]), c3(1));
        server.message(Tick(1), 2, N16([0; 16]), c3(1));
        assert_eq!(drained(&mut server), [answered(1, Answer::NotYet)]);
        let work = server.pull(Tick(2), RelayPull { replies: vec![], most: 64 });
        assert_eq!(work.0.len(), 1);
        assert!(server.pull(Tick(2), RelayPull { replies: vec![], most: 64 }).0.is_empty());
        server.pull(Tick(3), RelayPull { replies: vec![(work.0[0].id, Some(vec![9]))], most: 1 });
        assert_eq!(drained(&mut server), [answered(2, Answer::Message(vec![9]))]);
        server.message(Tick(4), 3, N16([0; 16]), c3(1));
        assert_eq!(drained(&mut server), [answered(3, Answer::Message(vec![9]))]);
    }

    #[test]
    fn work_that_nobody_answered_is_handed_out_again_when_repeated() {
        let mut server = ConfigServer::new(0);
        server.message(Tick(0), 1, N16([0; 16]), c3(1));
        let first = server.pull(Tick(0), RelayPull { replies: vec![], most: 1 });
        server.message(Tick(1_000), 2, N16([0; 16]), c3(1));
        assert!(!server.has_work());
        server.message(Tick(6_000), 3, N16([0; 16]), c3(1));
        assert_eq!(server.pull(Tick(6_000), RelayPull { replies: vec![], most: 1 }), first);
    }

    #[test]
    fn onboarding_7_6_work_of_a_dead_endpoint_manager_goes_to_the_next_one_at_once() {
        let mut server = ConfigServer::new(0);
        server.message(Tick(0), 1, N16([0; 16]), c3(1));
        server.message(Tick(0), 2, N16([0; 16]), c3(2));
        let first = server.pull(Tick(0), RelayPull { replies: vec![], most: 64 });
        assert_eq!(first.0.len(), 2);
        assert!(!server.has_work());
        server.taken_over();
        assert_eq!(server.pull(Tick(1), RelayPull { replies: vec![], most: 64 }), first);
        // What is answered is not handed out again.
        server.pull(Tick(2), RelayPull { replies: vec![(first.0[0].id, Some(vec![9]))], most: 64 });
        server.taken_over();
        assert_eq!(server.pull(Tick(3), RelayPull { replies: vec![], most: 64 }).0, first.0[1..]);
        assert_eq!(drained(&mut server), [answered(1, Answer::Message(vec![9]))]);
    }

    #[test]
    fn what_is_no_message_of_a_device_is_refused_without_queueing() {
        let mut server = ConfigServer::new(0);
        let mut owner_message = c3(1);
        owner_message[2] = 4;
        for (connection, bad) in (0u64..).zip([vec![], vec![0xff; 30], owner_message, c3(1)[..30].to_vec()]) {
            server.message(Tick(0), connection, N16([0; 16]), bad);
        }
        let mut large = c3(1)[..20].to_vec();
        large[2] = 5;
        large.extend_from_slice(&[0x5a, 0, 1, 0x86, 0xa0]);
        large.extend_from_slice(&vec![0; 100_000]);
        server.message(Tick(0), 9, N16([0; 16]), large);
        let answers = drained(&mut server);
        assert_eq!(answers.len(), 5);
        assert!(answers[..4].iter().all(|output| matches!(output.answer, Answer::Message(_))));
        assert_eq!(answers[4].answer, Answer::TooLarge);
        assert!(!server.has_work());
    }

    #[test]
    fn onboarding_7_7_a_pseudonym_and_a_source_have_so_many_messages_in_an_hour() {
        let mut server = ConfigServer::with_limits(0, Limits { source_per_hour: 5, pseudonym_per_hour: 2 });
        let mut say = |now: u64, source: u8, message: Vec<u8>| {
            server.message(Tick(now), 1, N16([source; 16]), message);
            let refused = drained(&mut server).pop().and_then(|output| output.refused);
            let work = server.pull(Tick(now), RelayPull { replies: vec![], most: 64 });
            (refused, work.0.len())
        };
        let (taken, busy) = ((None, 1), (Some(Code::Busy), 0));
        assert_eq!((say(0, 1, c1(1, 1)), say(0, 1, c1(1, 2))), (taken, taken));
        assert_eq!(say(0, 1, c1(1, 3)), busy);
        assert_eq!(say(0, 2, c1(1, 3)), taken, "who floods a pseudonym does not lock its device out");
        assert_eq!((say(0, 1, c1(2, 1)), say(0, 1, c3(1))), (taken, taken), "another goes on");
        assert_eq!(say(0, 1, c3(2)), busy, "this source, whatever it asks");
        assert_eq!(say(0, 3, c3(2)), taken);
        assert_eq!(say(1_800_000, 3, c1(1, 4)), taken, "half an hour later");
    }

    #[test]
    fn a_full_queue_says_busy_and_memory_stays_bounded() {
        let limits = Limits { source_per_hour: u32::MAX, ..Limits::DEFAULT };
        let mut server = ConfigServer::with_limits(0, limits);
        for number in 0..QUEUE_COUNT_MAX + 1 {
            let mut message = c3(0);
            message[4..12].copy_from_slice(&(number as u64).to_be_bytes());
            server.message(Tick(0), number as u64, N16([0; 16]), message);
        }
        assert_eq!(drained(&mut server).pop().map(|output| output.answer), Some(Answer::Busy));
    }
}
