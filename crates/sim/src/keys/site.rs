//! A site: the real key service on a database that a kill leaves in the middle, and its copy that lags behind.

use std::collections::VecDeque;

use gridseal_keys::{
    Core, Service,
    danger_faults::Fault,
    site::{Site as SiteSettings, Standby},
};
use gridseal_types::{
    SystemTitle,
    records::Durability,
    service::keys::{KeyReply, SiteMode},
};

use super::{
    disk::{Commit, Disk, State},
    headend::Intent,
};
use crate::{HashRng, Schedule};

/// A decision that waits for its commit, and its answers for that.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) commit: Commit,
    pub(super) marker: Option<u32>,
    pub(super) replies: Vec<(Intent, KeyReply)>,
    /// What the service knew of the standby when it decided.
    pub(super) standby: Standby,
}

#[derive(Debug)]
pub(super) struct Site {
    pub(super) index: u8,
    pub(super) count: u8,
    pub(super) client: SystemTitle,
    pub(super) disk: Disk,
    /// The file beside the database: no backup has it.
    pub(super) marker: Option<u32>,
    /// None while it is down.
    pub(super) service: Option<Service<&'static Core>>,
    pub(super) queue: VecDeque<Pending>,
    pub(super) backups: Vec<State>,
    pub(super) standby: Standby,
    /// Commits that the copy does not have yet.
    pub(super) behind: VecDeque<Commit>,
    /// Whether this database is a copy that follows the other site.
    pub(super) follows: bool,
    rng: HashRng,
    incarnation: u64,
    seed: u64,
    core: &'static Core,
}

impl Site {
    pub(super) fn new(core: &'static Core, seed: u64, (index, count): (u8, u8), client: SystemTitle) -> Self {
        let standby = if count == 1 { Standby::Single } else { Standby::Reachable };
        Self {
            index,
            count,
            client,
            disk: Disk::default(),
            marker: None,
            service: None,
            queue: VecDeque::new(),
            backups: Vec::new(),
            standby,
            behind: VecDeque::new(),
            follows: false,
            rng: HashRng::new(seed, "site", u64::from(index) << 32),
            incarnation: 0,
            seed,
            core,
        }
    }

    pub(super) const fn settings(&self) -> SiteSettings {
        SiteSettings {
            index: self.index,
            count: self.count,
            client_title: self.client,
            marker: self.marker,
            standby: self.standby,
        }
    }

    /// Starts on what is durable.
    pub(super) fn start(&mut self, plant: Option<Fault>) -> Result<(), String> {
        self.queue.clear();
        self.disk.view = self.disk.durable.clone();
        self.incarnation += 1;
        self.rng = HashRng::new(self.seed, "site", u64::from(self.index) << 32 | self.incarnation);
        let settings = self.settings();
        let mut service = Service::load(self.core, &self.disk.view.rows, settings, &mut self.rng)
            .map_err(|error| error.to_string())?;
        service.danger_plant(plant);
        self.service = Some(service);
        Ok(())
    }

    pub(super) fn mode(&self) -> Option<SiteMode> {
        self.service.as_ref().map(Service::mode)
    }

    /// Epoch in which it serves, 0 when it does not.
    pub(super) fn serving_epoch(&self) -> u32 {
        if self.mode() == Some(SiteMode::Active) { self.epoch() } else { 0 }
    }

    pub(super) fn epoch(&self) -> u32 {
        self.service.as_ref().map_or(0, Service::epoch)
    }

    pub(super) fn parts(&mut self) -> Option<(&mut Service<&'static Core>, &mut Disk, &mut HashRng)> {
        Some((self.service.as_mut()?, &mut self.disk, &mut self.rng))
    }

    /// The process dies: of the decisions that wait some are durable, in their order, and none is answered.
    pub(super) fn kill(&mut self, schedule: &mut Schedule) -> Killed {
        self.service = None;
        let count = schedule.below(self.queue.len() as u64 + 1);
        let mut killed =
            Killed { lost: self.queue.len() as u64 - count, only_marker: false, kept: Vec::new() };
        for place in 0.. {
            let Some(pending) = self.queue.pop_front() else { break };
            if place > count {
                continue;
            }
            // The marker comes before the commit, and the process may die between the two.
            if let Some(marker) = pending.marker
                && (place < count || schedule.happens(500_000))
            {
                self.marker = Some(marker);
                killed.only_marker |= place == count;
            }
            if place < count {
                self.disk.durable.apply(&pending.commit);
                killed.kept.push(pending.commit);
            }
        }
        self.disk.view = self.disk.durable.clone();
        killed
    }
}

/// What a kill left.
#[derive(Debug)]
pub(super) struct Killed {
    /// Decisions that are gone.
    pub(super) lost: u64,
    /// A marker is newer than its database.
    pub(super) only_marker: bool,
    /// Commits that became durable, unanswered.
    pub(super) kept: Vec<Commit>,
}

/// Whether a commit waits for the copy.
pub(super) const fn waits(commit: &Commit) -> bool {
    matches!(commit.durability, Durability::Replicated)
}
