//! The take-over of a meter of suite 1 or 2: the factory's certificate counts once, keys are agreed upon, the owner's
//! certificates come in and the factory's go, with kill -9 of each party on the way.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use gridseal_crypto::Key;
use gridseal_keys::{Import, MeterKey};
use gridseal_types::{
    DeviceState,
    service::keys::{Carrier, ClaimState, KeyOrigin},
};
use serde_json::Value;

use crate::{
    claim::Meter,
    keys::Service,
    machine::{GRIDSEAL, gridseal},
    station::{Station, audit, import_of, title},
};

const SETUP: &str = "0.0.43.0.0.255:64";

/// Keys of the meter as its manufacturer has put them in; the client counts from 100.
fn lab(suite: u8) -> String {
    let size = if suite == 2 { 32 } else { 16 };
    let [guek, gak, kek] = ["01", "41", "81"].map(|byte| byte.repeat(size));
    format!(
        "danger_test_keys = true\nsuite = {suite}\ntrusted_clock = true\nclient_sap = 25\n[client]\nsystem_title = \
         \"47534c0000000000\"\ninvocation_counter = 100\n[server]\nsystem_title = \"47534c0000000101\"\n[keys]\nguek = \
         \"{guek}\"\ngak = \"{gak}\"\nkek = \"{kek}\"\n[[association]]\nsap = 25\nrole = \"management\"\nmechanism = 5\n"
    )
}

fn key_of<R: gridseal_crypto::role::Role>(suite: u8, value: u8) -> MeterKey<R> {
    if suite == 2 { Key::take(&mut [value; 32]).into() } else { Key::take(&mut [value; 16]).into() }
}

/// The factory's bench beside a meter: it puts its certificates in.
struct Factory<'m> {
    dir: &'m Path,
    meter: &'m Meter,
    suite: u8,
}

impl Factory<'_> {
    fn setup(&self, item: &str) -> Value {
        let (address, lab) = (self.meter.address.to_string(), self.dir.join("meter/lab.toml"));
        let counters = self.dir.join("factory-counters.json");
        let item = format!("{SETUP}:{item}");
        let output = gridseal(&[
            "dlms",
            "action",
            "--json",
            "--connect",
            &address,
            "--lab",
            lab.to_str().unwrap(),
            "--counter-file",
            counters.to_str().unwrap(),
            &item,
        ]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{item:.60}: {said}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["returned"].clone()
    }

    fn certify(&self, more: &[&str]) -> String {
        let (suite, authority) = (self.suite.to_string(), self.dir.join("vendor"));
        let head = ["dlms", "certify", "--authority", authority.to_str().unwrap(), "--suite", &suite];
        let output = gridseal(&[&head[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Authority, meter's pair and its certificate, and a certificate of the factory's own client. Gives the two that the
    /// owner gets with the meter.
    fn equip(&self) -> [Vec<u8>; 2] {
        let anchor = self.certify(&[]);
        self.setup(&format!("6=oct:{anchor}"));
        self.setup("4=enum:0");
        let csr = self.setup("5=enum:0")["value"].as_str().unwrap().to_owned();
        let own = self.certify(&["--request", &csr]);
        self.setup(&format!("6=oct:{own}"));
        let point = gridseal_crypto::CurveSigner::take(
            gridseal_crypto::Curve::of_suite(self.suite),
            &mut vec![9; if self.suite == 2 { 48 } else { 32 }],
        );
        let point = hex::encode(point.unwrap().public().point());
        let client = self.certify(&["--title", "4d4d4d0000000001", "--public", &point]);
        self.setup(&format!("6=oct:{client}"));
        [anchor, own].map(|digits| hex::decode(digits).unwrap())
    }
}

/// A certificate authority process.
struct Pki {
    child: Child,
    owner: PathBuf,
    address: String,
}

impl Pki {
    fn start(owner: PathBuf, listen: &str) -> Self {
        let config = format!("listen = \"{listen}\"\nheadend_names = [\"127.0.0.1\"]\n");
        std::fs::write(owner.join("pki/config.toml"), config).unwrap();
        let mut child = Command::new(GRIDSEAL)
            .args(["pki", "--config"])
            .arg(owner.join("pki/config.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines.find_map(|line| {
            let told: Value = serde_json::from_str(&line.unwrap()).ok()?;
            (told["event"] == "listening").then(|| told["address"].as_str().unwrap().to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, owner, address: listening.unwrap() }
    }

    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        *self = Self::start(self.owner.clone(), &self.address);
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The owner's processes and one meter, as it comes out of the box.
struct Bench {
    suite: u8,
    service: Service,
    pki: Pki,
    meter: Meter,
}

impl Bench {
    fn new(what: &str, suite: u8) -> Self {
        let import = Import {
            origin: KeyOrigin::Vendor,
            state: DeviceState::Installing,
            claim: ClaimState::InStock,
            carrier: Carrier::GloService,
            suite,
            guek: key_of(suite, 0x01),
            gak: key_of(suite, 0x41),
            kek: key_of(suite, 0x81),
            // Above all that the factory's tool may have used: it takes counters in blocks.
            next_counter: 100_000,
            ..import_of(1)
        };
        let station = Station::with(what, std::iter::once(import));
        let scratch = station.scratch.path().to_path_buf();
        let meter = Meter::start(scratch.join("meter"), "127.0.0.1:0", &lab(suite));
        let [anchor, own] = Factory { dir: &scratch, meter: &meter, suite }.equip();
        std::fs::write(station.keys("vendor.der"), anchor).unwrap();
        std::fs::write(scratch.join("own.der"), own).unwrap();
        station.configure("127.0.0.1:0", "meter_authorities = [\"vendor.der\"]");
        let pki = Pki::start(station.owner(""), "127.0.0.1:0");
        let service = Service::start(station);
        let bench = Self { suite, service, pki, meter };
        bench.configure();
        let own = bench.service.station.scratch.path().join("own.der");
        let (code, said, error) =
            bench.service.key("certificate", &[&title(1).to_string(), own.to_str().unwrap()]);
        assert_eq!(code, 0, "{said} {error}");
        bench
    }

    fn configure(&self) {
        let config = format!(
            "listen = \"127.0.0.1:1\"\nlisten_inner = \"127.0.0.1:1\"\n[keys]\naddress = \"{}\"\n[pki]\naddress = \
             \"{}\"\n",
            self.service.address, self.pki.address
        );
        std::fs::write(self.service.station.owner("headend/config.toml"), config).unwrap();
    }

    fn claim(&self) -> Command {
        self.errand("claim")
    }

    /// `key claim` or `key carry`.
    fn errand(&self, errand: &str) -> Command {
        let mut command = Command::new(GRIDSEAL);
        command
            .args([
                "key",
                errand,
                "--json",
                "--client-sap",
                "25",
                "--answer-timeout",
                "5",
                "--timeout",
                "200",
            ])
            .arg("--config")
            .arg(self.service.station.owner("headend/config.toml"))
            .args(["--connect", &self.meter.address.to_string(), &title(1).to_string()])
            .stdin(Stdio::null());
        command
    }

    fn assert_claimed(&self) {
        let status = self.service.key_json("status", &[&title(1).to_string()]);
        assert_eq!(
            (&status["claim"], &status["state"]),
            (&"claimed".into(), &"operating".into()),
            "{status}"
        );
        assert_eq!(status["suite"], self.suite);
        for version in status["versions"].as_array().unwrap() {
            let is_active = version["state"] == "active";
            assert!(
                !is_active || version["origin"] == "operator" && version["suite"] == self.suite,
                "{version}"
            );
        }
        let told = audit(&self.service.station.keys(""));
        for act in [
            "certificate.of-factory",
            "key-change.agreed",
            "master-key.confirmed",
            "certificate.taken",
            "claim.claimed",
            "claim.factory-closed",
        ] {
            assert!(told.contains(act), "{act}: {told}");
        }
        assert!(!told.contains("claim.factory-open"), "{told}");
        // The factory's certificate is none any more, and its keys open the meter no more.
        let own = self.service.station.scratch.path().join("own.der");
        let (code, said, _) =
            self.service.key("certificate", &["--json", &title(1).to_string(), own.to_str().unwrap()]);
        assert!(code == 1 && said.contains("BAD_CERTIFICATE"), "{said}");
        let lab = self.meter.dir.join("lab.toml");
        let address = self.meter.address.to_string();
        let get = gridseal(&[
            "dlms",
            "get",
            "--connect",
            &address,
            "--lab",
            lab.to_str().unwrap(),
            "0.0.42.0.0.255",
        ]);
        assert_ne!(get.status.code(), Some(0), "{}", String::from_utf8_lossy(&get.stdout));
    }
}

#[test]
fn a_meter_of_suite_1_or_2_is_taken_over_with_its_certificates() {
    for suite in [1, 2] {
        let bench = Bench::new(&format!("claim-suite-{suite}"), suite);
        let output = bench.claim().output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said} {}", String::from_utf8_lossy(&output.stderr));
        for step in ["contact", "certificates", "keys", "certify", "closed"] {
            assert!(said.contains(&format!("\"step\":\"{step}\"")), "{step}: {said}");
        }
        bench.assert_claimed();
        let again = bench.claim().output().unwrap();
        assert_eq!(
            (again.status.code(), String::from_utf8_lossy(&again.stdout).lines().count()),
            (Some(0), 1)
        );
        // Later changes come over such a connection too: another master key is agreed upon, and others come under it.
        let meter = title(1).to_string();
        let active = |kind: &str| {
            let status = bench.service.key_json("status", &[&meter]);
            let versions = status["versions"].as_array().unwrap().iter();
            let mut of_kind =
                versions.filter(|version| version["kind"] == kind && version["state"] == "active");
            of_kind.next().unwrap()["version"].as_u64().unwrap()
        };
        for kind in ["kek", "guek+gak"] {
            let first = kind.split('+').next().unwrap();
            let before = active(first);
            let rotated = bench.service.key_json("rotate", &["--kind", kind, &meter]);
            assert_eq!(rotated["phase"], "prepared", "{rotated}");
            let carried = bench.errand("carry").output().unwrap();
            let said = String::from_utf8_lossy(&carried.stdout).into_owned();
            assert_eq!(carried.status.code(), Some(0), "{said}");
            assert!(said.contains("activated"), "{kind}: {said}");
            assert!(active(first) > before, "{kind}");
        }
        let none = bench.errand("carry").output().unwrap();
        let said = String::from_utf8_lossy(&none.stdout).into_owned();
        assert!(none.status.success() && said.contains("no key change is prepared"), "{said}");
        bench.assert_claimed();
    }
}

#[test]
fn s3_kill_9_of_each_party_at_each_step_of_a_claim_with_certificates_ends_well() {
    for victim in ["claim", "meter", "keys", "pki"] {
        let mut bench = Bench::new(&format!("claim-suites-{victim}"), 1);
        let (mut killed, mut lines_seen) = (0, 0);
        let status = loop {
            let mut child = bench.claim().stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut seen = 0;
            for line in lines {
                let line = line.unwrap();
                if line.contains("wait") {
                    continue;
                }
                (seen, lines_seen) = (seen + 1, lines_seen + 1);
                // The command dies at one step after the other, the others at every third. It takes its first three lines
                // to be where it was: its list is asked for, once before the meter has proved itself.
                let is_due = match victim {
                    "claim" => seen > 2 + killed % 4,
                    "pki" => line.contains("certify") && killed < 2,
                    _ => lines_seen % 3 == 0 && killed < 5,
                };
                if !is_due {
                    continue;
                }
                killed += 1;
                match victim {
                    "meter" => bench.meter.kill_and_restart(),
                    "pki" => bench.pki.kill_and_restart(),
                    "keys" => {
                        bench.service.kill_and_restart();
                        bench.configure();
                    }
                    _ => {
                        child.kill().unwrap();
                        break;
                    }
                }
            }
            let status = child.wait().unwrap();
            if status.code().is_some() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(0), "{victim}");
        assert!(killed >= if victim == "pki" { 1 } else { 5 }, "{victim}: {killed}");
        bench.assert_claimed();
    }
}
