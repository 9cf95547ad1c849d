//! Machines under sequences of operations: the bytes are a list of what happens.

use alloc::{vec, vec::Vec};

use gridseal_crypto::{Curve, CurveAgreement, CurveSigner, Key, Rng, RngError};
use gridseal_types::{ObisCode, SystemTitle, Tick};

use crate::{
    acse::Mechanism,
    apdu::{
        carrier::{Carrier, Signing},
        ciphered::SecurityControl,
        reference::AttributeId,
        result::{ActionResult, DataAccessResult},
    },
    assoc::{
        ActionReply, AssociationHandle, AttributeRequest, CryptoFault, CryptoId, CryptoResult, Done,
        MethodRequest, Objects, Operation, Value,
        client::{self, Client, ClientSettings, Request},
        server::{self, Server, ServerSettings},
        table::{ClientState, ServerState},
    },
    frame::{
        block::{BlockSettings, BlockTransfer},
        hdlc::{self, ClientAddress, Link, LinkRole, LinkSettings, Parameters, ServerAddress},
    },
    suite::local::{
        AgreementKeys, KeyRing, KeySet, LocalCrypto, LocalSettings, Ports, SigningKeys, VolatileCounters,
    },
    wire::Reader,
};

/// Outputs that one input may give at most.
const OUTPUTS_MAX: usize = 80;
const TITLE: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x01");
const CLIENT_TITLE: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x02");
const HANDLE: AssociationHandle = AssociationHandle(1);

/// Takes one operation and its bytes: `operation | length | bytes`.
fn step<'a>(reader: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let operation = reader.u8("operation").ok()?;
    let size = usize::from(reader.u8("length").ok()?).min(reader.left());
    Some((operation, reader.bytes("bytes", size).ok()?))
}

/// Counts how often objects are reached.
struct Counted<'o> {
    calls: usize,
    objects: &'o mut dyn Objects,
}

impl Objects for Counted<'_> {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        self.calls = self.calls.saturating_add(1);
        self.objects.get(request)
    }

    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        self.calls = self.calls.saturating_add(1);
        self.objects.set(request, value)
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        self.calls = self.calls.saturating_add(1);
        self.objects.action(request)
    }
}

/// A short value, a long one, and methods that give their parameter back.
struct Plain;

impl Objects for Plain {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        match request.attribute.attribute {
            2 => Ok(Value::Encoded(vec![0x11, 7])),
            3 => Ok(Value::Encoded([&[0x09, 0x82, 0x08, 0x00][..], &[0; 2_048]].concat())),
            _ => Err(DataAccessResult::ObjectUndefined),
        }
    }

    fn set(&mut self, _: AttributeRequest<'_>, _: &[u8]) -> Result<(), DataAccessResult> {
        Ok(())
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        match request.parameters {
            Some(parameters) => ActionReply::returns(parameters.to_vec()),
            None => ActionReply::refused(ActionResult::ObjectUndefined),
        }
    }
}

/// A server of suite 1 with all its keys, and one of suite 2.
#[derive(Debug)]
pub struct KeyedServers {
    suite_1: LocalCrypto<16>,
    suite_2: LocalCrypto<32>,
}

impl KeyedServers {
    /// Servers that have opened nothing; none if a curve refuses the keys.
    #[must_use]
    pub fn new() -> Option<Self> {
        Some(Self { suite_1: keyed(1)?, suite_2: keyed(2)? })
    }

    /// Whatever arrives, nothing opens and no counter moves.
    pub(super) fn open(&mut self, bytes: &[u8]) {
        refuse(&mut self.suite_1, bytes);
        refuse(&mut self.suite_2, bytes);
    }
}

fn keyed<const N: usize>(suite: u8) -> Option<LocalCrypto<N>> {
    let curve = Curve::of_suite(suite);
    let scalar = || vec![7; curve.coordinate_size()];
    let signer = CurveSigner::take(curve, &mut scalar())?;
    let agreement = CurveAgreement::take(curve, &mut scalar())?;
    let peers = |key| [(CLIENT_TITLE, key)].into_iter().collect();
    let (signing_peers, agreement_peers) = (peers(signer.public()), peers(agreement.public()));
    let ring = KeyRing {
        signing: Some(SigningKeys { own: signer, peers: signing_peers }),
        agreement: Some(AgreementKeys { own: agreement, peers: agreement_peers }),
        kek: Some(Key::take(&mut [3; N])),
        ..KeyRing::new(Key::take(&mut [1; N]), Key::take(&mut [2; N]))
    };
    Some(LocalCrypto::new(LocalSettings::server(suite, TITLE), ring, 0))
}

fn refuse<const N: usize>(crypto: &mut LocalCrypto<N>, bytes: &[u8]) {
    let open = Operation::Open { apdu: bytes.to_vec(), peer: Some(CLIENT_TITLE), is_broadcast: false };
    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut NoRng };
    let outcome = crypto.perform(HANDLE, &open, &mut ports);
    assert!(outcome.is_err(), "opened without the keys");
    assert_eq!(crypto.last_received(KeySet::Unicast, CLIENT_TITLE), None, "a refused apdu moves a counter");
}

struct NoRng;

impl Rng for NoRng {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), RngError> {
        Err(RngError)
    }
}

/// What a performer might say: the right kind of answer, with contents out of the input.
fn result_of(operation: &Operation, choice: u8, bytes: &[u8]) -> CryptoResult {
    if choice & 1 == 1 {
        return Err(CryptoFault::Tag);
    }
    Ok(match operation {
        Operation::Open { .. } | Operation::OpenInitiate { .. } => Done::Opened {
            plain: bytes.to_vec(),
            security_control: SecurityControl(if choice & 2 == 0 { 0x30 } else { choice }),
            carrier: Carrier::Glo,
            signing: if choice & 4 == 0 { Signing::None } else { Signing::Inside },
        },
        Operation::CheckPassword(_) | Operation::HlsVerify { .. } | Operation::End => Done::Verified,
        Operation::Seal { apdu, .. } | Operation::SealInitiate { apdu, .. } => Done::Bytes(apdu.clone()),
        _ => Done::Bytes([bytes, &[0x5A; 32]].concat()),
    })
}

/// A server: objects are reached only in an open association, and with high level security that is open only after
/// the reply to the challenge was found right.
pub fn assoc_server(bytes: &[u8]) {
    assoc_server_over(bytes, &mut Plain);
}

/// As [`assoc_server`], over objects of another crate; its clients have the access points 16, and 1 when ciphered.
pub fn assoc_server_over(bytes: &[u8], objects: &mut dyn Objects) {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8("kind").unwrap_or_default();
    let mechanism = Mechanism::from_number(kind & 7).unwrap_or(Mechanism::None);
    let settings = if kind & 8 == 0 {
        ServerSettings { mechanism, ..ServerSettings::public(16, TITLE) }
    } else {
        ServerSettings::ciphered(1, TITLE, mechanism)
    };
    let settings = ServerSettings { max_pdu: 300, assembled_size_max: 1_024, ..settings };
    let mut server = Server::new(settings, HANDLE);
    let mut objects = Counted { calls: 0, objects };
    let mut asked: Option<(CryptoId, Operation)> = None;
    let (mut is_verified, mut now) = (false, Tick(0));
    while let Some((operation, bytes)) = step(&mut reader) {
        let (before, calls) = (server.state(), objects.calls);
        let mut is_broadcast = false;
        let outcome = match operation & 7 {
            0..=2 => server.handle(now, server::Input::Received(bytes), &mut objects),
            3 | 4 => match asked.take() {
                Some((id, question)) => {
                    is_broadcast = matches!(question, Operation::Open { is_broadcast: true, .. });
                    let result = result_of(&question, operation >> 3, bytes);
                    let verifies =
                        matches!(question, Operation::HlsVerify { .. } | Operation::CheckPassword(_));
                    is_verified |= verifies && result.is_ok();
                    server.handle(now, server::Input::CryptoDone(id, result), &mut objects)
                }
                None => {
                    let input = server::Input::CryptoDone(CryptoId(u32::MAX), Err(CryptoFault::Tag));
                    let outcome = server.handle(now, input, &mut objects);
                    assert!(
                        outcome.is_err() && server.state() == before,
                        "unknown operation changes nothing"
                    );
                    outcome
                }
            },
            5 => {
                now = server.deadline().unwrap_or(now);
                server.handle(now, server::Input::Timeout, &mut objects)
            }
            6 => server.handle(now, server::Input::Broadcast(bytes), &mut objects),
            _ if operation & 0x80 != 0 => server.handle(now, server::Input::Disconnected, &mut objects),
            _ => server.handle(now, server::Input::Notify(bytes.to_vec()), &mut objects),
        };
        let is_same = (server.state(), objects.calls) == (before, calls);
        assert!(outcome.is_ok() || is_same, "a refused input changes nothing");
        let is_reached = objects.calls > calls;
        assert!(!is_reached || is_broadcast || before == ServerState::Associated, "served out of turn");
        let is_open = server.state() == ServerState::Associated;
        assert!(!is_open || mechanism == Mechanism::None || is_verified, "open without a proof");
        if server.state() == ServerState::Idle {
            is_verified = false;
        }
        let mut count = 0usize;
        while let Some(output) = server.poll() {
            count = count.saturating_add(1);
            if let server::Output::Crypto(_, id, operation) = output
                && operation != Operation::End
            {
                asked = Some((id, operation));
            }
        }
        assert!(count <= OUTPUTS_MAX, "one input gives {count} outputs");
        if server.state() == ServerState::Idle {
            asked = None;
        }
    }
}

/// A client: what is not asked for never becomes a response.
pub fn assoc_client(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let kind = reader.u8("kind").unwrap_or_default();
    let mechanism = Mechanism::from_number(kind & 7).unwrap_or(Mechanism::None);
    let settings = if kind & 8 == 0 {
        ClientSettings { mechanism, own_title: Some(TITLE), ..ClientSettings::public() }
    } else {
        ClientSettings::ciphered(TITLE, mechanism)
    };
    let settings = ClientSettings { max_pdu: 300, assembled_size_max: 1_024, ..settings };
    let Ok(mut client) = Client::new(settings, HANDLE) else { return };
    let mut asked: Option<(CryptoId, Operation)> = None;
    let mut now = Tick(0);
    while let Some((operation, bytes)) = step(&mut reader) {
        let before = client.state();
        let attribute = AttributeId::new(3, ObisCode::CLOCK, 2);
        let _ = match operation & 7 {
            0 | 1 => client.handle(now, client::Input::Received(bytes)),
            2 | 3 => match asked.take() {
                Some((id, question)) => {
                    let result = result_of(&question, operation >> 3, bytes);
                    client.handle(now, client::Input::CryptoDone(id, result))
                }
                None => Ok(()),
            },
            4 if operation & 0x80 == 0 => client.handle(now, client::Input::Associate),
            4 => client.handle(now, client::Input::Release),
            5 if operation & 0x80 == 0 => {
                client.handle(now, client::Input::Request(Request::Get(attribute, None)))
            }
            5 => {
                let request = Request::Set(attribute, None, bytes.to_vec());
                client.handle(now, client::Input::Request(request))
            }
            6 => {
                now = client.deadline().unwrap_or(now);
                client.handle(now, client::Input::Timeout)
            }
            _ => client.handle(now, client::Input::Disconnected),
        };
        let mut count = 0usize;
        while let Some(output) = client.poll() {
            count = count.saturating_add(1);
            match output {
                client::Output::Crypto(_, id, operation) if operation != Operation::End => {
                    asked = Some((id, operation));
                }
                client::Output::Event(client::Event::Response(_)) => {
                    assert_eq!(before, ClientState::Requesting, "a response to nothing");
                }
                _ => {}
            }
        }
        assert!(count <= OUTPUTS_MAX, "one input gives {count} outputs");
        if client.state() == ClientState::Idle {
            asked = None;
        }
    }
}

/// general-block-transfer: memory and answers are bounded whatever arrives.
pub fn block_transfer(bytes: &[u8]) {
    const APDU_SIZE_MAX: usize = 512;
    let settings = BlockSettings { window: 4, apdu_size_max: APDU_SIZE_MAX, ..BlockSettings::default() };
    let mut transfer = BlockTransfer::new(settings);
    let (mut reader, mut now) = (Reader::new(bytes), Tick(0));
    while let Some((operation, bytes)) = step(&mut reader) {
        match operation & 3 {
            0 | 1 => {
                if let Ok(Some(whole)) = transfer.received(now, bytes) {
                    assert!(whole.len() <= APDU_SIZE_MAX, "limit holds");
                }
            }
            2 => drop(transfer.send(now, bytes.to_vec(), usize::from(operation >> 2))),
            _ => {
                now = transfer.deadline().unwrap_or(now);
                let _ = transfer.timed_out(now);
            }
        }
        let count = core::iter::from_fn(|| transfer.poll()).count();
        assert!(count <= OUTPUTS_MAX, "one input gives {count} outputs");
    }
}

/// Both sides of an HDLC link under octets at random.
pub fn hdlc_link(bytes: &[u8]) {
    const APDU_SIZE_MAX: usize = 512;
    let (Some(client), Some(server)) = (ClientAddress::new(0x10), ServerAddress::new(1, None)) else {
        return;
    };
    let settings = |role| LinkSettings {
        role,
        client,
        server,
        parameters: Parameters::default(),
        apdu_size_max: APDU_SIZE_MAX,
        answer_timeout: core::time::Duration::from_secs(1),
        retry_count_max: 3,
        inactivity_timeout: core::time::Duration::from_secs(120),
    };
    let mut links = [Link::new(settings(LinkRole::Client)), Link::new(settings(LinkRole::Server))];
    let (mut reader, mut now) = (Reader::new(bytes), Tick(0));
    while let Some((operation, bytes)) = step(&mut reader) {
        let mut crossing: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
        for (link, sent) in links.iter_mut().zip(&mut crossing) {
            let _ = match operation & 7 {
                0 | 1 => link.handle(now, hdlc::Input::Received(bytes)),
                2 => link.handle(now, hdlc::Input::Connect),
                3 => link.handle(now, hdlc::Input::Send(bytes)),
                4 => link.handle(now, hdlc::Input::Disconnect),
                5 => {
                    now = link.deadline().unwrap_or(now);
                    link.handle(now, hdlc::Input::Timeout)
                }
                _ => Ok(()),
            };
            while let Some(output) = link.poll() {
                match output {
                    hdlc::Output::Transmit(octets) => sent.extend(octets),
                    hdlc::Output::Event(hdlc::LinkEvent::Apdu(apdu)) => {
                        assert!(apdu.len() <= APDU_SIZE_MAX, "limit holds");
                    }
                    hdlc::Output::Event(_) => {}
                }
            }
        }
        // What one sends reaches the other, unless the line is cut.
        if operation & 0x80 == 0 {
            let [from_client, from_server] = &crossing;
            for (link, octets) in links.iter_mut().zip([from_server, from_client]) {
                let _ = link.handle(now, hdlc::Input::Received(octets));
            }
        }
    }
}
