//! Security modes: what is checked, in which order, and what is decrypted.

use gridseal_crypto::lmn::{BLOCK_SIZE, CCM_TAG_SIZE, Direction, EphemeralKeys};

use super::{Authenticity, Counter, Header, Known, MeterAddress, OpenError, OpenOptions, Profile};
use crate::mbus::tpl::Configuration;

/// Check bytes at the beginning of what modes 5 and 7 encrypt.
const CHECK_BYTES: [u8; 2] = [0x2F, 0x2F];

/// What decides how a message is opened.
pub(super) struct Parts<'a> {
    pub(super) header: &'a Header,
    pub(super) known: Option<Known<'a>>,
    pub(super) options: &'a OpenOptions,
    /// Offset of the message: of the CI field of the transport layer.
    pub(super) message: usize,
    /// Offset of the body.
    pub(super) at: usize,
    /// Whether the extended link layer was encrypted.
    pub(super) was_encrypted: bool,
}

/// What came of it; the frame holds the body in clear.
pub(super) struct Clear {
    pub(super) authenticity: Authenticity,
    pub(super) address_is_proven: bool,
    pub(super) counter: Option<Counter>,
    /// End of the body.
    pub(super) end: usize,
    /// Bytes at its end that were never encrypted.
    pub(super) tail: usize,
    pub(super) has_check_bytes: bool,
}

pub(super) fn expect_profile(known: Known<'_>, found: Profile, meter: MeterAddress) -> Result<(), OpenError> {
    //= LMN 6: a meter of profile B is not accepted with mode 5
    match known.profile {
        Some(expected) if expected != found => Err(OpenError::Profile { meter, expected, found }),
        _ => Ok(()),
    }
}

impl Parts<'_> {
    fn meter(&self) -> MeterAddress {
        self.header.meter.unwrap_or(MeterAddress([0; 8]))
    }

    fn configuration(&self) -> Configuration {
        self.header.tpl.and_then(|tpl| tpl.fields).map(|fields| fields.configuration).unwrap_or_default()
    }

    fn access(&self) -> u8 {
        self.header.tpl.and_then(|tpl| tpl.fields).map_or(0, |fields| fields.access)
    }

    /// The authentication code of mode 7 covers a long header; the derivation of its key has the identification only.
    fn address_is_proven(&self) -> bool {
        let is_covered = self.header.tpl.is_some_and(|tpl| tpl.address.is_some());
        is_covered || self.known.is_some_and(|known| known.is_configured)
    }

    fn missing(&self, name: &'static str) -> OpenError {
        OpenError::Missing { name, offset: self.message }
    }

    fn refuse(&self, name: &'static str) -> OpenError {
        OpenError::Mode { name, offset: self.message }
    }

    fn known(&self) -> Result<Known<'_>, OpenError> {
        self.known.ok_or(OpenError::NoKey { meter: self.meter() })
    }

    /// The message as it is, from a source that is not proven.
    fn as_it_is(&self, frame: &[u8], authenticity: Authenticity) -> Clear {
        let tail = frame.len().saturating_sub(self.at);
        let address_is_proven = false;
        Clear {
            authenticity,
            address_is_proven,
            counter: None,
            end: frame.len(),
            tail,
            has_check_bytes: false,
        }
    }

    /// Key id and version: of the authentication layer, else of the transport layer.
    fn key_name(&self) -> (u8, u8) {
        let configuration = self.configuration();
        match self.header.afl.and_then(|afl| afl.ki) {
            Some(ki) => {
                let [low, version] = ki.to_le_bytes();
                (low & 0x0F, version)
            }
            None => (configuration.key_id(), configuration.key_version.unwrap_or(0)),
        }
    }

    /// The keys of this message. Derivations other than KDF-A, and keys other than the meter's one, are refused.
    fn derive(&self, known: Known<'_>, counter: u32) -> Result<EphemeralKeys, OpenError> {
        let of_ki = self.header.afl.and_then(|afl| afl.ki).map(|ki| {
            let [low, _] = ki.to_le_bytes();
            (low >> 4) & 3
        });
        if of_ki.unwrap_or(self.configuration().derivation()) != 1 {
            return Err(self.refuse("a key derivation other than KDF-A"));
        }
        Ok(known.key.derive(Direction::FromMeter, counter, self.meter().id()))
    }

    /// Refuses a counter that is not above the last one of the meter.
    fn check_replay(&self, known: Known<'_>, counter: u32, tag: [u8; 8]) -> Result<Counter, OpenError> {
        //= LMN 6: accept only a counter above the last; the same with identical bytes is a radio repeat
        let meter = self.meter();
        match known.last {
            Some(last) if counter == last.counter && tag == last.tag => {
                Err(OpenError::Repeated { meter, found: counter })
            }
            Some(last) if counter <= last.counter => {
                Err(OpenError::Replay { meter, last: last.counter, found: counter })
            }
            _ => {
                let (key_id, key_version) = self.key_name();
                Ok(Counter { meter, key_id, key_version, value: counter, tag })
            }
        }
    }
}

/// Checks and decrypts in place.
pub(super) fn open(frame: &mut [u8], parts: &Parts<'_>) -> Result<Clear, OpenError> {
    let mode = parts.configuration().mode();
    let is_protected =
        mode != 0 || parts.was_encrypted || parts.header.afl.is_some_and(|afl| afl.mac.is_some());
    // A wired meter of old may have any value in the field.
    let is_old_wired = parts.options.is_wired && !matches!(mode, 5 | 7 | 10);
    if parts.options.plain_body {
        refuse_clear(parts)?;
        let authenticity = if is_protected { Authenticity::Unproven } else { Authenticity::None };
        return Ok(parts.as_it_is(frame, authenticity));
    }
    match mode {
        _ if is_old_wired => clear_text(frame, parts),
        0 if parts.header.afl.is_some_and(|afl| afl.mac.is_some()) => {
            let (_, counter) = authenticate(frame, parts)?;
            let mut clear = parts.as_it_is(frame, Authenticity::Verified);
            clear.counter = Some(counter);
            clear.address_is_proven = parts.address_is_proven();
            Ok(clear)
        }
        0 => clear_text(frame, parts),
        5 => mode_5(frame, parts),
        7 => mode_7(frame, parts),
        10 => mode_10(frame, parts),
        other => Err(parts.refuse(Configuration::mode_name(other))),
    }
}

/// A configured meter in clear is a downgrade, whoever says that the body is already decrypted.
fn refuse_clear(parts: &Parts<'_>) -> Result<(), OpenError> {
    //= LMN 6: a meter configured with a key is not accepted in clear
    match parts.known {
        Some(known) if known.is_configured => Err(OpenError::Clear { meter: parts.meter() }),
        _ => Ok(()),
    }
}

fn clear_text(frame: &[u8], parts: &Parts<'_>) -> Result<Clear, OpenError> {
    if parts.was_encrypted {
        return Ok(parts.as_it_is(frame, Authenticity::Unproven));
    }
    refuse_clear(parts)?;
    Ok(parts.as_it_is(frame, Authenticity::None))
}

/// The encrypted part of modes 5 and 7.
fn blocks<'f>(frame: &'f mut [u8], parts: &Parts<'_>, size: usize) -> Result<&'f mut [u8], OpenError> {
    let body = frame.get_mut(parts.at..).unwrap_or_default();
    let left = body.len();
    let error = OpenError::EncryptedLength { announced: size, left, offset: parts.at };
    body.get_mut(..size).ok_or(error)
}

fn block_size(parts: &Parts<'_>) -> usize {
    usize::from(parts.configuration().block_count()).saturating_mul(BLOCK_SIZE)
}

fn mode_5(frame: &mut [u8], parts: &Parts<'_>) -> Result<Clear, OpenError> {
    //= LMN 4: mode 5 has IV = M, ID, V, T, eight times ACC, and begins with 2F 2F
    let quirks = parts.options.quirks;
    let mut size = block_size(parts);
    if size == 0 && quirks.mode5_zero_means_all {
        let left = frame.len().saturating_sub(parts.at);
        size = left.saturating_sub(left % BLOCK_SIZE);
    }
    if size == 0 {
        return clear_text(frame, parts);
    }
    let (meter, access) = (parts.meter(), parts.access());
    let end = frame.len();
    let blocks = blocks(frame, parts, size)?;
    let known = parts.known()?;
    expect_profile(known, Profile::A, meter)?;
    let [a, b, c, d, e, f, g, h] = meter.0;
    let iv = [a, b, c, d, e, f, g, h, access, access, access, access, access, access, access, access];
    known.key.cbc_decrypt(&iv, blocks);
    if !blocks.starts_with(&CHECK_BYTES) && !quirks.mode5_no_check_bytes {
        return Err(OpenError::CheckBytes { meter, access, offset: parts.at });
    }
    let tail = end.saturating_sub(parts.at).saturating_sub(size);
    let authenticity = Authenticity::Unproven;
    Ok(Clear { authenticity, address_is_proven: false, counter: None, end, tail, has_check_bytes: true })
}

/// Checks the authentication code over the whole message, before anything in it is looked at.
fn authenticate(frame: &[u8], parts: &Parts<'_>) -> Result<(EphemeralKeys, Counter), OpenError> {
    //= LMN 4: mode 7 checks the authentication code first
    let afl = parts.header.afl.ok_or(parts.missing("the authentication layer"))?;
    let mac = afl.mac.ok_or(parts.missing("the authentication code"))?;
    if afl.mcl.is_none() {
        return Err(parts.missing("the message control field"));
    }
    let counter = parts.header.counter().ok_or(parts.missing("the message counter"))?;
    let (meter, known) = (parts.meter(), parts.known()?);
    expect_profile(known, Profile::B, meter)?;
    let keys = match parts.configuration().mode() {
        // The key selection of the transport layer is not there.
        0 => known.key.derive(Direction::FromMeter, counter, meter.id()),
        _ => parts.derive(known, counter)?,
    };
    let (covered, size) = afl.covered();
    let message = frame.get(parts.message..).unwrap_or_default();
    if !keys.mac_verifies(&[covered.get(..size).unwrap_or_default(), message], mac.as_bytes()) {
        return Err(OpenError::Mac { meter, counter, offset: parts.message });
    }
    let mut tag = [0; 8];
    tag.iter_mut().zip(mac.as_bytes()).for_each(|(place, byte)| *place = *byte);
    let counter = parts.check_replay(known, counter, tag)?;
    Ok((keys, counter))
}

fn mode_7(frame: &mut [u8], parts: &Parts<'_>) -> Result<Clear, OpenError> {
    let (keys, counter) = authenticate(frame, parts)?;
    let size = block_size(parts);
    let end = frame.len();
    let blocks = blocks(frame, parts, size)?;
    keys.cbc_decrypt(blocks);
    if size > 0 && !blocks.starts_with(&CHECK_BYTES) {
        return Err(OpenError::CheckBytes { meter: parts.meter(), access: parts.access(), offset: parts.at });
    }
    let tail = end.saturating_sub(parts.at).saturating_sub(size);
    let has_check_bytes = size > 0;
    let address_is_proven = parts.address_is_proven();
    let (authenticity, counter) = (Authenticity::Verified, Some(counter));
    Ok(Clear { authenticity, address_is_proven, counter, end, tail, has_check_bytes })
}

/// `M(2) ID(4) V T || 00 || MCR big-endian`.
pub(in crate::mbus) fn mode_10_nonce(meter: MeterAddress, counter: u32) -> [u8; 13] {
    //= LMN 4: mode 10 has a nonce of M, ID, V, T, 00 and the counter in big-endian order
    let [a, b, c, d, e, f, g, h] = meter.0;
    let [c0, c1, c2, c3] = counter.to_be_bytes();
    [a, b, c, d, e, f, g, h, 0, c0, c1, c2, c3]
}

/// `CI || ACC || ST || CF(2) || CFE(2)`: the header up to the extension, without the counter.
pub(in crate::mbus) const MODE_10_AAD_SIZE: usize = 7;

fn mode_10(frame: &mut [u8], parts: &Parts<'_>) -> Result<Clear, OpenError> {
    let configuration = parts.configuration();
    let [_, second] = configuration.cfe;
    if second & 0x0F != 1 {
        return Err(parts.refuse("mode 10 with a tag of another length than 8 bytes"));
    }
    if parts.header.tpl.is_some_and(|tpl| tpl.address.is_some()) {
        return Err(parts.refuse("mode 10 with a long header, whose associated data is not verified"));
    }
    if configuration.key_version.is_some() {
        return Err(parts.refuse("mode 10 with a key version, whose associated data is not verified"));
    }
    let counter = parts.header.counter().ok_or(parts.missing("the message counter"))?;
    let (meter, known) = (parts.meter(), parts.known()?);
    expect_profile(known, Profile::D, meter)?;
    let keys = parts.derive(known, counter)?;
    let (head, body) = frame.split_at_mut_checked(parts.at).ok_or(parts.missing("the body"))?;
    let left = body.len();
    let announced = match configuration.byte_count() {
        0xFF => left.saturating_sub(CCM_TAG_SIZE),
        count => usize::from(count),
    };
    if announced.checked_add(CCM_TAG_SIZE) != Some(left) {
        return Err(OpenError::EncryptedLength { announced, left, offset: parts.at });
    }
    let (text, tag) = body.split_last_chunk_mut::<CCM_TAG_SIZE>().ok_or(parts.missing("the tag"))?;
    let aad_end = parts.message.saturating_add(MODE_10_AAD_SIZE);
    let aad = head.get(parts.message..aad_end).ok_or(parts.missing("the header"))?;
    if !keys.ccm_open(&mode_10_nonce(meter, counter), aad, text, tag) {
        return Err(OpenError::Mac { meter, counter, offset: parts.message });
    }
    let counter = parts.check_replay(known, counter, *tag)?;
    let end = parts.at.saturating_add(announced);
    // The nonce has the whole address in it.
    let (authenticity, counter) = (Authenticity::Verified, Some(counter));
    Ok(Clear { authenticity, address_is_proven: true, counter, end, tail: 0, has_check_bytes: false })
}
