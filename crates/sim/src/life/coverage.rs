//! The paths of the design's section 3, named: which of them a run must walk.

/// Steps of a device's state as its owner's key service has them on record, of its credentials, and of the versions of
/// its keys in each state of the device.
const REQUIRED: [&str; 7] = [
    "device/made/registered",
    "device/registered/installing",
    "device/installing/operating",
    "claim/in-stock/claimed",
    "operating: version/pre-active/active",
    "operating: version/active/deactivated",
    "operating: version/deactivated/destroyed",
];

/// Every path that a run must walk.
pub(super) fn required() -> impl Iterator<Item = &'static str> {
    REQUIRED.into_iter()
}
