//! Prepayment: account, credits, charges, tokens. Money is i32 with the scale of the account's currency.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, function, method};

const NAMES: Type = Type::Array(&Type::LogicalName);

const CREDIT_CHARGE: Type = Type::Array(&Type::Structure(&[
    ("credit_reference", Type::LogicalName),
    ("charge_reference", Type::LogicalName),
    ("collection_configuration", Type::BitString(Some(3))),
]));

const GATEWAY_SPLIT: Type = Type::Array(&Type::Structure(&[
    ("credit_reference", Type::LogicalName),
    ("token_proportion", Type::Unsigned),
]));

const CURRENCY: Type = Type::Structure(&[
    ("currency_name", Type::Choice(&[Type::Text(32), Type::VisibleString, Type::Any])),
    ("currency_scale", Type::Integer),
    ("currency_unit", Type::Enum(&[(0, "time"), (1, "consumption"), (2, "monetary")])),
]);

pub(crate) const ACCOUNT: Class = Class {
    id: 111,
    version: 0,
    name: "account",
    attributes: &[
        dynamic(
            2,
            "account_mode_and_status",
            Type::Structure(&[
                ("payment_mode", Type::Enum(&[(1, "credit"), (2, "prepayment")])),
                ("account_status", Type::Enum(&[(1, "new_inactive"), (2, "active"), (3, "closed")])),
            ]),
        ),
        dynamic(3, "current_credit_in_use", Type::Unsigned),
        dynamic(4, "current_credit_status", Type::BitString(Some(8))),
        dynamic(5, "available_credit", Type::DoubleLong),
        dynamic(6, "amount_to_clear", Type::DoubleLong),
        fixed(7, "clearance_threshold", Type::DoubleLong),
        dynamic(8, "aggregated_debt", Type::DoubleLong),
        fixed(9, "credit_reference_list", NAMES),
        fixed(10, "charge_reference_list", NAMES),
        fixed(11, "credit_charge_configuration", CREDIT_CHARGE),
        fixed(12, "token_gateway_configuration", GATEWAY_SPLIT),
        fixed(13, "account_activation_time", Type::DateTime),
        fixed(14, "account_closure_time", Type::DateTime),
        fixed(15, "currency", CURRENCY),
        fixed(16, "low_credit_threshold", Type::DoubleLong),
        dynamic(17, "next_credit_available_threshold", Type::DoubleLong),
        fixed(18, "max_provision", Type::LongUnsigned),
        fixed(19, "max_provision_period", Type::DoubleLong),
    ],
    methods: &[
        method(1, "activate_account", NOTHING),
        method(2, "close_account", NOTHING),
        method(3, "reset_account", NOTHING),
    ],
};

pub(crate) const CREDIT: Class = Class {
    id: 112,
    version: 0,
    name: "credit",
    attributes: &[
        dynamic(2, "current_credit_amount", Type::DoubleLong),
        fixed(
            3,
            "credit_type",
            Type::Enum(&[
                (0, "token_credit"),
                (1, "reserved_credit"),
                (2, "emergency_credit"),
                (3, "time_based_credit"),
                (4, "consumption_based_credit"),
            ]),
        ),
        fixed(4, "priority", Type::Unsigned),
        fixed(5, "warning_threshold", Type::DoubleLong),
        fixed(6, "limit", Type::DoubleLong),
        fixed(7, "credit_configuration", Type::BitString(Some(8))),
        dynamic(
            8,
            "credit_status",
            Type::Enum(&[
                (0, "enabled"),
                (1, "selectable"),
                (2, "selected_invoked"),
                (3, "in_use"),
                (4, "exhausted"),
            ]),
        ),
        fixed(9, "preset_credit_amount", Type::DoubleLong),
        fixed(10, "credit_available_threshold", Type::DoubleLong),
        fixed(11, "period", Type::DateTime),
    ],
    methods: &[
        method(1, "update_amount", Type::DoubleLong),
        function(2, "set_amount_to_value", Type::DoubleLong, Type::DoubleLong),
        method(3, "invoke_credit", NOTHING),
    ],
};

const UNIT_CHARGE_TABLE: Type =
    Type::Array(&Type::Structure(&[("index", Type::OctetString(0, 16)), ("charge_per_unit", Type::Long)]));

const UNIT_CHARGE: Type = Type::Structure(&[
    (
        "charge_per_unit_scaling",
        Type::Structure(&[("commodity_scale", Type::Integer), ("price_scale", Type::Integer)]),
    ),
    (
        "commodity_reference",
        Type::Structure(&[
            ("class_id", Type::LongUnsigned),
            ("logical_name", Type::LogicalName),
            ("attribute_index", Type::Integer),
        ]),
    ),
    ("charge_table", UNIT_CHARGE_TABLE),
]);

pub(crate) const CHARGE: Class = Class {
    id: 113,
    version: 0,
    name: "charge",
    attributes: &[
        dynamic(2, "total_amount_paid", Type::DoubleLong),
        fixed(
            3,
            "charge_type",
            Type::Enum(&[
                (0, "consumption_based_collection"),
                (1, "time_based_collection"),
                (2, "payment_event_based_collection"),
            ]),
        ),
        fixed(4, "priority", Type::Unsigned),
        dynamic(5, "unit_charge_active", UNIT_CHARGE),
        fixed(6, "unit_charge_passive", UNIT_CHARGE),
        fixed(7, "unit_charge_activation_time", Type::DateTime),
        fixed(8, "period", Type::DoubleLongUnsigned),
        fixed(9, "charge_configuration", Type::BitString(Some(2))),
        dynamic(10, "last_collection_time", Type::DateTime),
        dynamic(11, "last_collection_amount", Type::DoubleLong),
        dynamic(12, "total_amount_remaining", Type::DoubleLong),
        fixed(13, "proportion", Type::LongUnsigned),
    ],
    methods: &[
        method(1, "update_unit_charge", UNIT_CHARGE_TABLE),
        method(2, "activate_passive_unit_charge", NOTHING),
        method(3, "collect", NOTHING),
        method(4, "update_total_amount_remaining", Type::DoubleLong),
        function(5, "set_total_amount_remaining", Type::DoubleLong, Type::DoubleLong),
    ],
};

const TOKEN_STATUS: Type = Type::Structure(&[
    (
        "status_code",
        Type::Enum(&[
            (0, "token_format_result_ok"),
            (1, "authentication_result_ok"),
            (2, "validation_result_ok"),
            (3, "token_execution_result_ok"),
            (4, "token_format_failure"),
            (5, "authentication_failure"),
            (6, "validation_result_failure"),
            (7, "token_execution_result_failure"),
            (8, "token_received_and_not_yet_processed"),
        ]),
    ),
    ("data_value", Type::BitString(None)),
]);

pub(crate) const TOKEN_GATEWAY: Class = Class {
    id: 115,
    version: 0,
    name: "token_gateway",
    attributes: &[
        dynamic(2, "token", Type::OctetString(0, 255)),
        dynamic(3, "token_time", Type::DateTime),
        dynamic(4, "token_description", Type::Array(&Type::OctetString(0, 255))),
        dynamic(5, "token_delivery_method", Type::Enum(&[(0, "remote"), (1, "local"), (2, "manual")])),
        dynamic(6, "token_status", TOKEN_STATUS),
    ],
    methods: &[function(1, "enter", Type::OctetString(0, 255), TOKEN_STATUS)],
};
