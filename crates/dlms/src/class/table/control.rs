//! The breaker and the limiter.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, method};

use super::{ACTION_SET, VALUE_DEFINITION};

pub(crate) const DISCONNECT_CONTROL: Class = Class {
    id: 70,
    version: 0,
    name: "disconnect_control",
    attributes: &[
        dynamic(2, "output_state", Type::Boolean),
        dynamic(
            3,
            "control_state",
            Type::Enum(&[(0, "disconnected"), (1, "connected"), (2, "ready_for_reconnection")]),
        ),
        fixed(
            4,
            "control_mode",
            Type::Enum(&[
                (0, "none"),
                (1, "mode_1"),
                (2, "mode_2"),
                (3, "mode_3"),
                (4, "mode_4"),
                (5, "mode_5"),
                (6, "mode_6"),
                (7, "mode_7"),
            ]),
        ),
    ],
    methods: &[method(1, "remote_disconnect", NOTHING), method(2, "remote_reconnect", NOTHING)],
};

const EMERGENCY_PROFILE: Type = Type::Structure(&[
    ("emergency_profile_id", Type::LongUnsigned),
    ("emergency_activation_time", Type::DateTime),
    ("emergency_duration", Type::DoubleLongUnsigned),
]);

pub(crate) const LIMITER: Class = Class {
    id: 71,
    version: 0,
    name: "limiter",
    attributes: &[
        fixed(2, "monitored_value", VALUE_DEFINITION),
        dynamic(3, "threshold_active", Type::Any),
        fixed(4, "threshold_normal", Type::Any),
        fixed(5, "threshold_emergency", Type::Any),
        fixed(6, "min_over_threshold_duration", Type::DoubleLongUnsigned),
        fixed(7, "min_under_threshold_duration", Type::DoubleLongUnsigned),
        fixed(8, "emergency_profile", EMERGENCY_PROFILE),
        fixed(9, "emergency_profile_group_id_list", Type::Array(&Type::LongUnsigned)),
        dynamic(10, "emergency_profile_active", Type::Boolean),
        fixed(11, "actions", ACTION_SET),
    ],
    methods: &[],
};
