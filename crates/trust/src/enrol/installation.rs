//! What an installer says: this device hangs at this connection point. It is signed by nobody and proves nothing: it is data
//! that the endpoint manager checks when the device calls in (row A40).
//!
//! # Source
//! Onboarding specification, rows A38 and A40; encoding ours (ADR 21).

use alloc::{string::String, vec::Vec};

use gridseal_types::UtcTime;

use super::{
    label::{LABEL_SIZE_MAX, LabelA},
    wire::{Read, Reader, encode},
};

/// Longest name of a connection point, in characters.
pub const POINT_SIZE_MAX: usize = 40;
/// Largest request in bytes.
pub const REQUEST_SIZE_MAX: usize = 256;

const INSTALL: u64 = 50;

/// Whether a text may name a connection point: 1..=40 of `0-9 A-Z a-z - . / _ :`.
#[must_use]
pub fn is_point(text: &str) -> bool {
    (1..=POINT_SIZE_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-./_:".contains(&byte))
}

pub(super) fn read_point(r: &mut Reader<'_>) -> Read<String> {
    let text = r.text(1..=POINT_SIZE_MAX)?;
    if is_point(text) { Ok(text.into()) } else { r.fail("not the name of a connection point") }
}

/// A request to bind a device to a connection point: `[1, 50, {1: label A, 2: point, 3: when}]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallRequest {
    /// Label as scanned or typed.
    pub label: LabelA,
    /// Connection point.
    pub point: String,
    /// When, by the installer's clock: for the record only.
    pub at: UtcTime,
}

impl InstallRequest {
    /// Encoded request.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(|w| {
            w.array(3).uint(1u8).uint(INSTALL).map(3).key(1).text(&alloc::format!("{}", self.label));
            w.key(2).text(&self.point).key(3).uint(self.at.0);
        })
    }

    /// Decodes a request.
    ///
    /// # Errors
    /// [`super::wire::FormatError`].
    pub fn decode(bytes: &[u8]) -> Read<Self> {
        let (mut label, mut point, mut at) = (None, None, None);
        Reader::whole(bytes, |r| {
            r.array(3..=3, |r, _| {
                r.constant(1)?;
                r.constant(INSTALL)?;
                r.map(|r, key| {
                    match key {
                        1 => {
                            let text = r.text(1..=LABEL_SIZE_MAX)?;
                            let parsed = LabelA::parse(text).or_else(|_| r.fail("not a label A"))?;
                            if alloc::format!("{parsed}") != text {
                                return r.fail("not a label A");
                            }
                            label = Some(parsed);
                        }
                        2 => point = Some(read_point(r)?),
                        3 => at = Some(UtcTime(r.uint(0..=u64::MAX)?)),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(Self { label: r.required(label)?, point: r.required(point)?, at: r.required(at)? })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gridseal_types::EkName;

    #[test]
    fn a_request_decodes_from_its_encoding_and_fits_its_limit() {
        let mut name = [7; 34];
        name[..2].copy_from_slice(&[0, 0x0b]);
        let label = LabelA { model: "M".repeat(20), serial: "S".repeat(20), device: EkName(name) };
        let request = InstallRequest { label, point: "p".repeat(POINT_SIZE_MAX), at: UtcTime(u64::MAX) };
        let bytes = request.encode();
        assert!(bytes.len() <= REQUEST_SIZE_MAX, "{}", bytes.len());
        assert_eq!(InstallRequest::decode(&bytes), Ok(request.clone()));
        for at in 0..bytes.len() {
            assert!(InstallRequest::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        let wrong = InstallRequest { point: "a b".into(), ..request };
        assert!(InstallRequest::decode(&wrong.encode()).is_err());
    }

    #[test]
    fn a_point_is_a_plain_word() {
        assert!(is_point("DE-00.1/2_3:a") && is_point(&"x".repeat(40)));
        assert!(!is_point("") && !is_point("a b") && !is_point("\u{e4}") && !is_point(&"x".repeat(41)));
    }
}
