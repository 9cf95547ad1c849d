//! The paths of the design's section 3, named.

/// Steps of a device's state as its owner's key service has them on record, of its credentials, and of the versions of
/// its keys in each state of the device.
const PATHS: [&str; 31] = [
    "device/made/registered",
    "device/registered/installing",
    "device/installing/operating",
    "device/registered/quarantined",
    "device/quarantined/registered",
    "device/operating/suspended",
    "device/suspended/operating",
    "device/operating/quarantined",
    "device/quarantined/operating",
    "device/quarantined/suspended",
    "device/operating/rekeying",
    "device/rekeying/operating",
    "device/operating/updating",
    "device/updating/operating",
    "device/installing/quarantined",
    "device/rekeying/quarantined",
    "device/updating/quarantined",
    "device/suspended/quarantined",
    "device/suspended/released",
    "device/released/registered",
    "device/suspended/decommissioned",
    "claim/announced/in-stock",
    "claim/in-stock/claimed",
    "claim/claimed/retired",
    "claim/claimed/lost",
    "operating: version/pre-active/active",
    "operating: version/pre-active/deactivated",
    "operating: version/active/deactivated",
    "operating: version/deactivated/destroyed",
    "quarantined: version/active/compromised",
    "quarantined: version/deactivated/compromised",
];

/// Every path that is counted from zero on.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    PATHS.into_iter()
}
