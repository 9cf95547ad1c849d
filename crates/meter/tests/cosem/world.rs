//! A device, a holder of keys that remembers, and short ways to ask.

use std::collections::BTreeMap;

use gridseal_dlms::{
    acse::{Conformance, Mechanism},
    apdu::{
        reference::{AttributeId, MethodId, Selection},
        result::{ActionResult, DataAccessResult},
    },
    assoc::{AccessContext, AttributeRequest, MethodRequest, Objects, Protection, Value},
    suite::local::KeySet,
    wire::{Data, DateTime},
};
use gridseal_meter::cosem::{
    Device, DeviceConfig, Grant, KeyId, KeyRefusal, Keyholder, Note, ObjectChange, Rights,
};
use gridseal_types::{ObisCode, SystemTitle, UtcTime};

pub(crate) const CLIENT: SystemTitle = SystemTitle(*b"MMM\0\0\0\0\x01");
pub(crate) const MANAGEMENT: u16 = 1;
pub(crate) const PUBLIC: u16 = 16;
pub(crate) const READER: u16 = 2;
pub(crate) const ALL: u16 = 0x66;
/// 2027-01-15, 08:00 UTC, a Friday.
pub(crate) const START: UtcTime = UtcTime(1_800_000_000);

pub(crate) const CLOCK: ObisCode = ObisCode::CLOCK;
pub(crate) const LOAD: ObisCode = ObisCode::LOAD_PROFILE_1;
pub(crate) const IMPORT: ObisCode = ObisCode::ACTIVE_ENERGY_IMPORT;

/// Remembers what it was asked; refuses on demand.
#[derive(Default)]
pub(crate) struct Holder {
    pub(crate) refusal: Option<KeyRefusal>,
    pub(crate) transfers: Vec<Vec<(KeyId, Vec<u8>)>>,
    pub(crate) secrets: Vec<Vec<u8>>,
    pub(crate) received: BTreeMap<u8, u32>,
}

impl Holder {
    fn answer(&self) -> Result<(), KeyRefusal> {
        self.refusal.map_or(Ok(()), Err)
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

    /// Good when it ends with "signed".
    fn is_image_signed(&self, identifier: &[u8], image: &[u8]) -> bool {
        !identifier.is_empty() && image.ends_with(b"signed")
    }
}

pub(crate) struct World {
    pub(crate) device: Device,
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

    pub(crate) fn with(mechanism: Mechanism) -> Self {
        let grant =
            |client_sap, mechanism, is_ciphered, rights| Grant { client_sap, mechanism, is_ciphered, rights };
        let config = DeviceConfig {
            title: SystemTitle(*b"MMM\0\0\xBC\x61\x4E"),
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
        };
        Self { device: Device::new(config, START), keys: Holder::default(), context: context(MANAGEMENT) }
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
