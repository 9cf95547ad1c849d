use super::*;

const BASE: &str = r#"danger_test_keys = true
[client]
system_title = "4D4D4D0000000001"
[server]
system_title = "4D4D4D0000BC614E"
invocation_counter = 5000
[keys]
guek = "000102030405060708090A0B0C0D0E0F"
gak  = "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF"
secret = "0x4142"
"#;

fn refused(text: &str) -> (&'static str, usize) {
    let error = Lab::parse(text).unwrap_err();
    assert!(!error.message.contains("0001020304"), "{error}");
    (error.code, error.line)
}

#[test]
fn a_file_of_few_fields_has_the_defaults_of_suite_0() {
    let lab = Lab::parse(BASE).unwrap();
    assert_eq!((lab.suite, lab.mechanism, lab.carrier), (0, Mechanism::Gmac, carrier::Carrier::Glo));
    assert_eq!((lab.listen_sap, lab.client_sap, lab.max_pdu), (1, 16, 1_024));
    assert_eq!(lab.protection, Protection::AuthenticatedEncrypted);
    assert_eq!(lab.server.invocation_counter, 5_000);
    let [association] = lab.associations.as_slice() else { panic!() };
    assert_eq!((association.sap, association.role), (16, Role::Management));
    assert!(lab.key_ring::<16>(Side::Server).unwrap().secret.unwrap().is_password(b"AB"));
    assert!(lab.key_ring::<32>(Side::Server).is_err(), "keys of another suite");
    assert!(!format!("{lab:?}").contains("208"), "no key byte is printed");
}

#[test]
fn objects_and_associations_are_read_and_checked_against_the_class() {
    let more = r#"
[[association]]
sap = 16
role = "reader"
[[association]]
sap = 2
role = "reader"
mechanism = 1
[[object]]
class = 3
obis = "1.0.1.8.0.255"
access = "rw"
attribute_2 = "060001E240"
"#;
    let lab = Lab::parse(&format!("{BASE}{more}")).unwrap();
    assert_eq!(lab.associations.len(), 2, "the entry of sap 16 stands for the one of the file");
    assert_eq!(lab.associations[1].mechanism, Mechanism::LowLevel);
    assert_eq!(lab.objects[0].attributes[&2], [6, 0, 1, 0xE2, 0x40]);
    assert_eq!(lab.objects[0].access, Rights::parse("rw"));
    let object = |rest: &str| format!("{BASE}[[object]]\nclass = 3\nobis = \"1.0.1.8.0.255\"\n{rest}\n");
    assert_eq!(refused(&object("attribute_3 = \"0F00\"")), ("lab-type", 14));
    assert_eq!(refused(&object("attribute_3 = \"02\"")), ("lab-value", 14));
    assert_eq!(refused(&object("attribute_3 = \"0\"")), ("lab-hex", 14));
    assert_eq!(refused(&object("attribute_9 = \"00\"")), ("lab-unknown-field", 14));
    for name in ["attribute_1", "attribute_02", "\"attribute_+2\"", "attribute_0", "colour"] {
        assert_eq!(
            refused(&object(&format!("{name} = \"0600000001\""))),
            ("lab-unknown-field", 14),
            "{name}"
        );
    }
    assert_eq!(refused(&object("access = \"rr\"")), ("lab-value", 14));
    assert_eq!(refused(&object("version = 9")), ("lab-value", 12));
}

#[test]
fn every_mistake_has_a_code_and_a_line() {
    let with = |from: &str, to: &str| BASE.replace(from, to);
    for (text, code, line) in [
        (with("danger_test_keys = true\n", ""), "lab-danger-test-keys", 1),
        (with("keys = true", "keys = false"), "lab-danger-test-keys", 1),
        (with("000102030405060708090A0B0C0D0E0F", "00010203040506"), "lab-length", 8),
        (with("000102030405060708090A0B0C0D0E0F", "0001020304050607x"), "lab-hex", 8),
        (with("4D4D4D0000000001", "4D4D4D00000001"), "lab-length", 3),
        (with("4D4D4D0000000001", "4D4D4D0000BC614E"), "lab-conflict", 4),
        (with("guek =", "gukek ="), "lab-unknown-field", 8),
        (with("guek = \"000102030405060708090A0B0C0D0E0F\"", ""), "lab-missing-key", 7),
        (with("guek = \"", "guek = 5 #\""), "lab-value", 8),
        (with("[client]", "mechanism = 2\n[client]"), "lab-value", 2),
        (with("[client]", "mechanism = 8\n[client]"), "lab-value", 2),
        (with("[client]", "suite = 3\n[client]"), "lab-value", 2),
        (with("[client]", "suite = 2\n[client]"), "lab-length", 9),
        (with("[client]", "max_pdu = 63\n[client]"), "lab-value", 2),
        (with("[client]", "carrier = \"glue\"\n[client]"), "lab-value", 2),
        (with("[client]", "protection = \"000102030405\"\n[client]"), "lab-value", 2),
        (with("[client]", "mechanism = 6\n[client]").replace("secret", "#"), "lab-missing-key", 8),
        (with("[client]", "mechanism = 7\n[client]"), "lab-missing-key", 3),
        (
            with("[server]", &format!("signing_key = \"{}\"\n[server]", "11".repeat(32))).replacen(
                "[client]",
                "mechanism = 7\n[client]",
                1,
            ),
            "lab-missing-key",
            6,
        ),
        (with("[client]", "listen_sap = 127\n[client]"), "lab-value", 2),
        (with("[client]", "mechanism = 3\n[client]"), "lab-conflict", 2),
        (with("[client]", "legacy = true\nsuite = 1\nmechanism = 4\n[client]"), "lab-conflict", 4),
        (with("[client]", "max_pdu = 67\nmechanism = 6\n[client]"), "lab-conflict", 2),
        (format!("{BASE}[[association]]\nsap = 1\nrole = \"reader\"\nmechanism = 4\n"), "lab-conflict", 14),
        (format!("{BASE}[[association]]\nsap = 16\nrole = \"public\"\n"), "lab-conflict", 11),
        (format!("{BASE}{0}{0}", "[[object]]\nclass = 1\nobis = \"0.0.96.1.9.255\"\n"), "lab-conflict", 14),
        (with("[server]", &format!("signing_key = \"{}\"\n[server]", "00".repeat(32))), "lab-value", 4),
        (with("[server]", &format!("signing_public = \"{}\"\n[server]", "11".repeat(64))), "lab-value", 4),
        (with("[server]\nsystem_title = \"4D4D4D0000BC614E\"", "[server]"), "lab-missing-field", 4),
        (with("[client]", "[client"), "lab-syntax", 2),
        (format!("{BASE}[[association]]\nsap = 1\nrole = \"public\"\nmechanism = 5\n"), "lab-conflict", 11),
        (format!("{BASE}[[association]]\nsap = 1\nrole = \"broadcast\"\n"), "lab-missing-key", 7),
        (with("[client]", "signing = true\n[client]"), "lab-missing-key", 3),
        (with("[client]", "signing = true\nprotection = \"none\"\n[client]"), "lab-conflict", 2),
        (with("[client]", "signing_order = \"both\"\n[client]"), "lab-value", 2),
        (format!("{BASE}[peer_quirks]\nsigned = \"long\"\n"), "lab-value", 12),
    ] {
        assert_eq!(refused(&text), (code, line), "{text}");
    }
}

#[test]
fn a_value_that_does_not_fit_is_named_with_those_that_do() {
    for (line, expected) in [
        ("carrier = \"glue\"", "carrier is not one that fits: expected one of `glo`, `ded`"),
        ("max_pdu = \"0001020304\"", "max_pdu is not one that fits: expected u16"),
        ("listen_sap = 70000", "listen_sap is not one that fits: expected u16"),
    ] {
        let message =
            Lab::parse(&BASE.replace("[client]", &format!("{line}\n[client]"))).unwrap_err().message;
        assert!(message.starts_with(expected) && !message.contains("glue"), "{message}");
    }
}

#[test]
fn broken_mechanisms_need_a_legacy_profile() {
    for mechanism in [3, 4] {
        let text = BASE.replace("[client]", &format!("legacy = true\nmechanism = {mechanism}\n[client]"));
        assert_eq!(Lab::parse(&text).unwrap().mechanism.number(), mechanism);
    }
}

#[test]
fn a_small_pdu_is_taken_where_everything_fits_into_it() {
    let lab = |head: &str| Lab::parse(&BASE.replace("[client]", &format!("{head}\n[client]")));
    assert_eq!(lab("max_pdu = 64").unwrap().max_pdu, 64);
    for head in ["mechanism = 6", "mechanism = 6\ncarrier = \"general-glo\""] {
        let refused = lab(&format!("max_pdu = 64\n{head}")).unwrap_err();
        let least: u16 = refused.message.split(' ').find_map(|word| word.parse().ok()).unwrap();
        assert!(lab(&format!("max_pdu = {}\n{head}", least - 1)).is_err());
        assert!(lab(&format!("max_pdu = {least}\n{head}")).is_ok());
    }
}

#[test]
fn a_public_key_is_that_of_the_private_one() {
    let own = "418073C239FA6125011DE4D6CD2E645780289F761BB21BFB0835CB5585E8B373";
    let lab = |field: &str, public: &str| {
        let keys = format!("{field}_key = \"{own}\"\n{field}_public = \"{public}\"\n[server]");
        Lab::parse(&BASE.replace("[server]", &keys))
    };
    let curve = Lab::parse(BASE).unwrap().curve();
    let public = |digits: &str| {
        let signer = gridseal_crypto::CurveSigner::take(curve, &mut hex::decode(digits).unwrap()).unwrap();
        hex::encode(signer.public().point())
    };
    for field in ["signing", "agreement"] {
        assert!(lab(field, &public(own)).is_ok());
        let error = lab(field, &public(&"11".repeat(32))).unwrap_err();
        assert_eq!((error.code, error.line), ("lab-conflict", 5));
    }
}

#[test]
fn mechanism_7_takes_the_public_key_as_given_or_from_the_private_one() {
    // Keys of the fact sheet, section 11.
    let client = "418073C239FA6125011DE4D6CD2E645780289F761BB21BFB0835CB5585E8B373";
    let server = "AE55414FFE079F9FC95649536BD1C2B5653D200813727E07D501A8B550C69207";
    let text = BASE
        .replace("[server]", &format!("signing_key = \"{client}\"\n[server]"))
        .replace("[keys]", &format!("signing_key = \"{server}\"\n[keys]"));
    let lab = Lab::parse(&text).unwrap();
    let ring = lab.key_ring::<16>(Side::Server).unwrap().signing.unwrap();
    let public = &ring.peers[&lab.client.system_title];
    assert_eq!(hex::encode_upper(&public.point()[..4]), "BAAFFDE0");
}

#[test]
fn general_ciphering_needs_the_keys_of_its_key_info_and_signing_says_where() {
    let key = |field: &str, byte: &str| format!("{field} = \"{}\"\n", byte.repeat(32));
    let both = BASE
        .replace("[server]", &format!("{}{}[server]", key("signing_key", "41"), key("agreement_key", "42")))
        .replace("[keys]", &format!("{}{}[keys]", key("signing_key", "43"), key("agreement_key", "44")));
    let with = |text: &str, info: &str, more: &str| {
        let head = format!("carrier = \"general-ciphering\"\nkey_info = \"{info}\"\n{more}[client]");
        Lab::parse(&text.replace("[client]", &head))
    };
    for (info, kind) in [("agreed-1p", KeyKind::AgreedOnePass), ("agreed-static", KeyKind::AgreedStatic)] {
        assert_eq!(with(BASE, info, "").unwrap_err().code, "lab-missing-key");
        let lab = with(&both, info, "").unwrap();
        assert_eq!(lab.carrier, carrier::Carrier::GeneralCiphering(kind));
        assert!(lab.key_ring::<16>(Side::Client).unwrap().agreement.is_some());
    }
    assert_eq!(with(&both, "wrapped", "").unwrap_err().code, "lab-missing-key");
    let kek = format!("{both}kek = \"{}\"\n", "4b".repeat(16));
    assert!(with(&kek, "wrapped", "").unwrap().key_ring::<16>(Side::Server).unwrap().kek.is_some());
    for (order, signing) in
        [("", Signing::Inside), ("signing_order = \"cipher-then-sign\"\n", Signing::Outside)]
    {
        let lab = with(&both, "identified", &format!("signing = true\n{order}")).unwrap();
        assert_eq!((lab.signing, lab.quirks), (signing, PeerQuirks::default()));
    }
    let quirks = format!("{both}[peer_quirks]\naad = \"short\"\nsigned = \"short\"\n");
    let quirks = Lab::parse(&quirks).unwrap().quirks;
    assert!(quirks.short_aad && quirks.unsized_content);
}

#[test]
fn obis_codes_are_read_with_dots_and_as_people_write_them() {
    let code = Some(ObisCode::ACTIVE_ENERGY_IMPORT);
    assert_eq!((obis("1.0.1.8.0.255"), obis("1-0:1.8.0.255")), (code, code));
    for wrong in ["", "1.0.1.8.0", "1.0.1.8.0.255.1", "1.0.1.8.0.256", "a.0.1.8.0.255"] {
        assert_eq!(obis(wrong), None, "{wrong}");
    }
}

#[test]
fn a_file_that_is_not_there_or_has_no_end_is_wrong_usage() {
    for path in ["/dev/zero", "/nowhere/lab.toml", "/"] {
        assert!(Lab::load(Path::new(path)).unwrap_err().is::<Usage>(), "{path}");
    }
}
