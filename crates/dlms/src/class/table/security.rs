//! Keys, certificates and the protection of data.

use crate::class::schema::{Class, Type, dynamic, fixed, function, method};

const SUITE: Type = Type::Enum(&[
    (0, "aes_gcm_128"),
    (1, "ecdh_ecdsa_p256_aes_gcm_128_sha_256"),
    (2, "ecdh_ecdsa_p384_aes_gcm_256_sha_384"),
]);
const KEY_ID: Type = Type::Enum(&[
    (0, "global_unicast_encryption_key"),
    (1, "global_broadcast_encryption_key"),
    (2, "authentication_key"),
    (3, "master_key"),
]);
const POLICY_V0: Type =
    Type::Enum(&[(0, "nothing"), (1, "authenticated"), (2, "encrypted"), (3, "authenticated_and_encrypted")]);
const ENTITY: Type =
    Type::Enum(&[(0, "server"), (1, "client"), (2, "certification_authority"), (3, "other")]);
const CERTIFICATE_TYPE: Type =
    Type::Enum(&[(0, "digital_signature"), (1, "key_agreement"), (2, "tls"), (3, "other")]);
const TITLE: Type = Type::OctetString(0, 8);

const KEY_DATA: Type = Type::Structure(&[("key_id", KEY_ID), ("key_data", Type::OctetString(0, 1024))]);
const WRAPPED_KEY: Type = Type::Structure(&[("key_id", KEY_ID), ("key_wrapped", Type::OctetString(24, 40))]);

const CERTIFICATE_INFO: Type = Type::Structure(&[
    ("certificate_entity", ENTITY),
    ("certificate_type", CERTIFICATE_TYPE),
    ("serial_number", Type::OctetString(0, 255)),
    ("issuer", Type::OctetString(0, 1024)),
    ("subject", Type::OctetString(0, 1024)),
    ("subject_alt_name", Type::OctetString(0, 1024)),
]);

const CERTIFICATE: Type = Type::OctetString(0, 65_535);
const BY_ENTITY: Type = Type::Structure(&[
    ("identification_type", Type::Enum(&[(0, "entity")])),
    (
        "identification",
        Type::Structure(&[
            ("certificate_entity", ENTITY),
            ("certificate_type", CERTIFICATE_TYPE),
            ("system_title", TITLE),
        ]),
    ),
]);
const BY_SERIAL: Type = Type::Structure(&[
    ("identification_type", Type::Enum(&[(1, "serial")])),
    (
        "identification",
        Type::Structure(&[
            ("serial_number", Type::OctetString(0, 255)),
            ("issuer", Type::OctetString(0, 1024)),
        ]),
    ),
]);
const IDENTIFICATION: Type = Type::Choice(&[BY_ENTITY, BY_SERIAL]);

pub(crate) const SECURITY_SETUP_V0: Class = Class {
    id: 64,
    version: 0,
    name: "security_setup",
    attributes: &[
        fixed(2, "security_policy", POLICY_V0),
        fixed(3, "security_suite", SUITE),
        dynamic(4, "client_system_title", TITLE),
        fixed(5, "server_system_title", TITLE),
    ],
    methods: &[
        method(1, "security_activate", POLICY_V0),
        method(2, "global_key_transfer", Type::Array(&WRAPPED_KEY)),
    ],
};

/// Bits 2 to 4: requests authenticated, encrypted, signed; 5 to 7 the same of responses; 0 and 1 are zero.
const POLICY_V1: Type = Type::EnumMask;

pub(crate) const SECURITY_SETUP_V1: Class = Class {
    id: 64,
    version: 1,
    name: "security_setup",
    attributes: &[
        fixed(2, "security_policy", POLICY_V1),
        fixed(3, "security_suite", SUITE),
        dynamic(4, "client_system_title", TITLE),
        fixed(5, "server_system_title", TITLE),
        dynamic(6, "certificates", Type::Array(&CERTIFICATE_INFO)),
    ],
    methods: &[
        method(1, "security_activate", POLICY_V1),
        method(2, "key_transfer", Type::Array(&WRAPPED_KEY)),
        function(3, "key_agreement", Type::Array(&KEY_DATA), Type::Array(&KEY_DATA)),
        method(4, "generate_key_pair", CERTIFICATE_TYPE),
        function(5, "generate_certificate_request", CERTIFICATE_TYPE, CERTIFICATE),
        method(6, "import_certificate", CERTIFICATE),
        function(7, "export_certificate", IDENTIFICATION, CERTIFICATE),
        method(8, "remove_certificate", IDENTIFICATION),
    ],
};

const PROTECTION_PARAMETERS: Type = Type::Array(&Type::Structure(&[
    (
        "protection_type",
        Type::Enum(&[
            (0, "authentication"),
            (1, "encryption"),
            (2, "authentication_and_encryption"),
            (3, "digital_signature"),
        ]),
    ),
    (
        "protection_options",
        Type::Structure(&[
            ("transaction_id", Type::OctetString(0, 255)),
            ("originator_system_title", TITLE),
            ("recipient_system_title", TITLE),
            ("other_information", Type::OctetString(0, 255)),
            (
                "key_info",
                Type::Structure(&[
                    (
                        "key_info_type",
                        Type::Enum(&[(0, "identified_key"), (1, "wrapped_key"), (2, "agreed_key")]),
                    ),
                    ("key_info_options", Type::Any),
                ]),
            ),
        ]),
    ),
]));

const PROTECTED_OBJECT: Type = Type::Structure(&[
    ("class_id", Type::LongUnsigned),
    ("logical_name", Type::LogicalName),
    ("attribute_index", Type::Integer),
    ("data_index", Type::LongUnsigned),
    ("restriction", Type::Any),
]);

const PROTECTED_REQUEST: Type = Type::Structure(&[
    ("object_list", Type::Array(&PROTECTED_OBJECT)),
    ("protection_parameters", PROTECTION_PARAMETERS),
]);
const PROTECTED_DATA: Type = Type::Structure(&[
    ("protection_parameters", PROTECTION_PARAMETERS),
    ("protected_data", Type::OctetString(0, 65_535)),
]);

pub(crate) const DATA_PROTECTION: Class = Class {
    id: 30,
    version: 0,
    name: "data_protection",
    attributes: &[
        dynamic(2, "protection_buffer", Type::OctetString(0, 65_535)),
        fixed(3, "protection_object_list", Type::Array(&PROTECTED_OBJECT)),
        fixed(4, "protection_parameters_get", PROTECTION_PARAMETERS),
        fixed(5, "protection_parameters_set", PROTECTION_PARAMETERS),
        fixed(6, "required_protection", Type::Any),
    ],
    methods: &[
        function(1, "get_protected_attributes", PROTECTED_REQUEST, PROTECTED_DATA),
        method(
            2,
            "set_protected_attributes",
            Type::Structure(&[
                ("object_list", Type::Array(&PROTECTED_OBJECT)),
                ("protection_parameters", PROTECTION_PARAMETERS),
                ("protected_data", Type::OctetString(0, 65_535)),
            ]),
        ),
        function(
            3,
            "invoke_protected_method",
            Type::Structure(&[
                (
                    "object_method",
                    Type::Structure(&[
                        ("class_id", Type::LongUnsigned),
                        ("logical_name", Type::LogicalName),
                        ("method_index", Type::Integer),
                    ]),
                ),
                ("protection_parameters", PROTECTION_PARAMETERS),
                ("protected_data", Type::OctetString(0, 65_535)),
            ]),
            PROTECTED_DATA,
        ),
    ],
};
