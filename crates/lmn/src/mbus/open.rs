//! A telegram from bytes to records: layers, keys, checks, decryption.

mod error;
mod security;

pub use error::OpenError;
pub(super) use security::{MODE_10_AAD_SIZE, mode_10_nonce};

use alloc::vec::Vec;

use gridseal_crypto::{Key, lmn::MeterKeyRef, role::MeterLmn};
use gridseal_types::Tick;

use super::{
    address::MeterAddress,
    afl::{self, Afl, Reassembler},
    compact::FormatCache,
    ell::{self, Ell},
    frame::{self, Format, Link},
    record::{RecordOptions, Records},
    registry::LastMessage,
    tpl::{Content, Tpl},
    wired::{self, WiredFrame},
};
use crate::wire::{DecodeError, Reader, Rule};

/// Security profile that a meter is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// OMS profile A: mode 5.
    A,
    /// OMS profile B: mode 7 with AES-CMAC.
    B,
    /// OMS profile D: mode 10.
    D,
    /// Encryption in the extended link layer.
    Ell,
}

impl Profile {
    /// Name as in a file of keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::D => "D",
            Self::Ell => "ELL",
        }
    }

    /// The profile of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::A, Self::B, Self::D, Self::Ell].into_iter().find(|profile| profile.name() == name)
    }
}

/// What is known about a meter.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its key.
    pub key: MeterKeyRef<'a>,
    /// The only profile that is accepted from it.
    pub profile: Option<Profile>,
    /// Whether it is configured, so that clear text from it is a downgrade.
    pub is_configured: bool,
    /// The last message accepted from it.
    pub last: Option<LastMessage>,
}

/// Where keys are found.
pub trait KeySource {
    /// What is known about a meter.
    fn find(&self, meter: MeterAddress) -> Option<Known<'_>>;
}

/// No key at all.
impl KeySource for () {
    fn find(&self, _: MeterAddress) -> Option<Known<'_>> {
        None
    }
}

/// One key for whichever meter sends: for a person who tries one.
#[derive(Debug)]
pub struct SingleKey(pub Key<MeterLmn, 16>);

impl KeySource for SingleKey {
    fn find(&self, _: MeterAddress) -> Option<Known<'_>> {
        Some(Known { key: (&self.0).into(), profile: None, is_configured: false, last: None })
    }
}

/// Deviations of real meters. All are off by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quirks {
    /// Mode 5 with no encrypted blocks announced: everything is encrypted.
    pub mode5_zero_means_all: bool,
    /// Mode 5 without the check bytes 2F 2F. Nothing then tells a wrong key.
    pub mode5_no_check_bytes: bool,
    /// A unit in words stands before the VIFE.
    pub text_before_extensions: bool,
}

/// How telegrams are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Format of the frame, where it is known.
    pub format: Option<Format>,
    /// The frame is one of the wired bus.
    pub is_wired: bool,
    /// The body is already in clear, as captures are often published. Nothing is then authenticated.
    pub plain_body: bool,
    /// Keep formats of full frames, for compact frames that follow.
    pub learn_formats: bool,
    /// Deviations.
    pub quirks: Quirks,
}

/// What a telegram says before anything in it is believed. Filled as far as reading came, also when it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Format of the frame.
    pub format: Option<Format>,
    /// Link header.
    pub link: Option<Link>,
    /// Control field and primary address of a wired frame.
    pub wired: Option<(u8, u8)>,
    /// Extended link layer.
    pub ell: Option<Ell>,
    /// Authentication and fragmentation layer.
    pub afl: Option<Afl>,
    /// Transport layer.
    pub tpl: Option<Tpl>,
    /// The meter: address of the transport layer, else of the link layer.
    pub meter: Option<MeterAddress>,
}

impl Header {
    /// Message counter: of the transport layer, else of the authentication layer.
    #[must_use]
    pub fn counter(&self) -> Option<u32> {
        let in_tpl = self.tpl.and_then(|tpl| tpl.fields).and_then(|fields| fields.configuration.mcr);
        in_tpl.or_else(|| self.afl.and_then(|afl| afl.mcr))
    }
}

/// Whether it is proven who sent a telegram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authenticity {
    /// In clear: anybody can have sent it.
    None,
    /// Encrypted, or once encrypted, without a proof.
    Unproven,
    /// An authentication code over the whole message was verified.
    Verified,
}

/// The counter of a verified message: to be made durable before its values are released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Meter.
    pub meter: MeterAddress,
    /// Key id.
    pub key_id: u8,
    /// Key version.
    pub key_version: u8,
    /// Value.
    pub value: u32,
    /// First eight bytes of the authentication code.
    pub tag: [u8; 8],
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Part of a message whose other fragments are still to come.
    Fragment,
    /// A wired frame without data.
    Short,
    /// What the transport layer says.
    Content(Content),
}

/// Body of a telegram, in clear.
#[derive(Debug, Clone, Copy)]
pub struct Body<'s> {
    /// What it is.
    pub kind: BodyKind,
    /// Its bytes; records of a compact frame are expanded.
    pub bytes: &'s [u8],
    /// Offset of the bytes in the frame without checksums, or in the message put together from fragments; 0 for a
    /// compact frame.
    pub offset: usize,
}

impl<'s> Body<'s> {
    /// The records, for a body that has some.
    #[must_use]
    pub fn records(&self, meter: Option<MeterAddress>, quirks: Quirks) -> Option<Records<'s>> {
        match self.kind {
            BodyKind::Content(Content::Full | Content::Compact | Content::Command) => {
                let medium = meter.map_or(RecordOptions::default().medium, MeterAddress::medium);
                let options = RecordOptions { medium, text_before_extensions: quirks.text_before_extensions };
                Some(Records::new(self.bytes, self.offset, options))
            }
            _ => None,
        }
    }
}

/// An opened telegram.
#[derive(Debug, Clone, Copy)]
pub struct Opened<'s> {
    /// Whether it is proven who sent it.
    pub authenticity: Authenticity,
    /// Whether the whole address of the meter is proven. With a short header mode 7 proves the identification alone:
    /// manufacturer, version and medium are proven only for a meter that is configured with them.
    pub address_is_proven: bool,
    /// Counter to be made durable before the values are released; only of verified messages.
    pub counter: Option<Counter>,
    /// Body.
    pub body: Body<'s>,
    /// Plain bytes that the encryption does not cover, at the end of the body.
    pub clear_tail: usize,
}

/// Opens telegrams, one after the other, in buffers of its own.
#[derive(Debug, Default)]
pub struct Opener {
    frame: Vec<u8>,
    reassembler: Reassembler,
    formats: FormatCache,
}

impl Opener {
    /// Formats of compact frames.
    pub const fn formats_mut(&mut self) -> &mut FormatCache {
        &mut self.formats
    }

    /// Messages in re-assembly.
    pub const fn reassembler_mut(&mut self) -> &mut Reassembler {
        &mut self.reassembler
    }

    /// Opens one telegram. `header` says what was read of it, whatever comes of it.
    ///
    /// # Errors
    /// [`OpenError`]: nothing of the body is released.
    ///
    /// # Source
    /// EN 13757-4 and -7, OMS Specification volume 2; local network fact sheet, sections 1 to 6.
    #[expect(clippy::too_many_arguments, reason = "what is known, what is asked for, and what was read")]
    pub fn open<'s>(
        &'s mut self,
        now: Tick,
        bytes: &[u8],
        keys: &impl KeySource,
        options: &OpenOptions,
        header: &mut Header,
    ) -> Result<Opened<'s>, OpenError> {
        *header = Header::default();
        let start = if options.is_wired {
            self.take_wired(bytes, header)?
        } else {
            self.take_wireless(bytes, options, header)?
        };
        let Some(mut at) = start else { return Ok(self.nothing(BodyKind::Short)) };
        let next = |frame: &[u8], at: usize| frame.get(at).copied().unwrap_or(0);
        let mut was_encrypted = false;
        if ell::is_ell(next(&self.frame, at)) {
            (at, was_encrypted) = self.open_ell(at, keys, options, header)?;
        }
        if next(&self.frame, at) == 0x81 {
            return Err(DecodeError {
                field: "CI field",
                offset: at,
                rule: Rule::Unsupported { name: "network layer" },
            }
            .into());
        }
        if next(&self.frame, at) == afl::CI {
            let mut reader = Reader::at(self.frame.get(at..).unwrap_or_default(), at);
            let afl = Afl::decode(&mut reader)?;
            header.afl = Some(afl);
            at = reader.offset();
            if afl.fragment() != 0 {
                let sender = header.link.map_or(MeterAddress([0; 8]), |link| link.address);
                let Some((whole, message)) = self.reassembler.push(now, sender, &afl, reader.rest())? else {
                    return Ok(self.nothing(BodyKind::Fragment));
                };
                header.afl = Some(whole);
                self.frame = message;
                at = 0;
            } else if let Some(announced) = afl.ml.map(usize::from)
                && announced != reader.left()
            {
                return Err(reader.fail("ML", Rule::LengthNotAllowed { found: announced }).into());
            }
        }
        let message = at;
        let mut reader = Reader::at(self.frame.get(at..).unwrap_or_default(), at);
        let tpl = Tpl::decode(&mut reader)?;
        let at = reader.offset();
        header.tpl = Some(tpl);
        header.meter = tpl.address.or(header.link.map(|link| link.address));
        let known = header.meter.and_then(|meter| keys.find(meter));
        let parts = security::Parts { header, known, options, message, at, was_encrypted };
        let clear = security::open(&mut self.frame, &parts)?;
        self.body(header, options, at, clear)
    }

    fn body(
        &mut self,
        header: &Header,
        options: &OpenOptions,
        at: usize,
        clear: security::Clear,
    ) -> Result<Opened<'_>, OpenError> {
        let content = header.tpl.map_or(Content::Transport, |tpl| tpl.content);
        let meter = header.meter.unwrap_or(MeterAddress([0; 8]));
        let mut offset = at;
        if content == Content::Compact {
            let body = self.frame.get(at..clear.end).unwrap_or_default();
            // Check bytes and padding of a protected body are fillers around the compact data.
            let body = match (clear.has_check_bytes, body) {
                (true, [0x2F, 0x2F, rest @ ..]) => rest,
                _ => body,
            };
            self.frame = self.formats.expand(meter, body, at)?;
            offset = 0;
        }
        let end = if content == Content::Compact { self.frame.len() } else { clear.end };
        let bytes = self.frame.get(offset..end).unwrap_or_default();
        if content == Content::Full && options.learn_formats {
            self.formats.learn(meter, bytes);
        }
        let body = Body { kind: BodyKind::Content(content), bytes, offset };
        let (authenticity, counter) = (clear.authenticity, clear.counter);
        let address_is_proven = clear.address_is_proven;
        Ok(Opened { authenticity, address_is_proven, counter, body, clear_tail: clear.tail })
    }

    fn nothing(&self, kind: BodyKind) -> Opened<'_> {
        let body = Body { kind, bytes: &[], offset: 0 };
        let authenticity = if kind == BodyKind::Short { Authenticity::None } else { Authenticity::Unproven };
        Opened { authenticity, address_is_proven: false, counter: None, body, clear_tail: 0 }
    }

    /// Takes a wireless frame over without checksums; where the CI field is.
    fn take_wireless(
        &mut self,
        bytes: &[u8],
        options: &OpenOptions,
        header: &mut Header,
    ) -> Result<Option<usize>, OpenError> {
        header.format = Some(frame::strip(bytes, options.format, &mut self.frame)?);
        let mut reader = Reader::new(&self.frame);
        let link = Link::decode(&mut reader)?;
        (header.link, header.meter) = (Some(link), Some(link.address));
        Ok((reader.left() > 0).then_some(reader.offset()))
    }

    /// Takes a wired frame over; where the CI field is.
    fn take_wired(&mut self, bytes: &[u8], header: &mut Header) -> Result<Option<usize>, OpenError> {
        self.frame.clear();
        self.frame.extend_from_slice(bytes);
        Ok(match WiredFrame::decode(bytes)? {
            WiredFrame::Acknowledge => None,
            WiredFrame::Short { control, address } => {
                header.wired = Some((control, address));
                None
            }
            WiredFrame::Long { control, address, payload } => {
                header.wired = Some((control, address));
                self.frame.truncate(wired::PAYLOAD_OFFSET.saturating_add(payload.len()));
                Some(wired::PAYLOAD_OFFSET)
            }
        })
    }

    /// Reads the extended link layer and decrypts what follows; where the next layer is.
    fn open_ell(
        &mut self,
        at: usize,
        keys: &impl KeySource,
        options: &OpenOptions,
        header: &mut Header,
    ) -> Result<(usize, bool), OpenError> {
        let mut reader = Reader::at(self.frame.get(at..).unwrap_or_default(), at);
        let ell = Ell::decode(&mut reader)?;
        header.ell = Some(ell);
        let at = reader.offset();
        if ell.session.is_none() {
            return Ok((at, false));
        }
        let meter = header.link.map_or(MeterAddress([0; 8]), |link| link.address);
        let payload = self.frame.get_mut(at..).unwrap_or_default();
        let is_encrypted = ell.is_encrypted();
        if is_encrypted && !options.plain_body {
            if ell.ci == 0x8F {
                // Which of the two addresses makes the counter block is not verified by any vector.
                let rule = Rule::Unsupported { name: "encryption with two addresses (CI 8F)" };
                return Err(DecodeError { field: "CI field", offset: at, rule }.into());
            }
            let known = keys.find(meter).ok_or(OpenError::NoKey { meter })?;
            security::expect_profile(known, Profile::Ell, meter)?;
            ell.apply(meter, known.key, payload);
        }
        match ell::checked_payload(payload) {
            Some(_) => Ok((at.saturating_add(2), is_encrypted)),
            None if is_encrypted => Err(OpenError::EllChecksum { meter, offset: at }),
            None => Err(OpenError::PayloadChecksum { offset: at }),
        }
    }
}
