//! The key service as its callers have it: over mutual TLS, by role, in batches, and through the operator's commands.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use gridseal_api::{KeysCallError, KeysClient};
use gridseal_crypto::Key;
use gridseal_io::tls::{Alpn, mutual};
use gridseal_types::{
    Code, DeviceState, UtcTime,
    service::keys::{
        ChangeOutcome, ChangePhase, Denial, ExchangeReply, KeyReply, KeyRequest, OpenAssociation,
        OpenVerdict, Seal,
    },
};
use serde_json::Value;

use crate::{
    machine::{GRIDSEAL, Scratch, eventually, gridseal, gridseal_ok},
    peer::{certificates, stolen_identity, talk},
    station::{Nonces, Station, audit, name, push, push_under, seal, title},
};

/// A whole key service with its core.
pub(crate) struct Service {
    pub(crate) station: Station,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Service {
    fn new(what: &str, meters: u8, more: &str) -> Self {
        let station = Station::new(what, meters);
        station.configure("127.0.0.1:0", more);
        Self::start(station)
    }

    /// Starts the service of a station that is configured.
    pub(crate) fn start(station: Station) -> Self {
        let mut child = Command::new(GRIDSEAL)
            .args(["keys", "--with-parent", "--config"])
            .arg(station.keys("config.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening = lines.find_map(|line| {
            let told: Value = serde_json::from_str(&line.unwrap()).ok()?;
            (told["event"] == "listening").then(|| told["address"].as_str().unwrap().parse().unwrap())
        });
        std::thread::spawn(move || lines.for_each(drop));
        let address = listening.unwrap();
        let config = format!("[keys]\naddress = \"{address}\"\n");
        std::fs::write(station.owner("operator/config.toml"), config).unwrap();
        Self { station, child, address }
    }

    /// kill -9, and the same service again at the same address.
    pub(crate) fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let listens = format!("listen = \"{}\"", self.address);
        let config = std::fs::read_to_string(self.station.keys("config.toml")).unwrap();
        let other: Vec<&str> = config.lines().filter(|line| !line.starts_with("listen")).collect();
        std::fs::write(self.station.keys("config.toml"), format!("{listens}\n{}\n", other.join("\n")))
            .unwrap();
        let station =
            Station { scratch: std::mem::replace(&mut self.station.scratch, Scratch::new("moved")) };
        // The core ends with its parent, and only then lets go of its records.
        let lives = |(_, line): &(u32, String)| line.contains("keys-core");
        let freed = eventually(Duration::from_secs(10), || {
            !crate::machine::processes_of(station.scratch.path()).iter().any(lives)
        });
        assert!(freed, "the core lives on");
        *self = Self::start(station);
    }

    /// A client with the identity of an inner service.
    fn client(&self, name: &str) -> KeysClient {
        let roots = certificates(&self.station.keys("inner-root.pem"));
        let identity = stolen_identity(&self.station.owner(name));
        KeysClient::new(self.address.to_string(), mutual(&roots, &identity, Alpn::Http2).unwrap())
    }

    /// An operator's command: exit code, and what it printed.
    pub(crate) fn key(&self, verb: &str, more: &[&str]) -> (i32, String, String) {
        let config = self.station.owner("operator/config.toml");
        let arguments = [&["key", verb, "--config", config.to_str().unwrap()], more].concat();
        let output = gridseal(&arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    pub(crate) fn key_json(&self, verb: &str, more: &[&str]) -> Value {
        let (code, said, _) = self.key(verb, &[&["--json"], more].concat());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(said.trim()).unwrap()
    }

    /// Keys that the service has made, newest last, by role.
    fn inventory(&self) -> BTreeMap<String, Vec<String>> {
        serde_json::from_slice(&std::fs::read(self.station.keys("inventory.json")).unwrap()).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn seal_of(meter: u8, id: u64) -> Seal {
    match seal(meter, id) {
        KeyRequest::Seal(seal) => seal,
        _ => unreachable!(),
    }
}

#[test]
fn a_head_end_seals_and_opens_over_mutual_tls_in_coalesced_batches_and_each_role_does_its_own() {
    let service = Service::new("service", 8, "");
    talk(async {
        let headend = service.client("headend");
        let mut nonces = Nonces::default();
        let many = (0..2_000_u64).map(|id| {
            let (client, meter) = (headend.clone(), 1 + (id % 8) as u8);
            tokio::spawn(async move { (meter, client.seal(seal_of(meter, id)).await.unwrap()) })
        });
        for one in many.collect::<Vec<_>>() {
            let (meter, sealed) = one.await.unwrap();
            nonces.sealed(title(meter), &sealed);
        }
        assert_eq!(nonces.len(), 2_000);

        let apdu = push(3, 7, b"reading");
        let open = |apdu: Vec<u8>| headend.open(None, apdu);
        let fresh = open(apdu.clone()).await.unwrap();
        assert!(matches!(&fresh, OpenVerdict::Fresh { plain, late: false, .. } if plain == b"reading"));
        assert!(matches!(open(apdu.clone()).await.unwrap(), OpenVerdict::Duplicate { .. }));
        assert!(matches!(open(push(3, 7, b"another")).await.unwrap(), OpenVerdict::Replay));
        assert!(matches!(open(push(3, 5, b"late")).await.unwrap(), OpenVerdict::Fresh { late: true, .. }));
        let mut forged = apdu.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(open(forged).await.unwrap(), OpenVerdict::Rejected));
        assert!(matches!(headend.open(Some(title(4)), apdu).await.unwrap(), OpenVerdict::Rejected));

        let unknown = headend.seal(seal_of(99, 1_000_000)).await;
        assert!(matches!(unknown, Err(KeysCallError::Denied(Denial::UnknownDevice))));
        let dangerous = Seal { apdu: vec![0xC3, 1, 0xC1], ..seal_of(1, 1_000_001) };
        assert!(matches!(headend.seal(dangerous).await, Err(KeysCallError::Denied(Denial::PolicyDenied))));

        let request = OpenAssociation { system_title: title(2), mechanism: 5, candidate: 0 };
        let association = headend.open_association(request).await.unwrap();
        assert_eq!(association.client_to_server.len(), 16);
        let handle = association.association;
        let (parameter, sealed) = headend.answer_challenge(handle, vec![9; 16]).await.unwrap();
        assert_eq!((parameter.len(), parameter[0]), (17, 0x10));
        nonces.sealed(title(2), &sealed);
        let answer = headend.verify_answer(handle, vec![0x10; 17]).await;
        assert!(matches!(answer, Err(KeysCallError::Denied(Denial::Rejected))), "{answer:?}");
        let again = headend.answer_challenge(handle, vec![9; 16]).await;
        assert!(matches!(again, Err(KeysCallError::Denied(Denial::UnknownAssociation))), "used once");

        // What is another's: refused in the front, and the batch's other requests are served.
        let operator = service.client("operator");
        let mixed = vec![seal(1, 1_000_002), KeyRequest::KeyStatus { system_title: title(1) }];
        let replies = operator.batch(mixed.clone()).await.unwrap();
        assert!(matches!(replies[0], KeyReply::Refused { code: Code::Refused }));
        assert!(matches!(replies[1], KeyReply::Exchange(ExchangeReply::Status(_))));
        let replies = headend.batch(mixed).await.unwrap();
        assert!(matches!(replies[0], KeyReply::Exchange(ExchangeReply::Sealed(_))));
        assert!(matches!(replies[1], KeyReply::Refused { code: Code::Refused }));
        for name in ["pki", "config-server"] {
            let refused = service.client(name).seal(seal_of(1, 1_000_003)).await;
            assert!(matches!(refused, Err(KeysCallError::Call(_))), "{name}: {refused:?}");
        }
    });
    let told = audit(&service.station.keys(""));
    let batches = told.matches("apdus.exchanged").count();
    assert!(batches < 400, "2,000 seals were decided in {batches} batches");
}

#[test]
fn s3_a_key_change_begun_by_an_operator_is_delivered_by_a_head_end_and_proven_by_the_meter_alone() {
    let service = Service::new("rotate", 2, "danger_inventory = \"inventory.json\"");
    let meter = title(1).to_string();
    let begun = service.key_json("rotate", &[&meter]);
    assert_eq!((&begun["phase"], &begun["keys"]), (&"prepared".into(), &"guek+gak".into()));
    assert!(begun["next"].as_str().unwrap().contains("head-end sends it"), "{begun}");
    let again = service.key_json("rotate", &[&meter]);
    assert_eq!((&begun["existing"], &again["existing"]), (&false.into(), &true.into()));
    assert_eq!((&again["change"], &again["phase"]), (&begun["change"], &begun["phase"]), "the same change");
    let (code, said, _) = service.key("rotate", &["--kind", "gak", &meter]);
    assert!(
        code == 1 && said.contains("open before") && said.contains("wait until it is resolved"),
        "{said}"
    );
    let status = service.key_json("status", &[&meter]);
    assert_eq!(status["change"]["phase"], "prepared");
    let states = |status: &Value, kind: &str| -> Vec<String> {
        let versions = status["versions"].as_array().unwrap();
        let of_kind = versions.iter().filter(|version| version["kind"] == kind);
        of_kind.map(|version| version["state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(&status, "guek"), ["active", "pre-active"]);

    let made = service.inventory();
    // What none of the two was delivered with is what was made.
    let new = |role: &str, delivered: [[u8; 16]; 2]| {
        let delivered = delivered.map(hex::encode);
        let key = made[role].iter().find(|key| !delivered.contains(key)).unwrap();
        hex::decode(key).unwrap()
    };
    let mut guek = new("Guek", [1, 2].map(|meter| [meter; 16]));
    let mut gak = new("Gak", [1, 2].map(|meter| [meter ^ 0x40; 16]));
    let (guek, gak) = (Key::take_slice(&mut guek).unwrap(), Key::take_slice(&mut gak).unwrap());

    let change = talk(async {
        let headend = service.client("headend");
        assert_eq!(headend.pending_changes(None).await.unwrap(), (vec![title(1)], true));
        assert_eq!(headend.pending_changes(Some(title(1))).await.unwrap(), (vec![], true));
        let reply = headend.begin_key_change(title(1), vec![]).await.unwrap();
        let change = reply.status.change;
        assert_eq!(change.to_string(), begun["change"].as_str().unwrap());
        assert_eq!(reply.status.phase, ChangePhase::Sent);
        let again = headend.begin_key_change(title(1), vec![]).await.unwrap();
        assert_eq!(again.transfer, reply.transfer, "the same bytes");
        let none = headend.begin_key_change(title(2), vec![]).await;
        assert!(matches!(none, Err(KeysCallError::Denied(Denial::UnknownChange))), "{none:?}");
        let give_up = headend.report_key_change(change, ChangeOutcome::Abandon).await;
        assert!(matches!(give_up, Err(KeysCallError::Refused(_))), "an operator's act");
        let lost = headend.report_key_change(change, ChangeOutcome::NoReply).await.unwrap();
        assert_eq!((lost.status.phase, lost.transfer), (ChangePhase::Unknown, None));
        let probes = headend.probe_plan(title(1)).await.unwrap();
        assert!(probes.len() >= 2, "the old pair and the new one at least");
        // The head-end's word proves nothing; the meter's APDU does.
        let old = headend.open(None, push(1, 1, b"under the old")).await.unwrap();
        assert!(matches!(old, OpenVerdict::Fresh { .. }));
        assert_ne!(service.key_json("status", &[&meter])["change"], Value::Null);
        let new = push_under(&guek, &gak, 1, (1, b"under the new"));
        assert!(matches!(headend.open(None, new).await.unwrap(), OpenVerdict::Fresh { .. }));
        let done = headend.report_key_change(change, ChangeOutcome::NoReply).await.unwrap();
        assert_eq!(done.status.phase, ChangePhase::Activated);
        assert_eq!(headend.pending_changes(None).await.unwrap(), (vec![], true));
        change
    });
    let status = service.key_json("status", &[&meter]);
    assert_eq!(status["change"], Value::Null);
    assert_eq!(states(&status, "guek"), ["deactivated", "active"]);
    let (code, told, _) = service.key("history", &[&meter]);
    assert_eq!(code, 0);
    for act in ["device.imported", "key-change.prepared", "key-change.sent", "channel-keys.confirmed"] {
        assert!(told.contains(act), "{act}: {told}");
    }
    let (code, plain, _) = service.key("status", &[&meter]);
    assert!(code == 0 && plain.contains("next counter") && plain.contains(&meter), "{plain}");
    let next = service.key_json("rotate", &["--kind", "kek", &meter]);
    assert_ne!(next["change"].as_str().unwrap(), change.to_string());
    let (code, said, _) = service.key("rotate", &["--wait", "--timeout", "1", "--kind", "kek", &meter]);
    assert!(code == 1 && said.contains("prepared"), "no head-end carries it: {said}");
    talk(async {
        let headend = service.client("headend");
        let change = headend.begin_key_change(title(1), vec![]).await.unwrap().status.change;
        let (code, _, said) = service.key("rotate", &["--abandon", &meter]);
        assert!(code == 1 && said.contains("ILLEGAL_TRANSITION"), "the meter may be about to answer: {said}");
        headend.report_key_change(change, ChangeOutcome::NoReply).await.unwrap();
    });
    let given_up = service.key_json("rotate", &["--abandon", &meter]);
    assert_eq!((&given_up["phase"], &given_up["resolved"]), (&"abandoned".into(), &true.into()));

    // A meter that is held: the change is prepared, and it is told what blocks it.
    let held = DeviceState::Suspended;
    let held = KeyRequest::SetState { device: name(2), state: held, attested_at: UtcTime(0) };
    talk(async { service.client("endpoint-manager").batch(vec![held]).await.unwrap() });
    let meter = title(2).to_string();
    let begun = service.key_json("rotate", &[&meter]);
    let status = service.key_json("status", &[&meter]);
    for change in [&begun, &status["change"]] {
        for field in ["next", "blocked"] {
            let told = change[field].as_str().unwrap();
            assert!(told.contains("suspended") && told.contains("STATE_FORBIDS"), "{change}");
        }
    }
    let (code, _, said) = service.key("rotate", &["--wait", "--timeout", "1", &meter]);
    assert!(code == 1 && said.contains("STATE_FORBIDS"), "{said}");
}

#[test]
fn the_commands_tell_what_a_compromise_reaches_and_refuse_with_codes() {
    let service = Service::new("compromise", 1, "");
    let meter = title(1).to_string();
    service.key_json("rotate", &[&meter]);
    talk(async { service.client("headend").begin_key_change(title(1), vec![]).await.map(drop).unwrap() });
    let key = format!("{meter}/kek/1");
    let plan = service.key_json("compromise", &["--dry-run", &key]);
    let reached: Vec<&str> =
        plan["reached"].as_array().unwrap().iter().map(|reached| reached["key"].as_str().unwrap()).collect();
    assert_eq!(reached, [key.clone(), format!("{meter}/guek/2"), format!("{meter}/gak/2")]);
    assert_eq!(plan["reached"][1]["by"].as_str().unwrap(), key);
    assert_eq!(plan["devices"], serde_json::json!([meter]));
    let before = service.key_json("status", &[&meter]);
    let (code, said, _) = service.key("compromise", &["--dry-run", &key]);
    assert!(code == 0 && said.contains("nothing was changed"), "{said}");
    assert_eq!(service.key_json("status", &[&meter]), before);

    let (code, _, said) = service.key("compromise", &[&key]);
    assert!(code == 2 && said.contains("two persons"), "{said}");
    let (code, said, _) = service.key("status", &["--json", "4753000000000000"]);
    assert!(
        code == 1 && said.contains("\"UNKNOWN_DEVICE\"") && said.contains("\"retryable\":false"),
        "{said}"
    );
    let (code, _, said) = service.key("compromise", &["--dry-run", &format!("{meter}/gak/9")]);
    assert!(code == 1 && said.contains("UNKNOWN_KEY"), "{said}");
    let (code, _, said) = service.key("rotate", &["--abandon", "--kind", "kek", &meter]);
    assert!(code == 2, "{said}");
    let (code, _, said) = service.key("status", &["not-a-title"]);
    assert!(code == 2 && said.contains("16 hex digits"), "{said}");
    for verb in ["status", "rotate", "history", "compromise"] {
        let help = gridseal(&["key", verb, "--help"]);
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(
            help.contains("Example") && help.contains("Exit codes: 0") && help.contains("--json"),
            "{help}"
        );
    }

    // Somebody else's certificate is no operator's.
    let stolen = service.station.owner("headend/config.toml");
    std::fs::copy(service.station.owner("operator/config.toml"), &stolen).unwrap();
    let output = gridseal(&["key", "status", "--config", stolen.to_str().unwrap(), "--json", &meter]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("E_REFUSED"), "{said}");
}

#[test]
fn two_persons_sign_an_act_and_the_core_carries_it_out_once() {
    let station = Station::new("consent", 1);
    station.configure("127.0.0.1:0", "");
    let owner = station.owner("");
    let owner = owner.to_str().unwrap();
    for person in ["alice", "bob"] {
        gridseal_ok(&["ceremony", "approver", "--out", owner, "--name", person]);
    }
    // Somebody who has a key and is not in the configuration.
    let config = std::fs::read_to_string(station.keys("config.toml")).unwrap();
    gridseal_ok(&["ceremony", "approver", "--out", owner, "--name", "mallory"]);
    std::fs::write(station.keys("config.toml"), config).unwrap();
    let service = Service::start(station);
    let act = service.station.owner("act.cbor");
    let act = act.to_str().unwrap();
    let key = format!("{}/guek/1", title(1));
    let propose = |more: &[&str]| {
        let _ = std::fs::remove_file(act);
        gridseal_ok(&[&["key", "propose"], more, &["--reason", "a drill", "--out", act, "--json"]].concat())
    };
    let approve = |person: &str| {
        let dir = service.station.owner("approvers").join(person);
        gridseal_ok(&["key", "approve", "--yes", "--json", "--person", dir.to_str().unwrap(), act])
    };
    let said = propose(&["compromise", &key]);
    assert!(said.contains("compromised") && said.contains(&key) && said.contains("a drill"), "{said}");
    let shown = gridseal(&["key", "approve", "--person", "nowhere", act]);
    assert!(shown.status.success(), "looking needs no key");
    let refused = |code: &str| {
        let (status, said, _) = service.key("execute", &["--json", act]);
        assert!(status == 1 && said.contains(code), "{code}: {said}");
    };
    refused("NEEDS_APPROVAL");
    approve("alice");
    approve("alice");
    refused("NEEDS_APPROVAL");
    approve("mallory");
    refused("NEEDS_APPROVAL");
    propose(&["compromise", &key]);
    approve("alice");
    assert!(approve("bob").contains("\"alice\",\"bob\""));
    // The signed bytes are the act: whoever changes them has signed nothing.
    let signed = std::fs::read(act).unwrap();
    let at = signed.windows(7).position(|bytes| bytes == b"a drill").unwrap();
    let mut changed = signed.clone();
    changed[at] ^= 1;
    std::fs::write(act, changed).unwrap();
    refused("NEEDS_APPROVAL");
    std::fs::write(act, &signed).unwrap();
    let (status, said, _) = service.key("execute", &["--json", act]);
    assert!(status == 0 && said.contains("\"done\":true"), "{said}");
    refused("CONSENT_USED");
    let status = service.key_json("status", &[&title(1).to_string()]);
    assert_eq!(status["versions"][0]["state"], "compromised", "{status}");
    // A restore of a site that serves would take counters of every key for nothing.
    let config = service.station.owner("operator/config.toml");
    let config = config.to_str().unwrap().to_owned();
    let restore = |service: &Service, witness: &str| {
        let act = service.station.owner("restore.cbor");
        let arguments = ["key", "propose", "restore", "--json", "--config", &config, "--witness", witness];
        let more = ["--reason", "a drill", "--out", act.to_str().unwrap()];
        let output = gridseal(&[&arguments[..], &more].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), act)
    };
    let (status, said, file) = restore(&service, "7");
    assert!(
        status == Some(1) && said.contains("\"error\":\"ILLEGAL_TRANSITION\"") && !file.exists(),
        "{said}"
    );
    // Somebody puts an older state back: the marker is above it.
    let mut service = service;
    std::fs::write(service.station.keys("site-epoch"), "9").unwrap();
    service.kill_and_restart();
    let config = service.station.owner("operator/config.toml");
    let config = config.to_str().unwrap().to_owned();
    let site = service.key_json("site", &[]);
    assert_eq!((&site["mode"], &site["epoch"], &site["highest"]), (&"outdated".into(), &1.into(), &9.into()));
    let rotate = service.key("rotate", &["--wait", "--timeout", "1", &title(1).to_string()]);
    assert!(rotate.0 == 1 && rotate.2.contains("FENCED"), "{rotate:?}");
    let restore = |witness: &str| {
        let act = service.station.owner("restore.cbor");
        let act = act.to_str().unwrap();
        let _ = std::fs::remove_file(act);
        let arguments = ["key", "propose", "restore", "--json", "--config", &config, "--witness", witness];
        let more = ["--changed-since", &title(1).to_string(), "--reason", "a drill", "--out", act];
        let output = gridseal(&[&arguments[..], &more].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), act.to_owned())
    };
    let (status, said, _) = restore("300");
    assert!(status == Some(1) && said.contains("COUNTER_EXHAUSTED"), "{said}");
    let (status, said, act) = restore("11");
    assert!(
        status == Some(0) && said.contains("\"epoch\":1,") && said.contains("\"next_epoch\":12"),
        "{said}"
    );
    for person in ["alice", "bob"] {
        let dir = service.station.owner("approvers").join(person);
        let said = gridseal_ok(&["key", "approve", "--yes", "--person", dir.to_str().unwrap(), &act]);
        assert!(said.contains("from epoch 1 to epoch 12"), "{said}");
    }
    let (status, said, _) = service.key("execute", &[&act]);
    assert!(status == 0 && said.contains("active, epoch 12"), "{said}");
    assert_eq!(service.key_json("site", &[])["epoch"], 12);
    let told = audit(&service.station.keys(""));
    assert!(told.contains("act.consented") && told.contains("alice+bob"), "{told}");
    let owner = service.station.owner("");
    let wrong = gridseal(&["key", "approve", "--person", "nowhere", owner.to_str().unwrap()]);
    assert_ne!(wrong.status.code(), Some(0));
    std::fs::write(&act, b"no act").unwrap();
    assert_eq!(gridseal(&["key", "approve", "--person", "nowhere", &act]).status.code(), Some(2));
    let wrong = gridseal(&["key", "approve", "--json", "--person", "nowhere", &act]);
    let said = String::from_utf8(wrong.stdout).unwrap();
    assert!(wrong.status.code() == Some(2) && said.contains("\"error\":\"USAGE\""), "{said}");
}

#[test]
fn acts_are_written_and_signed_by_the_bare_names_that_the_handbook_shows() {
    let station = Station::empty("bare");
    let owner = station.owner("");
    for person in ["alice", "bob"] {
        gridseal_ok(&["ceremony", "approver", "--out", owner.to_str().unwrap(), "--name", person]);
    }
    let there = |arguments: &[&str]| {
        let mut command = Command::new(GRIDSEAL);
        let output = command.current_dir(&owner).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let key = format!("{}/guek/1", title(1));
    let propose = ["key", "propose", "compromise", &key, "--reason", "a drill", "--out", "act.cbor"];
    assert_eq!(there(&propose), (Some(0), String::new()));
    for person in ["approvers/alice", "approvers/bob"] {
        let approve = ["key", "approve", "--person", person, "--yes", "act.cbor"];
        assert_eq!(there(&approve), (Some(0), String::new()));
    }
    let (code, said) = there(&propose);
    assert!(code == Some(2) && said.contains("is there already"), "{said}");
}

/// What is wrong with the directory of a key service is told in one line, with a code and the file; `keys` says nothing
/// before, and nothing is written.
#[test]
fn a_start_that_is_refused_is_told_in_one_line_with_its_code_before_anybody_is_served() {
    use std::os::unix::fs::PermissionsExt;
    let station = Station::new("refused", 1);
    let mut core = station.core();
    core.answer(seal(1, 1));
    let rewrapped = eventually(Duration::from_secs(20), || station.data_keys_in_use() == [1]);
    assert!(rewrapped, "{:?}", station.data_keys_in_use());
    core.ended();
    let config = station.keys("config.toml");
    let told = |code: &str, what: &str| {
        let before = std::fs::read(station.keys("keys.db")).unwrap();
        let output = gridseal(&["keys", "--config", config.to_str().unwrap()]);
        let (out, said) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!((output.status.code(), out.as_ref()), (Some(1), ""), "{code}: {said}");
        assert!(said.contains(code) && said.contains(what) && said.lines().count() == 1, "{code}: {said}");
        assert_eq!(std::fs::read(station.keys("keys.db")).unwrap(), before, "{code}");
    };
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(station.keys(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, loose, kept, code) in [
        ("", 0o777, 0o700, "keys.exposed"),
        ("data-keys.cbor", 0o666, 0o600, "keys.exposed"),
        ("keys.marker", 0o666, 0o600, "keys.exposed"),
        ("keys.db", 0o644, 0o600, "store.exposed"),
        ("zone.kek", 0o644, 0o600, "zone.exposed"),
    ] {
        mode(name, loose);
        told(code, &format!("{loose:o}"));
        mode(name, kept);
    }
    let flipped = |name: &str, code: &str| {
        let path = station.keys(name);
        let whole = std::fs::read(&path).unwrap();
        for at in [0, whole.len() / 2] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            std::fs::write(&path, bytes).unwrap();
            told(code, name);
        }
        std::fs::write(&path, b"").unwrap();
        told(code, name);
        std::fs::write(&path, whole).unwrap();
    };
    flipped("keystore.cbor", "keys.keystore");
    flipped("data-keys.cbor", "keys.data_keys");
    let epoch = std::fs::read(station.keys("site-epoch")).unwrap();
    std::fs::write(station.keys("site-epoch"), "soon").unwrap();
    told("keys.site_epoch", "site-epoch");
    std::fs::write(station.keys("site-epoch"), epoch).unwrap();
    std::fs::rename(station.keys("data-keys.cbor"), station.keys("elsewhere")).unwrap();
    told("keys.data_keys_missing", "data-keys.cbor");
    assert!(!station.keys("data-keys.cbor").exists(), "nothing is written");
    std::fs::rename(station.keys("elsewhere"), station.keys("data-keys.cbor")).unwrap();
    station.configure("127.0.0.1:0", "[approvers]\nalice = \"00\"");
    told("keys.approver", "alice");
    station.configure("127.0.0.1:0", "unknown = 1");
    told("config.invalid", "config.toml is not as it must be: line ");
    station.configure("127.0.0.1:0", "");
    let other = station.keys("other.db");
    foreign_database(&other);
    let database = std::fs::read(station.keys("keys.db")).unwrap();
    std::fs::write(station.keys("keys.db"), std::fs::read(&other).unwrap()).unwrap();
    told("store.foreign", "keys.db");
    std::fs::write(station.keys("keys.db"), &database[..database.len() / 2]).unwrap();
    told("store.", "key store");
    std::fs::write(station.keys("keys.db"), &database).unwrap();
    std::fs::rename(station.keys("keys.marker"), station.keys("elsewhere")).unwrap();
    told("store.marker_missing", "counts as 0");
    std::fs::rename(station.keys("elsewhere"), station.keys("keys.marker")).unwrap();
    assert_eq!(station.core().ended().split(':').next(), Some("exit status"), "in order again");
    // The operator's commands: one shape for what fails here and what is denied there.
    let nowhere = gridseal(&["key", "site", "--json", "--config", "nowhere.toml"]);
    let said: Value = serde_json::from_slice(&nowhere.stdout).unwrap();
    assert_eq!((nowhere.status.code(), &said["error"]), (Some(1), &"config.unreadable".into()), "{said}");
    assert!(said["message"].as_str().unwrap().contains("nowhere.toml"), "{said}");
}

/// A database of the head-end: no key store.
fn foreign_database(path: &std::path::Path) {
    let key = Key::take(&mut [7; 32]);
    drop(gridseal_store::SqliteReadings::open(path, key, gridseal_io::rng::OsRng).unwrap());
    // Without its log: a plain file again.
    let _ = std::fs::remove_file(path.with_extension("db-wal"));
}
