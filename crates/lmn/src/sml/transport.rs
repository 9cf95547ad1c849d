//! Transport of version 1: a file between escape sequences.
//!
//! `1B1B1B1B 01010101`, payload padded with zeros to a multiple of four, `1B1B1B1B 1A`, number of pad bytes, checksum.
//! Four bytes 1B in the payload, at a multiple of four from the start, are doubled.

use alloc::vec::Vec;

use crate::wire::{DecodeError, Rule};

use super::crc::Checksum;

const ESCAPE: [u8; 4] = [0x1B; 4];
const START: [u8; 4] = [0x01; 4];
const END: u8 = 0x1A;

/// Longest file that a receiver collects, bytes.
pub const FILE_SIZE_MAX: usize = 1 << 16;

const fn fail(field: &'static str, offset: usize, rule: Rule) -> DecodeError {
    DecodeError { field, offset, rule }
}

/// Where a file ends: offset behind its checksum, or `None` when more is needed.
fn find_end(file: &[u8]) -> Result<Option<usize>, DecodeError> {
    let (quads, _) = file.as_chunks::<4>();
    let mut quads = quads.iter().enumerate().skip(2);
    while let Some((place, quad)) = quads.next() {
        if *quad != ESCAPE {
            continue;
        }
        let offset = place.saturating_mul(4);
        match quads.next() {
            None => return Ok(None),
            Some((_, [END, ..])) => return Ok(Some(offset.saturating_add(8))),
            // Four escaped bytes of payload.
            Some((_, next)) if *next == ESCAPE => {}
            // Another file begins inside this one, or a version that nobody sends.
            Some((_, next)) if *next == START => {
                return Err(fail("file", offset, Rule::Mismatch { other: "start of a file" }));
            }
            Some((_, [kind, ..])) => {
                return Err(fail("escape sequence", offset, Rule::Unknown { found: u32::from(*kind) }));
            }
        }
    }
    Ok(None)
}

/// The payload of a whole file, padding removed.
///
/// # Errors
/// [`DecodeError`]: no start or end, wrong padding, a checksum that does not fit.
///
/// # Source
/// LMN fact sheet, section 10; vector T9.
pub fn open(file: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if !file.starts_with(&[ESCAPE, START].concat()) {
        return Err(fail("start of file", 0, Rule::Mismatch { other: "1B1B1B1B 01010101" }));
    }
    let needed = file.len().saturating_add(1);
    let end = find_end(file)?.ok_or(fail(
        "end of file",
        file.len(),
        Rule::Truncated { needed, left: file.len() },
    ))?;
    let (file, rest) = file.split_at_checked(end).unwrap_or((file, &[]));
    if !rest.is_empty() {
        return Err(fail("file", end, Rule::Trailing { count: rest.len() }));
    }
    let Some((covered, crc)) = file.split_last_chunk::<2>() else {
        return Err(fail("end of file", 0, Rule::Truncated { needed: 2, left: file.len() }));
    };
    let found = u16::from_le_bytes(*crc);
    let computed = Checksum::X25.of(covered);
    // The other checksum of old firmware is one of messages: files have this one in every mode.
    if found != computed {
        return Err(fail("checksum of file", covered.len(), Rule::Checksum { found, computed }));
    }
    let padding = usize::from(covered.last().copied().unwrap_or_default());
    let body = covered.get(8..covered.len().saturating_sub(6)).unwrap_or_default();
    let padded_at = covered.len().saturating_sub(1);
    let mut payload = Vec::with_capacity(body.len());
    let mut quads = body.as_chunks::<4>().0.iter();
    while let Some(quad) = quads.next() {
        payload.extend_from_slice(quad);
        if *quad == ESCAPE {
            // The second half of a doubled sequence; `find_end` has seen that it is there.
            quads.next();
        }
    }
    let length = payload.len().checked_sub(padding).filter(|_| padding <= 3);
    let length = length.ok_or(fail("padding", padded_at, Rule::OutOfRange))?;
    if payload.get(length..).is_some_and(|pad| pad.iter().any(|byte| *byte != 0)) {
        return Err(fail("padding", padded_at, Rule::Mismatch { other: "zeros" }));
    }
    payload.truncate(length);
    Ok(payload)
}

/// A payload as a file.
#[must_use]
pub fn seal(payload: &[u8]) -> Vec<u8> {
    let mut padded = payload.to_vec();
    let padding = padded.len().next_multiple_of(4).saturating_sub(padded.len());
    padded.resize(padded.len().saturating_add(padding), 0);
    let mut file = [ESCAPE, START].concat();
    for quad in padded.as_chunks::<4>().0 {
        file.extend_from_slice(quad);
        if *quad == ESCAPE {
            file.extend_from_slice(&ESCAPE);
        }
    }
    file.extend_from_slice(&ESCAPE);
    file.extend_from_slice(&[END, u8::try_from(padding).unwrap_or_default()]);
    let crc = Checksum::X25.of(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}

/// Finds files in a stream: skips what lies between them, begins anew at every start sequence, drops what is too long.
/// Memory is bounded by [`FILE_SIZE_MAX`].
///
/// A start sequence counts at any place, because a file that was cut off ends anywhere. A payload that has one off the
/// multiples of four, where nothing is doubled, is lost; no meter sends eight such bytes.
#[derive(Debug, Default)]
pub struct Receiver {
    buffer: Vec<u8>,
    skipped: usize,
    in_file: bool,
    /// The last whole four bytes were an escape sequence that nothing has explained yet.
    escaped: bool,
}

impl Receiver {
    /// A receiver between files.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), skipped: 0, in_file: false, escaped: false }
    }

    /// Bytes that belonged to no file so far.
    #[must_use]
    pub const fn skipped(&self) -> usize {
        self.skipped
    }

    /// Bytes of a file that has begun.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Takes bytes as they come and calls `found` with each whole file, as sent. A file that was interrupted counts as
    /// skipped.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(&[u8])) {
        for byte in bytes {
            self.buffer.push(*byte);
            if self.begins() {
                continue;
            }
            if !self.in_file {
                self.forget_noise();
            } else if self.buffer.len().is_multiple_of(4) {
                self.quad(&mut found);
            }
        }
    }

    /// Whether a start sequence ends here; then a file begins with it.
    fn begins(&mut self) -> bool {
        let Some((before, last)) = self.buffer.split_last_chunk::<4>() else { return false };
        let Some((before, escape)) = before.split_last_chunk::<4>() else { return false };
        // At a multiple of four the second half of a doubled sequence is no escape.
        let doubled = self.in_file && before.len().is_multiple_of(4) && !self.escaped;
        if *last != START || *escape != ESCAPE || doubled {
            return false;
        }
        self.skipped = self.skipped.saturating_add(before.len());
        self.buffer.drain(..before.len());
        (self.in_file, self.escaped) = (true, false);
        true
    }

    fn forget_noise(&mut self) {
        if self.buffer.len() > 64 {
            let surplus = self.buffer.len().saturating_sub(8);
            self.buffer.drain(..surplus);
            self.skipped = self.skipped.saturating_add(surplus);
        }
    }

    fn quad(&mut self, found: &mut impl FnMut(&[u8])) {
        let quad = self.buffer.last_chunk::<4>().copied().unwrap_or_default();
        match (self.escaped, quad) {
            (true, [END, ..]) => {
                found(&self.buffer);
                self.buffer.clear();
                (self.in_file, self.escaped) = (false, false);
            }
            (true, ESCAPE) => self.escaped = false,
            (false, ESCAPE) => self.escaped = true,
            (false, _) if self.buffer.len() < FILE_SIZE_MAX => {}
            _ => {
                self.skipped = self.skipped.saturating_add(self.buffer.len());
                self.buffer.clear();
                (self.in_file, self.escaped) = (false, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn a_payload_comes_back_from_its_file(payload in vec(prop_oneof![Just(0x1Bu8), Just(0x01), any::<u8>()], 0..200)) {
            let start = [ESCAPE, START].concat();
            prop_assume!((0..payload.len()).all(|at| at % 4 == 0 || !payload[at..].starts_with(&start)));
            let file = seal(&payload);
            prop_assert_eq!(open(&file), Ok(payload.clone()));
            let mut receiver = Receiver::new();
            let mut files = Vec::new();
            receiver.push(b"noise", |file| files.push(file.to_vec()));
            receiver.push(&file, |file| files.push(file.to_vec()));
            receiver.push(&file[..file.len() / 2], |file| files.push(file.to_vec()));
            receiver.push(&file, |file| files.push(file.to_vec()));
            // A file cut between the halves of a doubled sequence swallows the next one: its checksum tells.
            prop_assert_eq!(files.first(), Some(&file));
            prop_assert!(files.iter().all(|found| open(found).is_ok_and(|read| read == payload) || *found != file));
        }
    }

    #[test]
    fn no_changed_bit_and_no_cut_end_is_a_file() {
        let file = seal(b"some payload here");
        for bit in 0..file.len() * 8 {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&changed).is_err(), "bit {bit}");
        }
        for cut in 0..file.len() {
            assert!(open(&file[..cut]).is_err(), "cut at {cut}");
        }
        assert!(open(&[file.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn an_endless_file_is_dropped_and_the_next_one_found() {
        let mut receiver = Receiver::new();
        let mut count = 0;
        receiver.push(&[ESCAPE, START].concat(), |_| count += 1);
        receiver.push(&alloc::vec![0x55; FILE_SIZE_MAX * 2], |_| count += 1);
        assert!(receiver.pending() <= FILE_SIZE_MAX && count == 0);
        receiver.push(&seal(b"next"), |_| count += 1);
        assert_eq!(count, 1);
    }
}
