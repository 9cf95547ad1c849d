//! `gridseal meter serve` through real sockets: every mechanism and carrier, every forgery, restarts, new keys, HDLC.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use gridseal_crypto::{
    Curve, CurveSigner, Key,
    hls::Secret,
    role::{Guek, Kek},
};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::{
        carrier::Carrier,
        reference::{AttributeId, MethodId},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{
        AssociationHandle,
        client::{Client, ClientSettings, Event, Input, Output, OwnedSelection, Request, Response},
    },
    frame::{
        hdlc::{self, ClientAddress, Link, LinkEvent, LinkRole, LinkSettings, Parameters, ServerAddress},
        wrapper::{WrapperDecoder, WrapperFrame},
    },
    suite::local::{KeyRing, LocalCrypto, LocalSettings, Ports, SigningKeys, VolatileCounters},
    wire::Data,
};
use gridseal_io::{clock::tick_now, rng::OsRng};
use gridseal_types::{ObisCode, SystemTitle};
use serde_json::Value;

const CLIENT: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x01");
const SERVER: SystemTitle = SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);
const GUEK: &str = "000102030405060708090a0b0c0d0e0f";
const GAK: &str = "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf";
const KEK: &str = "101112131415161718191a1b1c1d1e1f";
const CLIENT_SIGNING: &str = "418073c239fa6125011de4d6cd2e645780289f761bb21bfb0835cb5585e8b373";
const SERVER_SIGNING: &str = "ae55414ffe079f9fc95649536bd1c2b5653d200813727e07d501a8b550c69207";
const SECRET: &str = "DLMSsecret123456";
const ENERGY: AttributeId = AttributeId::new(3, ObisCode::ACTIVE_ENERGY_IMPORT, 2);
const LOAD: AttributeId = AttributeId::new(7, ObisCode::LOAD_PROFILE_1, 2);
const NOTE: AttributeId = AttributeId::new(1, ObisCode::new([0, 0, 96, 1, 9, 255]), 2);
const BREAKER: ObisCode = ObisCode::new([0, 0, 96, 3, 10, 255]);
/// A set-up with one association for each mechanism: its access point is 20 and the mechanism's number.
const LAB: &str = r#"danger_test_keys = true
client_sap = 25
legacy = true
max_pdu = 512
[client]
system_title = "4D4D4D0000000001"
invocation_counter = 100
signing_key = "CLIENT_SIGNING"
[server]
system_title = "4D4D4D0000BC614E"
invocation_counter = 5000
signing_key = "SERVER_SIGNING"
[keys]
guek = "GUEK"
gak = "GAK"
gbek = "0F0E0D0C0B0A09080706050403020100"
kek = "KEK"
secret = "SECRET"
[[association]]
sap = 16
role = "public"
[[association]]
sap = 20
role = "management"
mechanism = 0
[[association]]
sap = 21
role = "management"
mechanism = 1
[[association]]
sap = 23
role = "management"
mechanism = 3
[[association]]
sap = 24
role = "management"
mechanism = 4
[[association]]
sap = 26
role = "management"
mechanism = 6
[[association]]
sap = 27
role = "management"
mechanism = 7
[[association]]
sap = 102
role = "broadcast"
[[object]]
class = 1
obis = "0.0.96.1.9.255"
access = "rw"
attribute_2 = "090178"
"#;

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn key<R: gridseal_crypto::role::Role>(text: &str) -> Key<R, 16> {
    Key::take_slice(&mut hex(text)).unwrap()
}

/// A meter process; stopped when dropped.
pub(crate) struct Meter {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Meter {
    pub(crate) fn start(dir: &Path, lab: &str, arguments: &[&str]) -> Self {
        let path = dir.join("lab.toml");
        let lab = lab
            .replace("CLIENT_SIGNING", CLIENT_SIGNING)
            .replace("SERVER_SIGNING", SERVER_SIGNING)
            .replace("GUEK", GUEK)
            .replace("GAK", GAK)
            .replace("KEK", KEK)
            .replace("SECRET", SECRET);
        std::fs::write(&path, lab).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_gridseal"))
            .args(["meter", "serve", "--json", "--listen", "127.0.0.1:0", "--lab"])
            .arg(&path)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (errors, entries) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                entries.lock().unwrap().extend(serde_json::from_str::<Value>(&line).ok());
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").expect(&line).parse().unwrap();
        Self { child, address, log }
    }

    pub(crate) fn causes(&self) -> Vec<String> {
        self.logged("cause")
    }

    /// Whether a cause is told, now or soon: its line may come after the answer.
    pub(crate) fn tells(&self, cause: &str) -> bool {
        crate::machine::eventually(Duration::from_secs(20), || {
            self.causes().iter().any(|told| told.contains(cause))
        })
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.logged("event")
    }

    fn logged(&self, field: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().map(|entry| entry[field].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn folder(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("gridseal-serve-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn crypto(guek: &str, counter: u64) -> LocalCrypto {
    let signing = |text: &str| CurveSigner::take(Curve::P256, &mut hex(text)).unwrap();
    let (own, server) = (signing(CLIENT_SIGNING), signing(SERVER_SIGNING));
    let peers = [(SERVER, server.public())].into();
    let ring = KeyRing {
        secret: Some(Secret::take(&mut SECRET.as_bytes().to_vec())),
        signing: Some(SigningKeys { own, peers }),
        ..KeyRing::new(key::<Guek>(guek), key(GAK))
    };
    let settings = LocalSettings { legacy_mechanisms: true, ..LocalSettings::client(0, CLIENT) };
    LocalCrypto::new(settings, ring, counter)
}

/// What the line does to an APDU of the client.
type Line = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>>;

/// A client and its connection.
struct Peer {
    stream: TcpStream,
    decoder: WrapperDecoder,
    link: Option<Link>,
    sap: u16,
    client: Client,
    crypto: LocalCrypto,
    line: Line,
    events: Vec<Event>,
    /// APDUs as they were sent and received.
    sent: Vec<Vec<u8>>,
    received: Vec<Vec<u8>>,
    handle: u64,
}

const fn sap_of(mechanism: Mechanism) -> u16 {
    20 + mechanism.number() as u16
}

fn settings(mechanism: Mechanism, carrier: Carrier) -> ClientSettings {
    ClientSettings { carrier, max_pdu: 512, ..ClientSettings::ciphered(CLIENT, mechanism) }
}

impl Peer {
    fn connect(meter: &Meter, sap: u16, settings: ClientSettings, crypto: LocalCrypto) -> Self {
        let stream = TcpStream::connect(meter.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            decoder: WrapperDecoder::new(65_535),
            link: None,
            sap,
            client: Client::new(settings, AssociationHandle(1)).unwrap(),
            crypto,
            line: Box::new(|apdu| vec![apdu]),
            events: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            handle: 1,
        }
    }

    /// Another association, over another connection, with the same keys and counters.
    fn again(self, meter: &Meter, sap: u16, settings: ClientSettings) -> Self {
        let handle = self.handle + 1;
        let client = Client::new(settings, AssociationHandle(handle)).unwrap();
        Self { client, handle, ..Self::connect(meter, sap, settings, self.crypto) }
    }

    fn associated(mut self) -> Self {
        self.give(Input::Associate);
        let opened = self.events.iter().any(|event| matches!(event, Event::Associated { .. }));
        assert!(opened, "{:?}", self.events);
        self
    }

    /// Feeds an input, and carries APDUs until the client has an event.
    fn give(&mut self, input: Input<'_>) {
        self.client.handle(tick_now(), input).unwrap();
        self.events.clear();
        self.drain();
        while self.events.is_empty() {
            let apdus = self.hear();
            if apdus.is_empty() {
                break;
            }
            for apdu in apdus {
                self.client.handle(tick_now(), Input::Received(&apdu)).unwrap();
                self.drain();
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Transmit(apdu) => {
                    for apdu in (self.line)(apdu) {
                        self.say(&apdu);
                    }
                }
                Output::Crypto(handle, id, operation) => {
                    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut OsRng };
                    let result = self.crypto.perform(handle, &operation, &mut ports);
                    let _ = self.client.handle(tick_now(), Input::CryptoDone(id, result));
                }
                Output::Event(event) => self.events.push(event),
                _ => {}
            }
        }
    }

    /// Sends one APDU as it is.
    fn say(&mut self, apdu: &[u8]) {
        self.sent.push(apdu.to_vec());
        match &mut self.link {
            None => {
                let frame = WrapperFrame::new(self.sap, 1, apdu.to_vec()).unwrap();
                self.stream.write_all(&frame.to_bytes()).unwrap();
            }
            Some(link) => {
                link.handle(tick_now(), hdlc::Input::Send(apdu)).unwrap();
                self.flush();
            }
        }
    }

    fn flush(&mut self) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        while let Some(output) = self.link.as_mut().unwrap().poll() {
            match output {
                hdlc::Output::Transmit(octets) => self.stream.write_all(&octets).unwrap(),
                hdlc::Output::Event(event) => events.push(event),
                _ => {}
            }
        }
        events
    }

    /// The next APDUs of the server; none when it has closed the connection.
    fn hear(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 4_096];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Vec::new(),
                Ok(count) => count,
                // A close with unread bytes arrives as a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Vec::new(),
                Err(error) => panic!("{error}"),
            };
            let mut apdus = Vec::new();
            match &mut self.link {
                None => {
                    self.decoder.push(&buffer[..count]).unwrap();
                    apdus.extend(std::iter::from_fn(|| self.decoder.poll()).map(WrapperFrame::into_apdu));
                }
                Some(link) => {
                    link.handle(tick_now(), hdlc::Input::Received(&buffer[..count])).unwrap();
                    for event in self.flush() {
                        match event {
                            LinkEvent::Apdu(apdu) => apdus.push(apdu),
                            LinkEvent::Connected(..) => apdus.push(Vec::new()),
                            other => panic!("{other:?}"),
                        }
                    }
                }
            }
            self.received.extend(apdus.iter().cloned());
            if !apdus.is_empty() {
                return apdus;
            }
        }
    }

    fn ask(&mut self, request: Request) -> Response {
        self.give(Input::Request(request));
        match self.events.last() {
            Some(Event::Response(response)) => response.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, attribute: AttributeId) -> Vec<u8> {
        match self.ask(Request::Get(attribute, None)) {
            Response::Get(Ok(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    fn act(&mut self, class: u16, obis: ObisCode, method: i8, value: &Data<'_>) -> ActionResult {
        match self.ask(Request::Action(MethodId::new(class, obis, method), Some(value.to_bytes()))) {
            Response::Action(outcome) => outcome.result,
            other => panic!("{other:?}"),
        }
    }

    /// Sends bytes and gives the one answer.
    fn provoke(&mut self, apdu: &[u8]) -> Vec<u8> {
        self.say(apdu);
        let apdus = self.hear();
        assert_eq!(apdus.len(), 1);
        apdus.into_iter().next().unwrap()
    }
}

const MECHANISMS: [Mechanism; 7] = [
    Mechanism::None,
    Mechanism::LowLevel,
    Mechanism::Md5,
    Mechanism::Sha1,
    Mechanism::Gmac,
    Mechanism::Sha256,
    Mechanism::Ecdsa,
];
const CARRIERS: [Carrier; 4] = [Carrier::Glo, Carrier::Ded, Carrier::GeneralGlo, Carrier::GeneralDed];

#[test]
fn every_mechanism_and_carrier_reads_writes_invokes_and_releases() {
    let dir = folder("all");
    let meter = Meter::start(&dir, LAB, &[]);
    let pairs = MECHANISMS.iter().flat_map(|mechanism| CARRIERS.map(|carrier| (*mechanism, carrier)));
    let mut keys = crypto(GUEK, 100);
    for (mechanism, carrier) in pairs {
        let mut peer =
            Peer::connect(&meter, sap_of(mechanism), settings(mechanism, carrier), keys).associated();
        assert_eq!(peer.read(ENERGY)[0], 6, "{mechanism:?} {carrier:?}");
        let before = peer.received.len();
        let profile = peer.read(LOAD);
        assert_eq!(profile[..2], [1, 96]);
        assert!(peer.received.len() > before + 4, "in blocks");
        let text = format!("{mechanism:?} {carrier:?}");
        let value = Data::OctetString(text.as_bytes()).to_bytes();
        let written = peer.ask(Request::Set(NOTE, None, value.clone()));
        assert_eq!(written, Response::Set(DataAccessResult::Success));
        let both = peer.ask(Request::GetList(vec![(NOTE, None), (ENERGY, None)]));
        assert!(matches!(both, Response::GetList(list) if list[0] == Ok(value)));
        for method in [1, 2] {
            assert_eq!(peer.act(70, BREAKER, method, &Data::Integer(0)), ActionResult::Success);
        }
        let last = Data::Structure(vec![
            Data::DoubleLongUnsigned(95),
            Data::DoubleLongUnsigned(0),
            Data::LongUnsigned(1),
            Data::LongUnsigned(0),
        ]);
        let selection = OwnedSelection { selector: 2, parameter: last.to_bytes() };
        let rows = peer.ask(Request::Get(LOAD, Some(selection)));
        assert!(matches!(rows, Response::Get(Ok(rows)) if rows[..2] == [1, 2]));
        peer.give(Input::Release);
        assert_eq!(peer.events, [Event::Released]);
        keys = peer.crypto;
    }
    // A value that is larger than an APDU, both ways.
    let mut peer =
        Peer::connect(&meter, 25, settings(Mechanism::Gmac, Carrier::GeneralGlo), keys).associated();
    let long = Data::OctetString(&[7; 3_000]).to_bytes();
    assert_eq!(peer.ask(Request::Set(NOTE, None, long.clone())), Response::Set(DataAccessResult::Success));
    assert_eq!(peer.read(NOTE), long);
    let list = peer.read(AttributeId::new(15, ObisCode::new([0, 0, 40, 0, 0, 255]), 2));
    assert!(list.len() > 3_000);
    // A push comes on the association that asked for it.
    let push = ObisCode::new([0, 0, 25, 9, 0, 255]);
    peer.give(Input::Request(Request::Action(MethodId::new(40, push, 1), Some(vec![0x0F, 0]))));
    assert!(matches!(peer.events.first(), Some(Event::Response(_))), "{:?}", peer.events);
    if peer.events.len() == 1 {
        for apdu in peer.hear() {
            peer.client.handle(tick_now(), Input::Received(&apdu)).unwrap();
        }
        peer.drain();
    }
    assert!(matches!(peer.events.last(), Some(Event::Notification(apdu)) if apdu[0] == 0x0F));
    // Nothing was refused on the way, and the public client needs no key and gets no reading.
    assert!(!meter.log.lock().unwrap().iter().any(|entry| entry["event"] == "refused"));
    let mut public = peer.again(&meter, 16, ClientSettings::public()).associated();
    let counter = AttributeId::new(1, ObisCode::new([0, 0, 43, 1, 0, 255]), 2);
    assert!(public.read(counter)[1..] > [0, 0, 0, 100][..], "highest counter of the client");
    let refused = public.ask(Request::Get(ENERGY, None));
    assert_eq!(refused, Response::Get(Err(DataAccessResult::ObjectUndefined)));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn before_authentication_every_failure_looks_alike_and_the_log_says_why() {
    let dir = folder("alike");
    let meter = Meter::start(&dir, LAB, &[]);
    let answer = |sap: u16, settings: ClientSettings, keys: LocalCrypto| {
        let mut peer = Peer::connect(&meter, sap, settings, keys);
        peer.give(Input::Associate);
        assert!(matches!(peer.events.last(), Some(Event::Refused(_))), "{:?}", peer.events);
        peer.received.pop().unwrap()
    };
    let gmac = settings(Mechanism::Gmac, Carrier::Glo);
    let wrong_key = answer(25, gmac, crypto(GAK, 100));
    let nobody = answer(99, gmac, crypto(GUEK, 100));
    let mechanism = answer(25, settings(Mechanism::Sha256, Carrier::Glo), crypto(GUEK, 100));
    let own_title = ClientSettings { own_title: Some(SERVER), ..gmac };
    let title = answer(25, own_title, crypto(GUEK, 100));
    let context =
        answer(25, ClientSettings { own_title: Some(CLIENT), ..ClientSettings::public() }, crypto(GUEK, 100));
    for (other, what) in
        [(nobody, "nobody"), (mechanism, "mechanism"), (title, "title"), (context, "context")]
    {
        assert_eq!(wrong_key, other, "{what}");
    }
    // A proof that is wrong, one that is another association's, and one that was used.
    let mut used = Peer::connect(&meter, 25, gmac, crypto(GUEK, 1_000)).associated();
    let (proof, pass_4) = (used.sent.last().unwrap().clone(), used.received.last().unwrap().clone());
    used.give(Input::Release);
    let mut answers = Vec::new();
    for forged in [proof, pass_4] {
        let mut peer = used.again(&meter, 25, gmac);
        peer.line = Box::new(move |apdu| if apdu[0] == 0x60 { vec![apdu] } else { vec![forged.clone()] });
        peer.give(Input::Associate);
        answers.push(peer.received.pop().unwrap());
        used = peer;
    }
    let mut peer = used.again(&meter, 25, gmac);
    peer.line = Box::new(|mut apdu| {
        if apdu[0] != 0x60 {
            *apdu.last_mut().unwrap() ^= 1;
        }
        vec![apdu]
    });
    peer.give(Input::Associate);
    answers.push(peer.received.pop().unwrap());
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:02x?}");
    // Another service before the proof.
    let mut early = peer.again(&meter, 25, gmac);
    early.line =
        Box::new(|apdu| if apdu[0] == 0x60 { vec![apdu] } else { vec![hex("C001C100030100010800FF0200")] });
    early.give(Input::Associate);
    assert_eq!(early.received.last(), Some(&answers[0]));
    for cause in
        ["tag does not verify", "mechanism", "title", "application context", "not above the last accepted"]
    {
        assert!(meter.tells(cause), "{cause} in {:?}", meter.causes());
    }
    let causes = meter.causes().join("\n");
    assert!(!causes.contains(GUEK) && !causes.contains(SECRET));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn every_forgery_is_refused_and_changes_nothing() {
    let dir = folder("forged");
    let meter = Meter::start(&dir, LAB, &[]);
    let gmac = settings(Mechanism::Gmac, Carrier::Glo);
    let mut peer = Peer::connect(&meter, 25, gmac, crypto(GUEK, 100)).associated();
    let set = |text: &[u8]| Request::Set(NOTE, None, Data::OctetString(text).to_bytes());
    assert_eq!(peer.ask(set(b"true")), Response::Set(DataAccessResult::Success));
    let (good, plain) = (peer.sent.last().unwrap().clone(), hex("C101C100010000600109FF02000903626164"));
    // A sealed SET that never arrived: every one of its bits is flipped, then it is sent with a counter that is used.
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&held);
    peer.line = Box::new(move |apdu| {
        *keep.lock().unwrap() = apdu;
        Vec::new()
    });
    peer.client.handle(tick_now(), Input::Request(set(b"forged"))).unwrap();
    peer.drain();
    let sealed = held.lock().unwrap().clone();
    for bit in 0..sealed.len() * 8 {
        let mut forged = sealed.clone();
        forged[bit / 8] ^= 0x80 >> (bit % 8);
        let answer = peer.provoke(&forged);
        assert_eq!(answer[0], 0xD8, "bit {bit}: {answer:02x?}");
    }
    let title = |apdu: &[u8], title: &[u8]| [&[0xDB, 8], title, &apdu[1..]].concat();
    let nested = [hex("C101C100010000600109FF0200"), [2, 1].repeat(40), vec![0]].concat();
    let far = [&sealed[..3], &[0xFF, 0xFF, 0xFF, 0xF0], &sealed[7..]].concat();
    for (what, forged) in [
        ("a repeat", good.clone()),
        ("a plain request", plain),
        ("the meter's own title", title(&sealed, SERVER.as_bytes())),
        ("another title", title(&sealed, b"MMM\0\0\0\0\x02")),
        ("a forged high counter", far),
        ("deep nesting", nested),
        ("a huge count", hex("C101C100010000600109FF02000184FFFFFFFF")),
        ("an over-long length", hex("C884FFFFFFFF3000000001")),
        ("a block of nothing", hex("E0C0000500000000")),
        ("no APDU", vec![0xFF]),
    ] {
        let answer = peer.provoke(&forged);
        assert_eq!(answer[0], 0xD8, "{what}: {answer:02x?}");
    }
    // A window of 63 blocks is answered with our own, which is smaller, and nothing but the first block is held.
    let window = [hex("E03F00010000820100"), vec![0; 256]].concat();
    assert_eq!(peer.provoke(&window)[..5], [0xE0, 8, 0, 1, 0]);
    // Nobody is locked out, and nothing was written.
    let mut peer = peer.again(&meter, 25, gmac).associated();
    assert_eq!(peer.read(NOTE), Data::OctetString(b"true").to_bytes());
    // Missing blocks of a long SET.
    let blocks = Arc::new(Mutex::new(0));
    let count = Arc::clone(&blocks);
    peer.line = Box::new(move |apdu| {
        let mut count = count.lock().unwrap();
        *count += 1;
        vec![apdu]
    });
    peer.ask(set(&[1; 1_200]));
    assert!(*blocks.lock().unwrap() >= 3);
    peer.line = Box::new(|apdu| vec![apdu]);
    assert_eq!(peer.ask(set(b"true")), Response::Set(DataAccessResult::Success));
    // A length above the limit ends the connection; another one is served.
    peer.stream.write_all(&[0, 1, 0, 25, 0, 1, 0xFF, 0xFF]).unwrap();
    assert!(peer.hear().is_empty());
    let mut peer = peer.again(&meter, 25, gmac).associated();
    // What goes to all is under the broadcast key, harmless, and never answered.
    let frame = WrapperFrame::new(102, 0x7F, good).unwrap();
    peer.stream.write_all(&frame.to_bytes()).unwrap();
    assert_eq!(peer.read(NOTE), Data::OctetString(b"true").to_bytes());
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn s1_counters_go_on_after_a_crash_and_replays_stay_refused() {
    let dir = folder("crash");
    let kept = dir.join("meter");
    let arguments = ["--dir", kept.to_str().unwrap()];
    let gmac = settings(Mechanism::Gmac, Carrier::Glo);
    let counter = |apdu: &[u8]| u32::from_be_bytes(apdu[3..7].try_into().unwrap());
    let mut meter = Meter::start(&dir, LAB, &arguments);
    let mut peer = Peer::connect(&meter, 25, gmac, crypto(GUEK, 100)).associated();
    peer.read(ENERGY);
    let (aarq, last) = (peer.sent[0].clone(), counter(peer.received.last().unwrap()));
    assert!(last >= 5_000);
    meter.child.kill().unwrap();
    meter.child.wait().unwrap();
    meter = Meter::start(&dir, LAB, &arguments);
    let mut replay = peer.again(&meter, 25, gmac);
    // Context, then the result: rejected.
    assert_eq!(replay.provoke(&aarq)[13..18], [0xA2, 3, 2, 1, 1]);
    let mut peer = replay.again(&meter, 25, gmac).associated();
    peer.read(ENERGY);
    assert!(counter(peer.received.last().unwrap()) > last, "no counter twice");
    // A second meter with the same directory does not start.
    let second = Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(["meter", "serve", "--listen", "127.0.0.1:0", "--lab"])
        .arg(dir.join("lab.toml"))
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    // A damaged file is no reason to begin again.
    drop(meter);
    std::fs::write(kept.join("counters.json"), "{").unwrap();
    let third = Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(["meter", "serve", "--listen", "127.0.0.1:0", "--lab"])
        .arg(dir.join("lab.toml"))
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(third.status.code(), Some(1));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn new_keys_are_used_after_the_answer_and_survive_a_restart() {
    const NEW: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf";
    let dir = folder("keys");
    let kept = dir.join("meter");
    let arguments = ["--dir", kept.to_str().unwrap()];
    let meter = Meter::start(&dir, LAB, &arguments);
    let gmac = settings(Mechanism::Gmac, Carrier::Glo);
    let setup = ObisCode::new([0, 0, 43, 0, 0, 255]);
    let wrapped = key::<Kek>(KEK).wrap_for_meter(&key::<Guek>(NEW));
    let list = |wrapped: &[u8]| {
        let entry = Data::Structure(vec![Data::Enum(0), Data::OctetString(wrapped)]);
        Data::Array(vec![entry]).to_bytes()
    };
    let mut peer = Peer::connect(&meter, 25, gmac, crypto(GUEK, 100)).associated();
    let mut broken = wrapped.clone();
    broken[5] ^= 1;
    let give =
        |peer: &mut Peer, wrapped: &[u8]| peer.act(64, setup, 2, &Data::from_bytes(&list(wrapped)).unwrap());
    assert_eq!(give(&mut peer, &broken), ActionResult::OtherReason);
    assert_eq!(peer.read(ENERGY)[0], 6, "the old key stays");
    assert_eq!(give(&mut peer, &wrapped), ActionResult::Success, "answered under the old key");
    let old = peer.again(&meter, 25, gmac);
    let mut old = Peer { events: Vec::new(), ..old };
    old.give(Input::Associate);
    assert!(matches!(old.events.last(), Some(Event::Refused(_))), "the old key is over");
    let mut peer = Peer::connect(&meter, 25, gmac, crypto(NEW, 0)).associated();
    peer.read(ENERGY);
    drop(meter);
    let meter = Meter::start(&dir, LAB, &arguments);
    let mut peer = peer.again(&meter, 25, gmac).associated();
    // Back to the first key: its counters go on where they stood, on both sides.
    let first = key::<Kek>(KEK).wrap_for_meter(&key::<Guek>(GUEK));
    assert_eq!(give(&mut peer, &first), ActionResult::Success);
    let mut repeated = Peer::connect(&meter, 25, gmac, crypto(GUEK, 100));
    repeated.give(Input::Associate);
    assert!(matches!(repeated.events.last(), Some(Event::Refused(_))), "its counters are used");
    let mut peer = old.again(&meter, 25, gmac).associated();
    assert_eq!(peer.read(ENERGY)[0], 6);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn hdlc_carries_the_same() {
    let dir = folder("hdlc");
    let meter = Meter::start(&dir, LAB, &["--hdlc-tcp"]);
    let mut peer = Peer::connect(&meter, 25, settings(Mechanism::Gmac, Carrier::Glo), crypto(GUEK, 100));
    let link = LinkSettings {
        role: LinkRole::Client,
        client: ClientAddress::new(25).unwrap(),
        server: ServerAddress::new(1, None).unwrap(),
        parameters: Parameters::default(),
        apdu_size_max: 65_535,
        answer_timeout: Duration::from_secs(10),
        retry_count_max: 3,
        inactivity_timeout: Duration::from_secs(120),
    };
    peer.link = Some(Link::new(link));
    peer.link.as_mut().unwrap().handle(tick_now(), hdlc::Input::Connect).unwrap();
    peer.flush();
    assert_eq!(peer.hear(), [Vec::<u8>::new()], "connected");
    let mut peer = peer.associated();
    assert_eq!(peer.read(LOAD)[..2], [1, 96]);
    assert_eq!(peer.act(70, BREAKER, 1, &Data::Integer(0)), ActionResult::Success);
    peer.give(Input::Release);
    assert_eq!(peer.events, [Event::Released]);
    // Strangers' clients release in clear, as over the wrapper.
    peer.client = Client::new(settings(Mechanism::Gmac, Carrier::Glo), AssociationHandle(2)).unwrap();
    let mut peer = peer.associated();
    assert_eq!(peer.provoke(&[0x62, 3, 0x80, 1, 0])[0], 0x63);
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn whoever_has_no_key_neither_floods_the_log_nor_keeps_the_places() {
    let dir = folder("flood");
    let log = dir.join("security.log");
    let meter = Meter::start(&dir, LAB, &["--log", log.to_str().unwrap()]);
    let gmac = settings(Mechanism::Gmac, Carrier::Glo);
    let mut nobody = Peer::connect(&meter, 99, gmac, crypto(GUEK, 100));
    nobody.give(Input::Associate);
    let (request, answer) = (nobody.sent.last().unwrap().clone(), nobody.received.last().unwrap().len() + 8);
    let unit = WrapperFrame::new(99, 1, request).unwrap().to_bytes();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(meter.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut heard = Vec::new();
        let _ = stream.write_all(&unit.repeat(200));
        let _ = stream.read_to_end(&mut heard);
        assert!(heard.len() <= 16 * answer, "{}", heard.len() / answer);
    }
    let entries = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let count = |event: &str| entries().iter().filter(|entry| entry["event"] == event).count();
    assert_eq!(count("refused"), 4, "of one source and cause");
    assert!(entries().iter().any(|entry| entry["cause"] == "refused too often"));
    // Another cause is not lost in it.
    Peer::connect(&meter, 25, gmac, crypto(GAK, 100)).give(Input::Associate);
    assert_eq!(count("refused"), 5);
    // Nor by what nobody without a key may do, however often he asks in an association that anybody may have.
    let mut public = Peer::connect(&meter, 16, ClientSettings::public(), crypto(GUEK, 100)).associated();
    let before = entries().len();
    for number in 0..100_u8 {
        let name = [0, 0, 40, 0, number, 255];
        public.provoke(&[&[0xC0, 1, 0xC1, 0, 15][..], &name, &[7, 0]].concat());
        public.provoke(&[&[0xC1, 1, 0xC1, 0, 8][..], ObisCode::CLOCK.groups(), &[2, 0, 0]].concat());
        public.provoke(&[&[0xC3, 1, 0xC1, 0, 70][..], BREAKER.groups(), &[1, 1, 15, 0]].concat());
    }
    assert_eq!(count("denied"), 4);
    assert!(entries().len() - before <= 8);
    // Whoever only sits there makes room, and never in the place of somebody with a key.
    let sit = || (0..100).map(|_| TcpStream::connect(meter.address).unwrap()).collect::<Vec<_>>();
    let before = sit();
    let mut honest = Peer::connect(&meter, 25, gmac, crypto(GUEK, 100)).associated();
    let after = sit();
    assert_eq!(honest.read(ENERGY)[0], 6);
    drop((before, after));
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_log_or_an_address_that_cannot_be_written_ends_the_meter_with_one_line() {
    let dir = folder("full");
    let mut meter = Meter::start(&dir, LAB, &["--log", "/dev/full"]);
    let _ = TcpStream::connect(meter.address).unwrap().write_all(&[0xFF; 64]);
    assert_eq!(meter.child.wait().unwrap().code(), Some(1));
    let output = Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(["meter", "serve", "--listen", "127.0.0.1:0", "--lab"])
        .arg(dir.join("lab.toml"))
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.lines().last().unwrap().contains("cannot write the address"), "{told}");
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn a_wrong_lab_file_is_one_line_and_exit_code_2_and_a_signal_ends_it_cleanly() {
    let dir = folder("usage");
    let path = dir.join("lab.toml");
    for (lab, code) in [
        ("suite = 0\n", "lab-missing-field"),
        (&LAB.replace("4D4D4D0000000001", "4D"), "lab-length"),
        (&LAB.replace("= true", "= false"), "lab-danger-test-keys"),
    ] {
        std::fs::write(&path, lab).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_gridseal"))
            .args(["meter", "serve", "--listen", "127.0.0.1:0", "--lab"])
            .arg(&path)
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{told}");
        assert!(told.contains(code) && told.contains("line "), "{told}");
    }
    let mut meter = Meter::start(&dir, LAB, &[]);
    let stopped = Command::new("kill").args(["-TERM", &meter.child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    assert_eq!(meter.child.wait().unwrap().code(), Some(0));
    let _ = std::fs::remove_dir_all(&dir);
}
