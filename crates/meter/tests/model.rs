//! The push machine against a head-end, a disk and a network that fail at every step.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use gridseal_crypto::Key;
use gridseal_dlms::{
    apdu::{
        ciphered::GeneralGlo,
        notification::{DataNotification, DataNotificationConfirm, Leniency},
    },
    frame::wrapper::{WrapperDecoder, WrapperFrame},
    suite::protect::open_general_glo,
    wire::Data,
};
use gridseal_meter::{
    CONFIRM_TIMEOUT, COUNTER_BLOCK, Event, IN_FLIGHT_MAX, Input, Output, PersistId, Push, PushConfig,
    PushError, PushKeys, QUEUE_ROWS_MAX, RESEAL_ATTEMPTS, RecordError, Row,
};
use gridseal_types::{SystemTitle, Tick, UtcTime};
use proptest::{collection::vec, prelude::*};

const CONFIG: PushConfig = PushConfig { system_title: SystemTitle(*b"GSL\0\0\0\0\x01"), key_generation: 1 };
const INTERVAL_S: u64 = 900;
const FIRST_START: u64 = 1_800_000_000;

fn keys() -> PushKeys {
    PushKeys {
        guek: Key::take(&mut [0x11; 16]),
        gak: Key::take(&mut [0xD0; 16]),
        kek: Key::take(&mut [0xE0; 16]),
    }
}

fn row(index: u64) -> Row {
    Row {
        start: UtcTime(FIRST_START + index * INTERVAL_S),
        interval_s: 900,
        status: 0,
        energy_wh: 1_000 + index,
    }
}

/// What arrived at the head-end: it opens with the meter's keys, as the key service would.
#[derive(Debug, Default)]
struct HeadEnd {
    by_counter: BTreeMap<u32, Vec<u8>>,
    stored: BTreeMap<UtcTime, u64>,
}

impl HeadEnd {
    /// Takes a frame and returns its confirmation.
    fn take(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut decoder = WrapperDecoder::new(1_024);
        decoder.push(frame).unwrap();
        let frame = decoder.poll().expect("one whole frame");
        assert_eq!(decoder.poll(), None);
        let sealed = GeneralGlo::from_bytes(frame.apdu()).unwrap();
        let known = self.by_counter.entry(sealed.invocation_counter).or_insert_with(|| frame.apdu().to_vec());
        assert_eq!(known, frame.apdu(), "S1: two frames under counter {}", sealed.invocation_counter);
        let PushKeys { guek, gak, .. } = keys();
        let plain = open_general_glo(&guek, &gak, CONFIG.system_title, &sealed).unwrap();
        let notification = DataNotification::from_bytes(&plain, Leniency::Strict).unwrap();
        let Data::Structure(fields) = &notification.body else { panic!("no structure") };
        let [_, Data::OctetString(clock), _, Data::DoubleLongUnsigned(energy_wh), _] = &fields[..] else {
            panic!("not the push setup's form: {fields:?}")
        };
        let end =
            gridseal_dlms::wire::DateTime::from_bytes(clock).unwrap().to_utc(Default::default()).unwrap();
        let start = UtcTime(end.0 - INTERVAL_S);
        let known = self.stored.entry(start).or_insert(u64::from(*energy_wh));
        assert_eq!(*known, u64::from(*energy_wh), "S7: one interval, two values");
        let confirm = DataNotificationConfirm { long_invoke_id: notification.long_invoke_id }.to_bytes();
        WrapperFrame::new(frame.destination(), frame.source(), confirm).unwrap().to_bytes()
    }
}

/// One thing that happens to the meter.
#[derive(Debug, Clone, Copy)]
enum Step {
    Capture,
    /// The record that is being written becomes durable, and the machine hears of it.
    Persisted,
    /// The record becomes durable, and the meter dies before it hears of it.
    CrashAfterWrite,
    Crash,
    Connect,
    Disconnect,
    /// The oldest frame on the link arrives, and its confirmation goes back.
    Deliver,
    /// It arrives, but the confirmation is lost.
    DeliverUnheard,
    /// It is lost.
    Lose,
    Confirm,
    Random(u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Capture),
        5 => Just(Step::Persisted),
        1 => Just(Step::CrashAfterWrite),
        1 => Just(Step::Crash),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        4 => Just(Step::Deliver),
        1 => Just(Step::DeliverUnheard),
        1 => Just(Step::Lose),
        4 => Just(Step::Confirm),
        2 => any::<u8>().prop_map(Step::Random),
        2 => Just(Step::Wait),
    ]
}

struct World {
    push: Push,
    now: Tick,
    disk: Option<Vec<u8>>,
    /// The record being written, and the rows in it.
    writing: Option<(PersistId, Vec<u8>, BTreeSet<u64>)>,
    link: VecDeque<Vec<u8>>,
    confirms: VecDeque<Vec<u8>>,
    wants_random: bool,
    next_row: u64,
    /// Every row that was captured and not lost by a crash.
    captured: BTreeSet<u64>,
    /// Those of them that were ever in a durable record.
    durable: BTreeSet<u64>,
    sealed_counters: BTreeSet<u32>,
    head_end: HeadEnd,
}

impl World {
    fn new() -> Self {
        Self {
            push: Push::begin(CONFIG, keys()),
            now: Tick(0),
            disk: None,
            writing: None,
            link: VecDeque::new(),
            confirms: VecDeque::new(),
            wants_random: false,
            next_row: 0,
            captured: BTreeSet::new(),
            durable: BTreeSet::new(),
            sealed_counters: BTreeSet::new(),
            head_end: HeadEnd::default(),
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.push.handle(self.now, input).unwrap();
        while let Some(output) = self.push.poll() {
            match output {
                Output::Persist { id, record, .. } => {
                    assert!(self.writing.is_none(), "one record at a time");
                    self.writing = Some((id, record, self.captured.clone()));
                }
                Output::Transmit(frame) => {
                    self.assert_durable(&frame);
                    self.link.push_back(frame);
                }
                Output::Random => self.wants_random = true,
                Output::Event(Event::Sealed { invocation_counter, .. }) => {
                    assert!(
                        self.sealed_counters.insert(invocation_counter),
                        "S1: {invocation_counter} twice"
                    );
                }
                Output::Event(Event::LinkRefused(error)) => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// Rule S2: what leaves is in the durable record already.
    fn assert_durable(&self, frame: &[u8]) {
        let disk = self.disk.as_ref().expect("something is durable");
        assert!(
            disk.windows(frame.len()).any(|window| window == frame),
            "S2: frame left before it was durable"
        );
    }

    fn write(&mut self) -> Option<PersistId> {
        let (id, record, rows) = self.writing.take()?;
        self.disk = Some(record);
        self.durable = rows;
        Some(id)
    }

    fn crash(&mut self) {
        self.writing = None;
        self.link.clear();
        self.confirms.clear();
        self.wants_random = false;
        self.push = match &self.disk {
            Some(record) => Push::resume(CONFIG, keys(), record).unwrap(),
            None => Push::begin(CONFIG, keys()),
        };
        self.captured = self.durable.clone();
        self.next_row = self.push.last_row().map_or(0, |row| (row.start.0 - FIRST_START) / INTERVAL_S + 1);
    }

    fn step(&mut self, step: Step) {
        self.now = self.now + core::time::Duration::from_millis(10);
        match step {
            Step::Capture => {
                self.captured.insert(self.next_row);
                let row = row(self.next_row);
                self.next_row += 1;
                self.handle(Input::Captured(row));
            }
            Step::Persisted => {
                if let Some(id) = self.write() {
                    self.handle(Input::Persisted(id));
                }
            }
            Step::CrashAfterWrite => {
                self.write();
                self.crash();
            }
            Step::Crash => self.crash(),
            Step::Connect => {
                self.link.clear();
                self.confirms.clear();
                self.handle(Input::Connected);
            }
            Step::Disconnect => {
                self.link.clear();
                self.confirms.clear();
                self.handle(Input::Disconnected);
            }
            Step::Deliver => {
                if let Some(frame) = self.link.pop_front() {
                    let confirm = self.head_end.take(&frame);
                    self.confirms.push_back(confirm);
                }
            }
            Step::DeliverUnheard => {
                if let Some(frame) = self.link.pop_front() {
                    self.head_end.take(&frame);
                }
            }
            Step::Lose => drop(self.link.pop_front()),
            Step::Confirm => {
                if let Some(confirm) = self.confirms.pop_front() {
                    self.handle(Input::Received(&confirm));
                }
            }
            Step::Random(octet) => {
                if core::mem::take(&mut self.wants_random) {
                    self.handle(Input::Random([octet; 8]));
                }
            }
            Step::Wait => {
                if let Some(deadline) = self.push.deadline() {
                    self.now = self.now.max(deadline);
                    self.handle(Input::Timeout);
                }
            }
        }
    }

    /// No faults any more: everything must arrive.
    fn settle(&mut self) {
        self.step(Step::Connect);
        for _ in 0..2_000 {
            for step in [Step::Persisted, Step::Deliver, Step::Confirm] {
                self.step(step);
            }
            if self.push.queued_count() == 0 && self.writing.is_none() {
                return;
            }
            if self.link.is_empty() && self.confirms.is_empty() && self.writing.is_none() {
                self.step(Step::Random(0));
                self.step(Step::Wait);
            }
        }
        panic!("{} rows never left", self.push.queued_count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_row_is_lost_and_no_nonce_repeats_whatever_crashes(steps in vec(step(), 0..200)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(*step));
        world.settle();
        let stored: BTreeSet<u64> =
            world.head_end.stored.keys().map(|start| (start.0 - FIRST_START) / INTERVAL_S).collect();
        prop_assert!(world.durable.is_subset(&stored), "S7: {:?} lost", world.durable.difference(&stored));
        prop_assert!(stored.is_subset(&world.durable), "S2: {:?} left first", stored.difference(&world.durable));
        for (index, energy_wh) in stored.iter().zip(world.head_end.stored.values()) {
            prop_assert_eq!(*energy_wh, 1_000 + index);
        }
    }
}

fn frames(push: &mut Push) -> Vec<Vec<u8>> {
    outputs(push)
        .into_iter()
        .filter_map(|output| if let Output::Transmit(frame) = output { Some(frame) } else { None })
        .collect()
}

fn outputs(push: &mut Push) -> Vec<Output> {
    core::iter::from_fn(|| push.poll()).collect()
}

/// Answers every persist request; returns what else came out and the last record.
fn persist_all(push: &mut Push, now: Tick) -> (Vec<Output>, Vec<u8>) {
    let (mut rest, mut last) = (vec![], vec![]);
    loop {
        let mut pending = None;
        for output in outputs(push) {
            match output {
                Output::Persist { id, record, .. } => pending = Some((id, record)),
                output => rest.push(output),
            }
        }
        let Some((id, record)) = pending else { return (rest, last) };
        last = record;
        push.handle(now, Input::Persisted(id)).unwrap();
    }
}

/// A connected machine with one row in flight, its frame and its record.
fn in_flight() -> (Push, Vec<u8>, Vec<u8>) {
    let mut push = Push::begin(CONFIG, keys());
    push.handle(Tick(0), Input::Connected).unwrap();
    push.handle(Tick(0), Input::Captured(row(0))).unwrap();
    let (rest, record) = persist_all(&mut push, Tick(0));
    let frame = rest
        .iter()
        .find_map(|output| if let Output::Transmit(frame) = output { Some(frame.clone()) } else { None });
    (push, frame.unwrap(), record)
}

#[test]
fn a_reconnect_a_time_out_and_a_restart_repeat_the_same_bytes() {
    let (mut push, frame, record) = in_flight();
    push.handle(Tick(1), Input::Disconnected).unwrap();
    push.handle(Tick(2), Input::Connected).unwrap();
    assert_eq!(frames(&mut push), std::slice::from_ref(&frame));
    let deadline = push.deadline().unwrap();
    assert_eq!(deadline, Tick(2) + CONFIRM_TIMEOUT);
    push.handle(deadline, Input::Timeout).unwrap();
    let asked = outputs(&mut push);
    assert_eq!(asked, [Output::Event(Event::Unconfirmed { attempts: 1, in_flight: 1 }), Output::Random]);
    push.handle(deadline, Input::Random([0x80; 8])).unwrap();
    let retry = push.deadline().unwrap();
    assert!(retry > deadline);
    push.handle(retry, Input::Timeout).unwrap();
    assert_eq!(frames(&mut push), std::slice::from_ref(&frame));
    let mut resumed = Push::resume(CONFIG, keys(), &record).unwrap();
    resumed.handle(Tick(0), Input::Connected).unwrap();
    assert_eq!(frames(&mut resumed), [frame]);
}

#[test]
fn a_row_leaves_only_when_its_own_invocation_is_confirmed() {
    let (mut push, frame, _) = in_flight();
    let confirm = HeadEnd::default().take(&frame);
    let mut other = confirm.clone();
    *other.last_mut().unwrap() ^= 1;
    push.handle(Tick(1), Input::Received(&other)).unwrap();
    assert!(matches!(outputs(&mut push)[..], [Output::Event(Event::UnknownConfirm { .. })]));
    assert_eq!(push.queued_count(), 1);
    push.handle(Tick(2), Input::Received(&confirm)).unwrap();
    assert_eq!(outputs(&mut push), [Output::Event(Event::Confirmed { start: row(0).start })]);
    assert_eq!((push.queued_count(), push.deadline()), (0, None));
}

#[test]
fn a_row_that_is_never_confirmed_is_sealed_anew_under_a_fresh_counter() {
    let (mut push, frame, _) = in_flight();
    for attempt in 1..=RESEAL_ATTEMPTS {
        let deadline = push.deadline().unwrap();
        push.handle(deadline, Input::Timeout).unwrap();
        push.handle(deadline, Input::Random([0; 8])).unwrap();
        persist_all(&mut push, deadline);
        push.handle(push.deadline().unwrap(), Input::Timeout).unwrap();
        let sent = frames(&mut push);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0] == frame, attempt < RESEAL_ATTEMPTS, "try {attempt}");
    }
}

#[test]
fn a_full_queue_refuses_the_new_row_with_an_event_and_few_frames_are_in_flight() {
    let mut push = Push::begin(CONFIG, keys());
    for index in 0..=QUEUE_ROWS_MAX {
        push.handle(Tick(0), Input::Captured(row(index as u64))).unwrap();
        let (rest, _) = persist_all(&mut push, Tick(0));
        let refused = rest.contains(&Output::Event(Event::QueueFull { start: row(index as u64).start }));
        assert_eq!(refused, index == QUEUE_ROWS_MAX);
    }
    assert_eq!(push.queued_count(), QUEUE_ROWS_MAX);
    push.handle(Tick(1), Input::Connected).unwrap();
    assert_eq!(frames(&mut push).len(), IN_FLIGHT_MAX);
}

#[test]
fn s14_rows_of_a_clock_that_was_years_fast_do_not_block_those_of_the_right_one() {
    let mut push = Push::begin(CONFIG, keys());
    let far =
        gridseal_meter::Row { start: gridseal_types::UtcTime(row(0).start.0 + 3_650 * 86_400), ..row(0) };
    for row in [row(0), far, row(1)] {
        push.handle(Tick(0), Input::Captured(row)).unwrap();
        let (rest, _) = persist_all(&mut push, Tick(0));
        let forgotten = rest.contains(&Output::Event(Event::FutureForgotten { count: 1 }));
        assert_eq!(forgotten, row == self::row(1));
    }
    assert_eq!((push.queued_count(), push.last_row()), (2, Some(&row(1))));
}

#[test]
fn bad_input_changes_nothing() {
    let (mut push, _, record) = in_flight();
    assert_eq!(push.handle(Tick(1), Input::Captured(row(0))), Err(PushError::RowNotLater));
    push.handle(Tick(1), Input::Captured(row(1))).unwrap();
    let Some(Output::Persist { id, .. }) =
        outputs(&mut push).into_iter().find(|output| matches!(output, Output::Persist { .. }))
    else {
        panic!("nothing to persist")
    };
    push.handle(Tick(1), Input::Persisted(id)).unwrap();
    assert_eq!(push.handle(Tick(1), Input::Persisted(id)), Err(PushError::NotPersisting));
    for size in 0..record.len() {
        assert_eq!(Push::resume(CONFIG, keys(), &record[..size]).unwrap_err(), RecordError::Malformed);
    }
    assert!(Push::resume(CONFIG, keys(), &[&record[..], &[0]].concat()).is_err());
}

#[test]
fn what_the_head_end_must_not_send_ends_the_link_and_loses_nothing() {
    for bytes in
        [&[0, 9, 0, 1, 0, 1, 0, 1][..], &[0, 1, 0, 1, 0, 1, 0xFF, 0xFF], &[0, 1, 0, 1, 0, 1, 0, 1, 0xC0]]
    {
        let (mut push, frame, _) = in_flight();
        push.handle(Tick(1), Input::Received(bytes)).unwrap();
        assert!(matches!(outputs(&mut push)[..], [Output::Event(Event::LinkRefused(_))]), "{bytes:?}");
        push.handle(Tick(2), Input::Connected).unwrap();
        assert_eq!(frames(&mut push), [frame]);
    }
}

#[test]
fn other_keys_seal_waiting_rows_anew_and_the_counter_goes_on() {
    let (_, frame, record) = in_flight();
    let config = PushConfig { key_generation: 2, ..CONFIG };
    let mut push = Push::resume(config, keys(), &record).unwrap();
    push.handle(Tick(0), Input::Connected).unwrap();
    // The seal happens with the first input; a block must be durable before it.
    let (rest, _) = persist_all(&mut push, Tick(0));
    let counters: Vec<_> = rest
        .iter()
        .filter_map(|output| {
            if let Output::Event(Event::Sealed { invocation_counter, .. }) = output {
                Some(*invocation_counter)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(counters, [COUNTER_BLOCK]);
    assert!(!rest.contains(&Output::Transmit(frame)));
}
