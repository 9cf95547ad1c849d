//! One eviction in a group of any size.

mod attempts;

use std::{collections::BTreeSet, time::Duration};

use gridseal_crypto::{
    Key, PublicKey, Rng, SigningKey,
    group::Master,
    role::{GroupKey, GroupSigning},
};
use gridseal_group::{
    Rekey, RekeyError, Scheme,
    flat::FlatSender,
    header::{self, Facts, GroupId},
    lkh::LkhSender,
    sd::{SdSender, TreeId},
    tree::Height,
};
use gridseal_types::UtcTime;

use super::evidence::{Evidence, Witness};
use crate::random::{HashRng, Schedule};

/// Which members are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere.
    Random,
    /// Neighbours.
    Adjacent,
    /// Every second seat.
    Alternating,
}

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetPlan {
    /// Members.
    pub members: u32,
    /// Members evicted.
    pub evict: u32,
    /// Which.
    pub pattern: Pattern,
    /// Scheme.
    pub scheme: Scheme,
    /// Seed of all choices and keys.
    pub seed: u64,
    /// Planted fault: seats that nobody has do not count as revoked.
    pub danger_forget_unassigned: bool,
    /// Planted fault: the last one of the evicted does not count as revoked.
    pub danger_forget_evicted: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetReport {
    /// Bytes of the signed header.
    pub header_bytes: usize,
    /// Subsets or wraps in it.
    pub blocks: usize,
    /// Time to make it, signature included; for subset difference the best of nine, since a machine has other work.
    pub build: Duration,
    /// Time that the signing library took for its first signature in this process, before the header's.
    pub signer_start: Duration,
    /// Most AES blocks that a member needed.
    pub member_aes_blocks_max: u32,
    /// Bytes of keys that a member keeps.
    pub member_storage_bytes: usize,
    /// Remaining members that got the key.
    pub recovered: u32,
    /// Evicted members that got it.
    pub evicted_recovered: u32,
    /// Whether all evicted members and everybody who joins later got it together.
    pub coalition_recovered: bool,
    /// Whether a newcomer, seated afterwards, opens it.
    pub newcomer_recovered: bool,
}

/// A plan that cannot be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// No members, or more than a tree holds.
    #[error("a group has 1 to 1048576 members, not {0}")]
    Members(u32),
    /// More evicted than members.
    #[error("{evict} of {members} members cannot be evicted")]
    Evict {
        /// Wanted.
        evict: u32,
        /// Members.
        members: u32,
    },
    /// Nobody is there to forget: no free seat, nobody evicted, or a scheme without free seats.
    #[error("the planted fault has no effect here: it needs a free seat and scheme sd, or somebody evicted")]
    Fault,
    /// The sender failed.
    #[error(transparent)]
    Rekey(#[from] RekeyError),
    /// The header does not open by its own sender's key: a fault of ours.
    #[error("header does not open")]
    Header,
    /// A member that reads the whole header finds another key than by its subset: a fault of ours.
    #[error("seat {0} reads the header otherwise than its subset says")]
    Member(u32),
}

const ID: TreeId = TreeId { tree: 1, tree_epoch: 1 };
const KEY_EPOCH: u32 = 1;
/// How often the header of subset difference is made, to find how long it takes.
const BUILDS: u32 = 9;

fn chosen(plan: &FleetPlan) -> Vec<u32> {
    let (members, evict) = (plan.members, plan.evict);
    let mut schedule = Schedule::new(plan.seed);
    match plan.pattern {
        Pattern::Adjacent => {
            let room = u64::from(members - evict) + 1;
            let first = u32::try_from(schedule.below(room)).unwrap_or(0);
            (first..first + evict).collect()
        }
        // Every second seat; when there are more to evict, the seats between them too.
        Pattern::Alternating => {
            let mut seats: Vec<u32> = (0..members).step_by(2).chain((1..members).step_by(2)).collect();
            seats.truncate(usize::try_from(evict).unwrap_or(usize::MAX));
            seats.sort_unstable();
            seats
        }
        Pattern::Random => {
            // Floyd's choice: each set of this size is as likely as any other.
            let mut seats = BTreeSet::new();
            for last in members - evict..members {
                let seat = u32::try_from(schedule.below(u64::from(last) + 1)).unwrap_or(last);
                if !seats.insert(seat) {
                    seats.insert(last);
                }
            }
            seats.into_iter().collect()
        }
    }
}

struct Made {
    header: Vec<u8>,
    key: Key<GroupKey, 16>,
    sender: PublicKey,
    build: Duration,
    signer_start: Duration,
}

fn make(
    plan: &FleetPlan,
    rekey: &mut dyn Rekey,
    evicted: &[u32],
    clock: &mut dyn FnMut() -> Duration,
) -> Result<Made, FleetError> {
    let evicted = match evicted.split_last() {
        Some((_, rest)) if plan.danger_forget_evicted => rest,
        _ => evicted,
    };
    let mut rng = HashRng::new(plan.seed, "group-keys", 0);
    let scalar = Key::<GroupSigning, 32>::generate_scalar(&mut rng).map_err(|_| RekeyError::Sign)?;
    let signer = SigningKey::new(&scalar).map_err(|_| RekeyError::Sign)?;
    let key = Key::generate(&mut rng).map_err(RekeyError::from)?;
    let facts = Facts {
        scheme: rekey.scheme(),
        group: GroupId([7; 16]),
        tree: ID,
        key_epoch: KEY_EPOCH,
        deadline: UtcTime(0),
    };
    // A key service has signed before: what a process does once is not part of a header's time.
    let first = clock();
    gridseal_crypto::Signer::sign(&signer, b"first").map_err(|_| RekeyError::Sign)?;
    let start = clock();
    let signer_start = start.saturating_sub(first);
    let body = rekey.rekey(KEY_EPOCH, evicted, &key, &mut rng as &mut dyn Rng)?;
    let header = header::seal(&facts, &body, &key, &signer)?;
    let build = clock().saturating_sub(start);
    Ok(Made { header, key, sender: gridseal_crypto::Signer::public(&signer), build, signer_start })
}

/// Runs a plan. `clock` tells the time since any start; `told` is told of progress, members tried of all. Evidence is left
/// for subset difference alone: the other schemes have no labels.
///
/// # Errors
/// [`FleetError`].
pub fn run_fleet(
    plan: &FleetPlan,
    clock: &mut dyn FnMut() -> Duration,
    told: &mut dyn FnMut(u32, u32),
    evidence: Option<&mut dyn Evidence>,
) -> Result<FleetReport, FleetError> {
    let FleetPlan { members, evict, .. } = *plan;
    let height = Height::for_seats(members).filter(|_| members > 0).ok_or(FleetError::Members(members))?;
    if evict > members {
        return Err(FleetError::Evict { evict, members });
    }
    let has_free_seat = members < height.seat_count() && plan.scheme == Scheme::SubsetDifference;
    if plan.danger_forget_unassigned && !has_free_seat || plan.danger_forget_evicted && evict == 0 {
        return Err(FleetError::Fault);
    }
    let evicted = chosen(plan);
    let master_key =
        Key::generate(&mut HashRng::new(plan.seed, "group-master", 0)).map_err(RekeyError::from)?;
    let master = Master::new(&master_key);
    match plan.scheme {
        Scheme::SubsetDifference => {
            let assigned = if plan.danger_forget_unassigned { height.seat_count() } else { members };
            let mut once = || {
                let mut sender = SdSender::new(&master, ID, height, assigned, Vec::new());
                make(plan, &mut sender, &evicted, clock)
            };
            let mut made = once()?;
            for _ in 1..BUILDS {
                made.build = made.build.min(once()?.build);
            }
            let report = attempts::subsets(plan, (&master, height), &evicted, &made, told)?;
            if let Some(evidence) = evidence {
                let (id, evicted) = (ID, evicted.as_slice());
                let Made { header, key, sender, .. } = &made;
                Witness { plan, master: &master, id, height, evicted, header, key, sender }.record(evidence);
            }
            Ok(report)
        }
        Scheme::KeyHierarchy => {
            let mut sender = LkhSender::new(&master, 1, members);
            let before = LkhSender::new(&master, 1, members);
            let made = make(plan, &mut sender, &evicted, clock)?;
            let mut report = attempts::each(plan, &evicted, &made, told, |seat| before.member(seat))?;
            let pooled = evicted.iter().map(|seat| before.member(*seat));
            report.coalition_recovered = attempts::hierarchy_pooled(&made, pooled)?;
            Ok(report)
        }
        Scheme::Flat => {
            let mut sender = FlatSender::new(&master, 1, members);
            let before = FlatSender::new(&master, 1, members);
            let made = make(plan, &mut sender, &evicted, clock)?;
            let mut report = attempts::each(plan, &evicted, &made, told, |seat| before.member(seat))?;
            // Each wrap is under the key of one member: together they have what each of them was tried with.
            report.coalition_recovered = report.evicted_recovered > 0;
            Ok(report)
        }
    }
}
