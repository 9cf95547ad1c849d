//! Clock, scripts and what runs by the calendar.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, method};

use super::SCRIPT;

pub(crate) const CLOCK: Class = Class {
    id: 8,
    version: 0,
    name: "clock",
    attributes: &[
        dynamic(2, "time", Type::DateTime),
        fixed(3, "time_zone", Type::Long),
        dynamic(4, "status", Type::Unsigned),
        fixed(5, "daylight_savings_begin", Type::DateTime),
        fixed(6, "daylight_savings_end", Type::DateTime),
        fixed(7, "daylight_savings_deviation", Type::Integer),
        fixed(8, "daylight_savings_enabled", Type::Boolean),
        fixed(
            9,
            "clock_base",
            Type::Enum(&[
                (0, "not_defined"),
                (1, "internal_crystal"),
                (2, "mains_50_hz"),
                (3, "mains_60_hz"),
                (4, "gps"),
                (5, "radio_controlled"),
            ]),
        ),
    ],
    methods: &[
        method(1, "adjust_to_quarter", NOTHING),
        method(2, "adjust_to_measuring_period", NOTHING),
        method(3, "adjust_to_minute", NOTHING),
        method(4, "adjust_to_preset_time", NOTHING),
        method(
            5,
            "preset_adjusting_time",
            Type::Structure(&[
                ("preset_time", Type::DateTime),
                ("validity_interval_start", Type::DateTime),
                ("validity_interval_end", Type::DateTime),
            ]),
        ),
        method(6, "shift_time", Type::Long),
    ],
};

const SCRIPT_ACTION: Type = Type::Structure(&[
    ("service_id", Type::Enum(&[(1, "write_attribute"), (2, "execute_method")])),
    ("class_id", Type::LongUnsigned),
    ("logical_name", Type::LogicalName),
    ("index", Type::Integer),
    ("parameter", Type::Any),
]);

pub(crate) const SCRIPT_TABLE: Class = Class {
    id: 9,
    version: 0,
    name: "script_table",
    attributes: &[fixed(
        2,
        "scripts",
        Type::Array(&Type::Structure(&[
            ("script_identifier", Type::LongUnsigned),
            ("actions", Type::Array(&SCRIPT_ACTION)),
        ])),
    )],
    methods: &[method(1, "execute", Type::LongUnsigned)],
};

const SPECIAL_DAY: Type = Type::Structure(&[
    ("index", Type::LongUnsigned),
    ("specialday_date", Type::Date),
    ("day_id", Type::Unsigned),
]);

pub(crate) const SPECIAL_DAYS: Class = Class {
    id: 11,
    version: 0,
    name: "special_days_table",
    attributes: &[fixed(2, "entries", Type::Array(&SPECIAL_DAY))],
    methods: &[method(1, "insert", SPECIAL_DAY), method(2, "delete", Type::LongUnsigned)],
};

/// Names in an activity calendar are octet strings that often are no text.
const NAME: Type = Type::OctetString(0, 64);

const SEASONS: Type = Type::Array(&Type::Structure(&[
    ("season_profile_name", NAME),
    ("season_start", Type::DateTime),
    ("week_name", NAME),
]));

const WEEKS: Type = Type::Array(&Type::Structure(&[
    ("week_profile_name", NAME),
    ("monday", Type::Unsigned),
    ("tuesday", Type::Unsigned),
    ("wednesday", Type::Unsigned),
    ("thursday", Type::Unsigned),
    ("friday", Type::Unsigned),
    ("saturday", Type::Unsigned),
    ("sunday", Type::Unsigned),
]));

const DAYS: Type = Type::Array(&Type::Structure(&[
    ("day_id", Type::Unsigned),
    (
        "day_schedule",
        Type::Array(&Type::Structure(&[
            ("start_time", Type::Time),
            ("script_logical_name", Type::LogicalName),
            ("script_selector", Type::LongUnsigned),
        ])),
    ),
]));

pub(crate) const ACTIVITY_CALENDAR: Class = Class {
    id: 20,
    version: 0,
    name: "activity_calendar",
    attributes: &[
        fixed(2, "calendar_name_active", NAME),
        fixed(3, "season_profile_active", SEASONS),
        fixed(4, "week_profile_table_active", WEEKS),
        fixed(5, "day_profile_table_active", DAYS),
        fixed(6, "calendar_name_passive", NAME),
        fixed(7, "season_profile_passive", SEASONS),
        fixed(8, "week_profile_table_passive", WEEKS),
        fixed(9, "day_profile_table_passive", DAYS),
        fixed(10, "activate_passive_calendar_time", Type::DateTime),
    ],
    methods: &[method(1, "activate_passive_calendar", NOTHING)],
};

pub(crate) const ACTION_SCHEDULE: Class = Class {
    id: 22,
    version: 0,
    name: "single_action_schedule",
    attributes: &[
        fixed(2, "executed_script", SCRIPT),
        fixed(
            3,
            "type",
            Type::Enum(&[
                (1, "one_time_wildcard_date"),
                (2, "same_time"),
                (3, "same_time_wildcard_date"),
                (4, "different_times"),
                (5, "different_times_wildcard_date"),
            ]),
        ),
        fixed(
            4,
            "execution_time",
            Type::Array(&Type::Structure(&[("time", Type::Time), ("date", Type::Date)])),
        ),
    ],
    methods: &[],
};
