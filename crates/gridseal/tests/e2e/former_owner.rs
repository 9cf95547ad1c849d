//! After a sale the seller comes back with everything that he had before it: databases, configuration, keys, credentials,
//! recorded messages, and the network between the meter and its new owner. None of it has an effect, and each has a code.

use std::{path::Path, time::Duration};

use gridseal_api::client::Client;
use gridseal_io::tls::{Alpn, dateless, mutual, pinned, spki_hash};
use gridseal_trust::enrol::relay::{RelayItem, RelayPull, RelayWork};
use gridseal_types::{
    N16, UtcTime,
    service::{
        Batch,
        keys::{KeyReply, KeyRequest, OpenVerdict, OrderAct, OrderRequest},
    },
};

use crate::{
    machine::{gridseal, gridseal_ok},
    ownership::{answered, device, handed, hurry, row_of, sell, sign_over},
    peer::{StolenMeter, certificates, post, request, say, status_of, stolen_identity, talk},
    site::{Plan, Site, Told, set, text},
};

/// The seller's own processes, in the order of their start.
const PROCESSES: [&str; 5] = ["pki", "keys", "config-server", "headend", "endpoint-manager"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

/// One request to a key service, under the name of another service of its zone.
fn ask_keys(site: &Site, owner: &Path, name: &str, request: KeyRequest) -> KeyReply {
    let roots = certificates(&owner.join("keys/inner-root.pem"));
    let identity = stolen_identity(&owner.join(name));
    let body = minicbor::to_vec(Batch(vec![request])).unwrap();
    let answer = post((site.addresses.keys, "keys"), &roots, Some(&identity), ("/keys/v1", body)).unwrap();
    let Batch(mut replies): Batch<KeyReply> = minicbor::decode(&answer.body).unwrap();
    replies.remove(0)
}

/// Somebody in the place of the buyer's endpoint manager, with its identity: he takes what the meter sends to its head-end,
/// and answers what he likes.
struct Between {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Between {
    fn new(site: &Site) -> Self {
        let buyer = site.scratch.path().join("buyer");
        let identity = stolen_identity(&buyer.join("endpoint-manager"));
        let roots = certificates(&buyer.join("headend/inner-root.pem"));
        let config = std::fs::read_to_string(buyer.join("headend/config.toml")).unwrap();
        let line = config.lines().find(|line| line.starts_with("listen_inner")).unwrap();
        let address = line.split('"').nth(1).unwrap().to_owned();
        let tls = mutual(&roots, &identity, Alpn::Http2).unwrap();
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            client: Client::new(address, tls, "headend").with_timeout(Duration::from_secs(40)),
        }
    }

    fn relay(&self, replies: Vec<(u64, Option<Vec<u8>>)>) -> Vec<RelayItem> {
        let pull = RelayPull { replies, most: 8 }.encode();
        let answer = self.runtime.block_on(self.client.post("/gso/v1/relay", pull)).unwrap();
        RelayWork::decode(&answer.body).unwrap().0
    }

    /// The meter's next question.
    fn question(&self) -> RelayItem {
        for _ in 0..10 {
            if let Some(item) = self.relay(Vec::new()).pop() {
                return item;
            }
        }
        panic!("the meter asks for nothing")
    }
}

#[test]
fn a15_nothing_that_a_seller_has_kept_has_any_effect() {
    let mut site = Site::new("former-owner", Plan { log_frames: true, ..Plan::default() });
    set(&site.owner("headend/config.toml"), "log_frames", "true");
    hurry(&site, "owner");
    for name in ["endpoint-manager", "headend"] {
        site.kill(name);
    }
    for name in ["headend", "endpoint-manager"] {
        site.start(name);
        site.await_ready(name);
    }
    let serial = site.meters[0].clone();
    let meter = format!("meter {serial}");
    site.onboard(&serial);
    device(&site, &["attest"], &serial);
    answered(&mut site, "attest");
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    // Everything that he has, while he still is the owner; of the meter too.
    for name in PROCESSES.iter().rev() {
        site.kill(name);
    }
    let (owner, kept) = (site.owner(""), site.scratch.path().join("kept"));
    copy(&owner, &kept);
    for name in PROCESSES {
        site.start(name);
        site.await_ready(name);
    }
    let old_meter = StolenMeter::take(&site.factory(&serial));
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    let recorded = |site: &Site, process: &str, event: &str, field: &str| {
        let told = site.log.iter().filter(|told| told.is(process, event));
        told.map(|told| hex::decode(told.field(field)).unwrap()).collect::<Vec<_>>()
    };
    let old_pushes = recorded(&site, &meter, "pushed", "frame");
    let old_orders: Vec<Vec<u8>> = {
        let frames = site.log.iter().filter(|told| told.is("headend", "frame"));
        let to_meter = frames.filter(|told| told.field("direction") == "to-device");
        let bytes = to_meter.map(|told| hex::decode(told.field("wire")).unwrap());
        bytes.filter(|bytes| bytes.starts_with(&[0x85, 1, 9])).collect()
    };
    assert!(!old_orders.is_empty() && !old_pushes.is_empty());
    let old_messages = recorded(&site, "config-server", "frame", "wire");

    let (seller, buyer) = sell(&mut site, &serial);
    let receipt = text(&site.scratch.path().join(format!("receipts/{serial}.receipt")));

    // He puts everything back.
    for name in PROCESSES.iter().rev() {
        site.kill(name);
    }
    std::fs::remove_dir_all(&owner).unwrap();
    copy(&kept, &owner);
    for name in PROCESSES {
        site.start(name);
        site.await_ready(name);
    }
    assert_eq!(site.register()[&serial]["state"], "operating", "for him it is still his");

    // The old voucher and a new redirect: the manufacturer's init server knows a later owner.
    let shipment = text(&site.factory("shipment.cbor"));
    let _ = gridseal(&["import", "shipment", "--config", &seller, &shipment]);
    site.expect("the init server's refusal", |told| {
        told.is("init-server", "refused") && told.field("code") == "E_FORK"
    });
    // The same voucher sold once more.
    sign_over(&site, "owner/owner.toml", "third");
    let third = handed(&site, "third", "elsewhere");
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(!third.status.success() && said.contains("E_FORK"), "{said}");
    // His receipt ends his own ownership, and no other.
    let verified = gridseal(&[
        "device",
        "receipt",
        "verify",
        "--json",
        &receipt,
        "--config",
        &buyer,
        "--shipment",
        &shipment,
    ]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("receipt.other-sale"));

    // His register takes an order; the meter's questions are not for him.
    device(&site, &["attest"], &serial);
    site.kill("buyer endpoint-manager");
    let between = Between::new(&site);
    let item = between.question();
    let pin = spki_hash(&certificates(&site.owner("config-server/field.pem"))[0]).unwrap();
    let tls = pinned(vec![pin], Alpn::Http1).unwrap();
    let told = talk(say(
        &tls,
        site.addresses.config,
        &request("/gso/v1/config", &item.message),
        Duration::from_secs(5),
    ));
    assert_eq!(status_of(&told).0, 200, "the uniform error");
    site.expect("his endpoint manager's refusal", |told| {
        told.is("endpoint-manager", "refused") && told.field("code") == "E_UNKNOWN"
    });
    assert_eq!(site.register()[&serial]["jobs"], serde_json::json!(["attest"]), "it waits for ever");

    // He stands between the meter and its owner, and answers its questions: with orders that he has recorded, with one
    // that his key service makes now, and with messages of his session.
    let fresh =
        OrderRequest { device: device_name(&site, &serial), id: N16([7; 16]), act: OrderAct::Suspend };
    let KeyReply::Ordered(fresh) = ask_keys(&site, &owner, "endpoint-manager", KeyRequest::Order(fresh))
    else {
        panic!("his key service makes no order")
    };
    let to_meter =
        |wire: &&Vec<u8>| wire.first() == Some(&0x84) && matches!(wire.get(2), Some(2 | 4 | 6 | 8));
    let of_session = old_messages.iter().filter(to_meter).cloned();
    for message in old_orders.last().cloned().into_iter().chain([fresh.wire]).chain(of_session) {
        // It asks when it has power again, and after that at its leisure.
        site.kill(&meter);
        site.start(&meter);
        let is_refused = (0..6).any(|_| {
            let item = between.question();
            between.relay(vec![(item.id, Some(message.clone()))]);
            let refused = |told: &Told| told.is(&meter, "refused") && !told.field("code").is_empty();
            site.wait(Duration::from_secs(6), refused).is_some()
        });
        assert!(is_refused, "{}", site.report(40));
    }
    drop(between);

    // Its old keys: his key service opens nothing that it says now, its owner's nothing that it has said before.
    let pushed = site.expect("a reading", |told| told.is(&meter, "pushed"));
    let apdu_of = |frame: &[u8]| frame.get(8..).unwrap_or_default().to_vec();
    let says = apdu_of(&hex::decode(pushed.field("frame")).unwrap());
    let opened = ask_keys(&site, &owner, "headend", KeyRequest::OpenApdu { apdu: says });
    assert!(matches!(opened, KeyReply::Apdu(OpenVerdict::Rejected)), "{opened:?}");
    let link = StolenMeter::take(&site.factory(&serial));
    let buyer_headend = field_address(&site, "buyer/headend");
    for frame in &old_pushes {
        link.push(buyer_headend, frame);
    }
    site.expect("its owner's refusal", |told| told.is("buyer headend", "frame-refused"));

    // Its old certificate and key, as if they had leaked: not at its owner's head-end. What it has now: not at his.
    assert!(old_meter.push(buyer_headend, &old_pushes[0]).is_empty());
    site.expect("its owner's head-end refuses it", |told| {
        told.is("buyer headend", "handshake-failed") || told.is("buyer headend", "link-refused")
    });
    let roots = certificates(&site.owner("pki/issuing.pem"));
    let at_his = dateless(&roots[1..], UtcTime(0), Some(&link.identity), Alpn::Raw).unwrap();
    talk(say(&at_his, site.addresses.headend, &old_pushes[0], Duration::from_secs(2)));
    site.expect("his head-end does not know it", |told| {
        told.is("headend", "handshake-failed") || told.is("headend", "link-refused")
    });
    // The meter itself does not take his head-end for its owner's.
    site.kill("buyer headend");
    site.kill("headend");
    let (from, to) = (site.addresses.headend.to_string(), buyer_headend.to_string());
    let config = site.owner("headend/config.toml");
    let text_before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text_before.replace(&format!("listen = \"{from}\""), &format!("listen = \"{to}\"")),
    )
    .unwrap();
    site.start("headend");
    site.await_ready("headend");
    let refused = site.expect("the meter refuses it", |told| told.is(&meter, "terminus-unreachable"));
    assert!(refused.field("error").to_lowercase().contains("certificate"), "{:?}", refused.json);
    site.kill("headend");

    // Its owner goes on as if nothing had been.
    for name in ["buyer headend", "buyer endpoint-manager"] {
        site.start(name);
        site.await_ready(name);
    }
    site.kill(&meter);
    site.start(&meter);
    site.expect("a reading for its owner", |told| told.is("buyer headend", "stored"));
    let reason = ["device", "attest", "--config", &buyer, "--reason", "test", &serial];
    gridseal_ok(&reason);
    site.expect("its attestation", |told| {
        told.is("buyer endpoint-manager", "answered") && told.field("order") == "attest"
    });
    let row = row_of(&buyer);
    assert_eq!((&row["state"], &row["epoch"]), (&"operating".into(), &2.into()), "{row}");
}

fn device_name(site: &Site, serial: &str) -> gridseal_types::EkName {
    let name = hex::decode(site.register()[serial]["device"].as_str().unwrap()).unwrap();
    gridseal_types::EkName::from_slice(&name).unwrap()
}

/// Where a process listens for meters.
fn field_address(site: &Site, process: &str) -> std::net::SocketAddr {
    let config = std::fs::read_to_string(site.scratch.path().join(process).join("config.toml")).unwrap();
    let line = config.lines().find(|line| line.starts_with("listen =")).unwrap();
    line.split('"').nth(1).unwrap().parse().unwrap()
}
