//! Batches on the wire: an array of requests, answered by an array of replies in the same order.

use gridseal_types::service::{BATCH_MAX, Batch};
use minicbor::{Decode, Decoder, Encode};

/// Encodes a batch.
#[must_use]
pub fn encode<T: Encode<()>>(batch: &Batch<T>) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "memory takes every byte and our encoders have no failing case")]
    minicbor::to_vec(batch).expect("encoding into memory")
}

/// Decodes a batch: one array of definite length, at most [`BATCH_MAX`] elements, nothing after it. `None` otherwise.
#[must_use]
pub fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Option<Batch<T>> {
    let mut decoder = Decoder::new(bytes);
    let count = decoder.array().ok()??;
    let count = usize::try_from(count).ok().filter(|&count| count <= BATCH_MAX)?;
    // Each element takes at least one byte, so a lying count reserves no more than the input's size.
    let mut elements = Vec::with_capacity(count.min(bytes.len()));
    for _ in 0..count {
        elements.push(decoder.decode().ok()?);
    }
    (decoder.position() == bytes.len()).then_some(Batch(elements))
}

/// The elements of a batch as they are encoded, one after the other in `bytes`; bounded as by [`decode`], and `None` as
/// there. Whoever passes a batch on looks at its elements without making them anew.
#[must_use]
pub fn split(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut decoder = Decoder::new(bytes);
    let count = decoder.array().ok()??;
    let count = usize::try_from(count).ok().filter(|&count| count <= BATCH_MAX)?;
    let mut elements = Vec::with_capacity(count.min(bytes.len()));
    for _ in 0..count {
        let start = decoder.position();
        decoder.skip().ok()?;
        elements.push(bytes.get(start..decoder.position())?);
    }
    (decoder.position() == bytes.len()).then_some(elements)
}

/// A batch of so many elements, which are encoded already.
#[must_use]
pub fn join(count: usize, elements: &[&[u8]]) -> Vec<u8> {
    let size = elements.iter().map(|element| element.len()).sum::<usize>();
    let mut encoder = minicbor::Encoder::new(Vec::with_capacity(size.saturating_add(9)));
    // Encoding into memory has no failing case.
    let _ = encoder.array(u64::try_from(count).unwrap_or(u64::MAX));
    let mut bytes = encoder.into_writer();
    elements.iter().for_each(|element| bytes.extend_from_slice(element));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_round_trips() {
        let bytes = encode(&Batch(vec![1_u32, 70_000]));
        assert_eq!(decode::<u32>(&bytes).unwrap().0, [1, 70_000]);
        assert!(decode::<u32>(&[0x80]).unwrap().0.is_empty());
    }

    #[test]
    fn what_is_split_joins_to_the_same_bytes() {
        let whole = encode(&Batch(vec!["a".to_owned(), "bc".repeat(200)]));
        let elements = split(&whole).unwrap();
        assert_eq!((elements.len(), elements[0]), (2, &b"aa"[..]));
        assert_eq!(join(2, &elements), whole);
        assert_eq!(join(2, &[&whole[1..]]), whole);
        for length in 0..whole.len() {
            assert!(split(&whole[..length]).is_none(), "{length} bytes");
        }
        let too_many = encode(&Batch(vec![0_u8; BATCH_MAX + 1]));
        for bytes in [&[whole.as_slice(), &[0]].concat()[..], &[0x9f, 1, 0xff], &too_many, &[0xa0]] {
            assert!(split(bytes).is_none());
        }
    }

    #[test]
    fn what_is_not_exactly_one_bounded_array_is_refused() {
        let whole = encode(&Batch(vec![1_u32, 70_000]));
        for length in 0..whole.len() {
            assert!(decode::<u32>(&whole[..length]).is_none(), "{length} bytes");
        }
        let trailing = [whole.as_slice(), &[0]].concat();
        let indefinite = [0x9f, 1, 0xff];
        let too_many = encode(&Batch(vec![0_u8; BATCH_MAX + 1]));
        let lying = [0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        for bytes in [&trailing[..], &indefinite, &too_many, &lying, &[0xa0], &[0x81, 0x60]] {
            assert!(decode::<u32>(bytes).is_none(), "{:02x?}", &bytes[..2.min(bytes.len())]);
        }
        assert!(decode::<u8>(&encode(&Batch(vec![0_u8; BATCH_MAX]))).is_some());
    }
}
