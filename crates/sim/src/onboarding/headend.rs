//! The head-end's shell: admissions, links of meters, the key service, and the store.

use std::collections::{BTreeMap, VecDeque};

use gridseal_headend::{
    BatchId, ConnectionId, Ingest, Input, Output, PushModel, ReadingFilter, ReadingStore,
    admission::{Change, Standing, lookup, record},
    memory::{MemoryAdmissions, MemoryReadings},
};
use gridseal_types::{
    Reading, Tick,
    service::keys::{KeyReply, KeyRequest},
};

use super::{
    meter::INTERVAL_S,
    network::Content,
    report::{Fault, Point, Rule, Violation},
    world::{Actor, Step, World},
};

/// How long the key service may take.
const CALL_MS: u64 = 3_000;
/// Probability that the store fails, in a million, while there are faults.
const STORE_FAILURE: u32 = 20_000;

/// The process.
#[derive(Default)]
pub(super) struct HeadEndProcess {
    admissions: MemoryAdmissions,
    readings: MemoryReadings,
    memory: Option<Memory>,
}

/// What a crash takes.
struct Memory {
    ingest: Ingest,
    inbox: VecDeque<(Actor, Content)>,
    links: BTreeMap<ConnectionId, Actor>,
    calls: BTreeMap<u64, (Tick, BatchId)>,
    /// A planted bug stores late.
    late: Vec<Reading>,
    is_woken: bool,
}

impl HeadEndProcess {
    pub(super) fn start(&mut self) {
        self.memory = Some(Memory {
            ingest: Ingest::new(PushModel::load_profile(INTERVAL_S)),
            inbox: VecDeque::new(),
            links: BTreeMap::new(),
            calls: BTreeMap::new(),
            late: Vec::new(),
            is_woken: false,
        });
    }

    pub(super) fn wake(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.is_woken = true;
        }
    }

    /// All readings, and those that came second with another value.
    pub(super) fn readings(&self) -> (Vec<Reading>, usize) {
        let all = self.readings.list(&ReadingFilter::default()).unwrap_or_default();
        (all, self.readings.conflicts().len())
    }
}

fn failed(error: impl std::fmt::Display) -> Violation {
    Violation::new(Rule::Contract, format!("head-end: {error}"))
}

impl World {
    pub(super) fn headend_loses_memory(&mut self) {
        let links = self.headend.memory.take().map(|memory| memory.links);
        for link in links.unwrap_or_default().into_keys() {
            self.break_link(link);
        }
    }

    pub(super) fn headend_receives(&mut self, from: Actor, content: Content) {
        if let Some(memory) = &mut self.headend.memory {
            memory.inbox.push_back((from, content));
        }
    }

    pub(super) fn headend_acts(&mut self) -> Step {
        let now = self.now;
        let Some(memory) = &mut self.headend.memory else { return Ok(()) };
        if let Some(output) = memory.ingest.poll() {
            self.ingest_output(output)?;
        } else if !memory.late.is_empty() {
            let late = std::mem::take(&mut memory.late);
            self.headend.readings.store(&late).map_err(failed)?;
        } else if let Some((from, content)) = memory.inbox.pop_front() {
            self.headend_input(from, content)?;
        } else if memory.is_woken {
            memory.is_woken = false;
            let late = memory.calls.iter().find(|(_, (until, _))| *until <= now).map(|(call, _)| *call);
            if let Some((_, batch)) = late.and_then(|call| memory.calls.remove(&call)) {
                memory.is_woken = true;
                memory.ingest.handle(now, Input::OpenFailed { batch }).map_err(failed)?;
            } else if memory.ingest.deadline().is_some_and(|deadline| deadline <= now) {
                memory.ingest.handle(now, Input::Timeout).map_err(failed)?;
            }
        } else {
            let calls = memory.calls.values().map(|(until, _)| *until);
            if let Some(next) = calls.chain(memory.ingest.deadline()).min() {
                self.wake_at(Actor::HeadEnd, next);
            }
            return Ok(());
        }
        self.stir(Actor::HeadEnd);
        Ok(())
    }

    fn tell_ingest(&mut self, input: Input<'_>) -> Step {
        let now = self.now;
        let Some(memory) = &mut self.headend.memory else { return Ok(()) };
        memory.ingest.handle(now, input).map_err(failed)
    }

    fn headend_input(&mut self, from: Actor, content: Content) -> Step {
        match content {
            Content::Admit { call, admission } => {
                if self.crashes(Actor::HeadEnd, Point::BeforeCommit) {
                    return Ok(());
                }
                let change = record(&mut self.headend.admissions, &admission).map_err(failed)?;
                if self.crashes(Actor::HeadEnd, Point::AfterCommit) {
                    return Ok(());
                }
                if change == Change::Applied {
                    self.tell_ingest(Input::Admitted(&admission))?;
                }
                self.send(Actor::HeadEnd, from, Content::AdmitAnswer { call });
                Ok(())
            }
            Content::Connect { link, tls_key } => self.meter_connects(from, link, &tls_key),
            Content::Frame { link, bytes } => {
                self.tell_ingest(Input::Received { connection: link, bytes: &bytes })
            }
            Content::LinkDown { link } => {
                if let Some(memory) = &mut self.headend.memory {
                    memory.links.remove(&link);
                }
                self.tell_ingest(Input::Disconnected { connection: link })
            }
            Content::KeyAnswer { call, replies } => {
                let at = self.utc();
                let Some(memory) = &mut self.headend.memory else { return Ok(()) };
                let Some((_, batch)) = memory.calls.remove(&call) else { return Ok(()) };
                let verdicts = replies.into_iter().filter_map(|reply| match reply {
                    KeyReply::Apdu(verdict) => Some(verdict),
                    _ => None,
                });
                let verdicts = verdicts.collect();
                self.tell_ingest(Input::Opened { batch, verdicts, at })
            }
            _ => Ok(()),
        }
    }

    fn meter_connects(&mut self, from: Actor, link: ConnectionId, key: &gridseal_types::Digest) -> Step {
        // The meter may have given this attempt up meanwhile.
        if !self.links.contains_key(&link) {
            return Ok(());
        }
        match lookup(&self.headend.admissions, key).map_err(failed)? {
            Standing::Served(served) => {
                if let Some(memory) = &mut self.headend.memory {
                    memory.links.insert(link, from);
                }
                self.tell_ingest(Input::Connected { connection: link, served })?;
                self.send(Actor::HeadEnd, from, Content::LinkUp { link });
            }
            _ => {
                self.links.remove(&link);
                self.send(Actor::HeadEnd, from, Content::LinkRefused { link });
            }
        }
        Ok(())
    }

    fn ingest_output(&mut self, output: Output) -> Step {
        match output {
            Output::Open { batch, apdus } => {
                let call = self.number();
                let until = Tick(self.now.0 + CALL_MS);
                if let Some(memory) = &mut self.headend.memory {
                    memory.calls.insert(call, (until, batch));
                }
                let requests = apdus.into_iter().map(|apdu| KeyRequest::OpenApdu { apdu }).collect();
                self.send(Actor::HeadEnd, Actor::Keys, Content::KeyCall { call, requests });
                Ok(())
            }
            Output::Store { batch, readings } => self.store(batch, readings),
            Output::Acknowledge { connection, frame } => {
                let to =
                    self.headend.memory.as_ref().and_then(|memory| memory.links.get(&connection)).copied();
                if let Some(to) = to {
                    self.send(Actor::HeadEnd, to, Content::Frame { link: connection, bytes: frame });
                }
                Ok(())
            }
            Output::Close { connection, reason } => {
                Err(failed(format!("link {connection:?} of a good meter is closed: {reason:?}")))
            }
            Output::Event(event) => {
                self.note(format_args!("head-end: {event:?}"));
                Ok(())
            }
            other => Err(failed(format!("unknown output {other:?}"))),
        }
    }

    fn store(&mut self, batch: BatchId, readings: Vec<Reading>) -> Step {
        if !self.calm && self.chance.happens(STORE_FAILURE) {
            return self.tell_ingest(Input::StoreFailed { batch });
        }
        if self.crashes(Actor::HeadEnd, Point::BeforeCommit) {
            return Ok(());
        }
        if self.plant == Some(Fault::HeadEndConfirmsBeforeStore) {
            let outcomes = vec![gridseal_headend::StoreOutcome::Stored; readings.len()];
            if let Some(memory) = &mut self.headend.memory {
                memory.late.extend(readings);
            }
            return self.tell_ingest(Input::Stored { batch, outcomes });
        }
        let outcomes = self.headend.readings.store(&readings).map_err(failed)?;
        if self.crashes(Actor::HeadEnd, Point::AfterCommit) {
            return Ok(());
        }
        self.tell_ingest(Input::Stored { batch, outcomes })
    }
}
