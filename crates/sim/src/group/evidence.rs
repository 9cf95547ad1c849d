//! What an outside program needs to check a run without believing this one.

use std::fmt::Write;

use gridseal_crypto::{Key, PublicKey, group::Master, role::GroupKey};
use gridseal_group::{
    sd::{self, TreeId},
    tree::Height,
};

use super::FleetPlan;
use crate::random::Schedule;

/// Remaining members whose labels are kept.
const SAMPLE: u64 = 1_000;

/// Files by name, to be written by the caller.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The header as it was sent.
    pub header: Vec<u8>,
    /// Group key, the sender's public key and the plan, as JSON.
    pub facts: String,
    /// One JSON object per line: seat, whether it was evicted, its labels in storage order, in hex.
    pub labels: String,
}

impl Evidence {
    #[expect(clippy::too_many_arguments, reason = "a whole run is written down")]
    pub(super) fn record(
        &mut self,
        plan: &FleetPlan,
        master: &Master,
        (id, height): (TreeId, Height),
        evicted: &[u32],
        (header, key, sender): (&[u8], &Key<GroupKey, 16>, &PublicKey),
    ) {
        self.header = header.to_vec();
        let point: String = sender.point().iter().map(|byte| format!("{byte:02x}")).collect();
        self.facts = format!(
            "{{\"members\":{},\"evicted\":{},\"seed\":{},\"height\":{},\"tree\":{},\"tree_epoch\":{},\
             \"group_key\":\"{}\",\"sender\":\"{point}\"}}\n",
            plan.members,
            evicted.len(),
            plan.seed,
            height.value(),
            id.tree,
            id.tree_epoch,
            key.danger_reveal_hex(),
        );
        let mut schedule = Schedule::new(plan.seed ^ 0x5EED);
        let sample = (0..SAMPLE.min(plan.members.into()))
            .filter_map(|_| u32::try_from(schedule.below(plan.members.into())).ok())
            .filter(|seat| evicted.binary_search(seat).is_err());
        for (seat, is_evicted) in
            evicted.iter().map(|seat| (*seat, true)).chain(sample.map(|seat| (seat, false)))
        {
            let labels: Vec<String> = sd::labels(master, id, height, seat)
                .iter()
                .map(|label| format!("\"{}\"", label.danger_reveal_hex()))
                .collect();
            // Writing into a string does not fail.
            let _ = writeln!(
                self.labels,
                "{{\"seat\":{seat},\"evicted\":{is_evicted},\"labels\":[{}]}}",
                labels.join(",")
            );
        }
    }
}
