//! A device, a holder of keys that remembers, and short ways to ask.

use std::collections::BTreeMap;

use gridseal_crypto::{Curve, CurveAgreement, CurvePublic, CurveSigner, Key, Rng, RngError, role::Guek};
use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::{
        reference::{AttributeId, MethodId, Selection},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{AccessContext, AttributeRequest, MethodRequest, Objects, Protection, Value},
    suite::{
        agreement::{Parties, Side},
        local::{
            AgreementKeys, DataLayer, KeyRing, KeySet, LocalCrypto, LocalSettings, Ports, SigningKeys,
            VolatileCounters,
        },
    },
    wire::{Data, DateTime},
};
use gridseal_meter::cosem::{
    Device, DeviceConfig, Grant, ImageConfig, KeyId, KeyRefusal, Keyholder, Note, ObjectChange, Pairs, Part,
    Rights, Saved, StoreError,
};
use gridseal_trust::party::Purpose;
use gridseal_types::{ObisCode, SystemTitle, UtcTime};

pub(crate) const CLIENT: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x01");
pub(crate) const METER: SystemTitle = SystemTitle(*b"MMM\0\0\xBC\x61\x4E");
pub(crate) const MANAGEMENT: u16 = 1;
pub(crate) const PUBLIC: u16 = 16;
pub(crate) const READER: u16 = 2;
pub(crate) const ALL: u16 = 0x66;
/// 2027-01-15, 08:00 UTC, a Friday.
pub(crate) const START: UtcTime = UtcTime(1_800_000_000);

pub(crate) const CLOCK: ObisCode = ObisCode::CLOCK;
pub(crate) const LOAD: ObisCode = ObisCode::LOAD_PROFILE_1;
pub(crate) const IMPORT: ObisCode = ObisCode::ACTIVE_ENERGY_IMPORT;

/// Signing key of the meter that it was made with.
pub(crate) const METER_SEED: u8 = 0x21;

/// Remembers what it was asked; refuses on demand. Its key pairs follow from counted seeds.
#[derive(Default)]
pub(crate) struct Holder {
    pub(crate) refusal: Option<KeyRefusal>,
    pub(crate) transfers: Vec<Vec<(KeyId, Vec<u8>)>>,
    pub(crate) secrets: Vec<Vec<u8>>,
    pub(crate) received: BTreeMap<u8, u32>,
    pub(crate) curve: Option<Curve>,
    /// Seeds by purpose: in use, waiting.
    pub(crate) seeds: BTreeMap<Purpose, (Option<u8>, Option<u8>)>,
    pub(crate) made: u8,
    pub(crate) agreed: Vec<(KeyId, Key<Guek, 16>)>,
    pub(crate) believed: Vec<(Purpose, SystemTitle, CurvePublic)>,
    /// Of whom only certificates count.
    pub(crate) certified: Vec<(Purpose, SystemTitle)>,
    /// A party's key that needs no certificate.
    pub(crate) configured: Option<(Purpose, SystemTitle, CurvePublic)>,
    pub(crate) kept: BTreeMap<Part, Vec<u8>>,
    /// How many more parts can be kept.
    pub(crate) room: Option<usize>,
}

/// A key that follows from a seed.
pub(crate) fn signer(curve: Curve, seed: u8) -> CurveSigner {
    CurveSigner::take(curve, &mut vec![seed; curve.coordinate_size()]).unwrap()
}

pub(crate) struct Counting(pub(crate) u8);

impl Rng for Counting {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RngError> {
        for byte in buffer {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

impl Holder {
    fn answer(&self) -> Result<(), KeyRefusal> {
        self.refusal.map_or(Ok(()), Err)
    }

    fn store(&mut self) -> Result<(), StoreError> {
        match &mut self.room {
            Some(0) => Err(StoreError),
            Some(room) => {
                *room -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What a power cut leaves.
    pub(crate) fn saved(&self) -> Saved {
        let part = |part| self.kept.get(&part).cloned();
        Saved { setup: part(Part::Setup), image: part(Part::Image), blocks: part(Part::Blocks) }
    }
}

impl Keyholder for Holder {
    fn transfer(&mut self, keys: &[(KeyId, &[u8])]) -> Result<(), KeyRefusal> {
        self.answer()?;
        self.transfers.push(keys.iter().map(|(id, wrapped)| (*id, wrapped.to_vec())).collect());
        Ok(())
    }

    fn change_secret(&mut self, wrapped: &[u8]) -> Result<(), KeyRefusal> {
        self.answer()?;
        self.secrets.push(wrapped.to_vec());
        Ok(())
    }

    fn change_password(&mut self, password: &[u8]) -> Result<(), KeyRefusal> {
        self.change_secret(password)
    }

    fn last_received(&self, set: KeySet, client: SystemTitle) -> Option<u32> {
        assert_eq!(client, CLIENT);
        self.received.get(&u8::from(set == KeySet::Broadcast)).copied()
    }

    fn agree(
        &mut self,
        client: SystemTitle,
        keys: &[(KeyId, CurvePublic)],
    ) -> Result<Vec<Vec<u8>>, KeyRefusal> {
        self.answer()?;
        let (curve, parties) = (self.curve.unwrap(), Parties { client, server: METER });
        let seed = self.seeds.get(&Purpose::Signature).and_then(|(current, _)| *current);
        let own = signer(curve, seed.ok_or(KeyRefusal::NoPair)?);
        let mut answers = Vec::new();
        for (id, point) in keys {
            self.made += 1;
            let side = Side::new(id.number(), curve, &mut Counting(self.made)).unwrap();
            if curve == Curve::P256 {
                self.agreed.push((*id, side.key(point, parties).unwrap()));
            }
            answers.push(side.key_data(&own).unwrap());
        }
        Ok(answers)
    }

    fn make_pair(&mut self, purpose: Purpose) -> Result<&'static str, KeyRefusal> {
        self.answer()?;
        self.made += 1;
        self.seeds.entry(purpose).or_default().1 = Some(0x30 + self.made);
        Ok("software")
    }

    fn pairs(&self, purpose: Purpose) -> Pairs {
        let (current, waiting) = self.seeds.get(&purpose).copied().unwrap_or_default();
        let public = |seed: Option<u8>| Some(signer(self.curve?, seed?).public());
        Pairs { current: public(current), waiting: public(waiting) }
    }

    fn sign_request(
        &mut self,
        purpose: Purpose,
        key: &CurvePublic,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyRefusal> {
        let (current, waiting) = self.seeds[&purpose];
        let seed = [current, waiting].into_iter().flatten();
        let mut signers = seed.map(|seed| signer(self.curve.unwrap(), seed));
        let signer = signers.find(|signer| signer.public() == *key).ok_or(KeyRefusal::NoPair)?;
        Ok(signer.sign(message).unwrap())
    }

    fn use_pair(&mut self, purpose: Purpose, key: &CurvePublic) -> Result<(), KeyRefusal> {
        self.answer()?;
        if self.pairs(purpose).waiting.as_ref() == Some(key) {
            let seeds = self.seeds.get_mut(&purpose).unwrap();
            *seeds = (seeds.1, None);
        }
        Ok(())
    }

    fn configured_key(&self, purpose: Purpose, title: SystemTitle) -> Option<CurvePublic> {
        let (of, whose, key) = self.configured.as_ref()?;
        ((*of, *whose) == (purpose, title)).then(|| key.clone())
    }

    fn believe(
        &mut self,
        peers: &[(Purpose, SystemTitle, CurvePublic)],
        certified: &[(Purpose, SystemTitle)],
    ) {
        self.believed = peers.to_vec();
        self.certified = certified.to_vec();
    }

    fn protect_data(
        &mut self,
        layers: &[DataLayer],
        plain: &[u8],
    ) -> Result<(Vec<DataLayer>, Vec<u8>), KeyRefusal> {
        let mut ports = Ports { counters: &mut VolatileCounters, rng: &mut Counting(1) };
        meter_crypto().protect_data(layers, plain, &mut ports).map_err(KeyRefusal::Data)
    }

    fn unprotect_data(&self, layers: &[DataLayer], data: &[u8]) -> Result<Vec<u8>, KeyRefusal> {
        meter_crypto().unprotect_data(layers, data).map_err(KeyRefusal::Data)
    }

    fn keep(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.store()?;
        self.kept.insert(part, bytes.to_vec());
        Ok(())
    }

    fn append(&mut self, part: Part, bytes: &[u8]) -> Result<(), StoreError> {
        self.store()?;
        self.kept.entry(part).or_default().extend_from_slice(bytes);
        Ok(())
    }
}

/// Keys of suite 1 of one side, and the public ones of the other.
fn crypto(settings: LocalSettings, [own, peer]: [u8; 2], peer_title: SystemTitle) -> LocalCrypto {
    let agreement = |seed: u8| CurveAgreement::take(Curve::P256, &mut [seed | 0x80; 32]).unwrap();
    let key = |byte| Key::take(&mut [byte; 16]);
    let signing = SigningKeys {
        own: signer(Curve::P256, own),
        peers: [(peer_title, signer(Curve::P256, peer).public())].into(),
    };
    let partners =
        AgreementKeys { own: agreement(own), peers: [(peer_title, agreement(peer).public())].into() };
    let ring = KeyRing {
        signing: Some(signing),
        agreement: Some(partners),
        kek: Some(Key::take(&mut [3; 16])),
        ..KeyRing::new(key(1), Key::take(&mut [2; 16]))
    };
    LocalCrypto::new(settings, ring, 0)
}

fn meter_crypto() -> LocalCrypto {
    crypto(LocalSettings::server(1, METER), [METER_SEED, 5], CLIENT)
}

/// The client that has what [`meter_crypto`] has.
pub(crate) fn client_crypto() -> LocalCrypto {
    crypto(LocalSettings::client(1, CLIENT), [5, METER_SEED], METER)
}

pub(crate) struct World {
    pub(crate) device: Device,
    config: DeviceConfig,
    pub(crate) keys: Holder,
    pub(crate) context: AccessContext,
}

const fn context(client_sap: u16) -> AccessContext {
    AccessContext {
        client_sap,
        client_title: Some(CLIENT),
        user: None,
        mechanism: Mechanism::Gmac,
        protection: Protection::AuthenticatedEncrypted,
        is_signed: false,
        is_broadcast: false,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Mechanism::Gmac)
    }

    /// A meter of suite 1 or 2, whose clock can be relied on.
    pub(crate) fn suite(suite: u8) -> Self {
        let config = DeviceConfig { suite, is_clock_trusted: true, ..Self::config(Mechanism::Gmac) };
        let mut world = Self::of(config);
        world.keys.curve = Some(Curve::of_suite(suite));
        world.keys.seeds.insert(Purpose::Signature, (Some(METER_SEED), None));
        world
    }

    /// A meter that takes images.
    pub(crate) fn taking(image: ImageConfig) -> Self {
        Self::of(DeviceConfig { image: Some(image), ..Self::config(Mechanism::Gmac) })
    }

    pub(crate) fn with(mechanism: Mechanism) -> Self {
        Self::of(Self::config(mechanism))
    }

    fn of(config: DeviceConfig) -> Self {
        let device = Device::new(config.clone(), START);
        Self { device, config, keys: Holder::default(), context: context(MANAGEMENT) }
    }

    /// Power goes and comes: what was not kept is gone, also whether the clock can be relied on.
    pub(crate) fn power_cut(&mut self) {
        let saved = self.keys.saved();
        self.config.is_clock_trusted = false;
        self.device = Device::new(self.config.clone(), START);
        self.device.restore(&saved, &mut self.keys).unwrap();
    }

    /// Invokes a method and gives what it returns.
    pub(crate) fn call(
        &mut self,
        class: u16,
        obis: ObisCode,
        method: i8,
        value: Data<'_>,
    ) -> Result<Vec<u8>, ActionResult> {
        let parameters = value.to_bytes();
        let method = MethodId::new(class, obis, method);
        let request = MethodRequest { context: &self.context, method, parameters: Some(&parameters) };
        let reply = self.device.session(&mut self.keys).action(request);
        match (reply.result, reply.returned) {
            (ActionResult::Success, returned) => Ok(returned.map(Result::unwrap).unwrap_or_default()),
            (refused, _) => Err(refused),
        }
    }

    fn config(mechanism: Mechanism) -> DeviceConfig {
        let grant =
            |client_sap, mechanism, is_ciphered, rights| Grant { client_sap, mechanism, is_ciphered, rights };
        DeviceConfig {
            title: METER,
            client_title: CLIENT,
            sap: 1,
            suite: 0,
            policy: Protection::Authenticated,
            conformance: Conformance::SPOKEN,
            max_pdu: 1_024,
            grants: vec![
                grant(MANAGEMENT, mechanism, true, Rights::ALL),
                grant(PUBLIC, Mechanism::None, false, Rights::NONE),
                grant(READER, mechanism, true, Rights { read: true, ..Rights::NONE }),
                grant(ALL, Mechanism::None, true, Rights { invoke: true, ..Rights::NONE }),
            ],
            is_clock_trusted: false,
            image: None,
        }
    }

    pub(crate) fn by(mut self, client_sap: u16) -> Self {
        self.context = context(client_sap);
        self
    }

    pub(crate) fn change(
        &mut self,
        class: u16,
        obis: ObisCode,
        access: Option<Rights>,
        value: (i8, Data<'_>),
    ) {
        let attributes = BTreeMap::from([(value.0, value.1.to_bytes())]);
        self.device.change(&ObjectChange { class, version: None, obis, access, attributes }).unwrap();
    }

    pub(crate) fn get(
        &mut self,
        class: u16,
        obis: ObisCode,
        attribute: i8,
    ) -> Result<Vec<u8>, DataAccessResult> {
        self.select(class, obis, attribute, None)
    }

    pub(crate) fn select(
        &mut self,
        class: u16,
        obis: ObisCode,
        attribute: i8,
        selection: Option<(u8, Data<'_>)>,
    ) -> Result<Vec<u8>, DataAccessResult> {
        let parameter = selection.as_ref().map(|(_, data)| data.to_bytes()).unwrap_or_default();
        let selection =
            selection.map(|(selector, _)| Selection { selector, parameter: parameter.as_slice() });
        let attribute = AttributeId::new(class, obis, attribute);
        let request = AttributeRequest { context: &self.context, attribute, selection };
        match self.device.session(&mut self.keys).get(request)? {
            Value::Encoded(bytes) => Ok(bytes),
            Value::Stream(mut source) => {
                let mut bytes = Vec::new();
                while source.fill(50, &mut bytes)? {}
                Ok(bytes)
            }
        }
    }

    /// A number.
    pub(crate) fn number(&mut self, class: u16, obis: ObisCode, attribute: i8) -> i64 {
        let bytes = self.get(class, obis, attribute).unwrap();
        match Data::from_bytes(&bytes).unwrap() {
            Data::DoubleLongUnsigned(value) => value.into(),
            Data::LongUnsigned(value) => value.into(),
            Data::Unsigned(value) | Data::Enum(value) => value.into(),
            Data::Boolean(value) => value.into(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn set(
        &mut self,
        class: u16,
        obis: ObisCode,
        attribute: i8,
        value: &Data<'_>,
    ) -> DataAccessResult {
        let attribute = AttributeId::new(class, obis, attribute);
        let request = AttributeRequest { context: &self.context, attribute, selection: None };
        let done = self.device.session(&mut self.keys).set(request, &value.to_bytes());
        done.err().unwrap_or(DataAccessResult::Success)
    }

    pub(crate) fn act(&mut self, class: u16, obis: ObisCode, method: i8, value: Data<'_>) -> ActionResult {
        let parameters = value.to_bytes();
        let method = MethodId::new(class, obis, method);
        let request = MethodRequest { context: &self.context, method, parameters: Some(&parameters) };
        self.device.session(&mut self.keys).action(request).result
    }

    /// Lets seconds pass, one tick each.
    pub(crate) fn pass(&mut self, from: UtcTime, seconds: u64) -> UtcTime {
        for second in 1..=seconds {
            self.device.tick(UtcTime(from.0 + second), &mut self.keys);
        }
        UtcTime(from.0 + seconds)
    }

    /// Rows of a profile, each cell encoded.
    pub(crate) fn rows(&mut self, profile: ObisCode, selection: Option<(u8, Data<'_>)>) -> Vec<Vec<Vec<u8>>> {
        let bytes = self.select(7, profile, 2, selection).unwrap();
        let Data::Array(rows) = Data::from_bytes(&bytes).unwrap() else { panic!() };
        let cells = |row: &Data<'_>| match row {
            Data::Structure(cells) => cells.iter().map(Data::to_bytes).collect(),
            other => panic!("{other:?}"),
        };
        rows.iter().map(cells).collect()
    }

    pub(crate) fn notes(&mut self) -> Vec<Note> {
        self.device.take_notes()
    }
}

/// A date-time in UTC as an octet string.
pub(crate) fn written(at: UtcTime) -> [u8; 12] {
    DateTime::from_utc(at, 0, 0).unwrap().to_bytes()
}

pub(crate) const fn obis(groups: [u8; 6]) -> ObisCode {
    ObisCode::new(groups)
}
