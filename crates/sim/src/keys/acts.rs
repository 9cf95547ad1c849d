//! What happens next: one act out of many, as the seed says.

use gridseal_crypto::Curve;
use gridseal_keys::site::Standby;
use gridseal_types::{
    DeviceState, UtcTime,
    service::keys::{
        ChangeOutcome, ClaimState, ExchangeReply, KeyAct, KeyKind, KeyRef, KeyReply, KeyRequest, SiteMode,
        SiteRequest, VersionState,
    },
};

use super::{
    headend::To,
    operator::approvals,
    report::Rule,
    watch::site_name,
    world::{Step, World},
};

/// Backups that are kept.
const BACKUPS: usize = 3;
/// Messages on their way at most.
const NET: usize = 24;

/// How often a key change that begins raises the suite, of a million: public-key work is dear.
const RAISES: u32 = 12_000;

/// Acts with how often each is chosen.
const ACTS: [(u32, Act); 28] = [
    (300, Act::Deliver),
    (60, Act::Lose),
    (40, Act::Repeat),
    (30, Act::Replay),
    (20, Act::Forge),
    (90, Act::Get),
    (30, Act::GetAgain),
    (70, Act::Push),
    (10, Act::Clone),
    (90, Act::Begin),
    (50, Act::Outcome),
    (40, Act::Probe),
    (40, Act::Associate),
    (60, Act::Flush),
    (35, Act::Kill),
    (60, Act::Start),
    (25, Act::Fold),
    (30, Act::Replicate),
    (20, Act::Backup),
    (14, Act::PutBack),
    (4, Act::LoseMarker),
    (20, Act::Link),
    (25, Act::Site),
    (25, Act::Join),
    (10, Act::Clock),
    (20, Act::Rollback),
    (25, Act::State),
    (45, Act::Key),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Deliver,
    Lose,
    Repeat,
    Replay,
    Forge,
    Get,
    GetAgain,
    Push,
    Clone,
    Begin,
    Outcome,
    Probe,
    Associate,
    Flush,
    Kill,
    Start,
    Fold,
    Replicate,
    Backup,
    PutBack,
    LoseMarker,
    Link,
    Site,
    Join,
    Clock,
    Rollback,
    State,
    Key,
}

impl World<'_> {
    /// One step.
    pub(super) fn act(&mut self) -> Step {
        let seconds = self.schedule.below(120);
        self.tick += seconds;
        self.now.0 += seconds;
        let total: u32 = ACTS.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.schedule.below(u64::from(total));
        let mut chosen = Act::Deliver;
        for (weight, act) in ACTS {
            if drawn < u64::from(weight) {
                chosen = act;
                break;
            }
            drawn -= u64::from(weight);
        }
        self.watch.event("act", || format!("\"act\":\"{chosen:?}\""));
        match chosen {
            Act::Deliver | Act::Lose | Act::Repeat | Act::Replay | Act::Forge => self.network(chosen),
            Act::Push | Act::Clone | Act::Rollback => self.meter_acts(chosen),
            Act::Flush | Act::Kill | Act::Start | Act::Fold | Act::Replicate | Act::Backup => {
                self.site_acts(chosen)
            }
            Act::PutBack | Act::LoseMarker | Act::Link | Act::Site | Act::Join | Act::Clock => {
                self.operator_acts(chosen)
            }
            _ => self.headend_acts(chosen),
        }
    }

    fn network(&mut self, act: Act) -> Step {
        if act == Act::Replay {
            let count = self.recorded.len() as u64;
            if count == 0 {
                return Ok(());
            }
            let message = self.recorded[self.schedule.below(count) as usize].clone();
            self.watch.coverage.count("fault/message-replayed");
            return self.deliver(message);
        }
        let count = self.net.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let at = self.schedule.below(count) as usize;
        let mut message = if act == Act::Repeat { self.net[at].clone() } else { self.net.swap_remove(at) };
        self.recorded.push(message.clone());
        match act {
            Act::Lose => {
                self.watch.coverage.count("fault/message-lost");
                return Ok(());
            }
            Act::Repeat => self.watch.coverage.count("fault/message-repeated"),
            Act::Forge => {
                let bits = message.bytes.len() as u64 * 8;
                let bit = self.schedule.below(bits) as usize;
                if let Some(byte) = message.bytes.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                self.watch.coverage.count("fault/message-forged");
            }
            _ => {}
        }
        if message.to == To::HeadEnd && self.sites.len() > 1 && self.schedule.happens(100_000) {
            message.site = 1 - message.site;
            self.watch.coverage.count("fault/message-to-another-site");
        }
        self.deliver(message)
    }

    fn meter_acts(&mut self, act: Act) -> Step {
        let meter = self.any_meter();
        match act {
            Act::Push => {
                let Some(site) = self.any_serving() else { return Ok(()) };
                let sent = self.meters[meter].push();
                self.sent_by(meter, site, sent)
            }
            Act::Clone => {
                let Some(site) = self.any_serving() else { return Ok(()) };
                let Some(sent) = self.meters[meter].clone_says() else { return Ok(()) };
                self.watch.coverage.count("fault/clone");
                self.watch.true_apdu(meter, &sent);
                self.push_message(meter, site, sent.bytes);
                Ok(())
            }
            _ => {
                let copies = self.meters[meter].copies.len() as u64;
                if self.schedule.happens(300_000) || copies == 0 {
                    let of = &mut self.meters[meter];
                    of.copies.push(of.flash.clone());
                    return Ok(());
                }
                let copy = self.schedule.below(copies) as usize;
                let keys = self.meters[meter].copies[copy].keys.needed();
                // What operators destroyed after it was replaced is not asked back. With its flash go the counters that it
                // has accepted: a transfer that was lost, or replaced, installs its keys after all. So once two people have
                // destroyed any that were sent (specification, section 7.2, I1 allows that) no old copy comes back.
                let may_take = |state: &super::disk::State| {
                    keys.iter().all(|key| state.holds(key)) && !state.has_destroyed(&self.devices[meter])
                };
                let states =
                    |site: &super::site::Site| may_take(&site.disk.durable) && may_take(&site.disk.view);
                let backups = self.sites.iter().flat_map(|site| &site.backups);
                let is_destroyed = |state: &super::disk::State| state.has_destroyed(&self.devices[meter]);
                if self.sites.iter().all(states) && !backups.into_iter().any(is_destroyed) {
                    self.watch.coverage.count("meter/rollback");
                    self.watch.event("roll-back", || format!("\"meter\":{meter}"));
                    self.known[meter].rolled_back = true;
                    self.meters[meter].roll_back(copy);
                    self.tell_keys(meter);
                }
                Ok(())
            }
        }
    }

    fn sent_by(&mut self, meter: usize, site: usize, sent: super::meter::Sent) -> Step {
        let title = self.meters[meter].title;
        self.watch.meter_sent(meter, title, &sent)?;
        self.push_message(meter, site, sent.bytes);
        Ok(())
    }

    fn push_message(&mut self, meter: usize, site: usize, bytes: Vec<u8>) {
        let why = super::headend::Why::Push;
        self.net.push(super::headend::Message { to: To::HeadEnd, meter, site, why, bytes });
    }

    /// A site that serves; now and then one that does not.
    fn any_serving(&mut self) -> Option<usize> {
        if self.schedule.happens(50_000) {
            return Some(self.schedule.below(self.sites.len() as u64) as usize);
        }
        let serving = self.serving();
        self.schedule.pick(&serving)
    }

    fn headend_acts(&mut self, act: Act) -> Step {
        let meter = self.any_meter();
        let Some(site) = self.any_serving() else { return Ok(()) };
        if self.net.len() > NET {
            return Ok(());
        }
        match act {
            Act::Get => self.get(site, meter, false),
            Act::GetAgain => self.get(site, meter, true),
            Act::Begin => {
                let kinds = [
                    [KeyKind::Guek, KeyKind::Gak].as_slice(),
                    &[KeyKind::Guek, KeyKind::Gak],
                    &[KeyKind::Guek],
                    &[KeyKind::Gak],
                    &[KeyKind::Kek],
                    &[KeyKind::Kek],
                ];
                if self.schedule.happens(RAISES) {
                    return self.order_raise(site, meter);
                }
                let items = self.schedule.pick(&kinds).unwrap_or_default().to_vec();
                self.begin_change(site, meter, items)
            }
            Act::Outcome => {
                let gives_up = self.schedule.happens(250_000);
                let outcome = if gives_up { ChangeOutcome::Abandon } else { ChangeOutcome::NoReply };
                self.report(site, meter, outcome)
            }
            Act::Probe => self.probe(site, meter),
            Act::Associate => {
                let candidate = if self.schedule.happens(700_000) { 0 } else { self.schedule.below(4) as u8 };
                self.associate(site, meter, candidate)
            }
            Act::State => self.change_state(site, meter),
            _ => self.key_act(site, meter),
        }
    }

    /// An operator raises the suite of a meter, or tries to lower it.
    fn order_raise(&mut self, site: usize, meter: usize) -> Step {
        let suite = 1 + self.schedule.below(2) as u8;
        let system_title = self.meters[meter].title;
        let der = crate::works::meter_certificate(system_title, Curve::of_suite(suite));
        self.order(site, KeyRequest::MeterCertificate { system_title, der })?;
        let known = self.sites[site].disk.view.device(&self.devices[meter]);
        let before = known.map_or(0, |entry| entry.suite);
        let reply = self.order(site, KeyRequest::RaiseSuite { system_title, suite })?;
        let Some(KeyReply::Exchange(ExchangeReply::Change(_))) = reply else { return Ok(()) };
        if suite <= before {
            return Err((Rule::S5, format!("meter {meter} goes from suite {before} to {suite}")));
        }
        self.begin_change(site, meter, Vec::new())
    }

    fn change_state(&mut self, site: usize, meter: usize) -> Step {
        let states =
            [DeviceState::Operating, DeviceState::Suspended, DeviceState::Quarantined, DeviceState::Rekeying];
        let is_final = self.schedule.happens(20_000);
        let system_title = self.meters[meter].title;
        if self.schedule.happens(20_000) {
            self.is_gone(meter);
            let request = KeyRequest::SetClaim { system_title, claim: ClaimState::Lost };
            return self.order(site, request).map(|_| ());
        }
        let state = match self.schedule.pick(&states) {
            _ if self.schedule.happens(500_000) => DeviceState::Operating,
            Some(state) => state,
            None => DeviceState::Operating,
        };
        let state = if is_final { DeviceState::Released } else { state };
        if is_final {
            self.is_gone(meter);
        }
        let (device, attested_at) = (self.devices[meter], UtcTime(0));
        self.order(site, KeyRequest::SetState { device, state, attested_at }).map(|_| ())
    }

    pub(super) fn is_gone(&mut self, meter: usize) {
        self.known[meter].gone = true;
        self.watch.event("gone", || format!("\"meter\":{meter}"));
    }

    fn key_act(&mut self, site: usize, meter: usize) -> Step {
        if self.schedule.happens(700_000) {
            // Undisturbed: only an answered challenge lets former keys be destroyed.
            self.associate(site, meter, 0)?;
            for _ in 0..4 {
                self.flush(site)?;
                let Some(message) = self.net.pop() else { break };
                self.recorded.push(message.clone());
                self.deliver(message)?;
            }
            self.flush(site)?;
        }
        self.status(site, meter)?;
        let Some(status) = self.known[meter].status.as_ref() else { return Ok(()) };
        let count = status.versions.len() as u64;
        let Some(version) = status.versions.get(self.schedule.below(count) as usize) else { return Ok(()) };
        // What is compromised is destroyed as soon as it may be.
        let compromised = status.versions.iter().find(|version| version.state == VersionState::Compromised);
        let version = compromised.filter(|_| self.schedule.happens(500_000)).unwrap_or(version);
        let is_compromised = version.state == VersionState::Compromised;
        let key = KeyRef { system_title: status.system_title, kind: version.kind, version: version.version };
        let act = match self.schedule.below(10) {
            _ if is_compromised => KeyAct::Destroy,
            0..2 => KeyAct::Suspend,
            2..4 => KeyAct::Resume,
            4 => KeyAct::Compromise,
            _ => KeyAct::Destroy,
        };
        if act == KeyAct::Destroy && self.known[meter].rolled_back {
            // Nobody can know yet that the meter has gone back: operators destroy no key of a meter before it is heard.
            return Ok(());
        }
        let reason = "drill".into();
        self.order(site, KeyRequest::KeyAct { key, act, approvals: approvals(), reason }).map(|_| ())
    }

    fn site_acts(&mut self, act: Act) -> Step {
        let site = self.schedule.below(self.sites.len() as u64) as usize;
        match act {
            Act::Flush => self.flush(site),
            Act::Kill => {
                self.kill(site);
                Ok(())
            }
            Act::Start if self.sites[site].service.is_none() => self.restart(site),
            Act::Fold => self.fold(site),
            Act::Replicate => {
                let count = 1 + self.schedule.below(4) as usize;
                self.replicate(site, count);
                Ok(())
            }
            Act::Backup => {
                let of = &mut self.sites[site];
                if of.mode() == Some(SiteMode::Active) {
                    of.backups.push(of.disk.durable.clone());
                    if of.backups.len() > BACKUPS {
                        of.backups.remove(0);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A step of folding, committed like a decision.
    fn fold(&mut self, site: usize) -> Step {
        let now = self.now;
        let limit = 1 + self.schedule.below(4) as usize;
        let Some((service, disk, _)) = self.sites[site].parts() else { return Ok(()) };
        let writes = service.fold(&disk.view.rows, now, limit);
        let writes = writes.map_err(|error| super::world::contract(error.to_string()))?;
        let disk = &mut self.sites[site].disk;
        let durability = gridseal_types::records::Durability::Local;
        let commit = disk.stage(writes, durability, &mut self.vault, &self.devices);
        let standby = self.sites[site].standby;
        let pending = super::site::Pending { commit, marker: None, replies: Vec::new(), standby };
        self.sites[site].queue.push_back(pending);
        Ok(())
    }

    fn operator_acts(&mut self, act: Act) -> Step {
        let site = self.schedule.below(self.sites.len() as u64) as usize;
        match act {
            Act::PutBack => self.put_back(site),
            Act::LoseMarker if !self.sites[site].follows => self.lose_marker(site),
            Act::Link if self.sites.len() > 1 => self.change_link(),
            Act::Join => self.join(),
            Act::Clock => {
                let jump = self.schedule.below(4 * 86_400);
                self.now.0 =
                    if self.schedule.happens(500_000) { self.now.0 + jump } else { self.now.0 - jump };
                self.budgets_hold = false;
                self.watch.coverage.count("fault/clock-jump");
                Ok(())
            }
            Act::Site => self.site_order(site),
            _ => Ok(()),
        }
    }

    /// The link between the sites fails, or comes back.
    fn change_link(&mut self) -> Step {
        self.linked = !self.linked;
        let linked = self.linked;
        self.watch.event("link", || format!("\"up\":{linked}"));
        for site in 0..2 {
            let followed = self.sites[1 - site].follows;
            if !linked && self.schedule.happens(700_000) {
                // Noticed; otherwise the next commit that waits for the copy finds out.
                self.set_standby(site, Standby::Lost);
                self.watch.coverage.count("fault/standby-lost");
            }
            if linked && followed && self.replicate(site, usize::MAX) {
                self.set_standby(site, Standby::Reachable);
            }
        }
        Ok(())
    }

    fn site_order(&mut self, site: usize) -> Step {
        let mode = self.sites[site].mode();
        match (mode, self.schedule.below(10)) {
            (Some(SiteMode::Outdated), 0..8) => self.restore(site),
            (Some(SiteMode::Outdated), _) => self.promote(site),
            (Some(SiteMode::Active), 0..4) => self.approve_degraded(site),
            (Some(SiteMode::Active), 4) => self.promote(site),
            (Some(SiteMode::Active), 5) => self.restore(site),
            (Some(SiteMode::Standby | SiteMode::Fenced), 0..4) => self.promote(site),
            (Some(SiteMode::Standby), 4) | (Some(SiteMode::Fenced), 4..8) => self.restore(site),
            (Some(_), 6..9) if self.sites.len() > 1 && self.linked => {
                let epoch = self.sites[1 - site].epoch();
                self.watch.event("fencing", || format!("\"site\":\"{}\"", site_name(site)));
                self.order(site, KeyRequest::Site(SiteRequest::Fence { epoch })).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}
