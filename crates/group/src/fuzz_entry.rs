//! Entries for the fuzzer.

use gridseal_crypto::{Key, PublicKey, group::Master};

use gridseal_types::{SystemTitle, UtcTime};

use crate::{
    epoch::Command,
    fragment::Collector,
    header::{Facts, GroupId, Header},
    pair::PairBook,
    scheme::{Receive, Scheme},
    sd::{self, SdBody, SdMember, TreeId},
    storage::{EpochRecord, Recovered, Seating},
    tree::Height,
};

/// A point of the curve (the generator), so that a header is read to its end.
const SENDER: [u8; 64] = [
    0x6B, 0x17, 0xD1, 0xF2, 0xE1, 0x2C, 0x42, 0x47, 0xF8, 0xBC, 0xE6, 0xE5, 0x63, 0xA4, 0x40, 0xF2, 0x77,
    0x03, 0x7D, 0x81, 0x2D, 0xEB, 0x33, 0xA0, 0xF4, 0xA1, 0x39, 0x45, 0xD8, 0x98, 0xC2, 0x96, 0x4F, 0xE3,
    0x42, 0xE2, 0xFE, 0x1A, 0x7F, 0x9B, 0x8E, 0xE7, 0xEB, 0x4A, 0x7C, 0x0F, 0x9E, 0x16, 0x2B, 0xCE, 0x33,
    0x57, 0x6B, 0x31, 0x5E, 0xCE, 0xCB, 0xB6, 0x40, 0x68, 0x37, 0xBF, 0x51, 0xF5,
];
const ID: TreeId = TreeId { tree: 1, tree_epoch: 1 };

/// Bytes as a header and as a body: whatever parses has one block for each subset, and a member's work is bounded.
///
/// # Panics
/// Where that does not hold.
pub fn group_message(bytes: &[u8]) {
    if let Some(sender) = PublicKey::from_point(&SENDER) {
        let _ = Header::open(bytes, &sender);
        let scheme = Scheme::SubsetDifference;
        let facts = Facts { scheme, group: GroupId([0; 16]), tree: ID, key_epoch: 1, deadline: UtcTime(0) };
        let _ = Command::open(bytes, &facts, &sender);
    }
    if let Ok(body) = SdBody::decode(bytes) {
        let mut subsets = 0usize;
        body.subsets(|subset| {
            assert!(
                subset.root.holds(subset.except) && subset.root != subset.except,
                "a subset leaves out a part"
            );
            subsets += 1;
        });
        assert!(subsets <= bytes.len(), "work is bounded by the input");
    }
}

/// Bytes as a list of fragments, each with its length before it: what is restored hashes to its name.
pub fn group_fragment(bytes: &[u8]) {
    let mut collector = Collector::new(1 << 16);
    let mut rest = bytes;
    while let Some((length, more)) = rest.split_first() {
        let (fragment, more) = more.split_at(usize::from(*length).min(more.len()));
        let _ = collector.take(fragment);
        rest = more;
    }
}

/// Bytes as a body for a member that has labels: it never panics, and takes at most 22 blocks.
///
/// # Panics
/// Where that does not hold.
pub fn group_receiver(bytes: &[u8]) {
    let Some(height) = Height::new(4) else { return };
    let master = Master::new(&Key::take(&mut [3; 32]));
    let Some(mut member) = SdMember::new(ID, height, 5, sd::labels(&master, ID, height, 5)) else { return };
    let _ = member.receive(1, bytes);
    assert!(member.block_count() <= 22, "work is bounded by the tree");
}

/// Bytes as the two slots of a member, cut where the first byte says, and as a ticket: what is recovered encodes to what
/// was stored.
///
/// # Panics
/// Where that does not hold.
pub fn group_storage(bytes: &[u8]) {
    let Some((cut, slots)) = bytes.split_first() else { return };
    let (first, second) = slots.split_at(usize::from(*cut).min(slots.len()));
    let is_same = |is_second: bool, encoded: Option<alloc::vec::Vec<u8>>| {
        let stored = if is_second { second } else { first };
        assert!(encoded.is_some_and(|encoded| stored.starts_with(&encoded)), "a record is as it was stored");
    };
    if let Recovered::Record { record, sealed, is_second } = EpochRecord::recover(first, second) {
        is_same(is_second, record.encode(&sealed));
    }
    if let Recovered::Record { record, sealed, is_second } = Seating::recover(first, second) {
        is_same(is_second, record.encode(&sealed));
    }
    let secret = Key::take(&mut [7; 32]);
    let mut book = PairBook::default();
    if book.take(&secret, slots).is_err() {
        assert!(book.key_with(&secret, SystemTitle([0; 8])).is_err(), "a refused ticket changes nothing");
    }
}
