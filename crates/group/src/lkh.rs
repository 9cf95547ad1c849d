//! Logical key hierarchy of degree 4 (RFC 2627): keys on the way from each seat to the root, renewed on every eviction.
//! Stateful: a member that misses a message needs help. For small groups, and to compare with.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use gridseal_crypto::{
    Key, Rng,
    group::{BLOCK_SIZE, Block, Master, unwrap_once, wrap_once},
    role::GroupKey,
};

use crate::{
    bytes::Reader,
    scheme::{Receive, Rekey, RekeyError, Scheme},
};

const DEGREE: u32 = 4;
/// Node, child and wrapped key.
const WRAP_SIZE: usize = 4 + 4 + BLOCK_SIZE;

/// Levels of a tree with so many seats, the root not counted.
fn levels(seats: u32) -> u32 {
    (1..).find(|levels| DEGREE.saturating_pow(*levels) >= seats).unwrap_or(1)
}

/// First node of a level; the root is 0, children of i are 4 i + 1 to 4 i + 4.
fn first_of(level: u32) -> u32 {
    (DEGREE.saturating_pow(level) - 1) / (DEGREE - 1)
}

const fn parent(node: u32) -> u32 {
    (node - 1) / DEGREE
}

fn leaf(levels: u32, seat: u32) -> u32 {
    first_of(levels) + seat
}

fn number(epoch: u32, node: u32, child: u32) -> Block {
    (u128::from(epoch) << 64 | u128::from(node) << 32 | u128::from(child)).to_be_bytes()
}

/// The sender. Keys that were never renewed are derived from the master, renewed ones are random.
#[derive(Debug)]
pub struct LkhSender<'m> {
    master: &'m Master,
    tree: u64,
    levels: u32,
    seats: u32,
    renewed: BTreeMap<u32, Key<GroupKey, 16>>,
    evicted: BTreeSet<u32>,
}

fn derived(master: &Master, tree: u64, node: u32) -> Key<GroupKey, 16> {
    // A label is opened over no path against zeros: the key is then AES under it, and no label is ever given out.
    master.member_label(tree, u32::MAX, node, core::iter::empty()).open(
        core::iter::empty(),
        &[0; 16],
        &[0; 16],
    )
}

impl<'m> LkhSender<'m> {
    /// A tree with all its seats given out.
    #[must_use]
    pub fn new(master: &'m Master, tree: u64, seats: u32) -> Self {
        let levels = levels(seats);
        Self { master, tree, levels, seats, renewed: BTreeMap::new(), evicted: BTreeSet::new() }
    }

    fn key_of(&self, node: u32) -> Key<GroupKey, 16> {
        match self.renewed.get(&node) {
            // A copy by way of its own wrapping: keys cannot be cloned.
            Some(key) => unwrap_once(key, &[0; 16], &wrap_once(key, &[0; 16], key)),
            None => derived(self.master, self.tree, node),
        }
    }

    /// A member as it is seated: its own key and those on its way to the root.
    #[must_use]
    pub fn member(&self, seat: u32) -> LkhMember {
        let mut keys = BTreeMap::new();
        let mut node = leaf(self.levels, seat);
        loop {
            keys.insert(node, self.key_of(node));
            if node == 0 {
                break;
            }
            node = parent(node);
        }
        LkhMember { keys, block_count: 0 }
    }

    fn is_live(&self, node: u32, evicted: &BTreeSet<u32>) -> bool {
        let mut level = self.levels;
        while first_of(level) > node {
            level -= 1;
        }
        let span = DEGREE.saturating_pow(self.levels - level);
        let first = (node - first_of(level)).saturating_mul(span);
        let end = first.saturating_add(span).min(self.seats);
        let gone = u32::try_from(evicted.range(first..end.max(first)).count()).unwrap_or(u32::MAX);
        end > first && gone < end - first
    }
}

impl Rekey for LkhSender<'_> {
    fn scheme(&self) -> Scheme {
        Scheme::KeyHierarchy
    }

    fn rekey(
        &mut self,
        epoch: u32,
        evicted: &[u32],
        key: &Key<GroupKey, 16>,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, RekeyError> {
        if let Some(seat) = evicted.iter().find(|seat| **seat >= self.seats) {
            return Err(RekeyError::Seat(*seat));
        }
        let mut all = self.evicted.clone();
        all.extend(evicted);
        // The root is renewed in any case: its new key hides the group key.
        let mut touched = BTreeSet::from([0]);
        for seat in evicted {
            let mut node = leaf(self.levels, *seat);
            while node != 0 {
                node = parent(node);
                touched.insert(node);
            }
        }
        let mut out = Vec::new();
        let mut fresh: BTreeMap<u32, Key<GroupKey, 16>> = BTreeMap::new();
        for node in touched.iter().rev() {
            let renewed = Key::generate(rng)?;
            for child in node * DEGREE + 1..=node * DEGREE + DEGREE {
                let is_seat = self.levels == 0 || child >= first_of(self.levels);
                let beyond = is_seat && child - first_of(self.levels) >= self.seats;
                if beyond || !self.is_live(child, &all) {
                    continue;
                }
                let number = number(epoch, *node, child);
                let wrapped = match fresh.get(&child) {
                    Some(key) => wrap_once(key, &number, &renewed),
                    None => wrap_once(&self.key_of(child), &number, &renewed),
                };
                out.extend_from_slice(&node.to_be_bytes());
                out.extend_from_slice(&child.to_be_bytes());
                out.extend_from_slice(&wrapped);
            }
            fresh.insert(*node, renewed);
        }
        if let Some(root) = fresh.get(&0) {
            out.extend_from_slice(&wrap_once(root, &number(epoch, u32::MAX, 0), key));
        }
        self.renewed.append(&mut fresh);
        self.evicted = all;
        Ok(out)
    }
}

/// Node and child of a wrap.
fn ends_of(wrap: &[u8; WRAP_SIZE]) -> (u32, u32) {
    let mut reader = Reader::new(wrap);
    (reader.u32().unwrap_or_default(), reader.u32().unwrap_or_default())
}

/// The member: keys by node, its own and those above.
#[derive(Debug)]
pub struct LkhMember {
    keys: BTreeMap<u32, Key<GroupKey, 16>>,
    block_count: u32,
}

impl Receive for LkhMember {
    fn receive(&mut self, epoch: u32, body: &[u8]) -> Option<Key<GroupKey, 16>> {
        let (wraps, last) = body.split_at_checked(body.len().checked_sub(BLOCK_SIZE)?)?;
        let (wraps, rest) = wraps.as_chunks::<WRAP_SIZE>();
        if !rest.is_empty() {
            return None;
        }
        self.block_count = 1;
        // From the own seat up: each renewed key opens the next one above it.
        let way: Vec<u32> = self.keys.keys().rev().copied().filter(|node| *node != 0).collect();
        for child in way {
            let node = parent(child);
            // Nodes descend, children of one node ascend.
            let place = wraps.binary_search_by(|wrap| {
                let (found_node, found_child) = ends_of(wrap);
                node.cmp(&found_node).then(found_child.cmp(&child))
            });
            if let Some(wrap) = place.ok().and_then(|place| wraps.get(place))
                && let (Some(key), Some(wrapped)) = (self.keys.get(&child), wrap.last_chunk::<BLOCK_SIZE>())
            {
                let renewed = unwrap_once(key, &number(epoch, node, child), wrapped);
                self.keys.insert(node, renewed);
                self.block_count += 1;
            }
        }
        let root = self.keys.get(&0)?;
        Some(unwrap_once(root, &number(epoch, u32::MAX, 0), last.first_chunk()?))
    }

    fn storage_size(&self) -> usize {
        self.keys.len() * BLOCK_SIZE
    }

    fn block_count(&self) -> u32 {
        self.block_count
    }
}
