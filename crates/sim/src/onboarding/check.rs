//! Somebody who sees everything, and compares it after every step with the rules.

use std::collections::{BTreeMap, BTreeSet};

use gridseal_crypto::{
    InvocationCounter, Key, WrappedKey,
    role::{AuthValue, Gak, Guek},
};
use gridseal_dlms::{
    apdu::ciphered::GeneralGlo, frame::wrapper::WrapperDecoder, suite::protect::seal_general_glo,
};
use gridseal_keys::record::{DEVICES, DeviceEntry, SESSIONS, SessionEntry, VERSIONS, VersionEntry};
use gridseal_keys::record::{context, version_key};
use gridseal_meter::{PushKeys, Row};
use gridseal_onboarding::endpoint_manager::register::RegisterEntry;
use gridseal_trust::{
    enrol::{
        device::DeviceRecord,
        init::InitHello,
        registrar::SessionRecord,
        session::{Envelope, Step as Message, sid_of},
    },
    root::{DeviceRoot, OwnerPin, RootReply, RootRequest},
};
use gridseal_types::{
    DeviceState, Digest, EkName, Sid, UtcTime,
    records::{Records, Write},
    service::{
        admission::Admission,
        keys::{KeyKind, KeyReply, KeyRequest, OpenVerdict, VersionState},
    },
};

use super::{
    manager::digest,
    report::{Rule, Violation},
    world::{Step, World},
};
use crate::{
    HashRng,
    works::{TENANT, dek, owner},
};

/// Table of the endpoint manager's sessions.
const MANAGER_SESSIONS: &str = "em_sessions";
/// Versions of channel keys that the key service tries, newest first.
const CHANNELS_TRIED: u32 = 15;

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Checker {
    /// What was sealed and sent, by what its key and number depend on.
    sealed: BTreeMap<Vec<u8>, Digest>,
    /// Replies that were ever on record.
    manager_durable: BTreeSet<Digest>,
    keys_durable: BTreeSet<Digest>,
    /// Messages that devices really sent.
    sent: BTreeSet<Digest>,
    /// Sessions that devices really began.
    begun: BTreeSet<Sid>,
    /// Genuine answers to each message.
    genuine: BTreeSet<(Digest, Digest)>,
    meters: Vec<Seen>,
}

/// What was seen of one meter.
#[derive(Debug, Default)]
struct Seen {
    record: DeviceRecord,
    configurations: BTreeSet<Digest>,
    epoch: u32,
    pin: Option<OwnerPin>,
    permanent: u32,
    durable: BTreeMap<UtcTime, Row>,
    confirmed: BTreeSet<UtcTime>,
}

/// What an answer is bound to: I1 carries no proof, so its answer is bound to its fresh value; others to every bit.
pub(super) fn question(message: &[u8]) -> Digest {
    InitHello::decode(message).map_or_else(|_| digest(message), |hello| digest(&hello.m.0))
}

fn broken(rule: Rule, detail: impl Into<String>) -> Step {
    Err(Violation::new(rule, detail))
}

impl Checker {
    pub(super) fn new(count: usize) -> Self {
        Self {
            sealed: BTreeMap::new(),
            manager_durable: BTreeSet::new(),
            keys_durable: BTreeSet::new(),
            sent: BTreeSet::new(),
            begun: BTreeSet::new(),
            genuine: BTreeSet::new(),
            meters: (0..count).map(|_| Seen::default()).collect(),
        }
    }

    /// S1: a place in front of a seal has one content for ever.
    fn seals(&mut self, place: Vec<u8>, wire: &[u8]) -> Step {
        let digest = digest(wire);
        let known = *self.sealed.entry(place).or_insert(digest);
        if known == digest { Ok(()) } else { broken(Rule::S1, "one key and number seal two messages") }
    }

    fn message(&mut self, wire: &[u8]) -> Step {
        match Envelope::decode(wire) {
            Ok(Envelope::Hello { kid, m, .. }) => self.seals([b"1", &kid.0[..], &m.0[..]].concat(), wire),
            Ok(Envelope::Challenge { sid, m_em, .. }) => {
                // A fresh value is used once: the second session with it would not be fresh.
                self.seals([b"f", &m_em.0[..]].concat(), wire)?;
                self.seals([b"2", &sid.0[..]].concat(), wire)
            }
            Ok(Envelope::Message { step, sid, .. }) => {
                self.seals([&[b'0' + step.number()], &sid.0[..]].concat(), wire)
            }
            _ => Ok(()),
        }
    }

    /// A device sends a message; `record` is what its flash holds.
    pub(super) fn device_sends(&mut self, wire: &[u8], record: &DeviceRecord) -> Step {
        self.message(wire)?;
        self.sent.insert(digest(wire));
        self.begun.insert(sid_of(wire));
        match Envelope::decode(wire).ok().and_then(|envelope| envelope.step()) {
            Some(Message::HELLO) if record.redirect.is_none() || record.keys.is_none() => {
                broken(Rule::S2, "C1 names keys that are not on flash")
            }
            Some(Message::INSTALLED) if record.installed.is_none() => {
                broken(Rule::S2, "C7 reports a configuration that is not on flash")
            }
            _ => Ok(()),
        }
    }

    /// The record that a device starts with or has just written. Nothing in it moves down.
    pub(super) fn flash_is(&mut self, number: usize, flash: &[u8]) -> Step {
        let record = DeviceRecord::decode(flash).expect("own record");
        let Some(seen) = self.meters.get_mut(number) else { return Ok(()) };
        let before = std::mem::replace(&mut seen.record, record);
        let now = &seen.record;
        if now.redirect_seq < before.redirect_seq {
            return broken(Rule::S5, format!("redirect of device {number} moved down"));
        }
        if now.floor < before.floor || now.suite < before.suite {
            return broken(Rule::S5, format!("floor clock or suite of device {number} moved down"));
        }
        if before.keys.is_some() && now.keys != before.keys {
            return broken(Rule::S2, format!("device {number} lost the keys it had told of"));
        }
        match (&before.installed, &now.installed) {
            (Some(before), None) if before.confirmed => {
                broken(Rule::S2, format!("device {number} lost a confirmed configuration"))
            }
            (Some(before), Some(now))
                if before.digest == now.digest && before.confirmed && !now.confirmed =>
            {
                broken(Rule::S5, format!("configuration of device {number} is unconfirmed again"))
            }
            (Some(before), Some(now)) if before.digest == now.digest => Ok(()),
            (_, Some(now)) if !seen.configurations.insert(now.digest) => {
                broken(Rule::S5, format!("device {number} installed one configuration twice"))
            }
            _ => Ok(()),
        }
    }

    /// The right answer to a message.
    pub(super) fn answered(&mut self, message: &[u8], reply: &[u8]) {
        self.genuine.insert((question(message), digest(reply)));
    }

    /// Whether the owner or the init server gave this answer to this message.
    pub(super) fn is_genuine(&self, question: &Digest, reply: &[u8]) -> bool {
        self.genuine.contains(&(*question, digest(reply)))
    }

    /// Replies that a transaction of the endpoint manager makes durable; each answers what a device really sent.
    pub(super) fn manager_commits(&mut self, writes: &[Write]) -> Step {
        for write in writes.iter().filter(|write| write.table == MANAGER_SESSIONS) {
            let Some(value) = &write.value else { continue };
            let record: SessionRecord = minicbor::decode(value).expect("own record");
            if !self.sent.contains(&record.answered) {
                return broken(Rule::S5, "the endpoint manager took a message that no device sent");
            }
            self.manager_durable.insert(digest(&record.reply));
        }
        Ok(())
    }

    /// S2: the endpoint manager replies to a message.
    pub(super) fn manager_replies(&mut self, message: &[u8], reply: &[u8]) -> Step {
        self.answered(message, reply);
        self.message(reply)?;
        if self.manager_durable.contains(&digest(reply)) {
            Ok(())
        } else {
            broken(Rule::S2, "a reply leaves the endpoint manager before it is durable")
        }
    }

    /// Sealed messages that a transaction of the key service makes durable.
    pub(super) fn keys_commit(&mut self, writes: &[Write]) -> Step {
        for write in writes.iter().filter(|write| write.table == SESSIONS) {
            let Some(value) = &write.value else { continue };
            let session: SessionEntry = minicbor::decode(value).expect("own record");
            if !self.begun.contains(&session.sid) {
                return broken(Rule::S5, "the key service keeps a session that no device began");
            }
            self.keys_durable.extend(session.sealed.iter().flatten().map(|wire| digest(&wire.0)));
        }
        Ok(())
    }

    /// S1 and S2: answers leave the key service.
    pub(super) fn keys_send(&mut self, replies: &[KeyReply]) -> Step {
        for reply in replies {
            let (KeyReply::Sealed { wire } | KeyReply::Provisioned { wire, .. }) = reply else { continue };
            self.message(wire)?;
            if !self.keys_durable.contains(&digest(wire)) {
                return broken(Rule::S2, "a sealed message leaves the key service before it is durable");
            }
        }
        Ok(())
    }

    /// S2: the head-end is told of what is on record only.
    pub(super) fn admits(&self, admission: &Admission, entry: Option<&RegisterEntry>) -> Step {
        match entry.and_then(RegisterEntry::admission) {
            Some(recorded) if recorded.revision >= admission.revision => Ok(()),
            _ => broken(Rule::S2, "the head-end is told of an admission that is not on record"),
        }
    }

    /// Rows that the meter's flash now holds.
    pub(super) fn rows_are_durable(&mut self, number: usize, captured: &mut Vec<Row>) {
        let Some(seen) = self.meters.get_mut(number) else { return };
        seen.durable.extend(captured.drain(..).map(|row| (row.start, row)));
    }

    /// S1: a frame leaves a meter.
    pub(super) fn meter_pushes(&mut self, number: usize, frame: &[u8]) -> Step {
        let mut decoder = WrapperDecoder::new(4_096);
        decoder.push(frame).expect("own frame");
        while let Some(frame) = decoder.poll() {
            let apdu = GeneralGlo::from_bytes(frame.apdu()).expect("own APDU");
            let place =
                [b"p", &number.to_be_bytes()[..], &apdu.invocation_counter.to_be_bytes()[..]].concat();
            self.seals(place, frame.apdu())?;
        }
        Ok(())
    }

    pub(super) fn rows_confirmed(&self, number: usize) -> usize {
        self.meters.get(number).map_or(0, |seen| seen.confirmed.len())
    }
}

impl World {
    fn key_entry(&self, name: &EkName) -> Option<DeviceEntry> {
        let bytes = self.keys.records.get(DEVICES, name.as_bytes()).expect("memory")?;
        Some(minicbor::decode(&bytes).expect("own record"))
    }

    /// S3 and S5: pin and epoch do not fall, and whatever authorisation is set in a root, its owner has it on record.
    pub(super) fn check_root(&mut self, number: usize) -> Step {
        let Some(meter) = self.meters.get_mut(number) else { return Ok(()) };
        let Ok(RootReply::Described(now)) = meter.root.perform(RootRequest::Describe) else {
            return broken(Rule::Contract, "a root does not describe itself");
        };
        if meter.root.is_locked_out() {
            return broken(Rule::S3, format!("root {number} is locked out"));
        }
        let name = meter.name;
        let auths = self.key_entry(&name).map(|entry| {
            let context = context(&TENANT, &name, entry.epoch);
            entry.auth.map(|auth| {
                let wrapped = WrappedKey(auth?.0);
                Key::<AuthValue, 32>::unwrap_key(&dek(0), &context, &wrapped).ok()
            })
        });
        let known =
            auths.as_ref().map_or([None, None], |[owner, lockout]| [owner.as_ref(), lockout.as_ref()]);
        let Some(meter) = self.meters.get(number) else { return Ok(()) };
        if meter.root.authorisations_match(known).contains(&Some(false)) {
            return broken(Rule::S3, format!("root {number} has an authorisation that nobody has on record"));
        }
        let Some(seen) = self.check.meters.get_mut(number) else { return Ok(()) };
        let pin = |pin: &Option<OwnerPin>| pin.map(|pin| (pin.index, pin.generation));
        if pin(&now.pin) < pin(&seen.pin) || now.epoch < seen.epoch {
            return broken(Rule::S5, format!("pin or epoch of root {number} moved down"));
        }
        if seen.permanent & !now.permanent != 0 {
            return broken(Rule::S3, format!("root {number} lost an authorisation"));
        }
        (seen.pin, seen.epoch, seen.permanent) = (now.pin, now.epoch, now.permanent);
        Ok(())
    }

    /// S3: the channel keys that a device has installed are on record, and would still be tried.
    pub(super) fn check_channel(&mut self, number: usize) -> Step {
        let Some(PushKeys { guek, gak, .. }) = self.push_keys(number) else { return Ok(()) };
        let Some(name) = self.meters.get(number).map(|meter| meter.name) else { return Ok(()) };
        let Some(entry) = self.key_entry(&name) else {
            return broken(Rule::S3, format!("device {number} has keys of nobody"));
        };
        let oldest = entry.channel_version.saturating_sub(CHANNELS_TRIED) + 1;
        for version in (1..=entry.channel_version).rev() {
            let row = |kind| {
                let row = self.keys.records.get(VERSIONS, &version_key(&name, kind, version));
                let row = row.expect("memory")?;
                Some(minicbor::decode::<VersionEntry>(&row).expect("own record"))
            };
            let (Some(own), Some(own_gak)) = (row(KeyKind::Guek), row(KeyKind::Gak)) else { continue };
            let is_past = own.state == VersionState::Deactivated;
            let context = context(&TENANT, &name, version);
            let own_guek = Key::<Guek, 16>::unwrap_key(&dek(0), &context, &WrappedKey(own.envelope.0));
            let own_gak = Key::<Gak, 16>::unwrap_key(&dek(0), &context, &WrappedKey(own_gak.envelope.0));
            let (Ok(own_guek), Ok(own_gak)) = (own_guek, own_gak) else {
                return broken(Rule::S3, "channel keys on record do not open");
            };
            if !bool::from(guek.ct_eq(&own_guek) & gak.ct_eq(&own_gak)) {
                continue;
            }
            // Before its owner has it operating, a device may hold keys that many lost deliveries made old: they are kept,
            // and another session replaces them.
            let is_operating =
                self.manager.entry(&name).is_some_and(|entry| entry.state == DeviceState::Operating);
            if is_operating && (is_past || version < oldest) {
                let newest = entry.channel_version;
                let detail =
                    format!("keys {version} of device {number} are not tried any more, newest {newest}");
                return broken(Rule::S3, detail);
            }
            return Ok(());
        }
        broken(Rule::S3, format!("keys that device {number} has installed are forgotten"))
    }

    /// S7: a row that is confirmed is in the store.
    pub(super) fn check_confirmed(&mut self, number: usize, start: UtcTime) -> Step {
        let (readings, _) = self.headend.readings();
        let Some(meter) = self.meters.get(number) else { return Ok(()) };
        let is_stored =
            readings.iter().any(|reading| (reading.key.meter, reading.key.start) == (meter.title, start));
        let Some(seen) = self.check.meters.get_mut(number) else { return Ok(()) };
        if !seen.durable.contains_key(&start) {
            return broken(Rule::S2, format!("row {start} was sent before it was durable"));
        }
        seen.confirmed.insert(start);
        if is_stored { Ok(()) } else { broken(Rule::S7, format!("row {start} is confirmed and not stored")) }
    }

    /// What must hold once everything has come to its end.
    pub(super) fn check_end(&mut self) -> Step {
        for number in 0..self.meters.len() {
            self.check_root(number)?;
            self.check_channel(number)?;
            self.check_device_end(number)?;
        }
        self.check_readings_end()
    }

    fn check_device_end(&mut self, number: usize) -> Step {
        let Some(meter) = self.meters.get(number) else { return Ok(()) };
        let (name, title) = (meter.name, meter.title);
        let installed = meter.record().installed;
        let entry = self.manager.entry(&name);
        let register = entry.as_ref().map(|entry| (entry.configuration, entry.policy_version));
        if installed.map(|installed| (installed.digest, installed.policy_version)) != register {
            return broken(Rule::S2, format!("device {number} and its owner disagree on the configuration"));
        }
        if self.key_entry(&name).is_none_or(|entry| !entry.auth_confirmed) {
            return broken(Rule::S3, format!("ownership of device {number} is not confirmed on record"));
        }
        self.report.devices += 1;
        if self.profile.readings {
            return Ok(());
        }
        let keys = self.push_keys(number);
        let Some(PushKeys { guek, gak, .. }) = keys else {
            return broken(Rule::S3, format!("device {number} cannot unseal its keys"));
        };
        let mut counter = InvocationCounter::resume(0);
        counter.extend(counter.reserve(1).expect("the first block"));
        let ticket = counter.take().expect("one is reserved");
        let apdu = seal_general_glo(&guek, &gak, title, ticket, b"reading").expect("short");
        let now = self.utc();
        let mut rng = HashRng::new(self.seed(), "end", 0);
        let request = vec![KeyRequest::OpenApdu { apdu }];
        let decision = owner(0).keys.decide(&self.keys.records, now, &mut rng, request);
        match decision.expect("memory").replies.pop() {
            Some(KeyReply::Apdu(OpenVerdict::Fresh { plain, .. })) if plain == b"reading" => Ok(()),
            other => {
                broken(Rule::S3, format!("the key service does not open for device {number}: {other:?}"))
            }
        }
    }

    /// S7: what is stored is what was durable on a meter, once, and nothing confirmed is missing.
    fn check_readings_end(&mut self) -> Step {
        let (readings, conflicts) = self.headend.readings();
        self.report.readings = readings.len() as u64;
        if conflicts > 0 {
            return broken(Rule::S7, "an interval has two values");
        }
        for (meter, seen) in self.meters.iter().zip(&self.check.meters) {
            let stored: BTreeMap<_, _> = readings
                .iter()
                .filter(|reading| reading.key.meter == meter.title)
                .map(|reading| (reading.key.start, reading.value))
                .collect();
            let value = |row: &Row| i64::try_from(row.energy_wh).unwrap_or(i64::MAX);
            let is_durable = |(start, stored): (&UtcTime, &i64)| {
                seen.durable.get(start).is_some_and(|row| value(row) == *stored)
            };
            if !stored.iter().all(is_durable) {
                return broken(Rule::S7, format!("meter {} did not measure what is stored", meter.title));
            }
            if let Some(lost) = seen.confirmed.iter().find(|start| !stored.contains_key(start)) {
                return broken(Rule::S7, format!("confirmed row {lost} of meter {} is lost", meter.title));
            }
        }
        Ok(())
    }
}
