//! What a configured meter may send, and counters.

use gridseal_crypto::Key;
use gridseal_lmn::mbus::{
    Header, Manufacturer, Medium, MeterAddress, OpenOptions, Opener, Profile,
    registry::{LastMessage, Registry},
};
use gridseal_types::Tick;

use super::telegram::{bytes, open, vector};

const ELS: MeterAddress = MeterAddress::new(Manufacturer(0x1593), [0x12, 0x34, 0x56, 0x78], 0x33, Medium(3));

fn registry(name: &str, profile: Option<Profile>) -> (Registry, Vec<u8>) {
    let vector = vector(name);
    let key = Key::take_slice(&mut bytes(vector["key"].as_str().unwrap())).unwrap();
    let mut registry = Registry::default();
    registry.danger_accept_well_known_keys();
    registry.insert(ELS, &key, profile).unwrap();
    (registry, bytes(vector["input"].as_str().unwrap()))
}

fn code(registry: &Registry, input: &[u8]) -> Result<String, &'static str> {
    open(registry, &OpenOptions::default(), input).map(|(_, line)| line).map_err(|error| error.code())
}

//= LMN 6: a meter configured with a key is not accepted in clear
#[test]
fn a_configured_meter_in_clear_is_a_downgrade() {
    let (registry, _) = registry("t2-profile-b-short", None);
    let clear = bytes("1444931578563412330378046d32371f150c1327048502");
    let mut clear = clear;
    clear[0] = u8::try_from(clear.len() - 1).unwrap();
    assert_eq!(code(&registry, &clear), Err("lmn.downgrade"));
    assert!(code(&Registry::default(), &clear).is_ok_and(|line| line.starts_with("none")));
    let mode_0 = bytes("0f449315785634123303 7a2a000000 0c14270485 02".replace(' ', "").as_str());
    let mut mode_0 = mode_0;
    mode_0[0] = u8::try_from(mode_0.len() - 1).unwrap();
    assert_eq!(code(&registry, &mode_0), Err("lmn.downgrade"));
    // Mode 5 that announces no encrypted block is as clear as mode 0.
    mode_0[14] = 0x05;
    assert_eq!(code(&registry, &mode_0), Err("lmn.downgrade"));
    let (registry, input) = super::policy::registry("t1-mode-5-format-a", None);
    let plain = OpenOptions { plain_body: true, ..OpenOptions::default() };
    assert_eq!(
        open(&registry, &plain, &input).map_err(|error| error.code()).map(|_| ()),
        Err("lmn.downgrade")
    );
}

//= LMN 6: a meter of profile B is not accepted with mode 5
#[test]
fn a_meter_is_held_to_its_profile() {
    for (name, own) in [("t1-mode-5-format-a", Profile::A), ("t2-profile-b-short", Profile::B)] {
        for profile in [Profile::A, Profile::B, Profile::D, Profile::Ell] {
            let (registry, input) = registry(name, Some(profile));
            let expected = if profile == own { Ok(()) } else { Err("lmn.downgrade") };
            assert_eq!(code(&registry, &input).map(|_| ()), expected, "{name} {profile:?}");
        }
    }
}

//= LMN 6: accept only a counter above the last; the same with identical bytes is a radio repeat
#[test]
fn a_replayed_or_lower_counter_is_refused_and_a_radio_repeat_is_told_apart() {
    let (mut registry, input) = registry("t2-profile-b-short", Some(Profile::B));
    let mut header = Header::default();
    let mut opener = Opener::default();
    let counter = {
        let opened = opener.open(Tick(0), &input, &registry, &OpenOptions::default(), &mut header).unwrap();
        opened.counter.unwrap()
    };
    assert_eq!((counter.value, counter.meter), (0x0AB3, ELS));
    assert!(code(&registry, &input).is_ok(), "nothing is accepted before it is said to be durable");
    registry.accept(&counter);
    assert_eq!(code(&registry, &input), Err("lmn.repeated"));
    registry.restore(ELS, LastMessage { counter: 0x0AB3, tag: [0; 8] });
    assert_eq!(code(&registry, &input), Err("lmn.replay"), "same counter, other message");
    registry.restore(ELS, LastMessage { counter: 0x0AB4, tag: [0; 8] });
    assert_eq!(code(&registry, &input), Err("lmn.replay"));
    registry.restore(ELS, LastMessage { counter: 0x0AB2, tag: [0; 8] });
    assert!(code(&registry, &input).is_ok());
}

#[test]
fn a_forged_counter_is_refused_before_it_is_compared() {
    let (mut registry, mut input) = registry("t2-profile-b-short", Some(Profile::B));
    registry.restore(ELS, LastMessage { counter: 5_000_000, tag: [0; 8] });
    input[20] ^= 0x80;
    assert_eq!(code(&registry, &input), Err("lmn.mac"));
}

#[test]
fn other_modes_are_refused_by_name() {
    let (_, mut input) = registry("t1-mode-5-format-a", None);
    let mut plain = Vec::new();
    gridseal_lmn::mbus::frame::strip(&input, None, &mut plain).unwrap();
    input = plain;
    for (mode, name) in [
        (2, "DES-CBC, initialisation vector zero (mode 2)"),
        (3, "DES-CBC (mode 3)"),
        (8, "AES-128-CTR with CMAC (mode 8)"),
        (9, "AES-128-GCM (mode 9)"),
        (13, "TLS (mode 13, OMS profile C)"),
        (31, "reserved security mode"),
    ] {
        input[14] = 0x20 | mode;
        input[14] &= 0x1F;
        let error = open(&Registry::default(), &OpenOptions::default(), &input).unwrap_err();
        assert_eq!(error.to_string(), format!("{name} is recognised and not supported"));
    }
}

#[test]
fn no_key_names_the_meter_it_is_looked_up_with() {
    let (_, input) = registry("t1-mode-5-format-a", None);
    let error = open(&Registry::default(), &OpenOptions::default(), &input).unwrap_err();
    assert_eq!(error.to_string(), "no key for meter ELS 12345678 v33 t03");
}
