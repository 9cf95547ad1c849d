//! The way of a key change: the key service has it, the meter gets it over its own link, the answer goes back.
//!
//! The head-end decides nothing and reads nothing: it carries sealed APDUs both ways, and its word counts for nothing. What
//! confirms a change is an APDU of the meter under the new keys, whichever comes first, that the key service has opened.
//! So every loss and every repeat is harmless here, and nothing of this has to be durable: after a restart the key service
//! is asked again.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use gridseal_dlms::frame::wrapper::{MANAGEMENT_CLIENT, MANAGEMENT_LOGICAL_DEVICE, WrapperFrame};
use gridseal_types::{
    N16, SystemTitle, Tick,
    service::keys::{ChangeOutcome, ChangePhase, ChangeReply, Probe},
};

use crate::ConnectionId;

/// Most meters whose change is on its way at a time; the others wait.
pub const CHANGES_MAX: usize = 256;

/// How long is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From one question which changes there are to the next.
    pub poll: Duration,
    /// For the meter's answer to a transfer or to probes.
    pub answer: Duration,
    /// After the acknowledgement, for an APDU under the new keys: longer than one load-profile interval.
    pub proof: Duration,
    /// After a refusal, before the key service is asked about this meter again.
    pub rest: Duration,
}

impl Pace {
    /// For meters that push at this interval in seconds.
    #[must_use]
    pub fn of_interval(interval_s: u32) -> Self {
        Self {
            poll: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            proof: Duration::from_secs(u64::from(interval_s).saturating_mul(2).max(60)),
            rest: Duration::from_secs(30),
        }
    }
}

/// What the key service is asked about a meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Go on with its change. Answer: [`Input::Change`].
    Continue,
    /// What came of its transfer. Answer: [`Input::Change`].
    Report {
        /// Change.
        change: N16,
        /// What came.
        outcome: ChangeOutcome,
    },
    /// Probes. Answer: [`Input::Probes`].
    Probe,
}

/// What drives the machine.
#[derive(Debug)]
pub enum Input {
    /// A meter's link stands.
    Connected {
        /// Its number.
        connection: ConnectionId,
        /// Meter.
        meter: SystemTitle,
    },
    /// A link is gone.
    Disconnected {
        /// Its number.
        connection: ConnectionId,
    },
    /// Answer to [`Output::Poll`].
    Pending {
        /// After which meter they come.
        after: Option<SystemTitle>,
        /// Meters whose change is not resolved; `None` when the key service could not be asked.
        answer: Option<(Vec<SystemTitle>, bool)>,
    },
    /// Answer to [`Question::Continue`] or [`Question::Report`]; `None`: denied, or not asked.
    Change {
        /// Meter.
        meter: SystemTitle,
        /// What the key service said.
        reply: Option<ChangeReply>,
    },
    /// Answer to [`Question::Probe`]; empty when it was denied, or not asked.
    Probes {
        /// Meter.
        meter: SystemTitle,
        /// Sealed GETs.
        probes: Vec<Probe>,
    },
    /// A response of a meter, as it came: the key service has opened it.
    Response {
        /// Over which link.
        connection: ConnectionId,
        /// The sealed APDU.
        apdu: Vec<u8>,
        /// Whether it answers an ACTION, and not a GET.
        is_action: bool,
    },
    /// The deadline has passed.
    Timeout,
}

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask which changes there are after this meter; answer [`Input::Pending`].
    Poll {
        /// Meter.
        after: Option<SystemTitle>,
    },
    /// Ask the key service about a meter.
    Ask {
        /// Meter.
        meter: SystemTitle,
        /// What.
        question: Question,
    },
    /// Send the bytes (one wrapper frame) over a link.
    Transmit {
        /// Which link.
        connection: ConnectionId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// A change has come to this phase, for the log.
    Phase {
        /// Meter.
        meter: SystemTitle,
        /// Phase.
        phase: ChangePhase,
    },
    /// A change is not open any more, for the log: as a rule because an APDU under the new keys came meanwhile.
    Resolved {
        /// Meter.
        meter: SystemTitle,
    },
}

/// How far one meter's change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The key service was asked.
    Asked,
    /// A transfer was sent.
    Sent { change: N16, until: Tick },
    /// It was acknowledged.
    Acknowledged { change: N16, until: Tick },
    /// Probes were sent.
    Probing { until: Tick },
    /// Later again.
    Resting { until: Tick },
}

impl Work {
    const fn until(self) -> Option<Tick> {
        match self {
            Self::Asked => None,
            Self::Sent { until, .. }
            | Self::Acknowledged { until, .. }
            | Self::Probing { until }
            | Self::Resting { until } => Some(until),
        }
    }
}

#[derive(Debug)]
struct Link {
    connection: ConnectionId,
    work: Option<Work>,
}

/// The machine. Call [`KeyChanges::handle`], then [`KeyChanges::poll`] until `None`, then wait until
/// [`KeyChanges::deadline`].
#[derive(Debug)]
pub struct KeyChanges {
    pace: Pace,
    links: BTreeMap<SystemTitle, Link>,
    meters: BTreeMap<ConnectionId, SystemTitle>,
    /// When to ask which changes there are, and after which meter; none while it was asked.
    poll_at: Option<Tick>,
    after: Option<SystemTitle>,
    outputs: VecDeque<Output>,
}

impl KeyChanges {
    /// A machine without links; it asks at its first timeout.
    #[must_use]
    pub const fn new(pace: Pace, now: Tick) -> Self {
        Self {
            pace,
            links: BTreeMap::new(),
            meters: BTreeMap::new(),
            poll_at: Some(now),
            after: None,
            outputs: VecDeque::new(),
        }
    }

    /// Feeds one input. `now` never goes backwards.
    pub fn handle(&mut self, now: Tick, input: Input) {
        match input {
            Input::Connected { connection, meter } => {
                // A newer link of the same meter takes the place of the one before.
                if let Some(before) = self.links.insert(meter, Link { connection, work: None }) {
                    self.meters.remove(&before.connection);
                }
                self.meters.insert(connection, meter);
            }
            Input::Disconnected { connection } => {
                if let Some(meter) = self.meters.remove(&connection) {
                    self.links.remove(&meter);
                }
            }
            Input::Pending { after, answer } => self.pending(now, after, answer),
            Input::Change { meter, reply } => self.changed(now, meter, reply),
            Input::Probes { meter, probes } => self.probe(now, meter, &probes),
            Input::Response { connection, apdu, is_action } => self.response(connection, apdu, is_action),
            Input::Timeout => {}
        }
        self.pass_time(now);
    }

    /// The next thing to do. Drain after every [`KeyChanges::handle`], until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)` if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        let work = self.links.values().filter_map(|link| link.work?.until());
        work.chain(self.poll_at).min()
    }

    /// Meters whose change is on its way.
    fn active(&self) -> usize {
        self.links.values().filter(|link| link.work.is_some()).count()
    }

    fn ask(&mut self, meter: SystemTitle, question: Question) {
        if let Some(link) = self.links.get_mut(&meter) {
            link.work = Some(Work::Asked);
            self.outputs.push_back(Output::Ask { meter, question });
        }
    }

    fn set(&mut self, meter: SystemTitle, work: Option<Work>) {
        if let Some(link) = self.links.get_mut(&meter) {
            link.work = work;
        }
    }

    fn pending(&mut self, now: Tick, after: Option<SystemTitle>, answer: Option<(Vec<SystemTitle>, bool)>) {
        self.poll_at = Some(now + self.pace.poll);
        let Some((meters, is_last)) = answer else { return };
        let end = if is_last { None } else { meters.last().copied() };
        self.after = end;
        // Whoever was asked about and is not among them is done: its new keys were confirmed by something else.
        let is_done = |title: &SystemTitle, link: &Link| {
            let is_in_page = Some(*title) > after && end.is_none_or(|end| *title <= end);
            is_in_page && link.work.is_some_and(|work| work != Work::Asked) && !meters.contains(title)
        };
        let done: Vec<SystemTitle> =
            self.links.iter().filter(|(title, link)| is_done(title, link)).map(|(title, _)| *title).collect();
        for meter in done {
            self.set(meter, None);
            self.outputs.push_back(Output::Resolved { meter });
        }
        let mut room = CHANGES_MAX.saturating_sub(self.active());
        for meter in meters {
            if room > 0 && self.links.get(&meter).is_some_and(|link| link.work.is_none()) {
                room = room.saturating_sub(1);
                self.ask(meter, Question::Continue);
            }
        }
    }

    fn send(&mut self, meter: SystemTitle, apdu: Vec<u8>) {
        let Some(link) = self.links.get(&meter) else { return };
        // The key service seals nothing that no wrapper can carry.
        let frame = WrapperFrame::new(MANAGEMENT_CLIENT, MANAGEMENT_LOGICAL_DEVICE, apdu);
        if let Ok(frame) = frame {
            let (connection, frame) = (link.connection, frame.to_bytes());
            self.outputs.push_back(Output::Transmit { connection, frame });
        }
    }

    fn changed(&mut self, now: Tick, meter: SystemTitle, reply: Option<ChangeReply>) {
        if self.links.get(&meter).is_none_or(|link| link.work != Some(Work::Asked)) {
            // The link is another one now; the key service is asked again when it tells of the change again.
            return;
        }
        let Some(ChangeReply { status, transfer }) = reply else {
            return self.set(meter, Some(Work::Resting { until: now + self.pace.rest }));
        };
        let (change, phase) = (status.change, status.phase);
        self.outputs.push_back(Output::Phase { meter, phase });
        if let Some(transfer) = transfer {
            self.set(meter, Some(Work::Sent { change, until: now + self.pace.answer }));
            return self.send(meter, transfer.apdu);
        }
        match phase {
            phase if phase.is_resolved() => self.set(meter, None),
            ChangePhase::Sent => {
                self.set(meter, Some(Work::Acknowledged { change, until: now + self.pace.proof }));
            }
            ChangePhase::Unknown => self.ask(meter, Question::Probe),
            _ => self.set(meter, Some(Work::Resting { until: now + self.pace.rest })),
        }
    }

    fn probe(&mut self, now: Tick, meter: SystemTitle, probes: &[Probe]) {
        if self.links.get(&meter).is_none_or(|link| link.work != Some(Work::Asked)) {
            return;
        }
        let wait = if probes.is_empty() { self.pace.rest } else { self.pace.answer };
        self.set(meter, Some(Work::Probing { until: now + wait }));
        for probe in probes {
            self.send(meter, probe.sealed.apdu.clone());
        }
    }

    fn response(&mut self, connection: ConnectionId, apdu: Vec<u8>, is_action: bool) {
        let Some(meter) = self.meters.get(&connection).copied() else { return };
        let Some(work) = self.links.get(&meter).and_then(|link| link.work) else { return };
        match work {
            Work::Sent { change, .. } if is_action => {
                self.ask(meter, Question::Report { change, outcome: ChangeOutcome::Reply { apdu } });
            }
            Work::Probing { .. } if !is_action => self.ask(meter, Question::Continue),
            // A late answer: whatever it proves, the key service has seen it.
            _ => {}
        }
    }

    fn pass_time(&mut self, now: Tick) {
        if self.poll_at.is_some_and(|at| at <= now) {
            self.poll_at = None;
            self.outputs.push_back(Output::Poll { after: self.after });
        }
        let due = |link: &Link| link.work.filter(|work| work.until().is_some_and(|until| until <= now));
        let due: Vec<(SystemTitle, Work)> =
            self.links.iter().filter_map(|(meter, link)| Some((*meter, due(link)?))).collect();
        for (meter, work) in due {
            match work {
                Work::Sent { change, .. } | Work::Acknowledged { change, .. } => {
                    self.ask(meter, Question::Report { change, outcome: ChangeOutcome::NoReply });
                }
                Work::Probing { .. } | Work::Resting { .. } => self.ask(meter, Question::Continue),
                Work::Asked => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
