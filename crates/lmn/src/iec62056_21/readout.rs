//! The asking side of mode C: sign-on at 300 baud, choice of a faster rate, data with a check character.
//!
//! ```text
//! client                                             meter
//!   Baud(300), Transmit  /? address ! CR LF  ------>
//!                  <------  / XXX Z ident CR LF            Z names a rate
//!   a pause, Transmit  ACK 0 Z 0 CR LF       ------>
//!   Baud(Z)        <------  STX lines ! CR LF ETX BCC
//! ```

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use gridseal_types::{Kind, Tick};

use super::{Identification, LINE_SIZE_MAX, MESSAGE_SIZE_MAX, Message, acknowledge, sign_on};
use crate::wire::DecodeError;

/// Longest wait for a meter's first character, and between two.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the choice of a rate: a meter needs it to turn from sending to receiving.
pub const REACTION_TIME: Duration = Duration::from_millis(200);
/// Longest readout. The longest message takes nine minutes at 300 baud.
pub const READOUT_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest address of a meter, bytes.
pub const ADDRESS_SIZE_MAX: usize = 32;

const STX: u8 = 0x02;
const ETX: u8 = 0x03;

/// What happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// Begin.
    Start,
    /// The last bit of the last [`Output::Transmit`] has left.
    Sent,
    /// Characters from the meter, without parity bits.
    Bytes(&'a [u8]),
    /// A character with wrong parity came.
    Damaged,
    /// The deadline has passed.
    Timeout,
}

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Set the line to this rate, bits a second, with seven bits and even parity.
    Baud(u32),
    /// Send, then tell [`Input::Sent`].
    Transmit(Vec<u8>),
    /// The meter has said who it is: its line, without line end. [`Identification::parse`] reads it.
    Identified(Vec<u8>),
    /// Identification and data, checked. [`Message::parse`] reads it. Nothing follows.
    Message(Vec<u8>),
}

/// Why a readout has failed. It stays failed: another attempt is another [`Readout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadoutError {
    /// The address is too long or not printable.
    #[error("an address is at most {ADDRESS_SIZE_MAX} printable characters, without ! and /")]
    Address,
    /// The meter did not answer, or stopped in the middle.
    #[error("no character within the time allowed, while waiting for {awaited}")]
    Silent {
        /// What was to come.
        awaited: &'static str,
    },
    /// A character with wrong parity.
    #[error("a damaged character in {within}")]
    Damaged {
        /// Part of the readout.
        within: &'static str,
    },
    /// The meter names no rate of mode C.
    #[error("rate character {found:#04x} is not of mode C (0 to 6)")]
    NotModeC {
        /// Character found.
        found: u8,
    },
    /// More characters than a readout may have.
    #[error("{part} is longer than {limit} characters")]
    TooLong {
        /// Part of the readout.
        part: &'static str,
        /// Limit, characters.
        limit: usize,
    },
    /// Identification or data are not what they should be; offsets count from the `/`.
    #[error("{0}")]
    Malformed(DecodeError),
    /// An input that this state does not take.
    #[error("this input does not fit the state of the readout")]
    Unexpected,
}

impl ReadoutError {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Address => Kind::Local,
            Self::Silent { .. } | Self::Damaged { .. } => Kind::Transient,
            Self::NotModeC { .. } | Self::TooLong { .. } | Self::Malformed(_) => Kind::Peer,
            Self::Unexpected => Kind::Bug,
        }
    }

    /// Stable code, such as `lmn.readout.silent`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Address => "lmn.readout.address",
            Self::Silent { .. } => "lmn.readout.silent",
            Self::Damaged { .. } => "lmn.readout.damaged",
            Self::NotModeC { .. } => "lmn.readout.mode",
            Self::TooLong { .. } => "lmn.readout.too_long",
            Self::Malformed(error) => error.code(),
            Self::Unexpected => "lmn.readout.unexpected",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Asking,
    Identification,
    Pausing { rate: u32, character: u8 },
    Choosing { rate: u32 },
    Data { from: usize },
    Done,
    Failed(ReadoutError),
}

/// One readout of one meter.
///
/// # Source
/// IEC 62056-21, mode C data readout; LMN fact sheet, section 10. Times are ours, in the range of the standard's.
#[derive(Debug)]
pub struct Readout {
    address: Vec<u8>,
    state: State,
    /// The identification line with its end, then the data.
    received: Vec<u8>,
    outputs: VecDeque<Output>,
    next: Option<Tick>,
    end: Option<Tick>,
}

impl Readout {
    /// A readout of the meter with this address; an empty one is for whichever meter is there.
    ///
    /// # Errors
    /// [`ReadoutError::Address`].
    pub fn new(address: &[u8]) -> Result<Self, ReadoutError> {
        let is_fit = |byte: &u8| matches!(byte, 0x20..=0x7E) && !matches!(byte, b'!' | b'/');
        if address.len() > ADDRESS_SIZE_MAX || !address.iter().all(is_fit) {
            return Err(ReadoutError::Address);
        }
        Ok(Self {
            address: address.to_vec(),
            state: State::Idle,
            received: Vec::new(),
            outputs: VecDeque::new(),
            next: None,
            end: None,
        })
    }

    /// What to do next, until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to tell [`Input::Timeout`] if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        match (self.next, self.end) {
            (Some(next), Some(end)) => Some(next.min(end)),
            (next, _) => next,
        }
    }

    /// Whether the message has been given out.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes one input.
    ///
    /// # Errors
    /// [`ReadoutError`]; the same one for every further input.
    pub fn handle(&mut self, now: Tick, input: Input<'_>) -> Result<(), ReadoutError> {
        let next = match (self.state, input) {
            (State::Failed(error), _) => Err(error),
            (State::Done, Input::Bytes(_) | Input::Damaged) => Ok(State::Done),
            _ if self.end.is_some_and(|end| now >= end) => {
                Err(ReadoutError::Silent { awaited: "the end of the readout" })
            }
            (State::Idle, Input::Start) => {
                self.end = Some(now.after(READOUT_TIMEOUT));
                self.outputs.push_back(Output::Baud(300));
                self.outputs.push_back(Output::Transmit(sign_on(&self.address)));
                Ok(State::Asking)
            }
            (State::Asking, Input::Sent) => Ok(self.wait(now, ANSWER_TIMEOUT, State::Identification)),
            // The head may hand on what it sends itself before it says that it has.
            (State::Asking | State::Choosing { .. }, Input::Bytes(_) | Input::Damaged) => Ok(self.state),
            (State::Identification, Input::Bytes(bytes)) => self.identification(now, bytes),
            (State::Pausing { .. }, Input::Bytes(_) | Input::Damaged) => Ok(self.state),
            (State::Pausing { rate, character }, Input::Timeout) => {
                self.next = None;
                self.outputs.push_back(Output::Transmit(acknowledge(character).to_vec()));
                Ok(State::Choosing { rate })
            }
            (State::Choosing { rate }, Input::Sent) => {
                self.outputs.push_back(Output::Baud(rate));
                Ok(self.wait(now, ANSWER_TIMEOUT, State::Data { from: self.received.len() }))
            }
            (State::Data { from }, Input::Bytes(bytes)) => self.data(now, from, bytes),
            (State::Identification, Input::Timeout) => {
                Err(ReadoutError::Silent { awaited: "the identification" })
            }
            (State::Data { .. }, Input::Timeout) => Err(ReadoutError::Silent { awaited: "the data" }),
            // What a change of rate looks like before the block begins is no damage to the block.
            (State::Identification, Input::Damaged) if self.received.is_empty() => Ok(self.state),
            (State::Data { from }, Input::Damaged) if self.received.len() == from => Ok(self.state),
            (State::Identification, Input::Damaged) => {
                Err(ReadoutError::Damaged { within: "the identification" })
            }
            (State::Data { .. }, Input::Damaged) => Err(ReadoutError::Damaged { within: "the data" }),
            _ => Err(ReadoutError::Unexpected),
        };
        match next {
            Ok(state) => {
                self.state = state;
                Ok(())
            }
            Err(error) => {
                self.state = State::Failed(error);
                self.outputs.clear();
                self.received = Vec::new();
                (self.next, self.end) = (None, None);
                Err(error)
            }
        }
    }

    fn wait(&mut self, now: Tick, time: Duration, state: State) -> State {
        self.next = Some(now.after(time));
        state
    }

    fn identification(&mut self, now: Tick, bytes: &[u8]) -> Result<State, ReadoutError> {
        for byte in bytes {
            if *byte == b'/' {
                self.received.clear();
            } else if self.received.is_empty() {
                continue;
            }
            self.received.push(*byte);
            if self.received.len() > LINE_SIZE_MAX {
                return Err(ReadoutError::TooLong { part: "the identification", limit: LINE_SIZE_MAX });
            }
            if *byte != b'\n' {
                continue;
            }
            if self.received.starts_with(b"/?") {
                // Our own request, thrown back by the head.
                self.received.clear();
                continue;
            }
            return self.identified(now);
        }
        Ok(self.wait(now, ANSWER_TIMEOUT, State::Identification))
    }

    fn identified(&mut self, now: Tick) -> Result<State, ReadoutError> {
        let line = self.received.trim_ascii_end();
        let identification = Identification::parse(line).map_err(ReadoutError::Malformed)?;
        let character = identification.baud;
        let rate = identification.baud_rate().ok_or(ReadoutError::NotModeC { found: character })?;
        self.outputs.push_back(Output::Identified(line.to_vec()));
        Ok(self.wait(now, REACTION_TIME, State::Pausing { rate, character }))
    }

    fn data(&mut self, now: Tick, from: usize, bytes: &[u8]) -> Result<State, ReadoutError> {
        for byte in bytes {
            // What comes before the block is the change of rate, and our own choice thrown back.
            if self.received.len() == from && *byte != STX {
                continue;
            }
            let is_check = self.received.len() > from && self.received.last() == Some(&ETX);
            self.received.push(*byte);
            if is_check {
                let message = core::mem::take(&mut self.received);
                Message::parse(&message).map_err(ReadoutError::Malformed)?;
                self.outputs.push_back(Output::Message(message));
                (self.next, self.end) = (None, None);
                return Ok(State::Done);
            }
            if self.received.len() > MESSAGE_SIZE_MAX {
                return Err(ReadoutError::TooLong { part: "the message", limit: MESSAGE_SIZE_MAX });
            }
        }
        Ok(self.wait(now, ANSWER_TIMEOUT, State::Data { from }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &[u8] = b"\x021.8.0(000123.4*kWh)\r\n!\r\n\x03";

    fn block() -> Vec<u8> {
        let bcc = BLOCK[1..].iter().fold(0, |sum, byte| sum ^ byte);
        [BLOCK, &[bcc]].concat()
    }

    fn drain(readout: &mut Readout) -> Vec<Output> {
        core::iter::from_fn(|| readout.poll()).collect()
    }

    /// A readout that waits for its identification.
    fn asked() -> Readout {
        let mut readout = Readout::new(b"").unwrap();
        readout.handle(Tick(0), Input::Start).unwrap();
        assert_eq!(drain(&mut readout), [Output::Baud(300), Output::Transmit(b"/?!\r\n".to_vec())]);
        readout.handle(Tick(200), Input::Sent).unwrap();
        readout
    }

    /// A readout that waits for its data at 4,800 baud.
    fn chosen() -> Readout {
        let mut readout = asked();
        readout.handle(Tick(300), Input::Bytes(b"/ACE4k260V01.18\r\n")).unwrap();
        assert_eq!(drain(&mut readout), [Output::Identified(b"/ACE4k260V01.18".to_vec())]);
        readout.handle(Tick(500), Input::Timeout).unwrap();
        assert_eq!(drain(&mut readout), [Output::Transmit(b"\x06040\r\n".to_vec())]);
        readout.handle(Tick(700), Input::Sent).unwrap();
        assert_eq!(drain(&mut readout), [Output::Baud(4_800)]);
        readout
    }

    #[test]
    fn a_meter_is_read_out_at_the_rate_it_offers() {
        let mut readout = chosen();
        for byte in block() {
            assert!(!readout.is_done());
            readout.handle(Tick(800), Input::Bytes(&[byte])).unwrap();
        }
        let [Output::Message(message)] = &drain(&mut readout)[..] else { panic!("one message") };
        let message = Message::parse(message).unwrap();
        assert_eq!(message.identification.unwrap().manufacturer, *b"ACE");
        assert!(message.is_checked);
        assert_eq!(message.items[0].value, b"000123.4");
        assert!(readout.is_done() && readout.deadline().is_none());
    }

    #[test]
    fn what_the_head_throws_back_is_not_taken_for_the_meter() {
        let mut readout = asked();
        readout.handle(Tick(250), Input::Bytes(b"\x00/?!\r\n/ACE5x\r\n")).unwrap();
        assert_eq!(drain(&mut readout), [Output::Identified(b"/ACE5x".to_vec())]);
        readout.handle(Tick(500), Input::Timeout).unwrap();
        readout.handle(Tick(600), Input::Sent).unwrap();
        readout.handle(Tick(700), Input::Bytes(b"\x06050\r\n")).unwrap();
        readout.handle(Tick(700), Input::Bytes(&block())).unwrap();
        assert!(readout.is_done());
    }

    #[test]
    fn the_choice_waits_for_the_meter_to_turn_round() {
        let mut readout = asked();
        readout.handle(Tick(1_000), Input::Bytes(b"/ACE5x\r\n")).unwrap();
        drain(&mut readout);
        assert_eq!(readout.deadline(), Some(Tick(1_200)));
        assert_eq!(readout.poll(), None);
    }

    #[test]
    fn silence_fails_once_and_stays_failed() {
        let mut readout = asked();
        assert_eq!(readout.deadline(), Some(Tick(2_200)));
        let error = readout.handle(Tick(2_200), Input::Timeout).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("lmn.readout.silent", Kind::Transient));
        assert_eq!(readout.handle(Tick(2_300), Input::Bytes(b"/ACE5x\r\n")), Err(error));
        assert_eq!((readout.poll(), readout.deadline()), (None, None));
        let mut readout = chosen();
        readout.handle(Tick(800), Input::Bytes(&BLOCK[..9])).unwrap();
        assert_eq!(readout.deadline(), Some(Tick(2_800)), "each character buys time for the next");
        let error = readout.handle(Tick(2_800), Input::Timeout).unwrap_err();
        assert_eq!(error, ReadoutError::Silent { awaited: "the data" });
    }

    #[test]
    fn characters_that_trickle_without_end_are_ended() {
        let mut readout = asked();
        let limit = u64::try_from(READOUT_TIMEOUT.as_millis()).unwrap();
        for tick in (1_000..limit).step_by(1_000) {
            readout.handle(Tick(tick), Input::Bytes(b"x")).unwrap();
        }
        assert_eq!(readout.deadline(), Some(Tick(limit)));
        let error = readout.handle(Tick(limit), Input::Bytes(b"x")).unwrap_err();
        assert_eq!(error, ReadoutError::Silent { awaited: "the end of the readout" });
    }

    #[test]
    fn every_flipped_bit_of_the_data_is_noticed() {
        let block = block();
        for bit in 0..block.len() * 8 {
            if bit % 8 == 7 {
                continue;
            }
            let mut changed = block.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut readout = chosen();
            let told = readout.handle(Tick(800), Input::Bytes(&changed));
            assert!(told.is_err() || !readout.is_done(), "bit {bit}");
            assert!(!drain(&mut readout).iter().any(|output| matches!(output, Output::Message(_))));
        }
    }

    #[test]
    fn what_is_not_mode_c_or_has_no_end_is_refused() {
        let told = |bytes: &[u8]| asked().handle(Tick(300), Input::Bytes(bytes)).unwrap_err();
        assert_eq!(told(b"/ACEDx\r\n"), ReadoutError::NotModeC { found: b'D' });
        assert_eq!(told(b"/A1E5x\r\n").code(), "lmn.range");
        assert_eq!(told(&[&b"/ACE5"[..], &[b'x'; LINE_SIZE_MAX]].concat()).code(), "lmn.readout.too_long");
        let mut endless = alloc::vec![STX];
        endless.resize(MESSAGE_SIZE_MAX + 2, b'1');
        let error = chosen().handle(Tick(800), Input::Bytes(&endless)).unwrap_err();
        assert_eq!(error.code(), "lmn.readout.too_long");
    }

    #[test]
    fn a_damaged_character_ends_the_readout_only_within_what_counts() {
        let mut readout = asked();
        readout.handle(Tick(250), Input::Damaged).unwrap();
        readout.handle(Tick(250), Input::Bytes(b"/AC")).unwrap();
        let error = readout.handle(Tick(250), Input::Damaged).unwrap_err();
        assert_eq!(error, ReadoutError::Damaged { within: "the identification" });
        let mut readout = chosen();
        readout.handle(Tick(800), Input::Damaged).unwrap();
        readout.handle(Tick(800), Input::Bytes(&BLOCK[..5])).unwrap();
        let error = readout.handle(Tick(800), Input::Damaged).unwrap_err();
        assert_eq!(error, ReadoutError::Damaged { within: "the data" });
    }

    #[test]
    fn an_address_cannot_carry_more_than_an_address() {
        assert!(Readout::new(b"00112233").is_ok());
        for wrong in [&b"1!\r\n"[..], b"a/b", b"\x06", &[b'1'; ADDRESS_SIZE_MAX + 1]] {
            assert_eq!(Readout::new(wrong).unwrap_err(), ReadoutError::Address);
        }
    }
}
