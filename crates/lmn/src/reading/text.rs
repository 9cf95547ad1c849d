//! Text as meters send it.

use core::fmt;

/// Latin-1 text borrowed from a telegram; M-Bus sends the last character first.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    bytes: &'a [u8],
    is_reversed: bool,
}

impl<'a> Text<'a> {
    /// Characters in reading order.
    #[must_use]
    pub const fn forward(bytes: &'a [u8]) -> Self {
        Self { bytes, is_reversed: false }
    }

    /// Characters sent last first (M-Bus).
    #[must_use]
    pub const fn reversed(bytes: &'a [u8]) -> Self {
        Self { bytes, is_reversed: true }
    }

    /// The octets as sent.
    #[must_use]
    pub const fn octets(&self) -> &'a [u8] {
        self.bytes
    }

    /// The characters in reading order.
    pub fn chars(&self) -> impl Iterator<Item = char> {
        let (forward, backward) =
            if self.is_reversed { (&[][..], self.bytes) } else { (self.bytes, &[][..]) };
        forward.iter().chain(backward.iter().rev()).map(|byte| char::from(*byte))
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chars().try_for_each(|character| fmt::Write::write_char(f, character))
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.chars().eq(other.chars())
    }
}

impl Eq for Text<'_> {}

impl PartialEq<str> for Text<'_> {
    fn eq(&self, other: &str) -> bool {
        self.chars().eq(other.chars())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_character_may_come_first() {
        assert_eq!(alloc::format!("{}", Text::reversed(b"cba")), "abc");
        assert_eq!(Text::reversed(b"cba"), Text::forward(b"abc"));
        assert_eq!(&Text::forward(&[0xB0, b'C']), "\u{b0}C");
    }
}
