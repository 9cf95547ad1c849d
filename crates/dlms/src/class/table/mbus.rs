//! M-Bus client: a sub-meter behind this one.

use crate::class::schema::{Attribute, Class, Method, NOTHING, Type, dynamic, fixed, method};

const CAPTURE_DEFINITION: Type = Type::Array(&Type::Structure(&[
    ("data_information_block", Type::OctetString(0, 11)),
    ("value_information_block", Type::OctetString(0, 11)),
]));
/// BCD in older profiles, binary in newer ones: a number either way.
const IDENTIFICATION: Type = Type::DoubleLongUnsigned;

const PORT: Attribute = fixed(2, "mbus_port_reference", Type::OctetString(0, 6));
const CAPTURE: Attribute = fixed(3, "capture_definition", CAPTURE_DEFINITION);
const PERIOD: Attribute = fixed(4, "capture_period", Type::DoubleLongUnsigned);
const ADDRESS: Attribute = dynamic(5, "primary_address", Type::Unsigned);
const NUMBER: Attribute = dynamic(6, "identification_number", IDENTIFICATION);
const MANUFACTURER: Attribute = dynamic(7, "manufacturer_id", Type::LongUnsigned);
const VERSION: Attribute = dynamic(8, "version", Type::Unsigned);
const DEVICE_TYPE: Attribute = dynamic(9, "device_type", Type::Unsigned);
const ACCESS_NUMBER: Attribute = dynamic(10, "access_number", Type::Unsigned);
const STATUS: Attribute = dynamic(11, "status", Type::Unsigned);
const ALARM: Attribute = dynamic(12, "alarm", Type::Unsigned);
const CONFIGURATION: Attribute = dynamic(13, "configuration", Type::LongUnsigned);
const KEY_STATUS: Attribute = dynamic(
    14,
    "encryption_key_status",
    Type::Enum(&[
        (0, "no_encryption_key"),
        (1, "encryption_key_set"),
        (2, "encryption_key_transferred"),
        (3, "encryption_key_set_and_transferred"),
        (4, "encryption_key_in_use"),
    ]),
);

const METHODS: &[Method] = &[
    method(1, "slave_install", Type::Unsigned),
    method(2, "slave_deinstall", NOTHING),
    method(3, "capture", NOTHING),
    method(4, "reset_alarm", NOTHING),
    method(5, "synchronize_clock", NOTHING),
    method(
        6,
        "data_send",
        Type::Array(&Type::Structure(&[
            ("data_information_block", Type::OctetString(0, 11)),
            ("value_information_block", Type::OctetString(0, 11)),
            ("data", Type::Any),
        ])),
    ),
    method(7, "set_encryption_key", Type::OctetString(0, 64)),
    method(8, "transfer_key", Type::OctetString(0, 64)),
];

pub(crate) const MBUS_CLIENT_V0: Class = Class {
    id: 72,
    version: 0,
    name: "mbus_client",
    attributes: &[
        PORT,
        CAPTURE,
        PERIOD,
        ADDRESS,
        NUMBER,
        MANUFACTURER,
        VERSION,
        DEVICE_TYPE,
        ACCESS_NUMBER,
        STATUS,
        ALARM,
    ],
    methods: METHODS,
};

pub(crate) const MBUS_CLIENT_V1: Class = Class {
    id: 72,
    version: 1,
    name: "mbus_client",
    attributes: &[
        PORT,
        CAPTURE,
        PERIOD,
        ADDRESS,
        NUMBER,
        MANUFACTURER,
        VERSION,
        DEVICE_TYPE,
        ACCESS_NUMBER,
        STATUS,
        ALARM,
        CONFIGURATION,
        KEY_STATUS,
    ],
    methods: METHODS,
};
