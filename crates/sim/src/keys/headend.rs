//! The head-ends: what they ask the sites for, what they send to meters, what they do with answers.

use gridseal_keys::site::Standby;
use gridseal_types::{
    N16, SystemTitle,
    service::keys::{
        Carrier, ChangeOutcome, ChangeReply, Denial, ExchangeReply, HlsStep, KeyKind, KeyReply, KeyRequest,
        OpenAssociation, OpenVerdict, Seal, Sealed,
    },
};

use super::{
    disk::Disk,
    meter::{Handled, Mishap},
    report::Rule,
    site::{Pending, waits},
    watch::{SiteSent, counter_of, hex, hex_list, site_name},
    world::{Step, World, contract},
};

/// What a message is about; an answer is about the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    Get,
    Push,
    Transfer(N16),
    Probe,
    Association { handle: N16, challenge: Vec<u8> },
    Hls(N16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Meter,
    HeadEnd,
}

impl Why {
    /// Name, as in the evidence.
    const fn name(&self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Push => "push",
            Self::Transfer(_) => "transfer",
            Self::Probe => "probe",
            Self::Association { .. } => "association",
            Self::Hls(_) => "hls",
        }
    }
}

/// A message on its way between a meter and the head-end of a site.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) to: To,
    pub(super) meter: usize,
    pub(super) site: usize,
    pub(super) why: Why,
    pub(super) bytes: Vec<u8>,
}

/// What was asked for, so that the answer finds its way.
#[derive(Debug, Clone)]
pub(super) enum Intent {
    Seal {
        meter: usize,
    },
    Change {
        meter: usize,
    },
    Probe {
        meter: usize,
    },
    Associate {
        meter: usize,
    },
    Hls {
        meter: usize,
        handle: N16,
    },
    Open {
        why: Why,
        bytes: Vec<u8>,
    },
    /// The answer is the operator's.
    Operator,
    Status {
        meter: usize,
    },
}

impl Intent {
    const fn meter(&self) -> Option<usize> {
        match self {
            Self::Seal { meter }
            | Self::Change { meter }
            | Self::Probe { meter }
            | Self::Associate { meter }
            | Self::Hls { meter, .. }
            | Self::Status { meter } => Some(*meter),
            Self::Open { .. } | Self::Operator => None,
        }
    }
}

/// GET normal of a register, under an invoke identifier.
pub(super) fn get(invoke: u8) -> Vec<u8> {
    vec![0xC0, 1, 0xC0 | invoke & 0x0F, 0, 3, 1, 0, 1, 8, 0, 255, 2, 0]
}

/// Whether an answer is a denial with this meaning.
pub(super) const fn denial(reply: &KeyReply) -> Option<&Denial> {
    match reply {
        KeyReply::Exchange(ExchangeReply::Denied(denial)) => Some(denial),
        _ => None,
    }
}

impl World<'_> {
    /// Asks a site. Its decision waits for the commit; the answers come with [`World::flush`].
    pub(super) fn ask(&mut self, site: usize, calls: Vec<(Intent, KeyRequest)>) -> Step {
        self.decide(site, calls)?;
        if self.heals || self.schedule.happens(650_000) { self.flush(site) } else { Ok(()) }
    }

    /// Lets a site decide.
    pub(super) fn decide(&mut self, site: usize, calls: Vec<(Intent, KeyRequest)>) -> Step {
        let now = self.now;
        let Some((service, disk, rng)) = self.sites[site].parts() else { return Ok(()) };
        let (intents, requests): (Vec<Intent>, Vec<KeyRequest>) = calls.into_iter().unzip();
        let decision = service
            .decide(&disk.view.rows, now, rng, requests)
            .map_err(|error| contract(format!("{} fails: {error}", site_name(site))))?;
        self.count_transitions(site, &decision.writes);
        let disk = &mut self.sites[site].disk;
        let commit = disk.stage(decision.writes, decision.durability, &mut self.vault, &self.devices);
        for arrived in &commit.arrived {
            self.watch.event("accepted", || {
                let ((_, key), counter) = (arrived.line, arrived.counter);
                format!("\"site\":\"{}\",\"key\":\"{}\",\"counter\":{counter}", site_name(site), hex(&key))
            });
            self.watch.arrived(&disk.view, arrived)?;
            disk.view.windows.entry(arrived.line).or_default().insert(arrived.counter, arrived.tag);
        }
        let replies: Vec<(Intent, KeyReply)> = intents.into_iter().zip(decision.replies).collect();
        self.judge(site, &replies)?;
        self.note_decided(site, &replies);
        self.witness = self.witness.max(self.sites[site].serving_epoch());
        let early = self.plant == Some(gridseal_keys::danger_faults::Fault::PersistFirst);
        let released = if early { replies.clone() } else { Vec::new() };
        let waiting = if early { Vec::new() } else { replies };
        let standby = self.sites[site].standby;
        self.sites[site].queue.push_back(Pending {
            commit,
            marker: decision.marker,
            replies: waiting,
            standby,
        });
        self.release(site, released, standby)
    }

    /// What a site has decided to send, whether it ever leaves or not.
    fn note_decided(&mut self, site: usize, replies: &[(Intent, KeyReply)]) {
        for (intent, reply) in replies {
            let KeyReply::Exchange(reply) = reply else { continue };
            let all: Vec<&Sealed> = match reply {
                ExchangeReply::Sealed(sealed) | ExchangeReply::HlsReply { sealed, .. } => vec![sealed],
                ExchangeReply::Change(change) => change.transfer.iter().collect(),
                ExchangeReply::Probes(probes) => probes.iter().map(|probe| &probe.sealed).collect(),
                _ => continue,
            };
            let Some(meter) = intent.meter() else { continue };
            let view = &self.sites[site].disk.view;
            for sealed in all {
                if let Some(key) = view.key(&self.devices[meter], KeyKind::Guek, sealed.version) {
                    self.watch.decided(key, &sealed.apdu);
                }
            }
        }
    }

    /// Verdicts and state rules, at the moment of the decision.
    fn judge(&mut self, site: usize, replies: &[(Intent, KeyReply)]) -> Step {
        for (intent, reply) in replies {
            let view = &self.sites[site].disk.view;
            let may_exchange = |meter: usize| {
                view.device(&self.devices[meter]).is_some_and(|entry| entry.state.may_exchange())
            };
            match (intent, reply) {
                (Intent::Open { bytes, .. }, KeyReply::Apdu(verdict)) => {
                    self.watch.tell_verdict(site, bytes, verdict);
                    let opened = self.watch.verdict(view, bytes, verdict)?;
                    let answers_probe =
                        matches!(verdict, OpenVerdict::Fresh { plain, .. } if plain[0] == 0xC4);
                    if opened.is_some_and(|meter| !may_exchange(meter)) && !answers_probe {
                        return Err((Rule::S8, "opened for a device that is held back".into()));
                    }
                }
                (Intent::Seal { meter }, KeyReply::Exchange(ExchangeReply::Sealed(_)))
                    if !may_exchange(*meter) =>
                {
                    return Err((Rule::S8, "sealed for a device that is held back".into()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Commits what waits, in order, and lets the answers go.
    pub(super) fn flush(&mut self, site: usize) -> Step {
        while let Some(pending) = self.sites[site].queue.pop_front() {
            let Pending { commit, marker, replies, standby } = pending;
            self.sites[site].marker = marker.or(self.sites[site].marker);
            self.sites[site].disk.durable.apply(&commit);
            let holds_other = !commit.keys.is_empty();
            self.tell_leased(site, &commit.leased);
            let waits = waits(&commit);
            if self.sites.len() > 1 {
                self.sites[site].behind.push_back(commit);
            }
            if holds_other {
                self.tell_holdings(site);
            }
            if waits && !self.replicate(site, usize::MAX) {
                // It may be durable here, and is not there: what the service has in memory is to be thrown away.
                self.watch.event("unreplicated", || format!("\"site\":\"{}\"", site_name(site)));
                self.sites[site].standby = Standby::Lost;
                return self.restart(site);
            }
            self.release(site, replies, standby)?;
        }
        Ok(())
    }

    /// Answers leave the site that it decided upon while it knew this of its standby.
    fn release(&mut self, site: usize, replies: Vec<(Intent, KeyReply)>, standby: Standby) -> Step {
        for (intent, reply) in replies {
            self.tell_answer(site, &reply);
            let KeyReply::Exchange(reply) = reply else {
                if let (Intent::Open { why, .. }, KeyReply::Apdu(verdict)) = (intent, reply) {
                    self.opened(site, &why, &verdict)?;
                }
                continue;
            };
            match (intent, reply) {
                (Intent::Seal { meter }, ExchangeReply::Sealed(sealed)) => {
                    self.send(site, meter, &sealed, Why::Get)?;
                }
                (Intent::Change { meter }, ExchangeReply::Change(reply)) => {
                    self.changed(site, meter, reply, standby)?;
                }
                (Intent::Probe { meter }, ExchangeReply::Probes(probes)) => {
                    for probe in probes {
                        self.send(site, meter, &probe.sealed, Why::Probe)?;
                    }
                }
                (
                    Intent::Associate { meter },
                    ExchangeReply::Association { association, client_to_server, .. },
                ) => {
                    let why = Why::Association { handle: association, challenge: client_to_server };
                    self.net.push(Message { to: To::Meter, meter, site, why, bytes: Vec::new() });
                }
                (Intent::Hls { meter, handle }, ExchangeReply::HlsReply { parameter, sealed }) => {
                    let counter = u32::from_be_bytes(*parameter[1..].first_chunk().expect("17 bytes"));
                    self.leaves(site, meter, sealed.version, counter, &parameter[5..])?;
                    self.send(site, meter, &sealed, Why::Hls(handle))?;
                }
                (Intent::Hls { .. }, ExchangeReply::HlsVerified) => self.watch.coverage.count("hls/verified"),
                (Intent::Hls { .. }, ExchangeReply::Denied(_)) => self.watch.coverage.count("hls/rejected"),
                (Intent::Status { meter }, ExchangeReply::Status(status)) => {
                    self.watch.event("status", || {
                        let change = status.change.as_ref().map_or("none", |change| change.phase.name());
                        format!("\"site\":\"{}\",\"meter\":{meter},\"change\":\"{change}\"", site_name(site))
                    });
                    self.known[meter].status = Some(status);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// For the evidence: what a site answered.
    fn tell_answer(&mut self, site: usize, reply: &KeyReply) {
        self.watch.event("answer", || {
            let answer = match reply {
                KeyReply::Apdu(OpenVerdict::Fresh { late: false, .. }) => "fresh",
                KeyReply::Apdu(OpenVerdict::Fresh { late: true, .. }) => "late",
                KeyReply::Apdu(OpenVerdict::Duplicate { .. }) => "duplicate",
                KeyReply::Apdu(OpenVerdict::Replay) => "replay",
                KeyReply::Apdu(_) => "rejected",
                KeyReply::Exchange(ExchangeReply::Denied(denial)) => denial.name(),
                KeyReply::Exchange(ExchangeReply::Change(change)) => change.status.phase.name(),
                KeyReply::Exchange(ExchangeReply::Sealed(_)) => "sealed",
                KeyReply::Exchange(ExchangeReply::Probes(_)) => "probes",
                _ => "done",
            };
            format!("\"site\":\"{}\",\"answer\":\"{answer}\"", site_name(site))
        });
    }

    fn changed(&mut self, site: usize, meter: usize, reply: ChangeReply, standby: Standby) -> Step {
        let ChangeReply { status, transfer } = reply;
        self.known[meter].change = (!status.phase.is_resolved()).then_some(status.change);
        let Some(transfer) = transfer else { return Ok(()) };
        let Self { sites, devices, watch, .. } = self;
        if standby != Standby::Reachable {
            // Two people let it go without the standby's word (specification, section 18): nobody else has what the meter
            // gets now, even if the standby is back since. Who took that risk puts no older database back.
            sites[site].backups.clear();
        }
        let Disk { view, .. } = &sites[site].disk;
        watch.event("transfer", || {
            let keys = hex_list(view.keys_of(&devices[meter], &status.items, status.change));
            format!("\"site\":\"{}\",\"meter\":{meter},\"keys\":{keys}", site_name(site))
        });
        // The master key may have been confirmed since: the transfer was for its proof.
        // What is agreed upon is not there before it is answered: the offer is on record, as sent.
        let change = sites[site].disk.durable.change(&status.change);
        let is_agreed = change.as_ref().is_some_and(|change| change.agreement.is_some());
        let is_offered = change.is_some_and(|change| change.attempts > 0);
        let durable = &sites[site].disk.durable;
        let is_sent = is_agreed && is_offered
            || !is_agreed
                && status.items.iter().all(|kind| {
                    let versions =
                        durable.device(&devices[meter]).map(|entry| entry.versions).unwrap_or_default();
                    let of_kind = versions.into_iter().filter(|(of, _)| of == kind);
                    let mut entries =
                        of_kind.filter_map(|(of, number)| durable.version(&devices[meter], of, number));
                    entries.any(|entry| entry.sent && entry.change == Some(status.change))
                });
        if !is_sent {
            return Err((Rule::S2, format!("a transfer to meter {meter} left and is not on record as sent")));
        }
        self.send(site, meter, &transfer, Why::Transfer(status.change))
    }

    /// Something protected leaves a site for a meter.
    fn send(&mut self, site: usize, meter: usize, sealed: &Sealed, why: Why) -> Step {
        let Sealed { apdu, version, counter } = sealed;
        self.leaves(site, meter, *version, *counter, apdu)?;
        if counter_of(apdu) != *counter {
            return Err(contract("an answer names another counter than its APDU"));
        }
        self.net.push(Message { to: To::Meter, meter, site, why, bytes: apdu.clone() });
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one use of a counter and everything that it is judged by")]
    fn leaves(&mut self, site: usize, meter: usize, version: u32, counter: u32, bytes: &[u8]) -> Step {
        let Self { sites, devices, watch, .. } = self;
        let found = sites[site].disk.view.key(&devices[meter], KeyKind::Guek, version);
        let Some(key) = found else {
            return Err(contract("something is sealed under a key that is not there"));
        };
        let line = (u32::try_from(meter).expect("few"), key);
        let (client, durable) = (sites[site].client, &sites[site].disk.durable);
        watch.site_sent(&SiteSent { site, client, line, counter, bytes, durable })
    }

    /// What a head-end does with an APDU that was judged.
    fn opened(&mut self, site: usize, why: &Why, verdict: &OpenVerdict) -> Step {
        let (OpenVerdict::Fresh { system_title, plain, .. } | OpenVerdict::Duplicate { system_title, plain }) =
            verdict
        else {
            return Ok(());
        };
        let meter = self.meter_of(*system_title);
        if self.heals && plain[0] == 0xC4 && *why == Why::Get {
            self.known[meter].read = true;
            self.watch.event("reading", || format!("\"meter\":{meter}"));
        }
        if let Why::Hls(handle) = why
            && let Some(answer) = plain.last_chunk::<17>()
        {
            let step = HlsStep::Answer { answer: answer.to_vec() };
            let request = KeyRequest::ContinueHls { association: *handle, step };
            return self.ask(site, vec![(Intent::Hls { meter, handle: *handle }, request)]);
        }
        Ok(())
    }

    fn meter_of(&self, title: SystemTitle) -> usize {
        self.meters.iter().position(|meter| meter.title == title).unwrap_or_default()
    }

    /// A message arrives.
    pub(super) fn deliver(&mut self, message: Message) -> Step {
        let Message { to, meter, site, why, bytes } = &message;
        self.watch.event("arrives", || {
            let (at, counter) = (if *to == To::Meter { "meter" } else { "head-end" }, counter_of(bytes));
            format!(
                "\"at\":\"{at}\",\"meter\":{meter},\"site\":\"{}\",\"what\":\"{}\",\"counter\":{counter}",
                site_name(*site),
                why.name()
            )
        });
        match message.to {
            To::Meter => self.at_meter(message),
            To::HeadEnd => self.at_headend(message),
        }
    }

    fn at_meter(&mut self, message: Message) -> Step {
        let Message { meter, site, why, bytes, .. } = message;
        let (client, tick) = (self.sites[site].client, self.tick);
        if let Why::Association { handle, challenge } = why {
            if let Some(own) = self.meters[meter].associate(client, challenge.clone(), tick) {
                let why = Why::Association { handle, challenge };
                self.net.push(Message { to: To::HeadEnd, meter, site, why, bytes: own });
            }
            return Ok(());
        }
        let place = self.schedule.below(2) as usize;
        let mishap = match self.schedule.below(20) {
            _ if self.heals && matches!(why, Why::Transfer(_)) => {
                std::mem::replace(&mut self.mishap, Mishap::None)
            }
            _ if self.heals => Mishap::None,
            0 => Mishap::Refuses(place),
            1 => Mishap::PowerFails(place),
            2 if place == 0 => Mishap::SaysNo,
            _ => Mishap::None,
        };
        let Handled { answer, failed, locked, changed } =
            self.meters[meter].handle(client, &bytes, mishap, tick);
        if locked {
            self.watch.coverage.count("meter/locked");
        }
        let answers = answer.is_some();
        self.watch.event("meter", || {
            format!("\"meter\":{meter},\"answers\":{answers},\"failed\":{failed},\"locked\":{locked}")
        });
        // Failures that the key service does not count: anything but a probe that came once and as it was sent.
        let known = &mut self.known[meter];
        if answers {
            (known.probes_failed, known.others_failed) = (Vec::new(), false);
        } else if failed {
            known.others_failed |=
                why != Why::Probe || !self.watch.is_true(&bytes) || known.probes_failed.contains(&bytes);
            known.probes_failed.push(bytes);
        }
        if locked && self.budgets_hold && !known.others_failed {
            return Err((Rule::LockOut, format!("probes have locked meter {meter}")));
        }
        let is_transfer = matches!(why, Why::Transfer(_));
        match mishap {
            Mishap::Refuses(_) if is_transfer => self.watch.coverage.count("meter/refused"),
            Mishap::PowerFails(_) if is_transfer => self.watch.coverage.count("meter/power-cut"),
            Mishap::SaysNo if is_transfer => self.watch.coverage.count("meter/says-no"),
            _ => {}
        }
        if changed {
            if self.meters[meter].flash.keys.kek_agreed {
                self.watch.coverage.count("meter/agreed");
            }
            self.tell_keys(meter);
        }
        let Some(sent) = answer else { return Ok(()) };
        let title = self.meters[meter].title;
        self.watch.meter_sent(meter, title, &sent)?;
        self.net.push(Message { to: To::HeadEnd, meter, site, why, bytes: sent.bytes });
        Ok(())
    }

    fn at_headend(&mut self, message: Message) -> Step {
        let Message { meter, site, why, bytes, .. } = message;
        let system_title = self.meters[meter].title;
        if let Why::Association { handle, .. } = why {
            let step = HlsStep::Challenge { server_to_client: bytes };
            let request = KeyRequest::ContinueHls { association: handle, step };
            return self.ask(site, vec![(Intent::Hls { meter, handle }, request)]);
        }
        if let Why::Transfer(change) = why
            && self.schedule.happens(850_000)
        {
            let outcome = ChangeOutcome::Reply { apdu: bytes };
            let request = KeyRequest::ReportKeyChange { change, outcome };
            return self.ask(site, vec![(Intent::Change { meter }, request)]);
        }
        let request = if why == Why::Push {
            KeyRequest::OpenApdu { apdu: bytes.clone() }
        } else {
            KeyRequest::OpenFrom { system_title, apdu: bytes.clone() }
        };
        self.ask(site, vec![(Intent::Open { why, bytes }, request)])
    }

    /// A GET, sealed once for its idempotency key; again under the same one it is the same bytes.
    pub(super) fn get(&mut self, site: usize, meter: usize, again: bool) -> Step {
        let known = self.known[meter].sealed.filter(|_| again);
        let (idempotency, invoke) = match known {
            Some(known) => known,
            None => (self.number(), self.schedule.below(16) as u8),
        };
        self.known[meter].sealed = Some((idempotency, invoke));
        let carrier = self.meters[meter].quirks.carrier;
        let carrier = if carrier == Carrier::GeneralGlo { Carrier::GeneralGlo } else { Carrier::GloService };
        let system_title = self.meters[meter].title;
        let seal = Seal { system_title, apdu: get(invoke), carrier, idempotency };
        self.ask(site, vec![(Intent::Seal { meter }, KeyRequest::Seal(seal))])
    }

    pub(super) fn begin_change(&mut self, site: usize, meter: usize, items: Vec<KeyKind>) -> Step {
        let system_title = self.meters[meter].title;
        self.ask(site, vec![(Intent::Change { meter }, KeyRequest::BeginKeyChange { system_title, items })])
    }

    pub(super) fn report(&mut self, site: usize, meter: usize, outcome: ChangeOutcome) -> Step {
        let Some(change) = self.known[meter].change else { return Ok(()) };
        self.ask(site, vec![(Intent::Change { meter }, KeyRequest::ReportKeyChange { change, outcome })])
    }

    pub(super) fn probe(&mut self, site: usize, meter: usize) -> Step {
        let system_title = self.meters[meter].title;
        self.ask(site, vec![(Intent::Probe { meter }, KeyRequest::ProbePlan { system_title })])
    }

    pub(super) fn associate(&mut self, site: usize, meter: usize, candidate: u8) -> Step {
        let system_title = self.meters[meter].title;
        let request = OpenAssociation { system_title, mechanism: 5, candidate };
        self.ask(site, vec![(Intent::Associate { meter }, KeyRequest::OpenAssociation(request))])
    }

    pub(super) fn status(&mut self, site: usize, meter: usize) -> Step {
        let system_title = self.meters[meter].title;
        self.ask(site, vec![(Intent::Status { meter }, KeyRequest::KeyStatus { system_title })])
    }
}
