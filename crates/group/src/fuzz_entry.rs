//! Entries for the fuzzer.

use gridseal_crypto::{Key, PublicKey, group::Master};

use crate::{
    fragment::Collector,
    header::Header,
    scheme::Receive,
    sd::{self, SdBody, SdMember, TreeId},
    tree::Height,
};

/// Bytes as a header and as a body: whatever parses has one block for each subset, and a member's work is bounded.
///
/// # Panics
/// Where that does not hold.
pub fn group_message(bytes: &[u8]) {
    if let Some(sender) = PublicKey::from_point(&[0; 64]) {
        let _ = Header::open(bytes, &sender);
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
    let id = TreeId { tree: 1, tree_epoch: 1 };
    let Some(mut member) = SdMember::new(id, height, 5, sd::labels(&master, id, height, 5)) else { return };
    let _ = member.receive(1, bytes);
    assert!(member.block_count() <= 22, "work is bounded by the tree");
}
