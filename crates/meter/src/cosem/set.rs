//! Writing attributes: rights and type were judged before, here is what the class demands.

use gridseal_dlms::{
    apdu::{reference::AttributeId, result::DataAccessResult},
    assoc::{AccessContext, Protection},
    class::Type,
    wire::Data,
};
use gridseal_types::ObisCode;

use super::{Device, Keyholder, object::number, profile::PROFILE, security::is_proven};

/// Largest value that is kept, bytes.
const VALUE_SIZE_MAX: usize = 16_384;

impl Device {
    /// Writes an attribute, for a client or, without a context, for a script.
    pub(super) fn set(
        &mut self,
        AttributeId { obis, attribute, .. }: AttributeId,
        value: &[u8],
        context: Option<&AccessContext>,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let object = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let data = Data::from_bytes(value).map_err(|_| DataAccessResult::TypeUnmatched)?;
        if value.len() > VALUE_SIZE_MAX {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        // A value whose type the class leaves open keeps the type that it has.
        let is_open = object.class.attribute(attribute).is_some_and(|known| known.value == Type::Any);
        let tag = object.kept(attribute).and_then(|kept| kept.first());
        if is_open && tag.is_some_and(|tag| *tag != 0 && *tag != data.tag()) {
            return Err(DataAccessResult::TypeUnmatched);
        }
        match (object.class.id, attribute) {
            (8, 2) => {
                self.set_time(&data, context.is_some_and(is_proven))?;
                self.clock_was_set(keys);
                return Ok(());
            }
            (8, 3) => Self::check_time_zone(&data)?,
            (PROFILE, _) => self.check_profile(attribute, &data)?,
            (15, 7) => {
                let context = context.ok_or(DataAccessResult::ReadWriteDenied)?;
                return self.set_password(obis, &data, context, keys);
            }
            // A push goes out on the association that asks for it, and nowhere else.
            (40, 3) if object.kept(3) != Some(value) => return Err(DataAccessResult::ScopeOfAccessViolated),
            (70, 4) if number(&data).is_none_or(|mode| mode > 6) => {
                return Err(DataAccessResult::ScopeOfAccessViolated);
            }
            _ => {}
        }
        let class = object.class.id;
        if let Some(object) = self.objects.get_mut(&obis) {
            object.keep_encoded(attribute, value);
        }
        match (class, attribute) {
            (PROFILE, 3 | 4 | 8) => {
                self.reset_profile(obis);
                self.align_profiles();
            }
            (71, _) => self.limiter_changed(obis),
            _ => {}
        }
        Ok(())
    }

    /// The password of mechanism 1. It has no other protection than the association's.
    fn set_password(
        &mut self,
        obis: ObisCode,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<(), DataAccessResult> {
        let Data::OctetString(password) = value else { return Err(DataAccessResult::TypeUnmatched) };
        let grant = self.association_of(obis, context.client_sap).ok_or(DataAccessResult::ObjectUndefined)?;
        let is_secret = context.protection.covers(Protection::Encrypted);
        if grant.mechanism != gridseal_dlms::acse::Mechanism::LowLevel || !is_secret {
            return Err(DataAccessResult::ReadWriteDenied);
        }
        if password.is_empty() || password.len() > 64 {
            return Err(DataAccessResult::ScopeOfAccessViolated);
        }
        let client_sap = grant.client_sap;
        self.secret_changed(client_sap, keys.change_password(password))
    }
}
