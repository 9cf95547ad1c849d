//! The list of evicted seats, coded small: gaps between single seats, or runs of neighbours, whichever is shorter.
//!
//! Numbers are Rice coded: the quotient by 2^k as ones and a zero, then k bits.

use alloc::vec::Vec;

use crate::{
    bytes::{Reader, Short, put_count},
    tree::HEIGHT_MAX,
};

/// Most seats that a list may have, and most bytes of it: bounds on what a receiver does for a stranger's header.
pub const COUNT_MAX: u32 = 1 << HEIGHT_MAX;
const SIZE_MAX: usize = 1 << 18;

/// Evicted seats, ascending, in their coded form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedList {
    mode: Mode,
    /// Bits of a gap that are sent as they are.
    gap_bits: u8,
    /// The same for the length of a run.
    run_bits: u8,
    /// Codes that follow: seats, or runs.
    code_count: u32,
    bits: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One gap for each seat.
    Gaps,
    /// A gap and a length for each run.
    Runs,
}

/// A coded list that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevokedError {
    /// Ends too early.
    #[error("list ends early")]
    Truncated,
    /// A field out of its range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// Bits behind the last code that are not the padding.
    #[error("list has bits behind its end")]
    Trailing,
}

impl From<Short> for RevokedError {
    fn from(_: Short) -> Self {
        Self::Truncated
    }
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet, the last one lowest.
    pending: u64,
    pending_count: u32,
}

impl BitWriter {
    /// The lowest `count` bits of `value`, 32 at most.
    fn put(&mut self, value: u64, count: u32) {
        self.pending = self.pending << count | value & ((1 << count) - 1);
        self.pending_count += count;
        while let Some(rest) = self.pending_count.checked_sub(8) {
            let [.., byte] = (self.pending >> rest).to_be_bytes();
            self.bytes.push(byte);
            self.pending_count = rest;
        }
    }

    fn rice(&mut self, value: u32, k: u8) {
        let mut ones = value >> k;
        while ones > 0 {
            let count = ones.min(32);
            self.put(u64::MAX, count);
            ones -= count;
        }
        self.put(0, 1);
        self.put(value.into(), k.into());
    }

    /// The bytes, with zeros up to the last one's end.
    fn finish(mut self) -> Vec<u8> {
        if self.pending_count > 0 {
            self.put(0, 8 - self.pending_count);
        }
        self.bytes
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl BitReader<'_> {
    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.place / 8)?;
        let bit = byte >> (7 - self.place % 8) & 1 == 1;
        self.place += 1;
        Some(bit)
    }

    fn rice(&mut self, k: u8) -> Option<u32> {
        let mut value = 0u32;
        while self.bit()? {
            value = value.checked_add(1)?;
        }
        for _ in 0..k {
            value = value.checked_mul(2)? | u32::from(self.bit()?);
        }
        (value < COUNT_MAX).then_some(value)
    }
}

fn rice_size(values: impl Iterator<Item = u32>, k: u8) -> u64 {
    values.map(|value| u64::from(value >> k) + 1 + u64::from(k)).sum()
}

/// The least number of plain bits with the shortest code, and that code's size in bits.
fn best(values: &[u32]) -> (u8, u64) {
    let mut found = (0, rice_size(values.iter().copied(), 0));
    // One more plain bit saves less each time: the first one that saves nothing ends the search.
    for k in 1..=HEIGHT_MAX {
        let size = rice_size(values.iter().copied(), k);
        if size >= found.1 {
            break;
        }
        found = (k, size);
    }
    found
}

impl RevokedList {
    /// The list of these seats, ascending and different.
    #[must_use]
    pub fn new(seats: &[u32]) -> Self {
        let mut next = 0;
        let gaps: Vec<u32> = seats
            .iter()
            .map(|seat| {
                let gap = seat.saturating_sub(next);
                next = seat + 1;
                gap
            })
            .collect();
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for gap in &gaps {
            match runs.last_mut() {
                Some((_, more)) if *gap == 0 => *more += 1,
                _ => runs.push((*gap, 0)),
            }
        }
        let (starts, lengths): (Vec<u32>, Vec<u32>) = runs.iter().copied().unzip();
        let (single, single_size) = best(&gaps);
        let ((start, start_size), (length, length_size)) = (best(&starts), best(&lengths));
        let mut writer = BitWriter::default();
        let as_runs = start_size + length_size < single_size;
        if as_runs {
            for (gap, more) in runs {
                writer.rice(gap, start);
                writer.rice(more, length);
            }
        } else {
            gaps.iter().for_each(|gap| writer.rice(*gap, single));
        }
        let (mode, gap_bits, run_bits, count) = if as_runs {
            (Mode::Runs, start, length, starts.len())
        } else {
            (Mode::Gaps, single, 0, gaps.len())
        };
        let code_count = u32::try_from(count).unwrap_or(u32::MAX);
        Self { mode, gap_bits, run_bits, code_count, bits: writer.finish() }
    }

    /// The seats, ascending. A list that was decoded has been walked once, so this one does not end early.
    pub fn seats(&self) -> impl Iterator<Item = u32> + '_ {
        Seats {
            list: self,
            reader: BitReader { bytes: &self.bits, place: 0 },
            codes_left: self.code_count,
            run_left: 0,
            next: 0,
        }
        .flatten()
    }

    /// Bytes of the list in a body.
    #[must_use]
    pub const fn size(&self) -> usize {
        11 + self.bits.len()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[u8::from(self.mode == Mode::Runs), self.gap_bits, self.run_bits]);
        out.extend_from_slice(&self.code_count.to_be_bytes());
        put_count(out, self.bits.len());
        out.extend_from_slice(&self.bits);
    }

    /// Reads a list and walks it: every seat below `assigned`, ascending, nothing behind.
    pub(crate) fn decode(reader: &mut Reader<'_>, assigned: u32) -> Result<Self, RevokedError> {
        let [mode, gap_bits, run_bits] = reader.array()?;
        let mode = match mode {
            0 => Mode::Gaps,
            1 => Mode::Runs,
            _ => return Err(RevokedError::Range("mode")),
        };
        if gap_bits > HEIGHT_MAX || run_bits > HEIGHT_MAX {
            return Err(RevokedError::Range("parameter"));
        }
        let code_count = reader.u32()?;
        let size = usize::try_from(reader.u32()?).map_err(|_| RevokedError::Range("size"))?;
        if code_count > COUNT_MAX || size > SIZE_MAX {
            return Err(RevokedError::Range("size"));
        }
        let list = Self { mode, gap_bits, run_bits, code_count, bits: reader.bytes(size)?.to_vec() };
        list.walk(assigned)?;
        Ok(list)
    }

    fn walk(&self, assigned: u32) -> Result<(), RevokedError> {
        let mut seats = Seats {
            list: self,
            reader: BitReader { bytes: &self.bits, place: 0 },
            codes_left: self.code_count,
            run_left: 0,
            next: 0,
        };
        for seat in seats.by_ref() {
            if seat.ok_or(RevokedError::Truncated)? >= assigned {
                return Err(RevokedError::Range("seat"));
            }
        }
        let padding = self.bits.len() * 8 - seats.reader.place;
        if padding >= 8 || (0..padding).any(|_| seats.reader.bit() == Some(true)) {
            return Err(RevokedError::Trailing);
        }
        Ok(())
    }
}

struct Seats<'l> {
    list: &'l RevokedList,
    reader: BitReader<'l>,
    codes_left: u32,
    run_left: u32,
    next: u32,
}

impl Seats<'_> {
    fn code(&mut self) -> Option<u32> {
        let gap = self.reader.rice(self.list.gap_bits)?;
        if self.list.mode == Mode::Runs {
            self.run_left = self.reader.rice(self.list.run_bits)?;
        }
        self.next.checked_add(gap)
    }
}

impl Iterator for Seats<'_> {
    /// `None` inside: the list ends early.
    type Item = Option<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        let seat = if self.run_left > 0 {
            self.run_left -= 1;
            Some(self.next)
        } else {
            self.codes_left = self.codes_left.checked_sub(1)?;
            self.code()
        };
        match seat {
            Some(seat) => self.next = seat.saturating_add(1),
            None => (self.codes_left, self.run_left) = (0, 0),
        }
        Some(seat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_set, prelude::*};

    fn size(seats: &[u32]) -> usize {
        let mut out = Vec::new();
        RevokedList::new(seats).encode(&mut out);
        out.len()
    }

    proptest! {
        #[test]
        fn a_list_reads_as_it_was_written(seats in btree_set(0u32..5_000, 0..400)) {
            let seats: Vec<u32> = seats.into_iter().collect();
            let mut out = Vec::new();
            RevokedList::new(&seats).encode(&mut out);
            let decoded = RevokedList::decode(&mut Reader::new(&out), 5_000).unwrap();
            prop_assert_eq!(decoded.seats().collect::<Vec<_>>(), seats.clone());
            if let Some(last) = seats.last() {
                prop_assert!(RevokedList::decode(&mut Reader::new(&out), *last).is_err());
            }
            for cut in 0..out.len() {
                prop_assert!(RevokedList::decode(&mut Reader::new(&out[..cut]), 5_000).is_err());
            }
        }
    }

    #[test]
    fn neighbours_take_a_few_bytes_and_scattered_seats_less_than_twelve_bits() {
        let neighbours: Vec<u32> = (500_000..501_000).collect();
        assert!(size(&neighbours) < 20);
        let scattered: Vec<u32> = (0..1_000u32).map(|seat| seat * 1_048 + seat * seat % 911).collect();
        assert!(size(&scattered) < 1_600, "{}", size(&scattered));
        assert_eq!(size(&[]), 11);
    }
}
