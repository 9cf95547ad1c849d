//! Bad input at every port: one clear answer, nothing changed, the process lives on and the next honest meter onboards
//! (rule S11; onboarding 7.2 and 7.3, A8, A9 and A20).

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use gridseal_io::tls::{Alpn, ClientTls, dateless, pinned, spki_hash};
use gridseal_store::SqliteRecords;
use gridseal_types::{
    Digest, EkName, Sid, UtcTime,
    records::Records,
    service::{
        Batch,
        certificates::{CertificateReply, CertificateRequest},
        keys::{KeyReply, KeyRequest},
    },
};

use crate::{
    peer::{
        StolenMeter, certificates, hello_of_tls_1_2, inner, post, request, say, say_plain, status_of,
        stolen_identity, talk,
    },
    site::{Plan, SERVERS, Site},
};

/// Tables with what the two inner stores know; all but the audit log, which tells of refusals too.
const REGISTER: [&str; 3] = ["em_devices", "em_sessions", "em_replaced"];
const KEYS: [&str; 5] = ["key_devices", "key_pseudonyms", "key_titles", "key_sessions", "key_versions"];
const INIT: [&str; 1] = ["init_redirects"];

/// Everything that bad input must not change, as one hash per table.
fn state(site: &Site) -> BTreeMap<&'static str, [u8; 32]> {
    let stores: [(_, &[&'static str]); 3] = [
        (site.owner("endpoint-manager/register.db"), &REGISTER),
        (site.owner("keys/keys.db"), &KEYS),
        (site.factory("init-server/init.db"), &INIT),
    ];
    let mut hashes = BTreeMap::new();
    for (path, tables) in stores {
        let records = SqliteRecords::open(&path).unwrap();
        for table in tables {
            let rows = records.range(table, &[], 1_000_000).unwrap();
            let bytes: Vec<u8> = rows.into_iter().flat_map(|(key, value)| [key, value].concat()).collect();
            hashes.insert(*table, gridseal_crypto::sha256(&[&bytes]));
        }
    }
    hashes
}

/// Process ids of all servers: who is another was restarted, who is missing has ended.
fn alive(site: &mut Site) -> Vec<(u32, bool)> {
    SERVERS.iter().map(|server| (site.id(server), site.is_running(server))).collect()
}

/// A field port: address, path, and what a device believes of it.
struct Field {
    name: &'static str,
    address: SocketAddr,
    path: &'static str,
    tls: ClientTls,
    body_size_max: usize,
}

fn field_ports(site: &Site) -> [Field; 2] {
    let init_ca = certificates(&site.owner("endpoint-manager/init-ca.pem"));
    let pin = spki_hash(&certificates(&site.owner("config-server/field.pem"))[0]).unwrap();
    [
        Field {
            name: "init-server",
            address: site.addresses.init,
            path: "/gso/v1/init",
            tls: dateless(&init_ca, UtcTime(0), None, Alpn::Http1).unwrap(),
            body_size_max: 64 * 1024,
        },
        Field {
            name: "config-server",
            address: site.addresses.config,
            path: "/gso/v1/config",
            tls: pinned(vec![pin], Alpn::Http1).unwrap(),
            body_size_max: 528 * 1024,
        },
    ]
}

impl Field {
    fn say(&self, bytes: &[u8]) -> (u16, Vec<u8>) {
        status_of(&talk(say(&self.tls, self.address, bytes, Duration::from_secs(5))))
    }

    fn post(&self, body: &[u8]) -> (u16, Vec<u8>) {
        self.say(&request(self.path, body))
    }
}

/// The uniform error: `[1, 0, id, 28 or 30, retry_after]`, and no other field that could tell cases apart.
fn is_uniform_error(body: &[u8]) -> bool {
    let mut reader = minicbor::Decoder::new(body);
    let fields = (|| {
        let count = reader.array()?;
        let (version, kind) = (reader.u8()?, reader.u8()?);
        let id = reader.bytes()?.len();
        Ok::<_, minicbor::decode::Error>((count, version, kind, id, reader.u8()?, reader.u32()?))
    })();
    let at_end = reader.position() == body.len();
    matches!(fields, Ok((Some(5), 1, 0, 16..=32, 28 | 30, _))) && at_end
}

/// Messages of the run as the servers told them: (direction, bytes).
fn frames(site: &Site, process: &str) -> Vec<(String, Vec<u8>)> {
    let told = site.log.iter().filter(|told| told.is(process, "frame"));
    told.map(|told| (told.field("direction").to_owned(), hex::decode(told.field("wire")).unwrap())).collect()
}

#[test]
fn s11_bad_input_at_the_field_ports_gets_one_answer_and_changes_nothing() {
    let mut site = Site::new("field", Plan { meters: 2, log_frames: true, ..Plan::default() });
    let meters = site.meters.clone();
    site.onboard(&meters[0]);
    site.kill(&format!("meter {}", meters[0]));
    site.settle();
    let (before, ids) = (state(&site), alive(&mut site));

    for field in field_ports(&site) {
        heads_are_checked(&field);
        wrong_transports_are_closed(field.address, field.name);
        let recorded = frames(&site, field.name);
        assert!(recorded.len() >= 3, "{} frames of {}", recorded.len(), field.name);
        malformed_messages_get_the_uniform_error(&field, &recorded);
    }
    wrong_transports_are_closed(site.addresses.headend, "headend");

    site.settle();
    assert_eq!(state(&site), before, "bad input changed something");
    assert_eq!(alive(&mut site), ids);
    site.onboard(&meters[1]);
}

/// Each head that is not as it must be has its own status, before any message is looked at.
fn heads_are_checked(field: &Field) {
    let Field { name, path, .. } = field;
    let head = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n").into_bytes()
    };
    let post = format!("POST {path}");
    let cbor = "Content-Type: application/cbor\r\n";
    let too_large = format!("{cbor}Content-Length: {}\r\n", field.body_size_max + 1);
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("not a POST", head(&format!("GET {path}"), ""), 405),
        ("another path", head("POST /gso/v1/relay", &format!("{cbor}Content-Length: 0\r\n")), 404),
        ("another type", head(&post, "Content-Type: application/json\r\nContent-Length: 0\r\n"), 415),
        ("no type", head(&post, "Content-Length: 0\r\n"), 415),
        (
            "no length",
            [head(&post, &format!("{cbor}Transfer-Encoding: chunked\r\n")), b"1\r\nx\r\n0\r\n\r\n".to_vec()]
                .concat(),
            411,
        ),
        ("too large", head(&post, &too_large), 413),
        ("far too large", head(&post, &format!("{cbor}Content-Length: 99999999999999\r\n")), 413),
        ("no HTTP", b"\x00\x01\x02 what\r\n\r\n".to_vec(), 400),
    ];
    for (case, bytes, expected) in cases {
        let (status, body) = field.say(&bytes);
        assert_eq!((status, body.len()), (expected, 0), "{name}: {case}");
    }
    // A body that breaks off gets no message in answer, and holds nobody up.
    let mut broken_off = request(path, &[0x84; 100]);
    broken_off.truncate(broken_off.len() - 90);
    let (status, body) = field.say(&broken_off);
    assert!(status == 0 || status >= 400, "{name}: {status}");
    assert!(body.is_empty());
}

/// Neither HTTP in clear nor TLS 1.2 gets a word of the protocol.
fn wrong_transports_are_closed(address: SocketAddr, name: &str) {
    let heard = say_plain(address, b"POST /gso/v1/config HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    // A TLS alert at most.
    assert!(heard.is_empty() || heard[0] == 0x15, "{name} answers plain HTTP: {heard:02x?}");
    let heard = say_plain(address, &hello_of_tls_1_2());
    assert_eq!(heard.first(), Some(&0x15), "{name}: a TLS 1.2 client gets an alert: {heard:02x?}");
    assert_eq!(heard.get(5..7), Some(&[2, 70][..]), "{name}: fatal, protocol_version");
}

/// Messages that are broken, cut off, of another kind or altered: always the same error.
fn malformed_messages_get_the_uniform_error(field: &Field, recorded: &[(String, Vec<u8>)]) {
    let mut bad: Vec<Vec<u8>> = vec![vec![], vec![0xff; 40], vec![0; 1_000], b"\x9f\xff".to_vec()];
    for (_, wire) in recorded {
        for cut in [1, wire.len() / 3, wire.len() / 2, wire.len() - 1] {
            bad.push(wire[..cut].to_vec());
        }
        // A message and something behind it; one with a bit flipped in its last bytes.
        bad.push([wire.as_slice(), &[0]].concat());
        let mut flipped = wire.clone();
        let last = flipped.len() - 2;
        flipped[last] ^= 1;
        bad.push(flipped);
    }
    for message in bad {
        let (status, body) = field.post(&message);
        let shown = hex::encode(message.get(..24).unwrap_or(&message));
        let is_refused = status == 200 && is_uniform_error(&body);
        assert!(
            is_refused,
            "{}: {} bytes {shown}..: {status} {}",
            field.name,
            message.len(),
            hex::encode(body)
        );
    }
}

#[test]
fn onboarding_7_3_replays_and_messages_of_other_sessions_change_nothing() {
    let mut site = Site::new("replay", Plan { meters: 3, log_frames: true, ..Plan::default() });
    let meters = site.meters.clone();
    for serial in &meters[..2] {
        site.onboard(serial);
        site.kill(&format!("meter {serial}"));
    }
    site.settle();
    let recorded = frames(&site, "config-server");
    let from_devices: Vec<_> =
        recorded.iter().filter(|(way, _)| way == "from-device").map(|f| f.1.clone()).collect();
    let answers: Vec<_> =
        recorded.iter().filter(|(way, _)| way == "to-device").map(|f| f.1.clone()).collect();
    assert_eq!((from_devices.len(), answers.len()), (8, 8), "C1 to C8 of two meters");

    // The messages of one session under the id of the other: sid is the third element, behind `[1, n,`.
    let mut crossed = Vec::new();
    for (one, other) in from_devices[1..4].iter().zip(&from_devices[5..8]) {
        for (message, id_of) in [(one, other), (other, one)] {
            let mut message = message.clone();
            message[4..20].copy_from_slice(&id_of[4..20]);
            crossed.push(message);
        }
    }
    let before = state(&site);
    let replay = |site: &Site, what: &str| {
        let [_, field] = field_ports(site);
        for (number, message) in from_devices.iter().enumerate() {
            let (status, body) = field.post(message);
            // Either the answer that was given to these bytes before, or the uniform error.
            let is_harmless = status == 200 && (body == answers[number] || is_uniform_error(&body));
            assert!(is_harmless, "{what}, message {number}: {status} {}", hex::encode(body));
        }
        for message in crossed.iter().chain(&answers) {
            let (status, body) = field.post(message);
            assert!(status == 200 && is_uniform_error(&body), "{what}: {status} {}", hex::encode(body));
        }
    };
    replay(&site, "at once");
    assert_eq!(state(&site), before, "replays changed something");

    // The relay has forgotten, and so has the memory of the endpoint manager: what is durable decides.
    for name in ["config-server", "endpoint-manager"] {
        site.kill(name);
        site.start(name);
        site.await_ready(name);
    }
    let ids = alive(&mut site);
    replay(&site, "after a restart");
    assert_eq!(state(&site), before, "replays after a restart changed something");
    assert_eq!(alive(&mut site), ids);

    // The init server answers the same question the same way, bound to its nonce; a replayed answer is no question.
    let [init, _] = field_ports(&site);
    for (way, wire) in frames(&site, "init-server") {
        let (status, body) = init.post(&wire);
        assert_eq!(status, 200);
        assert!(way == "received" || is_uniform_error(&body), "{}", hex::encode(body));
    }
    assert_eq!(state(&site), before);
    assert!(site.register().values().filter(|row| row["state"] == "operating").count() == 2);
    site.onboard(&meters[2]);
}

#[test]
fn z1_inner_ports_answer_only_their_own_callers() {
    let mut site = Site::new("inner", Plan { meters: 2, ..Plan::default() });
    let meters = site.meters.clone();
    site.onboard(&meters[0]);
    site.kill(&format!("meter {}", meters[0]));
    site.settle();
    let (before, ids) = (state(&site), alive(&mut site));
    let stolen = StolenMeter::take(&site.factory(&meters[0]));
    let roots = certificates(&site.owner("keys/inner-root.pem"));
    let identity = |name: &str| stolen_identity(&site.owner(name));

    let relay = (site.addresses.config_inner, "config-server", "/gso/v1/relay");
    let keys = (site.addresses.keys, "keys", "/keys/v1");
    let pki = (site.addresses.pki, "pki", "/pki/v1");
    let admissions = (site.addresses.headend_inner, "headend", "/headend/v1/admissions");
    // Each port, who may call it, and services that may not.
    let ports: [(_, &[&str], &[&str]); 4] = [
        (relay, &["endpoint-manager"], &["headend", "pki", "keys", "config-server"]),
        (keys, &["endpoint-manager", "headend"], &["config-server", "pki", "keys"]),
        (pki, &["endpoint-manager", "headend"], &["config-server", "keys"]),
        (admissions, &["endpoint-manager"], &["config-server", "keys", "pki", "headend"]),
    ];
    for ((address, name, path), callers, others) in ports {
        wrong_transports_are_closed(address, name);
        let to = (address, name);
        let empty = minicbor::to_vec(Batch::<KeyRequest>(Vec::new())).unwrap();
        assert!(post(to, &roots, None, (path, empty.clone())).is_err(), "{name} talks without a certificate");
        let by_meter = post(to, &roots, Some(&stolen.identity), (path, empty.clone()));
        assert!(by_meter.is_err(), "{name} talks to a meter's LDevID: {by_meter:?}");
        for other in others {
            let answer = post(to, &roots, Some(&identity(other)), (path, empty.clone())).unwrap();
            assert_eq!((answer.status, answer.body.len()), (403, 0), "{other} at {name}");
        }
        for caller in callers {
            let who = identity(caller);
            let status =
                |path: &str, body: Vec<u8>| post(to, &roots, Some(&who), (path, body)).unwrap().status;
            assert_eq!(status("/other", empty.clone()), 404, "{caller} at {name}");
            for malformed in [vec![], vec![0xff; 10], vec![0x82, 0x01]] {
                assert_eq!(status(path, malformed.clone()), 400, "{caller} at {name}: {malformed:02x?}");
            }
            assert_eq!(status(path, vec![0; 16 * 1024 * 1024 + 1]), 413, "{caller} at {name}");
        }
    }
    requests_of_the_wrong_caller_are_refused_one_by_one(&mut site);
    site.settle();
    assert_eq!(state(&site), before, "bad input changed something");
    assert_eq!(alive(&mut site), ids);
    // The stolen meter is no part of the fleet's troubles.
    site.onboard(&meters[1]);
}

/// What an authenticated service may not ask is refused request by request, and told.
fn requests_of_the_wrong_caller_are_refused_one_by_one(site: &mut Site) {
    let roots = certificates(&site.owner("keys/inner-root.pem"));
    let tls = |site: &Site, name: &str| {
        gridseal_io::tls::mutual(&roots, &stolen_identity(&site.owner(name)), Alpn::Http2).unwrap()
    };
    let requests = |wanted: Vec<KeyRequest>, who: &str, site: &Site| {
        let client = (site.addresses.keys, tls(site, who));
        talk(async move {
            let client = inner(client.0, client.1, "keys");
            client.call::<KeyRequest, KeyReply>("/keys/v1", &Batch(wanted)).await.unwrap().0
        })
    };
    let onboarding = || {
        vec![
            KeyRequest::SignRedirect { payload: vec![0xa0] },
            KeyRequest::OpenHello { wire: vec![0x85] },
            KeyRequest::SetState {
                device: EkName([0; 34]),
                state: gridseal_types::DeviceState::Operating,
                attested_at: UtcTime(1),
            },
            KeyRequest::Finish {
                sid: Sid([0; 16]),
                receipt: Digest([0; 32]),
                th6: Digest([0; 32]),
                th7: Digest([0; 32]),
                now: UtcTime(0),
                attested_at: UtcTime(0),
            },
        ]
    };
    let replies = requests(onboarding(), "headend", site);
    assert_eq!(replies.len(), 4);
    assert!(replies.iter().all(|reply| matches!(reply, KeyReply::Refused { .. })), "{replies:?}");
    site.expect("the refusal in the log", |told| {
        told.is("keys", "forbidden") && told.field("caller") == "headend" && told.field("requests") == "4"
    });
    let replies = requests(vec![KeyRequest::OpenApdu { apdu: vec![0xdb] }], "endpoint-manager", site);
    assert!(matches!(replies[..], [KeyReply::Refused { .. }]), "{replies:?}");

    // The head-end may have its own server certificate and no meter's.
    let request = CertificateRequest::LDevId {
        device: EkName([0; 34]),
        serial: "1".into(),
        model: "GS-1".into(),
        csr: vec![0x30, 0],
    };
    let (address, tls) = (site.addresses.pki, tls(site, "headend"));
    let replies = talk(async move {
        let client = inner(address, tls, "pki");
        client.call::<_, CertificateReply>("/pki/v1", &Batch(vec![request])).await.unwrap().0
    });
    assert!(matches!(replies[..], [CertificateReply::Refused { .. }]), "{replies:?}");
}

/// What a terminus says to a frame that it does not take.
const NOTHING: Vec<u8> = Vec::new();

/// Frames of a meter as it sent them, wrapper included.
fn pushed(site: &Site, serial: &str) -> Vec<Vec<u8>> {
    let told = site.log.iter().filter(|told| told.is(&format!("meter {serial}"), "pushed"));
    told.map(|told| hex::decode(told.field("frame")).unwrap()).collect()
}

#[test]
fn s5_replayed_altered_and_foreign_frames_store_no_reading() {
    let mut site = Site::new("frames", Plan { meters: 3, ..Plan::default() });
    let meters = site.meters.clone();
    for serial in &meters[..2] {
        site.onboard(serial);
    }
    for serial in &meters[..2] {
        site.kill(&format!("meter {serial}"));
    }
    site.settle();
    let (own, foreign) = (pushed(&site, &meters[0]), pushed(&site, &meters[1]));
    let stolen = StolenMeter::take(&site.factory(&meters[0]));
    let terminus = site.addresses.headend;
    let before = site.readings();
    let (stored, ids) = (before.len(), alive(&mut site));
    assert!(stored >= 2);

    // A frame of another meter over this one's link.
    assert_eq!(stolen.push(terminus, &foreign[0]), NOTHING, "acknowledged");
    site.expect("the refusal", |told| {
        told.is("headend", "frame-refused") && told.field("reason").contains("another meter")
    });
    // The very same bytes again: acknowledged, as their acknowledgement may have been lost, and stored once.
    assert_ne!(stolen.push(terminus, &own[0]), NOTHING, "a repetition is acknowledged (decision D1)");
    site.expect("a duplicate", |told| {
        told.is("headend", "stored") && told.field("readings") == "0" && told.field("duplicates") != "0"
    });
    // A bit flipped: no key of the meter has sealed that, whatever its counter.
    let mut flipped = own[0].clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(stolen.push(terminus, &flipped), NOTHING, "acknowledged");
    site.expect("the refusal", |told| {
        told.is("headend", "frame-refused") && told.field("reason") == "rejected"
    });
    // The same under a counter that is fresh: wrapper, 8 bytes, then DB, length, title, length, security control, counter.
    let mut forged = own[0].clone();
    forged[20..24].copy_from_slice(&0x00ff_0000u32.to_be_bytes());
    assert_eq!(stolen.push(terminus, &forged), NOTHING, "acknowledged");
    site.expect("the refusal", |told| {
        told.is("headend", "frame-refused") && told.field("reason") == "rejected"
    });
    // An APDU in clear, no wrapper at all, a wrapper that announces more than a frame may have.
    let in_clear = [&own[0][..6], &[0, 4], &[0x0f, 0, 0, 0]].concat();
    for bytes in [in_clear, vec![0xff; 64], [&own[0][..6], &[0xff, 0xff]].concat()] {
        assert_eq!(stolen.push(terminus, &bytes), NOTHING, "acknowledged");
        site.expect("the refusal", |told| told.is("headend", "frame-refused"));
    }
    // No certificate, and an identity of the inner network.
    let nobody = dateless(&stolen.ca_bundle, UtcTime(0), None, Alpn::Raw).unwrap();
    assert_eq!(talk(say(&nobody, terminus, &own[0], Duration::from_secs(2))), NOTHING);
    let inner = stolen_identity(&site.owner("endpoint-manager"));
    let inner = dateless(&stolen.ca_bundle, UtcTime(0), Some(&inner), Alpn::Raw).unwrap();
    assert_eq!(talk(say(&inner, terminus, &own[0], Duration::from_secs(2))), NOTHING);

    assert_eq!(site.readings(), before, "a reading was stored");
    assert_eq!(alive(&mut site), ids);
    // The forged counter has not moved the meter's window: it goes on where it was (rule S5).
    for serial in [&meters[0], &meters[2]] {
        site.onboard(serial);
    }
    assert!(site.readings().len() > stored);
}

/// A table that were misspelt would be empty before and after.
#[test]
fn tables_of_the_state_exist() {
    let mut site = Site::new("tables", Plan::default());
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let empty = gridseal_crypto::sha256(&[&[]]);
    let state = state(&site);
    for table in
        ["em_devices", "key_devices", "key_pseudonyms", "key_titles", "key_versions", "init_redirects"]
    {
        assert_ne!(state[table], empty, "{table} is empty: the test looks at the wrong place");
    }
    assert!(Path::new(&site.owner("headend/readings.db")).is_file());
}
