//! Image transfer: software for the meter, in blocks.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, method};

const IMAGE_TO_ACTIVATE: Type = Type::Structure(&[
    ("image_to_activate_size", Type::DoubleLongUnsigned),
    ("image_to_activate_identification", Type::OctetString(0, 255)),
    ("image_to_activate_signature", Type::OctetString(0, 1024)),
]);

pub(crate) const IMAGE_TRANSFER: Class = Class {
    id: 18,
    version: 0,
    name: "image_transfer",
    attributes: &[
        fixed(2, "image_block_size", Type::DoubleLongUnsigned),
        dynamic(3, "image_transferred_blocks_status", Type::BitString(None)),
        dynamic(4, "image_first_not_transferred_block_number", Type::DoubleLongUnsigned),
        fixed(5, "image_transfer_enabled", Type::Boolean),
        dynamic(
            6,
            "image_transfer_status",
            Type::Enum(&[
                (0, "image_transfer_not_initiated"),
                (1, "image_transfer_initiated"),
                (2, "image_verification_initiated"),
                (3, "image_verification_successful"),
                (4, "image_verification_failed"),
                (5, "image_activation_initiated"),
                (6, "image_activation_successful"),
                (7, "image_activation_failed"),
            ]),
        ),
        dynamic(7, "image_to_activate_info", Type::Array(&IMAGE_TO_ACTIVATE)),
    ],
    methods: &[
        method(
            1,
            "image_transfer_initiate",
            Type::Structure(&[
                ("image_identifier", Type::OctetString(0, 255)),
                ("image_size", Type::DoubleLongUnsigned),
            ]),
        ),
        method(
            2,
            "image_block_transfer",
            Type::Structure(&[
                ("image_block_number", Type::DoubleLongUnsigned),
                ("image_block_value", Type::OctetString(0, 65_535)),
            ]),
        ),
        method(3, "image_verify", NOTHING),
        method(4, "image_activate", NOTHING),
    ],
};
