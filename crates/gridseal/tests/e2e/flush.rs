//! kill -9 of the head-end between the opening of an APDU and the flush of its readings: nothing is lost, nothing counted
//! twice, and no meter is stuck (decision D1, rule S7).
//!
//! Ten thousand times at kill points in this process, with the real machine of the head-end and the real key service,
//! whose records survive; and fifty times with the real processes.

use std::{collections::BTreeMap, time::Duration};

use gridseal_dlms::{
    apdu::notification::{DataNotification, LongInvokeId},
    frame::wrapper::WrapperFrame,
    wire::{Data, DateTime},
};
use gridseal_headend::{
    ConnectionId, Event, Ingest, Input, Output, PushModel, ReadingFilter, ReadingStore,
    admission::{Served, Standing, lookup, record},
    memory::{MemoryAdmissions, MemoryReadings},
};
use gridseal_io::rng::OsRng;
use gridseal_keys::{Core, Import, Service, site::Site};
use gridseal_types::{
    DeviceState, Digest, ObisCode, Tick, UtcTime,
    records::{Commit, MemoryRecords},
    service::{
        admission::Admission,
        keys::{KeyReply, KeyRequest, OpenVerdict},
    },
};

use crate::{
    faults::settled,
    site::{Plan, Site as Installation},
    station::{Station, push, title},
};

const KILLS: u32 = 10_000;
const METERS: u8 = 3;
const NOW: UtcTime = UtcTime(1_800_000_000);
const INTERVAL_S: u32 = 900;

/// Where the head-end dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It has the frame, and has not asked for it.
    Received,
    /// The key service has opened it and committed that; the answer is lost.
    Opened,
    /// It has the plaintext, and has not stored it.
    Answered,
    /// The store has flushed, and the head-end does not know.
    Flushed,
    /// It wants to acknowledge, and does not.
    Acknowledging,
}

const MOMENTS: [Moment; 5] =
    [Moment::Received, Moment::Opened, Moment::Answered, Moment::Flushed, Moment::Acknowledging];

/// A meter's row: what it pushes until it is acknowledged, always the same bytes.
struct Row {
    meter: u8,
    frame: Vec<u8>,
    value: u32,
    attempts: u32,
}

fn row(meter: u8, number: u32) -> Row {
    // Rows go back in time, so that none is from the future.
    let end = UtcTime(NOW.0 - u64::from(number) * u64::from(INTERVAL_S));
    let clock = DateTime::from_utc(end, -60, 0).unwrap().to_bytes();
    let value = number * 7 + u32::from(meter);
    let body = Data::Structure(vec![
        Data::OctetString(ObisCode::PUSH_SETUP.groups()),
        Data::OctetString(&clock),
        Data::Unsigned(0),
        Data::DoubleLongUnsigned(value),
        Data::Structure(vec![Data::Integer(0), Data::Enum(30)]),
    ]);
    let long_invoke_id = LongInvokeId::confirmed(number & 0xFF_FFFF);
    let plain = DataNotification { long_invoke_id, date_time: None, body }.to_bytes();
    let apdu = push(meter, u64::from(number), &plain);
    Row { meter, frame: WrapperFrame::new(1, 1, apdu).unwrap().to_bytes(), value, attempts: 0 }
}

fn served(meter: u8) -> Served {
    let mut store = MemoryAdmissions::default();
    let tls_key = Digest([meter; 32]);
    let admission = Admission { meter: title(meter), tls_key, state: DeviceState::Operating, revision: 1 };
    record(&mut store, &admission).unwrap();
    match lookup(&store, &tls_key).unwrap() {
        Standing::Served(served) => served,
        other => panic!("{other:?}"),
    }
}

/// The key service's side, which lives on.
struct Keys<'c> {
    service: Service<&'c Core>,
    records: MemoryRecords,
}

impl Keys<'_> {
    fn decide(&mut self, requests: Vec<KeyRequest>) -> Vec<KeyReply> {
        let decision = self.service.decide(&self.records, NOW, &mut OsRng, requests).unwrap();
        self.records.commit(decision.writes).unwrap();
        decision.replies
    }
}

/// One life of the head-end: a row arrives, and it lives up to the moment of its death, if it has one. Whether the meter
/// got its acknowledgement.
fn live(keys: &mut Keys<'_>, store: &mut MemoryReadings, row: &Row, death: Option<Moment>) -> bool {
    let mut ingest = Ingest::new(PushModel::load_profile(INTERVAL_S));
    let (connection, tick) = (ConnectionId(1), Tick::default());
    ingest.handle(tick, Input::Connected { connection, served: served(row.meter) }).unwrap();
    ingest.handle(tick, Input::Received { connection, bytes: &row.frame }).unwrap();
    while let Some(output) = ingest.poll() {
        match output {
            Output::Open { .. } if death == Some(Moment::Received) => return false,
            Output::Open { batch, apdus } => {
                let requests = apdus.into_iter().map(|apdu| KeyRequest::OpenApdu { apdu }).collect();
                let verdicts = keys.decide(requests).into_iter().map(|reply| match reply {
                    KeyReply::Apdu(verdict) => verdict,
                    other => panic!("{other:?}"),
                });
                let verdicts: Vec<OpenVerdict> = verdicts.collect();
                if death == Some(Moment::Opened) {
                    return false;
                }
                ingest.handle(tick, Input::Opened { batch, verdicts, at: NOW }).unwrap();
            }
            Output::Store { .. } if death == Some(Moment::Answered) => return false,
            Output::Store { batch, readings } => {
                let outcomes = store.store(&readings).unwrap();
                if death == Some(Moment::Flushed) {
                    return false;
                }
                ingest.handle(tick, Input::Stored { batch, outcomes }).unwrap();
            }
            Output::Acknowledge { .. } => return death != Some(Moment::Acknowledging),
            Output::Event(Event::Refused { meter, reason }) => {
                panic!("stuck: {meter} is refused, {reason}, at death {death:?}");
            }
            _ => {}
        }
    }
    panic!("the head-end neither died nor answered: {death:?}");
}

#[test]
fn d1_ten_thousand_kills_between_open_and_flush_lose_double_and_stick_nothing() {
    let station = Station::empty("flush");
    let core = station.deciding_core();
    let mut records = MemoryRecords::default();
    let mut service = Service::load(&core, &records, Site::single(Core::CLIENT_TITLE), &mut OsRng).unwrap();
    for meter in 1..=METERS {
        let import: Import = crate::station::import_of(meter);
        let decision = service.import(&records, NOW, &mut OsRng, &import).unwrap();
        records.commit(decision.writes).unwrap();
    }
    let mut keys = Keys { service, records };
    let mut store = MemoryReadings::default();
    let (mut kills, mut number, mut at_most) = (0, 0, 0);
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    while kills < KILLS {
        number += 1;
        let mut row = row(1 + (number % u32::from(METERS)) as u8, number);
        // One to six deaths in a row, at moments that go round; then it may live.
        for death in 0..=(number * 5 % 6) {
            let moment = MOMENTS[((number + death * 3) % 5) as usize];
            assert!(!live(&mut keys, &mut store, &row, Some(moment)));
            *kinds.entry(format!("{moment:?}")).or_default() += 1;
            row.attempts += 1;
            kills += 1;
            if kills % 97 == 0 {
                // The key service is killed too, and loads what is on record.
                let site = Site { marker: Some(keys.service.epoch()), ..Site::single(Core::CLIENT_TITLE) };
                keys.service = Service::load(&core, &keys.records, site, &mut OsRng).unwrap();
            }
        }
        assert!(live(&mut keys, &mut store, &row, None), "row {number} gets through in the first whole life");
        at_most = at_most.max(row.attempts);
        let filter = ReadingFilter { meter: Some(title(row.meter)), ..ReadingFilter::default() };
        let from = UtcTime(NOW.0 - u64::from(number) * u64::from(INTERVAL_S) - u64::from(INTERVAL_S));
        let until = Some(UtcTime(from.0 + 1));
        let stored = store.list(&ReadingFilter { from: Some(from), until, ..filter }).unwrap();
        assert_eq!(stored.len(), 1, "row {number} is stored once");
        assert_eq!(stored[0].value, i64::from(row.value));
        let folded = keys.service.fold(&keys.records, NOW, 64).unwrap();
        keys.records.commit(folded).unwrap();
    }
    assert!(store.conflicts().is_empty());
    let mut all = 0;
    let mut filter = ReadingFilter::default();
    loop {
        let page = store.list(&filter).unwrap();
        let Some(last) = page.last() else { break };
        filter.after = Some(last.key);
        all += page.len();
    }
    assert_eq!(all, number as usize, "as many readings as rows, no more");
    println!(
        "{kills} kills at {kinds:?}, {number} rows, each stored once; at most {at_most} deaths for a row"
    );
}

#[test]
fn d1_kill_9_of_the_real_head_end_after_it_has_asked_loses_doubles_and_sticks_nothing() {
    const KILLS: u64 = 50;
    let mut site = Installation::new("flush-9", Plan { meters: 3, ..Plan::default() });
    for serial in site.meters.clone() {
        site.onboard(&serial);
    }
    for kill in 0..KILLS {
        site.expect("a frame at the head-end", |told| told.is("headend", "frame"));
        // Now it is being opened, or stored, or acknowledged.
        std::thread::sleep(Duration::from_micros(kill * 137 % 6_000));
        site.kill("headend");
        site.start("headend");
    }
    site.expect("a frame that is stored", |told| told.is("headend", "stored"));
    let meter = format!("meter {}", site.meters[0]);
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    let wrong = settled(&site);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", site.report(60));
}
