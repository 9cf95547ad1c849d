//! The way back: values to records, records to protected telegrams. What it makes is what a meter sends, byte for byte.

mod record;

pub use record::{RecordError, data_for, header_for};

use alloc::vec::Vec;

use gridseal_crypto::{
    Ticket,
    lmn::{BLOCK_SIZE, Direction, MeterKeyRef},
};

use super::{
    address::MeterAddress,
    afl::{Afl, Mac},
    crc,
    ell::Ell,
    frame::{Format, LINK_SIZE, Link, dress},
    open::mode_10_nonce,
    tpl::{Configuration, Tpl},
    wired::WiredFrame,
};

/// Filler, which also pads the last encrypted block.
const FILLER: u8 = 0x2F;
/// Check bytes in front of what modes 5 and 7 encrypt.
const CHECK_BYTES: [u8; 2] = [FILLER; 2];

/// A telegram in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telegram<'a> {
    /// Link header.
    pub link: Link,
    /// Extended link layer; with session encryption 1 the rest is encrypted.
    pub ell: Option<Ell>,
    /// Authentication layer; an authentication code in it is replaced by the one that is computed, of the type that
    /// the message control field has.
    pub afl: Option<Afl>,
    /// Transport layer; its configuration field says how the body is protected. Its numbers of blocks and bytes are
    /// set to what the body has.
    pub tpl: Tpl,
    /// Body in clear, without check bytes and padding.
    pub body: &'a [u8],
    /// Bytes at the end of the body that stay in clear (modes 5 and 7).
    pub clear_tail: usize,
}

/// A telegram cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A protected telegram needs a key.
    #[error("a telegram of this security mode needs a key")]
    NoKey,
    /// A protected telegram needs a counter that no telegram had before.
    #[error("a telegram of this security mode needs an unused counter")]
    NoCounter,
    /// The security mode is not made.
    #[error("{name} is not supported")]
    Mode {
        /// Name of the mode.
        name: &'static str,
    },
    /// The telegram does not fit into a frame.
    #[error("telegram does not fit into a frame")]
    TooLong,
}

impl EncodeError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoKey => "lmn.no_key",
            Self::NoCounter => "lmn.no_counter",
            Self::Mode { .. } => "lmn.mode_unsupported",
            Self::TooLong => "lmn.too_long",
        }
    }
}

impl Telegram<'_> {
    fn meter(&self) -> MeterAddress {
        self.tpl.address.unwrap_or(self.link.address)
    }

    /// The frame as sent. Modes 7 and 10 and the session of the extended link layer consume a ticket: for the former
    /// it is the message counter, for the latter minutes and session, so that no nonce is used twice.
    ///
    /// # Errors
    /// [`EncodeError`].
    ///
    /// # Source
    /// EN 13757-4 and -7; vectors T1 to T8 of the local network fact sheet.
    pub fn encode(
        &self,
        format: Format,
        key: Option<MeterKeyRef<'_>>,
        ticket: Option<Ticket>,
    ) -> Result<Vec<u8>, EncodeError> {
        let mut ticket = ticket;
        let mut frame = Vec::with_capacity(super::frame::FRAME_SIZE_MAX);
        frame.extend_from_slice(&[0, self.link.control]);
        frame.extend_from_slice(&self.link.address.0);
        debug_assert_eq!(frame.len(), LINK_SIZE);
        let Some(mut ell) = self.ell else {
            frame.extend(self.message(key, ticket)?);
            return dress(&frame, format).ok_or(EncodeError::TooLong);
        };
        let is_encrypted = ell.is_encrypted();
        if let (true, Some(session)) = (is_encrypted, &mut ell.session) {
            //= LMN 6: no counter block is used twice
            let value = ticket.take().ok_or(EncodeError::NoCounter)?.value();
            if value >> 29 != 0 {
                return Err(EncodeError::NoCounter);
            }
            session.0 = (session.0 & 0xE000_0000) | value;
        }
        if is_encrypted && ell.ci == 0x8F {
            return Err(EncodeError::Mode { name: "encryption with two addresses (CI 8F)" });
        }
        ell.encode(&mut frame);
        let message = self.message(key, ticket)?;
        if ell.session.is_none() {
            frame.extend(message);
            return dress(&frame, format).ok_or(EncodeError::TooLong);
        }
        let at = frame.len();
        frame.extend_from_slice(&crc::crc(&message).to_le_bytes());
        frame.extend(message);
        if is_encrypted {
            let payload = frame.get_mut(at..).unwrap_or_default();
            ell.apply(self.link.address, key.ok_or(EncodeError::NoKey)?, payload);
        }
        dress(&frame, format).ok_or(EncodeError::TooLong)
    }

    /// The wired frame as sent, from the transport layer on.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode_wired(
        &self,
        control: u8,
        address: u8,
        key: Option<MeterKeyRef<'_>>,
        ticket: Option<Ticket>,
    ) -> Result<Vec<u8>, EncodeError> {
        let payload = self.message(key, ticket)?;
        WiredFrame::Long { control, address, payload: &payload }.encode().ok_or(EncodeError::TooLong)
    }

    /// Authentication and transport layer with the body, protected.
    fn message(&self, key: Option<MeterKeyRef<'_>>, ticket: Option<Ticket>) -> Result<Vec<u8>, EncodeError> {
        let mut tpl = self.tpl;
        let mut afl = self.afl;
        let configuration = tpl.fields.map(|fields| fields.configuration).unwrap_or_default();
        let mode = configuration.mode();
        let is_authenticated = afl.is_some_and(|afl| afl.authentication() != 0);
        let counter = match (mode, is_authenticated, ticket) {
            (7 | 10, _, ticket) | (_, true, ticket) => {
                let value = ticket.ok_or(EncodeError::NoCounter)?.value();
                place_counter(&mut tpl, &mut afl, value);
                value
            }
            _ => 0,
        };
        let mut out = Vec::new();
        match mode {
            0 => {
                tpl.encode(&mut out);
                out.extend_from_slice(self.body);
            }
            5 | 7 => self.blocks(&mut tpl, &mut out, key, counter)?,
            10 => self.ccm(&mut tpl, &mut out, key, counter)?,
            other => return Err(EncodeError::Mode { name: Configuration::mode_name(other) }),
        }
        let Some(mut afl) = afl else { return Ok(out) };
        if is_authenticated {
            let keys =
                key.ok_or(EncodeError::NoKey)?.derive(Direction::FromMeter, counter, self.meter().id());
            let (covered, size) = afl.covered();
            let mac = keys.mac(&[covered.get(..size).unwrap_or_default(), &out]);
            afl.mac = Some(Mac::new(mac.get(..afl.mac_size()).unwrap_or_default()));
        }
        let mut whole = Vec::new();
        afl.encode(&mut whole);
        whole.append(&mut out);
        Ok(whole)
    }

    /// Modes 5 and 7: check bytes, body, padding; the tail in clear.
    fn blocks(
        &self,
        tpl: &mut Tpl,
        out: &mut Vec<u8>,
        key: Option<MeterKeyRef<'_>>,
        counter: u32,
    ) -> Result<(), EncodeError> {
        let split = self.body.len().saturating_sub(self.clear_tail);
        let (covered, tail) = self.body.split_at_checked(split).ok_or(EncodeError::TooLong)?;
        let mut text = CHECK_BYTES.to_vec();
        text.extend_from_slice(covered);
        text.resize(text.len().next_multiple_of(BLOCK_SIZE), FILLER);
        let count = u16::try_from(text.len().div_ceil(BLOCK_SIZE)).unwrap_or(u16::MAX);
        if count > 15 {
            return Err(EncodeError::TooLong);
        }
        let Some(fields) = &mut tpl.fields else { return Err(EncodeError::TooLong) };
        fields.configuration.cf = (fields.configuration.cf & !0x00F0) | (count << 4);
        let (mode, access) = (fields.configuration.mode(), fields.access);
        let key = key.ok_or(EncodeError::NoKey)?;
        if mode == 5 {
            let [a, b, c, d, e, f, g, h] = self.meter().0;
            let n = access;
            key.cbc_encrypt(&[a, b, c, d, e, f, g, h, n, n, n, n, n, n, n, n], &mut text);
        } else {
            key.derive(Direction::FromMeter, counter, self.meter().id()).cbc_encrypt(&mut text);
        }
        tpl.encode(out);
        out.append(&mut text);
        out.extend_from_slice(tail);
        Ok(())
    }

    /// Mode 10: body and tag.
    fn ccm(
        &self,
        tpl: &mut Tpl,
        out: &mut Vec<u8>,
        key: Option<MeterKeyRef<'_>>,
        counter: u32,
    ) -> Result<(), EncodeError> {
        let is_verified = tpl.address.is_none()
            && tpl.fields.is_some_and(|fields| fields.configuration.key_version.is_none());
        if !is_verified {
            return Err(EncodeError::Mode { name: "mode 10 with a long header or a key version" });
        }
        if let Some(fields) = &mut tpl.fields
            && fields.configuration.byte_count() != 0xFF
        {
            let count = u8::try_from(self.body.len()).ok().filter(|count| *count < 0xFF);
            let count = u16::from(count.ok_or(EncodeError::TooLong)?);
            fields.configuration.cf = (fields.configuration.cf & 0xFF00) | count;
        }
        tpl.encode(out);
        let keys = key.ok_or(EncodeError::NoKey)?.derive(Direction::FromMeter, counter, self.meter().id());
        let mut text = self.body.to_vec();
        let aad = out.get(..super::open::MODE_10_AAD_SIZE).ok_or(EncodeError::TooLong)?;
        let tag = keys.ccm_seal(&mode_10_nonce(self.meter(), counter), aad, &mut text);
        let tag = tag.ok_or(EncodeError::TooLong)?;
        out.append(&mut text);
        out.extend_from_slice(&tag);
        Ok(())
    }
}

/// Puts the counter where the telegram has a place for it.
fn place_counter(tpl: &mut Tpl, afl: &mut Option<Afl>, value: u32) {
    if let Some(fields) = &mut tpl.fields
        && let Some(mcr) = &mut fields.configuration.mcr
    {
        *mcr = value;
    }
    if let Some(afl) = afl
        && let Some(mcr) = &mut afl.mcr
    {
        *mcr = value;
    }
}
