//! The ingest machine against meters, a key service and a store that answer, fail and cheat.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};

use gridseal_dlms::{
    apdu::{
        ciphered::{GeneralGlo, SecurityControl},
        notification::{DataNotification, DataNotificationConfirm, Leniency, LongInvokeId},
    },
    frame::wrapper::{WrapperDecoder, WrapperFrame},
    wire::{Data, DateTime},
};
use gridseal_headend::{
    BatchId, CloseReason, ConnectionId, Event, FRAMES_PER_CONNECTION_MAX, FormError, Implausible, Ingest,
    IngestError, Input, OPEN_BATCH_MAX, OPEN_TOPUP_MIN, Output, PushModel, RETRY_DELAY, ReadingFilter,
    ReadingStore, Refusal, StoreOutcome,
    admission::{Served, Standing, lookup, record},
    decode_push,
    memory::{MemoryAdmissions, MemoryReadings},
};
use gridseal_types::{
    DeviceState, Digest, ObisCode, Reading, SystemTitle, Tick, UtcTime,
    service::{admission::Admission, keys::OpenVerdict},
};
use proptest::{collection::vec, prelude::*};

const NOW: UtcTime = UtcTime(1_800_000_000);
const INTERVAL_S: u64 = 900;
const MODEL: PushModel = PushModel::load_profile(900);
const LINK: ConnectionId = ConnectionId(1);

fn title(meter: u8) -> SystemTitle {
    SystemTitle([b'G', b'S', b'L', 0, 0, 0, 0, meter])
}

fn admission(meter: u8, state: DeviceState, revision: u64) -> Admission {
    Admission { meter: title(meter), tls_key: Digest([meter; 32]), state, revision }
}

fn served(meter: u8) -> Served {
    let mut store = MemoryAdmissions::default();
    record(&mut store, &admission(meter, DeviceState::Operating, 1)).unwrap();
    let Standing::Served(served) = lookup(&store, &Digest([meter; 32])).unwrap() else {
        panic!("not served")
    };
    served
}

/// Body of a push whose interval starts `index` intervals before now; `changed` replaces one field.
fn push(id: u32, index: u64, value: u32, changed: Option<(usize, Data<'_>)>) -> Vec<u8> {
    let end = UtcTime(NOW.0 - index * INTERVAL_S + INTERVAL_S);
    let clock = DateTime::from_utc(end, -60, 0).unwrap().to_bytes();
    let mut fields = vec![
        Data::OctetString(ObisCode::PUSH_SETUP.groups()),
        Data::OctetString(&clock),
        Data::Unsigned(0),
        Data::DoubleLongUnsigned(value),
        Data::Structure(vec![Data::Integer(0), Data::Enum(30)]),
    ];
    if let Some((field, data)) = changed {
        fields[field] = data;
    }
    let body = Data::Structure(fields);
    DataNotification { long_invoke_id: LongInvokeId::confirmed(id), date_time: None, body }.to_bytes()
}

/// A frame with the title and counter of a real one; the body stands for ciphertext that only a key service opens.
fn frame(meter: u8, counter: u32, body: &[u8]) -> Vec<u8> {
    let apdu = GeneralGlo {
        system_title: Some(title(meter)),
        security_control: SecurityControl::AUTHENTICATED_ENCRYPTION,
        invocation_counter: counter,
        body,
    };
    WrapperFrame::new(1, 1, apdu.to_bytes()).unwrap().to_bytes()
}

fn outputs(ingest: &mut Ingest) -> Vec<Output> {
    core::iter::from_fn(|| ingest.poll()).collect()
}

fn connected(meter: u8) -> Ingest {
    let mut ingest = Ingest::new(MODEL);
    ingest.handle(Tick(0), Input::Connected { connection: LINK, served: served(meter) }).unwrap();
    ingest
}

fn receive(ingest: &mut Ingest, bytes: &[u8]) -> Vec<Output> {
    ingest.handle(Tick(0), Input::Received { connection: LINK, bytes }).unwrap();
    outputs(ingest)
}

fn fresh(meter: u8, plain: Vec<u8>) -> OpenVerdict {
    OpenVerdict::Fresh { system_title: title(meter), plain, late: false }
}

/// One frame of meter 1, opened with this verdict; what comes out then.
fn opened(verdict: OpenVerdict) -> (Ingest, Vec<Output>) {
    let mut ingest = connected(1);
    let asked = receive(&mut ingest, &frame(1, 7, &[0; 20]));
    let [Output::Open { batch, apdus }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(apdus.len(), 1);
    ingest.handle(Tick(1), Input::Opened { batch: *batch, verdicts: vec![verdict], at: NOW }).unwrap();
    let out = outputs(&mut ingest);
    (ingest, out)
}

fn refusal(verdict: OpenVerdict) -> Refusal {
    let (_, out) = opened(verdict);
    let [Output::Event(Event::Refused { meter, reason })] = out[..] else { panic!("{out:?}") };
    assert_eq!(meter, title(1));
    reason
}

#[test]
fn a_frame_is_acknowledged_after_its_reading_is_durable_and_not_before() {
    for (verdict, outcome) in [
        (fresh(1, push(5, 1, 100, None)), StoreOutcome::Stored),
        (fresh(1, push(5, 1, 100, None)), StoreOutcome::Conflict),
        (
            OpenVerdict::Duplicate { system_title: title(1), plain: push(5, 1, 100, None) },
            StoreOutcome::Duplicate,
        ),
    ] {
        let (mut ingest, out) = opened(verdict);
        let [Output::Store { batch, readings }] = &out[..] else { panic!("{out:?}") };
        assert_eq!(
            (readings.len(), readings[0].value, readings[0].key.start),
            (1, 100, UtcTime(NOW.0 - INTERVAL_S))
        );
        ingest.handle(Tick(2), Input::Stored { batch: *batch, outcomes: vec![outcome] }).unwrap();
        let out = outputs(&mut ingest);
        let Some(Output::Acknowledge { connection: LINK, frame }) = out.last() else { panic!("{out:?}") };
        let mut decoder = WrapperDecoder::new(64);
        decoder.push(frame).unwrap();
        let confirm = DataNotificationConfirm::from_bytes(decoder.poll().unwrap().apdu()).unwrap();
        assert_eq!(confirm.long_invoke_id, LongInvokeId::confirmed(5));
        let conflict = out.iter().any(|output| matches!(output, Output::Event(Event::Conflict { .. })));
        assert_eq!(conflict, outcome == StoreOutcome::Conflict);
    }
}

#[test]
fn what_is_refused_is_an_event_and_is_not_acknowledged() {
    let with = |field, data| fresh(1, push(5, 1, 100, Some((field, data))));
    assert_eq!(refusal(OpenVerdict::Replay), Refusal::Replay);
    assert_eq!(refusal(OpenVerdict::Rejected), Refusal::Rejected);
    assert_eq!(refusal(fresh(2, push(5, 1, 100, None))), Refusal::SystemTitle);
    assert!(matches!(refusal(fresh(1, vec![0x0F, 0])), Refusal::Notification(_)));
    let other_setup = ObisCode::LOAD_PROFILE_1;
    assert_eq!(
        refusal(with(0, Data::OctetString(other_setup.groups()))),
        Refusal::Form(FormError::PushSetup)
    );
    assert_eq!(refusal(with(2, Data::Null)), Refusal::Form(FormError::Fields));
    assert_eq!(refusal(with(3, Data::Float32(1.0))), Refusal::Form(FormError::Value));
    assert!(matches!(refusal(with(1, Data::OctetString(&[0; 11]))), Refusal::Form(FormError::Clock(_))));
    let scaler = |scaler, unit| with(4, Data::Structure(vec![Data::Integer(scaler), Data::Enum(unit)]));
    assert_eq!(refusal(scaler(-3, 30)), Refusal::Form(FormError::Scaler));
    assert_eq!(refusal(scaler(0, 27)), Refusal::Form(FormError::Unit(27)));
    let ahead = DateTime::from_utc(UtcTime(NOW.0 + 5 * INTERVAL_S), 0, 0).unwrap().to_bytes();
    assert_eq!(refusal(with(1, Data::OctetString(&ahead))), Refusal::Implausible(Implausible::InFuture));
}

#[test]
fn a_missing_value_is_no_reading_and_never_a_zero() {
    let (_, out) = opened(fresh(1, push(5, 1, 0, Some((3, Data::Null)))));
    assert!(matches!(&out[..], [Output::Store { readings, .. }] if readings.is_empty()), "{out:?}");
}

#[test]
fn a_link_carries_ciphered_apdus_of_its_own_meter_only() {
    let plain = WrapperFrame::new(1, 1, push(1, 1, 1, None)).unwrap().to_bytes();
    type Case = (Vec<u8>, fn(&Refusal) -> bool);
    let cases: [Case; 4] = [
        (frame(2, 1, &[0; 20]), |reason| *reason == Refusal::SystemTitle),
        (plain, |reason| matches!(reason, Refusal::Apdu(_))),
        (vec![0, 1, 0, 1, 0, 1, 0xFF, 0xFF], |reason| matches!(reason, Refusal::Frame(_))),
        (vec![0x16, 3, 1, 0, 0, 0, 0, 0], |reason| matches!(reason, Refusal::Frame(_))),
    ];
    for (bytes, is_right) in cases {
        let mut ingest = connected(1);
        let out = receive(&mut ingest, &bytes);
        let [
            Output::Event(Event::Refused { reason, .. }),
            Output::Close { reason: CloseReason::Protocol, .. },
        ] = &out[..]
        else {
            panic!("{out:?}")
        };
        assert!(is_right(reason), "{reason}");
        assert_eq!(ingest.connection_count(), 0);
        assert_eq!(receive(&mut ingest, &frame(1, 1, &[0; 20])), [], "nothing more is taken from it");
    }
}

#[test]
fn a_meter_that_is_not_served_any_more_loses_its_link() {
    for (admission, closes) in [
        (admission(1, DeviceState::Suspended, 2), true),
        (Admission { tls_key: Digest([9; 32]), ..admission(1, DeviceState::Operating, 2) }, true),
        (admission(1, DeviceState::Operating, 2), false),
        (admission(2, DeviceState::Quarantined, 2), false),
    ] {
        let mut ingest = connected(1);
        ingest.handle(Tick(1), Input::Admitted(&admission)).unwrap();
        let out = outputs(&mut ingest);
        let expected = [Output::Close { connection: LINK, reason: CloseReason::NotServed }];
        assert_eq!(out, if closes { &expected[..] } else { &[] });
    }
}

#[test]
fn frames_collect_while_a_request_runs_and_batches_have_a_limit() {
    let mut ingest = Ingest::new(MODEL);
    let count = 10 * FRAMES_PER_CONNECTION_MAX;
    let meters = 10u64;
    for link in 0..meters {
        let served = served(u8::try_from(link).unwrap());
        ingest.handle(Tick(0), Input::Connected { connection: ConnectionId(link), served }).unwrap();
    }
    let mut sizes = vec![];
    for index in 0..count {
        let link = index as u64 % meters;
        let bytes = frame(link as u8, index as u32, &[0; 20]);
        ingest.handle(Tick(0), Input::Received { connection: ConnectionId(link), bytes: &bytes }).unwrap();
        sizes.extend(outputs(&mut ingest).iter().map(|output| match output {
            Output::Open { apdus, .. } => apdus.len(),
            output => panic!("{output:?}"),
        }));
    }
    // One at once, then seven that collected; the rest waits.
    assert_eq!(sizes, [[1].as_slice(), &[OPEN_TOPUP_MIN; 7]].concat());
    let verdicts = vec![OpenVerdict::Rejected];
    let first = BatchIds::first();
    ingest.handle(Tick(1), Input::Opened { batch: first, verdicts, at: NOW }).unwrap();
    let largest = outputs(&mut ingest)
        .iter()
        .find_map(|output| if let Output::Open { apdus, .. } = output { Some(apdus.len()) } else { None });
    assert_eq!(largest, Some(OPEN_BATCH_MAX));
    let bytes = frame(0, 1, &[0; 20]);
    let mut refused = 0;
    for _ in 0..FRAMES_PER_CONNECTION_MAX {
        ingest.handle(Tick(1), Input::Received { connection: ConnectionId(0), bytes: &bytes }).unwrap();
        refused += outputs(&mut ingest)
            .iter()
            .filter(|output| {
                matches!(output, Output::Event(Event::Refused { reason: Refusal::QueueFull, .. }))
            })
            .count();
    }
    assert_eq!(refused, FRAMES_PER_CONNECTION_MAX - 1, "one frame of the link was settled");
}

/// The machine numbers its requests; a test learns the first number from a machine of its own.
struct BatchIds;

impl BatchIds {
    fn first() -> BatchId {
        let mut ingest = connected(1);
        let out = receive(&mut ingest, &frame(1, 1, &[0; 20]));
        let [Output::Open { batch, .. }] = out[..] else { panic!("{out:?}") };
        batch
    }
}

#[test]
fn a_failed_service_is_asked_again_later_with_the_same_frames() {
    let mut ingest = connected(1);
    let asked = receive(&mut ingest, &frame(1, 7, &[0; 20]));
    let [Output::Open { batch, apdus }] = &asked[..] else { panic!("{asked:?}") };
    ingest.handle(Tick(5), Input::OpenFailed { batch: *batch }).unwrap();
    assert_eq!(outputs(&mut ingest), [Output::Event(Event::KeyServiceFailed)]);
    let again_at = ingest.deadline().unwrap();
    assert_eq!(again_at, Tick(5) + RETRY_DELAY);
    ingest.handle(again_at, Input::Timeout).unwrap();
    let again = outputs(&mut ingest);
    let [Output::Open { batch, apdus: same }] = &again[..] else { panic!("{again:?}") };
    assert_eq!(same, apdus);
    let verdicts = vec![fresh(1, push(5, 1, 100, None))];
    ingest.handle(again_at, Input::Opened { batch: *batch, verdicts, at: NOW }).unwrap();
    let asked = outputs(&mut ingest);
    let [Output::Store { batch, readings }] = &asked[..] else { panic!("{asked:?}") };
    ingest.handle(again_at, Input::StoreFailed { batch: *batch }).unwrap();
    assert_eq!(outputs(&mut ingest), [Output::Event(Event::StoreFailed)]);
    ingest.handle(ingest.deadline().unwrap(), Input::Timeout).unwrap();
    let again = outputs(&mut ingest);
    assert!(matches!(&again[..], [Output::Store { readings: same, .. }] if same == readings), "{again:?}");
    assert_eq!(ingest.deadline(), None);
}

#[test]
fn answers_that_fit_no_request_change_nothing() {
    let mut ingest = connected(1);
    let asked = receive(&mut ingest, &frame(1, 7, &[0; 20]));
    let [Output::Open { batch, .. }] = asked[..] else { panic!("{asked:?}") };
    let none = Input::Opened { batch, verdicts: vec![], at: NOW };
    assert_eq!(ingest.handle(Tick(1), none), Err(IngestError::Count { expected: 1, found: 0 }));
    let stored = Input::Stored { batch, outcomes: vec![] };
    assert_eq!(ingest.handle(Tick(1), stored), Err(IngestError::UnknownBatch));
    assert_eq!(ingest.handle(Tick(1), Input::StoreFailed { batch }), Err(IngestError::UnknownBatch));
    let again = Input::Connected { connection: LINK, served: served(2) };
    assert_eq!(ingest.handle(Tick(1), again), Err(IngestError::ConnectionInUse));
    assert_eq!(outputs(&mut ingest), []);
    let verdicts = vec![fresh(1, push(5, 1, 100, None))];
    ingest.handle(Tick(1), Input::Opened { batch, verdicts, at: NOW }).unwrap();
    assert!(matches!(outputs(&mut ingest)[..], [Output::Store { .. }]), "the request still counts");
}

#[test]
fn a_clock_that_was_set_back_is_an_event_and_its_reading_is_stored() {
    let mut ingest = connected(1);
    let mut events = vec![];
    for (counter, index) in [(1, 1), (2, 3)] {
        let mut out = receive(&mut ingest, &frame(1, counter, &[0; 20]));
        while let Some(output) = out.pop() {
            match output {
                Output::Open { batch, .. } => {
                    let verdicts = vec![fresh(1, push(counter, index, 100, None))];
                    ingest.handle(Tick(1), Input::Opened { batch, verdicts, at: NOW }).unwrap();
                }
                Output::Store { batch, .. } => {
                    ingest
                        .handle(Tick(1), Input::Stored { batch, outcomes: vec![StoreOutcome::Stored] })
                        .unwrap();
                }
                Output::Event(event) => events.push(event),
                _ => {}
            }
            out.extend(outputs(&mut ingest));
        }
    }
    let is_back = |event: &&Event| matches!(event, Event::OutOfOrder { key } if key.start == UtcTime(NOW.0 - 3 * INTERVAL_S));
    assert_eq!(events.iter().filter(is_back).count(), 1);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Stored { stored: 1, .. })).count(), 2);
}

//= headend 2.7: an interval is keyed by its start, converted once, when it is decoded
#[test]
fn pushes_of_our_meter_and_of_a_foreign_stack_become_readings() {
    for (name, field, start, value) in [
        ("push-row-plain", "input", "2026-11-25T11:00:00Z", 74_565),
        ("push-row-sealed-by-peer", "expect", "2026-11-25T11:15:00Z", 4_294_967_296),
    ] {
        let path = format!("{}/../../tests/vectors/dlms/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let vector: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        let plain = hex::decode(vector[field].as_str().unwrap()).unwrap();
        let push = DataNotification::from_bytes(&plain, Leniency::Strict).unwrap();
        let readings = decode_push(&MODEL, title(1), &push).unwrap();
        let [Reading { key, interval_s: 900, value: found, .. }] = readings[..] else {
            panic!("{readings:?}")
        };
        assert_eq!(
            (key.start.to_string().as_str(), found, key.obis),
            (start, value, ObisCode::ACTIVE_ENERGY_IMPORT)
        );
    }
}

/// What happens between meters, head-end, key service and store.
#[derive(Debug, Clone, Copy)]
enum Step {
    Send {
        meter: u8,
        index: u64,
    },
    Garbage {
        meter: u8,
        octet: u8,
    },
    Open,
    OpenFails,
    Store,
    StoreFails,
    Reconnect {
        meter: u8,
    },
    Wait,
    /// The head-end dies: everything in memory is gone, the store stays.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 0u64..6).prop_map(|(meter, index)| Step::Send { meter, index }),
        1 => (0u8..3, any::<u8>()).prop_map(|(meter, octet)| Step::Garbage { meter, octet }),
        4 => Just(Step::Open),
        1 => Just(Step::OpenFails),
        4 => Just(Step::Store),
        1 => Just(Step::StoreFails),
        1 => (0u8..3).prop_map(|meter| Step::Reconnect { meter }),
        2 => Just(Step::Wait),
        1 => Just(Step::Crash),
    ]
}

struct World {
    ingest: Ingest,
    now: Tick,
    links: BTreeMap<u8, ConnectionId>,
    next_link: u64,
    opens: Vec<(BatchId, Vec<Vec<u8>>)>,
    stores: Vec<(BatchId, Vec<Reading>)>,
    store: MemoryReadings,
    seen: BTreeSet<Vec<u8>>,
    acknowledged: Vec<(SystemTitle, u64)>,
}

impl World {
    fn new() -> Self {
        Self {
            ingest: Ingest::new(MODEL),
            now: Tick(0),
            links: BTreeMap::new(),
            next_link: 0,
            opens: vec![],
            stores: vec![],
            store: MemoryReadings::default(),
            seen: BTreeSet::new(),
            acknowledged: vec![],
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.ingest.handle(self.now, input).unwrap();
        while let Some(output) = self.ingest.poll() {
            match output {
                Output::Open { batch, apdus } => self.opens.push((batch, apdus)),
                Output::Store { batch, readings } => self.stores.push((batch, readings)),
                Output::Acknowledge { connection, frame } => self.acknowledged(connection, &frame),
                Output::Close { connection, .. } => self.links.retain(|_, link| *link != connection),
                _ => {}
            }
        }
    }

    /// Rule S7: what is acknowledged is in the store.
    fn acknowledged(&mut self, connection: ConnectionId, frame: &[u8]) {
        let meter = *self.links.iter().find(|(_, link)| **link == connection).expect("a standing link").0;
        let mut decoder = WrapperDecoder::new(64);
        decoder.push(frame).unwrap();
        let confirm = DataNotificationConfirm::from_bytes(decoder.poll().unwrap().apdu()).unwrap();
        let index = u64::from(confirm.long_invoke_id.id());
        self.acknowledged.push((title(meter), index));
        assert!(self.is_stored(title(meter), index), "acknowledged before it was durable");
    }

    fn is_stored(&self, meter: SystemTitle, index: u64) -> bool {
        let start = UtcTime(NOW.0 - index * INTERVAL_S);
        let list = self.store.list(&ReadingFilter { meter: Some(meter), ..Default::default() }).unwrap();
        list.iter().any(|reading| reading.key.start == start)
    }

    fn connect(&mut self, meter: u8) -> ConnectionId {
        if let Some(link) = self.links.get(&meter) {
            return *link;
        }
        let connection = ConnectionId(self.next_link);
        self.next_link += 1;
        self.links.insert(meter, connection);
        self.handle(Input::Connected { connection, served: served(meter) });
        connection
    }

    /// As the key service: byte-identical repeats are duplicates.
    fn open(&mut self, apdus: &[Vec<u8>]) -> Vec<OpenVerdict> {
        let verdict = |apdu: &Vec<u8>, is_new: bool| {
            let sealed = GeneralGlo::from_bytes(apdu).unwrap();
            let (system_title, plain) = (sealed.system_title.unwrap(), sealed.body.to_vec());
            if is_new {
                OpenVerdict::Fresh { system_title, plain, late: true }
            } else {
                OpenVerdict::Duplicate { system_title, plain }
            }
        };
        apdus.iter().map(|apdu| verdict(apdu, self.seen.insert(apdu.clone()))).collect()
    }

    fn step(&mut self, step: Step) {
        self.now = self.now + core::time::Duration::from_millis(50);
        match step {
            Step::Send { meter, index } => {
                let connection = self.connect(meter);
                let id = u32::try_from(index).unwrap();
                let bytes = frame(meter, id, &push(id, index, 1_000 + id, None));
                self.handle(Input::Received { connection, bytes: &bytes });
            }
            Step::Garbage { meter, octet } => {
                let connection = self.connect(meter);
                self.handle(Input::Received { connection, bytes: &[octet; 9] });
            }
            Step::Open => {
                if let Some((batch, apdus)) = self.opens.pop() {
                    let verdicts = self.open(&apdus);
                    self.handle(Input::Opened { batch, verdicts, at: NOW });
                }
            }
            Step::OpenFails => {
                if let Some((batch, apdus)) = self.opens.pop() {
                    // Worst case: the service did open them, and the answer was lost.
                    self.open(&apdus);
                    self.handle(Input::OpenFailed { batch });
                }
            }
            Step::Store => {
                if let Some((batch, readings)) = self.stores.pop() {
                    let outcomes = self.store.store(&readings).unwrap();
                    self.handle(Input::Stored { batch, outcomes });
                }
            }
            Step::StoreFails => {
                if let Some((batch, _)) = self.stores.pop() {
                    self.handle(Input::StoreFailed { batch });
                }
            }
            Step::Reconnect { meter } => {
                if let Some(connection) = self.links.remove(&meter) {
                    self.handle(Input::Disconnected { connection });
                }
            }
            Step::Wait => {
                if let Some(deadline) = self.ingest.deadline() {
                    self.now = self.now.max(deadline);
                    self.handle(Input::Timeout);
                }
            }
            Step::Crash => {
                self.ingest = Ingest::new(MODEL);
                self.links.clear();
                self.opens.clear();
                self.stores.clear();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_reading_is_acknowledged_after_it_is_durable_and_counted_once(steps in vec(step(), 0..150)) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(*step));
        // No faults any more: the meters repeat everything once, and it must be acknowledged.
        world.acknowledged.clear();
        for (meter, index) in (0..3).flat_map(|meter| (0..6).map(move |index| (meter, index))) {
            world.step(Step::Reconnect { meter });
            world.step(Step::Send { meter, index });
            for step in [Step::Wait, Step::Open, Step::Open, Step::Store, Step::Wait, Step::Open, Step::Store, Step::Store] {
                world.step(step);
            }
            prop_assert!(world.acknowledged.contains(&(title(meter), index)), "meter {} row {}", meter, index);
        }
        prop_assert_eq!(world.store.list(&ReadingFilter::default()).unwrap().len(), 18);
        prop_assert!(world.store.conflicts().is_empty());
    }

    #[test]
    fn random_bytes_and_random_plaintexts_never_panic(bytes in vec(any::<u8>(), 0..100), plain in vec(any::<u8>(), 0..100)) {
        let mut ingest = connected(1);
        receive(&mut ingest, &bytes);
        let (_, out) = opened(fresh(1, plain));
        prop_assert!(!out.is_empty());
    }
}
