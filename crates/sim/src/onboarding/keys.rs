//! The key service's shell: it takes what waits as one batch, commits, then answers.

use std::collections::VecDeque;

use gridseal_keys::{
    Core, Service, front,
    record::{DEVICES, DeviceEntry, VERSIONS, version_key},
    site::Site,
};
use gridseal_types::{
    records::{Commit, MemoryRecords, Records, Write},
    service::keys::{KeyReply, KeyRequest},
};

use super::{
    network::Content,
    report::{Fault, Point, Rule, Violation},
    world::{Actor, Step, World},
};
use crate::{HashRng, works::owner};

/// Who asked, under which number, for how much.
type Call = (Actor, u64, usize);

/// The process.
#[derive(Debug)]
pub(super) struct KeysProcess {
    pub(super) records: MemoryRecords,
    /// Epoch of the site, beside the records.
    marker: Option<u32>,
    /// What it holds in memory; none until it is needed.
    service: Option<Service<&'static Core>>,
    inbox: VecDeque<(Actor, Content)>,
    /// Answers that wait to leave.
    outbox: VecDeque<(Actor, u64, Vec<KeyReply>)>,
    /// A planted bug commits late.
    late: Option<Vec<Write>>,
    rng: HashRng,
}

impl KeysProcess {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            records: MemoryRecords::default(),
            marker: None,
            service: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            late: None,
            rng: HashRng::new(seed, "keys", 0),
        }
    }

    pub(super) fn lose_memory(&mut self) {
        self.service = None;
        self.inbox.clear();
        self.outbox.clear();
        self.late = None;
    }

    pub(super) fn receive(&mut self, from: Actor, content: Content) {
        self.inbox.push_back((from, content));
    }
}

/// What a planted bug does to a device's entry.
fn without_pending(mut entry: DeviceEntry) -> DeviceEntry {
    if !entry.auth_confirmed {
        entry.auth = [None, None];
    }
    entry
}

impl World {
    pub(super) fn keys_start(&mut self) {
        let repeats = self.plant == Some(Fault::KeysRepeatRandomness);
        let number = if repeats { 0 } else { self.incarnation(Actor::Keys) };
        self.keys.rng = HashRng::new(self.seed(), "keys", number);
        if self.plant == Some(Fault::KeysForgetPendingAuthorisation) {
            let rows = self.keys.records.range(DEVICES, &[], 10).expect("memory");
            let forget = |(key, value): (Vec<u8>, Vec<u8>)| {
                let entry: DeviceEntry = minicbor::decode(&value).expect("own record");
                let value = minicbor::to_vec(without_pending(entry)).expect("memory");
                Write { table: DEVICES, key, value: Some(value) }
            };
            self.keys.records.commit(rows.into_iter().map(forget).collect()).expect("memory");
        }
    }

    pub(super) fn keys_act(&mut self) -> Step {
        if let Some((to, call, replies)) = self.keys.outbox.pop_front() {
            self.check.keys_send(&replies)?;
            self.send(Actor::Keys, to, Content::KeyAnswer { call, replies });
            self.stir(Actor::Keys);
            if !self.keys.outbox.is_empty() {
                self.crashes(Actor::Keys, Point::BetweenReplies);
            }
            return Ok(());
        }
        if let Some(writes) = self.keys.late.take() {
            self.keys_commit(writes)?;
        }
        if self.keys.inbox.is_empty() {
            return Ok(());
        }
        self.stir(Actor::Keys);
        let (calls, requests) = self.batch()?;
        let now = self.utc();
        let KeysProcess { records, marker, service, rng, .. } = &mut self.keys;
        let failed = |error| Violation::new(Rule::Contract, format!("key service: {error}"));
        let service = match service {
            Some(service) => service,
            None => {
                let site = Site { marker: *marker, ..Site::single(Core::CLIENT_TITLE) };
                service.insert(Service::load(&owner(0).keys, records, site, rng).map_err(failed)?)
            }
        };
        let decision = service.decide(records, now, rng, requests).map_err(failed)?;
        *marker = decision.marker.or(*marker);
        for reply in &decision.replies {
            if let KeyReply::Refused { code } = reply {
                self.note(format_args!("key service refused: {code:?}"));
            }
        }
        let mut replies = decision.replies.into_iter();
        let answers: Vec<_> = calls
            .into_iter()
            .map(|(to, call, count)| (to, call, replies.by_ref().take(count).collect()))
            .collect();
        if self.plant == Some(Fault::KeysAnswerBeforeCommit) {
            self.keys.late = Some(decision.writes);
            self.keys.outbox.extend(answers);
            return Ok(());
        }
        if self.crashes(Actor::Keys, Point::BeforeCommit) {
            return Ok(());
        }
        self.keys_commit(decision.writes)?;
        if self.crashes(Actor::Keys, Point::AfterCommit) {
            return Ok(());
        }
        self.keys.outbox.extend(answers);
        Ok(())
    }

    /// Everything that waits, as one batch.
    fn batch(&mut self) -> Result<(Vec<Call>, Vec<KeyRequest>), Violation> {
        let (mut calls, mut batch) = (Vec::new(), Vec::new());
        for (from, content) in std::mem::take(&mut self.keys.inbox) {
            let Content::KeyCall { call, requests } = content else { continue };
            let caller = if from == Actor::HeadEnd { front::HEADEND } else { front::ENDPOINT_MANAGER };
            if !requests.iter().all(|request| front::allows(caller, request)) {
                return Err(Violation::new(Rule::Contract, format!("{from} asks for what it must not")));
            }
            calls.push((from, call, requests.len()));
            batch.extend(requests);
        }
        Ok((calls, batch))
    }

    fn keys_commit(&mut self, writes: Vec<Write>) -> Step {
        self.check.keys_commit(&writes)?;
        let touches = |table| writes.iter().any(|write| write.table == table);
        let (devices, channels) = (touches(DEVICES), touches(VERSIONS));
        self.keys.records.commit(writes).expect("memory");
        if channels && self.plant == Some(Fault::KeysKeepNewestChannelOnly) {
            self.forget_older_channels();
        }
        for number in 0..self.meters.len() {
            if devices {
                self.check_root(number)?;
            }
            if channels {
                self.check_channel(number)?;
            }
        }
        Ok(())
    }

    fn forget_older_channels(&mut self) {
        for meter in &self.meters {
            let Ok(Some(bytes)) = self.keys.records.get(DEVICES, meter.name.as_bytes()) else { continue };
            let entry: DeviceEntry = minicbor::decode(&bytes).expect("own record");
            let older = entry.versions.iter().filter(|(_, version)| *version < entry.channel_version);
            let older = older.map(|(kind, version)| Write {
                table: VERSIONS,
                key: version_key(&meter.name, *kind, *version),
                value: None,
            });
            self.keys.records.commit(older.collect()).expect("memory");
        }
    }
}
