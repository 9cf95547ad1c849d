//! Push setup: what a meter sends by itself, where to and when.

use crate::class::schema::{Attribute, Class, Method, NOTHING, Type, dynamic, fixed, method};

use super::CAPTURE_OBJECT;

const TRANSPORT: Type = Type::Enum(&[
    (0, "tcp"),
    (1, "udp"),
    (2, "ftp"),
    (3, "smtp"),
    (4, "sms"),
    (5, "hdlc"),
    (6, "m_bus"),
    (7, "zigbee"),
]);
const DESTINATION: Type = Type::Structure(&[
    ("transport_service", TRANSPORT),
    ("destination", Type::OctetString(0, 255)),
    ("message", Type::Enum(&[(0, "a_xdr"), (1, "xml")])),
]);
const WINDOWS: Type =
    Type::Array(&Type::Structure(&[("start_time", Type::DateTime), ("end_time", Type::DateTime)]));

/// From version 2 on an object carries a restriction too, so its length differs.
const PUSH_OBJECT_V2: Type = Type::Structure(&[
    ("class_id", Type::LongUnsigned),
    ("logical_name", Type::LogicalName),
    ("attribute_index", Type::Integer),
    ("data_index", Type::LongUnsigned),
    (
        "restriction",
        Type::Structure(&[
            ("restriction_type", Type::Enum(&[(0, "none"), (1, "by_date"), (2, "by_entry")])),
            ("restriction_value", Type::Any),
        ]),
    ),
    ("columns", Type::Array(&CAPTURE_OBJECT)),
]);

const OBJECTS: Attribute = fixed(2, "push_object_list", Type::Array(&CAPTURE_OBJECT));
const SEND_DESTINATION: Attribute = fixed(3, "send_destination_and_method", DESTINATION);
const COMMUNICATION_WINDOW: Attribute = fixed(4, "communication_window", WINDOWS);
const RANDOMISATION: Attribute = fixed(5, "randomisation_start_interval", Type::LongUnsigned);
const RETRIES: Attribute = fixed(6, "number_of_retries", Type::Unsigned);
const DELAY: Attribute = fixed(7, "repetition_delay", Type::LongUnsigned);
const PORT_REFERENCE: Attribute = fixed(8, "port_reference", Type::OctetString(0, 6));
const CLIENT_SAP: Attribute = fixed(9, "push_client_SAP", Type::Integer);
const PROTECTION: Attribute = fixed(10, "push_protection_parameters", Type::Array(&Type::Any));
const PUSH: Method = method(1, "push", NOTHING);

pub(crate) const PUSH_SETUP_V0: Class = Class {
    id: 40,
    version: 0,
    name: "push_setup",
    attributes: &[OBJECTS, SEND_DESTINATION, COMMUNICATION_WINDOW, RANDOMISATION, RETRIES, DELAY],
    methods: &[PUSH],
};

pub(crate) const PUSH_SETUP_V1: Class = Class {
    id: 40,
    version: 1,
    name: "push_setup",
    attributes: &[
        OBJECTS,
        SEND_DESTINATION,
        COMMUNICATION_WINDOW,
        RANDOMISATION,
        RETRIES,
        DELAY,
        PORT_REFERENCE,
        CLIENT_SAP,
        PROTECTION,
    ],
    methods: &[PUSH],
};

pub(crate) const PUSH_SETUP_V2: Class = Class {
    id: 40,
    version: 2,
    name: "push_setup",
    attributes: &[
        fixed(2, "push_object_list", Type::Array(&PUSH_OBJECT_V2)),
        SEND_DESTINATION,
        COMMUNICATION_WINDOW,
        RANDOMISATION,
        RETRIES,
        fixed(
            7,
            "repetition_delay",
            Type::Structure(&[
                ("repetition_delay_min", Type::LongUnsigned),
                ("repetition_delay_exponent", Type::LongUnsigned),
                ("repetition_delay_max", Type::LongUnsigned),
            ]),
        ),
        PORT_REFERENCE,
        CLIENT_SAP,
        PROTECTION,
        fixed(
            11,
            "push_operation_method",
            Type::Enum(&[
                (0, "unconfirmed_retry_on_failure"),
                (1, "unconfirmed_retry_on_missing_confirmation"),
                (2, "confirmed_retry_on_missing_confirmation"),
            ]),
        ),
        fixed(
            12,
            "confirmation_parameters",
            Type::Structure(&[
                ("confirmation_start_date", Type::DateTime),
                ("confirmation_interval", Type::DoubleLongUnsigned),
            ]),
        ),
        dynamic(13, "last_confirmation_date_time", Type::DateTime),
    ],
    methods: &[PUSH, method(2, "reset", NOTHING)],
};
