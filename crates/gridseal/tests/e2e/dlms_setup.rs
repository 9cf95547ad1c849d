//! Security setup and images through the command line: an owner takes a meter over, and power goes in between.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use gridseal_crypto::{
    Curve, CurveSigner, Key,
    role::{Gak, Guek, Kek, Role},
};
use gridseal_dlms::suite::agreement::{Parties, Side, read_key_data};
use gridseal_io::rng::OsRng;
use gridseal_trust::party::Certificate;
use gridseal_types::SystemTitle;
use serde_json::Value;

use crate::{
    dlms_serve::{Meter, folder},
    machine::gridseal,
};

const CLIENT: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x01");
const SERVER: SystemTitle = SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);
const SETUP: &str = "0.0.43.0.0.255:64";

fn lab(suite: u8, [guek, gak, kek]: [&str; 3], more: &str) -> String {
    format!(
        "danger_test_keys = true\nsuite = {suite}\n{more}\
        [client]\nsystem_title = \"4D4D4D0000000001\"\ninvocation_counter = 100\n\
        [server]\nsystem_title = \"4D4D4D0000BC614E\"\n\
        [keys]\nguek = \"{guek}\"\ngak = \"{gak}\"\nkek = \"{kek}\"\n"
    )
}

/// A meter, the lab file of its client, and the client's counters.
struct Bench {
    dir: PathBuf,
    meter: Meter,
    lab: PathBuf,
    counters: PathBuf,
}

impl Bench {
    fn new(name: &str, text: &str, arguments: &[&str]) -> Self {
        let dir = folder(name);
        let lab = dir.join("client.toml");
        std::fs::write(&lab, text).unwrap();
        let counters = dir.join("counters.json");
        let kept = dir.join("meter");
        let meter = Meter::start(&dir, text, &[&["--dir", kept.to_str().unwrap()], arguments].concat());
        Self { dir, meter, lab, counters }
    }

    /// Kill -9, and power again.
    fn power_cut(&mut self, text: &str, arguments: &[&str]) {
        self.meter.child.kill().unwrap();
        self.meter.child.wait().unwrap();
        let kept = self.dir.join("meter");
        self.meter = Meter::start(&self.dir, text, &[&["--dir", kept.to_str().unwrap()], arguments].concat());
    }

    fn dlms(&self, verb: &str, items: &[&str]) -> Output {
        let address = self.meter.address.to_string();
        let head = ["dlms", verb, "--json", "--connect", &address, "--lab", self.lab.to_str().unwrap()];
        gridseal(&[&head[..], &["--counter-file", self.counters.to_str().unwrap()], items].concat())
    }

    /// Invokes a method of the security setup; gives what it returns.
    fn setup(&self, item: &str) -> Value {
        let output = self.dlms("action", &[&format!("{SETUP}:{item}")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{item:.40}: {said} {:?}", self.meter.causes());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["returned"].clone()
    }

    fn read(&self, item: &str) -> Value {
        let output = self.dlms("get", &[item]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn certify(&self, suite: u8, arguments: &[&str]) -> String {
        let (suite, authority) = (suite.to_string(), self.dir.join("ca"));
        let head = ["dlms", "certify", "--authority", authority.to_str().unwrap(), "--suite", &suite];
        let output = gridseal(&[&head[..], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn octets(value: &Value) -> Vec<u8> {
    hex::decode(value["value"].as_str().unwrap_or_else(|| panic!("{value}"))).unwrap()
}

fn take_over<const N: usize>(suite: u8, anchor: &str) {
    let curve = Curve::of_suite(suite);
    let digits = |byte: &str| byte.repeat(N);
    let [first, second, master] = ["11", "22", "33"].map(digits);
    let text = lab(suite, [&first, &second, &master], "trusted_clock = true\n");
    let arguments = ["--anchor", anchor];
    let mut bench = Bench::new(&format!("setup-{suite}"), &text, &arguments);
    // The owner's anchor, certificates for the meter's own pairs, the client's certificate.
    bench.setup(&format!("6=oct:{}", bench.certify(suite, &[])));
    for (kind, purpose) in [(0, "signature"), (1, "agreement"), (2, "tls")] {
        bench.setup(&format!("4=enum:{kind}"));
        let request = hex::encode(octets(&bench.setup(&format!("5=enum:{kind}"))));
        let certificate = bench.certify(suite, &["--request", &request, "--purpose", purpose]);
        bench.setup(&format!("6=oct:{certificate}"));
    }
    assert!(bench.meter.tells("key agreement made, private key held by software"));
    let causes = bench.meter.causes().join("\n");
    let holder = if suite == 1 { anchor } else { "software" };
    assert!(causes.contains(&format!("digital signature made, private key held by {holder}")), "{causes}");
    let client = CurveSigner::take(curve, &mut vec![0x41; curve.coordinate_size()]).unwrap();
    let public = hex::encode(client.public().point());
    let certificate = bench.certify(suite, &["--title", "4D4D4D0000000001", "--public", &public]);
    bench.setup(&format!("6=oct:{certificate}"));
    // A certificate of 60 KB, and one of a stranger: refused, and the log says why.
    let too_large = bench.dlms("action", &[&format!("{SETUP}:6=oct:{}", "30".repeat(60_000))]);
    assert_ne!(too_large.status.code(), Some(0));
    let stranger = gridseal(&[
        "dlms",
        "certify",
        "--authority",
        bench.dir.join("stranger").to_str().unwrap(),
        "--suite",
        &suite.to_string(),
        "--title",
        "4D4D4D0000000001",
        "--public",
        &public,
    ]);
    let stranger = String::from_utf8(stranger.stdout).unwrap();
    let refused = bench.dlms("action", &[&format!("{SETUP}:6=oct:{}", stranger.trim())]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(bench.meter.tells("certificate refused: "));
    // Both sides agree on every key, and nobody who knows the old ones learns the new ones.
    let exported = octets(&bench.setup("7={enum:0,{enum:0,enum:0,oct:4D4D4D0000BC614E}}"));
    let meter = Certificate::parse(&exported).unwrap();
    let sides = [0, 2, 3].map(|id| Side::new(id, curve, &mut OsRng).unwrap());
    let offers = sides.iter().map(|side| {
        format!("{{enum:{},oct:{}}}", side.key_id(), hex::encode(side.key_data(&client).unwrap()))
    });
    let answers = bench.setup(&format!("3=[{}]", offers.collect::<Vec<_>>().join(",")));
    let answers = answers["value"].as_array().unwrap_or_else(|| panic!("{answers}"));
    fn key<R: Role, const N: usize>(side: &Side, answer: &Value, meter: &Certificate) -> String {
        let data =
            answer["value"].as_array().map_or_else(|| &answer["value"]["key_data"], |fields| &fields[1]);
        let curve = meter.key().curve();
        let point =
            read_key_data(curve, side.key_id(), &octets(data), std::slice::from_ref(meter.key())).unwrap();
        let key: Key<R, N> = side.key(&point, Parties { client: CLIENT, server: SERVER }).unwrap();
        key.danger_reveal_hex()
    }
    let guek = key::<Guek, N>(&sides[0], &answers[0], &meter);
    let gak = key::<Gak, N>(&sides[1], &answers[1], &meter);
    let kek = key::<Kek, N>(&sides[2], &answers[2], &meter);
    assert_eq!(bench.dlms("get", &["0.0.1.0.0.255"]).status.code(), Some(1), "the old keys are over");
    let new = lab(suite, [&guek, &gak, &kek], "");
    std::fs::write(&bench.lab, &new).unwrap();
    bench.counters = bench.dir.join("new-counters.json");
    let list = bench.read(&format!("{SETUP}:6"));
    bench.power_cut(&text, &arguments);
    assert_eq!(bench.read(&format!("{SETUP}:6")), list, "certificates are still there");
    assert_eq!(list["value"].as_array().map(Vec::len), Some(5));
    // The new master key is in force: a key comes wrapped under it.
    let master: Key<Kek, N> = Key::take_slice(&mut hex::decode(&kek).unwrap()).unwrap();
    let last = digits("44");
    let wrapped =
        master.wrap_for_meter(&Key::<Guek, N>::take_slice(&mut hex::decode(&last).unwrap()).unwrap());
    bench.setup(&format!("2=[{{enum:0,oct:{}}}]", hex::encode(wrapped)));
    std::fs::write(&bench.lab, lab(suite, [&last, &gak, &kek], "")).unwrap();
    bench.counters = bench.dir.join("last-counters.json");
    bench.power_cut(&text, &arguments);
    bench.read("0.0.1.0.0.255");
}

#[test]
fn an_owner_takes_a_meter_of_suite_1_over_whose_signing_pairs_are_in_a_tpm() {
    let anchor = if gridseal_io::tpm::swtpm_available() { "tpm" } else { "software" };
    take_over::<16>(1, anchor);
}

#[test]
fn an_owner_takes_a_meter_of_suite_2_over() {
    take_over::<32>(2, "software");
}

fn image(dir: &Path, model: &str, version: u32) -> (PathBuf, String) {
    image_of(dir, model, version, 120_000)
}

fn image_of(dir: &Path, model: &str, version: u32, size: u32) -> (PathBuf, String) {
    std::fs::create_dir_all(dir).unwrap();
    let (contents, out) = (dir.join("app.bin"), dir.join(format!("{model}-{version}-{size}.img")));
    let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + version) as u8).collect();
    std::fs::write(&contents, bytes).unwrap();
    let (version, keys) = (version.to_string(), dir.join("firmware"));
    let output = gridseal(&[
        "factory",
        "image",
        "--keys",
        keys.to_str().unwrap(),
        "--model",
        model,
        "--image-version",
        &version,
        "--identifier",
        &format!("application {version}"),
        "--contents",
        contents.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (out, String::from_utf8(output.stdout).unwrap())
}

//= DLMS 12.18: an image that was begun goes on, and does not begin again
#[test]
fn an_image_survives_a_power_cut_and_what_is_older_or_for_others_is_refused() {
    let dir = folder("images");
    let (new, trust) = image(&dir, "EM-1", 5);
    let keys = ["11", "22", "33"].map(|byte| byte.repeat(16));
    let text = lab(0, [&keys[0], &keys[1], &keys[2]], "") + &trust + "version = 3\n";
    let mut bench = Bench::new("image", &text, &[]);
    let kept = bench.dir.join("meter/image.blocks");
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| bench.dlms("image", &[new.to_str().unwrap()]).status.code());
        while std::fs::metadata(&kept).map_or(0, |file| file.len()) < 20_000 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed =
            std::process::Command::new("kill").args(["-9", &bench.meter.child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        sender.join().unwrap()
    });
    assert_eq!(sent, Some(1), "the meter went away");
    bench.power_cut(&text, &[]);
    let missing = bench.read("0.0.44.0.0.255:18:4")["value"].as_u64().unwrap();
    assert!((30..240).contains(&missing), "{missing}: goes on where it stopped");
    // What goes on is what was begun: another image of another size does not.
    let (short, _) = image_of(&dir, "EM-1", 5, 10_000);
    let before = bench.read("0.0.44.0.0.255:18:4")["value"].clone();
    let other = bench.dlms("image", &["--resume", short.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("blocks, and this one has"));
    assert_eq!(bench.read("0.0.44.0.0.255:18:4")["value"], before, "nothing was sent");
    let done = bench.dlms("image", &["--resume", "--activate", new.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    bench.power_cut(&text, &[]);
    assert_eq!(octets(&bench.read("1.1.0.2.0.255")), b"application 5");
    for (path, cause) in [
        (image(&dir, "EM-1", 4).0, "version 4 is older than version 5"),
        (image(&dir, "EM-2", 6).0, "image is for another model"),
        (image(&dir.join("stranger"), "EM-1", 6).0, "signature of the manifest does not verify"),
    ] {
        let refused = bench.dlms("image", &["--activate", path.to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(bench.meter.tells(cause), "{cause}");
        assert_eq!(bench.read("0.0.44.0.0.255:18:6")["value"], 4);
    }
    assert_eq!(octets(&bench.read("1.1.0.2.0.255")), b"application 5");
    let _ = std::fs::remove_dir_all(&dir);
}

//= DLMS 12.19: the scaler is asked of each meter with each value, and never kept for its type
//= DLMS 12.18: an M-Bus identification is shown as it came, BCD in one profile and binary in another
#[test]
fn scalers_are_the_meters_own_each_time_and_identifications_are_not_interpreted() {
    let keys = ["11", "22", "33"].map(|byte| byte.repeat(16));
    let text = |scaler: u8, identification: &str| {
        lab(0, [&keys[0], &keys[1], &keys[2]], "")
            + &format!(
                "[[object]]\nclass = 3\nobis = \"1.0.1.8.0.255\"\nattribute_3 = \"02020F{scaler:02X}161E\"\n\
                [[object]]\nclass = 72\nobis = \"0.1.24.1.0.255\"\nattribute_6 = \"06{identification}\"\n"
            )
    };
    let mut bench = Bench::new("scalers", &text(0xFF, "12345678"), &[]);
    let scaler = |bench: &Bench| bench.read("1.0.1.8.0.255")["scaler"].clone();
    assert_eq!(scaler(&bench), -1);
    assert_eq!(bench.read("0.1.24.1.0.255:72:6")["value"], 0x1234_5678);
    bench.power_cut(&text(2, "00BC614E"), &[]);
    assert_eq!(scaler(&bench), 2, "the same meter, with other firmware perhaps");
    assert_eq!(bench.read("0.1.24.1.0.255:72:6")["value"], 12_345_678);
}

#[test]
fn a_push_that_crosses_the_release_is_no_forgery() {
    let keys = ["11", "22", "33"].map(|byte| byte.repeat(16));
    for carrier in ["glo", "general-glo", "ded", "general-ciphering"] {
        let text = lab(0, [&keys[0], &keys[1], &keys[2]], &format!("carrier = \"{carrier}\"\n"));
        let bench = Bench::new(&format!("push-{carrier}"), &text, &[]);
        let pushed = bench.dlms("action", &["0.0.25.9.0.255:40:1=i8:0"]);
        assert_eq!(pushed.status.code(), Some(0), "{carrier}: {}", String::from_utf8_lossy(&pushed.stderr));
        let told: Value = serde_json::from_slice(&pushed.stdout).unwrap();
        assert_eq!(told["result"], "success", "{told}");
        assert!(!bench.meter.events().iter().any(|event| event == "push-dropped" || event == "refused"));
    }
}
