//! A small group through many epochs: lost fragments, sleepers, joins, evictions, coalitions, forgeries.

use std::collections::BTreeMap;

use gridseal_crypto::{
    Key, Rng, Signer, SigningKey,
    group::Master,
    role::{GroupMaster, GroupSigning},
};
use gridseal_group::{
    fragment::{Collector, cut},
    header::{GroupId, Header},
    member::{Member, ReceiveError},
    sd::{self, SdMember},
    sender::Group,
    tree::Height,
};
use gridseal_types::UtcTime;

use super::Coalition;
use crate::random::{HashRng, Schedule};

const EPOCHS: u32 = 24;
const SEATS: u8 = 6;

/// Counts of a run, for coverage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EpochsReport {
    /// Headers that members took.
    pub taken: u32,
    /// Epochs that members slept through or lost.
    pub missed: u32,
    /// Members that came back after missing some, by the newest header alone.
    pub caught_up: u32,
    /// Members evicted.
    pub evicted: u32,
    /// Members that joined.
    pub joined: u32,
    /// Old headers that newcomers tried in vain.
    pub old_headers_tried: u32,
    /// Times that the members were seated anew.
    pub reseated: u32,
}

struct World {
    schedule: Schedule,
    rng: HashRng,
    master: Master,
    signer: SigningKey<GroupSigning>,
    group: Group,
    members: BTreeMap<u32, (Member<SdMember>, bool)>,
    gone: Vec<u32>,
    recorded: Vec<Vec<u8>>,
    report: EpochsReport,
}

/// Runs one seed to its end.
///
/// # Errors
/// The rule that was broken, in words.
pub fn run_epochs(seed: u64) -> Result<EpochsReport, String> {
    let mut rng = HashRng::new(seed, "group-epochs", 0);
    let failed = |_| "randomness failed".to_owned();
    let master = Master::new(&Key::<GroupMaster, 32>::generate(&mut rng).map_err(failed)?);
    let scalar = Key::<GroupSigning, 32>::generate_scalar(&mut rng).map_err(|_| "no signing key")?;
    let signer = SigningKey::new(&scalar).map_err(|_| "no signing key")?;
    let height = Height::new(SEATS).ok_or("height")?;
    let group = Group::new(GroupId([9; 16]), seed, height, UtcTime(0));
    let schedule = Schedule::new(seed);
    let (members, report) = (BTreeMap::new(), EpochsReport::default());
    let (gone, recorded) = (Vec::new(), Vec::new());
    let mut world = World { schedule, rng, master, signer, group, members, gone, recorded, report };
    for _ in 0..8 {
        world.join()?;
    }
    for _ in 0..EPOCHS {
        world.epoch()?;
    }
    world.all_awake()?;
    Ok(world.report)
}

impl World {
    fn seated(&self, seat: u32) -> Result<Member<SdMember>, String> {
        let Group { id, tree, height, .. } = self.group;
        let labels = sd::labels(&self.master, tree, height, seat);
        let receiver = SdMember::new(tree, height, seat, labels).ok_or("labels do not fit")?;
        Ok(Member::new(id, tree, self.signer.public(), receiver, None))
    }

    fn join(&mut self) -> Result<(), String> {
        let Ok((group, seat)) = self.group.join() else { return self.reseat() };
        self.group = group;
        let mut member = self.seated(seat)?;
        for header in &self.recorded {
            self.report.old_headers_tried += 1;
            if member.receive(header).is_ok() {
                return Err(format!("newcomer in seat {seat} opens a header from before it joined"));
            }
        }
        self.members.insert(seat, (member, false));
        self.report.joined += 1;
        Ok(())
    }

    fn reseat(&mut self) -> Result<(), String> {
        let height = self.group.height;
        let (group, moves) = self.group.reseat(height, UtcTime(1)).map_err(|error| error.to_string())?;
        self.group = group;
        let mut members = BTreeMap::new();
        for (from, to) in moves {
            let missed = self.members.remove(&from).is_some_and(|(_, missed)| missed);
            members.insert(to, (self.seated(to)?, missed));
        }
        self.members = members;
        self.gone.clear();
        self.recorded.clear();
        self.report.reseated += 1;
        Ok(())
    }

    fn evict(&mut self) -> Result<(), String> {
        let seats: Vec<u32> = self.members.keys().copied().collect();
        let wanted = self.schedule.below(4);
        let mut leaving: Vec<u32> = (0..wanted).filter_map(|_| self.schedule.pick(&seats)).collect();
        leaving.sort_unstable();
        leaving.dedup();
        if leaving.len() >= seats.len() {
            return Ok(());
        }
        self.group = self.group.evict(&leaving).map_err(|error| error.to_string())?;
        self.report.evicted += u32::try_from(leaving.len()).unwrap_or(0);
        for seat in leaving {
            self.members.remove(&seat);
            self.gone.push(seat);
        }
        Ok(())
    }

    fn epoch(&mut self) -> Result<(), String> {
        self.evict()?;
        if self.group.needs_reseat(UtcTime(0)).is_some() && self.schedule.happens(60_000) {
            self.reseat()?;
        }
        for _ in 0..self.schedule.below(4) {
            self.join()?;
        }
        let header = self.header()?;
        self.check_outsiders(&header)?;
        let fragments = cut(&header, 48, 30).map_err(|error| error.to_string())?;
        let seats: Vec<u32> = self.members.keys().copied().collect();
        for seat in seats {
            let arrived = self.deliver(&fragments);
            self.receive(seat, arrived.as_deref())?;
        }
        self.recorded.push(header);
        Ok(())
    }

    fn header(&mut self) -> Result<Vec<u8>, String> {
        let planned = self.group.next_epoch().map_err(|error| error.to_string())?;
        // Durable here: what leaves is made from the plan.
        self.group = planned.group().clone();
        let (master, signer) = (&self.master, &self.signer);
        let made = planned.header(master, signer, UtcTime(0), &mut self.rng as &mut dyn Rng);
        Ok(made.map_err(|error| error.to_string())?.0)
    }

    /// Fragments through a link that loses some; asleep nothing arrives.
    fn deliver(&mut self, fragments: &[Vec<u8>]) -> Option<Vec<u8>> {
        if self.schedule.happens(200_000) {
            return None;
        }
        let mut collector = Collector::new(1 << 16);
        let loss = u32::try_from(self.schedule.below(400_000)).unwrap_or(0);
        fragments.iter().find_map(|fragment| {
            if self.schedule.happens(loss) {
                return None;
            }
            let mut fragment = fragment.clone();
            if self.schedule.happens(2_000)
                && let Some(last) = fragment.last_mut()
            {
                *last ^= 1;
            }
            collector.take(&fragment).ok().flatten()
        })
    }

    fn receive(&mut self, seat: u32, arrived: Option<&[u8]>) -> Result<(), String> {
        let last = self.recorded.last().cloned();
        let Some((member, missed)) = self.members.get_mut(&seat) else { return Ok(()) };
        let Some(header) = arrived else {
            *missed = true;
            self.report.missed += 1;
            return Ok(());
        };
        let mut damaged = header.to_vec();
        let at = usize::try_from(self.schedule.below(damaged.len() as u64)).unwrap_or(0);
        if let Some(byte) = damaged.get_mut(at) {
            *byte ^= 0x10;
        }
        if member.receive(&damaged).is_ok() {
            return Err(format!("a header changed at byte {at} is taken"));
        }
        member.receive(header).map_err(|error| format!("member {seat} does not open the header: {error}"))?;
        // A power cut before the record is stored: the header comes again.
        if self.schedule.happens(100_000) {
            member.stored(false);
            member.receive(header).map_err(|error| format!("member {seat} after a power cut: {error}"))?;
        }
        member.stored(true);
        self.report.taken += 1;
        if core::mem::take(missed) {
            self.report.caught_up += 1;
        }
        for old in last.iter().map(Vec::as_slice).chain([header]) {
            match member.receive(old) {
                Err(ReceiveError::Epoch { .. }) => {}
                other => return Err(format!("a replayed header is not refused as such: {other:?}")),
            }
        }
        Ok(())
    }

    fn check_outsiders(&self, header: &[u8]) -> Result<(), String> {
        let Group { tree, height, assigned, .. } = self.group;
        let opened = Header::open(header, &self.signer.public()).map_err(|error| error.to_string())?;
        let outside = self.gone.iter().copied().chain(assigned..height.seat_count());
        let coalition = Coalition::new(&self.master, tree, height, outside);
        match coalition.opens(&opened) {
            Some(_) => Err("evicted members and later joiners together open the header".to_owned()),
            None => Ok(()),
        }
    }

    fn all_awake(&mut self) -> Result<(), String> {
        let header = self.header()?;
        let seats: Vec<u32> = self.members.keys().copied().collect();
        seats.into_iter().try_for_each(|seat| self.receive(seat, Some(&header)))
    }
}
