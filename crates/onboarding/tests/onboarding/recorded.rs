//! The recorded onboarding in `tests/vectors/onboarding/recorded_session.toml`: our code makes it again, byte for byte, and
//! each half of it accepts the recorded other half.
//!
//! A back end that draws randomness for signatures cannot make the same ones again. Then the two replays below remain:
//! the device signs nothing itself, so its messages are compared on either back end.

use std::{collections::VecDeque, path::Path, sync::Arc};

use gridseal_crypto::{
    Key, Signer,
    role::{ActivationSecret, DeviceRootSecret, InitSigning, OwnerSecret, SessionSecret},
};
use gridseal_trust::{
    csr::signature_from_der,
    enrol::{
        device::{Device, DeviceRecord, Event, Input, Output},
        registrar::{DeviceFacts, Input as OwnerInput, Output as OwnerOutput, Registrar},
        secrets::{OwnerSecretExt, SessionSecretExt, owner_secret},
        session::{
            Config, Configuration, Envelope, EvidenceBody, InstalledBody, OwnPayload, ResponsesBody, Step,
            open,
        },
    },
    root::{Attested, Description, KeyBlob, OwnerKeys, RootReply, RootRequest},
};
use gridseal_types::{
    Code, DeviceState, DeviceType, Digest, EkName, Tick, UtcTime,
    service::{
        certificates::CertificateReply,
        keys::{Bytes, KeyReply, KeyRequest},
    },
};

use crate::{
    recording::{POINT, SERIAL, STEPS, policy, record},
    support::{
        START,
        factory::{Factory, MODEL, Owner},
        signing_key,
    },
};

const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/onboarding/recorded_session.toml");

/// Whether a signature made twice is the same: so it is with the back end of devices.
fn is_deterministic() -> bool {
    let key = signing_key::<InitSigning>("init");
    key.sign(b"twice").unwrap() == key.sign(b"twice").unwrap()
}

#[test]
fn the_recorded_onboarding_is_made_again_byte_for_byte() {
    #[expect(clippy::disallowed_methods, reason = "whether a person asked for a new file")]
    let bless = std::env::var_os("GRIDSEAL_BLESS").is_some();
    let made = record();
    if !is_deterministic() {
        assert!(!bless, "not with a back end that draws randomness for signatures");
        return;
    }
    if bless {
        std::fs::write(FILE, &made).unwrap();
    }
    let recorded = std::fs::read_to_string(FILE).unwrap();
    for (line, (made, recorded)) in (1..).zip(made.lines().zip(recorded.lines())) {
        assert_eq!(made, recorded, "line {line}");
    }
    assert_eq!(made, recorded);
}

/// The recorded values.
struct Recorded(toml::Table);

impl Recorded {
    fn load() -> Self {
        Self(std::fs::read_to_string(Path::new(FILE)).unwrap().parse().unwrap())
    }

    fn bytes(&self, table: &str, name: &str) -> Vec<u8> {
        let value = table.split('.').fold(&self.0, |at, part| at[part].as_table().unwrap())[name].as_str();
        hex::decode(value.unwrap()).unwrap()
    }

    fn array<const N: usize>(&self, table: &str, name: &str) -> [u8; N] {
        self.bytes(table, name).try_into().unwrap()
    }

    fn digest(&self, table: &str, name: &str) -> Digest {
        Digest(self.array(table, name))
    }

    fn wire(&self, step: Step) -> Vec<u8> {
        self.bytes(&format!("c{}", step.number()), "wire")
    }

    fn blob(&self, name: &str) -> KeyBlob {
        KeyBlob { public: self.bytes("device", &format!("{name}_public")), private: Vec::new() }
    }

    fn device_root(&self) -> Key<DeviceRootSecret, 32> {
        Key::take(&mut self.array("device", "n_root"))
    }

    fn owner_secret(&self) -> Key<OwnerSecret, 32> {
        owner_secret(&self.device_root(), 1)
    }

    fn activation(&self) -> Key<ActivationSecret, 32> {
        Key::take(&mut self.array("derived", "k_act"))
    }

    fn session(&self) -> Key<SessionSecret, 32> {
        self.owner_secret().session(&self.digest("derived", "th2"), &self.activation())
    }

    /// The body of a message, opened by our own derivations.
    fn opened(&self, step: Step) -> Vec<u8> {
        let wire = self.wire(step);
        let key = match step.number() {
            1 => self.owner_secret().seal_c1(&gridseal_types::Nonce(self.array("derived", "m"))),
            number if number % 2 == 1 => self.session().device_to_owner(),
            _ => self.session().owner_to_device(),
        };
        let body = open(&key, &Envelope::decode(&wire).unwrap()).unwrap();
        assert_eq!(body, self.bytes(&format!("c{}", step.number()), "body"));
        body
    }

    fn evidence(&self) -> EvidenceBody {
        EvidenceBody::decode(&self.opened(Step::EVIDENCE)).unwrap()
    }

    fn configuration(&self) -> Config {
        Configuration::decode(&self.bytes("c6", "payload")).unwrap().config
    }

    /// What the recorded TPM answers.
    fn root(&self, request: RootRequest) -> RootReply {
        match request {
            RootRequest::Describe => RootReply::Described(Description {
                ek_public: self.bytes("device", "ek_public"),
                epoch: 0,
                pin: None,
                generation: 0,
                permanent: self.evidence().permanent,
                platform_open: false,
                iak_public: self.bytes("device", "iak_public"),
                ek_certificate: Vec::new(),
            }),
            RootRequest::CreateKeys => RootReply::Keys(OwnerKeys {
                attestation: self.blob("ak"),
                storage: self.blob("sto"),
                tls: self.blob("tls"),
                iak_public: self.bytes("device", "iak_public"),
            }),
            RootRequest::OwnerSecret(epoch) => {
                RootReply::OwnerSecret(owner_secret(&self.device_root(), epoch))
            }
            RootRequest::ActivateIdentity { .. } => {
                RootReply::Activated(Key::take(&mut self.array("init", "k_chal")))
            }
            RootRequest::WritePin(pin) => {
                assert_eq!(pin, self.configuration().pin);
                RootReply::Done
            }
            RootRequest::Attest(request) => {
                let qualifying = ["qd_sto", "qd_tls", "qd_iak", "qd_quote"];
                assert_eq!(request.qualifying, qualifying.map(|name| self.digest("derived", name)));
                let EvidenceBody {
                    sessions,
                    certify_storage,
                    certify_tls,
                    certify_identity,
                    quote,
                    logs,
                    ..
                } = self.evidence();
                let certify = [certify_storage, certify_tls, certify_identity];
                RootReply::Attested(Box::new(Attested {
                    activation: self.activation(),
                    sessions,
                    certify,
                    quote,
                    logs,
                }))
            }
            RootRequest::Sign { message, .. } => {
                let csr = self.evidence().csr;
                // The signature is the last element of the request: what follows its 3 bytes of BIT STRING head.
                let at = csr.windows(message.len()).position(|part| part == message).unwrap() + message.len();
                RootReply::Signature(signature_from_der(&csr[at + 12 + 3..]).unwrap())
            }
            RootRequest::Execute(commands) => {
                assert_eq!(commands, OwnPayload::decode(&self.bytes("c4", "payload")).unwrap().commands);
                RootReply::Responses(ResponsesBody::decode(&self.opened(Step::RESPONSES)).unwrap().responses)
            }
            RootRequest::Import { objects, .. } => {
                let names = InstalledBody::decode(&self.opened(Step::INSTALLED)).unwrap().names;
                let blob = |public| KeyBlob { public, private: Vec::new() };
                let imported =
                    objects.into_iter().zip(names).map(|(object, name)| (blob(object.public), name));
                RootReply::Imported(imported.collect())
            }
            RootRequest::RaiseEpoch | RootRequest::Flush => RootReply::Done,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_device_says_what_is_recorded_to_the_recorded_owner() {
    let recorded = Recorded::load();
    let mut firmware = Factory::new().firmware(SERIAL);
    firmware.place = Some(POINT.into());
    let mut device = Device::new(firmware, DeviceRecord::default());
    // The device's messages and what it is answered.
    let mut exchanges: VecDeque<(Vec<u8>, Vec<u8>)> = [("i1", "i1c"), ("i1p", "i2")]
        .map(|(sent, reply)| (recorded.bytes("init", sent), recorded.bytes("init", reply)))
        .into();
    exchanges.extend(STEPS.chunks(2).map(|pair| (recorded.wire(pair[0]), recorded.wire(pair[1]))));
    let i1 = recorded.bytes("init", "i1");
    let mut nonces = VecDeque::from([i1[5..37].to_vec(), recorded.bytes("derived", "m")]);
    let mut events = Vec::new();
    let mut now = Tick(0);
    device.handle(now, Input::Start).unwrap();
    loop {
        let Some(output) = device.poll() else {
            let Some(deadline) = device.deadline() else { break };
            now = deadline;
            device.handle(now, Input::Timeout).unwrap();
            continue;
        };
        match output {
            Output::Root(request) => device.handle(now, Input::Root(Ok(recorded.root(request)))).unwrap(),
            Output::Random(32) => device.handle(now, Input::Random(&nonces.pop_front().unwrap())).unwrap(),
            Output::Random(length) => device.handle(now, Input::Random(&vec![0; length])).unwrap(),
            Output::Persist => device.handle(now, Input::Persisted).unwrap(),
            Output::Transmit(_, wire) => {
                let (sent, reply) = exchanges.pop_front().expect("another message");
                assert_eq!(hex::encode(wire), hex::encode(sent), "{events:?}");
                device.handle(now, Input::Received(&reply)).unwrap();
            }
            Output::Event(event) => events.push(event),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(events.last(), Some(&Event::Operating { confirmed: true }), "{events:?}");
    assert!(exchanges.is_empty());
    let installed = device.record().installed.as_ref().unwrap();
    assert_eq!(installed.digest, recorded.digest("derived", "configuration_hash"));
}

/// What the recorded key service and authority answer; `None` when there is nothing to answer.
fn answer(recorded: &Recorded, output: OwnerOutput) -> Option<OwnerInput<'static>> {
    let configuration = recorded.configuration();
    let sealed = |step| KeyReply::Sealed { wire: recorded.wire(step) };
    let reply = match output {
        OwnerOutput::Keys(KeyRequest::Challenge(challenge)) => {
            assert_eq!(challenge.ak_name.as_bytes().to_vec(), recorded.bytes("device", "ak_name"));
            sealed(Step::CHALLENGE)
        }
        OwnerOutput::Keys(KeyRequest::OpenMessage { wire, .. }) => {
            let step = Envelope::decode(&wire).unwrap().step().unwrap();
            KeyReply::Opened { body: recorded.opened(step) }
        }
        OwnerOutput::Keys(KeyRequest::Own { act, th3, .. }) => {
            assert_eq!((act, th3), (recorded.digest("derived", "act"), recorded.digest("derived", "th3")));
            sealed(Step::COMMANDS)
        }
        OwnerOutput::Keys(KeyRequest::ConfirmOwnership { .. }) => KeyReply::Done,
        OwnerOutput::Keys(KeyRequest::Provision(provision)) => {
            assert_eq!(provision.th5, recorded.digest("derived", "th5"));
            let names = (1..=3).map(|id| EkName(recorded.array(&format!("object.{id}"), "name")));
            KeyReply::Provisioned {
                wire: recorded.wire(Step::PROVISION),
                objects: names.collect(),
                configuration: recorded.digest("derived", "configuration_hash"),
            }
        }
        OwnerOutput::Keys(KeyRequest::Finish { receipt, th6, th7, .. }) => {
            let expected = ["receipt", "th6", "th7"].map(|name| recorded.digest("derived", name));
            assert_eq!([receipt, th6, th7], expected);
            sealed(Step::DONE)
        }
        OwnerOutput::Certificate(_) => {
            let chain = configuration.ldevid_chain.into_iter().map(Bytes).collect();
            let root = configuration.ca_bundle[0].clone();
            return Some(OwnerInput::Certificate(CertificateReply::Issued {
                chain,
                root,
                not_after: UtcTime(0),
            }));
        }
        OwnerOutput::Persist(_) => return Some(OwnerInput::Persisted),
        OwnerOutput::Accepted(_) | OwnerOutput::Appraised(_) => return None,
        other => panic!("{other:?}"),
    };
    Some(OwnerInput::Keys(reply))
}

#[test]
fn the_owner_accepts_the_recorded_device() {
    let recorded = Recorded::load();
    let facts = DeviceFacts {
        device: EkName(recorded.array("device", "ek_name")),
        serial: SERIAL.into(),
        model: MODEL.into(),
        device_type: DeviceType::Meter,
        ek_pub: recorded.bytes("device", "ek_public"),
        epoch: 1,
        entry_index: 1,
        entry: recorded.digest("paper", "voucher_head"),
        redirects: vec![recorded.digest("init", "redirect_hash")],
        state: DeviceState::Registered,
        policy_version: 0,
        configuration: Digest([0; 32]),
        measured: None,
        is_endorsed: false,
    };
    let rules = Arc::new(Owner::rules_of([policy()]));
    let c1 = recorded.wire(Step::HELLO);
    let mut registrar = Registrar::begin(facts, rules, &c1, &recorded.opened(Step::HELLO), START).unwrap();
    let mut replies = Vec::new();
    for step in [Step::HELLO, Step::EVIDENCE, Step::RESPONSES, Step::INSTALLED] {
        if step != Step::HELLO {
            assert_eq!(
                registrar.handle(START, OwnerInput::Message(&recorded.wire(step))),
                Ok(()),
                "{step:?}"
            );
        }
        while let Some(output) = registrar.poll() {
            match output {
                OwnerOutput::Reply(wire) => replies.push(wire),
                output => {
                    let handled = answer(&recorded, output).map(|input| registrar.handle(START, input));
                    assert_eq!(handled.unwrap_or(Ok(())), Ok::<(), Code>(()), "{step:?}");
                }
            }
        }
    }
    let expected = [Step::CHALLENGE, Step::COMMANDS, Step::PROVISION, Step::DONE];
    assert_eq!(replies, expected.map(|step| recorded.wire(step)));
    assert_eq!(registrar.record().transcript, recorded.digest("derived", "th8"));
}
