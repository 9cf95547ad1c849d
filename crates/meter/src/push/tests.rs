//! Requests on the push link, and what becomes of keys that they bring.

use gridseal_crypto::{
    InvocationCounter, Key,
    role::{Gak, Guek, Kek},
};
use gridseal_dlms::{
    apdu::ciphered::GeneralGlo,
    frame::wrapper::{WrapperDecoder, WrapperFrame},
    suite::protect::{open_general_glo, seal_general_glo},
};
use gridseal_types::{SystemTitle, Tick, UtcTime};

use super::{Event, Input, Output, Push, PushConfig, PushKeys, RequestRefusal};
use crate::Row;

const METER: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\x01");
const CLIENT: SystemTitle = SystemTitle(*b"GSL\0\0\0\0\0");
const CONFIG: PushConfig = PushConfig { system_title: METER, key_generation: 1 };
/// GET of the logical device name.
const GET: [u8; 13] = [0xC0, 1, 0xC1, 0, 1, 0, 0, 42, 0, 0, 255, 2, 0];
const ACKNOWLEDGED: [u8; 5] = [0xC7, 1, 0xC1, 0, 0];

/// GUEK, GAK and KEK as numbers: the same byte 16 times.
type Numbers = (u8, u8, u8);
const FIRST: Numbers = (1, 2, 3);

fn guek(number: u8) -> Key<Guek, 16> {
    Key::take(&mut [number; 16])
}

fn gak(number: u8) -> Key<Gak, 16> {
    Key::take(&mut [number; 16])
}

fn kek(number: u8) -> Key<Kek, 16> {
    Key::take(&mut [number; 16])
}

fn delivered() -> PushKeys {
    PushKeys { guek: guek(FIRST.0), gak: gak(FIRST.1), kek: kek(FIRST.2) }
}

fn row(index: u64) -> Row {
    Row { start: UtcTime(1_800_000_000 + index * 900), interval_s: 900, status: 0, energy_wh: index }
}

/// A request of a client under these keys.
fn request(client: SystemTitle, (guek_number, gak_number): (u8, u8), counter: u64, plain: &[u8]) -> Vec<u8> {
    let mut tickets = InvocationCounter::resume(counter);
    tickets.extend(tickets.reserve(1).unwrap());
    let ticket = tickets.take().unwrap();
    let apdu = seal_general_glo(&guek(guek_number), &gak(gak_number), client, ticket, plain).unwrap();
    WrapperFrame::new(1, 1, apdu).unwrap().to_bytes()
}

/// key_transfer of these keys, each number wrapped under a master key.
fn transfer(under: u8, keys: &[(u8, u8)]) -> Vec<u8> {
    let mut plain = vec![0xC3, 1, 0xC1, 0, 64, 0, 0, 43, 0, 0, 255, 2, 1, 1, keys.len() as u8];
    for (id, number) in keys {
        plain.extend([2, 2, 0x16, *id, 9, 24]);
        plain.extend(kek(under).wrap_for_meter(&guek(*number)));
    }
    plain
}

/// A meter on its link, with what it wrote last.
struct Meter {
    push: Push,
    flash: Option<Vec<u8>>,
    events: Vec<Event>,
    sent: Vec<Vec<u8>>,
    changes: u32,
    /// How often it was started; each time has a later row.
    starts: u64,
}

impl Meter {
    fn new(push: Push, starts: u64) -> Self {
        let mut meter = Self { push, flash: None, events: vec![], sent: vec![], changes: 0, starts };
        meter.push.handle(Tick(0), Input::Connected).unwrap();
        meter.push.handle(Tick(0), Input::Captured(row(starts))).unwrap();
        meter.live();
        (meter.events, meter.sent) = (vec![], vec![]);
        meter
    }

    /// Does what it is asked for until nothing is left.
    fn live(&mut self) {
        while let Some(output) = self.push.poll() {
            match output {
                Output::Persist { id, record, key_changes, .. } => {
                    self.flash = Some(record);
                    self.changes = key_changes;
                    self.push.handle(Tick(0), Input::Persisted(id)).unwrap();
                }
                Output::Transmit(frame) => self.sent.push(frame),
                Output::Event(event) => self.events.push(event),
                Output::Random => {}
            }
        }
    }

    fn hear(&mut self, frame: &[u8]) {
        self.push.handle(Tick(0), Input::Received(frame)).unwrap();
        self.live();
    }

    fn restarted(&self) -> Self {
        Self::new(Push::resume(CONFIG, delivered(), self.flash.as_ref().unwrap()).unwrap(), self.starts + 1)
    }

    fn refusal(&self) -> Option<RequestRefusal> {
        self.events.iter().find_map(|event| match event {
            Event::RequestRefused(refusal) => Some(*refusal),
            _ => None,
        })
    }

    /// Plain APDUs of what it has sent under these keys; what does not open is left out.
    fn said_under(&self, (guek_number, gak_number): (u8, u8)) -> Vec<Vec<u8>> {
        let plain = |frame: &Vec<u8>| {
            let mut decoder = WrapperDecoder::new(1_024);
            decoder.push(frame).unwrap();
            let frame = decoder.poll().unwrap();
            let apdu = GeneralGlo::from_bytes(frame.apdu()).unwrap();
            open_general_glo(&guek(guek_number), &gak(gak_number), METER, &apdu).ok()
        };
        self.sent.iter().filter_map(plain).collect()
    }
}

fn meter() -> Meter {
    Meter::new(Push::begin(CONFIG, delivered()), 0)
}

#[test]
fn s2_an_acknowledgement_leaves_under_the_old_keys_once_the_new_ones_are_durable_and_in_use() {
    let mut meter = meter();
    let frame = request(CLIENT, (1, 2), 0, &transfer(3, &[(0, 0x11), (2, 0x12)]));
    meter.push.handle(Tick(0), Input::Received(&frame)).unwrap();
    let outputs: Vec<Output> = core::iter::from_fn(|| meter.push.poll()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Transmit(_))), "nothing is durable yet");
    for output in outputs {
        if let Output::Persist { id, record, key_changes, .. } = output {
            assert_eq!(key_changes, 1);
            meter.flash = Some(record);
            meter.push.handle(Tick(0), Input::Persisted(id)).unwrap();
        }
    }
    meter.live();
    assert_eq!(meter.said_under((1, 2)), [ACKNOWLEDGED]);
    // The row that waited for its confirmation is sealed anew: first the answer, then the row.
    assert_eq!(meter.said_under((0x11, 0x12)).len(), 1);
    for mut meter in [meter.restarted(), meter] {
        meter.hear(&request(CLIENT, (1, 2), 9, &GET));
        assert!(matches!(meter.refusal(), Some(RequestRefusal::Crypto(_))), "{:?}", meter.events);
        meter.hear(&request(CLIENT, (0x11, 0x12), 0, &GET));
        let said = meter.said_under((0x11, 0x12));
        assert!(said.iter().any(|plain| plain.starts_with(&[0xC4, 1, 0xC1, 0, 9, 13, b'G', b'S', b'L'])));
    }
}

#[test]
fn s5_a_counter_of_a_client_is_taken_once_also_after_a_restart_and_by_each_client_for_itself() {
    let mut before = meter();
    before.hear(&request(CLIENT, (1, 2), 7, &GET));
    assert_eq!(before.said_under((1, 2)).len(), 1);
    for counter in [7, 6, 0] {
        let mut meter = before.restarted();
        meter.hear(&request(CLIENT, (1, 2), counter, &GET));
        assert_eq!(meter.refusal(), Some(RequestRefusal::Counter(counter as u32)));
        assert_eq!(meter.said_under((1, 2)), Vec::<Vec<u8>>::new());
    }
    // A forged counter locks nobody out: it counts only once its tag has verified.
    before.hear(&request(CLIENT, (9, 9), u64::from(u32::MAX), &GET));
    before.hear(&request(SystemTitle(*b"GSL\0\0\0\0\x09"), (1, 2), 0, &GET));
    before.hear(&request(CLIENT, (1, 2), 8, &GET));
    assert_eq!(before.said_under((1, 2)).len(), 3);
    for client in [0x21, 0x22, 0x23] {
        before.hear(&request(SystemTitle([client; 8]), (1, 2), 0, &GET));
    }
    assert!(before.events.contains(&Event::RequestRefused(RequestRefusal::Clients)));
    before.hear(&request(METER, (1, 2), 1_000, &GET));
    assert!(before.events.contains(&Event::RequestRefused(RequestRefusal::Title)), "a reflection");
    // Another authentication key alone opens no new space of nonces.
    before.hear(&request(CLIENT, (1, 2), 9, &transfer(3, &[(2, 0x12)])));
    before.events.clear();
    before.hear(&request(CLIENT, (1, 0x12), 9, &GET));
    assert_eq!(before.refusal(), Some(RequestRefusal::Counter(9)));
}

#[test]
fn a_master_key_is_replaced_under_the_one_before_and_a_transfer_holds_or_fails_as_one() {
    let mut meter = meter();
    meter.hear(&request(CLIENT, (1, 2), 0, &transfer(3, &[(3, 0x33)])));
    assert_eq!(meter.changes, 1);
    let bad: [&[u8]; 6] = [
        &transfer(3, &[(0, 0x11)]),
        &transfer(0x33, &[(0, 0x11), (0, 0x12)]),
        &transfer(0x33, &[(1, 0x11)]),
        &transfer(0x33, &[(0, 0x11), (9, 0x12)]),
        &transfer(0x33, &[]),
        &[transfer(0x33, &[(0, 0x11)]), transfer(3, &[(2, 0x12)])[15..].to_vec()].concat(),
    ];
    for (counter, plain) in (1..).zip(bad) {
        meter.sent.clear();
        meter.hear(&request(CLIENT, (1, 2), counter, plain));
        assert_eq!(meter.changes, 1, "{plain:02x?}");
        let refused = meter.said_under((1, 2)).concat();
        assert!(refused.starts_with(&[0xC7, 1, 0xC1, 250]) || refused == [0xD8, 2, 2], "{refused:02x?}");
    }
    let mut meter = meter.restarted();
    meter.hear(&request(CLIENT, (1, 2), 20, &transfer(0x33, &[(0, 0x11)])));
    assert_eq!((meter.changes, meter.said_under((1, 2))), (2, vec![ACKNOWLEDGED.to_vec()]));
    // Another delivery makes an end of all of it.
    let config = PushConfig { key_generation: 2, ..CONFIG };
    let mut anew = Meter::new(
        Push::resume(config, delivered(), meter.flash.as_ref().unwrap()).unwrap(),
        meter.starts + 1,
    );
    anew.hear(&request(CLIENT, (1, 2), 0, &GET));
    assert_eq!(anew.said_under((1, 2)).len(), 1);
    let stranger = PushKeys { kek: kek(0x44), ..delivered() };
    let refused = Push::resume(CONFIG, stranger, meter.flash.as_ref().unwrap());
    assert_eq!(refused.err(), Some(super::RecordError::Keys), "a record of another root");
}

#[test]
fn what_is_no_request_gets_no_answer_or_ends_the_link_and_changes_nothing() {
    let mut meter = meter();
    let flash = meter.flash.clone();
    let frame = request(CLIENT, (1, 2), 0, &GET);
    let other = WrapperFrame::new(2, 1, frame[8..].to_vec()).unwrap().to_bytes();
    meter.hear(&other);
    assert_eq!(meter.refusal(), Some(RequestRefusal::Address));
    for at in 19..frame.len() {
        let mut flipped = frame.clone();
        flipped[at] ^= 1;
        meter.hear(&flipped);
    }
    assert_eq!((meter.sent.len(), &meter.flash), (0, &flash));
    meter.hear(&WrapperFrame::new(1, 1, frame[8..20].to_vec()).unwrap().to_bytes());
    assert!(matches!(meter.events.last(), Some(Event::LinkRefused(_))));
    // Services that it does not have, from a client that it knows.
    let mut meter = Meter::new(Push::begin(CONFIG, delivered()), 0);
    meter.hear(&request(CLIENT, (1, 2), 0, &[0xC1, 1, 0xC1]));
    meter.hear(&request(CLIENT, (1, 2), 1, &[0xC0, 1, 0xC1, 0, 3, 1, 0, 1, 8, 0, 255, 2, 0]));
    meter.hear(&request(CLIENT, (1, 2), 2, &[0xC3, 1, 0xC1, 0, 70, 0, 0, 96, 3, 10, 255, 1, 0]));
    let said = meter.said_under((1, 2));
    assert_eq!(said, [&[0xD8, 2, 2][..], &[0xC4, 1, 0xC1, 1, 4], &[0xC7, 1, 0xC1, 4, 0]]);
}
