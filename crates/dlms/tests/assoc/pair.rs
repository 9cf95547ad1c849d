//! Two machines, two performers with keys, objects, and the line between them.

use std::collections::BTreeMap;

use gridseal_crypto::{Curve, CurveSigner, Key, Rng, RngError, hls::Secret};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::{
        reference::{AttributeId, MethodId},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{
        AccessContext, ActionReply, AssociationHandle, AttributeRequest, MethodRequest, Objects, Value,
        ValueSource,
        client::{self, Client, ClientSettings, Request, Response},
        server::{self, Server, ServerSettings},
    },
    suite::local::{KeyRing, LocalCrypto, LocalSettings, Ports, SigningKeys, VolatileCounters},
    wire::Data,
};
use gridseal_types::{ObisCode, SystemTitle, Tick};

pub(crate) const CLIENT_TITLE: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x01");
pub(crate) const SERVER_TITLE: SystemTitle = SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);
pub(crate) const HANDLE: AssociationHandle = AssociationHandle(1);
pub(crate) const CLOCK: AttributeId = AttributeId::new(8, ObisCode::CLOCK, 2);
pub(crate) const ENERGY: AttributeId = AttributeId::new(3, ObisCode::ACTIVE_ENERGY_IMPORT, 2);
pub(crate) const PROFILE: AttributeId = AttributeId::new(7, ObisCode::LOAD_PROFILE_1, 2);
pub(crate) const ECHO: MethodId = MethodId::new(9, ObisCode::new([0, 0, 10, 0, 106, 255]), 1);

/// Deterministic, and different for each seed.
pub(crate) struct TestRng(pub(crate) u64);

impl Rng for TestRng {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for byte in buffer {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
        Ok(())
    }
}

pub(crate) fn ring() -> KeyRing<16> {
    let guek = Key::take(&mut std::array::from_fn(|index| index as u8));
    let gak = Key::take(&mut std::array::from_fn(|index| 0xD0 + index as u8));
    KeyRing {
        gbek: Some(Key::take(&mut std::array::from_fn(|index| 0x0F - index as u8))),
        secret: Some(Secret::take(&mut b"DLMSsecret123456".to_vec())),
        ..KeyRing::new(guek, gak)
    }
}

/// Signing keys of the Green Book's annex: client and server of mechanism 7.
const CLIENT_SIGNING: &str = "418073c239fa6125011de4d6cd2e645780289f761bb21bfb0835cb5585e8b373";
const SERVER_SIGNING: &str = "ae55414ffe079f9fc95649536bd1c2b5653d200813727e07d501a8b550c69207";

/// Own signing key by title, and the public keys of both.
pub(crate) fn signing(own_title: SystemTitle) -> SigningKeys {
    let key = |scalar: &str| CurveSigner::take(Curve::P256, &mut hex::decode(scalar).unwrap()).unwrap();
    let (client, server) = (key(CLIENT_SIGNING), key(SERVER_SIGNING));
    let peers = BTreeMap::from([(CLIENT_TITLE, client.public()), (SERVER_TITLE, server.public())]);
    SigningKeys { own: if own_title == CLIENT_TITLE { client } else { server }, peers }
}

/// Settings of the client or the server.
pub(crate) fn settings(suite: u8, own_title: SystemTitle) -> LocalSettings {
    let is_server = own_title == SERVER_TITLE;
    LocalSettings { is_server, ..LocalSettings::client(suite, own_title) }
}

pub(crate) fn local(own_title: SystemTitle, sending_end: u64) -> LocalCrypto {
    LocalCrypto::new(settings(0, own_title), ring(), sending_end)
}

/// As [`local`], with the keys of mechanism 7, which take time to prepare.
pub(crate) fn local_signing(own_title: SystemTitle, sending_end: u64) -> LocalCrypto {
    LocalCrypto::new(
        settings(0, own_title),
        KeyRing { signing: Some(signing(own_title)), ..ring() },
        sending_end,
    )
}

/// Rows of four columns that are made only when they are asked for.
struct Rows {
    next: u32,
    end: u32,
    has_head: bool,
}

impl Rows {
    fn row(number: u32) -> Vec<u8> {
        Data::Structure(vec![
            Data::OctetString(&[0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0]),
            Data::Unsigned(8),
            Data::DoubleLongUnsigned(number),
            Data::DoubleLongUnsigned(number * 2),
        ])
        .to_bytes()
    }
}

impl ValueSource for Rows {
    fn fill(&mut self, wanted: usize, out: &mut Vec<u8>) -> Result<bool, DataAccessResult> {
        let start = out.len();
        if !self.has_head {
            self.has_head = true;
            out.extend([0x01, 0x82]);
            out.extend((self.end as u16).to_be_bytes());
        }
        while self.next < self.end && out.len() - start < wanted {
            out.extend(Self::row(self.next));
            self.next += 1;
        }
        Ok(self.next < self.end)
    }
}

/// Attributes by name; the profile is streamed; methods give their parameters back.
pub(crate) struct TestObjects {
    pub(crate) values: BTreeMap<AttributeId, Vec<u8>>,
    pub(crate) profile_rows: u32,
    pub(crate) calls: usize,
    pub(crate) last: Option<AccessContext>,
}

impl TestObjects {
    pub(crate) fn new() -> Self {
        let energy = Data::DoubleLongUnsigned(123_456).to_bytes();
        let clock = Data::OctetString(&[0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0]).to_bytes();
        Self {
            values: BTreeMap::from([(ENERGY, energy), (CLOCK, clock)]),
            profile_rows: 1_000,
            calls: 0,
            last: None,
        }
    }

    pub(crate) fn profile(rows: u32) -> Vec<u8> {
        let mut bytes = [&[0x01, 0x82][..], &(rows as u16).to_be_bytes()].concat();
        (0..rows).for_each(|number| bytes.extend(Rows::row(number)));
        bytes
    }
}

impl Objects for TestObjects {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        (self.calls, self.last) = (self.calls + 1, Some(*request.context));
        if request.attribute == PROFILE {
            return Ok(Value::Stream(Box::new(Rows { next: 0, end: self.profile_rows, has_head: false })));
        }
        self.values
            .get(&request.attribute)
            .cloned()
            .map(Value::Encoded)
            .ok_or(DataAccessResult::ObjectUndefined)
    }

    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        (self.calls, self.last) = (self.calls + 1, Some(*request.context));
        let old = self.values.get_mut(&request.attribute).ok_or(DataAccessResult::ReadWriteDenied)?;
        *old = value.to_vec();
        Ok(())
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        (self.calls, self.last) = (self.calls + 1, Some(*request.context));
        if request.method != ECHO {
            return ActionReply::refused(ActionResult::ObjectUndefined);
        }
        match request.parameters {
            Some(parameters) => ActionReply::returns(parameters.to_vec()),
            None => ActionReply::SUCCESS,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// What the line makes of one APDU.
pub(crate) type Line = Box<dyn FnMut(Direction, Vec<u8>) -> Vec<Vec<u8>>>;

pub(crate) struct Pair {
    pub(crate) client: Client,
    pub(crate) server: Server,
    pub(crate) client_crypto: LocalCrypto,
    pub(crate) server_crypto: LocalCrypto,
    pub(crate) objects: TestObjects,
    pub(crate) now: Tick,
    pub(crate) line: Line,
    pub(crate) at_client: Vec<client::Event>,
    pub(crate) at_server: Vec<server::Event>,
    /// Everything that was sent, before the line.
    pub(crate) wire: Vec<(Direction, Vec<u8>)>,
    rng: TestRng,
}

impl Pair {
    pub(crate) fn new(client: ClientSettings, server: ServerSettings) -> Self {
        let local = if client.mechanism == Mechanism::Ecdsa { local_signing } else { local };
        Self {
            client: Client::new(client, HANDLE).unwrap(),
            server: Server::new(server, HANDLE),
            client_crypto: local(CLIENT_TITLE, 100),
            server_crypto: local(SERVER_TITLE, 5_000),
            objects: TestObjects::new(),
            now: Tick(0),
            line: Box::new(|_, apdu| vec![apdu]),
            at_client: vec![],
            at_server: vec![],
            wire: vec![],
            rng: TestRng(7),
        }
    }

    /// Ciphered on both sides, with this mechanism.
    pub(crate) fn ciphered(mechanism: Mechanism) -> Self {
        Self::new(
            ClientSettings::ciphered(CLIENT_TITLE, mechanism),
            ServerSettings::ciphered(1, SERVER_TITLE, mechanism),
        )
    }

    pub(crate) fn associated(mut self) -> Self {
        self.input(client::Input::Associate);
        let is_open = matches!(self.at_client.last(), Some(client::Event::Associated { .. }));
        assert!(is_open, "{:?} {:?}", self.at_client, self.at_server);
        assert!(matches!(self.at_server.last(), Some(server::Event::Associated { .. })));
        self
    }

    pub(crate) fn input(&mut self, input: client::Input<'_>) {
        self.client.handle(self.now, input).unwrap();
        self.run();
    }

    pub(crate) fn give_server(&mut self, apdu: &[u8]) {
        self.server.handle(self.now, server::Input::Received(apdu), &mut self.objects).unwrap();
        self.run();
    }

    pub(crate) fn give_client(&mut self, apdu: &[u8]) {
        self.client.handle(self.now, client::Input::Received(apdu)).unwrap();
        self.run();
    }

    pub(crate) fn ask(&mut self, request: Request) -> Response {
        self.input(client::Input::Request(request));
        match self.at_client.last() {
            Some(client::Event::Response(response)) => response.clone(),
            other => panic!("{other:?}, server {:?}", self.at_server),
        }
    }

    fn carry(&mut self, direction: Direction, apdu: Vec<u8>) {
        self.wire.push((direction, apdu.clone()));
        for apdu in (self.line)(direction, apdu) {
            match direction {
                Direction::ToServer => {
                    let input = server::Input::Received(&apdu);
                    self.server.handle(self.now, input, &mut self.objects).unwrap();
                    self.drain_server();
                }
                Direction::ToClient => {
                    self.client.handle(self.now, client::Input::Received(&apdu)).unwrap();
                    self.drain_client();
                }
            }
        }
    }

    /// Performs and collects until the server rests; nothing crosses the line yet.
    fn drain_server(&mut self) {
        let mut sent = vec![];
        while let Some(output) = self.server.poll() {
            match output {
                server::Output::Transmit(apdu) => sent.push(apdu),
                server::Output::Crypto(handle, id, operation) => {
                    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut self.rng };
                    let result = self.server_crypto.perform(handle, &operation, &mut ports);
                    let input = server::Input::CryptoDone(id, result);
                    // The end of an association waits for no answer.
                    let _ = self.server.handle(self.now, input, &mut self.objects);
                }
                server::Output::Event(event) => self.at_server.push(event),
                _ => {}
            }
        }
        sent.into_iter().for_each(|apdu| self.carry(Direction::ToClient, apdu));
    }

    fn drain_client(&mut self) {
        let mut sent = vec![];
        while let Some(output) = self.client.poll() {
            match output {
                client::Output::Transmit(apdu) => sent.push(apdu),
                client::Output::Crypto(handle, id, operation) => {
                    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut self.rng };
                    let result = self.client_crypto.perform(handle, &operation, &mut ports);
                    let _ = self.client.handle(self.now, client::Input::CryptoDone(id, result));
                }
                client::Output::Event(event) => self.at_client.push(event),
                _ => {}
            }
        }
        sent.into_iter().for_each(|apdu| self.carry(Direction::ToServer, apdu));
    }

    pub(crate) fn run(&mut self) {
        self.drain_client();
        self.drain_server();
    }

    /// Lets time pass until the next deadline of either side.
    pub(crate) fn wait(&mut self) {
        let next = [self.client.deadline(), self.server.deadline()].into_iter().flatten().min();
        self.now = next.unwrap();
        self.client.handle(self.now, client::Input::Timeout).unwrap();
        self.server.handle(self.now, server::Input::Timeout, &mut self.objects).unwrap();
        self.run();
    }
}
