//! The take-over of a meter that came with its manufacturer's keys: the command against `gridseal meter serve`, with kill -9
//! of each party at each step.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use gridseal_keys::Import;
use gridseal_types::{
    DeviceState,
    service::keys::{Carrier, ClaimState, KeyOrigin},
};
use serde_json::Value;

use crate::{
    keys::Service,
    machine::{GRIDSEAL, gridseal},
    station::{Station, audit, import_of, title},
};

/// Keys of the station's meter 1, as its manufacturer has put them into the meter.
const LAB: &str = r#"danger_test_keys = true
client_sap = 25
[client]
system_title = "47534c0000000000"
[server]
system_title = "47534c0000000101"
[keys]
guek = "01010101010101010101010101010101"
gak = "41414141414141414141414141414141"
kek = "81818181818181818181818181818181"
[[association]]
sap = 25
role = "management"
mechanism = 5
"#;

/// A meter process.
pub(crate) struct Meter {
    child: Child,
    pub(crate) dir: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Meter {
    pub(crate) fn start(dir: PathBuf, listen: &str, text: &str) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let lab = dir.join("lab.toml");
        std::fs::write(&lab, text).unwrap();
        let mut child = Command::new(GRIDSEAL)
            .args(["meter", "serve", "--json", "--listen", listen, "--lab"])
            .arg(&lab)
            .arg("--dir")
            .arg(dir.join("flash"))
            .arg("--log")
            .arg(dir.join("log.json"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").expect(&line).parse().unwrap();
        Self { child, dir, address }
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let lab = std::fs::read_to_string(self.dir.join("lab.toml")).unwrap();
        *self = Self::start(self.dir.clone(), &self.address.to_string(), &lab);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As it comes out of the box.
fn delivered() -> Import {
    Import {
        origin: KeyOrigin::Vendor,
        state: DeviceState::Installing,
        claim: ClaimState::InStock,
        carrier: Carrier::GloService,
        ..import_of(1)
    }
}

fn service(what: &str) -> Service {
    let station = Station::with(what, std::iter::once(delivered()));
    station.configure("127.0.0.1:0", "");
    let service = Service::start(station);
    configure(&service);
    service
}

/// The head-end's configuration, of which the command takes identity and key service.
fn configure(service: &Service) {
    let config = format!(
        "listen = \"127.0.0.1:1\"\nlisten_inner = \"127.0.0.1:1\"\n[keys]\naddress = \"{}\"\n[pki]\naddress = \
         \"127.0.0.1:1\"\n",
        service.address
    );
    std::fs::write(service.station.owner("headend/config.toml"), config).unwrap();
}

fn claim(service: &Service, meter: &Meter) -> Command {
    let mut command = Command::new(GRIDSEAL);
    command
        .args(["key", "claim", "--json", "--client-sap", "25", "--answer-timeout", "2", "--timeout", "150"])
        .arg("--config")
        .arg(service.station.owner("headend/config.toml"))
        .args(["--connect", &meter.address.to_string(), &title(1).to_string()])
        .stdin(Stdio::null());
    command
}

fn assert_claimed(service: &Service) {
    let status = service.key_json("status", &[&title(1).to_string()]);
    assert_eq!((&status["claim"], &status["state"]), (&"claimed".into(), &"operating".into()), "{status}");
    for version in status["versions"].as_array().unwrap() {
        let is_vendors = version["origin"] == "vendor";
        assert_eq!(is_vendors, version["state"] != "active" && is_vendors, "{version}");
    }
    let told = audit(&service.station.keys(""));
    for act in
        ["claim.installed", "claim.claiming", "master-key.confirmed", "claim.claimed", "claim.factory-closed"]
    {
        assert!(told.contains(act), "{act}: {told}");
    }
    assert!(!told.contains("claim.factory-open"), "{told}");
}

#[test]
fn a_meter_with_factory_keys_is_taken_over_and_they_are_shown_closed() {
    let service = service("claim");
    let meter = Meter::start(service.station.scratch.path().join("meter"), "127.0.0.1:0", LAB);
    let output = claim(&service, &meter).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let steps: Vec<String> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(steps, ["contact", "keys", "keys", "refused", "closed"], "{said}");
    assert_claimed(&service);
    // Again: nothing is left to be done. With the factory's keys nobody gets in any more.
    let again = claim(&service, &meter).output().unwrap();
    assert_eq!((again.status.code(), String::from_utf8_lossy(&again.stdout).lines().count()), (Some(0), 1));
    let lab = meter.dir.join("lab.toml");
    let get = gridseal(&[
        "dlms",
        "get",
        "--connect",
        &meter.address.to_string(),
        "--lab",
        lab.to_str().unwrap(),
        "0.0.42.0.0.255",
    ]);
    assert_ne!(get.status.code(), Some(0), "{}", String::from_utf8_lossy(&get.stdout));
    let help = String::from_utf8(gridseal(&["key", "claim", "--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes: 0") && help.contains("Example") && help.contains("--json"), "{help}");
}

#[test]
fn s3_kill_9_of_each_party_at_each_step_of_a_claim_ends_with_a_meter_that_is_claimed() {
    for victim in ["meter", "keys", "claim"] {
        let mut service = service(&format!("claim-{victim}"));
        let mut meter = Meter::start(service.station.scratch.path().join("meter"), "127.0.0.1:0", LAB);
        let (mut killed, mut told) = (0, Vec::new());
        // The command is started again until it has nothing left to do; at each of its first steps the victim dies.
        let status = loop {
            let mut child = claim(&service, &meter).stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut seen = 0;
            for line in lines {
                let line = line.unwrap();
                told.push(line.clone());
                seen += 1;
                if killed < 3 && (victim != "claim" || seen > killed.min(1)) && !line.contains("wait") {
                    killed += 1;
                    match victim {
                        "meter" => meter.kill_and_restart(),
                        "keys" => {
                            service.kill_and_restart();
                            configure(&service);
                        }
                        _ => {
                            child.kill().unwrap();
                            told.push("killed".into());
                            break;
                        }
                    }
                }
            }
            let status = child.wait().unwrap();
            if status.code().is_some() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(0), "{victim}: {}", told.join("\n"));
        assert_eq!(killed, 3, "{victim}");
        assert_claimed(&service);
    }
}
