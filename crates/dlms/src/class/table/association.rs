//! Associations and service access points.

use crate::class::schema::{Attribute, Class, Method, Type, dynamic, fixed, function, method};

/// Access of one attribute or method; its mode is an enumeration up to version 2 and a mask of bits from version 3 on,
/// both sent as `enum`.
const ATTRIBUTE_ACCESS: Type = Type::Structure(&[
    ("attribute_id", Type::Integer),
    ("access_mode", Type::EnumMask),
    ("access_selectors", Type::Choice(&[Type::Null, Type::Array(&Type::Integer)])),
]);
const METHOD_ACCESS: Type = Type::Structure(&[("method_id", Type::Integer), ("access_mode", Type::EnumMask)]);

const OBJECT: Type = Type::Structure(&[
    ("class_id", Type::LongUnsigned),
    ("version", Type::Unsigned),
    ("logical_name", Type::LogicalName),
    (
        "access_rights",
        Type::Structure(&[
            ("attribute_access", Type::Array(&ATTRIBUTE_ACCESS)),
            ("method_access", Type::Array(&METHOD_ACCESS)),
        ]),
    ),
]);

const PARTNERS: Type = Type::Structure(&[("client_SAP", Type::Integer), ("server_SAP", Type::LongUnsigned)]);

/// Names of contexts and mechanisms are sent as an octet string with the encoded object identifier, or as a structure.
const OBJECT_IDENTIFIER: Type = Type::Choice(&[
    Type::OctetString(0, 16),
    Type::Structure(&[
        ("joint_iso_ctt_element", Type::Unsigned),
        ("country_element", Type::Unsigned),
        ("country_name_element", Type::LongUnsigned),
        ("identified_organization_element", Type::Unsigned),
        ("DLMS_UA_element", Type::Unsigned),
        ("context_element", Type::Unsigned),
        ("id_element", Type::Unsigned),
    ]),
]);

const CONTEXT: Type = Type::Structure(&[
    ("conformance", Type::BitString(Some(24))),
    ("max_receive_pdu_size", Type::LongUnsigned),
    ("max_send_pdu_size", Type::LongUnsigned),
    ("dlms_version_number", Type::Unsigned),
    ("quality_of_service", Type::Integer),
    ("cyphering_info", Type::OctetString(0, 255)),
]);

const USER: Type = Type::Structure(&[("id", Type::Unsigned), ("name", Type::VisibleString)]);

const OBJECT_LIST: Attribute = fixed(2, "object_list", Type::Array(&OBJECT));
const ASSOCIATED_PARTNERS: Attribute = fixed(3, "associated_partners_id", PARTNERS);
const CONTEXT_NAME: Attribute = fixed(4, "application_context_name", OBJECT_IDENTIFIER);
const CONTEXT_INFO: Attribute = fixed(5, "xDLMS_context_info", CONTEXT);
const MECHANISM: Attribute = fixed(6, "authentication_mechanism_name", OBJECT_IDENTIFIER);
const SECRET: Attribute = fixed(7, "secret", Type::OctetString(0, 255));
const STATUS: Attribute = dynamic(
    8,
    "association_status",
    Type::Enum(&[(0, "non_associated"), (1, "association_pending"), (2, "associated")]),
);
const SECURITY_SETUP: Attribute = fixed(9, "security_setup_reference", Type::OctetString(0, 6));
const USER_LIST: Attribute = fixed(10, "user_list", Type::Array(&USER));
const CURRENT_USER: Attribute = dynamic(11, "current_user", USER);

const REPLY: Method =
    function(1, "reply_to_HLS_authentication", Type::OctetString(0, 255), Type::OctetString(0, 255));
const CHANGE_SECRET: Method = method(2, "change_HLS_secret", Type::OctetString(0, 255));
const ADD_OBJECT: Method = method(3, "add_object", OBJECT);
const REMOVE_OBJECT: Method = method(4, "remove_object", OBJECT);
const ADD_USER: Method = method(5, "add_user", USER);
const REMOVE_USER: Method = method(6, "remove_user", USER);

const WITH_USERS: &[Attribute] = &[
    OBJECT_LIST,
    ASSOCIATED_PARTNERS,
    CONTEXT_NAME,
    CONTEXT_INFO,
    MECHANISM,
    SECRET,
    STATUS,
    SECURITY_SETUP,
    USER_LIST,
    CURRENT_USER,
];
const USER_METHODS: &[Method] = &[REPLY, CHANGE_SECRET, ADD_OBJECT, REMOVE_OBJECT, ADD_USER, REMOVE_USER];

pub(crate) const ASSOCIATION_LN_V1: Class = Class {
    id: 15,
    version: 1,
    name: "association_ln",
    attributes: &[
        OBJECT_LIST,
        ASSOCIATED_PARTNERS,
        CONTEXT_NAME,
        CONTEXT_INFO,
        MECHANISM,
        SECRET,
        STATUS,
        SECURITY_SETUP,
    ],
    methods: &[REPLY, CHANGE_SECRET, ADD_OBJECT, REMOVE_OBJECT],
};

pub(crate) const ASSOCIATION_LN_V2: Class =
    Class { id: 15, version: 2, name: "association_ln", attributes: WITH_USERS, methods: USER_METHODS };

pub(crate) const ASSOCIATION_LN_V3: Class =
    Class { id: 15, version: 3, name: "association_ln", attributes: WITH_USERS, methods: USER_METHODS };

const ASSIGNMENT: Type =
    Type::Structure(&[("SAP", Type::LongUnsigned), ("logical_device_name", Type::OctetString(0, 16))]);

pub(crate) const SAP_ASSIGNMENT: Class = Class {
    id: 17,
    version: 0,
    name: "sap_assignment",
    attributes: &[fixed(2, "SAP_assignment_list", Type::Array(&ASSIGNMENT))],
    methods: &[method(1, "connect_logical_device", ASSIGNMENT)],
};
