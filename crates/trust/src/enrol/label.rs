//! Labels in text form. Label A is on the device and holds no secret; label B comes apart from it and holds N_1.
//!
//! ```text
//! GSO1:A:<model>:<serial>:<base32 of the Name's digest>:<crc32>
//! GSO1:B:<serial>:<base32 of N_1>:<crc32>
//! ```
//!
//! The check value finds typing errors; it protects from nobody.
//!
//! # Source
//! Onboarding specification, section 10.

use alloc::{string::String, vec::Vec};
use core::fmt;

use gridseal_crypto::{Key, SecretBytes, role::OwnerSecret};
use gridseal_types::{Code, EkName};

/// Characters of 32 bytes in base32.
const DIGEST_TEXT_SIZE: usize = 52;
/// Characters of the shortest secret that is not called weak: 128 bits.
const WEAK_TEXT_SIZE: usize = 26;
/// Longest label in characters.
pub const LABEL_SIZE_MAX: usize = 128;

/// Why a text is no label. All have the code [`Code::Label`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// Not the parts, characters or lengths of this label.
    #[error("not the form of this label")]
    Form,
    /// A character is wrong: the check value is another.
    #[error("check value does not fit: a character was read or typed wrong")]
    Check,
    /// The secret is shorter than 128 bits, or shows by itself that fewer were drawn.
    #[error("secret has less than 128 bits of entropy")]
    Weak,
}

impl From<LabelError> for Code {
    fn from(_: LabelError) -> Self {
        Self::Label
    }
}

/// Label A: names a device to everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelA {
    /// Model, 1..=20 of `0-9 A-Z - .`.
    pub model: String,
    /// Serial number, 1..=20 of the same.
    pub serial: String,
    /// Name of the endorsement key.
    pub device: EkName,
}

/// Whether a text may be a model or a serial number: 1..=20 of `0-9 A-Z - .`.
#[must_use]
pub fn is_label_word(text: &str) -> bool {
    (1..=20).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase() || b"-.".contains(&byte))
}

impl LabelA {
    /// Parses the text form; white space around it is ignored.
    ///
    /// # Errors
    /// [`LabelError`].
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let [model, serial, name] = parts(text, "GSO1:A:")?;
        if !is_label_word(model) || !is_label_word(serial) {
            return Err(LabelError::Form);
        }
        let mut device = [0; 34];
        let (algorithm, digest) = device.split_at_mut(2);
        // SHA-256: the only name algorithm of version 1.
        algorithm.copy_from_slice(&[0, 0x0b]);
        digest.copy_from_slice(&base32_decode(name)?);
        Ok(Self { model: model.into(), serial: serial.into(), device: EkName(device) })
    }
}

impl fmt::Display for LabelA {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.device.as_bytes().get(2..).unwrap_or_default();
        let mut name = Vec::with_capacity(DIGEST_TEXT_SIZE);
        base32(digest, |digit| name.push(digit));
        let name = core::str::from_utf8(&name).unwrap_or_default();
        let text = alloc::format!("GSO1:A:{}:{}:{name}", self.model, self.serial);
        write!(f, "{text}:{:08X}", crc32(text.as_bytes()))
    }
}

/// Label B: the secret of the first owner. It is printed without its secret, as any key.
#[derive(Debug)]
pub struct LabelB {
    /// Serial number.
    pub serial: String,
    /// N_1.
    pub secret: Key<OwnerSecret, 32>,
}

impl LabelB {
    /// Parses the text form; white space around it is ignored.
    ///
    /// # Errors
    /// [`LabelError`]; [`LabelError::Weak`] for a secret of less than 128 bits.
    pub fn parse(text: &str) -> Result<Self, LabelError> {
        let [serial, secret] = parts(text, "GSO1:B:")?;
        if !is_label_word(serial) {
            return Err(LabelError::Form);
        }
        if secret.len() < WEAK_TEXT_SIZE {
            return Err(LabelError::Weak);
        }
        let secret = Key::<OwnerSecret, 32>::take(&mut base32_decode(secret)?);
        if secret.is_weak() { Err(LabelError::Weak) } else { Ok(Self { serial: serial.into(), secret }) }
    }

    /// The text form, to be printed on a sealed insert: the only readable form in which an owner secret leaves a program.
    #[must_use]
    pub fn text(serial: &str, secret: &Key<OwnerSecret, 32>) -> SecretBytes {
        let mut bytes = SecretBytes::starting_with(&[]);
        bytes.append_owner_secret(secret);
        let mut text = SecretBytes::starting_with(alloc::format!("GSO1:B:{serial}:").as_bytes());
        base32(bytes.as_slice(), |digit| text.append(&[digit]));
        let check = alloc::format!(":{:08X}", crc32(text.as_slice()));
        text.append(check.as_bytes());
        text
    }
}

/// The parts between a label's head and its check value, which must fit.
fn parts<'t, const N: usize>(text: &'t str, head: &str) -> Result<[&'t str; N], LabelError> {
    let text = text.trim();
    if text.len() > LABEL_SIZE_MAX {
        return Err(LabelError::Form);
    }
    let (covered, check) = text.rsplit_once(':').ok_or(LabelError::Form)?;
    let body = covered.strip_prefix(head).ok_or(LabelError::Form)?;
    if check.len() != 8 || !check.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F')) {
        return Err(LabelError::Form);
    }
    let mut found = body.split(':');
    let mut parts = [""; N];
    for part in &mut parts {
        *part = found.next().ok_or(LabelError::Form)?;
    }
    if found.next().is_some() {
        return Err(LabelError::Form);
    }
    match u32::from_str_radix(check, 16) {
        Ok(check) if check == crc32(covered.as_bytes()) => Ok(parts),
        _ => Err(LabelError::Check),
    }
}

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Base32 of RFC 4648, upper case, without padding.
fn base32(bytes: &[u8], mut digit: impl FnMut(u8)) {
    let at = |index: u32| ALPHABET.get(usize::try_from(index & 31).unwrap_or(0)).copied().unwrap_or(b'A');
    let (mut buffer, mut bits) = (0u32, 0u32);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits = bits.saturating_add(8);
        while bits >= 5 {
            bits = bits.saturating_sub(5);
            digit(at(buffer >> bits));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        digit(at(buffer << 5u32.saturating_sub(bits)));
    }
}

/// 32 bytes of exactly 52 digits; the four unused bits are zero.
fn base32_decode(text: &str) -> Result<[u8; 32], LabelError> {
    if text.len() != DIGEST_TEXT_SIZE {
        return Err(LabelError::Form);
    }
    let mut bytes = [0; 32];
    let mut to = bytes.iter_mut();
    let (mut buffer, mut bits) = (0u32, 0u32);
    for digit in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == digit).ok_or(LabelError::Form)?;
        buffer = ((buffer << 5) | u32::try_from(value).unwrap_or(0)) & 0xfff;
        bits = bits.saturating_add(5);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            let [.., byte] = (buffer >> bits).to_be_bytes();
            *to.next().ok_or(LabelError::Form)? = byte;
        }
    }
    if buffer & ((1 << bits) - 1) == 0 { Ok(bytes) } else { Err(LabelError::Form) }
}

/// CRC-32 (ISO-HDLC).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
            },
        )
    })
}

/// Both labels on any text: what parses prints as it was.
pub(super) fn fuzz_entry(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    if let Ok(label) = LabelA::parse(text) {
        assert_eq!(alloc::format!("{label}"), text.trim(), "one text for one label");
    }
    if let Ok(label) = LabelB::parse(text) {
        assert_eq!(LabelB::text(&label.serial, &label.secret).as_slice(), text.trim().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    /// Made with Python: `base64.b32encode` and `zlib.crc32` over the Name and N_1 of the framing vector.
    const A: &str = "GSO1:A:GS-1:0000000001:X543XMC45XS36LWR4JEXHCJLAAJR56XRSLWTVOGRYJLLTFMR25VA:CDFB5B3F";
    const B: &str = "GSO1:B:0000000001:QLX577EUJAOCFZBWMXWJDM4HXUYI5DGMCVWMWHQJQYKMI4ZRIH6A:88CFFAB6";

    fn checked(covered: &str) -> String {
        format!("{covered}:{:08X}", crc32(covered.as_bytes()))
    }

    fn label_b(secret: [u8; 32]) -> String {
        let text = LabelB::text("S-1", &Key::take(&mut secret.clone()));
        String::from_utf8(text.as_slice().to_vec()).unwrap()
    }

    #[test]
    fn base32_and_check_value_are_those_of_their_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let mut text = Vec::new();
        base32(b"foobar", |digit| text.push(digit));
        assert_eq!(text, b"MZXW6YTBOI");
    }

    #[test]
    fn label_a_parses_as_it_prints_and_any_wrong_character_is_found() {
        let label = LabelA { model: "GS-1".into(), serial: "0000000001".into(), device: EkName([0xab; 34]) };
        let text = format!("{label}");
        let parsed = LabelA::parse(&format!(" {text}\n")).unwrap();
        assert_eq!((&parsed.model, &parsed.serial), (&label.model, &label.serial));
        assert_eq!(parsed.device.as_bytes()[..2], [0, 0x0b], "the name algorithm is no part of the label");
        assert_eq!(parsed.device.as_bytes()[2..], label.device.as_bytes()[2..]);
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'Q' { b'R' } else { b'Q' };
            assert!(LabelA::parse(core::str::from_utf8(&wrong).unwrap()).is_err(), "character {at}");
        }
    }

    #[test]
    fn only_the_form_of_the_label_is_taken() {
        let name = A.split(':').nth(4).unwrap();
        assert!(LabelA::parse(&checked(&format!("GSO1:A:GS-1:1:{name}"))).is_ok());
        let last = name.strip_suffix('A').unwrap();
        for wrong in [
            format!("GSO1:B:GS-1:1:{name}"),
            format!("GSO1:A:gs-1:1:{name}"),
            format!("GSO1:A::1:{name}"),
            format!("GSO1:A:GS-1:123456789012345678901:{name}"),
            format!("GSO1:A:GS-1:{name}"),
            format!("GSO1:A:GS-1:1:2:{name}"),
            format!("GSO1:A:GS-1:1:{}", name.to_lowercase()),
            format!("GSO1:A:GS-1:1:{last}"),
            format!("GSO1:A:GS-1:1:{last}B"),
            format!("GSO1:A:GS-1:1:{last}=",),
        ] {
            assert_eq!(LabelA::parse(&checked(&wrong)), Err(LabelError::Form), "{wrong}");
        }
        assert_eq!(LabelA::parse("GSO1:A"), Err(LabelError::Form));
        assert_eq!(LabelA::parse(&"A".repeat(129)), Err(LabelError::Form));
    }

    #[test]
    fn labels_made_by_others_parse_and_print_alike() {
        assert_eq!(format!("{}", LabelA::parse(A).unwrap()), A);
        let label = LabelB::parse(B).unwrap();
        assert_eq!(LabelB::text(&label.serial, &label.secret).as_slice(), B.as_bytes());
    }

    #[test]
    fn label_b_parses_as_it_prints() {
        let secret: [u8; 32] = core::array::from_fn(|at| u8::try_from(at * at * 7 % 251).unwrap());
        let label = LabelB::parse(&label_b(secret)).unwrap();
        assert_eq!(label.serial, "S-1");
        assert!(bool::from(label.secret.ct_eq(&Key::take(&mut secret.clone()))));
        assert!(!format!("{label:?}").contains(&label_b(secret)[10..30]));
    }

    // Onboarding specification, row A23: a secret of less than 128 bits is refused
    #[test]
    fn a_label_with_a_short_or_poor_secret_is_refused() {
        let weak = |text: &str| assert_eq!(LabelB::parse(text).err(), Some(LabelError::Weak), "{text}");
        weak(&checked(&format!("GSO1:B:S-1:{}", "MZXW6YTBOI")));
        weak(&checked("GSO1:B:S-1:MZXW6YTBOIMZXW6YTBOIMZXWA"));
        let poor: [[u8; 32]; 5] = [
            [0; 32],
            core::array::from_fn(|at| u8::try_from(at).unwrap()),
            core::array::from_fn(|at| b'0' + u8::try_from(at * 7 % 10).unwrap()),
            // 15 drawn bytes, the rest zero; 16 drawn bytes twice.
            core::array::from_fn(|at| if at < 15 { u8::try_from(at * at * 7 % 251).unwrap() } else { 0 }),
            core::array::from_fn(|at| u8::try_from((at % 16) * (at % 16) * 7 % 251).unwrap()),
        ];
        poor.iter().for_each(|secret| weak(&label_b(*secret)));
        // Neither short nor whole: no label at all.
        assert_eq!(
            LabelB::parse(&checked(&format!("GSO1:B:S-1:{}", "A".repeat(40)))).err(),
            Some(LabelError::Form)
        );
    }
}
