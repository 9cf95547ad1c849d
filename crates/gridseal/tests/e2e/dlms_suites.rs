//! Suites 1 and 2 between the real client and the real meter, and what a meter remembers of transactions.

use std::{
    path::Path,
    process::{Command, Output},
};

use gridseal_crypto::{Curve, CurveSigner};
use serde_json::Value;

use crate::{
    dlms_serve::{Meter, folder},
    machine::gridseal,
};

const ENERGY: &str = "1.0.1.8.0.255:3:3";
const SETUP: &str = "0.0.43.0.0.255:64";
const NOTE: &str = "0.0.96.1.9.255:1:2";

/// A set-up of a suite; `first` goes before its first table.
fn lab(suite: u8, first: &str) -> String {
    let [key, scalar] = if suite == 2 { [32, 48] } else { [16, 32] };
    let bytes = |byte: &str, size: usize| byte.repeat(size);
    let side = |name: &str, title: &str, sign: &str, agree: &str| {
        let (sign, agree) = (bytes(sign, scalar), bytes(agree, scalar));
        format!(
            "[{name}]\nsystem_title = \"{title}\"\ninvocation_counter = 100\nsigning_key = \"{sign}\"\n\
            agreement_key = \"{agree}\"\n"
        )
    };
    format!(
        "danger_test_keys = true\nsuite = {suite}\nclient_sap = 1\nmax_pdu = 1024\n{first}{}{}[keys]\nguek = \"{}\"\n\
        gak = \"{}\"\nkek = \"{}\"\n[[object]]\nclass = 1\nobis = \"0.0.96.1.9.255\"\naccess = \"rw\"\n\
        attribute_2 = \"090178\"\n",
        side("client", "4D4D4D0000000001", "11", "22"),
        side("server", "4D4D4D0000BC614E", "33", "44"),
        bytes("01", key),
        bytes("D0", key),
        bytes("4B", key),
    )
}

fn dlms(what: &str, dir: &Path, meter: &Meter, item: &str) -> Output {
    let (address, lab) = (meter.address.to_string(), dir.join("lab.toml"));
    let counters = dir.join("client.counters");
    Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(["dlms", what, "--json", "--connect", &address, "--lab", lab.to_str().unwrap()])
        .args(["--counter-file", counters.to_str().unwrap(), item])
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_client_reads_and_writes_under_every_kind_of_key_signed_and_not_in_both_suites() {
    for (number, (suite, key_info, mechanism, signing)) in [
        (1, "identified", 5, ""),
        (1, "wrapped", 6, "signing = true\n"),
        (1, "agreed-1p", 7, "signing = true\nsigning_order = \"cipher-then-sign\"\n"),
        (1, "agreed-static", 7, ""),
        (2, "identified", 7, "signing = true\n"),
        (2, "wrapped", 7, ""),
        (2, "agreed-1p", 5, "signing = true\n"),
        (2, "agreed-static", 7, "signing = true\nsigning_order = \"cipher-then-sign\"\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = folder(&format!("suites-{number}"));
        let first = format!(
            "mechanism = {mechanism}\ncarrier = \"general-ciphering\"\nkey_info = \"{key_info}\"\n{signing}"
        );
        // The secret of mechanism 6 stands among the keys.
        let text = lab(suite, &first).replace("[keys]\n", "[keys]\nsecret = \"DLMSsecret123456\"\n");
        let meter = Meter::start(&dir, &text, &[]);
        let output = dlms("get", &dir, &meter, ENERGY);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{suite} {key_info}: {} {:?}",
            told(&output),
            meter.causes()
        );
        let read: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(read["authenticated"], true);
        let long = format!("{NOTE}=oct:{}", "5a".repeat(1_500));
        let output = dlms("set", &dir, &meter, &long);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{suite} {key_info}: {} {:?}",
            told(&output),
            meter.causes()
        );
        assert!(
            !meter.events().iter().any(|event| event == "refused"),
            "{suite} {key_info}: {:?}",
            meter.causes()
        );
        let _ = std::fs::remove_dir_all(&dir);
    }
}

//= DLMS 5.5: a reused transaction-id is refused, and a response has that of its request
#[test]
fn transactions_that_a_meter_has_accepted_are_refused_after_it_starts_again() {
    let dir = folder("transactions");
    let first = "mechanism = 0\ncarrier = \"general-ciphering\"\nkey_info = \"agreed-static\"\n";
    let kept = dir.join("meter");
    let arguments = ["--dir", kept.to_str().unwrap()];
    let meter = Meter::start(&dir, &lab(1, first), &arguments);
    assert_eq!(dlms("get", &dir, &meter, ENERGY).status.code(), Some(0));
    drop(meter);
    let file = kept.join("counters.json");
    let counters = || -> Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
    let received = |counters: &Value| counters["transactions"]["received"]["4d4d4d0000000001"].as_u64();
    let before = received(&counters());
    assert!(before.is_some_and(|id| id > 1_700_000_000_000), "{before:?}");
    let meter = Meter::start(&dir, &lab(1, first), &arguments);
    assert_eq!(dlms("get", &dir, &meter, ENERGY).status.code(), Some(0), "ids of the counter file go on");
    drop(meter);
    let mut counters = counters();
    assert!(received(&counters) > before);
    counters["transactions"]["received"]["4d4d4d0000000001"] = u64::MAX.into();
    std::fs::write(&file, counters.to_string()).unwrap();
    let meter = Meter::start(&dir, &lab(1, first), &arguments);
    let output = dlms("get", &dir, &meter, ENERGY);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(output.stdout.is_empty());
    assert!(meter.tells("transaction-id"), "{:?}", meter.causes());
    let _ = std::fs::remove_dir_all(&dir);
}

//= design S14: what a certificate has replaced does not come back when it is believed no more
#[test]
fn a_client_that_has_had_a_certificate_does_not_come_back_to_the_key_of_the_lab_file() {
    let dir = folder("closed");
    let first = lab(1, "mechanism = 7\n");
    let other = first.replacen(&"11".repeat(32), &"55".repeat(32), 1);
    let meter = Meter::start(&dir, &first, &[]);
    let with = |text: &str, what: &str, item: &str| {
        std::fs::write(dir.join("lab.toml"), text).unwrap();
        dlms(what, &dir, &meter, item).status.code()
    };
    let certify = |more: &[&str]| {
        let authority = dir.join("owner");
        let head = ["dlms", "certify", "--suite", "1", "--authority", authority.to_str().unwrap()];
        String::from_utf8(gridseal(&[&head[..], more].concat()).stdout).unwrap().trim().to_owned()
    };
    let key = CurveSigner::take(Curve::P256, &mut [0x55; 32]).unwrap();
    let public = hex::encode(key.public().point());
    let (anchor, own) = (certify(&[]), certify(&["--title", "4D4D4D0000000001", "--public", &public]));
    assert_eq!(with(&first, "get", ENERGY), Some(0));
    let import = |certificate: &str| with(&first, "action", &format!("{SETUP}:6=oct:{certificate}"));
    assert_eq!(import(&anchor), Some(0));
    // Of a meter without a clock nobody knows whether it is a new one that takes the place, or an expired one.
    assert_eq!(import(&own), Some(3));
    assert!(meter.tells("the clock is not set"), "{:?}", meter.causes());
    let now = gridseal_io::clock::utc_now();
    assert_eq!(with(&first, "set", &format!("0.0.1.0.0.255:8:2=time:{now}")), Some(0));
    assert_eq!(import(&own), Some(0));
    assert_eq!((with(&first, "get", ENERGY), with(&other, "get", ENERGY)), (Some(1), Some(0)));
    // Nobody vouches for it any more.
    assert_eq!(with(&other, "action", &format!("{SETUP}:8={{enum:0,{{enum:2,enum:3,oct:00}}}}")), Some(0));
    assert_eq!((with(&first, "get", ENERGY), with(&other, "get", ENERGY)), (Some(1), Some(1)));
    let _ = std::fs::remove_dir_all(&dir);
}
