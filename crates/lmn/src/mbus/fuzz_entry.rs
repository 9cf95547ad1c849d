//! Entries for fuzzers and for the replay of kept inputs: decode, encode again, compare. They panic where the two differ
//! and never for any other reason.

use alloc::vec::Vec;

use gridseal_crypto::Key;
use gridseal_types::Tick;

use super::{
    Header, OpenOptions, Opener, Quirks, SingleKey,
    afl::{Afl, MESSAGE_SIZE_MAX, PENDING_COUNT_MAX},
    compact::{FormatCache, compact},
    ell::Ell,
    frame::{FRAME_SIZE_MAX, Format, dress, strip},
    record::{RecordOptions, Records},
    tpl::Tpl,
    wired::WiredFrame,
};
use crate::wire::Reader;

/// Frames of all formats: what is stripped and dressed again is what came, save what L says of a stripped one.
pub fn mbus_frame(bytes: &[u8]) {
    let mut out = Vec::new();
    for expected in [None, Some(Format::A), Some(Format::B), Some(Format::Stripped)] {
        if let Ok(format) = strip(bytes, expected, &mut out) {
            assert!(out.len() <= FRAME_SIZE_MAX, "limit holds");
            assert_eq!(
                dress(&out, format).as_deref(),
                Some(bytes),
                "a frame dresses to the bytes it came from"
            );
        }
    }
    if let Ok(frame) = WiredFrame::decode(bytes) {
        assert_eq!(frame.encode().as_deref(), Some(bytes), "a wired frame encodes to the bytes it came from");
    }
}

/// The layers between link and records, one after the other.
pub fn mbus_layers(bytes: &[u8]) {
    let check = |encode: &dyn Fn(&mut Vec<u8>), reader: &Reader<'_>| {
        let mut out = Vec::new();
        encode(&mut out);
        assert_eq!(
            bytes.get(..reader.offset()),
            Some(out.as_slice()),
            "a layer encodes to the bytes it came from"
        );
    };
    let mut reader = Reader::new(bytes);
    if let Ok(ell) = Ell::decode(&mut reader) {
        check(&|out| ell.encode(out), &reader);
    }
    let mut reader = Reader::new(bytes);
    if let Ok(afl) = Afl::decode(&mut reader) {
        check(&|out| afl.encode(out), &reader);
    }
    let mut reader = Reader::new(bytes);
    if let Ok(tpl) = Tpl::decode(&mut reader) {
        check(&|out| tpl.encode(out), &reader);
    }
}

/// Records, and their compact form there and back.
pub fn mbus_records(bytes: &[u8]) {
    for text_before_extensions in [false, true] {
        let options = RecordOptions { text_before_extensions, ..RecordOptions::default() };
        let mut size = 0usize;
        let mut is_whole = true;
        let mut records = Records::new(bytes, 0, options);
        for record in &mut records {
            let Ok(record) = record else {
                is_whole = false;
                break;
            };
            let parts =
                record.filler_count.saturating_add(record.header.len()).saturating_add(record.data.len());
            size = size.saturating_add(parts);
        }
        let whole = size.saturating_add(records.trailing_fillers());
        assert!(!is_whole || whole == bytes.len(), "records are made of all bytes");
    }
    let Some(short) = compact(bytes) else { return };
    let meter = super::MeterAddress([1; 8]);
    let mut formats = FormatCache::default();
    formats.learn(meter, bytes);
    if let Ok(full) = formats.expand(meter, &short, 0) {
        let again = compact(&full);
        assert_eq!(
            again.as_deref(),
            Some(short.as_slice()),
            "a compact frame expands to what it was made of"
        );
    }
}

/// A stream of telegrams, each with a length byte in front, opened with one key: fragments and formats are kept from one
/// to the next.
pub fn mbus_telegram(bytes: &[u8]) {
    let mut key = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17];
    let keys = SingleKey(Key::take(&mut key));
    let mut opener = Opener::default();
    let mut rest = bytes;
    while let Some((length, later)) = rest.split_first() {
        let size = usize::from(*length).min(later.len());
        let (telegram, later) = later.split_at_checked(size).unwrap_or((later, &[]));
        rest = later;
        for is_wired in [false, true] {
            let options = OpenOptions { is_wired, learn_formats: true, ..OpenOptions::default() };
            let mut header = Header::default();
            let Ok(opened) = opener.open(Tick(0), telegram, &keys, &options, &mut header) else { continue };
            assert!(opened.body.bytes.len() <= MESSAGE_SIZE_MAX, "limit holds");
            for record in opened.body.records(header.meter, Quirks::default()).into_iter().flatten() {
                let _ = record;
            }
        }
        assert!(opener.reassembler_mut().pending_count() <= PENDING_COUNT_MAX, "limit holds");
    }
}
