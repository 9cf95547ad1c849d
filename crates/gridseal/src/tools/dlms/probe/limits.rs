//! Sizes, malformed messages, failed attempts, logs, images.

use std::time::Duration;

use gridseal_dlms::{
    acse::{Diagnostic, Mechanism},
    apdu::{
        get::GetRequest,
        reference::{AttributeId, InvokeId, MethodId, Selection},
    },
    wire::Data,
};
use gridseal_types::ObisCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    super::item::dotted,
    assay::Assay,
    associate::{Failure, Twist},
    service::{NAME, Outcome, number},
    talk::Setup,
};
use crate::lab::DEFAULT_PASSWORDS;

/// Wrong attempts in a row.
const ATTEMPTS: u32 = 5;
/// Bytes above the agreed size.
const EXCESS: usize = 256;
/// Name of the image that is never activated.
const IMAGE: &[u8] = b"gridseal-probe";

impl Assay<'_> {
    /// All of it.
    pub async fn limits(&mut self) {
        self.overlong().await;
        self.event_log();
        self.attempts().await;
        self.image().await;
    }

    async fn overlong(&mut self) {
        let Ok(mut open) = self.keyed().await else { return };
        let limit = usize::from(open.max_pdu);
        if limit == 0 || limit > 32_768 {
            return self.untried("pdu-overlong", "the meter names no size that can be exceeded");
        }
        let excess = vec![0; limit.saturating_add(EXCESS)];
        let parameter = Data::OctetString(&excess).to_bytes();
        let selection = Some(Selection { selector: 1, parameter: &parameter });
        let request = GetRequest::Normal { invoke_id: InvokeId::confirmed(1), attribute: NAME, selection };
        let mark = self.prober.mark();
        let apdu = self.prober.sealed(&self.setup, &request.to_bytes(), self.setup.protection, None);
        let what = format!("a request of {} bytes, where {limit} were agreed", apdu.len());
        match self.prober.try_get(&mut open, &what, &apdu).await {
            Outcome::Refused(why) => self.clean("pdu-overlong", &why),
            other => self.found("pdu-overlong", &what, &format!("taken: {}", other.text()), mark),
        }
    }

    fn event_log(&mut self) {
        let Some(objects) = &self.objects else {
            return self.untried("no-security-log", "the object list cannot be read");
        };
        let is_log = |obis: &ObisCode| matches!(*obis.groups(), [0, _, 99, 98, ..]);
        match objects.iter().find(|object| object.class == 7 && is_log(&object.obis)) {
            Some(log) => {
                let note = format!("{} is listed", dotted(log.obis));
                self.clean("no-security-log", &note);
            }
            None => {
                let seen = "no profile 0.0.99.98.e.255 among the objects";
                let last = self.prober.last(|exchange| exchange.what == "the list of objects");
                self.found_in("no-security-log", "the object list of the keyed client", seen, last);
            }
        }
    }

    /// The counter of refusals, if there is one: class 124, attribute 10.
    async fn refusals(&mut self) -> Option<u64> {
        let object = self.objects.as_ref()?.iter().find(|object| object.class == 124)?.obis;
        let mut open = self.keyed().await.ok()?;
        let attribute = AttributeId::new(124, object, 10);
        let outcome = self.prober.get(&mut open, "failed attempts as the meter counts them", attribute).await;
        number(outcome.value()?)
    }

    async fn attempts(&mut self) {
        let before = self.refusals().await;
        let mark = self.prober.mark();
        let mut answered = 0_u32;
        for _ in 0..ATTEMPTS {
            if self.wrong_attempt().await {
                answered = answered.saturating_add(1);
            }
        }
        if answered < ATTEMPTS {
            return self.clean("attempts-uncounted", "the meter stopped answering: it slows down or locks");
        }
        let after = self.refusals().await;
        let tried = format!("{ATTEMPTS} wrong attempts in a row");
        match (before, after) {
            (Some(before), Some(after)) if after > before => {
                self.clean("attempts-uncounted", &format!("counted: {before} before, {after} after"));
            }
            (Some(_), Some(_)) => {
                let seen = "all answered; the port protection counted none";
                self.found("attempts-uncounted", &tried, seen, mark);
            }
            _ => {
                let seen = "all answered; no port protection (class 124) says that it counts";
                self.found("attempts-uncounted", &tried, seen, mark);
            }
        }
    }

    /// One attempt with a wrong proof; whether it was answered.
    async fn wrong_attempt(&mut self) -> bool {
        let what = Some("an attempt with a wrong proof".to_owned());
        if self.is_high_level() {
            let Ok(half) = self.prober.begin(self.setup, &Twist { value: None, what }).await else {
                return false;
            };
            return matches!(self.prober.prove(half, true).await, Err(Failure::ProofRefused(_)) | Ok(_));
        }
        // Without challenges the opening itself is the attempt.
        let value = Some(b"a wrong password".to_vec());
        let setup = Setup { mechanism: Mechanism::LowLevel, ..self.setup };
        let begun = self.prober.begin(setup, &Twist { value, what }).await;
        matches!(begun, Err(Failure::Rejected(..)) | Ok(_))
    }

    async fn malformed(&mut self) {
        if !self.dangers.malformed {
            return self.untried("malformed-kills", "a bad meter would be gone: ask with --danger-malformed");
        }
        if self.prober.is_hdlc() {
            return self.untried("malformed-kills", "malformed messages are for the TCP wrapper");
        }
        let mark = self.prober.mark();
        let (source, destination) = (self.setup.client_sap, self.setup.server_sap);
        let unit = |length: u16, apdu: &[u8]| {
            let header = [1, source, destination, length];
            let header: Vec<u8> = header.iter().flat_map(|field| field.to_be_bytes()).collect();
            [header.as_slice(), apdu].concat()
        };
        let whole = |apdu: &[u8]| unit(u16::try_from(apdu.len()).unwrap_or(u16::MAX), apdu);
        let deep =
            [&[0xC1, 1, 0xC1, 0, 8, 0, 0, 1, 0, 0, 255, 2, 0][..], [2, 1].repeat(200).as_slice()].concat();
        let messages: [(&str, Vec<u8>); 6] = [
            ("a unit that says 65,535 bytes and has one", unit(0xFFFF, &[0x60])),
            ("an AARQ whose length is 4 GiB", whole(&[0x60, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0xA1])),
            ("a ciphered request whose length is 4 GiB", whole(&[0xC8, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0x30])),
            ("an AARQ that ends inside a field", whole(&[0x60, 0x1D, 0xA1, 0x09, 0x06])),
            ("a value nested 200 deep", whole(&deep)),
            ("bytes that are no unit", vec![0xFF; 64]),
        ];
        for (what, bytes) in messages {
            let reply = self.throw(&bytes).await;
            self.prober.note(what, &bytes, &reply);
        }
        match self.keyed().await {
            Ok(_) => self.clean("malformed-kills", "six malformed messages, and the meter serves on"),
            Err(failure) => {
                let seen = format!("the meter serves nobody any more: {failure}");
                self.found("malformed-kills", "six malformed messages", &seen, mark);
            }
        }
    }

    /// Bytes on a connection of their own; what comes back, as text.
    async fn throw(&self, bytes: &[u8]) -> String {
        let patience = self.prober.timeout().min(Duration::from_secs(2));
        let thrown = tokio::time::timeout(patience, async {
            let mut stream = TcpStream::connect(self.prober.address()).await.ok()?;
            stream.write_all(bytes).await.ok()?;
            let mut piece = [0; 256];
            let count = stream.read(&mut piece).await.ok()?;
            Some(piece.get(..count).unwrap_or_default().to_vec())
        });
        match thrown.await {
            Err(_) => "(no answer)".into(),
            Ok(None) => "(no connection, or reset)".into(),
            Ok(Some(bytes)) if bytes.is_empty() => "(connection closed)".into(),
            Ok(Some(bytes)) => hex::encode(bytes),
        }
    }

    /// An image of random bytes, up to its verification; never activated.
    async fn image(&mut self) {
        if !self.dangers.write {
            return self.untried("image-unsigned", "writes to the meter: ask with --danger-write");
        }
        let object =
            self.objects.as_ref().and_then(|objects| objects.iter().find(|object| object.class == 18));
        let Some(obis) = object.map(|object| object.obis) else {
            return self.untried("image-unsigned", "the meter lists no image transfer");
        };
        let Ok(mut open) = self.keyed().await else { return };
        let mark = self.prober.mark();
        let contents = [0xA5; 64];
        let size = Data::DoubleLongUnsigned(64);
        let initiate = Data::Structure(vec![Data::OctetString(IMAGE), size]).to_bytes();
        let block =
            Data::Structure(vec![Data::DoubleLongUnsigned(0), Data::OctetString(&contents)]).to_bytes();
        let go = Data::Integer(0).to_bytes();
        for (method, value) in [(1, &initiate), (2, &block)] {
            let outcome = self.prober.action(&mut open, MethodId::new(18, obis, method), value).await;
            if !matches!(outcome, Outcome::Done(..)) {
                let note = format!("the image does not get in: {}", outcome.text());
                return self.clean("image-unsigned", &note);
            }
        }
        let verified = self.prober.action(&mut open, MethodId::new(18, obis, 3), &go).await;
        let status = self.prober.get(&mut open, "status of the image", AttributeId::new(18, obis, 6)).await;
        let status = status.value().and_then(number);
        if status == Some(3) || matches!(verified, Outcome::Done(..)) {
            let seen = "64 bytes without a signature were verified as good; they were not activated";
            self.found("image-unsigned", "an image up to its verification", seen, mark);
        } else {
            self.clean("image-unsigned", &format!("verification: {}", verified.text()));
        }
    }

    /// Other clients under the same keys, and passwords that anybody tries first.
    pub async fn others(&mut self) {
        self.shared_clients().await;
        self.passwords().await;
        // After it there may be no meter any more.
        self.malformed().await;
    }

    async fn shared_clients(&mut self) {
        if !self.setup.is_ciphered() {
            return self.untried("key-shared-clients", "the association is not ciphered");
        }
        let mut clients: Vec<u16> = vec![1, 2, 3];
        clients.extend(self.prober.lab.associations.iter().map(|association| association.sap));
        clients.retain(|sap| *sap != self.setup.client_sap);
        clients.sort_unstable();
        clients.dedup();
        let mark = self.prober.mark();
        let mut opened = Vec::new();
        for client_sap in clients {
            if self.prober.is_over() {
                return;
            }
            if self.prober.begin(Setup { client_sap, ..self.setup }, &Twist::default()).await.is_ok() {
                opened.push(client_sap.to_string());
            }
        }
        match opened.is_empty() {
            true => self.clean("key-shared-clients", "no other client is opened by these keys"),
            false => {
                let seen = format!("accepted for client {}", opened.join(", "));
                self.found("key-shared-clients", "the same keys as other clients", &seen, mark);
            }
        }
    }

    async fn passwords(&mut self) {
        if self.dangers.no_passwords {
            return self.untried("password-default", "--no-passwords was given");
        }
        let mut clients = vec![self.setup.client_sap, 1];
        clients.dedup();
        for client_sap in clients {
            for password in DEFAULT_PASSWORDS {
                if self.prober.is_over() {
                    return;
                }
                let setup = Setup { client_sap, mechanism: Mechanism::LowLevel, ..self.setup.public() };
                let what = Some(format!("client {client_sap} with a default password"));
                let twist = Twist { value: Some(password.as_bytes().to_vec()), what };
                let mark = self.prober.mark();
                match self.prober.begin(setup, &twist).await {
                    Ok(_) => {
                        let seen = format!(
                            "client {client_sap} opened with one of {} default passwords",
                            DEFAULT_PASSWORDS.len()
                        );
                        return self.found(
                            "password-default",
                            "mechanism 1 with default passwords",
                            &seen,
                            mark,
                        );
                    }
                    // No password helps where the mechanism is refused by its name.
                    Err(Failure::Rejected(Diagnostic::User(2 | 11), _) | Failure::Connect(_)) => break,
                    Err(_) => {}
                }
            }
        }
        self.clean("password-default", "no default password opens an association");
    }
}
