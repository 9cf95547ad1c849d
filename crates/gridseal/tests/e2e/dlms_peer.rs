//! A meter that lies: the crate's own server with its keys, and two places where what it says is changed.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Output,
    sync::{Arc, Mutex},
};

use gridseal_crypto::{InvocationCounter, Key, apdu, hls::Secret};
use gridseal_dlms::{
    acse::Mechanism,
    apdu::{
        carrier::{Carrier, carry},
        ciphered::{Protected, SecurityControl},
        reference::{AttributeId, MethodId},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{
        ActionReply, AssociationHandle, AttributeRequest, MethodRequest, Objects, Operation, Value,
        server::{Input, Output as ServerOutput, Server, ServerSettings},
    },
    frame::wrapper::{WrapperDecoder, WrapperFrame},
    suite::local::{KeyRing, KeySet, LocalCrypto, LocalSettings, Ports, VolatileCounters},
    wire::Data,
};
use gridseal_io::rng::OsRng;
use gridseal_types::{ObisCode, SystemTitle, Tick};

use crate::machine::{Scratch, gridseal};

pub(crate) const CLIENT: SystemTitle = SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0, 0, 1]);
pub(crate) const METER: SystemTitle = SystemTitle([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]);
const PUBLIC: u16 = 16;

/// What is said of an answer before it leaves.
pub(crate) struct Context<'a> {
    /// Number of this answer in its connection: 0 the AARE, 1 the proof of the meter, 2 what was asked first.
    pub(crate) index: usize,
    /// The client's last APDU, as it came.
    pub(crate) request: &'a [u8],
    /// What was sent before in this connection.
    pub(crate) sent: &'a [Vec<u8>],
}

/// Changes an answer on the wire.
pub(crate) type Wire = Box<dyn FnMut(Vec<u8>, &Context<'_>) -> Vec<Vec<u8>> + Send>;
/// Changes a plain answer before it is protected; its number counts as in [`Context`].
pub(crate) type Plain = Box<dyn FnMut(Vec<u8>, usize) -> Vec<u8> + Send>;

/// How the meter is made and how it lies.
pub(crate) struct Script {
    pub(crate) mechanism: Mechanism,
    pub(crate) carrier: Carrier,
    pub(crate) wire: Wire,
    pub(crate) plain: Plain,
}

impl Script {
    pub(crate) fn honest() -> Self {
        Self {
            mechanism: Mechanism::Gmac,
            carrier: Carrier::Glo,
            wire: Box::new(|apdu, _| vec![apdu]),
            plain: Box::new(|apdu, _| apdu),
        }
    }

    /// Changes the answer with this number on the wire.
    pub(crate) fn wire_at(
        at: usize,
        mut forge: impl FnMut(Vec<u8>, &Context<'_>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let wire: Wire = Box::new(move |apdu, context| match context.index == at {
            true => forge(apdu, context),
            false => vec![apdu],
        });
        Self { wire, ..Self::honest() }
    }

    /// Changes the plain answer from this number on.
    pub(crate) fn plain_from(at: usize, mut forge: impl FnMut(Vec<u8>) -> Vec<u8> + Send + 'static) -> Self {
        let plain: Plain = Box::new(move |apdu, index| if index >= at { forge(apdu) } else { apdu });
        Self { plain, ..Self::honest() }
    }
}

pub(crate) fn guek() -> Key<gridseal_crypto::role::Guek, 16> {
    Key::take(&mut std::array::from_fn(|index| index as u8))
}

pub(crate) fn gak() -> Key<gridseal_crypto::role::Gak, 16> {
    Key::take(&mut std::array::from_fn(|index| 0xD0 + index as u8))
}

fn ring() -> KeyRing<16> {
    let secret = Some(Secret::take(&mut b"DLMSsecret123456".to_vec()));
    KeyRing { secret, ..KeyRing::new(guek(), gak()) }
}

/// Protects an APDU as somebody with the keys would, with any title, counter and control octet.
pub(crate) fn sealed(
    plain: &[u8],
    title: SystemTitle,
    counter: u32,
    control: u8,
    carrier: Carrier,
) -> Vec<u8> {
    let mut counters = InvocationCounter::resume(counter.into());
    counters.extend(counters.reserve(1).unwrap());
    let header = apdu::Header { originator: title, security_control: control };
    let body = apdu::protect(&guek(), &gak(), header, counters.take().unwrap(), plain).unwrap();
    let protected =
        Protected { security_control: SecurityControl(control), invocation_counter: counter, body: &body };
    carry(carrier, plain[0], Some(title), &protected).unwrap()
}

/// A few objects of a meter.
pub(crate) struct Meter {
    values: BTreeMap<(u16, [u8; 6], i8), Vec<u8>>,
    seen: u32,
}

pub(crate) const CLOCK: [u8; 12] = [0x07, 0xEA, 11, 25, 3, 12, 0, 0, 0, 0xFF, 0xC4, 0];
const PROFILE: [u8; 6] = [1, 0, 99, 1, 0, 255];
const ENERGY: [u8; 6] = [1, 0, 1, 8, 0, 255];

impl Meter {
    fn new() -> Self {
        let object = |class, name: [u8; 6], attribute, index| {
            Data::Structure(vec![
                Data::LongUnsigned(class),
                Data::OctetString(Box::leak(Box::new(name))),
                Data::Integer(attribute),
                Data::LongUnsigned(index),
            ])
        };
        let scaler = Data::Structure(vec![Data::Integer(-1), Data::Enum(30)]);
        let columns = Data::Array(vec![object(8, [0, 0, 1, 0, 0, 255], 2, 0), object(3, ENERGY, 2, 0)]);
        let first = Data::Structure(vec![Data::OctetString(&CLOCK), Data::DoubleLongUnsigned(1_000)]);
        let row = |_| Data::Structure(vec![Data::Null, Data::DeltaUnsigned(5)]);
        let rows = Data::Array(std::iter::once(first).chain((0..199).map(row)).collect());
        let entry = Data::Structure(vec![
            Data::LongUnsigned(1),
            Data::Unsigned(0),
            Data::OctetString(&[9, 9, 9, 9, 9, 9]),
            Data::Null,
        ]);
        let values = [
            ((8, [0, 0, 1, 0, 0, 255], 2), Data::OctetString(&CLOCK)),
            ((3, ENERGY, 2), Data::DoubleLongUnsigned(123_456)),
            ((3, ENERGY, 3), scaler),
            ((7, PROFILE, 2), rows),
            ((7, PROFILE, 3), columns),
            ((7, PROFILE, 4), Data::DoubleLongUnsigned(900)),
            ((1, [9, 9, 9, 9, 9, 9], 2), Data::VisibleString("found")),
            ((15, [0, 0, 40, 0, 0, 255], 2), Data::Array(vec![entry])),
        ];
        Self { values: values.into_iter().map(|(name, data)| (name, data.to_bytes())).collect(), seen: 0 }
    }
}

fn name(attribute: AttributeId) -> (u16, [u8; 6], i8) {
    (attribute.class, *attribute.obis.groups(), attribute.attribute)
}

impl Objects for Meter {
    fn get(&mut self, request: AttributeRequest<'_>) -> Result<Value, DataAccessResult> {
        if name(request.attribute) == (1, [0, 0, 43, 1, 0, 255], 2) {
            return Ok(Value::Encoded(Data::DoubleLongUnsigned(self.seen).to_bytes()));
        }
        // A selection is given back as the value: what arrived is what the test looks at.
        if let Some(selection) = request.selection {
            let parts = vec![Data::Unsigned(selection.selector), Data::OctetString(selection.parameter)];
            return Ok(Value::Encoded(Data::Array(vec![Data::Structure(parts)]).to_bytes()));
        }
        let value = self.values.get(&name(request.attribute)).cloned();
        value.map(Value::Encoded).ok_or(DataAccessResult::ObjectUndefined)
    }

    fn set(&mut self, request: AttributeRequest<'_>, value: &[u8]) -> Result<(), DataAccessResult> {
        let slot = self.values.get_mut(&name(request.attribute)).ok_or(DataAccessResult::ReadWriteDenied)?;
        *slot = value.to_vec();
        Ok(())
    }

    fn action(&mut self, request: MethodRequest<'_>) -> ActionReply {
        if request.method != MethodId::new(9, ObisCode::new([0, 0, 10, 0, 106, 255]), 1) {
            return ActionReply::refused(ActionResult::ObjectUndefined);
        }
        request
            .parameters
            .map_or(ActionReply::SUCCESS, |parameters| ActionReply::returns(parameters.to_vec()))
    }
}

/// The meter while it runs.
pub(crate) struct Lying {
    pub(crate) address: SocketAddr,
    pub(crate) scratch: Scratch,
    pub(crate) lab: PathBuf,
    script: Arc<Mutex<Script>>,
}

impl Lying {
    pub(crate) fn new(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scratch = Scratch::new("dlms");
        let lab = scratch.path().join("lab.toml");
        let carrier = match script.carrier {
            Carrier::Glo => "glo",
            Carrier::Ded => "ded",
            Carrier::GeneralGlo => "general-glo",
            Carrier::GeneralDed => "general-ded",
            Carrier::GeneralCiphering(_) => panic!("this meter speaks suite 0"),
        };
        let text = format!(
            "danger_test_keys = true\nsuite = 0\nmechanism = {}\nprotection = \"auth+enc\"\ncarrier = \"{carrier}\"\n\
            client_sap = 1\nmax_pdu = 1024\n\
            [client]\nsystem_title = \"4D4D4D0000000001\"\ninvocation_counter = 100\n\
            [server]\nsystem_title = \"4D4D4D0000BC614E\"\ninvocation_counter = 5000\n\
            [keys]\nguek = \"000102030405060708090A0B0C0D0E0F\"\ngak = \"D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF\"\n\
            secret = \"DLMSsecret123456\"\n",
            script.mechanism.number()
        );
        std::fs::write(&lab, text).unwrap();
        let mechanism = script.mechanism;
        let script = Arc::new(Mutex::new(script));
        let shared = script.clone();
        std::thread::spawn(move || {
            let settings = LocalSettings::server(0, METER);
            let mut crypto = LocalCrypto::new(settings, ring(), 5_000);
            let mut meter = Meter::new();
            for (count, stream) in (1..).zip(listener.incoming()) {
                let mut conversation = Conversation {
                    handle: AssociationHandle(count),
                    mechanism,
                    crypto: &mut crypto,
                    meter: &mut meter,
                };
                // A client that goes away in the middle is what many of the tests want.
                let _ = conversation.serve(&mut stream.unwrap(), &shared);
                let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut OsRng };
                crypto.perform(AssociationHandle(count), &Operation::End, &mut ports).unwrap();
            }
        });
        Self { address, scratch, lab, script }
    }

    /// Lies differently from now on.
    pub(crate) fn change(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    /// Runs a verb of the command against this meter.
    pub(crate) fn run(&self, verb: &str, arguments: &[&str]) -> Output {
        let address = self.address.to_string();
        let head = ["dlms", verb, "--connect", &address, "--lab", self.lab.to_str().unwrap()];
        gridseal(&[&head[..], arguments].concat())
    }
}

struct Conversation<'m> {
    handle: AssociationHandle,
    mechanism: Mechanism,
    crypto: &'m mut LocalCrypto,
    meter: &'m mut Meter,
}

impl Conversation<'_> {
    fn serve(&mut self, stream: &mut TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
        let mut decoder = WrapperDecoder::new(70_000);
        let mut buffer = [0; 4_096];
        let mut server: Option<Server> = None;
        let (mut index, mut seals) = (0, 0);
        let mut sent: Vec<Vec<u8>> = Vec::new();
        loop {
            let Some(frame) = decoder.poll() else {
                let count = stream.read(&mut buffer)?;
                if count == 0 || decoder.push(&buffer[..count]).is_err() {
                    return Ok(());
                }
                continue;
            };
            let (sap, own) = (frame.source(), frame.destination());
            let server = server.get_or_insert_with(|| {
                let settings = if sap == PUBLIC {
                    ServerSettings::public(sap, METER)
                } else {
                    ServerSettings::ciphered(sap, METER, self.mechanism)
                };
                Server::new(settings, self.handle)
            });
            let request = frame.into_apdu();
            let mut script = script.lock().unwrap();
            for apdu in self.answers(server, &request, (&mut script, &mut seals)) {
                let context = Context { index, request: &request, sent: &sent };
                let changed =
                    if sap == PUBLIC { vec![apdu.clone()] } else { (script.wire)(apdu.clone(), &context) };
                for apdu in changed {
                    stream.write_all(&WrapperFrame::new(own, sap, apdu).unwrap().to_bytes())?;
                }
                sent.push(apdu);
                index += 1;
            }
        }
    }

    fn answers(
        &mut self,
        server: &mut Server,
        request: &[u8],
        (script, seals): (&mut Script, &mut usize),
    ) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        self.meter.seen = self.crypto.last_received(KeySet::Unicast, CLIENT).unwrap_or_default();
        server.handle(Tick(0), Input::Received(request), self.meter).unwrap();
        while let Some(output) = server.poll() {
            match output {
                ServerOutput::Transmit(apdu) => answers.push(apdu),
                ServerOutput::Crypto(handle, id, mut operation) => {
                    if let Operation::Seal { apdu, .. } = &mut operation {
                        *apdu = (script.plain)(std::mem::take(apdu), *seals);
                        *seals += 1;
                    }
                    let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut OsRng };
                    let result = self.crypto.perform(handle, &operation, &mut ports);
                    let _ = server.handle(Tick(0), Input::CryptoDone(id, result), self.meter);
                }
                _ => {}
            }
        }
        answers
    }
}
