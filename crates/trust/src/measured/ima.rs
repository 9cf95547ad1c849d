//! The measurement list of Linux IMA, templates `ima-ng` and `ima-sig`, in the kernel's binary or text form.
//!
//! Binary, in the byte order of the device (little-endian): PCR u32, template hash of 20 or 32 bytes, name size u32, name,
//! data size u32, data. Data are fields with a u32 size each: `algorithm ":" 00 digest`, `path 00`, and, in `ima-sig`, a
//! signature that may be empty.
//! Text: one line each, `PCR hash name algorithm:digest path [signature]`.
//!
//! What extends PCR 10 of the SHA-256 bank is the hash of the data, recomputed here; the hash in the list is looked at only
//! to tell a violation, which is all zeros there and extends all ones.
//!
//! # Source
//! Onboarding specification, section 8; Linux kernel documentation, IMA templates.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_types::Digest;

use super::{LogError, LogFlaw, extended, read::LogReader};
use crate::tpm;

/// The PCR that IMA extends.
pub const PCR: u8 = 10;
/// Longest path, bytes.
const PATH_SIZE_MAX: usize = 4_096;
/// Largest digest of a file, bytes.
const FILE_DIGEST_SIZE_MAX: usize = 64;
/// Sizes of the template hash in a binary list: SHA-1, or SHA-256 where the kernel writes a list per bank.
const HASH_SIZES: [usize; 2] = [20, 32];

/// One entry, its fields as the list has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Hash of the file: name as in the list, `sha256` for example.
    pub algorithm: Vec<u8>,
    /// Digest of the file.
    pub digest: Vec<u8>,
    /// Path; not always UTF-8.
    pub path: Vec<u8>,
    /// Signature of the file, empty without one.
    pub signature: Vec<u8>,
    /// The file was open for writing while it was measured, or the other way round: its digest says nothing.
    pub is_violation: bool,
    /// What extends the PCR.
    pub measured: Digest,
}

impl Entry {
    /// The PCR after this entry.
    #[must_use]
    pub fn extend(&self, before: &Digest) -> Digest {
        extended(before, &self.measured)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Template {
    Ng,
    Sig,
}

impl Template {
    fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"ima-ng" => Some(Self::Ng),
            b"ima-sig" => Some(Self::Sig),
            _ => None,
        }
    }
}

/// Splits `algorithm ":" 00 digest`.
fn split_digest(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let (algorithm, rest) = field.split_at_checked(colon)?;
    let digest = rest.strip_prefix(b":\0")?;
    let fits = (1..=16).contains(&algorithm.len()) && (1..=FILE_DIGEST_SIZE_MAX).contains(&digest.len());
    fits.then_some((algorithm, digest))
}

fn entry_of(data: &[u8], offset: usize, template: Template, is_violation: bool) -> Result<Entry, LogError> {
    let mut reader = LogReader::part(data, offset);
    let at_digest = reader.error("d-ng", LogFlaw::Value);
    let (algorithm, digest) = split_digest(reader.counted("d-ng")?).ok_or(at_digest)?;
    let at_path = reader.error("n-ng", LogFlaw::Value);
    let path = reader.counted("n-ng")?.strip_suffix(&[0]).ok_or(at_path)?;
    if path.is_empty() || path.len() > PATH_SIZE_MAX || path.contains(&0) {
        return Err(at_path);
    }
    let signature = if template == Template::Sig { reader.counted("sig")? } else { &[] };
    if !reader.is_empty() {
        return Err(reader.error("template data", LogFlaw::Length));
    }
    let measured = if is_violation { Digest([0xff; 32]) } else { tpm::digest(&[data]) };
    Ok(Entry {
        algorithm: algorithm.to_vec(),
        digest: digest.to_vec(),
        path: path.to_vec(),
        signature: signature.to_vec(),
        is_violation,
        measured,
    })
}

fn is_zero(hash: &[u8]) -> bool {
    hash.iter().all(|byte| *byte == 0)
}

/// One entry of a binary list whose template hashes have this size.
fn read_binary(reader: &mut LogReader<'_>, hash_size: usize) -> Result<Entry, LogError> {
    let at_pcr = reader.error("pcr", LogFlaw::Value);
    if reader.u32("pcr")? != u32::from(PCR) {
        return Err(at_pcr);
    }
    let is_violation = is_zero(reader.take(hash_size, "template hash")?);
    let at_name = reader.error("template name", LogFlaw::Value);
    let template = Template::of(reader.counted("template name")?).ok_or(at_name)?;
    let offset = reader.offset().saturating_add(4);
    entry_of(reader.counted("template data")?, offset, template, is_violation)
}

/// The size of the template hashes: the one with which the first entry reads.
fn hash_size(log: &[u8]) -> Result<usize, LogError> {
    let mut first = None;
    for size in HASH_SIZES {
        match read_binary(&mut LogReader::part(log, 0), size) {
            Ok(_) => return Ok(size),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or(LogError { field: "log", offset: 0, flaw: LogFlaw::Value }))
}

/// Bytes of a hex number, upper or lower case.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let nibble = |byte: &u8| char::from(*byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(nibble(high)?.wrapping_shl(4) | nibble(low)?),
            _ => None,
        })
        .collect()
}

fn split_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let (word, rest) = line.split_at_checked(end)?;
    Some((word, rest.get(1..)?))
}

fn push_field(data: &mut Vec<u8>, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).fold(0usize, usize::saturating_add);
    data.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    parts.iter().for_each(|part| data.extend_from_slice(part));
}

/// What a line says: template data, template, whether it is a violation.
fn parse_line(line: &[u8]) -> Option<(Vec<u8>, Template, bool)> {
    let (pcr, rest) = split_word(line.trim_ascii_start())?;
    let (hash, rest) = split_word(rest)?;
    let (name, rest) = split_word(rest)?;
    let (digest, rest) = split_word(rest)?;
    let hash = from_hex(hash)?;
    let template = Template::of(name)?;
    if pcr != b"10" || !HASH_SIZES.contains(&hash.len()) {
        return None;
    }
    let colon = digest.iter().position(|byte| *byte == b':')?;
    let (algorithm, digest) = digest.split_at_checked(colon)?;
    let digest = from_hex(digest.strip_prefix(b":")?)?;
    let (path, signature) = match template {
        Template::Ng => (rest, Vec::new()),
        Template::Sig => split_signature(rest),
    };
    let mut data = Vec::new();
    push_field(&mut data, &[algorithm, b":\0", &digest]);
    push_field(&mut data, &[path, &[0]]);
    if template == Template::Sig {
        push_field(&mut data, &[&signature]);
    }
    Some((data, template, is_zero(&hash)))
}

/// One line, without its end. Paths may hold spaces: a signature is the last word when it is hex and begins as one.
fn read_line(line: &[u8], offset: usize) -> Result<Entry, LogError> {
    let wrong = LogError { field: "line", offset, flaw: LogFlaw::Value };
    let (data, template, is_violation) = parse_line(line).ok_or(wrong)?;
    entry_of(&data, offset, template, is_violation).map_err(|error| LogError { offset, ..error })
}

/// Path and signature of an `ima-sig` line. Without a signature the kernel ends the line with a space.
fn split_signature(rest: &[u8]) -> (&[u8], Vec<u8>) {
    let split = rest.iter().rposition(|byte| *byte == b' ').and_then(|at| rest.split_at_checked(at));
    let Some((path, last)) = split else { return (rest, Vec::new()) };
    match last.get(1..).unwrap_or_default() {
        [] => (path, Vec::new()),
        word => match from_hex(word).filter(|signature| signature.starts_with(&[3])) {
            Some(signature) => (path, signature),
            None => (rest, Vec::new()),
        },
    }
}

/// Whether a list is text: the binary form begins with a zero byte in its first four, text never.
fn is_text(log: &[u8]) -> bool {
    log.iter().take(4).all(|byte| *byte != 0)
}

/// Entries of a list with the offset at which each begins.
fn walk(log: &[u8], mut each: impl FnMut(usize, Entry)) -> Result<(), LogError> {
    let mut reader = LogReader::part(log, 0);
    if log.is_empty() {
        return Ok(());
    }
    if is_text(log) {
        let mut offset = 0usize;
        // The last line may lack its end; a second empty one may not be there.
        for line in log.strip_suffix(b"\n").unwrap_or(log).split(|byte| *byte == b'\n') {
            each(offset, read_line(line, offset)?);
            offset = offset.saturating_add(line.len()).saturating_add(1);
        }
        return Ok(());
    }
    let size = hash_size(log)?;
    while !reader.is_empty() {
        let offset = reader.offset();
        each(offset, read_binary(&mut reader, size)?);
    }
    Ok(())
}

/// All entries of a list.
///
/// # Errors
/// [`LogError`]: another template, another PCR, cut, lying lengths.
pub fn entries(log: &[u8]) -> Result<Vec<Entry>, LogError> {
    LogReader::new(log)?;
    let mut all = Vec::new();
    walk(log, |_, entry| all.push(entry))?;
    Ok(all)
}

/// The list from entry `first` on, for a device that is asked for new entries only; the whole list with index 0 when it
/// has fewer. The list may be larger than what fits into one message: what is left of it need not be.
///
/// # Errors
/// As [`entries`].
pub fn from(log: &[u8], first: u64) -> Result<(u64, &[u8]), LogError> {
    let (mut count, mut start) = (0u64, None);
    walk(log, |offset, _| {
        if count == first {
            start = Some(offset);
        }
        count = count.saturating_add(1);
    })?;
    if count == first {
        start = Some(log.len());
    }
    match start.and_then(|start| log.get(start..)) {
        Some(rest) => Ok((first, rest)),
        None => Ok((0, log)),
    }
}
