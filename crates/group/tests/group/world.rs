//! A small group with its sender.

use gridseal_crypto::{
    Key, Rng, RngError, Signer, SigningKey,
    group::Master,
    role::{GroupKey, GroupSigning},
};
use gridseal_group::member::Member;
use gridseal_group::{
    header::GroupId,
    schedule::Policy,
    sd::{self, SdMember},
    sender::Group,
    storage::Seating,
    tree::Height,
};
use gridseal_types::UtcTime;

pub(crate) const NOW: UtcTime = UtcTime(1_000);

/// Random bytes from a number: the same number gives the same bytes.
pub(crate) struct CountingRng(pub(crate) u64);

impl Rng for CountingRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for chunk in buffer.chunks_mut(32) {
            self.0 += 1;
            let drawn = gridseal_crypto::sha256(&[&self.0.to_be_bytes()]);
            chunk.iter_mut().zip(drawn).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) master: Master,
    pub(crate) signer: SigningKey<GroupSigning>,
    pub(crate) group: Group,
    pub(crate) policy: Policy,
}

impl World {
    /// A group of 16 seats with so many given out.
    pub(crate) fn new(members: u32) -> Self {
        let mut group = Group::new(GroupId([1; 16]), 7, Height::new(4).unwrap(), NOW);
        for _ in 0..members {
            group = group.join().unwrap().0;
        }
        let signer = SigningKey::new(&Key::take(&mut [5; 32])).unwrap();
        Self { master: Master::new(&Key::take(&mut [3; 32])), signer, group, policy: Policy::default() }
    }

    pub(crate) fn seating(&self, seat: u32) -> Seating {
        let Group { id: group, tree, height, key_epoch: floor, .. } = self.group;
        Seating { group, tree, height, seat, floor, sender: self.signer.public() }
    }

    /// As the member was seated with this floor.
    pub(crate) fn seating_at(&self, seat: u32, floor: u32) -> Seating {
        Seating { floor, ..self.seating(seat) }
    }

    pub(crate) fn receiver(&self, seat: u32) -> SdMember {
        let Group { tree, height, .. } = self.group;
        SdMember::new(tree, height, seat, sd::labels(&self.master, tree, height, seat)).unwrap()
    }

    pub(crate) fn member(&self, seat: u32) -> Member<SdMember> {
        Member::new(self.seating(seat), self.receiver(seat))
    }

    /// The next epoch's header and key, with salt and key from this number.
    pub(crate) fn header_with(&mut self, random: u64) -> (Vec<u8>, Key<GroupKey, 16>) {
        let planned = self.group.next_epoch(&self.policy, NOW).unwrap();
        self.group = planned.group().clone();
        planned.header(&self.master, &self.signer, &mut CountingRng(random)).unwrap()
    }

    pub(crate) fn header(&mut self) -> Vec<u8> {
        self.header_with(1_000 * u64::from(self.group.key_epoch)).0
    }
}

pub(crate) fn take(member: &mut Member<SdMember>, header: &[u8]) {
    member.receive(header).unwrap();
    member.stored(true);
}
