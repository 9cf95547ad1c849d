//! The border of `keys-core`: its parent is taken over, it dies at any moment, its disk is full, a second one starts.

use gridseal_types::{
    DeviceState, N16, SystemTitle, UtcTime,
    service::keys::{
        Approval, Bytes, ChangeOutcome, ClaimState, Denial, ExchangeReply, ExportedRow, HlsStep, KeyAct,
        KeyKind, KeyRef, KeyReply, KeyRequest, OpenAssociation, OpenVerdict, Seal, SiteRequest,
    },
};
use std::process::Command;

use crate::{
    machine::{GRIDSEAL, gridseal_ok},
    pg::Server,
    station::{CoreProcess, Nonces, Station, audit, name, push, seal, sealed, title, verdict},
};

const METERS: u8 = 4;

/// Numbers that look random and are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.below(256) as u8).collect()
    }
}

/// What a taken-over `keys` remembers, to say it again later.
#[derive(Default)]
struct Loot {
    changes: Vec<N16>,
    associations: Vec<N16>,
    sealed: Vec<Vec<u8>>,
    rows: Vec<ExportedRow>,
    /// Whose changes and associations are.
    owners: Vec<(N16, SystemTitle)>,
}

impl Loot {
    fn own(&mut self, meter: SystemTitle, reply: &KeyReply) {
        let KeyReply::Exchange(reply) = reply else { return };
        match reply {
            ExchangeReply::Change(change) => self.owners.push((change.status.change, meter)),
            ExchangeReply::Association { association, .. } => self.owners.push((*association, meter)),
            _ => {}
        }
    }

    fn take(&mut self, reply: &KeyReply) {
        let KeyReply::Exchange(reply) = reply else { return };
        match reply {
            ExchangeReply::Change(change) => self.changes.push(change.status.change),
            ExchangeReply::Association { association, .. } => self.associations.push(*association),
            ExchangeReply::Sealed(sealed) => self.sealed.push(sealed.apdu.clone()),
            ExchangeReply::Rows(rows) => self.rows.extend(rows.iter().cloned()),
            _ => {}
        }
    }
}

fn one_of<T: Clone>(draw: &mut Draw, from: &[T]) -> Option<T> {
    let count = u64::try_from(from.len()).unwrap();
    if count == 0 { None } else { from.get(draw.below(count) as usize).cloned() }
}

fn approvals() -> Vec<Approval> {
    vec![Approval("mallory".into()), Approval("eve".into())]
}

/// A request that no honest `keys` would make, or makes at another time.
fn hostile(draw: &mut Draw, loot: &Loot, meter: u8) -> KeyRequest {
    let system_title = title(meter);
    let key =
        KeyRef { system_title, kind: KeyKind::ALL[draw.below(3) as usize], version: draw.below(6) as u32 };
    let change = one_of(draw, &loot.changes).unwrap_or(N16([7; 16]));
    let association = one_of(draw, &loot.associations).unwrap_or(N16([7; 16]));
    match draw.below(20) {
        0..=5 => seal(meter, draw.below(5_000)),
        6 => KeyRequest::BeginKeyChange { system_title, items: vec![KeyKind::Guek, KeyKind::Gak] },
        7 => KeyRequest::BeginKeyChange { system_title, items: vec![KeyKind::Kek] },
        8 => KeyRequest::ReportKeyChange { change, outcome: ChangeOutcome::NoReply },
        9 => {
            let apdu = one_of(draw, &loot.sealed).unwrap_or_default();
            KeyRequest::ReportKeyChange { change, outcome: ChangeOutcome::Reply { apdu } }
        }
        10 => KeyRequest::ReportKeyChange { change, outcome: ChangeOutcome::Abandon },
        11 => KeyRequest::ProbePlan { system_title },
        12 => KeyRequest::OpenAssociation(OpenAssociation {
            system_title,
            mechanism: 5,
            candidate: draw.below(3) as u8,
        }),
        13 => {
            let step = HlsStep::Challenge { server_to_client: vec![draw.below(256) as u8; 16] };
            KeyRequest::ContinueHls { association, step }
        }
        14 => {
            // The last two are for good: they come seldom, or nothing would be left to seal with.
            let acts = [KeyAct::Suspend, KeyAct::Resume, KeyAct::Compromise, KeyAct::Destroy];
            let most = if draw.below(16) == 0 { 4 } else { 2 };
            let act = acts[draw.below(most) as usize].clone();
            KeyRequest::KeyAct { key, act, approvals: approvals(), reason: "because".into() }
        }
        15 => {
            let state = [DeviceState::Operating, DeviceState::Quarantined][draw.below(2) as usize];
            KeyRequest::SetState { device: name(meter), state, attested_at: UtcTime(draw.below(1 << 40)) }
        }
        16 => KeyRequest::OpenFrom { system_title, apdu: one_of(draw, &loot.sealed).unwrap_or_default() },
        17 => KeyRequest::SetClaim { system_title, claim: ClaimState::Claiming },
        18 => {
            // Rows of its own, and such as the service has given away, changed in one byte.
            let mut rows = loot.rows.clone();
            rows.truncate(20);
            for row in &mut rows {
                let at = draw.below(row.value.0.len().max(1) as u64) as usize;
                if let Some(byte) = row.value.0.get_mut(at) {
                    *byte ^= 1 << draw.below(8);
                }
            }
            KeyRequest::Site(SiteRequest::Reconcile { rows })
        }
        _ => KeyRequest::Site(match draw.below(6) {
            0 => SiteRequest::Promote { above: draw.below(9) as u32, approvals: approvals() },
            1 => SiteRequest::Restore {
                witness: Some(draw.below(9) as u32),
                changed_since: vec![system_title],
                approvals: approvals(),
            },
            2 => SiteRequest::RaiseCounter { system_title, at_least: 0, approvals: approvals() },
            3 => SiteRequest::ApproveDegraded { until: UtcTime(u64::MAX), approvals: approvals() },
            4 => SiteRequest::Export {
                after: Some(ExportedRow { table: 0, key: Bytes(draw.bytes(40)), value: Bytes(vec![]) }),
            },
            _ => SiteRequest::Export { after: None },
        }),
    }
}

#[test]
fn s1_a_taken_over_keys_that_kills_its_core_at_will_cannot_make_it_repeat_a_nonce() {
    let station = Station::new("takeover", METERS);
    let (mut draw, mut nonces, mut loot) = (Draw(1), Nonces::default(), Loot::default());
    let (mut asked, mut denied) = (0, std::collections::BTreeMap::<_, u32>::new());
    for round in 0..24 {
        let mut core = station.core();
        for _ in 0..12 {
            let meters: Vec<u8> = (0..20).map(|_| 1 + draw.below(u64::from(METERS)) as u8).collect();
            let requests: Vec<KeyRequest> =
                meters.iter().map(|meter| hostile(&mut draw, &loot, *meter)).collect();
            let meters: Vec<SystemTitle> = requests
                .iter()
                .zip(&meters)
                .map(|(request, meter)| {
                    match request {
                        // The answer is about the meter of the change or of the association.
                        KeyRequest::ReportKeyChange { change, .. } => owner_of(&loot, change),
                        KeyRequest::ContinueHls { association, .. } => owner_of(&loot, association),
                        _ => None,
                    }
                    .unwrap_or(title(*meter))
                })
                .collect();
            asked += requests.len();
            let Some(replies) = core.ask(requests) else { panic!("ended: {}", core.ended()) };
            for (meter, reply) in meters.iter().zip(&replies) {
                nonces.reply(*meter, reply);
                if let KeyReply::Exchange(ExchangeReply::Denied(denial)) = reply {
                    *denied.entry(denial.name()).or_default() += 1;
                }
                loot.take(reply);
                loot.own(*meter, reply);
            }
        }
        match round % 3 {
            // Orders are on their way, and no answer is waited for.
            0 => {
                let requests = (0..20).map(|_| seal(1, 1_000 + draw.below(1_000))).collect();
                assert!(core.send(requests));
                core.kill();
            }
            // Bytes that are no orders end the core; what it decided before stays decided.
            1 => {
                assert!(core.send_bytes(&draw.bytes(4_000)));
                assert_eq!(core.receive().map(|replies| replies.len()), None);
                let said = core.ended();
                assert!(said.contains("no batch of requests"), "{said}");
            }
            _ => core.kill(),
        }
    }
    assert!(nonces.len() > 300, "{} of {asked} orders were sealed", nonces.len());
    println!("{asked} orders, {} nonces, each of them once; denied {denied:?}", nonces.len());
    audit(&station.keys(""));
}

/// Whose a change or an association is.
fn owner_of(loot: &Loot, id: &N16) -> Option<SystemTitle> {
    loot.owners.iter().find(|(known, _)| known == id).map(|(_, meter)| *meter)
}

#[test]
fn a_second_core_on_a_database_is_refused_and_one_that_was_pushed_aside_is_fenced() {
    let station = Station::new("second", 1);
    let mut nonces = Nonces::default();
    let mut first = station.core();
    nonces.reply(title(1), &first.answer(seal(1, 1)));
    let said = station.core().ended();
    assert!(said.contains("store.occupied"), "{said}");
    // Somebody helps the second one by removing the lock of the first.
    std::fs::remove_file(station.keys("keys.db-writer")).unwrap();
    let mut second = station.core();
    nonces.reply(title(1), &second.answer(seal(1, 2)));
    assert_eq!(first.ask(vec![seal(1, 3)]).map(|replies| replies.len()), None);
    let said = first.ended();
    assert!(said.contains("store.fenced"), "{said}");
    for id in 4..80 {
        nonces.reply(title(1), &second.answer(seal(1, id)));
    }
    assert_eq!(nonces.len(), 78);
}

#[test]
fn s1_a_full_disk_at_any_write_is_named_and_nothing_half_done() {
    let station = Station::new("full", 2);
    let mut nonces = Nonces::default();
    let (mut id, mut counter, mut refused) = (0, 0, 0);
    // The file may grow by a little each time: the disk is full at another write each time.
    for step in 0..12 {
        let files = ["keys.db", "keys.db-wal"].map(|name| station.keys(name));
        let sizes = files.each_ref().map(|file| std::fs::metadata(file).map_or(0, |meta| meta.len()));
        let blocks = sizes.into_iter().max().unwrap() / 1_024 + step * 7;
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" keys-core --config \"$1\"");
        let mut core = CoreProcess::start(
            Command::new("bash").args(["-c", &script, GRIDSEAL]).arg(station.keys("config.toml")),
        );
        let mut opened = None;
        loop {
            id += 1;
            counter += 1;
            let apdu = push(2, counter, b"reading");
            let open = KeyRequest::OpenApdu { apdu: apdu.clone() };
            let Some(replies) = core.ask(vec![seal(1, id), open]) else { break };
            nonces.reply(title(1), &replies[0]);
            assert!(matches!(verdict(replies[1].clone()), OpenVerdict::Fresh { .. }));
            opened = Some(apdu);
        }
        let said = core.ended();
        refused += usize::from(said.contains("store."));
        assert!(said.contains("store.") || said.contains("cannot"), "{said}");
        // With room again: what was answered before is known, and what was not may be told again.
        let mut core = station.core();
        if let Some(apdu) = opened {
            let verdict = verdict(core.answer(KeyRequest::OpenApdu { apdu }));
            assert!(matches!(verdict, OpenVerdict::Duplicate { .. }), "{verdict:?}");
        }
        let again = push(2, counter, b"reading");
        let verdict = verdict(core.answer(KeyRequest::OpenApdu { apdu: again }));
        assert!(matches!(verdict, OpenVerdict::Fresh { .. } | OpenVerdict::Duplicate { .. }));
        assert_eq!(core.ended().split(':').next(), Some("exit status"));
    }
    assert!(refused > 6, "{refused} of 12 ended with the store's code");
    audit(&station.keys(""));
}

/// A small file system in the place of a directory, with what was in it; gone with the value.
struct Small<'d>(&'d std::path::Path);

impl<'d> Small<'d> {
    /// `None` when this user may mount nothing.
    fn mount(dir: &'d std::path::Path) -> Option<Self> {
        let run = |program: &str, arguments: &[&str]| {
            let status = std::process::Command::new(program).args(arguments).status();
            status.is_ok_and(|status| status.success())
        };
        let (at, aside) = (dir.to_str().unwrap(), dir.with_extension("aside"));
        let aside = aside.to_str().unwrap();
        assert!(run("cp", &["-a", at, aside]));
        if !run("mount", &["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", at]) {
            return None;
        }
        let small = Self(dir);
        assert!(run("cp", &["-a", &format!("{aside}/."), at]));
        Some(small)
    }

    /// Leaves no room; gives it back with the file.
    fn fill(&self) -> std::path::PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4_096]).is_ok() {}
        ballast
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

//= S2: nothing that found no room is answered, and nothing rests on it
#[test]
fn a_full_store_refuses_what_it_cannot_record_goes_on_reading_and_recovers_by_itself() {
    use std::time::Duration;
    let station = Station::new("noroom", 2);
    let dir = station.owner("keys");
    let Some(small) = Small::mount(&dir) else {
        println!("NOT PROVEN: this user mounts nothing, so no disk was full");
        return;
    };
    let mut core = station.core();
    let mut nonces = Nonces::default();
    nonces.reply(title(1), &core.answer(seal(1, 1)));
    let is_full =
        |reply: &KeyReply| matches!(reply, KeyReply::Exchange(ExchangeReply::Denied(Denial::StoreFull)));
    let (mut id, mut counter) = (1, 0);
    for round in 0..3 {
        let ballast = small.fill();
        let mut refused = false;
        for _ in 0..2_000 {
            (id, counter) = (id + 1, counter + 1);
            // Several at a time, so that what is decided while the commit fails is refused as well.
            let frames = 4;
            for frame in 0..frames {
                let open = KeyRequest::OpenApdu { apdu: push(2, counter * frames + frame, b"reading") };
                assert!(core.send(vec![seal(1, id * frames + frame), open]));
            }
            for _ in 0..frames {
                let Some(replies) = core.receive() else { panic!("ended: {}", core.ended()) };
                nonces.reply(title(1), &replies[0]);
                assert_eq!(is_full(&replies[0]), is_full(&replies[1]), "done or refused as one");
                refused |= is_full(&replies[0]);
            }
            if refused {
                break;
            }
        }
        assert!(refused, "round {round}: never full");
        let again = seal(1, id * 4 + 3);
        assert!(is_full(&core.answer(again.clone())), "as long as there is no room");
        let status = core.answer(KeyRequest::KeyStatus { system_title: title(1) });
        assert!(matches!(status, KeyReply::Exchange(ExchangeReply::Status(_))), "{status:?}");
        std::fs::remove_file(ballast).unwrap();
        let goes_on = crate::machine::eventually(Duration::from_secs(30), || {
            let reply = core.answer(again.clone());
            nonces.reply(title(1), &reply);
            !is_full(&reply)
        });
        assert!(goes_on, "round {round}: it does not go on");
        let apdu = push(2, counter * 4 + 3, b"reading");
        let verdict = verdict(core.answer(KeyRequest::OpenApdu { apdu }));
        assert!(matches!(verdict, OpenVerdict::Fresh { .. } | OpenVerdict::Duplicate { .. }), "{verdict:?}");
    }
    assert_eq!(core.ended().split(':').next(), Some("exit status"));
    let told = audit(&station.keys(""));
    assert!(told.matches("store.has-room").count() >= 3, "{told}");
}

#[test]
fn a_data_key_that_is_due_is_replaced_and_everything_is_wrapped_anew() {
    let station = Station::new("datakey", METERS);
    station.data_key_since(UtcTime(1_000));
    assert_eq!(station.data_keys_in_use(), [0], "imported before data keys had numbers");
    let mut core = station.core();
    // The job goes on while nobody asks.
    let done =
        crate::machine::eventually(std::time::Duration::from_secs(20), || station.data_keys_in_use() == [2]);
    assert!(done, "{:?}", station.data_keys_in_use());
    sealed(core.answer(seal(1, 1)));
    let told = || audit(&station.keys(""));
    let ended = || told().contains("data-key.rewrapped");
    assert!(crate::machine::eventually(std::time::Duration::from_secs(20), ended), "{}", told());
    core.kill();
    let mut core = station.core();
    assert!(matches!(
        verdict(core.answer(KeyRequest::OpenApdu { apdu: push(2, 1, b"x") })),
        OpenVerdict::Fresh { .. }
    ));
    core.kill();
    assert_eq!(audit(&station.keys("")).matches("data-key.renewed").count(), 1, "once a year");
    // Without its data keys the service opens nothing, and says so.
    std::fs::rename(station.keys("data-keys.cbor"), station.keys("elsewhere")).unwrap();
    let said = station.core().ended();
    assert!(said.contains("keys.data_keys_missing"), "{said}");
}

#[test]
fn denials_are_coded_and_change_nothing() {
    let station = Station::new("denied", 2);
    let mut core = station.core();
    let denial = |reply: KeyReply| match reply {
        KeyReply::Exchange(ExchangeReply::Denied(denial)) => denial,
        other => panic!("not denied: {other:?}"),
    };
    assert_eq!(denial(core.answer(seal(9, 1))), Denial::UnknownDevice);
    let switch = [0xC3, 1, 0xC1, 0, 0x46, 0, 0, 0x60, 3, 10, 0xFF, 1, 1, 0x0F, 0];
    let KeyRequest::Seal(mut request) = seal(1, 1) else { unreachable!() };
    request.apdu = switch.to_vec();
    assert_eq!(denial(core.answer(KeyRequest::Seal(request))), Denial::PolicyDenied);
    let first = sealed(core.answer(seal(1, 2)));
    assert_eq!(sealed(core.answer(seal(1, 2))), first, "the same seal, the same bytes");
    let unnamed = |core: &mut CoreProcess| {
        let KeyRequest::Seal(request) = seal(1, 0) else { unreachable!() };
        assert_eq!(request.idempotency, Seal::UNNAMED);
        sealed(core.answer(KeyRequest::Seal(request)))
    };
    assert_eq!([unnamed(&mut core), unnamed(&mut core)].map(|sealed| sealed.counter), [1, 2]);
    let KeyRequest::Seal(mut other) = seal(1, 2) else { unreachable!() };
    other.apdu[9] = 1;
    assert_eq!(denial(core.answer(KeyRequest::Seal(other))), Denial::IdempotencyConflict);
    let held =
        KeyRequest::SetState { device: name(1), state: DeviceState::Suspended, attested_at: UtcTime(0) };
    assert!(matches!(core.answer(held), KeyReply::Done));
    assert_eq!(denial(core.answer(seal(1, 3))), Denial::StateForbids, "rule S13");
    let apdu = push(1, 1, b"x");
    assert_eq!(verdict(core.answer(KeyRequest::OpenApdu { apdu })), OpenVerdict::Rejected);
    assert_eq!(sealed(core.answer(seal(2, 4))).counter, 0, "of another meter nothing changed");
}

#[test]
fn the_service_runs_on_postgresql_survives_kills_and_is_there_once() {
    let server = Server::start(&[]);
    let station = Station::empty("postgres");
    let settings = format!("[postgres]\nconnection = \"{}\"\nschema = \"keys\"", server.connection());
    station.configure("127.0.0.1:0", &settings);
    {
        use gridseal_store::{Claim, SoleWriter, record_tag_key};
        let mut records = server.records("keys").authenticated_by(record_tag_key(&station.zone_key()));
        records.claim(Claim::IfFree, &station.keys("keys.marker")).unwrap();
        station.import(&mut records, 2);
    }
    let mut nonces = Nonces::default();
    let apdu = |counter| KeyRequest::OpenApdu { apdu: push(2, counter, b"reading") };
    let mut id = 0;
    for counter in 0..5 {
        let mut core = station.core();
        for _ in 0..20 {
            id += 1;
            nonces.reply(title(1), &core.answer(seal(1, id)));
        }
        assert!(matches!(verdict(core.answer(apdu(counter))), OpenVerdict::Fresh { .. }));
        assert!(matches!(verdict(core.answer(apdu(counter))), OpenVerdict::Duplicate { .. }));
        let said = station.core().ended();
        assert!(said.contains("store.occupied"), "{said}");
        // Frames are on their way, one group commit for several of them.
        for _ in 0..6 {
            id += 1;
            core.send(vec![seal(1, id)]);
        }
        core.kill();
    }
    assert_eq!(nonces.len(), 100);
    let told = gridseal_ok(&["audit", "--postgres", &server.connection()]);
    assert!(told.contains("data-key.rewrapped") && told.contains("apdus.exchanged"), "{told}");
    // A core that has lost its sessions writes nothing any more, and the next one serves.
    let mut lost = station.core();
    nonces.reply(title(1), &lost.answer(seal(1, 1_000)));
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gridseal keys'",
    );
    let mut next = station.core();
    nonces.reply(title(1), &next.answer(seal(1, 1_001)));
    assert_eq!(lost.ask(vec![seal(1, 1_002)]).map(|replies| replies.len()), None);
    let said = lost.ended();
    assert!(said.contains("store."), "{said}");
    nonces.reply(title(1), &next.answer(seal(1, 1_003)));
    // An older state of the whole is noticed by the marker, a changed row by its tag.
    next.kill();
    server.sql("UPDATE keys.records SET value = value || '\\x00'::bytea WHERE tbl = 'key_devices'");
    let said = station.core().ended();
    assert!(said.contains("store."), "{said}");
}
