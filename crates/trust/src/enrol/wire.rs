//! Deterministic CBOR: one reader that refuses every other form, one writer that makes no other.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use gridseal_types::Code;

/// Deepest nesting of arrays and maps.
pub const DEPTH_MAX: usize = 8;

const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const SIMPLE: u8 = 7;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

/// The bytes are not in the deterministic form that the message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {rule}")]
pub struct FormatError {
    /// Where reading stopped.
    pub offset: usize,
    /// The rule that is broken.
    pub rule: &'static str,
}

impl From<FormatError> for Code {
    fn from(_: FormatError) -> Self {
        Self::Format
    }
}

/// Result of reading.
pub type Read<T> = Result<T, FormatError>;

/// Cursor over encoded bytes. Each method takes one item in its shortest form or refuses.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    depth: usize,
}

impl<'b> Reader<'b> {
    /// Reads from the start.
    #[must_use]
    pub const fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// Decodes a whole item with nothing after it.
    ///
    /// # Errors
    /// [`FormatError`] as given by `item`, or for trailing bytes.
    pub fn whole<T>(bytes: &'b [u8], item: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        let mut reader = Self::new(bytes);
        let value = item(&mut reader)?;
        if reader.at == bytes.len() { Ok(value) } else { reader.fail("trailing bytes") }
    }

    /// Refuses at the current place.
    ///
    /// # Errors
    /// Always.
    pub const fn fail<T>(&self, rule: &'static str) -> Read<T> {
        Err(FormatError { offset: self.at, rule })
    }

    /// How many bytes were taken.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// The byte taken last.
    pub(super) fn byte_before(&self) -> Option<u8> {
        self.bytes.get(self.at.checked_sub(1)?).copied()
    }

    fn take(&mut self, count: usize) -> Read<&'b [u8]> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(slice) => {
                self.at = self.at.saturating_add(count);
                Ok(slice)
            }
            None => self.fail("ends too early"),
        }
    }

    fn number<const N: usize>(&mut self) -> Read<u64> {
        let bytes = self.take(N)?;
        Ok(bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    /// Major type and argument of the next head, which must be in its shortest form.
    fn head(&mut self) -> Read<(u8, u64)> {
        let first = match self.take(1)? {
            [first] => *first,
            _ => return self.fail("ends too early"),
        };
        let (argument, least) = match first & 0x1f {
            small @ 0..=23 => (u64::from(small), 0),
            24 => (self.number::<1>()?, 24),
            25 => (self.number::<2>()?, 0x100),
            26 => (self.number::<4>()?, 0x1_0000),
            27 => (self.number::<8>()?, 0x1_0000_0000),
            _ => return self.fail("indefinite or reserved length"),
        };
        if argument < least {
            return self.fail("not the shortest form");
        }
        Ok((first >> 5, argument))
    }

    fn expect(&mut self, major: u8, rule: &'static str) -> Read<u64> {
        match self.head()? {
            (found, argument) if found == major => Ok(argument),
            _ => self.fail(rule),
        }
    }

    /// An unsigned integer in a range.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn uint(&mut self, range: RangeInclusive<u64>) -> Read<u64> {
        let value = self.expect(UINT, "unsigned integer expected")?;
        if range.contains(&value) { Ok(value) } else { self.fail("integer out of range") }
    }

    /// An unsigned integer of 32 bits.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn uint32(&mut self) -> Read<u32> {
        let value = self.uint(0..=u64::from(u32::MAX))?;
        u32::try_from(value).or_else(|_| self.fail("integer out of range"))
    }

    /// An unsigned integer of 16 bits, not zero: a suite.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn suite(&mut self) -> Read<u16> {
        let value = self.uint(1..=u64::from(u16::MAX))?;
        u16::try_from(value).or_else(|_| self.fail("integer out of range"))
    }

    /// A given constant.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn constant(&mut self, value: u64) -> Read<()> {
        self.uint(value..=value).map(drop)
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn boolean(&mut self) -> Read<bool> {
        match self.take(1)? {
            [FALSE] => Ok(false),
            [TRUE] => Ok(true),
            _ => self.fail("boolean expected"),
        }
    }

    /// Whether the next item is null; it is taken if so.
    #[must_use]
    pub fn null(&mut self) -> bool {
        let found = self.bytes.get(self.at) == Some(&NULL);
        self.at = self.at.saturating_add(usize::from(found));
        found
    }

    fn length(&mut self, argument: u64, range: &RangeInclusive<usize>) -> Read<usize> {
        match usize::try_from(argument) {
            Ok(length) if range.contains(&length) => Ok(length),
            _ => self.fail("length out of range"),
        }
    }

    /// A byte string with a length in a range.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn bytes(&mut self, range: RangeInclusive<usize>) -> Read<&'b [u8]> {
        let argument = self.expect(BYTES, "byte string expected")?;
        let length = self.length(argument, &range)?;
        self.take(length)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn fixed<const N: usize>(&mut self) -> Read<[u8; N]> {
        let bytes = self.bytes(N..=N)?;
        bytes.try_into().or_else(|_| self.fail("length out of range"))
    }

    /// A text string with a length in a range, bytes.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn text(&mut self, range: RangeInclusive<usize>) -> Read<&'b str> {
        let argument = self.expect(TEXT, "text string expected")?;
        let length = self.length(argument, &range)?;
        let bytes = self.take(length)?;
        core::str::from_utf8(bytes).or_else(|_| self.fail("text is not UTF-8"))
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Read<T>) -> Read<T> {
        if self.depth >= DEPTH_MAX {
            return self.fail("nested too deep");
        }
        self.depth = self.depth.saturating_add(1);
        let value = inner(self)?;
        self.depth = self.depth.saturating_sub(1);
        Ok(value)
    }

    /// An array of a number of elements in a range; `inner` gets the number and takes them all.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn array<T>(
        &mut self,
        range: RangeInclusive<usize>,
        inner: impl FnOnce(&mut Self, usize) -> Read<T>,
    ) -> Read<T> {
        let argument = self.expect(ARRAY, "array expected")?;
        let count = self.length(argument, &range)?;
        self.nested(|reader| inner(reader, count))
    }

    /// An array of equal elements.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn list<T>(
        &mut self,
        range: RangeInclusive<usize>,
        mut element: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        self.array(range, |reader, count| (0..count).map(|_| element(reader)).collect())
    }

    /// A map with integer keys in ascending order. `member` takes the value of a key it knows and says so; an unknown
    /// key below zero is skipped, an unknown one above zero is critical and refused, zero is refused always.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn map(&mut self, mut member: impl FnMut(&mut Self, i64) -> Read<bool>) -> Read<()> {
        let count = self.expect(MAP, "map expected")?;
        self.nested(|reader| {
            let mut previous: &[u8] = &[];
            for _ in 0..count {
                let start = reader.at;
                let key = reader.key()?;
                let encoded = reader.bytes.get(start..reader.at).unwrap_or_default();
                if encoded <= previous {
                    return reader.fail("map keys not ascending");
                }
                previous = encoded;
                if !member(reader, key)? {
                    if key > 0 {
                        return reader.fail("unknown critical member");
                    }
                    reader.skip()?;
                }
            }
            Ok(())
        })
    }

    fn key(&mut self) -> Read<i64> {
        let (major, argument) = self.head()?;
        let value = i64::try_from(argument).or_else(|_| self.fail("map key out of range"))?;
        match (major, value) {
            (UINT, 0) => self.fail("map key zero"),
            (UINT, _) => Ok(value),
            (NEGATIVE, _) => Ok(-1 - value),
            _ => self.fail("map key is not an integer"),
        }
    }

    /// Takes one item of any allowed kind: no tags, no floats, no undefined.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn skip(&mut self) -> Read<()> {
        let (major, argument) = self.head()?;
        match major {
            UINT | NEGATIVE => Ok(()),
            BYTES | TEXT => {
                let length = self.length(argument, &(0..=usize::MAX))?;
                let bytes = self.take(length)?;
                if major == TEXT && core::str::from_utf8(bytes).is_err() {
                    return self.fail("text is not UTF-8");
                }
                Ok(())
            }
            ARRAY => self.nested(|reader| (0..argument).try_for_each(|_| reader.skip())),
            MAP => self.nested(|reader| reader.skip_pairs(argument)),
            SIMPLE if (20..=22).contains(&argument) => Ok(()),
            _ => self.fail("tag, float or undefined"),
        }
    }

    fn skip_pairs(&mut self, count: u64) -> Read<()> {
        let mut previous: &[u8] = &[];
        for _ in 0..count {
            let start = self.at;
            self.skip()?;
            let encoded = self.bytes.get(start..self.at).unwrap_or_default();
            if encoded <= previous {
                return self.fail("map keys not ascending");
            }
            previous = encoded;
            self.skip()?;
        }
        Ok(())
    }

    /// The value of a member that must be there.
    ///
    /// # Errors
    /// [`FormatError`] when it is absent.
    pub fn required<T>(&self, member: Option<T>) -> Read<T> {
        match member {
            Some(value) => Ok(value),
            None => self.fail("member missing"),
        }
    }
}

/// Makes encoded bytes. The caller gives map members in ascending order of their keys.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Nothing written yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn head(&mut self, major: u8, argument: u64) -> &mut Self {
        let [.., b1, b0] = argument.to_be_bytes();
        let major = major << 5;
        match argument {
            0..=23 => self.0.push(major | b0),
            24..=0xff => self.0.extend_from_slice(&[major | 24, b0]),
            0x100..=0xffff => self.0.extend_from_slice(&[major | 25, b1, b0]),
            0x1_0000..=0xffff_ffff => {
                self.0.push(major | 26);
                self.0.extend_from_slice(argument.to_be_bytes().get(4..).unwrap_or_default());
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend_from_slice(&argument.to_be_bytes());
            }
        }
        self
    }

    fn length(&mut self, major: u8, length: usize) -> &mut Self {
        self.head(major, u64::try_from(length).unwrap_or(u64::MAX))
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: impl Into<u64>) -> &mut Self {
        self.head(UINT, value.into())
    }

    /// The key of a map member; below zero for extensions.
    pub fn key(&mut self, key: i64) -> &mut Self {
        match u64::try_from(key) {
            Ok(key) => self.head(UINT, key),
            Err(_) => self.head(NEGATIVE, (!key).unsigned_abs()),
        }
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.length(BYTES, value.len());
        self.0.extend_from_slice(value);
        self
    }

    /// A text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.length(TEXT, value.len());
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// A boolean.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(if value { TRUE } else { FALSE });
        self
    }

    /// Null.
    pub fn null(&mut self) -> &mut Self {
        self.0.push(NULL);
        self
    }

    /// Head of an array of `count` elements, which follow.
    pub fn array(&mut self, count: usize) -> &mut Self {
        self.length(ARRAY, count)
    }

    /// Head of a map of `count` members, which follow.
    pub fn map(&mut self, count: usize) -> &mut Self {
        self.length(MAP, count)
    }

    /// An item that is encoded already.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.0.extend_from_slice(encoded);
        self
    }

    /// An array of equal elements.
    pub fn list<T>(&mut self, elements: &[T], mut element: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.array(elements.len());
        elements.iter().for_each(|value| element(self, value));
        self
    }
}

/// Encodes with a closure: `encode(|w| w.array(2)...)`.
#[must_use]
pub fn encode(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::new();
    write(&mut writer);
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(bytes: &[u8]) -> Read<()> {
        Reader::whole(bytes, Reader::skip)
    }

    #[test]
    fn only_the_deterministic_form_is_read() {
        for good in
            [&[0x00][..], &[0x18, 24], &[0x41, 7], &[0x82, 0x01, 0xf6], &[0xa2, 0x01, 0x02, 0x20, 0x03]]
        {
            assert_eq!(any(good), Ok(()), "{good:02x?}");
        }
        for (bad, rule) in [
            (&[0x18, 23][..], "not the shortest form"),
            (&[0x19, 0, 255], "not the shortest form"),
            (&[0x5f, 0x41, 0, 0xff], "indefinite or reserved length"),
            (&[0xc0, 0x00], "tag, float or undefined"),
            (&[0xf7], "tag, float or undefined"),
            (&[0xfa, 0x3f, 0x80, 0, 0], "tag, float or undefined"),
            (&[0xa2, 0x02, 0x00, 0x01, 0x00], "map keys not ascending"),
            (&[0xa2, 0x01, 0x00, 0x01, 0x00], "map keys not ascending"),
            (&[0x00, 0x00], "trailing bytes"),
            (&[0x42, 0x00], "ends too early"),
            (&[0x61, 0xff], "text is not UTF-8"),
            (&[0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x00], "nested too deep"),
        ] {
            assert_eq!(any(bad).map_err(|error| error.rule), Err(rule), "{bad:02x?}");
        }
    }

    #[test]
    fn unknown_members_are_critical_above_zero_and_skipped_below() {
        let read = |bytes: &[u8]| {
            let mut one = None;
            Reader::whole(bytes, |r| {
                r.map(|r, key| match key {
                    1 => r.uint(0..=9).map(|value| one = Some(value)).map(|()| true),
                    _ => Ok(false),
                })
            })
            .map(|()| one)
            .map_err(|error| error.rule)
        };
        assert_eq!(read(&[0xa1, 0x01, 0x05]), Ok(Some(5)));
        assert_eq!(read(&[0xa2, 0x01, 0x05, 0x20, 0x81, 0x00]), Ok(Some(5)));
        assert_eq!(read(&[0xa2, 0x01, 0x05, 0x02, 0x00]), Err("unknown critical member"));
        assert_eq!(read(&[0xa1, 0x00, 0x05]), Err("map key zero"));
        assert_eq!(read(&[0xa1, 0x61, 0x61, 0x05]), Err("map key is not an integer"));
    }

    #[test]
    fn written_numbers_are_in_their_shortest_form() {
        for value in
            [0u64, 23, 24, 255, 256, 65_535, 65_536, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX]
        {
            let bytes = encode(|w| {
                w.uint(value);
            });
            assert_eq!(Reader::whole(&bytes, |r| r.uint(0..=u64::MAX)), Ok(value));
        }
        assert_eq!(
            encode(|w| {
                w.key(-1);
            }),
            [0x20]
        );
        assert_eq!(
            encode(|w| {
                w.key(-25);
            }),
            [0x38, 24]
        );
    }
}
