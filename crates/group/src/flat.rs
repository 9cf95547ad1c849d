//! A wrap for each remaining member: the fallback, and what stock meters cost that know nothing of groups.

use alloc::{collections::BTreeSet, vec::Vec};

use gridseal_crypto::{
    Key, Rng,
    group::{BLOCK_SIZE, Block, Master, unwrap_once, wrap_once},
    random,
    role::GroupKey,
};

use crate::scheme::{Receive, Rekey, RekeyError, Scheme};

const WRAP_SIZE: usize = 4 + BLOCK_SIZE;

/// Random bytes in front of a body.
type Salt = [u8; 8];

/// Number of a wrap: with the salt of its message, since two senders may make one epoch.
fn number(salt: Salt, epoch: u32, seat: u32) -> Block {
    let fields = u64::from(epoch) << 32 | u64::from(seat);
    (u128::from(u64::from_be_bytes(salt)) << 64 | u128::from(fields)).to_be_bytes()
}

/// The sender.
#[derive(Debug)]
pub struct FlatSender<'m> {
    master: &'m Master,
    group: u64,
    seats: u32,
    evicted: BTreeSet<u32>,
}

impl<'m> FlatSender<'m> {
    /// A group with so many seats, all given out.
    #[must_use]
    pub const fn new(master: &'m Master, group: u64, seats: u32) -> Self {
        Self { master, group, seats, evicted: BTreeSet::new() }
    }

    fn key_of(&self, seat: u32) -> Key<GroupKey, 16> {
        let label = self.master.member_label(self.group, u32::MAX - 1, seat, core::iter::empty());
        label.open(core::iter::empty(), &[0; 16], &[0; 16])
    }

    /// A member with its own key.
    #[must_use]
    pub fn member(&self, seat: u32) -> FlatMember {
        FlatMember { seat, key: self.key_of(seat) }
    }
}

impl Rekey for FlatSender<'_> {
    fn scheme(&self) -> Scheme {
        Scheme::Flat
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
        let salt: Salt = random(rng)?;
        self.evicted.extend(evicted);
        let mut out = salt.to_vec();
        for seat in (0..self.seats).filter(|seat| !self.evicted.contains(seat)) {
            out.extend_from_slice(&seat.to_be_bytes());
            out.extend_from_slice(&wrap_once(&self.key_of(seat), &number(salt, epoch, seat), key));
        }
        Ok(out)
    }
}

/// The member.
#[derive(Debug)]
pub struct FlatMember {
    seat: u32,
    key: Key<GroupKey, 16>,
}

impl Receive for FlatMember {
    fn receive(&mut self, epoch: u32, body: &[u8]) -> Option<Key<GroupKey, 16>> {
        let (salt, body) = body.split_first_chunk()?;
        let wraps = body.as_chunks::<WRAP_SIZE>().0;
        let seat_of =
            |wrap: &[u8; WRAP_SIZE]| wrap.first_chunk().map_or(u32::MAX, |seat| u32::from_be_bytes(*seat));
        let place = wraps.binary_search_by_key(&self.seat, seat_of).ok()?;
        let wrapped = wraps.get(place)?.last_chunk::<BLOCK_SIZE>()?;
        Some(unwrap_once(&self.key, &number(*salt, epoch, self.seat), wrapped))
    }

    fn storage_size(&self) -> usize {
        BLOCK_SIZE
    }

    fn block_count(&self) -> u32 {
        1
    }
}
