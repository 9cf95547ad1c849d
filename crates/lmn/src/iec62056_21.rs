//! IEC 62056-21: the older language of the optical head, in readable lines. Identification, sign-on, data sets, and the
//! push that meters send without being asked (D0).

pub mod readout;

use alloc::vec::Vec;

use gridseal_types::ObisCode;

use crate::{
    reading::{Decimal, Quantity, Reading, Text, Unit, Value},
    wire::{DecodeError, Rule},
};

/// Longest line, and longest message, bytes.
pub const LINE_SIZE_MAX: usize = 256;
/// Longest message, bytes.
pub const MESSAGE_SIZE_MAX: usize = 1 << 14;

const STX: u8 = 0x02;
const ETX: u8 = 0x03;

const fn fail(field: &'static str, offset: usize, rule: Rule) -> DecodeError {
    DecodeError { field, offset, rule }
}

/// What a meter says first: `/XXXZident`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identification<'a> {
    /// Three letters of the manufacturer. A lower-case third letter means that the meter answers faster.
    pub manufacturer: [u8; 3],
    /// Baud rate character.
    pub baud: u8,
    /// The meter's own name.
    pub name: &'a [u8],
}

impl<'a> Identification<'a> {
    /// Reads the line, without its line end.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn parse(line: &'a [u8]) -> Result<Self, DecodeError> {
        let truncated = fail("identification", line.len(), Rule::Truncated { needed: 5, left: line.len() });
        let (head, name) = line.split_first_chunk::<5>().ok_or(truncated)?;
        let [slash, manufacturer @ .., baud] = *head;
        if slash != b'/' {
            return Err(fail("identification", 0, Rule::Unknown { found: u32::from(slash) }));
        }
        if let Some(at) = manufacturer.iter().position(|byte| !byte.is_ascii_alphabetic()) {
            return Err(fail("manufacturer", at.saturating_add(1), Rule::OutOfRange));
        }
        printable("identification", name, 5)?;
        Ok(Self { manufacturer, baud, name })
    }

    /// Baud rate of mode C that the character offers; `None` for other modes.
    #[must_use]
    pub const fn baud_rate(&self) -> Option<u32> {
        Some(match self.baud {
            b'0' => 300,
            b'1' => 600,
            b'2' => 1_200,
            b'3' => 2_400,
            b'4' => 4_800,
            b'5' => 9_600,
            b'6' => 19_200,
            _ => return None,
        })
    }

    /// The line.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = alloc::vec![b'/'];
        out.extend_from_slice(&self.manufacturer);
        out.push(self.baud);
        out.extend_from_slice(self.name);
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The request that wakes a meter: `/?address!`. At 300 baud, 7E1.
#[must_use]
pub fn sign_on(address: &[u8]) -> Vec<u8> {
    [b"/?", address, b"!\r\n"].concat()
}

/// The answer that chooses data readout at the offered rate.
#[must_use]
pub fn acknowledge(baud: u8) -> [u8; 6] {
    [0x06, b'0', baud, b'0', b'\r', b'\n']
}

/// One value of a data line: `A-B:C.D.E*F(value*unit)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Address as sent, such as `1-0:1.8.0*255` or `1.8.0`.
    pub address: &'a [u8],
    /// Value as sent.
    pub value: &'a [u8],
    /// Unit as sent, if there is one.
    pub unit: Option<&'a [u8]>,
    /// Place of the value within its line, from 0: maxima have their time in a second pair of brackets.
    pub place: usize,
}

impl<'a> Item<'a> {
    /// The OBIS code of a full or reduced address. What is left out of electricity's is A = 1, B = 0, F = 255.
    #[must_use]
    pub fn obis(&self) -> Option<ObisCode> {
        let mut groups = [1, 0, 0, 0, 0, 255];
        let (head, rest) = match self.address.iter().position(|byte| *byte == b':') {
            Some(at) => (self.address.get(..at), self.address.get(at.saturating_add(1)..)?),
            None => (None, self.address),
        };
        if let Some(head) = head {
            let mut parts = head.split(|byte| *byte == b'-');
            groups[0] = number(parts.next()?)?;
            groups[1] = number(parts.next()?)?;
            if parts.next().is_some() {
                return None;
            }
        }
        let (code, stored) = match rest.iter().position(|byte| matches!(byte, b'*' | b'&')) {
            Some(at) => (rest.get(..at)?, Some(rest.get(at.saturating_add(1)..)?)),
            None => (rest, None),
        };
        if let Some(stored) = stored {
            groups[5] = number(stored)?;
        }
        let mut parts = code.split(|byte| *byte == b'.');
        groups[2] = number(parts.next()?)?;
        groups[3] = number(parts.next()?)?;
        groups[4] = parts.next().map_or(Some(0), number)?;
        if parts.next().is_some() { None } else { Some(ObisCode::new(groups)) }
    }

    /// Whether digits without a unit are a measured value: the first of their line, under a code of a quantity. What
    /// stands behind it is a time, and codes of group 0 and from 96 on are numbers of devices, texts and states.
    fn is_measured(&self, obis: Option<ObisCode>) -> bool {
        let is_quantity = |code: ObisCode| matches!(code.groups(), [_, _, 1..=95, ..]);
        self.unit.is_some() || self.place == 0 && obis.is_some_and(is_quantity)
    }

    /// The value as a typed reading.
    #[must_use]
    pub fn reading(&self) -> Reading<'a> {
        let (unit, power) = self.unit.map_or((Unit::None, 0), unit);
        let obis = self.obis();
        let value = match decimal(self.value).filter(|_| self.is_measured(obis)) {
            Some(number) => Value::Number(number.scaled(power)),
            None if self.value.is_empty() => Value::None,
            None => Value::Text(Text::forward(self.value)),
        };
        let quantity = match unit {
            Unit::WattHour => Quantity::Energy,
            Unit::VarHour => Quantity::ReactiveEnergy,
            Unit::Watt => Quantity::Power,
            Unit::Volt => Quantity::Voltage,
            Unit::Ampere => Quantity::Current,
            Unit::Hertz => Quantity::Frequency,
            Unit::CubicMetre => Quantity::Volume,
            _ => Quantity::Unknown,
        };
        let mut reading = Reading::new(quantity, value);
        reading.unit = if matches!(value, Value::Number(_)) { unit } else { Unit::None };
        reading.obis = obis;
        if let Some([_, _, _, 8 | 9, tariff, _]) = reading.obis.map(|obis| *obis.groups()) {
            reading.tariff = u32::from(tariff);
        }
        reading
    }
}

fn number(digits: &[u8]) -> Option<u8> {
    if digits.is_empty() || digits.len() > 3 {
        return None;
    }
    // C and F in place of a number: clock and error, by convention 97 and 99 are theirs; not guessed here.
    digits.iter().try_fold(0u8, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A decimal number as written: its digits behind the point stay in its exponent.
fn decimal(text: &[u8]) -> Option<Decimal> {
    let (is_negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let mut mantissa = 0i128;
    let mut exponent = 0i16;
    let (mut seen_point, mut seen_digit) = (false, false);
    for byte in digits {
        match byte {
            b'.' | b',' if !seen_point => seen_point = true,
            b'0'..=b'9' => {
                seen_digit = true;
                mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(byte.wrapping_sub(b'0')))?;
                exponent = exponent.saturating_sub(i16::from(seen_point));
            }
            _ => return None,
        }
    }
    let mantissa = if is_negative { mantissa.saturating_neg() } else { mantissa };
    seen_digit.then_some(Decimal::new(mantissa, exponent))
}

/// Unit and power of ten of a unit as written.
fn unit(text: &[u8]) -> (Unit, i16) {
    match text {
        b"Wh" => (Unit::WattHour, 0),
        b"kWh" => (Unit::WattHour, 3),
        b"MWh" => (Unit::WattHour, 6),
        b"varh" | b"Varh" => (Unit::VarHour, 0),
        b"kvarh" | b"kVarh" => (Unit::VarHour, 3),
        b"W" => (Unit::Watt, 0),
        b"kW" => (Unit::Watt, 3),
        b"V" => (Unit::Volt, 0),
        b"A" => (Unit::Ampere, 0),
        b"mA" => (Unit::Ampere, -3),
        b"Hz" => (Unit::Hertz, 0),
        b"m3" => (Unit::CubicMetre, 0),
        _ => (Unit::PlainText, 0),
    }
}

fn printable(field: &'static str, bytes: &[u8], offset: usize) -> Result<(), DecodeError> {
    match bytes.iter().position(|byte| !matches!(byte, 0x20..=0x7E)) {
        None => Ok(()),
        Some(at) => Err(fail(field, offset.saturating_add(at), Rule::OutOfRange)),
    }
}

/// A message: identification and data, as pushed or as read out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Identification, when the message has one: a data block by itself has none.
    pub identification: Option<Identification<'a>>,
    /// Values in their order.
    pub items: Vec<Item<'a>>,
    /// Whether a check character was there, and right. Pushed messages mostly have none.
    pub is_checked: bool,
}

impl<'a> Message<'a> {
    /// Reads a message: `[/identification] [STX] lines ! [ETX BCC]`.
    ///
    /// # Errors
    /// [`DecodeError`]: a line that is none, no end, a check character that does not fit. Nothing of it is returned then.
    ///
    /// # Source
    /// LMN fact sheet, section 10 (D0).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_SIZE_MAX {
            return Err(fail("message", 0, Rule::TooLong { found: bytes.len(), limit: MESSAGE_SIZE_MAX }));
        }
        let mut message = Self { identification: None, items: Vec::new(), is_checked: false };
        let mut offset = 0usize;
        let mut block_from = None;
        loop {
            let rest = bytes.get(offset..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                let left = rest.len();
                return Err(fail(
                    "end of data",
                    offset,
                    Rule::Truncated { needed: left.saturating_add(1), left },
                ));
            };
            let line = rest.get(..length).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > LINE_SIZE_MAX {
                return Err(fail("line", offset, Rule::TooLong { found: line.len(), limit: LINE_SIZE_MAX }));
            }
            let next = offset.saturating_add(length).saturating_add(1);
            let line = match line.strip_prefix(&[STX]) {
                Some(line) => {
                    block_from = Some(offset.saturating_add(1));
                    line
                }
                None => line,
            };
            match line {
                [] => {}
                [b'/', ..] if message.identification.is_none() && message.items.is_empty() => {
                    message.identification = Some(Identification::parse(line)?);
                }
                [b'!'] => {
                    message.is_checked = check(bytes, block_from, next)?;
                    return Ok(message);
                }
                _ => items(line, offset, &mut message.items)?,
            }
            offset = next;
        }
    }

    /// The message as a meter pushes it: no check character.
    #[must_use]
    pub fn encode_push(&self) -> Vec<u8> {
        let mut out = self.identification.map_or_else(Vec::new, |identification| identification.encode());
        out.extend_from_slice(b"\r\n");
        self.encode_lines(&mut out);
        out
    }

    /// The data block of a readout with its check character.
    #[must_use]
    pub fn encode_block(&self) -> Vec<u8> {
        let mut out = alloc::vec![STX];
        self.encode_lines(&mut out);
        out.push(ETX);
        let bcc = out.iter().skip(1).fold(0, |bcc, byte| bcc ^ byte);
        out.push(bcc);
        out
    }

    fn encode_lines(&self, out: &mut Vec<u8>) {
        let mut first = true;
        for item in &self.items {
            if item.place == 0 {
                if !first {
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(item.address);
            }
            first = false;
            out.push(b'(');
            out.extend_from_slice(item.value);
            if let Some(unit) = item.unit {
                out.push(b'*');
                out.extend_from_slice(unit);
            }
            out.push(b')');
        }
        out.extend_from_slice(if first { b"!\r\n" } else { b"\r\n!\r\n" });
    }
}

fn items<'a>(line: &'a [u8], offset: usize, items: &mut Vec<Item<'a>>) -> Result<(), DecodeError> {
    printable("line", line, offset)?;
    let open = line.iter().position(|byte| *byte == b'(');
    let open = open.ok_or(fail("line", offset, Rule::Mismatch { other: "address(value)" }))?;
    let (address, mut rest) = line.split_at_checked(open).unwrap_or((line, &[]));
    let mut place = 0usize;
    while let Some(inner) = rest.strip_prefix(b"(") {
        let at = offset.saturating_add(line.len().saturating_sub(rest.len()));
        let close = inner.iter().position(|byte| *byte == b')');
        let close = close.ok_or(fail("value", at, Rule::Truncated { needed: 1, left: 0 }))?;
        let text = inner.get(..close).unwrap_or_default();
        let (value, unit) = match text.iter().position(|byte| *byte == b'*') {
            Some(star) => (text.get(..star).unwrap_or_default(), text.get(star.saturating_add(1)..)),
            None => (text, None),
        };
        items.push(Item { address, value, unit, place });
        place = place.saturating_add(1);
        rest = inner.get(close.saturating_add(1)..).unwrap_or_default();
    }
    if rest.is_empty() {
        return Ok(());
    }
    let at = offset.saturating_add(line.len().saturating_sub(rest.len()));
    Err(fail("line", at, Rule::Trailing { count: rest.len() }))
}

fn check(bytes: &[u8], block_from: Option<usize>, end: usize) -> Result<bool, DecodeError> {
    match (block_from, bytes.get(end..).unwrap_or_default()) {
        (_, []) if block_from.is_none() => Ok(false),
        (Some(from), [ETX, bcc]) => {
            let covered = bytes.get(from..end.saturating_add(1)).unwrap_or_default();
            let computed = covered.iter().fold(0, |sum, byte| sum ^ byte);
            if computed == *bcc {
                return Ok(true);
            }
            let (found, computed) = (u16::from(*bcc), u16::from(computed));
            Err(fail("check character", end.saturating_add(1), Rule::Checksum { found, computed }))
        }
        (Some(_), rest) => {
            Err(fail("check character", end, Rule::Truncated { needed: 2, left: rest.len().min(2) }))
        }
        (None, rest) => Err(fail("message", end, Rule::Trailing { count: rest.len() })),
    }
}

/// Finds messages in a stream: each begins with `/` at the start of a line and ends with a line `!`, and what follows it
/// when a block was open. Memory is bounded by [`MESSAGE_SIZE_MAX`].
///
/// A meter sends seven bits with even parity, or eight without. When one byte of a message has its eighth bit set, all
/// of its bytes must have even parity: a pushed message has no other check.
#[derive(Debug, Default)]
pub struct Receiver {
    buffer: Vec<u8>,
    /// Bytes that still belong to the message after its `!` line.
    wanted: Option<usize>,
    has_parity: bool,
    has_odd: bool,
    damaged: u64,
}

impl Receiver {
    /// A receiver between messages.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), wanted: None, has_parity: false, has_odd: false, damaged: 0 }
    }

    /// Messages that were dropped for a character with wrong parity.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Bytes of a message that has begun.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Takes bytes as they come, parity bit or not, and calls `found` with each message.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(&[u8])) {
        for raw in bytes {
            let byte = raw & 0x7F;
            self.has_parity |= *raw > 0x7F;
            self.has_odd |= !raw.count_ones().is_multiple_of(2);
            if let Some(left) = self.wanted {
                self.buffer.push(byte);
                self.wanted = left.checked_sub(1).filter(|left| *left > 0);
                if self.wanted.is_none() {
                    self.finish(&mut found);
                }
                continue;
            }
            match byte {
                b'/' if self.buffer.is_empty() || self.buffer.ends_with(b"\n") => {
                    self.buffer.clear();
                    self.buffer.push(byte);
                    self.has_parity = *raw > 0x7F;
                    self.has_odd = !raw.count_ones().is_multiple_of(2);
                }
                _ if self.buffer.is_empty() => {}
                _ => self.buffer.push(byte),
            }
            if self.buffer.ends_with(b"\n!\r\n") {
                match self.buffer.contains(&STX) {
                    true => self.wanted = Some(2),
                    false => self.finish(&mut found),
                }
            } else if self.buffer.len() >= MESSAGE_SIZE_MAX {
                self.buffer.clear();
            }
        }
    }

    fn finish(&mut self, found: &mut impl FnMut(&[u8])) {
        if self.has_parity && self.has_odd {
            self.damaged = self.damaged.saturating_add(1);
        } else {
            found(&self.buffer);
        }
        self.buffer.clear();
    }
}

/// Bytes as a message and as a stream, for the fuzzer: what was read is written and read as the same.
///
/// # Panics
/// Where that does not hold.
#[doc(hidden)]
pub fn fuzz_entry(bytes: &[u8]) {
    let mut receiver = Receiver::new();
    receiver.push(bytes, |message| {
        let _ = Message::parse(message);
    });
    assert!(receiver.pending() <= MESSAGE_SIZE_MAX, "memory is bounded");
    if let Ok(message) = Message::parse(bytes) {
        message.items.iter().for_each(|item| {
            let _ = item.reading();
        });
        let block = message.encode_block();
        if let Ok(again) = Message::parse(&block) {
            assert_eq!(again.items, message.items, "what was read is written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSH: &[u8] =
        b"/ESY5Q3DA1004 V3.04\r\n\r\n1-0:0.0.0*255(0273011003684)\r\n1-0:1.8.0*255(00026107.7034231*kWh)\r\n\
        1-0:21.7.0*255(000200.13*W)\r\n1-0:1.6.0(03.25*kW)(2611251300)\r\n!\r\n";

    #[test]
    fn a_push_is_read_and_written_as_it_was() {
        let message = Message::parse(PUSH).unwrap();
        let identification = message.identification.unwrap();
        assert_eq!((identification.manufacturer, identification.baud_rate()), (*b"ESY", Some(9_600)));
        let energy = message.items[1].reading();
        assert_eq!(energy.value, Value::Number(Decimal::new(261_077_034_231, -4)));
        assert_eq!((energy.unit, energy.quantity), (Unit::WattHour, Quantity::Energy));
        assert_eq!(energy.obis, Some(ObisCode::ACTIVE_ENERGY_IMPORT));
        assert_eq!((message.items[4].place, message.items[4].value), (1, &b"2611251300"[..]));
        assert!(!message.is_checked);
        assert_eq!(message.encode_push(), PUSH);
    }

    #[test]
    fn a_block_has_a_check_character_that_no_changed_bit_passes() {
        let message = Message { identification: None, ..Message::parse(PUSH).unwrap() };
        let block = message.encode_block();
        let read = Message::parse(&block).unwrap();
        assert!(read.is_checked && read.items == message.items);
        for bit in 0..block.len() * 8 {
            let mut changed = block.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let told = Message::parse(&changed);
            // The one change that a parity sum over the whole cannot see is one that takes the block's frame away.
            assert!(!matches!(&told, Ok(read) if read.is_checked), "bit {bit}");
        }
        for cut in 0..block.len() {
            assert!(Message::parse(&block[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn lines_that_are_none_name_the_place() {
        let of = |line: &str| Message::parse(alloc::format!("{line}\r\n!\r\n").as_bytes()).unwrap_err();
        assert_eq!((of("1.8.0").field, of("1.8.0").offset), ("line", 0));
        assert_eq!((of("1.8.0(1").field, of("1.8.0(1").offset), ("value", 5));
        assert_eq!((of("1.8.0(1)x").field, of("1.8.0(1)x").offset), ("line", 8));
        assert_eq!(of("1.8.0(\u{1}1)").rule, Rule::OutOfRange);
        assert!(Message::parse(&alloc::vec![b'1'; MESSAGE_SIZE_MAX + 1]).is_err());
        assert!(Identification::parse(b"/E5Y5x").is_err() && Identification::parse(b"/ES").is_err());
    }

    #[test]
    fn what_is_no_measured_value_is_never_shown_as_one() {
        let read = |line: &'static [u8]| {
            let message = Message::parse(line).unwrap();
            message.items.iter().map(Item::reading).collect::<Vec<_>>()
        };
        // A serial number keeps its zeros; the time of a maximum is no second maximum; a clock is no number.
        let text = |text: &'static [u8]| Value::Text(Text::forward(text));
        assert_eq!(read(b"1-0:0.0.0*255(0273011003684)\r\n!\r\n")[0].value, text(b"0273011003684"));
        assert_eq!(read(b"96.1.0(0001)\r\n!\r\n")[0].value, text(b"0001"));
        let maximum = read(b"1.6.0(03.25*kW)(2611251300)\r\n!\r\n");
        assert_eq!(maximum[0].value, Value::Number(Decimal::new(325, 1)));
        assert_eq!(maximum[1].value, text(b"2611251300"));
        assert_eq!(read(b"C.1(0042)\r\n!\r\n")[0].value, text(b"0042"));
        // A power factor has no unit and is a number.
        assert_eq!(read(b"13.7.0(0.98)\r\n!\r\n")[0].value, Value::Number(Decimal::new(98, -2)));
    }

    #[test]
    fn a_pushed_message_with_a_damaged_character_is_dropped() {
        let on_the_wire: Vec<u8> =
            PUSH.iter().map(|byte| if byte.count_ones() % 2 == 1 { byte | 0x80 } else { *byte }).collect();
        for bit in 0..on_the_wire.len() * 8 {
            let mut changed = on_the_wire.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut receiver = Receiver::new();
            receiver.push(&changed, |message| panic!("bit {bit}: {message:?}"));
            let mut found = Vec::new();
            (0..3).for_each(|_| receiver.push(&on_the_wire, |message| found.push(message.to_vec())));
            assert!(!found.is_empty() && found.iter().all(|message| message == PUSH), "bit {bit}");
        }
        let mut receiver = Receiver::new();
        let mut changed = on_the_wire;
        changed[90] ^= 1;
        receiver.push(&changed, |_| panic!("damaged"));
        assert_eq!(receiver.damaged(), 1);
    }

    #[test]
    fn reduced_addresses_are_of_electricity_and_nothing_is_guessed() {
        let obis = |address: &'static str| {
            Item { address: address.as_bytes(), value: b"", unit: None, place: 0 }.obis()
        };
        assert_eq!(obis("1.8.0"), Some(ObisCode::ACTIVE_ENERGY_IMPORT));
        assert_eq!(obis("1-0:1.8.0*255"), Some(ObisCode::ACTIVE_ENERGY_IMPORT));
        assert_eq!(obis("C.1"), None);
        assert_eq!(obis("1-0-0:1.8.0"), None);
        assert_eq!(obis("1.8.0.0"), None);
        assert_eq!(obis("1.256.0"), None);
    }

    #[test]
    fn messages_are_found_in_a_stream_with_noise_and_parity_bits() {
        let mut receiver = Receiver::new();
        let mut found = Vec::new();
        receiver.push(b"8.0(1)\r\n!\r\n", |message| found.push(message.to_vec()));
        receiver.push(&PUSH[..40], |message| found.push(message.to_vec()));
        let parity: Vec<u8> =
            PUSH.iter().map(|byte| if byte.count_ones() % 2 == 1 { byte | 0x80 } else { *byte }).collect();
        receiver.push(b"\n", |message| found.push(message.to_vec()));
        receiver.push(&parity, |message| found.push(message.to_vec()));
        assert_eq!(found, [PUSH]);
        receiver.push(&alloc::vec![b'/'; MESSAGE_SIZE_MAX * 3], |_| panic!("no message"));
        assert!(receiver.pending() <= MESSAGE_SIZE_MAX);
    }

    #[test]
    fn the_sign_on_is_what_the_standard_sends() {
        assert_eq!(sign_on(b""), b"/?!\r\n");
        assert_eq!(acknowledge(b'5'), *b"\x06050\r\n");
    }
}
