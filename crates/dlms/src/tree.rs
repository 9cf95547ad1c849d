//! Messages taken apart for people: every field with its offset, its size and what it says.
//!
//! [`TreeDecoder`] takes HDLC frames, wrapper units and bare APDUs, one piece after the other as they were recorded, and
//! puts together what was cut: segments of HDLC, blocks of general-block-transfer and of the services. What is protected
//! is given to an [`Opener`]; what does not open stays closed, and why is the [`Fault`] of its frame.
//!
//! A tree is for reading. Whoever acts upon a message uses the types of [`crate::apdu`], which refuse whatever this one
//! refuses.

mod acse;
mod assembly;
mod branch;
mod data;
mod frame;
mod protected;
mod service;

use alloc::{string::String, vec::Vec};

use gridseal_types::SystemTitle;

use crate::{
    apdu::{
        carrier::CipheredApdu,
        general::{GeneralCiphering, GeneralSigning},
    },
    assoc::CryptoFault,
    wire::{DecodeError, Rule},
};
use assembly::Assemblies;

/// Most fields of one tree: a message of wanton structure ends there.
pub const NODES_MAX: usize = 200_000;
/// How deep messages may lie in one another.
const LAYERS_MAX: u8 = 8;

/// What a field says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scalar {
    /// A non-negative number.
    Unsigned(u64),
    /// A number that may be negative.
    Signed(i64),
    /// A floating-point number.
    Real(f64),
    /// Yes or no.
    Boolean(bool),
    /// Text.
    Text(String),
    /// Octets.
    Octets(Vec<u8>),
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name, in the words of the standard.
    pub field: &'static str,
    /// Offset in bytes from the start of the frame, or of the nearest node above with [`Node::is_inner`].
    pub offset: usize,
    /// Size in bytes, 0 when it is not known because the field broke off.
    pub size: usize,
    /// What it says, where it is no mere container.
    pub value: Option<Scalar>,
    /// What that means: a name, an instant, a remark.
    pub meaning: Option<String>,
    /// Whether the nodes below lie in bytes of their own, decrypted or put together, and count from their start.
    pub is_inner: bool,
    /// Fields inside of it.
    pub children: Vec<Node>,
}

/// How far the contents of a frame are proven. Closed: there is nothing between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authenticity {
    /// Nothing in it is protected, or what is protected stayed closed.
    None,
    /// Something was decrypted without a tag that proves it.
    Unproven,
    /// Every protected part that was opened has a tag, and the tags verify.
    Verified,
}

/// Why a frame is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultCause {
    /// The bytes break a rule.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A protected part does not open.
    #[error("not opened: {0}")]
    Crypto(#[from] CryptoFault),
    /// Segments or blocks before this one are missing.
    #[error("part {found} came where part {expected} was expected")]
    Missing {
        /// Number found.
        found: u32,
        /// Number expected.
        expected: u32,
    },
    /// What is put together is larger than the limit.
    #[error("parts are together larger than {limit} bytes")]
    TooLong {
        /// Limit, bytes.
        limit: usize,
    },
}

/// Where a frame is not what it should be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Offset in bytes, counted as [`Node::offset`].
    pub offset: usize,
    /// What the offset lies in when it is not the frame itself: the name of a node with [`Node::is_inner`].
    pub inside: Option<&'static str>,
    /// Why.
    pub cause: FaultCause,
}

impl Fault {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.cause {
            FaultCause::Decode(DecodeError { rule: Rule::Checksum, .. }) => "dlms.checksum",
            FaultCause::Decode(DecodeError { rule: Rule::Truncated { .. }, .. }) => "dlms.truncated",
            FaultCause::Decode(_) => "dlms.form",
            FaultCause::Crypto(CryptoFault::Tag) => "dlms.tag",
            FaultCause::Crypto(CryptoFault::NoKey) => "dlms.no_key",
            FaultCause::Crypto(CryptoFault::Title) => "dlms.title",
            FaultCause::Crypto(CryptoFault::Signature) => "dlms.signature",
            FaultCause::Crypto(CryptoFault::KeyInfo) => "dlms.key_info",
            FaultCause::Crypto(CryptoFault::SecurityControl(_) | CryptoFault::KeySet(_)) => "dlms.control",
            FaultCause::Crypto(_) => "dlms.closed",
            FaultCause::Missing { .. } => "dlms.missing_part",
            FaultCause::TooLong { .. } => "dlms.too_long",
        }
    }
}

/// A protected message that an [`Opener`] may open.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Carried<'a> {
    /// glo, ded, general-glo, general-ded.
    Ciphered(&'a CipheredApdu<'a>),
    /// general-ciphering.
    General(&'a GeneralCiphering<'a>),
}

/// What an [`Opener`] has opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The plain APDU.
    pub plain: Vec<u8>,
    /// Whether a tag proved it.
    pub is_verified: bool,
    /// With which key and whose title, for people.
    pub how: String,
}

impl core::fmt::Debug for Opened {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Opened[{} bytes, {}]", self.plain.len(), self.how)
    }
}

/// Whoever has keys.
pub trait Opener {
    /// Opens a protected message; `Ok(None)` says that it stays closed because nobody asked for it to be opened.
    ///
    /// # Errors
    /// [`CryptoFault`] when it should open and does not.
    fn open(&mut self, carried: Carried<'_>) -> Result<Option<Opened>, CryptoFault>;

    /// Whether a signature is right; `None` where it cannot be judged.
    fn verifies(&mut self, signed: &GeneralSigning<'_>) -> Option<bool>;

    /// A title that a message of this side claims; what follows may leave it out.
    fn claimed(&mut self, is_client: bool, title: SystemTitle);
}

/// An [`Opener`] without keys: everything stays closed, which is no fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Closed;

impl Opener for Closed {
    fn open(&mut self, _: Carried<'_>) -> Result<Option<Opened>, CryptoFault> {
        Ok(None)
    }

    fn verifies(&mut self, _: &GeneralSigning<'_>) -> Option<bool> {
        None
    }

    fn claimed(&mut self, _: bool, _: SystemTitle) {}
}

/// What bytes are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Form {
    /// What they look like: HDLC begins with a flag or with A0 to AF, the wrapper with 0001, all else is an APDU.
    #[default]
    Auto,
    /// HDLC frames.
    Hdlc,
    /// Wrapper units.
    Wrapper,
    /// One APDU.
    Apdu,
    /// One A-XDR value.
    Data,
}

/// One frame, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// `hdlc`, `wrapper`, `apdu` or `data`.
    pub form: &'static str,
    /// Offset of the frame in the bytes that were given.
    pub offset: usize,
    /// Size of the frame in bytes.
    pub size: usize,
    /// Its fields; after a fault those before it.
    pub nodes: Vec<Node>,
    /// How far it is proven.
    pub authenticity: Authenticity,
    /// The first fault.
    pub fault: Option<Fault>,
}

/// Who sends to whom, as far as a frame says it: parts of one message have it in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Route {
    source: u32,
    destination: u32,
}

/// What is gathered while one frame is walked.
struct Walk<'c> {
    opener: &'c mut dyn Opener,
    assemblies: &'c mut Assemblies,
    route: Route,
    layers: u8,
    /// Inner bytes in which the walk is at present.
    inside: Option<&'static str>,
    authenticity: Option<Authenticity>,
    fault: Option<Fault>,
}

impl Walk<'_> {
    /// Notes the first fault.
    fn fail(&mut self, offset: usize, cause: impl Into<FaultCause>) {
        let (inside, cause) = (self.inside, cause.into());
        self.fault.get_or_insert(Fault { offset, inside, cause });
    }

    fn failed(&mut self, error: DecodeError) {
        self.fail(error.offset, error);
    }

    /// Everything that was opened counts, the least proven most.
    fn opened(&mut self, is_verified: bool) {
        let found = if is_verified { Authenticity::Verified } else { Authenticity::Unproven };
        self.authenticity = Some(self.authenticity.map_or(found, |so_far| so_far.min(found)));
    }
}

/// Takes recorded messages apart, in the order in which they were sent.
#[derive(Debug, Default)]
pub struct TreeDecoder {
    assemblies: Assemblies,
}

impl TreeDecoder {
    /// A decoder that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages came in parts of which the last is still missing.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.assemblies.len()
    }

    /// Takes apart what `bytes` hold: one APDU, or the frames of a stream, each by itself. After a frame that cannot be
    /// read the stream ends, because where the next one begins is not known; in HDLC a flag says it.
    pub fn decode(&mut self, bytes: &[u8], form: Form, opener: &mut dyn Opener) -> Vec<Decoded> {
        let form = match (form, bytes) {
            (Form::Auto, [0x7E | 0xA0..=0xAF, ..]) => Form::Hdlc,
            (Form::Auto, [0x00, 0x01, ..]) => Form::Wrapper,
            (Form::Auto, _) => Form::Apdu,
            (form, _) => form,
        };
        match form {
            Form::Hdlc => self.hdlc(bytes, opener),
            Form::Wrapper => self.wrapper(bytes, opener),
            Form::Data => alloc::vec![self.whole("data", bytes, opener, |branch, reader, _| {
                data::value(branch, reader)?;
                reader.finish("data")
            })],
            Form::Apdu | Form::Auto => alloc::vec![self.whole("apdu", bytes, opener, service::llc_and_apdu)],
        }
    }
}
