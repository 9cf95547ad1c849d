//! A header in pieces, for broadcast over links that lose some: systematic Reed-Solomon code over GF(256).
//!
//! A message is cut into stripes of at most 128 data fragments, each with parity fragments; any as many fragments of a
//! stripe as it has data restore it. A fragment names the message by its hash, so those of different messages never mix,
//! and a restored message that does not hash to its name is dropped. What the message says is authentic by its own
//! signature only.

use alloc::{collections::BTreeMap, vec::Vec};

use gridseal_crypto::sha256;

use crate::bytes::Reader;

/// Data fragments of a stripe.
const STRIPE_MAX: usize = 128;
/// Data and parity of a stripe: points of the field.
const TOTAL_MAX: usize = 255;
/// Fields before the payload: message (8), size (4), stripe (2), place (1), data count (1), payload size (2).
pub const FRAGMENT_OVERHEAD: usize = 18;
/// Largest message, bytes, and payload, bytes.
const MESSAGE_SIZE_MAX: usize = 1 << 25;
const PAYLOAD_SIZES: core::ops::RangeInclusive<usize> = 16..=4_096;

/// Parameters out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// Payload size or parity out of range, or an empty or too large message.
    #[error("payload must be 16 to 4096 bytes, parity at most 95 %, the message 1 byte to 32 MiB")]
    Parameters,
    /// Not a fragment.
    #[error("not a fragment")]
    Format,
    /// A fragment of another message or shape.
    #[error("fragment of another message")]
    Other,
    /// The fragments do not make the message that they name: one of them was changed.
    #[error("fragments do not make the message they name")]
    Damaged,
}

/// Multiplication in GF(256) with polynomial 0x11D, without tables.
const fn multiply(one: u8, two: u8) -> u8 {
    let (mut a, mut b, mut product) = (one, two, 0u8);
    while b != 0 {
        product ^= a & (b & 1).wrapping_neg();
        a = a << 1 ^ 0x1D & (a >> 7).wrapping_neg();
        b >>= 1;
    }
    product
}

const fn inverse(value: u8) -> u8 {
    // value^254
    let (mut result, mut power, mut exponent) = (1u8, value, 254u8);
    while exponent != 0 {
        if exponent & 1 == 1 {
            result = multiply(result, power);
        }
        power = multiply(power, power);
        exponent >>= 1;
    }
    result
}

/// Products with one factor, for all bytes of a fragment.
fn row_of(factor: u8) -> [u8; 256] {
    let mut row = [0; 256];
    row.iter_mut().zip(0u8..=255).for_each(|(to, value)| *to = multiply(factor, value));
    row
}

fn add_product(into: &mut [u8], factor: u8, from: &[u8]) {
    let row = row_of(factor);
    into.iter_mut().zip(from).for_each(|(to, value)| *to ^= row[usize::from(*value)]);
}

/// Weight of the value at point `from` for the value at point `to`, given the points that are known (Lagrange).
fn weight(known: &[u8], from: u8, to: u8) -> u8 {
    known
        .iter()
        .filter(|point| **point != from)
        .fold(1, |product, point| multiply(product, multiply(to ^ point, inverse(from ^ point))))
}

fn value_at(known: &[(u8, &[u8])], to: u8, size: usize) -> Vec<u8> {
    let points: Vec<u8> = known.iter().map(|(point, _)| *point).collect();
    let mut value = alloc::vec![0; size];
    for (point, bytes) in known {
        add_product(&mut value, weight(&points, *point, to), bytes);
    }
    value
}

const fn parity_count(data_count: usize, parity_percent: u8) -> usize {
    let wanted = (data_count * parity_percent as usize).div_ceil(100);
    let room = TOTAL_MAX.saturating_sub(data_count);
    if wanted < room { wanted } else { room }
}

/// How many fragments [`cut`] makes of a message of so many bytes.
#[must_use]
pub fn fragment_count(message_size: usize, payload: usize, parity_percent: u8) -> usize {
    let data = message_size.div_ceil(payload.max(1));
    let (stripes, rest) = (data / STRIPE_MAX, data % STRIPE_MAX);
    let of = |count| count + parity_count(count, parity_percent);
    stripes * of(STRIPE_MAX) + of(rest)
}

/// Cuts a message into fragments of `payload` bytes, with `parity_percent` of parity for each stripe.
///
/// # Errors
/// [`FragmentError::Parameters`].
pub fn cut(message: &[u8], payload: usize, parity_percent: u8) -> Result<Vec<Vec<u8>>, FragmentError> {
    let good = PAYLOAD_SIZES.contains(&payload) && parity_percent <= 95;
    if !good || message.is_empty() || message.len() > MESSAGE_SIZE_MAX {
        return Err(FragmentError::Parameters);
    }
    let name: [u8; 8] = sha256(&[message]).first_chunk().copied().ok_or(FragmentError::Parameters)?;
    let size = u32::try_from(message.len()).map_err(|_| FragmentError::Parameters)?;
    let mut fragments = Vec::new();
    for (stripe, data) in message.chunks(payload * STRIPE_MAX).enumerate() {
        let stripe = u16::try_from(stripe).map_err(|_| FragmentError::Parameters)?;
        let mut rows: Vec<Vec<u8>> = data.chunks(payload).map(<[u8]>::to_vec).collect();
        rows.iter_mut().for_each(|row| row.resize(payload, 0));
        let count = rows.len();
        let parity = parity_count(count, parity_percent);
        let known: Vec<(u8, &[u8])> =
            (0u8..).zip(&rows).map(|(point, row)| (point, row.as_slice())).collect();
        let extra: Vec<Vec<u8>> =
            (0u8..=254).skip(count).take(parity).map(|point| value_at(&known, point, payload)).collect();
        let data_count = u8::try_from(count).map_err(|_| FragmentError::Parameters)?;
        for (place, row) in (0u8..).zip(rows.iter().chain(&extra)) {
            let mut fragment = Vec::with_capacity(FRAGMENT_OVERHEAD + payload);
            fragment.extend_from_slice(&name);
            fragment.extend_from_slice(&size.to_be_bytes());
            fragment.extend_from_slice(&stripe.to_be_bytes());
            fragment.extend_from_slice(&[place, data_count]);
            fragment.extend_from_slice(&u16::try_from(payload).unwrap_or_default().to_be_bytes());
            fragment.extend_from_slice(row);
            fragments.push(fragment);
        }
    }
    Ok(fragments)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    name: [u8; 8],
    size: usize,
    payload: usize,
}

impl Shape {
    const fn data_count(&self, stripe: usize) -> usize {
        let whole = self.payload * STRIPE_MAX;
        let left = self.size.saturating_sub(stripe * whole);
        let here = if left < whole { left } else { whole };
        here.div_ceil(self.payload)
    }

    const fn stripe_count(&self) -> usize {
        self.size.div_ceil(self.payload * STRIPE_MAX)
    }
}

/// Collects the fragments of one message. Memory is bounded by the message's announced size and `size_max`.
#[derive(Debug)]
pub struct Collector {
    size_max: usize,
    shape: Option<Shape>,
    stripes: BTreeMap<u16, BTreeMap<u8, Vec<u8>>>,
}

impl Collector {
    /// Collects one message of at most `size_max` bytes.
    #[must_use]
    pub const fn new(size_max: usize) -> Self {
        Self { size_max, shape: None, stripes: BTreeMap::new() }
    }

    /// Takes a fragment; the message, when it is complete with it. Repeated and surplus fragments are ignored.
    ///
    /// # Errors
    /// [`FragmentError`]; after [`FragmentError::Damaged`] the collector starts anew.
    pub fn take(&mut self, fragment: &[u8]) -> Result<Option<Vec<u8>>, FragmentError> {
        let (shape, stripe, place, payload) = self.parse(fragment)?;
        let present = *self.shape.get_or_insert(shape);
        if present != shape {
            return Err(FragmentError::Other);
        }
        let needed = shape.data_count(usize::from(stripe));
        let rows = self.stripes.entry(stripe).or_default();
        if rows.len() < needed {
            rows.entry(place).or_insert_with(|| payload.to_vec());
        }
        let is_whole = (0..shape.stripe_count()).all(|stripe| {
            let rows = u16::try_from(stripe).ok().and_then(|stripe| self.stripes.get(&stripe));
            rows.is_some_and(|rows| rows.len() >= shape.data_count(stripe))
        });
        if !is_whole {
            return Ok(None);
        }
        let message = self.restore(&shape);
        (self.shape, self.stripes) = (None, BTreeMap::new());
        if sha256(&[&message]).starts_with(&shape.name) {
            Ok(Some(message))
        } else {
            Err(FragmentError::Damaged)
        }
    }

    fn parse<'f>(&self, fragment: &'f [u8]) -> Result<(Shape, u16, u8, &'f [u8]), FragmentError> {
        let mut reader = Reader::new(fragment);
        let mut read = || {
            let name = reader.array()?;
            let (size, stripe) = (reader.u32()?, reader.u16()?);
            let [place, data_count] = reader.array()?;
            let payload = usize::from(reader.u16()?);
            Ok::<_, crate::bytes::Short>((
                name,
                size,
                stripe,
                place,
                data_count,
                reader.bytes(payload)?,
                reader.left(),
            ))
        };
        let (name, size, stripe, place, data_count, payload, left) =
            read().map_err(|_| FragmentError::Format)?;
        let size = usize::try_from(size).map_err(|_| FragmentError::Format)?;
        let shape = Shape { name, size, payload: payload.len() };
        let good = left == 0
            && (1..=self.size_max.min(MESSAGE_SIZE_MAX)).contains(&size)
            && PAYLOAD_SIZES.contains(&payload.len())
            && usize::from(stripe) < shape.stripe_count()
            && usize::from(data_count) == shape.data_count(usize::from(stripe))
            && usize::from(place) < TOTAL_MAX;
        if good { Ok((shape, stripe, place, payload)) } else { Err(FragmentError::Format) }
    }

    fn restore(&self, shape: &Shape) -> Vec<u8> {
        let mut message = Vec::with_capacity(shape.size);
        for (stripe, rows) in &self.stripes {
            let known: Vec<(u8, &[u8])> = rows.iter().map(|(place, row)| (*place, row.as_slice())).collect();
            for place in (0u8..).take(shape.data_count(usize::from(*stripe))) {
                match rows.get(&place) {
                    Some(row) => message.extend_from_slice(row),
                    None => message.extend_from_slice(&value_at(&known, place, shape.payload)),
                }
            }
        }
        message.truncate(shape.size);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[test]
    fn any_as_many_fragments_as_there_are_data_restore_the_message() {
        let message = message(5_000);
        let fragments = cut(&message, 64, 40).unwrap();
        let data = 5_000usize.div_ceil(64);
        assert_eq!(fragments.len(), data + (data * 40).div_ceil(100));
        for skip in [0, 7, fragments.len() - data] {
            let mut collector = Collector::new(10_000);
            let mut whole = None;
            for fragment in fragments.iter().cycle().skip(skip).take(data) {
                assert!(whole.is_none());
                whole = collector.take(fragment).unwrap();
            }
            assert_eq!(whole.as_ref(), Some(&message));
        }
    }

    #[test]
    fn several_stripes_are_restored_with_losses_in_each() {
        let message = message(60_000);
        let fragments = cut(&message, 128, 25).unwrap();
        let mut collector = Collector::new(1 << 20);
        let mut whole = None;
        for (place, fragment) in fragments.iter().enumerate() {
            if place % 6 != 0 {
                whole = whole.or(collector.take(fragment).unwrap());
            }
        }
        assert_eq!(whole, Some(message));
    }

    #[test]
    fn what_is_no_fragment_of_this_message_is_refused_and_nothing_is_kept_of_it() {
        let message = message(1_000);
        let fragments = cut(&message, 64, 50).unwrap();
        let mut collector = Collector::new(10_000);
        assert_eq!(collector.take(&fragments[0]), Ok(None));
        let other = cut(&message[1..], 64, 50).unwrap();
        assert_eq!(collector.take(&other[0]), Err(FragmentError::Other));
        for cut_at in 0..fragments[1].len() {
            assert_eq!(collector.take(&fragments[1][..cut_at]), Err(FragmentError::Format));
        }
        assert_eq!(Collector::new(999).take(&fragments[0]), Err(FragmentError::Format));
        let mut changed = fragments[1].clone();
        *changed.last_mut().unwrap() ^= 1;
        let mut collector = Collector::new(10_000);
        let rest = fragments[2..].iter();
        let told: Vec<_> = core::iter::once(&changed).chain(rest).map(|f| collector.take(f)).collect();
        assert!(told.contains(&Err(FragmentError::Damaged)));
        assert!(cut(&[], 64, 0).is_err() && cut(&message, 8, 0).is_err() && cut(&message, 64, 96).is_err());
    }

    #[test]
    fn how_many_fragments_there_will_be_is_known_before_they_are_cut() {
        for size in [1, 63, 64, 65, 8_191, 8_192, 8_193, 30_000] {
            for parity in [0, 1, 20, 95] {
                let made = cut(&message(size), 64, parity).unwrap().len();
                assert_eq!(fragment_count(size, 64, parity), made, "{size} bytes, {parity} %");
            }
        }
    }

    #[test]
    fn the_field_is_a_field() {
        for value in 1..=255u8 {
            assert_eq!(multiply(value, inverse(value)), 1);
        }
    }
}
