//! Values as they are written on the command line.

use anyhow::{Result, bail};
use gridseal_dlms::wire::{BitString, Data, DateTime};

use crate::tools::{Usage, sts::parse_rfc3339};

/// Levels of structures and arrays that are read.
const DEPTH_MAX: usize = 8;

/// One value: typed (`u32:5`), encoded in hex, a structure of values in braces or an array of them in brackets.
pub fn parse(text: &str) -> Result<Vec<u8>> {
    match text.as_bytes() {
        [b'{' | b'[', ..] => {
            let mut rest = text;
            let value = group(&mut rest, DEPTH_MAX).filter(|_| rest.is_empty());
            value.ok_or_else(|| {
                Usage(format!("{text}: no structure {{a,b}} or array [a,b] of typed values")).into()
            })
        }
        _ => simple(text),
    }
}

/// A value inside a structure or an array, off the front.
fn group(rest: &mut &str, depth: usize) -> Option<Vec<u8>> {
    let (tag, end) = match rest.as_bytes().first()? {
        b'{' => (2, '}'),
        b'[' => (1, ']'),
        _ => {
            let size = rest.find([',', '}', ']']).unwrap_or(rest.len());
            let (value, after) = rest.split_at_checked(size)?;
            *rest = after;
            return simple(value).ok();
        }
    };
    let depth = depth.checked_sub(1)?;
    *rest = rest.get(1..)?;
    let (mut count, mut contents) = (0u8, Vec::new());
    while !rest.starts_with(end) {
        if count > 0 {
            *rest = rest.strip_prefix(',')?;
        }
        contents.extend(group(rest, depth)?);
        count = count.checked_add(1).filter(|count| *count < 0x80)?;
    }
    *rest = rest.get(1..)?;
    let value = [vec![tag, count], contents].concat();
    Data::from_bytes(&value).is_ok().then_some(value)
}

fn simple(text: &str) -> Result<Vec<u8>> {
    let (kind, value) = text.split_once(':').unwrap_or((text, ""));
    let Some(encoded) = typed(kind, value) else {
        let Some(bytes) = hex::decode(text).ok().filter(|bytes| Data::from_bytes(bytes).is_ok()) else {
            bail!(Usage(format!("{text}: neither a typed value such as u32:5 nor one encoded value in hex")));
        };
        return Ok(bytes);
    };
    encoded.ok_or_else(|| Usage(format!("{text}: no value of type {kind}")).into())
}

/// `None` for a type that is not known, `Some(None)` for a value that it does not have.
fn typed(kind: &str, value: &str) -> Option<Option<Vec<u8>>> {
    fn number<'a, T: std::str::FromStr>(text: &str, make: fn(T) -> Data<'a>) -> Option<Vec<u8>> {
        text.parse().ok().map(|value| make(value).to_bytes())
    }
    Some(match kind {
        "null" if value.is_empty() => Some(Data::Null.to_bytes()),
        "bool" => number(value, Data::Boolean),
        "i8" => number(value, Data::Integer),
        "i16" => number(value, Data::Long),
        "i32" => number(value, Data::DoubleLong),
        "i64" => number(value, Data::Long64),
        "u8" => number(value, Data::Unsigned),
        "u16" => number(value, Data::LongUnsigned),
        "u32" => number(value, Data::DoubleLongUnsigned),
        "u64" => number(value, Data::Long64Unsigned),
        "enum" => number(value, Data::Enum),
        // What is too large is read as infinite.
        "f32" => number(value, Data::Float32).filter(|_| is_named(value) || is_finite::<f32>(value)),
        "f64" => number(value, Data::Float64).filter(|_| is_named(value) || is_finite::<f64>(value)),
        "str" => value.is_ascii().then(|| Data::VisibleString(value).to_bytes()),
        "utf8" => Some(Data::Utf8String(value).to_bytes()),
        "oct" => hex::decode(value).ok().map(|bytes| Data::OctetString(&bytes).to_bytes()),
        "bcd" if value.len() == 2 && value.bytes().all(|digit| digit.is_ascii_digit()) => {
            u8::from_str_radix(value, 16).ok().map(|value| Data::Bcd(value).to_bytes())
        }
        "bcd" => None,
        "bits" => bits(value),
        "time" => time(value),
        _ => return None,
    })
}

/// Whether infinity or no number is what is meant.
fn is_named(text: &str) -> bool {
    !text.bytes().any(|octet| octet.is_ascii_digit())
}

fn is_finite<T: std::str::FromStr + Into<f64>>(text: &str) -> bool {
    text.parse::<T>().is_ok_and(|value| value.into().is_finite())
}

fn bits(digits: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0u8; digits.len().div_ceil(8)];
    for (index, digit) in digits.chars().enumerate() {
        match digit {
            '0' => {}
            '1' => *bytes.get_mut(index / 8)? |= 0x80 >> (index % 8),
            _ => return None,
        }
    }
    BitString::new(digits.len(), &bytes).map(|bits| Data::BitString(bits).to_bytes())
}

/// A time with its zone, as the octet-string of 12 that most meters take.
fn time(text: &str) -> Option<Vec<u8>> {
    let at = parse_rfc3339(text).ok()?;
    let zone = text.get(text.len().checked_sub(6)?..).filter(|zone| zone.starts_with(['+', '-']));
    let offset = match zone.and_then(|zone| zone.get(1..)?.split_once(':')) {
        None => 0,
        Some((hours, minutes)) => hours.parse::<i16>().ok()? * 60 + minutes.parse::<i16>().ok()?,
    };
    // COSEM counts from local time to UTC.
    let deviation = if zone.is_some_and(|zone| zone.starts_with('-')) { offset } else { -offset };
    DateTime::from_utc(at, deviation, 0).map(|at| Data::OctetString(&at.to_bytes()).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_values_are_encoded_and_what_does_not_fit_is_refused() {
        for (text, hex) in [
            ("null", "00"),
            ("bool:true", "0301"),
            ("i8:-1", "0fff"),
            ("u16:900", "120384"),
            ("u32:5", "0600000005"),
            ("enum:3", "1603"),
            ("str:abc", "0a03616263"),
            ("oct:00ff", "090200ff"),
            ("bits:0101", "040450"),
            ("bcd:42", "0d42"),
            ("f32:1.5", "173fc00000"),
            ("f32:-inf", "17ff800000"),
            ("020211011102", "020211011102"),
            ("time:2026-11-25T12:00:00+01:00", "090c07ea0b19030c000000ffc400"),
            ("time:2026-11-25T12:00:00Z", "090c07ea0b19030c000000000000"),
            ("time:2026-11-25T12:00:00-05:30", "090c07ea0b19030c000000014a00"),
            ("[{enum:0,oct:0011},{enum:2,oct:22}]", "0102020216000902001102021602090122"),
            ("{}", "0200"),
            ("[0f00,{u8:1}]", "01020f0002011101"),
        ] {
            assert_eq!(parse(text).map(hex::encode).unwrap(), hex, "{text}");
        }
        for text in [
            "{",
            "[u8:1",
            "{u8:1]",
            "{u8:1}x",
            "[u8:1,]",
            "[,]",
            "{u8:256}",
            "[[[[[[[[[u8:1]]]]]]]]]",
            "",
            "u8:256",
            "u32:-1",
            "bool:yes",
            "oct:0",
            "bits:012",
            "0600",
            "x:1",
            "060000000500",
            "bcd:4",
            "bcd:4a",
            "bcd:+1",
            "f32:1e39",
            "f64:1e309",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
