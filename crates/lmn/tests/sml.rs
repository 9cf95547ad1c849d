//! SML against published files, an independent parser, and hostile bytes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "test code"
)]

use gridseal_lmn::{
    Rule,
    reading::{Decimal, Quality, Value as Typed},
    sml::{
        self, Checksum, Message, Mode,
        element::{DEPTH_MAX, Element, Signed, Unsigned},
        message::{
            Attention, Body, CloseMessage, GetListRequest, GetListResponse, GetProcParameterRequest,
            GetProcParameterResponse, GetProfileListResponse, GetProfilePackResponse, GetProfileRequest,
            ListEntry, Octets, OpenRequest, OpenResponse, PeriodEntry, ProfileHeader, ProfileRow,
            ProfileValue, Raw, SetProcParameterRequest, Time, Tree, Value,
        },
        reading::{Quirk, readings},
        transport,
    },
};
use gridseal_types::ObisCode;
use toml::Table;

fn vector(name: &str) -> Table {
    let path = format!("{}/../../tests/vectors/sml/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn input(vector: &Table) -> Vec<u8> {
    hex::decode(vector["input"].as_str().unwrap()).unwrap()
}

fn list<'m, 'a>(messages: &'m [Message<'a>]) -> &'m GetListResponse<'a> {
    messages
        .iter()
        .find_map(|message| match &message.body {
            Body::GetListResponse(list) => Some(list),
            _ => None,
        })
        .unwrap()
}

fn told(list: &GetListResponse<'_>) -> Vec<String> {
    readings(list)
        .map(|entry| {
            let [a, b, c, d, e, _] = *entry.reading.obis.unwrap().groups();
            let value = match entry.reading.value {
                Typed::Number(Decimal { mantissa, exponent }) => {
                    format!("{mantissa}e{exponent} {}", entry.reading.unit.symbol())
                }
                Typed::Text(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            let status = entry.status.map_or(String::new(), |status| format!(" status {status:x}"));
            format!("{a}-{b}:{c}.{d}.{e} {value}{status}")
        })
        .collect()
}

#[test]
fn a_published_file_is_read_and_written_byte_for_byte() {
    let vector = vector("emh-ehz361");
    let file = input(&vector);
    for mode in [Mode::Strict, Mode::Tolerant] {
        let payload = transport::open(&file).unwrap();
        let messages = sml::messages(&payload, mode).unwrap();
        let expected: Vec<&str> =
            vector["expect"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        assert_eq!(told(list(&messages)), expected);
        assert_eq!(sml::encode(&messages), payload);
        assert_eq!(transport::seal(&sml::encode(&messages)), file);
    }
}

#[test]
fn a_changed_value_under_a_right_file_checksum_is_refused_by_the_message_checksum() {
    let vector = vector("emh-ehz361-changed-value");
    let payload = transport::open(&input(&vector)).unwrap();
    let error = sml::messages(&payload, Mode::Tolerant).unwrap_err();
    assert_eq!(error.code(), vector["error"].as_str().unwrap());
    assert_eq!(error.field, "checksum of message");
}

#[test]
fn every_changed_bit_and_every_cut_of_a_file_is_refused() {
    let file = input(&vector("emh-ehz361"));
    for bit in 0..file.len() * 8 {
        let mut changed = file.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(transport::open(&changed).is_err(), "bit {bit}");
    }
    let payload = transport::open(&file).unwrap();
    for bit in 0..payload.len() * 8 {
        let mut changed = payload.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(sml::messages(&changed, Mode::Tolerant).is_err(), "bit {bit} of the payload");
    }
    let boundaries: Vec<usize> =
        (1..payload.len()).filter(|cut| sml::messages(&payload[..*cut], Mode::Strict).is_ok()).collect();
    assert_eq!(boundaries.len(), 2, "a payload that ends between messages is one with fewer messages");
}

const SERVER: Octets<'static> = Octets(&[0x0A, 0x01, b'G', b'S', b'L', 0, 0, 0, 0, 1]);
const OBIS: Octets<'static> = Octets(&[1, 0, 1, 8, 0, 255]);
const TIME: Time = Time::Timestamp(Unsigned { value: 1_795_608_000, width: 4 });
const LOCAL: Time = Time::Local {
    timestamp: Unsigned { value: 1_795_608_000, width: 4 },
    offset_min: Signed { value: 60, width: 2 },
    season_min: Signed { value: 0, width: 2 },
};

fn tree() -> Tree<'static> {
    let leaf = |raw| Tree { name: OBIS, value: Some(Raw(raw)), children: None };
    let value = leaf(&[0x72, 0x62, 0x01, 0x63, 0x12, 0x34]);
    let branch = Tree { name: OBIS, value: None, children: Some(vec![value.clone(), value]) };
    Tree { name: OBIS, value: None, children: Some(vec![branch]) }
}

fn bodies() -> Vec<Body<'static>> {
    let profile = GetProfileRequest {
        server_id: Some(SERVER),
        username: None,
        password: None,
        with_rawdata: Some(false),
        begin_time: Some(Time::SecondIndex(Unsigned::new(7, 4))),
        end_time: Some(LOCAL),
        tree_path: vec![OBIS],
        object_list: Some(vec![OBIS, OBIS]),
        details: None,
    };
    let (unit, scaler) = (Unsigned::new(30, 1), Signed::new(-1, 1));
    let entry = ListEntry {
        name: OBIS,
        status: Some(Unsigned::new(0x0182, 2)),
        time: Some(TIME),
        unit: Some(unit),
        scaler: Some(scaler),
        value: Value::Signed(Signed::new(-5, 8)),
        signature: Some(Octets(&[0x5A; 48])),
    };
    vec![
        Body::OpenRequest(OpenRequest {
            codepage: None,
            client_id: Octets(b"client"),
            request_file_id: Octets(&[1, 2]),
            server_id: Some(SERVER),
            username: Some(Octets(b"user")),
            password: Some(Octets(b"password")),
            version: Some(Unsigned::new(1, 1)),
        }),
        Body::OpenResponse(OpenResponse {
            codepage: None,
            client_id: None,
            request_file_id: Octets(&[1, 2]),
            server_id: SERVER,
            reference_time: Some(TIME),
            version: None,
        }),
        Body::CloseRequest(CloseMessage { global_signature: None }),
        Body::CloseResponse(CloseMessage { global_signature: Some(Octets(&[7; 300])) }),
        Body::GetProfilePackRequest(profile.clone()),
        Body::GetProfileListRequest(GetProfileRequest { details: Some(tree()), ..profile }),
        Body::GetProfilePackResponse(GetProfilePackResponse {
            server_id: SERVER,
            act_time: TIME,
            period_s: Unsigned::new(900, 4),
            tree_path: vec![OBIS],
            headers: vec![ProfileHeader { name: OBIS, unit, scaler }],
            rows: vec![ProfileRow {
                time: TIME,
                status: Unsigned::new(0, 8),
                values: vec![ProfileValue { value: Value::Unsigned(Unsigned::new(9, 4)), signature: None }],
                signature: None,
            }],
            rawdata: None,
            profile_signature: None,
        }),
        Body::GetProfileListResponse(GetProfileListResponse {
            server_id: SERVER,
            act_time: TIME,
            period_s: Unsigned::new(900, 4),
            tree_path: vec![OBIS],
            time: TIME,
            status: Unsigned::new(0, 8),
            entries: vec![PeriodEntry {
                name: OBIS,
                unit,
                scaler,
                value: Value::Boolean(true),
                signature: None,
            }],
            rawdata: None,
            signature: None,
        }),
        Body::GetProcParameterRequest(GetProcParameterRequest {
            server_id: Some(SERVER),
            username: None,
            password: None,
            tree_path: vec![OBIS],
            attribute: None,
        }),
        Body::GetProcParameterResponse(GetProcParameterResponse {
            server_id: SERVER,
            tree_path: vec![OBIS],
            tree: tree(),
        }),
        Body::SetProcParameterRequest(SetProcParameterRequest {
            server_id: Some(SERVER),
            username: None,
            password: None,
            tree_path: vec![OBIS],
            tree: tree(),
        }),
        Body::GetListRequest(GetListRequest {
            client_id: Octets(b"client"),
            server_id: Some(SERVER),
            username: None,
            password: None,
            list_name: Some(OBIS),
        }),
        Body::GetListResponse(GetListResponse {
            client_id: None,
            server_id: SERVER,
            list_name: None,
            sensor_time: Some(LOCAL),
            entries: vec![entry.clone(), ListEntry { value: Value::Octets(Octets(b"x")), ..entry }],
            list_signature: None,
            gateway_time: None,
        }),
        Body::Attention(Attention {
            server_id: SERVER,
            number: Octets(&[0x81, 0x81, 0xC7, 0xC7, 0xFE, 0x01]),
            text: Some(Octets(b"unknown")),
            details: None,
        }),
    ]
}

#[test]
fn every_body_is_read_as_it_was_written() {
    let messages: Vec<Message<'_>> =
        bodies().into_iter().map(|body| Message::new(&[1, 2, 3], body)).collect();
    let payload = sml::encode(&messages);
    assert_eq!(sml::messages(&payload, Mode::Strict), Ok(messages.clone()));
    let file = transport::seal(&payload);
    assert_eq!(transport::open(&file), Ok(payload));
    // Each alone: cut anywhere it is refused.
    for message in messages {
        let bytes = sml::encode(&[message]);
        for cut in 1..bytes.len() {
            assert!(sml::messages(&bytes[..cut], Mode::Tolerant).is_err());
        }
    }
}

//= SML 10: DZG DVS74 of two ranges of serial numbers send positive power as a short signed number
#[test]
fn quirk_dvs74_power_is_read_as_unsigned_for_its_serial_numbers_and_for_no_others() {
    let id = |serial: u32| {
        let mut id = vec![0x0A, 0x01, b'D', b'Z', b'G', 0];
        id.extend_from_slice(&serial.to_be_bytes());
        id
    };
    for (serial, has_quirk) in [
        (41_999_999, false),
        (42_000_000, true),
        (48_999_999, true),
        (49_000_000, false),
        (55_000_000, true),
        (58_999_999, true),
        (59_000_000, false),
    ] {
        let server = id(serial);
        assert_eq!(Quirk::of(&server).is_some(), has_quirk, "{serial}");
        let entry = |name, value| ListEntry {
            name: Octets(name),
            status: None,
            time: None,
            unit: Some(Unsigned::new(27, 1)),
            scaler: Some(Signed::new(0, 1)),
            value,
            signature: None,
        };
        let short = Value::Signed(Signed::new(-1_000, 2));
        let list = GetListResponse {
            client_id: None,
            server_id: Octets(&server),
            list_name: None,
            sensor_time: None,
            entries: vec![
                entry(&[1, 0, 16, 7, 0, 255], short),
                entry(&[1, 0, 16, 7, 0, 255], Value::Signed(Signed::new(-1_000, 4))),
                entry(&[1, 0, 1, 8, 0, 255], short),
                entry(&[1, 0, 36, 7, 0, 255], short),
                // Not seen on the other phases: nothing is guessed.
                entry(&[1, 0, 56, 7, 0, 255], short),
            ],
            list_signature: None,
            gateway_time: None,
        };
        let values: Vec<i128> = readings(&list)
            .map(|entry| match entry.reading.value {
                Typed::Number(number) => number.mantissa,
                other => panic!("{other:?}"),
            })
            .collect();
        let power = if has_quirk { 64_536 } else { -1_000 };
        assert_eq!(values, [power, -1_000, -1_000, power, -1_000], "{serial}");
    }
}

//= SML 10: old firmware of one manufacturer has CRC-16/KERMIT in its messages
#[test]
fn quirk_kermit_checksums_and_bare_times_pass_in_tolerant_mode_only() {
    let Some(Body::GetListResponse(mut list)) =
        bodies().into_iter().find(|body| body.name() == "GetList.Res")
    else {
        panic!()
    };
    list.sensor_time = Some(Time::Bare(Unsigned::new(77, 4)));
    let old =
        Message { checksum: Checksum::Kermit, ..Message::new(&[1], Body::GetListResponse(list.clone())) };
    let payload = sml::encode(core::slice::from_ref(&old));
    assert_eq!(sml::messages(&payload, Mode::Tolerant), Ok(vec![old]));
    assert!(matches!(sml::messages(&payload, Mode::Strict).unwrap_err().field, "time"));
    list.sensor_time = None;
    let kermit = Message { checksum: Checksum::Kermit, ..Message::new(&[1], Body::GetListResponse(list)) };
    let refused = sml::messages(&sml::encode(&[kermit]), Mode::Strict).unwrap_err();
    assert!(matches!(refused.rule, Rule::Checksum { .. }));
}

//= SML 10: a bare number, or three parts, in place of a time
#[test]
fn quirk_times_of_three_parts_and_lists_as_values_pass_and_are_written_as_they_were() {
    let Some(Body::GetListResponse(mut list)) =
        bodies().into_iter().find(|body| body.name() == "GetList.Res")
    else {
        panic!()
    };
    let Time::Local { timestamp, offset_min, season_min } = LOCAL else { panic!() };
    list.entries[0].time = Some(Time::BareLocal { timestamp, offset_min, season_min });
    list.entries[1].value = Value::List(Raw(&[0x72, 0x62, 0x01, 0x65, 0, 0, 0, 7]));
    let message = Message::new(&[1], Body::GetListResponse(list));
    let payload = sml::encode(core::slice::from_ref(&message));
    assert_eq!(sml::messages(&payload, Mode::Tolerant), Ok(vec![message]));
    assert!(sml::messages(&payload, Mode::Strict).is_err());
}

#[test]
fn nesting_bombs_and_lying_counts_are_refused_at_once() {
    let mut payload = Vec::new();
    Element::List(6).encode(&mut payload);
    payload.extend_from_slice(&[
        0x02, 1, 0x62, 0, 0x62, 0, 0x72, 0x63, 0x05, 0x01, 0x73, 0x02, 1, 0x71, 0x02, 1,
    ]);
    payload.extend(std::iter::repeat_n([0x73, 0x02, 1, 0x01, 0x71], 100_000).flatten());
    let error = sml::messages(&payload, Mode::Tolerant).unwrap_err();
    assert_eq!(error.rule, Rule::TooDeep { limit: DEPTH_MAX });
    let lying = [
        0x76, 0x02, 1, 0x62, 0, 0x62, 0, 0x72, 0x63, 0x07, 0x01, 0x77, 0x01, 0x02, 1, 0x01, 0x01, 0xFF, 0x0F,
    ];
    assert!(matches!(sml::messages(&lying, Mode::Tolerant).unwrap_err().rule, Rule::LengthNotAllowed { .. }));
}

/// The list of a meter with one entry.
fn one(entry: ListEntry<'static>) -> GetListResponse<'static> {
    GetListResponse {
        client_id: None,
        server_id: SERVER,
        list_name: None,
        sensor_time: None,
        entries: vec![entry],
        list_signature: None,
        gateway_time: None,
    }
}

fn energy(scaler: i64) -> ListEntry<'static> {
    ListEntry {
        name: OBIS,
        status: None,
        time: None,
        unit: Some(Unsigned::new(30, 1)),
        scaler: Some(Signed::new(scaler, 8)),
        value: Value::Unsigned(Unsigned::new(5, 1)),
        signature: None,
    }
}

#[test]
fn a_scaler_that_no_meter_can_mean_gives_no_value_instead_of_a_wrong_one() {
    for (scaler, is_read) in [(-128, true), (127, true), (-129, false), (128, false), (i64::MAX, false)] {
        let list = one(energy(scaler));
        let read = readings(&list).next().unwrap().reading;
        assert_eq!(matches!(read.value, Typed::Number(_)), is_read, "{scaler}: {:?}", read.value);
        assert_eq!(read.quality == Quality::Unreadable, !is_read, "{scaler}");
    }
}

#[test]
fn a_file_under_another_checksum_is_refused_even_in_tolerant_mode() {
    let mut file = input(&vector("emh-ehz361"));
    let at = file.len() - 2;
    let kermit = Checksum::Kermit.of(&file[..at]).to_le_bytes();
    file[at..].copy_from_slice(&kermit);
    let error = transport::open(&file).unwrap_err();
    assert_eq!((error.code(), error.field), ("lmn.checksum", "checksum of file"));
}

/// What another parser reads in the same file.
#[test]
fn an_independent_parser_reads_the_same_values() {
    let file = input(&vector("emh-ehz361"));
    let ours = {
        let payload = transport::open(&file).unwrap();
        let messages = sml::messages(&payload, Mode::Strict).unwrap();
        list(&messages)
            .entries
            .iter()
            .map(|entry| {
                let value = match entry.value {
                    Value::Signed(signed) => signed.value.to_string(),
                    Value::Unsigned(unsigned) => unsigned.value.to_string(),
                    other => format!("{other:?}"),
                };
                (entry.name.0.to_vec(), value)
            })
            .collect::<Vec<_>>()
    };
    let payload = transport::open(&file).unwrap();
    let theirs = sml_rs::parser::complete::parse(&payload).unwrap();
    let theirs: Vec<_> = theirs
        .messages
        .iter()
        .find_map(|message| match &message.message_body {
            sml_rs::parser::complete::MessageBody::GetListResponse(list) => Some(list),
            _ => None,
        })
        .unwrap()
        .val_list
        .iter()
        .map(|entry| (entry.obj_name.to_vec(), entry.value.clone()))
        .collect();
    assert_eq!(ours.len(), theirs.len());
    for ((name, value), (their_name, their_value)) in ours.iter().zip(&theirs) {
        use sml_rs::parser::common::Value as Their;
        assert_eq!(name, their_name);
        let their = match their_value {
            Their::Bytes(bytes) => format!("Octets({})", hex::encode(bytes)),
            Their::I8(number) => number.to_string(),
            Their::I16(number) => number.to_string(),
            Their::I32(number) => number.to_string(),
            Their::I64(number) => number.to_string(),
            Their::U8(number) => number.to_string(),
            Their::U16(number) => number.to_string(),
            Their::U32(number) => number.to_string(),
            Their::U64(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(*value, their);
    }
    assert_eq!(ObisCode::new([1, 0, 2, 8, 1, 255]).groups().as_slice(), ours[2].0);
}

/// Where the two disagree, and why: each is written down in `docs/interop.md`.
#[test]
fn every_known_disagreement_with_the_other_parser_is_as_written_down() {
    let theirs = |payload: &[u8]| sml_rs::parser::complete::parse(payload).is_ok();
    let ours = |payload: &[u8]| sml::messages(payload, Mode::Tolerant).is_ok();
    for body in bodies() {
        let name = body.name();
        let payload = sml::encode(&[Message::new(&[1], body)]);
        assert!(ours(&payload), "{name}");
        // Theirs knows what meters push, and of times the second index only.
        assert_eq!(theirs(&payload), name == "PublicClose.Res", "{name}");
    }
    let list = one(energy(0));
    let of = |list: &GetListResponse<'static>, checksum| {
        let message = Message { checksum, ..Message::new(&[1], Body::GetListResponse(list.clone())) };
        sml::encode(&[message])
    };
    let scaler = |scaler| {
        let mut list = list.clone();
        list.entries[0].scaler = Some(scaler);
        list
    };
    let short = scaler(Signed::new(0, 1));
    let bare = GetListResponse { sensor_time: Some(Time::Bare(Unsigned::new(7, 4))), ..short.clone() };
    let dated = GetListResponse { sensor_time: Some(TIME), ..short.clone() };
    for (payload, they_read) in [
        (of(&short, Checksum::X25), true),
        (of(&bare, Checksum::X25), true),
        (of(&dated, Checksum::X25), false),
        (of(&short, Checksum::Kermit), false),
        (of(&scaler(Signed::new(0, 2)), Checksum::X25), false),
    ] {
        assert!(ours(&payload));
        assert_eq!(theirs(&payload), they_read);
    }
}
