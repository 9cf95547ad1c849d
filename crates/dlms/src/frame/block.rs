//! general-block-transfer: `E0 | control | block-number u16 | acknowledged u16 | length and data`.
//!
//! A whole APDU, protected or not, is cut into blocks, which are numbered from 1 in each direction. The sender streams
//! as many blocks as the receiver's window allows; the receiver acknowledges the last one that came in order, and the
//! sender goes on after that. How windows and acknowledgements are counted in detail could not be checked against the
//! standard; this form was written from the fact sheet.

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use gridseal_types::{Kind, Tick};

use crate::{
    apdu::tag::GENERAL_BLOCK_TRANSFER,
    wire::{DecodeError, Reader, Rule, Writer},
};

/// Largest window: 6 bits.
pub const WINDOW_MAX: u8 = 63;
/// Bytes around the data of a block of up to 65,535 bytes: tag, control, two numbers, length.
pub const BLOCK_OVERHEAD: usize = 9;

/// One block.
///
/// # Source
/// DLMS fact sheet, section 5.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GeneralBlock<'a> {
    /// Whether it is the last one of its direction.
    pub last: bool,
    /// Whether more blocks follow before an acknowledgement is due.
    pub streaming: bool,
    /// Blocks that the sender of this one takes in a row, 0 to 63.
    pub window: u8,
    /// Number of this block, from 1.
    pub number: u16,
    /// Last block that came in order from the other side, 0 for none.
    pub acknowledged: u16,
    /// Part of an APDU; empty in an acknowledgement.
    pub data: &'a [u8],
}

impl<'a> GeneralBlock<'a> {
    /// Reads a whole APDU.
    ///
    /// # Errors
    /// [`DecodeError`] with field, offset and rule.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let start = reader.clone();
        match reader.u8("apdu tag")? {
            GENERAL_BLOCK_TRANSFER => {}
            tag => return Err(start.fail("apdu tag", Rule::Tag { tag })),
        }
        let control = reader.u8("block-control")?;
        let (number, acknowledged) = (reader.u16("block-number")?, reader.u16("block-number-ack")?);
        let data = reader.prefixed("block-data")?;
        reader.finish("general-block-transfer")?;
        Ok(Self {
            last: control & 0x80 != 0,
            streaming: control & 0x40 != 0,
            window: control & WINDOW_MAX,
            number,
            acknowledged,
            data,
        })
    }

    /// The whole APDU.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        let mut writer = Writer::with_capacity(self.data.len().saturating_add(BLOCK_OVERHEAD));
        writer.u8(GENERAL_BLOCK_TRANSFER);
        writer.u8(flag(self.last, 0x80) | flag(self.streaming, 0x40) | (self.window & WINDOW_MAX));
        writer.u16(self.number);
        writer.u16(self.acknowledged);
        writer.prefixed(self.data);
        writer.into_bytes()
    }
}

/// Limits of one side.
#[derive(Debug, Clone, Copy)]
pub struct BlockSettings {
    /// Blocks that this side takes in a row, 1 to 63.
    pub window: u8,
    /// Largest APDU that is put together, bytes.
    pub apdu_size_max: usize,
    /// How long a receiver waits for the next block, and a sender for an acknowledgement.
    pub gap_timeout: Duration,
    /// How often either asks again without getting further.
    pub retry_count_max: u8,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self { window: 8, apdu_size_max: 65_535, gap_timeout: Duration::from_secs(10), retry_count_max: 5 }
    }
}

/// A transfer failed or cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The bytes are no block.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The APDU is larger than the limit, or has more blocks than there are numbers.
    #[error("apdu is larger than {limit} bytes")]
    TooLong {
        /// Limit, bytes.
        limit: usize,
    },
    /// The peer does not get further.
    #[error("transfer came to a halt")]
    Halted,
}

impl BlockError {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Decode(_) | Self::TooLong { .. } => Kind::Peer,
            Self::Halted => Kind::Transient,
        }
    }
}

#[derive(Debug, Default)]
struct Sending {
    apdu: Vec<u8>,
    block_size: usize,
    count: u16,
    /// Last block acknowledged.
    base: u16,
    /// Last block sent.
    sent: u16,
}

#[derive(Debug, Default)]
struct Receiving {
    data: Vec<u8>,
    /// Last block that came in order.
    number: u16,
    /// Blocks of this burst.
    burst: u8,
}

/// Both directions of one association. After each call poll [`BlockTransfer::poll`] until `None`.
#[derive(Debug)]
pub struct BlockTransfer {
    settings: BlockSettings,
    peer_window: u8,
    sending: Option<Sending>,
    receiving: Option<Receiving>,
    /// Own acknowledgements of this transfer, which are numbered like blocks.
    acknowledgements: u16,
    outputs: VecDeque<Vec<u8>>,
    deadline: Option<Tick>,
    retries: u8,
}

impl BlockTransfer {
    /// No transfer yet.
    #[must_use]
    pub const fn new(settings: BlockSettings) -> Self {
        Self {
            settings,
            peer_window: 1,
            sending: None,
            receiving: None,
            acknowledgements: 0,
            outputs: VecDeque::new(),
            deadline: None,
            retries: 0,
        }
    }

    /// Forgets every transfer.
    pub fn reset(&mut self) {
        (self.sending, self.receiving, self.deadline) = (None, None, None);
        (self.acknowledgements, self.retries) = (0, 0);
        self.outputs.clear();
    }

    /// Cuts an APDU into blocks of at most `block_size` bytes of data and sends the first window.
    ///
    /// # Errors
    /// [`BlockError::TooLong`] when there would be more than 65,535 blocks.
    pub fn send(&mut self, now: Tick, apdu: Vec<u8>, block_size: usize) -> Result<(), BlockError> {
        let block_size = block_size.max(1);
        let count = u16::try_from(apdu.len().div_ceil(block_size).max(1))
            .map_err(|_| BlockError::TooLong { limit: usize::from(u16::MAX).saturating_mul(block_size) })?;
        self.sending = Some(Sending { apdu, block_size, count, base: 0, sent: 0 });
        self.retries = 0;
        self.send_window(now);
        Ok(())
    }

    /// Takes one block; gives the whole APDU with the last one.
    ///
    /// # Errors
    /// [`BlockError::Decode`], with the state unchanged; [`BlockError::TooLong`], and [`BlockError::Halted`] when block
    /// after block gets no further, which end the transfer.
    pub fn received(&mut self, now: Tick, bytes: &[u8]) -> Result<Option<Vec<u8>>, BlockError> {
        let block = GeneralBlock::from_bytes(bytes)?;
        self.peer_window = block.window.max(1);
        self.acknowledged(now, &block);
        if block.data.is_empty() && !(block.last && self.receiving.is_some()) {
            return Ok(None);
        }
        let limit = self.settings.apdu_size_max;
        let window = self.settings.window.clamp(1, WINDOW_MAX);
        let receiving = self.receiving.get_or_insert_default();
        //= DLMS 5.7: blocks out of order or beyond the window are not taken, the last good one is acknowledged
        receiving.burst = receiving.burst.saturating_add(1);
        let is_next = block.number == receiving.number.saturating_add(1) && receiving.burst <= window;
        if is_next {
            if receiving.data.len().saturating_add(block.data.len()) > limit {
                self.receiving = None;
                self.deadline = None;
                return Err(BlockError::TooLong { limit });
            }
            receiving.data.extend_from_slice(block.data);
            receiving.number = block.number;
            self.retries = 0;
            if block.last {
                let whole = self.receiving.take().unwrap_or_default();
                self.deadline = None;
                self.acknowledgements = 0;
                return Ok(Some(whole.data));
            }
        }
        // Whoever repeats what is there would otherwise be listened to, and answered, for ever.
        let is_endless = receiving.burst == u8::MAX;
        let is_idle = !is_next && !block.streaming && self.retries >= self.settings.retry_count_max;
        if is_endless || is_idle {
            self.reset();
            return Err(BlockError::Halted);
        }
        if !block.streaming {
            self.retries = if is_next { 0 } else { self.retries.saturating_add(1) };
            self.acknowledge();
        }
        self.deadline = Some(now.after(self.settings.gap_timeout));
        Ok(None)
    }

    /// The next APDU to be transmitted.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        self.outputs.pop_front()
    }

    /// When to call [`BlockTransfer::timed_out`].
    #[must_use]
    pub const fn deadline(&self) -> Option<Tick> {
        self.deadline
    }

    /// Asks for what is missing, or repeats what was not acknowledged.
    ///
    /// # Errors
    /// [`BlockError::Halted`] after the last retry: the transfer has ended.
    pub fn timed_out(&mut self, now: Tick) -> Result<(), BlockError> {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return Ok(());
        }
        if self.retries >= self.settings.retry_count_max {
            self.reset();
            return Err(BlockError::Halted);
        }
        self.retries = self.retries.saturating_add(1);
        if self.receiving.is_some() {
            self.acknowledge();
            self.deadline = Some(now.after(self.settings.gap_timeout));
        } else {
            self.send_window(now);
        }
        Ok(())
    }

    /// The whole answer came: what was sent has arrived.
    pub fn answered(&mut self) {
        self.sending = None;
        self.deadline = None;
    }

    fn acknowledged(&mut self, now: Tick, block: &GeneralBlock<'_>) {
        let Some(sending) = self.sending.as_mut() else { return };
        // Numbers that were never sent, or are behind the last acknowledgement, say nothing.
        if block.acknowledged > sending.sent || block.acknowledged < sending.base {
            return;
        }
        let has_advanced = block.acknowledged > sending.base;
        sending.base = block.acknowledged;
        if sending.base == sending.count {
            self.sending = None;
            self.deadline = None;
        } else if block.data.is_empty() {
            if has_advanced {
                self.retries = 0;
            } else if self.retries >= self.settings.retry_count_max {
                // Repetition without progress ends: it would multiply what a forger sends.
                self.sending = None;
                self.deadline = None;
                return;
            } else {
                self.retries = self.retries.saturating_add(1);
            }
            self.send_window(now);
        }
    }

    fn send_window(&mut self, now: Tick) {
        let received = self.receiving.as_ref().map_or(0, |receiving| receiving.number);
        let Some(sending) = self.sending.as_mut() else { return };
        let end = sending.base.saturating_add(u16::from(self.peer_window)).min(sending.count);
        for number in sending.base.saturating_add(1)..=end {
            let index = usize::from(number.saturating_sub(1)).saturating_mul(sending.block_size);
            let rest = sending.apdu.get(index..).unwrap_or_default();
            let data = rest.get(..sending.block_size).unwrap_or(rest);
            let block = GeneralBlock {
                last: number == sending.count,
                streaming: number != end,
                window: self.settings.window.clamp(1, WINDOW_MAX),
                number,
                acknowledged: received,
                data,
            };
            self.outputs.push_back(block.to_bytes());
        }
        sending.sent = sending.sent.max(end);
        self.deadline = Some(now.after(self.settings.gap_timeout));
    }

    fn acknowledge(&mut self) {
        let Some(receiving) = self.receiving.as_mut() else { return };
        receiving.burst = 0;
        self.acknowledgements = self.acknowledgements.saturating_add(1);
        let acknowledged = receiving.number;
        let block = GeneralBlock {
            last: false,
            streaming: false,
            window: self.settings.window.clamp(1, WINDOW_MAX),
            number: self.acknowledgements,
            acknowledged,
            data: &[],
        };
        self.outputs.push_back(block.to_bytes());
    }
}

#[cfg(test)]
mod tests;
