//! Profile generic: load profiles, billing profiles, event logs.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, method};

use super::CAPTURE_OBJECT;

pub(crate) const PROFILE_GENERIC: Class = Class {
    id: 7,
    version: 1,
    name: "profile_generic",
    attributes: &[
        dynamic(2, "buffer", Type::Any),
        fixed(3, "capture_objects", Type::Array(&CAPTURE_OBJECT)),
        fixed(4, "capture_period", Type::DoubleLongUnsigned),
        fixed(
            5,
            "sort_method",
            Type::Enum(&[
                (1, "fifo"),
                (2, "lifo"),
                (3, "largest"),
                (4, "smallest"),
                (5, "nearest_to_zero"),
                (6, "farthest_from_zero"),
            ]),
        ),
        fixed(6, "sort_object", CAPTURE_OBJECT),
        dynamic(7, "entries_in_use", Type::DoubleLongUnsigned),
        fixed(8, "profile_entries", Type::DoubleLongUnsigned),
    ],
    methods: &[method(1, "reset", NOTHING), method(2, "capture", NOTHING)],
};
