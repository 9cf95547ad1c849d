//! A small group through many epochs: lost fragments, sleepers, joins, evictions, coalitions, forgeries.

use std::collections::BTreeMap;

use gridseal_crypto::{
    Key, Rng, Signer, SigningKey,
    group::{Master, unwrap_once, wrap_once},
    role::{GroupKey, GroupMaster, GroupSigning},
};
use gridseal_group::{
    fragment::{Collector, cut},
    header::{GroupId, Header},
    member::{Member, ReceiveError},
    schedule::{Due, Policy},
    sd::{self, SdMember},
    sender::Group,
    storage::{EpochRecord, Recovered, Seating},
    tree::Height,
};
use gridseal_types::UtcTime;

use super::Coalition;
use crate::random::{HashRng, Schedule};

const EPOCHS: u32 = 24;
const SEATS: u8 = 6;
/// Bytes of a member's record here, with a sealed key of 16.
const RECORD_SIZE: u64 = 55;

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
    /// Epochs that two senders made after a fail-over.
    pub made_twice: u32,
    /// Power cuts while a record was written.
    pub torn: u32,
}

/// A member with its storage: two slots, and the vault key that only it has.
struct Seated {
    seating: Seating,
    member: Member<SdMember>,
    has_missed: bool,
    slots: [Vec<u8>; 2],
    vault: Key<GroupKey, 16>,
}

struct World {
    schedule: Schedule,
    rng: HashRng,
    policy: Policy,
    now: UtcTime,
    master: Master,
    signer: SigningKey<GroupSigning>,
    group: Group,
    members: BTreeMap<u32, Seated>,
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
    let (policy, now) = (Policy::default(), UtcTime(0));
    let mut world =
        World { schedule, rng, policy, now, master, signer, group, members, gone, recorded, report };
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
    fn receiver(&self, seat: u32) -> Result<SdMember, String> {
        let Group { tree, height, .. } = self.group;
        let labels = sd::labels(&self.master, tree, height, seat);
        SdMember::new(tree, height, seat, labels).ok_or_else(|| "labels do not fit".to_owned())
    }

    /// A member in a seat. `floor` is the group's epoch, unless a hasty installer forgets it: the tree must hold alone.
    fn seated(&mut self, seat: u32) -> Result<Seated, String> {
        let Group { id: group, tree, height, key_epoch, .. } = self.group;
        let floor = if self.schedule.happens(500_000) { key_epoch } else { 0 };
        let seating = Seating { group, tree, height, seat, floor, sender: self.signer.public() };
        let member = Member::new(seating, self.receiver(seat)?);
        let vault = Key::generate(&mut self.rng).map_err(|error| error.to_string())?;
        Ok(Seated { seating, member, has_missed: false, slots: [Vec::new(), Vec::new()], vault })
    }

    fn join(&mut self) -> Result<(), String> {
        let Ok((group, seat)) = self.group.join() else { return self.reseat() };
        self.group = group;
        let mut seated = self.seated(seat)?;
        for header in &self.recorded {
            self.report.old_headers_tried += 1;
            if seated.member.receive(header).is_ok() {
                return Err(format!("newcomer in seat {seat} opens a header from before it joined"));
            }
        }
        self.members.insert(seat, seated);
        self.report.joined += 1;
        Ok(())
    }

    fn reseat(&mut self) -> Result<(), String> {
        let height = self.group.height;
        let (group, moves) = self.group.reseat(height, self.now).map_err(|error| error.to_string())?;
        self.group = group;
        let mut members = BTreeMap::new();
        for (from, to) in moves {
            let has_missed = self.members.remove(&from).is_some_and(|seated| seated.has_missed);
            let seated = self.seated(to)?;
            members.insert(to, Seated { has_missed, ..seated });
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
        let needs_seats = self.group.needs_reseat(&self.policy, self.now).is_some();
        if needs_seats && self.schedule.happens(60_000) {
            self.reseat()?;
        }
        for _ in 0..self.schedule.below(4) {
            self.join()?;
        }
        self.wait()?;
        let before = self.group.clone();
        let header = self.header()?;
        self.check_outsiders(&header)?;
        // After a fail-over a second sender may make the same epoch; it has the same durable group to start from.
        let twice = if self.schedule.happens(150_000) {
            self.group = before;
            self.report.made_twice += 1;
            let again = self.header()?;
            self.check_outsiders(&again)?;
            Some(cut(&again, 48, 30).map_err(|error| error.to_string())?)
        } else {
            None
        };
        let fragments = cut(&header, 48, 30).map_err(|error| error.to_string())?;
        let seats: Vec<u32> = self.members.keys().copied().collect();
        for seat in seats {
            let other = twice.as_ref().filter(|_| self.schedule.happens(500_000));
            let arrived = self.deliver(other.unwrap_or(&fragments));
            self.receive(seat, arrived.as_deref())?;
        }
        self.recorded.push(header);
        Ok(())
    }

    /// Time passes until the policy wants the next epoch; now and then somebody asks for it earlier.
    fn wait(&mut self) -> Result<(), String> {
        if self.schedule.happens(800_000) {
            self.now = self.now.max(self.group.rotate_at(&self.policy));
            let due = self.group.due(&self.policy, self.now);
            if !matches!(due, Some(Due::Rotate(_))) {
                return Err(format!("{due:?} is due when the next epoch should be"));
            }
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Vec<u8>, String> {
        let planned = self.group.next_epoch(&self.policy, self.now).map_err(|error| error.to_string())?;
        // Durable here: what leaves is made from the plan.
        self.group = planned.group().clone();
        let key_epoch = self.group.key_epoch;
        let made = planned.header(&self.master, &self.signer, &mut self.rng as &mut dyn Rng);
        let (header, _) = made.map_err(|error| error.to_string())?;
        // One in ten is lost with the process that made it: the next epoch is due at once, and for the same reason.
        if !self.schedule.happens(100_000) {
            self.group = self.group.sent(key_epoch);
        }
        Ok(header)
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
        let Some(mut seated) = self.members.remove(&seat) else { return Ok(()) };
        let Some(header) = arrived else {
            seated.has_missed = true;
            self.report.missed += 1;
            self.members.insert(seat, seated);
            return Ok(());
        };
        let mut damaged = header.to_vec();
        let at = usize::try_from(self.schedule.below(damaged.len() as u64)).unwrap_or(0);
        if let Some(byte) = damaged.get_mut(at) {
            *byte ^= 0x10;
        }
        if seated.member.receive(&damaged).is_ok() {
            return Err(format!("a header changed at byte {at} is taken"));
        }
        let refused = |error| format!("member {seat} does not open the header: {error}");
        let record = seated.member.receive(header).map_err(refused)?;
        if self.schedule.happens(100_000) {
            seated = self.cut_power(seated, &record)?;
            // A record that was whole when power failed is in force; otherwise the header comes again.
            if seated.member.key_epoch() != record.key_epoch {
                let record = seated.member.receive(header).map_err(refused)?;
                seated.store(&record, None);
                seated.member.stored(true);
            }
        } else {
            seated.store(&record, None);
            seated.member.stored(true);
        }
        self.report.taken += 1;
        self.report.caught_up += u32::from(core::mem::take(&mut seated.has_missed));
        for old in last.iter().map(Vec::as_slice).chain([header]) {
            match seated.member.receive(old) {
                Err(ReceiveError::Epoch { .. }) => {}
                other => return Err(format!("a replayed header is not refused as such: {other:?}")),
            }
        }
        self.members.insert(seat, seated);
        Ok(())
    }

    /// Power fails while the record is written; the member starts from what its slots hold.
    fn cut_power(&mut self, mut seated: Seated, record: &EpochRecord) -> Result<Seated, String> {
        self.report.torn += 1;
        let before = seated.member.key_epoch();
        let written = usize::try_from(self.schedule.below(RECORD_SIZE + 1)).unwrap_or(0);
        seated.store(record, Some(written));
        let receiver = self.receiver(seated.seating.seat)?;
        let [first, second] = &seated.slots;
        let member = match EpochRecord::recover(first, second) {
            Recovered::Blank => Member::new(seated.seating, receiver),
            Recovered::Record { record, sealed, .. } => {
                let sealed = sealed.try_into().map_err(|_| "a sealed key of another size")?;
                let key = unwrap_once(&seated.vault, &number(&record), &sealed);
                Member::restore(seated.seating, receiver, &record, key).ok_or("a record of another tree")?
            }
            Recovered::Damaged => return Err("both slots are damaged after one power cut".to_owned()),
        };
        if ![before, record.key_epoch].contains(&member.key_epoch()) {
            return Err(format!("epoch {} became {} by a torn record", before, member.key_epoch()));
        }
        Ok(Seated { member, ..seated })
    }

    fn check_outsiders(&self, header: &[u8]) -> Result<(), String> {
        let Group { tree, height, assigned, .. } = self.group;
        let opened = Header::open(header, &self.signer.public()).map_err(|error| error.to_string())?;
        let mut gone = self.gone.clone();
        gone.sort_unstable();
        let coalition = Coalition::new(&self.master, tree, height, gone, assigned);
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

/// A block number for the vault, which seals one key for each epoch.
fn number(record: &EpochRecord) -> [u8; 16] {
    u128::from(record.key_epoch).to_be_bytes()
}

impl Seated {
    /// Writes the record that waits into the slot that is not the newest; only so many bytes of it when power fails.
    fn store(&mut self, record: &EpochRecord, written: Option<usize>) {
        let Some(key) = self.member.key_to_store() else { return };
        let sealed = wrap_once(&self.vault, &number(record), key);
        let Some(bytes) = record.encode(&sealed) else { return };
        let [first, second] = &self.slots;
        let newest_is_second =
            matches!(EpochRecord::recover(first, second), Recovered::Record { is_second: true, .. });
        let [first, second] = &mut self.slots;
        let slot = if newest_is_second { first } else { second };
        slot.resize(bytes.len().max(slot.len()), 0xFF);
        slot.iter_mut().zip(bytes).take(written.unwrap_or(usize::MAX)).for_each(|(to, from)| *to = from);
    }
}
