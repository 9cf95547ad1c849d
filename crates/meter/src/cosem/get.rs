//! Reading attributes.

use gridseal_dlms::{
    apdu::{
        reference::{AttributeId, Selection},
        result::DataAccessResult,
    },
    assoc::Value,
    suite::local::KeySet,
    wire::Data,
};
use gridseal_types::{ObisCode, UtcTime};

use super::{Device, Keyholder, measure, object::Object, profile::PROFILE};

/// Highest counters accepted of the client: unicast, broadcast.
const COUNTERS: [(ObisCode, KeySet); 2] = [
    (ObisCode::new([0, 0, 43, 1, 0, 255]), KeySet::Unicast),
    (ObisCode::new([0, 0, 43, 1, 1, 255]), KeySet::Broadcast),
];

impl Device {
    /// Reads an attribute that the client may read.
    pub(super) fn get(
        &self,
        AttributeId { obis, attribute, .. }: AttributeId,
        selection: Option<Selection<'_>>,
        client_sap: u16,
        keys: &dyn Keyholder,
    ) -> Result<Value, DataAccessResult> {
        let object = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        if (object.class.id, attribute) == (PROFILE, 2) {
            return self.buffer(obis, selection);
        }
        if selection.is_some() {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let value = match (object.class.id, attribute) {
            (15, 2..=8) => self.association_attribute(object, attribute, client_sap),
            _ => self.read_whole(obis, attribute, keys),
        };
        value.map(Value::Encoded).ok_or(DataAccessResult::ObjectUnavailable)
    }

    /// Value of an attribute that needs neither selection nor client.
    pub(super) fn read_whole(&self, obis: ObisCode, attribute: i8, keys: &dyn Keyholder) -> Option<Vec<u8>> {
        let object = self.objects.get(&obis)?;
        let counter = COUNTERS.iter().find(|(name, _)| (*name, 2) == (obis, attribute));
        if let Some((_, set)) = counter {
            return Some(Data::DoubleLongUnsigned(self.received_counter(*set, keys)).to_bytes());
        }
        self.present(object, attribute, self.told)
    }

    /// Value of an attribute with what was measured at `measured_at`.
    pub(super) fn present(&self, object: &Object, attribute: i8, measured_at: UtcTime) -> Option<Vec<u8>> {
        if attribute == 1 {
            return Some(Data::OctetString(object.obis.groups()).to_bytes());
        }
        if let Some(kept) = object.kept(attribute) {
            return Some(kept.to_vec());
        }
        let local = |at| Data::OctetString(&self.local(at)).to_bytes();
        Some(match (object.class.id, attribute) {
            (3, 2) => measure::value(object.obis, measured_at)?.to_bytes(),
            (5, 2) => {
                let since = self.demand_since.get(&object.obis).copied().unwrap_or(measured_at);
                Data::DoubleLongUnsigned(measure::demand(since, measured_at)).to_bytes()
            }
            (7, 7) => Data::DoubleLongUnsigned(self.entries_in_use(object.obis)).to_bytes(),
            (8, 2) => local(self.now()),
            (64, 6) => self.certificate_list(),
            (18, 3) => self.image.blocks_status(),
            (18, 4) => Data::DoubleLongUnsigned(self.image.first_missing()).to_bytes(),
            (18, 6) => Data::Enum(self.image.status()).to_bytes(),
            (18, 7) => self.image.to_activate(),
            _ => return None,
        })
    }
}
