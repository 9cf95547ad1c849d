//! Bodies of EST: base64, and certificates in a PKCS#7 that signs nothing.
//!
//! # Source
//! RFC 7030 sections 4.1.3 and 4.2, RFC 8951 section 3 (base64 as it is, no transfer encoding), RFC 5652 section 5.1
//! (SignedData), RFC 4648 section 4 (base64).

use gridseal_trust::csr::CSR_SIZE_MAX;

/// Largest request body, bytes: a request in base64, with line ends.
pub const BODY_SIZE_MAX: usize = CSR_SIZE_MAX * 2;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Characters in a line.
const LINE: usize = 64;

/// id-signedData.
const SIGNED_DATA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// ContentInfo of type id-data without content.
const NO_DATA: [u8; 13] = [0x30, 11, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// Version 1, no digest algorithms.
const BEGIN: [u8; 5] = [2, 1, 1, 0x31, 0];
/// No signers.
const END: [u8; 2] = [0x31, 0];

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = length.iter().position(|byte| *byte != 0).map_or(&[][..], |at| length.split_at(at).1);
    match (content.len(), u8::try_from(significant.len())) {
        (0..=0x7f, _) => der.push(significant.first().copied().unwrap_or(0)),
        (_, count) => {
            der.push(0x80 | count.unwrap_or(0x7f));
            der.extend_from_slice(significant);
        }
    }
    der.extend(content);
    der
}

/// Certificates, DER each, as the body of an answer.
#[must_use]
pub fn certificates_only(certificates: &[&[u8]]) -> Vec<u8> {
    let signed = tlv(0x30, &[&BEGIN, &NO_DATA, &tlv(0xa0, certificates), &END]);
    encode(&tlv(0x30, &[&SIGNED_DATA, &tlv(0xa0, &[&signed])]))
}

fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() / 3 * 4 + bytes.len() / 48 + 8);
    for chunk in bytes.chunks(LINE / 4 * 3) {
        for three in chunk.chunks(3) {
            let mut group = [0; 4];
            group.iter_mut().skip(1).zip(three).for_each(|(to, from)| *to = *from);
            let value = u32::from_be_bytes(group);
            for place in 0..4 {
                let letter = usize::try_from(value >> (18 - 6 * place) & 63).unwrap_or_default();
                let is_there = place <= three.len();
                text.push(if is_there { ALPHABET.get(letter).copied().unwrap_or_default() } else { b'=' });
            }
        }
        text.push(b'\n');
    }
    text
}

/// The bytes of a body in base64. Line ends and spaces between characters are nothing.
///
/// `None` when it is none: another character, a wrong length, something after the padding, bits that are not zero.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let letters: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let mut bytes = Vec::with_capacity(letters.len() / 4 * 3);
    let (groups, rest) = letters.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut is_padded = false;
    for group in groups {
        if std::mem::replace(&mut is_padded, group.contains(&b'=')) {
            return None;
        }
        let count = group.iter().position(|letter| *letter == b'=').unwrap_or(4);
        let (known, padding) = group.split_at(count);
        if count < 2 || padding.iter().any(|letter| *letter != b'=') {
            return None;
        }
        let mut value = 0_u32;
        for letter in known {
            let place = ALPHABET.iter().position(|of| of == letter)?;
            value = value << 6 | u32::try_from(place).ok()?;
        }
        value <<= 6 * (4 - count);
        let [_, made @ ..] = value.to_be_bytes();
        let (made, unused) = made.split_at(count - 1);
        if unused.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(made);
    }
    Some(bytes)
}

/// Reads what it can, for the fuzzer: what decodes is encoded to what decodes to the same.
pub fn fuzz_entry(bytes: &[u8]) {
    if let Some(decoded) = decode(bytes) {
        assert_eq!(decode(&encode(&decoded)), Some(decoded));
    }
    let _ = crate::is_for_common_name(bytes, "name");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648 section 10.
    const VECTORS: [(&str, &str); 7] = [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ];

    #[test]
    fn rfc_4648_vectors_both_ways() {
        for (plain, text) in VECTORS {
            assert_eq!(decode(text.as_bytes()), Some(plain.as_bytes().to_vec()), "{text}");
            let encoded = encode(plain.as_bytes());
            assert_eq!(String::from_utf8_lossy(&encoded).trim_end(), text);
        }
        for length in 0..200 {
            let bytes: Vec<u8> = (0..length).map(|at: u32| (at * 7) as u8).collect();
            assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn what_is_no_base64_is_nothing() {
        for text in
            ["Z", "Zg=", "Zg==Zg==", "Zm9v=", "Z===", "====", "Zh==", "Zm9=", "Zm9v-g==", "Zg=a", "Z\u{e9}=="]
        {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn lengths_are_definite_and_short_where_they_can_be() {
        assert_eq!(tlv(4, &[]), [4, 0]);
        assert_eq!(tlv(4, &[&[7; 127]]).get(..3), Some(&[4, 127, 7][..]));
        assert_eq!(tlv(4, &[&[7; 128]]).get(..4), Some(&[4, 0x81, 128, 7][..]));
        assert_eq!(tlv(4, &[&[7; 300]]).get(..5), Some(&[4, 0x82, 1, 44, 7][..]));
    }
}
