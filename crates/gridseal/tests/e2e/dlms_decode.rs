//! `gridseal decode dlms` from outside.

use serde_json::{Value, json};

use crate::{
    dlms_peer::{CLIENT, CLOCK, Lying, METER, Script, gak, guek, sealed},
    machine::gridseal,
};
use gridseal_dlms::apdu::carrier::Carrier;

/// Green Book example: get-request of the clock, protected by the meter of the lab file.
const SEALED_GET: &str = "c81e3001234567411312ff935a47566827c467bc7d825c3be4a77c3fcc056b6b";
const HDLC_GET: &str = "7EA0190321107FDAE6E600C001C100080000010000FF0200601A7E";

fn decode(arguments: &[&str]) -> (Option<i32>, Vec<Value>, String) {
    let output = gridseal(&[&["decode", "dlms", "--json"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code(), lines, String::from_utf8(output.stderr).unwrap())
}

/// The first node of this name, wherever it is.
fn find<'v>(nodes: &'v Value, field: &str) -> Option<&'v Value> {
    nodes
        .as_array()?
        .iter()
        .find_map(|node| if node["field"] == field { Some(node) } else { find(&node["children"], field) })
}

#[test]
fn frames_become_trees_with_offsets() {
    let (code, frames, _) = decode(&[HDLC_GET]);
    assert_eq!(
        (code, &frames[0]["ok"], &frames[0]["authenticated"]),
        (Some(0), &json!(true), &json!("none"))
    );
    let class = find(&frames[0]["tree"], "class-id").unwrap();
    assert_eq!(
        (&class["offset"], &class["value"], &class["meaning"]),
        (&json!(14), &json!(8), &json!("clock"))
    );
    let attribute = find(&frames[0]["tree"], "attribute-id").unwrap();
    assert_eq!((&attribute["offset"], &attribute["length"]), (&json!(22), &json!(1)));
    let text = gridseal(&["decode", "dlms", HDLC_GET]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("    14     2      class-id: 8  (clock)"), "{text}");
}

#[test]
fn protected_messages_open_with_a_lab_file_in_both_directions_and_without_keys_stay_closed() {
    let meter = Lying::new(Script::honest());
    let lab = meter.lab.to_str().unwrap();
    let value = [&[0xC4, 1, 0xC1, 0, 9, 12][..], &CLOCK].concat();
    let response = hex::encode(sealed(&value, METER, 5_001, 0x30, Carrier::Glo));
    let request = hex::encode(sealed(
        &hex::decode("c001c100080000010000ff0200").unwrap(),
        CLIENT,
        101,
        0x30,
        Carrier::GeneralGlo,
    ));
    for (input, field) in [
        (SEALED_GET, "attribute-descriptor"),
        (response.as_str(), "octet-string"),
        (request.as_str(), "attribute-descriptor"),
    ] {
        let (code, frames, _) = decode(&["--keys", lab, input]);
        assert_eq!((code, &frames[0]["authenticated"]), (Some(0), &json!(true)), "{frames:?}");
        let plain = find(&frames[0]["tree"], "plain apdu").unwrap();
        assert_eq!(plain["inner"], true);
        assert!(find(&plain["children"], field).is_some(), "{plain}");
        let (code, closed, _) = decode(&[input]);
        assert_eq!(
            (code, &closed[0]["ok"], find(&closed[0]["tree"], "plain apdu")),
            (Some(0), &json!(true), None)
        );
        let bytes = hex::decode(input).unwrap();
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        let (code, refused, _) = decode(&["--keys", lab, &hex::encode(&changed)]);
        assert_eq!(
            (code, &refused[0]["ok"], &refused[0]["error"]["code"]),
            (Some(2), &json!(false), &json!("dlms.tag"))
        );
        assert_eq!(find(&refused[0]["tree"], "plain apdu"), None, "a wrong tag releases nothing");
        let (code, shown, _) = decode(&["--keys", lab, "--danger-unverified", &hex::encode(&changed)]);
        assert_eq!((code, &shown[0]["authenticated"]), (Some(0), &json!(false)));
        assert!(
            find(&shown[0]["tree"], "plain apdu").unwrap()["meaning"]
                .as_str()
                .unwrap()
                .contains("NOT VERIFIED")
        );
    }
    let broadcast = hex::encode(sealed(&value, METER, 5_001, 0x70, Carrier::Glo));
    let (code, refused, _) = decode(&["--keys", lab, &broadcast]);
    assert_eq!((code, &refused[0]["error"]["code"]), (Some(2), &json!("dlms.no_key")));
    for control in [0x32, 0x20] {
        let weak = hex::encode(sealed(&value, METER, 5_001, control, Carrier::Glo));
        let (_, refused, _) = decode(&["--keys", lab, &weak]);
        assert_eq!(refused[0]["error"]["code"], "dlms.control", "{control:#x}");
    }
}

#[test]
fn segments_and_blocks_are_put_together_over_lines_and_a_missing_one_is_told() {
    use gridseal_dlms::frame::{
        block::GeneralBlock,
        hdlc::{ClientAddress, Control, Frame, ServerAddress},
    };
    let apdu = [&[0xE6, 0xE7, 0, 0xC4, 1, 0xC1, 0, 9, 100][..], &[0x5A; 100]].concat();
    let frames: Vec<String> = (0..)
        .zip(apdu.chunks(40))
        .map(|(send, piece)| {
            let control = Control::Information { receive: 1, send, poll: false };
            let frame = Frame {
                segmented: send < 2,
                destination: ClientAddress::new(0x10).unwrap().into(),
                source: ServerAddress::new(1, Some(17)).unwrap().into(),
                control,
                information: piece.to_vec(),
            };
            hex::encode(frame.to_bytes().unwrap())
        })
        .collect();
    let (code, told, _) = decode(&[&frames[0], &frames[1], &frames[2]]);
    let value = find(&told[2]["tree"], "octet-string").unwrap();
    assert_eq!((code, &value["value"], &value["offset"]), (Some(0), &json!("5a".repeat(100)), &json!(7)));
    let (code, told, _) = decode(&[&frames[0], &frames[2]]);
    assert_eq!((code, &told[1]["error"]["code"]), (Some(2), &json!("dlms.missing_part")));
    let (code, _, summary) = decode(&[&frames[0]]);
    assert!(code == Some(0) && summary.contains("1 messages still not whole"), "{summary}");
    let blocks: Vec<String> = (1..)
        .zip(apdu[3..].chunks(60))
        .map(|(number, data)| {
            hex::encode(
                GeneralBlock {
                    last: number == 2,
                    streaming: number == 1,
                    window: 8,
                    number,
                    acknowledged: 0,
                    data,
                }
                .to_bytes(),
            )
        })
        .collect();
    let (code, told, _) = decode(&[&blocks[0], &blocks[1]]);
    assert_eq!((code, find(&told[1]["tree"], "octet-string").is_some()), (Some(0), true));
}

#[test]
fn a_dedicated_key_is_learned_and_never_shown_and_bad_input_is_told_with_its_offset() {
    let meter = Lying::new(Script::honest());
    let lab = meter.lab.to_str().unwrap();
    // Green Book example: it delivers the key 0011..FF.
    let initiate = "21303001234567801302ff8a7874133d414ced25b42534d28db0047720606b175bd52211be6841db204d39ee6fdb8e356855";
    let key = "00112233445566778899aabbccddeeff";
    let output = gridseal(&["decode", "dlms", "--json", "--keys", lab, initiate]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("key of 16 bytes, not shown") && !text.contains(key),
        "{text}"
    );
    for (input, code, offset) in [
        ("zz", "dlms.hex", 0),
        ("c001c1", "dlms.truncated", 3),
        ("c401c100018400ffffff", "dlms.form", 5),
        ("7ea0190321107fdae6e600c001c100080000010000ff0200601b7e", "dlms.checksum", 24),
        ("0001001000010005c001", "dlms.truncated", 8),
        ("99", "dlms.form", 0),
    ] {
        let (exit, told, _) = decode(&[input]);
        assert_eq!(
            (exit, &told[0]["error"]["code"], &told[0]["error"]["offset"]),
            (Some(2), &json!(code), &json!(offset)),
            "{input}"
        );
    }
    let deep = format!("c401c100{}00", "0201".repeat(40));
    assert_eq!(decode(&[&deep]).1[0]["error"]["code"], "dlms.form");
}

#[test]
fn general_ciphering_opens_with_each_kind_of_key_and_both_readings_of_what_the_tag_covers() {
    use gridseal_crypto::{
        InvocationCounter, Key, apdu,
        role::{Guek, Kek},
    };
    use gridseal_dlms::apdu::{
        ciphered::{Protected, SecurityControl},
        general::{GeneralCiphering, GeneralHeader, KeyInfo},
    };
    let wire = [&[4, 1, 2, 3, 4, 8][..], METER.as_bytes(), &[8], CLIENT.as_bytes(), &[0, 0]].concat();
    let header = GeneralHeader {
        transaction_id: &[],
        originator: &[],
        recipient: &[],
        date_time: &[],
        other_information: &[],
        wire: &wire,
    };
    let value = [&[0xC4, 1, 0xC1, 0, 9, 12][..], &CLOCK].concat();
    let seal = |key: &Key<Guek, 16>, control: u8, plain: &[u8]| {
        let mut counters = InvocationCounter::resume(0);
        counters.extend(counters.reserve(1).unwrap());
        let header = apdu::Header { originator: METER, security_control: control };
        apdu::protect(key, &gak(), header, counters.take().unwrap(), plain).unwrap()
    };
    let carried = |control: u8, body: &[u8], info: KeyInfo<'_>| {
        let security_control = SecurityControl(control);
        let protected = Protected { security_control, invocation_counter: 0, body };
        hex::encode(GeneralCiphering { header, key_info: Some(info), protected }.to_bytes())
    };
    // Authentication alone covers what stands before the content: sealing header and content as one gives that tag.
    let covering = seal(&guek(), 0x10, &[&wire[..], &value].concat());
    let normative = carried(0x10, &covering[wire.len()..], KeyInfo::Identified(0));
    let short = carried(0x30, &seal(&guek(), 0x30, &value), KeyInfo::Identified(0));
    let kek: Key<Kek, 16> = Key::take(&mut [0x4B; 16]);
    let fresh = || Key::<Guek, 16>::take(&mut [0x46; 16]);
    let key = kek.wrap_for_meter(&fresh());
    let wrapped = carried(0x30, &seal(&fresh(), 0x30, &value), KeyInfo::Wrapped { kek_id: 0, wrapped: &key });
    let agreed =
        carried(0x30, &seal(&fresh(), 0x30, &value), KeyInfo::Agreed { parameters: &[2], data: &[] });

    let meter = Lying::new(Script::honest());
    let lab = std::fs::read_to_string(&meter.lab).unwrap() + &format!("kek = \"{}\"\n", "4b".repeat(16));
    std::fs::write(&meter.lab, &lab).unwrap();
    let quirk = meter.scratch.path().join("short.toml");
    std::fs::write(&quirk, lab + "[peer_quirks]\naad = \"short\"\n").unwrap();
    let code = |lab: &std::path::Path, input: &str| {
        let (_, told, _) = decode(&["--keys", lab.to_str().unwrap(), input]);
        let is_open = find(&told[0]["tree"], "octet-string").is_some();
        assert_eq!(is_open, told[0]["authenticated"] == true, "{told:?}");
        told[0]["error"]["code"].as_str().map(str::to_owned)
    };
    let tag = Some("dlms.tag".to_owned());
    assert_eq!((code(&meter.lab, &normative), code(&quirk, &normative)), (None, tag.clone()));
    assert_eq!((code(&meter.lab, &short), code(&quirk, &short)), (tag, None));
    assert_eq!(code(&quirk, &wrapped), None);
    assert_eq!(code(&quirk, &agreed).as_deref(), Some("dlms.no_key"), "no key of agreement is given");
}
