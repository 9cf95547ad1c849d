//! Logical key hierarchy of degree 4 (RFC 2627): keys on the way from each seat to the root, renewed on every eviction.
//! Stateful: a member that misses a message needs help. For small groups, and to compare with.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use gridseal_crypto::{
    Key, Rng,
    group::{BLOCK_SIZE, Block, Master, unwrap_once, wrap_once},
    random,
    role::GroupKey,
};

use crate::scheme::{Receive, Rekey, RekeyError, Scheme};

const DEGREE: u32 = 4;
/// Random bytes in front of a body.
type Salt = [u8; 8];
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

/// Number of the wrap under a child's key: with the salt of its message, since two senders may make one epoch. The group
/// key itself goes under the root's key with child 0, which no other wrap has.
fn number(salt: Salt, epoch: u32, child: u32) -> Block {
    let fields = u64::from(epoch) << 32 | u64::from(child);
    (u128::from(u64::from_be_bytes(salt)) << 64 | u128::from(fields)).to_be_bytes()
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
        LkhMember { keys, renewed: BTreeMap::new(), block_count: 0 }
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
        let salt: Salt = random(rng)?;
        let mut out = salt.to_vec();
        let mut fresh: BTreeMap<u32, Key<GroupKey, 16>> = BTreeMap::new();
        for node in touched.iter().rev() {
            let renewed = Key::generate(rng)?;
            for child in node * DEGREE + 1..=node * DEGREE + DEGREE {
                let is_seat = self.levels == 0 || child >= first_of(self.levels);
                let beyond = is_seat && child - first_of(self.levels) >= self.seats;
                if beyond || !self.is_live(child, &all) {
                    continue;
                }
                let number = number(salt, epoch, child);
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
            out.extend_from_slice(&wrap_once(root, &number(salt, epoch, 0), key));
        }
        self.renewed.append(&mut fresh);
        self.evicted = all;
        Ok(out)
    }
}

/// One wrap of a body: the renewed key of a node under the key of one of its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrap<'b> {
    /// Node whose key was renewed.
    pub node: u32,
    /// Child whose key opens it: its renewed one, if it was renewed too.
    pub child: u32,
    salt: Salt,
    wrapped: &'b Block,
}

impl Wrap<'_> {
    /// The key in it, if `key` is the child's.
    #[must_use]
    pub fn open(&self, epoch: u32, key: &Key<GroupKey, 16>) -> Key<GroupKey, 16> {
        unwrap_once(key, &number(self.salt, epoch, self.child), self.wrapped)
    }
}

/// A body, parsed: wraps from the seats up to the root, then the group key under the root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LkhBody<'b> {
    salt: Salt,
    wraps: &'b [[u8; WRAP_SIZE]],
    last: &'b Block,
}

impl<'b> LkhBody<'b> {
    /// Parses a body; `None` for one that is not made of whole wraps.
    #[must_use]
    pub fn decode(body: &'b [u8]) -> Option<Self> {
        let (salt, body) = body.split_first_chunk()?;
        let (wraps, last) = body.split_last_chunk::<BLOCK_SIZE>()?;
        let (wraps, rest) = wraps.as_chunks::<WRAP_SIZE>();
        rest.is_empty().then_some(Self { salt: *salt, wraps, last })
    }

    fn wrap(&self, bytes: &'b [u8; WRAP_SIZE]) -> Option<Wrap<'b>> {
        let (node, rest) = bytes.split_first_chunk::<4>()?;
        let (child, rest) = rest.split_first_chunk::<4>()?;
        let (node, child) = (u32::from_be_bytes(*node), u32::from_be_bytes(*child));
        Some(Wrap { node, child, salt: self.salt, wrapped: rest.first_chunk()? })
    }

    /// All wraps: nodes descend, children of one node ascend.
    pub fn wraps(&self) -> impl Iterator<Item = Wrap<'b>> {
        self.wraps.iter().filter_map(|bytes| self.wrap(bytes))
    }

    /// The wrap for a child.
    fn find(&self, node: u32, child: u32) -> Option<Wrap<'b>> {
        let place = self.wraps.binary_search_by(|bytes| match self.wrap(bytes) {
            Some(wrap) => node.cmp(&wrap.node).then(wrap.child.cmp(&child)),
            None => core::cmp::Ordering::Less,
        });
        self.wraps.get(place.ok()?).and_then(|bytes| self.wrap(bytes))
    }

    /// The group key, if `root` is the key of the root.
    #[must_use]
    pub fn open(&self, epoch: u32, root: &Key<GroupKey, 16>) -> Key<GroupKey, 16> {
        unwrap_once(root, &number(self.salt, epoch, 0), self.last)
    }
}

/// The member: keys by node, its own and those above.
#[derive(Debug)]
pub struct LkhMember {
    keys: BTreeMap<u32, Key<GroupKey, 16>>,
    /// Keys of the last message, until it is settled.
    renewed: BTreeMap<u32, Key<GroupKey, 16>>,
    block_count: u32,
}

impl LkhMember {
    /// The keys by node, as the last settled message left them.
    pub fn keys(&self) -> impl Iterator<Item = (u32, &Key<GroupKey, 16>)> {
        self.keys.iter().map(|(node, key)| (*node, key))
    }
}

impl Receive for LkhMember {
    fn receive(&mut self, epoch: u32, body: &[u8]) -> Option<Key<GroupKey, 16>> {
        let body = LkhBody::decode(body)?;
        self.block_count = 1;
        self.renewed.clear();
        // From the own seat up: each renewed key opens the next one above it.
        let way: Vec<u32> = self.keys.keys().rev().copied().filter(|node| *node != 0).collect();
        for child in way {
            let node = parent(child);
            if let Some(wrap) = body.find(node, child)
                && let Some(key) = self.renewed.get(&child).or_else(|| self.keys.get(&child))
            {
                let renewed = wrap.open(epoch, key);
                self.renewed.insert(node, renewed);
                self.block_count += 1;
            }
        }
        let root = self.renewed.get(&0).or_else(|| self.keys.get(&0))?;
        Some(body.open(epoch, root))
    }

    fn settle(&mut self, is_durable: bool) {
        if is_durable {
            self.keys.append(&mut self.renewed);
        } else {
            self.renewed.clear();
        }
    }

    fn storage_size(&self) -> usize {
        self.keys.len() * BLOCK_SIZE
    }

    fn block_count(&self) -> u32 {
        self.block_count
    }
}
