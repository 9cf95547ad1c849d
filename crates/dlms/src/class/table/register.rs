//! Data and registers.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, method};

use super::{ACTION_SET, SCALER_UNIT, VALUE_DEFINITION};

pub(crate) const DATA: Class =
    Class { id: 1, version: 0, name: "data", attributes: &[fixed(2, "value", Type::Any)], methods: &[] };

pub(crate) const REGISTER: Class = Class {
    id: 3,
    version: 0,
    name: "register",
    attributes: &[dynamic(2, "value", Type::Any), fixed(3, "scaler_unit", SCALER_UNIT)],
    methods: &[method(1, "reset", NOTHING)],
};

pub(crate) const EXTENDED_REGISTER: Class = Class {
    id: 4,
    version: 0,
    name: "extended_register",
    attributes: &[
        dynamic(2, "value", Type::Any),
        fixed(3, "scaler_unit", SCALER_UNIT),
        dynamic(4, "status", Type::Any),
        dynamic(5, "capture_time", Type::DateTime),
    ],
    methods: &[method(1, "reset", NOTHING)],
};

pub(crate) const DEMAND_REGISTER: Class = Class {
    id: 5,
    version: 0,
    name: "demand_register",
    attributes: &[
        dynamic(2, "current_average_value", Type::Any),
        dynamic(3, "last_average_value", Type::Any),
        fixed(4, "scaler_unit", SCALER_UNIT),
        dynamic(5, "status", Type::Any),
        dynamic(6, "capture_time", Type::DateTime),
        dynamic(7, "start_time_current", Type::DateTime),
        fixed(8, "period", Type::DoubleLongUnsigned),
        fixed(9, "number_of_periods", Type::LongUnsigned),
    ],
    methods: &[method(1, "reset", NOTHING), method(2, "next_period", NOTHING)],
};

pub(crate) const REGISTER_MONITOR: Class = Class {
    id: 21,
    version: 0,
    name: "register_monitor",
    attributes: &[
        fixed(2, "thresholds", Type::Array(&Type::Any)),
        fixed(3, "monitored_value", VALUE_DEFINITION),
        fixed(4, "actions", Type::Array(&ACTION_SET)),
    ],
    methods: &[],
};
