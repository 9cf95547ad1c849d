//! A key service by itself: an owner's directories, devices that are imported into its records before it starts, and
//! either its core alone, spoken to in its own local protocol, or the whole service.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use gridseal_api::batch;
use gridseal_crypto::{
    InvocationCounter, Key,
    role::{Dek, Gak, Guek, Kek},
};
use gridseal_dlms::suite::protect::seal_general_glo;
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_keys::{
    Core, DataKeysFile, Import, Keystore, KeystoreFile, Service, imported_name,
    record::{VERSIONS, VersionEntry},
    site::Site,
};
use gridseal_store::{Claim, SoleWriter, SqliteRecords, record_tag_key};
use gridseal_types::{
    N16, SystemTitle, UtcTime,
    records::Records,
    service::{
        Batch,
        keys::{Carrier, ExchangeReply, KeyReply, KeyRequest, OpenVerdict, Seal, Sealed},
    },
};

use crate::machine::{GRIDSEAL, Scratch, gridseal_ok};

/// GET of the clock's time: harmless.
pub(crate) const GET: [u8; 13] = [0xC0, 1, 0xC1, 0, 8, 0, 0, 1, 0, 0, 255, 2, 0];

pub(crate) fn title(meter: u8) -> SystemTitle {
    SystemTitle([b'G', b'S', b'L', 0, 0, 0, 1, meter])
}

/// Keys that a meter was delivered with: the same number 16 times, another for each key.
fn guek(meter: u8) -> Key<Guek, 16> {
    Key::take(&mut [meter; 16])
}

fn gak(meter: u8) -> Key<Gak, 16> {
    Key::take(&mut [meter ^ 0x40; 16])
}

/// A push of a meter under its first keys.
pub(crate) fn push(meter: u8, counter: u64, plain: &[u8]) -> Vec<u8> {
    push_under(&guek(meter), &gak(meter), meter, (counter, plain))
}

/// The same under other keys.
pub(crate) fn push_under(
    guek: &Key<Guek, 16>,
    gak: &Key<Gak, 16>,
    meter: u8,
    (counter, plain): (u64, &[u8]),
) -> Vec<u8> {
    let mut tickets = InvocationCounter::resume(counter);
    tickets.extend(tickets.reserve(1).unwrap());
    seal_general_glo(guek, gak, title(meter), tickets.take().unwrap(), plain).unwrap()
}

pub(crate) fn seal(meter: u8, idempotency: u64) -> KeyRequest {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&idempotency.to_be_bytes());
    KeyRequest::Seal(Seal {
        system_title: title(meter),
        apdu: GET.to_vec(),
        carrier: Carrier::GeneralGlo,
        idempotency: N16(id),
    })
}

pub(crate) struct Station {
    pub(crate) scratch: Scratch,
}

impl Station {
    /// An owner whose key service knows `meters` meters in use, without a root of trust.
    pub(crate) fn new(what: &str, meters: u8) -> Self {
        Self::with(what, (1..=meters).map(import_of))
    }

    /// The same with devices as they are delivered.
    pub(crate) fn with(what: &str, imports: impl Iterator<Item = Import>) -> Self {
        let station = Self::empty(what);
        let mut records = station.records();
        records.claim(Claim::IfFree, &station.keys("keys.marker")).unwrap();
        station.import_all(&mut records, imports);
        station
    }

    /// The same without records.
    pub(crate) fn empty(what: &str) -> Self {
        let station = Self { scratch: Scratch::new(what) };
        let owner = station.owner("");
        gridseal_ok(&[
            "ceremony",
            "owner",
            "--out",
            owner.to_str().unwrap(),
            "--config-listen",
            "127.0.0.1:1",
        ]);
        station.configure("127.0.0.1:0", "");
        station
    }

    pub(crate) fn configure(&self, listen: &str, more: &str) {
        let config =
            format!("listen = \"{listen}\"\nvoucher_keys = []\ndanger_unlocked_memory = true\n{more}\n");
        std::fs::write(self.keys("config.toml"), config).unwrap();
    }

    pub(crate) fn owner(&self, path: &str) -> PathBuf {
        self.scratch.path().join("owner").join(path)
    }

    pub(crate) fn keys(&self, path: &str) -> PathBuf {
        self.owner("keys").join(path)
    }

    pub(crate) fn zone_key(&self) -> Key<Dek, 32> {
        Key::take_slice(&mut std::fs::read(self.keys("zone.kek")).unwrap()).unwrap()
    }

    pub(crate) fn records(&self) -> SqliteRecords {
        let records = SqliteRecords::open(self.keys("keys.db")).unwrap();
        records.authenticated_by(record_tag_key(&self.zone_key()))
    }

    fn keystore(&self) -> Keystore {
        let file: KeystoreFile =
            minicbor::decode(&std::fs::read(self.keys("keystore.cbor")).unwrap()).unwrap();
        let delegation = std::fs::read(self.keys("delegation.cbor")).unwrap();
        Keystore::open(&file, self.zone_key(), delegation, vec![]).unwrap()
    }

    /// The deciding part, for a test that runs it in its own process.
    pub(crate) fn deciding_core(&self) -> Core {
        Core::new(self.keystore(), Core::ATTESTATION_AGE_DEFAULT_S)
    }

    /// Imports meters as a tool beside a service that does not run. Records are claimed.
    pub(crate) fn import<S: SoleWriter>(&self, records: &mut S, meters: u8) {
        self.import_all(records, (1..=meters).map(import_of));
    }

    fn import_all<S: SoleWriter>(&self, records: &mut S, imports: impl Iterator<Item = Import>) {
        let core = self.deciding_core();
        let mut service =
            Service::load(&core, records, Site::single(Core::CLIENT_TITLE), &mut OsRng).unwrap();
        for import in imports {
            let marker = records
                .transact(|view| {
                    let decision = service.import(view, utc_now(), &mut OsRng, &import)?;
                    assert!(matches!(decision.replies[..], [KeyReply::Exchange(ExchangeReply::Status(_))]));
                    Ok::<_, gridseal_keys::KeysError>((decision.writes, decision.marker))
                })
                .unwrap();
            if let Some(epoch) = marker {
                std::fs::write(self.keys("site-epoch"), epoch.to_string()).unwrap();
            }
        }
    }

    /// A data key that is as old as this says, wrapped as the service wraps them.
    pub(crate) fn data_key_since(&self, since: UtcTime) {
        let file: KeystoreFile =
            minicbor::decode(&std::fs::read(self.keys("keystore.cbor")).unwrap()).unwrap();
        let mut data_keys = DataKeysFile::new();
        let kek = self.zone_key().derive(&[b"gs-data-keys-v1"]);
        data_keys.renew(&kek, file.tenant, since, &mut OsRng).unwrap();
        let path = self.keys("data-keys.cbor");
        std::fs::write(&path, minicbor::to_vec(data_keys).unwrap()).unwrap();
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, owner_only).unwrap();
    }

    /// Numbers of the data keys that wrap meters' keys.
    pub(crate) fn data_keys_in_use(&self) -> Vec<u64> {
        let rows = self.records().range(VERSIONS, &[], 10_000).unwrap();
        let entries = rows.iter().map(|(_, row)| minicbor::decode::<VersionEntry>(row).unwrap());
        let envelopes = entries.map(|entry| gridseal_crypto::WrappedKey(entry.envelope.0));
        let mut numbers: Vec<u64> = envelopes.map(|wrapped| wrapped.data_key_id().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// `keys-core` by itself.
    pub(crate) fn core(&self) -> CoreProcess {
        CoreProcess::start(
            Command::new(GRIDSEAL).args(["keys-core", "--config"]).arg(self.keys("config.toml")),
        )
    }
}

/// A meter of the operator's that is in use.
pub(crate) fn import_of(meter: u8) -> Import {
    let kek: Key<Kek, 16> = Key::take(&mut [meter ^ 0x80; 16]);
    Import::operating(title(meter), guek(meter), gak(meter), kek)
}

/// Name under which an imported meter is on record.
pub(crate) fn name(meter: u8) -> gridseal_types::EkName {
    imported_name(title(meter))
}

/// A core whose parent we are.
pub(crate) struct CoreProcess {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl CoreProcess {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Sends bytes as one frame; whether they could be sent.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(input) = &mut self.input else { return false };
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        input.write_all(&[&length[..], bytes].concat()).and_then(|()| input.flush()).is_ok()
    }

    pub(crate) fn send(&mut self, requests: Vec<KeyRequest>) -> bool {
        self.send_bytes(&batch::encode(&Batch(requests)))
    }

    /// The next frame; `None` when the core has ended.
    pub(crate) fn receive(&mut self) -> Option<Vec<KeyReply>> {
        let mut length = [0; 4];
        self.output.read_exact(&mut length).ok()?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        self.output.read_exact(&mut bytes).ok()?;
        Some(batch::decode(&bytes).unwrap().0)
    }

    pub(crate) fn ask(&mut self, requests: Vec<KeyRequest>) -> Option<Vec<KeyReply>> {
        if self.send(requests) { self.receive() } else { None }
    }

    /// As [`CoreProcess::ask`], of a core that must answer.
    #[track_caller]
    pub(crate) fn answer(&mut self, request: KeyRequest) -> KeyReply {
        match self.ask(vec![request]) {
            Some(mut replies) => replies.pop().unwrap(),
            None => panic!("the core has ended: {}", self.ended()),
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes its input and waits for its end; what it said of the reason.
    pub(crate) fn ended(&mut self) -> String {
        drop(self.input.take());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        format!("{status}: {said}")
    }
}

impl Drop for CoreProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that was sealed under which key and counter: rule S1 as a table.
#[derive(Default)]
pub(crate) struct Nonces(BTreeMap<(SystemTitle, u32, u32), Vec<u8>>);

impl Nonces {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[track_caller]
    pub(crate) fn note(&mut self, meter: SystemTitle, version: u32, (counter, bytes): (u32, &[u8])) {
        let known = self.0.entry((meter, version, counter)).or_insert_with(|| bytes.to_vec());
        assert_eq!(known, bytes, "rule S1: {meter}, key {version}, counter {counter} covers two APDUs");
    }

    #[track_caller]
    pub(crate) fn sealed(&mut self, meter: SystemTitle, sealed: &Sealed) {
        self.note(meter, sealed.version, (sealed.counter, &sealed.apdu));
    }

    /// Notes what an answer about this meter holds.
    #[track_caller]
    pub(crate) fn reply(&mut self, meter: SystemTitle, reply: &KeyReply) {
        let KeyReply::Exchange(reply) = reply else { return };
        match reply {
            ExchangeReply::Sealed(sealed) => self.sealed(meter, sealed),
            ExchangeReply::Change(change) => {
                change.transfer.iter().for_each(|sealed| self.sealed(meter, sealed));
            }
            ExchangeReply::Probes(probes) => {
                probes.iter().for_each(|probe| self.sealed(meter, &probe.sealed));
            }
            ExchangeReply::HlsReply { parameter, sealed } => {
                let counter = u32::from_be_bytes(parameter[1..5].try_into().unwrap());
                self.note(meter, sealed.version, (counter, parameter));
                self.sealed(meter, sealed);
            }
            _ => {}
        }
    }
}

pub(crate) fn sealed(reply: KeyReply) -> Sealed {
    match reply {
        KeyReply::Exchange(ExchangeReply::Sealed(sealed)) => sealed,
        other => panic!("not sealed: {other:?}"),
    }
}

pub(crate) fn verdict(reply: KeyReply) -> OpenVerdict {
    match reply {
        KeyReply::Apdu(verdict) => verdict,
        other => panic!("no verdict: {other:?}"),
    }
}

/// Lines of the audit log of a directory's key service.
pub(crate) fn audit(dir: &Path) -> String {
    gridseal_ok(&["audit".as_ref(), "--db".as_ref(), dir.join("keys.db").as_os_str()])
}
