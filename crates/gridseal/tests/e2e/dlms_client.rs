//! `gridseal dlms` against a meter that is honest, and against one that lies.

use gridseal_dlms::{
    acse::{Aare, Diagnostic, Mechanism},
    apdu::{carrier::Carrier, get::GetResponse, reference::InvokeId},
    frame::block::GeneralBlock,
};
use gridseal_types::SystemTitle;
use serde_json::{Value, json};

use crate::dlms_peer::{CLIENT, CLOCK, Context, Lying, METER, Script, sealed};

const CLOCK_ITEM: &str = "0.0.1.0.0.255:8:2";
/// Tags, not to be confused.
const GET_RESPONSE: u8 = 0xC4;

fn lines(output: &std::process::Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn told(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn values_come_typed_with_scaler_and_unit_and_buffers_as_rows() {
    for (mechanism, carrier) in [
        (Mechanism::Gmac, Carrier::Glo),
        (Mechanism::Sha256, Carrier::GeneralGlo),
        (Mechanism::Gmac, Carrier::Ded),
        (Mechanism::LowLevel, Carrier::GeneralDed),
    ] {
        let meter = Lying::new(Script { mechanism, carrier, ..Script::honest() });
        let items = ["1.0.1.8.0.255", "1-0:1.8.0.255:3:2", "0.0.1.0.0.255", "9.9.9.9.9.9", "1.0.99.1.0.255"];
        let output = meter.run("get", &[&["--json"], &items[..]].concat());
        assert_eq!(output.status.code(), Some(0), "{mechanism:?} {carrier:?}: {}", told(&output));
        assert!(told(&output).contains("--counter-file"), "counters are not kept, and that is said");
        let read = lines(&output);
        for energy in &read[..2] {
            assert_eq!(
                (&energy["type"], &energy["value"]),
                (&json!("double-long-unsigned"), &json!(123_456))
            );
            assert_eq!(
                (&energy["scaler"], &energy["unit"], &energy["authenticated"]),
                (&json!(-1), &json!("Wh"), &json!(true))
            );
            assert_eq!(
                (&energy["obis"], &energy["class"], &energy["attribute"]),
                (&json!("1.0.1.8.0.255"), &json!(3), &json!(2))
            );
        }
        assert_eq!(
            (&read[2]["value"], &read[2]["time"]),
            (&json!(hex::encode(CLOCK)), &json!("2026-11-25T12:00:00+01:00"))
        );
        assert_eq!(
            (&read[3]["class"], &read[3]["value"]),
            (&json!(1), &json!("found")),
            "its class is in the object list"
        );
        let rows = read[4]["rows"].as_array().unwrap();
        assert_eq!((rows.len(), &read[4]["columns"][1]["unit"]), (200, &json!("Wh")));
        assert_eq!((&read[4]["type"], &read[4]["value"][0]["type"]), (&json!("array"), &json!("structure")));
        // Left-out clocks are one period apart, differences are added.
        assert_eq!(rows[199][0]["time"], "2026-11-27T13:45:00+01:00");
        assert_eq!((&rows[0][1]["value"], &rows[199][1]["value"]), (&json!(1_000), &json!(1_995)));
        let text = meter.run("get", &["1.0.1.8.0.255"]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert_eq!(text.trim(), "1.0.1.8.0.255 3:2 value  12345.6 Wh");
    }
}

#[test]
fn values_are_written_methods_invoked_and_refusals_of_the_meter_told() {
    let meter = Lying::new(Script::honest());
    let counters = meter.scratch.path().join("counters");
    let keep = ["--json", "--counter-file", counters.to_str().unwrap()];
    let run = |verb: &str, arguments: &[&str]| {
        let output = meter.run(verb, &[&keep[..], arguments].concat());
        assert!(!told(&output).contains("not kept"), "{}", told(&output));
        (output.status.code(), lines(&output))
    };
    let (code, written) =
        run("set", &["1.0.99.1.0.255:7:4=u32:60", "0.0.1.0.0.255:8:2", "time:2026-11-25T13:00:00+01:00"]);
    assert_eq!((code, &written[0]["result"], &written[1]["ok"]), (Some(0), &json!("success"), &json!(true)));
    assert_eq!(written[0]["authenticated"], true);
    let (_, read) = run("get", &["1.0.99.1.0.255:7:4", "0.0.1.0.0.255"]);
    assert_eq!((&read[0]["value"], &read[1]["time"]), (&json!(60), &json!("2026-11-25T13:00:00+01:00")));
    let (code, outcome) = run("action", &["0.0.10.0.106.255:9:1=u16:7", "0.0.10.0.106.255:9:1"]);
    assert_eq!(
        (code, &outcome[0]["returned"]["value"], &outcome[1]["ok"]),
        (Some(0), &json!(7), &json!(true))
    );
    // Longer than the meter takes at once: it goes in blocks.
    let long = format!("oct:{}", "5a".repeat(3_000));
    let (code, outcome) = run("action", &["0.0.10.0.106.255:9:1", &long]);
    assert_eq!((code, outcome[0]["returned"]["value"].as_str().map(str::len)), (Some(0), Some(6_000)));
    let (code, refused) = run("get", &["1.0.1.8.0.255", "1.0.2.8.0.255"]);
    assert_eq!((code, &refused[0]["value"]), (Some(3), &json!(123_456)), "the others are printed");
    assert_eq!((&refused[1]["error"]["code"], refused[1].get("value")), (&json!("dlms.access"), None));
    let (code, refused) = run("set", &["1.0.2.8.0.255:3:2=u32:1"]);
    assert_eq!((code, &refused[0]["error"]["result"]), (Some(3), &json!(3)));
    let (code, refused) = run("action", &["0.0.10.0.106.255:9:2"]);
    assert_eq!((code, &refused[0]["error"]["message"]), (Some(3), &json!("object undefined")));
    // What was selected: the meter gives it back.
    let (_, picked) = run("get", &["1.0.99.1.0.255", "--entries", "1-96"]);
    assert_eq!(picked[0]["rows"][0][1]["value"], "020406000000010600000060120001120000");
    let (_, picked) =
        run("get", &["1.0.99.1.0.255", "--from", "2026-11-25T00:00:00Z", "--to", "2026-11-26T00:00:00Z"]);
    let range = picked[0]["rows"][0][1]["value"].as_str().unwrap();
    assert!(
        range.starts_with("0204020412000809060000010000ff0f02120000090c07ea0b19") && range.ends_with("0100"),
        "{range}"
    );
}

#[test]
fn wrong_usage_is_said_without_asking_anybody() {
    let meter = Lying::new(Script { wire: Box::new(|_, _| panic!("nobody is asked")), ..Script::honest() });
    for (verb, arguments) in [
        ("get", &["1.0.1.8.0"][..]),
        ("get", &["1.0.1.8.0.255", "--entries", "1-96"]),
        ("get", &["1.0.99.1.0.255", "--entries", "5-1"]),
        ("get", &["1.0.99.1.0.255", "--from", "yesterday"]),
        ("set", &["1.0.1.8.0.255:3:2"]),
        ("set", &["1.0.1.8.0.255=u32:1"]),
        ("set", &["1.0.1.8.0.255:3:2=u32:x"]),
        ("action", &["1.0.1.8.0.255"]),
    ] {
        let output = meter.run(verb, arguments);
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(2), &[][..]),
            "{arguments:?}: {}",
            told(&output)
        );
    }
    std::fs::write(&meter.lab, "danger_test_keys = true\n").unwrap();
    assert_eq!(meter.run("get", &["1.0.1.8.0.255"]).status.code(), Some(2));
}

/// The command must not show a value, and must say by its exit code that it was lied to.
fn refused(name: &str, script: Script, code: i32) {
    let meter = Lying::new(script);
    let output = meter.run("get", &["--json", "--timeout", "1", CLOCK_ITEM]);
    assert_eq!(output.status.code(), Some(code), "{name}: {}", told(&output));
    assert!(output.stdout.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(told(&output).contains("gridseal: "), "{name}");
}

//= DLMS 12.1: the tag is compared, whatever bit is flipped
#[test]
fn a_changed_answer_is_refused_wherever_it_was_changed() {
    for carrier in [Carrier::Glo, Carrier::GeneralGlo] {
        let meter = Lying::new(Script { carrier, ..Script::honest() });
        // The machine's own tests flip every bit; here one of every byte, each by a process of its own.
        let size = if carrier == Carrier::Glo { 37 } else { 46 };
        for byte in 0..size {
            let wire = Script::wire_at(2, move |mut apdu, _| {
                assert_eq!(apdu.len(), size);
                apdu[byte] ^= 1 << (byte % 8);
                vec![apdu]
            });
            meter.change(Script { carrier, ..wire });
            let output = meter.run("get", &["--json", "--timeout", "1", CLOCK_ITEM]);
            assert_eq!(output.status.code(), Some(4), "{carrier:?} byte {byte}: {}", told(&output));
            assert!(output.stdout.is_empty(), "byte {byte}");
        }
        meter.change(Script { carrier, ..Script::honest() });
        let honest = meter.run("get", &["--json", CLOCK_ITEM]);
        assert_eq!(lines(&honest)[0]["value"], hex::encode(CLOCK), "and nobody is locked out");
    }
}

/// The plain answer that the honest meter gives, with another value.
fn answer(value: &[u8], request: u8) -> Vec<u8> {
    GetResponse::Normal { invoke_id: InvokeId::confirmed(request), result: Ok(value) }.to_bytes()
}

type Forgery = (&'static str, Script, i32);

/// Forged on the wire, by somebody without keys or with another meter's.
fn wire_forgeries() -> Vec<Forgery> {
    let lie = [0x09, 1, 0xEE];
    let glo = Carrier::Glo;
    let general = |forge: fn(&[u8]) -> Vec<u8>| Script {
        carrier: Carrier::GeneralGlo,
        ..Script::wire_at(2, move |apdu, _| vec![forge(&apdu)])
    };
    let with = |forge: fn(Vec<u8>, &Context<'_>) -> Vec<Vec<u8>>| Script::wire_at(2, forge);
    vec![
        ("plain answer", Script::wire_at(2, move |_, _| vec![answer(&lie, 2)]), 4),
        (
            "plain answer, then the true one",
            Script::wire_at(2, move |apdu, _| vec![answer(&lie, 2), apdu]),
            4,
        ),
        ("repeated answer", with(|_, context| vec![context.sent[1].clone()]), 4),
        (
            "lower counter",
            Script::wire_at(2, move |_, _| vec![sealed(&answer(&lie, 2), METER, 17, 0x30, glo)]),
            4,
        ),
        ("own request sent back", with(|_, context| vec![context.request.to_vec()]), 4),
        (
            "forged high counter",
            with(|mut apdu, _| {
                apdu[3..7].fill(0xFF);
                vec![apdu]
            }),
            4,
        ),
        (
            "broadcast key set",
            with(|mut apdu, _| {
                apdu[2] |= 0x40;
                vec![apdu]
            }),
            4,
        ),
        (
            "compression",
            with(|mut apdu, _| {
                apdu[2] |= 0x80;
                vec![apdu]
            }),
            4,
        ),
        (
            "another suite",
            with(|mut apdu, _| {
                apdu[2] |= 0x01;
                vec![apdu]
            }),
            4,
        ),
        (
            "authentication only",
            Script::wire_at(2, move |_, _| vec![sealed(&answer(&lie, 2), METER, 9_000, 0x10, glo)]),
            4,
        ),
        (
            "encryption only",
            Script::wire_at(2, move |_, _| vec![sealed(&answer(&lie, 2), METER, 9_000, 0x20, glo)]),
            4,
        ),
        (
            "another meter's title",
            general(|apdu| {
                let mut forged = apdu.to_vec();
                forged[9] ^= 1;
                forged
            }),
            4,
        ),
        (
            "sealed by another meter",
            general(|_| {
                sealed(&answer(&[0x09, 1, 0xEE], 2), SystemTitle([9; 8]), 9_000, 0x30, Carrier::GeneralGlo)
            }),
            4,
        ),
        (
            "the client's own title",
            general(|_| sealed(&answer(&[0x09, 1, 0xEE], 2), CLIENT, 9_000, 0x30, Carrier::GeneralGlo)),
            4,
        ),
        (
            "length beyond the end",
            with(|apdu, _| vec![[&[apdu[0], 0x84, 0xFF, 0xFF, 0xFF, 0xFF][..], &apdu[2..]].concat()]),
            4,
        ),
        (
            "length of the indefinite form",
            with(|apdu, _| vec![[&[apdu[0], 0x80][..], &apdu[2..]].concat()]),
            4,
        ),
        ("cut off", with(|apdu, _| vec![apdu[..apdu.len() - 1].to_vec()]), 4),
        ("bytes behind it", with(|apdu, _| vec![[&apdu[..], &[0]].concat()]), 4),
        ("larger than agreed", with(|_, _| vec![vec![0xCC; 30_000]]), 4),
        (
            "answer to a service that was not asked",
            Script::wire_at(2, |_, _| vec![sealed(&[0xC5, 1, 0xC2, 0], METER, 9_000, 0x30, Carrier::Glo)]),
            4,
        ),
        ("exception without protection", with(|_, _| vec![vec![0xD8, 1, 5]]), 1),
        ("silence", with(|_, _| vec![]), 1),
        (
            "blocks that nobody asked for, out of order",
            with(|apdu, _| {
                let block = |number| {
                    GeneralBlock {
                        last: true,
                        streaming: false,
                        window: 1,
                        number,
                        acknowledged: 1,
                        data: &apdu,
                    }
                    .to_bytes()
                };
                vec![block(5), block(7)]
            }),
            1,
        ),
        (
            "a whole answer in a block of its own, changed",
            with(|mut apdu, _| {
                apdu[10] ^= 1;
                vec![
                    GeneralBlock {
                        last: true,
                        streaming: false,
                        window: 1,
                        number: 1,
                        acknowledged: 1,
                        data: &apdu,
                    }
                    .to_bytes(),
                ]
            }),
            4,
        ),
    ]
}

//= DLMS 12.5: a plain answer inside a ciphered association is a downgrade and refused
#[test]
fn forged_answers_end_the_command_without_a_value() {
    for (name, script, code) in wire_forgeries() {
        refused(name, script, code);
    }
}

/// Forged while the association is opened.
#[test]
fn forged_openings_end_the_command_without_a_value() {
    fn aare(change: fn(&mut Aare<'_>, &Context<'_>)) -> Script {
        Script::wire_at(0, move |apdu, context| {
            let mut aare = Aare::from_bytes(&apdu).unwrap();
            change(&mut aare, context);
            vec![aare.to_bytes()]
        })
    }
    let own_challenge = Script::wire_at(0, |apdu, context| {
        let request = gridseal_dlms::acse::Aarq::from_bytes(context.request).unwrap();
        vec![Aare { authentication: request.authentication, ..Aare::from_bytes(&apdu).unwrap() }.to_bytes()]
    });
    let initiate = |byte: usize| {
        Script::wire_at(0, move |mut apdu, _| {
            let at = apdu.len() - byte;
            apdu[at] ^= 1;
            vec![apdu]
        })
    };
    let proof = |byte: usize| {
        Script::wire_at(1, move |mut apdu, _| {
            let at = byte % apdu.len();
            apdu[at] ^= 0x10;
            vec![apdu]
        })
    };
    let forgeries: Vec<Forgery> = vec![
        ("challenge sent back", own_challenge, 4),
        ("another meter's title", aare(|aare, _| aare.responding_title = Some(SystemTitle([7; 8]))), 4),
        ("the client's own title", aare(|aare, _| aare.responding_title = Some(CLIENT)), 4),
        ("short challenge", aare(|aare, _| aare.authentication = Some(&[5; 7])), 4),
        ("no challenge", aare(|aare, _| aare.authentication = None), 4),
        ("weaker mechanism", aare(|aare, _| aare.mechanism = Mechanism::LowLevel), 4),
        ("no authentication at all", aare(|aare, _| aare.diagnostic = Diagnostic::NULL), 4),
        (
            "context without ciphering",
            aare(|aare, _| aare.context = gridseal_dlms::acse::ContextName::LogicalName),
            4,
        ),
        (
            "plain initiate",
            aare(|aare, _| {
                aare.user_information = Some(&[8, 0, 6, 0x5F, 0x1F, 4, 0, 0, 0x7E, 0x1F, 4, 0, 0, 7])
            }),
            4,
        ),
        ("no initiate", aare(|aare, _| aare.user_information = None), 4),
        ("changed initiate", initiate(3), 4),
        ("changed tag of the initiate", initiate(1), 4),
        ("not BER", Script::wire_at(0, |_, _| vec![vec![0x61, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0]]), 4),
        ("proof with a changed octet", proof(9), 4),
        ("proof with a changed counter", proof(6), 4),
        (
            "proof for another challenge",
            Script::plain_from(1, |mut apdu| {
                let last = apdu.len() - 1;
                apdu[last] ^= 1;
                apdu
            }),
            4,
        ),
        ("no proof", Script::plain_from(1, |_| vec![0xC7, 1, 0xC1, 0, 0]), 4),
        ("an answer in place of the proof", Script::plain_from(1, |_| answer(&[0x11, 1], 1)), 4),
        (
            "rejected",
            aare(|aare, _| aare.result = gridseal_dlms::acse::AssociateResult::RejectedPermanent),
            1,
        ),
    ];
    for (name, script, code) in forgeries {
        refused(name, script, code);
    }
}

/// Under the right keys, by a meter that was taken over: the form is refused, memory stays bounded.
#[test]
fn malformed_answers_under_the_right_keys_end_the_command_without_a_value() {
    let nested = [&[GET_RESPONSE, 1, 0xC2, 0][..], &[2, 1].repeat(40), &[0]].concat();
    let block = |number: u8, last: u8, raw: &[u8]| {
        [&[GET_RESPONSE, 2, 0xC2, last, 0, 0, 0, number, 0, raw.len() as u8], raw].concat()
    };
    for (name, plain, code) in [
        ("nested too deep", nested, 4),
        ("count beyond the end", vec![GET_RESPONSE, 1, 0xC2, 0, 1, 0x84, 0xFF, 0xFF, 0xFF, 0xFF], 4),
        ("octets beyond the end", vec![GET_RESPONSE, 1, 0xC2, 0, 9, 0x83, 0xFF, 0xFF, 0xFF, 1], 4),
        ("bytes behind the value", vec![GET_RESPONSE, 1, 0xC2, 0, 0x11, 1, 0], 4),
        ("unknown type", vec![GET_RESPONSE, 1, 0xC2, 0, 0x77], 4),
        ("another invocation", answer(&[0x11, 1], 9), 4),
        ("list in place of one value", vec![GET_RESPONSE, 3, 0xC2, 1, 0, 0x11, 1], 4),
        ("first block missing", block(2, 1, &[0x11, 1]), 4),
        ("empty block that is not the last", block(1, 0, &[]), 4),
        ("blocks that are no value", block(1, 1, &[1, 5, 0]), 4),
    ] {
        refused(name, Script::plain_from(2, move |_| plain.clone()), code);
    }
    // Every request for the next block is answered by one more.
    let mut number = 0u32;
    let (sent, count) = std::sync::mpsc::channel();
    let endless = Script::plain_from(2, move |_| {
        number += 1;
        sent.send(number).unwrap();
        let invoke_id = InvokeId::confirmed(2);
        GetResponse::Block { invoke_id, last: false, block_number: number, result: Ok(&[0; 900]) }.to_bytes()
    });
    refused("blocks without end", endless, 4);
    let blocks = count.try_iter().last().unwrap();
    assert!((1_000..=1_200).contains(&blocks), "a mebibyte of blocks and no more: {blocks}");
}

#[test]
fn a_forged_high_counter_locks_nobody_out_and_kept_counters_refuse_a_replay_of_an_earlier_run() {
    let meter = Lying::new(Script::honest());
    let counters = meter.scratch.path().join("counters");
    let keep = ["--json", "--timeout", "1", "--counter-file", counters.to_str().unwrap(), CLOCK_ITEM];
    meter.change(Script::wire_at(2, |mut apdu, _| {
        apdu[3..7].fill(0xFF);
        vec![apdu]
    }));
    assert_eq!(meter.run("get", &keep).status.code(), Some(4));
    meter.change(Script::honest());
    for _ in 0..2 {
        let honest = meter.run("get", &keep);
        assert_eq!(honest.status.code(), Some(0), "{}", told(&honest));
    }
    // What a meter said in an earlier run is old in every later one, because its counters are kept too.
    let initiate = std::sync::Arc::new(std::sync::Mutex::new(None));
    let kept = initiate.clone();
    meter.change(Script::wire_at(0, move |apdu, _| {
        let information = Aare::from_bytes(&apdu).unwrap().user_information.unwrap().to_vec();
        *kept.lock().unwrap() = Some(information);
        vec![apdu]
    }));
    assert_eq!(meter.run("get", &keep).status.code(), Some(0));
    let old = initiate.lock().unwrap().take().unwrap();
    meter.change(Script::wire_at(0, move |apdu, _| {
        vec![Aare { user_information: Some(&old), ..Aare::from_bytes(&apdu).unwrap() }.to_bytes()]
    }));
    let replay = meter.run("get", &keep);
    assert_eq!((replay.status.code(), replay.stdout.len()), (Some(4), 0));
    assert!(told(&replay).contains("invocation counter"), "{}", told(&replay));
}

#[test]
fn a_client_without_a_counter_file_follows_the_meter_s_counter_and_says_so() {
    let meter = Lying::new(Script::honest());
    let first = meter.run("get", &["--json", CLOCK_ITEM]);
    let second = meter.run("get", &["--json", CLOCK_ITEM]);
    for output in [&first, &second] {
        assert_eq!(lines(output)[0]["value"], hex::encode(CLOCK), "{}", told(output));
    }
    assert!(!told(&first).contains("has seen") && told(&second).contains("has seen invocation counter"));
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let meter = Lying::new(Script::honest());
    let (address, lab) = (meter.address.to_string(), meter.lab.to_str().unwrap());
    for arguments in [
        &["dlms", "get", "--connect", &address, "--lab", lab, CLOCK_ITEM][..],
        &["decode", "dlms", "7EA0190321107FDAE6E600C001C100080000010000FF0200601A7E"],
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_gridseal"))
            .args(arguments)
            .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", told(&output));
        assert!(told(&output).lines().last().unwrap().contains("cannot write"), "{}", told(&output));
    }
}

#[test]
fn the_lab_file_s_counter_is_the_least_that_is_taken_and_a_replay_without_a_challenge_is_warned_of() {
    let meter = Lying::new(Script { mechanism: Mechanism::LowLevel, ..Script::honest() });
    let honest = meter.run("get", &["--json", CLOCK_ITEM]);
    assert_eq!(honest.status.code(), Some(0), "{}", told(&honest));
    assert!(told(&honest).contains("plays back"), "{}", told(&honest));
    let text = std::fs::read_to_string(&meter.lab).unwrap();
    std::fs::write(&meter.lab, text.replace("= 5000", "= 9000")).unwrap();
    let old = meter.run("get", &["--json", CLOCK_ITEM]);
    assert_eq!((old.status.code(), old.stdout.len()), (Some(4), 0), "{}", told(&old));
    assert!(told(&old).contains("invocation counter"), "{}", told(&old));
    let lab = meter.lab.to_str().unwrap();
    let nowhere =
        crate::machine::gridseal(&["dlms", "get", "--connect", "127.0.0.1", "--lab", lab, CLOCK_ITEM]);
    assert_eq!(nowhere.status.code(), Some(2), "{}", told(&nowhere));
}
