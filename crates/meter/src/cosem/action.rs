//! Methods: rights were judged before, here is what the class does.

use gridseal_dlms::{
    apdu::{
        notification::{DataNotification, LongInvokeId},
        reference::MethodId,
        result::DataAccessResult,
    },
    assoc::{AccessContext, ActionReply},
    class::Type,
    wire::Data,
};
use gridseal_types::ObisCode;

use super::{Device, Keyholder, access::refused, profile::PROFILE, security::is_proven};

/// Scripts that run scripts: how deep.
const SCRIPT_DEPTH_MAX: u8 = 3;
/// Entries of a push.
const PUSHES_MAX: usize = 4;

impl Device {
    /// Invokes a method for a client.
    pub(super) fn action(
        &mut self,
        method: MethodId,
        parameters: Option<&[u8]>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> ActionReply {
        match self.invoke(method, parameters, Some(context), keys, 0) {
            Ok(None) => ActionReply::SUCCESS,
            Ok(Some(value)) => ActionReply::returns(value),
            Err(result) => refused(result),
        }
    }

    /// Invokes a method, for a client or, without a context, for a script; gives what it returns.
    #[expect(clippy::too_many_arguments, reason = "a method, its parameter, and for whom it runs")]
    pub(super) fn invoke(
        &mut self,
        MethodId { obis, method, .. }: MethodId,
        parameters: Option<&[u8]>,
        context: Option<&AccessContext>,
        keys: &mut dyn Keyholder,
        depth: u8,
    ) -> Result<Option<Vec<u8>>, DataAccessResult> {
        let unmatched = DataAccessResult::TypeUnmatched;
        let object = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let class = object.class.id;
        let known = object.class.method(method).ok_or(DataAccessResult::ObjectUndefined)?;
        let data = match parameters {
            Some(bytes) => Data::from_bytes(bytes).map_err(|_| unmatched)?,
            // Some clients send nothing where the standard says integer 0.
            None if known.parameter == Type::Integer => Data::Integer(0),
            None => Data::Null,
        };
        known.parameter.check(&data).map_err(|_| unmatched)?;
        // Rights, keys and certificates are changed by a client, never by a script.
        match (class, method, context) {
            (64, 3, Some(context)) => return self.agree_keys(&data, context, keys).map(Some),
            (64, 1, Some(context)) => return self.raise_policy(obis, &data, context, keys).map(|()| None),
            (64, 4..=8, Some(context)) => return self.certificate_method(method, &data, context, keys),
            _ => {}
        }
        let done = match (class, method) {
            (3, 1) => self.reset_register(obis),
            (4, 1) => self.reset_maximum(obis),
            (5, _) => self.demand_method(obis, method),
            (PROFILE, 1) => {
                self.reset_profile(obis);
                Ok(())
            }
            (PROFILE, _) => {
                self.capture_now(obis);
                Ok(())
            }
            (8, _) => {
                let is_proven = context.is_some_and(is_proven);
                self.clock_method(method, &data, is_proven).inspect(|()| self.clock_was_set(keys))
            }
            (9, _) if depth < SCRIPT_DEPTH_MAX => self.execute(obis, &data, keys, depth.saturating_add(1)),
            (11, _) => self.special_days_method(obis, method, &data),
            (20, _) => {
                self.activate_calendar(obis);
                Ok(())
            }
            (18, _) => self.image_method((obis, method), &data, keys),
            (40, 1) => self.push(obis, keys),
            (70, _) => self.switch(obis, method == 2, keys),
            (124, _) => {
                self.reset_port(obis);
                Ok(())
            }
            (15, 2) => {
                self.change_secret(obis, &data, context.ok_or(DataAccessResult::ReadWriteDenied)?, keys)
            }
            (64, 2) if context.is_some() => self.transfer_keys(&data, keys),
            // Payment keeps attributes; sub-meters are not simulated.
            _ => Err(DataAccessResult::OtherReason),
        };
        done.map(|()| None)
    }

    /// A register that the meter measures has no write path (rule S15); another one begins again at zero.
    fn reset_register(&mut self, obis: ObisCode) -> Result<(), DataAccessResult> {
        let object = self.objects.get_mut(&obis).ok_or(DataAccessResult::ObjectUndefined)?;
        let zero = match object.kept(2).map(Data::from_bytes) {
            Some(Ok(value)) => zero_of(&value),
            _ => None,
        };
        object.keep(2, &zero.ok_or(DataAccessResult::ReadWriteDenied)?);
        Ok(())
    }

    fn reset_maximum(&mut self, obis: ObisCode) -> Result<(), DataAccessResult> {
        let at = self.local(self.now());
        self.reset_register(obis)?;
        if let Some(object) = self.objects.get_mut(&obis) {
            object.keep(5, &Data::OctetString(&at));
        }
        Ok(())
    }

    fn push(&mut self, obis: ObisCode, keys: &dyn Keyholder) -> Result<(), DataAccessResult> {
        let list = self.objects.get(&obis).ok_or(DataAccessResult::ObjectUndefined)?.data(2);
        if self.pushes.len() >= PUSHES_MAX {
            return Err(DataAccessResult::TemporaryFailure);
        }
        let body = self.collect(&list, keys);
        let body = Data::from_bytes(&body).map_err(|_| DataAccessResult::OtherReason)?;
        // Not confirmed: what was pushed can be read again.
        let long_invoke_id = LongInvokeId(self.push_id & LongInvokeId::ID_MAX);
        let apdu = DataNotification { long_invoke_id, date_time: None, body }.to_bytes();
        self.push_id = self.push_id.wrapping_add(1);
        self.pushes.push_back(apdu);
        Ok(())
    }

    fn reset_port(&mut self, obis: ObisCode) {
        if let Some(object) = self.objects.get_mut(&obis) {
            object.keep(8, &Data::Enum(0));
            object.keep(9, &Data::DoubleLongUnsigned(0));
        }
    }
}

/// Zero of the same type, for numbers.
fn zero_of(value: &Data<'_>) -> Option<Data<'static>> {
    Some(match value {
        Data::DoubleLong(_) => Data::DoubleLong(0),
        Data::DoubleLongUnsigned(_) => Data::DoubleLongUnsigned(0),
        Data::Integer(_) => Data::Integer(0),
        Data::Long(_) => Data::Long(0),
        Data::Unsigned(_) => Data::Unsigned(0),
        Data::LongUnsigned(_) => Data::LongUnsigned(0),
        Data::Long64(_) => Data::Long64(0),
        Data::Long64Unsigned(_) => Data::Long64Unsigned(0),
        _ => return None,
    })
}
