//! COSEM interface classes: which attributes and methods an object of a class and version has, and of what type their
//! values are.
//!
//! | module | classes |
//! |---|---|
//! | `register` | data, register, extended and demand register, register monitor |
//! | `profile` | profile generic |
//! | `time` | clock, script table, special days, activity calendar, action schedule |
//! | `association` | association LN, SAP assignment |
//! | `security` | security setup, data protection |
//! | `image` | image transfer |
//! | `push` | push setup |
//! | `control` | disconnect control, limiter |
//! | `setup` | HDLC, TCP-UDP, IPv4 setup, GSM diagnostic, port protection |
//! | `mbus` | M-Bus client |
//! | `payment` | account, credit, charge, token gateway |
//!
//! The tables say what is there; what a method does is the server's matter. A client uses them to name what it read, a
//! server to refuse a value of the wrong type before it changes anything.

mod check;
mod schema;
mod table;

pub use check::TypeMismatch;
pub use schema::{Attribute, Class, Kind, LOGICAL_NAME, Method, Type};

/// Every class and version known here, ascending.
pub const ALL: &[&Class] = &[
    &table::register::DATA,
    &table::register::REGISTER,
    &table::register::EXTENDED_REGISTER,
    &table::register::DEMAND_REGISTER,
    &table::profile::PROFILE_GENERIC,
    &table::time::CLOCK,
    &table::time::SCRIPT_TABLE,
    &table::time::SPECIAL_DAYS,
    &table::association::ASSOCIATION_LN_V1,
    &table::association::ASSOCIATION_LN_V2,
    &table::association::ASSOCIATION_LN_V3,
    &table::association::SAP_ASSIGNMENT,
    &table::image::IMAGE_TRANSFER,
    &table::time::ACTIVITY_CALENDAR,
    &table::register::REGISTER_MONITOR,
    &table::time::ACTION_SCHEDULE,
    &table::setup::HDLC_SETUP,
    &table::security::DATA_PROTECTION,
    &table::push::PUSH_SETUP_V0,
    &table::push::PUSH_SETUP_V1,
    &table::push::PUSH_SETUP_V2,
    &table::setup::TCP_UDP_SETUP,
    &table::setup::IPV4_SETUP,
    &table::setup::GSM_DIAGNOSTIC,
    &table::security::SECURITY_SETUP_V0,
    &table::security::SECURITY_SETUP_V1,
    &table::control::DISCONNECT_CONTROL,
    &table::control::LIMITER,
    &table::mbus::MBUS_CLIENT_V0,
    &table::mbus::MBUS_CLIENT_V1,
    &table::payment::ACCOUNT,
    &table::payment::CREDIT,
    &table::payment::CHARGE,
    &table::payment::TOKEN_GATEWAY,
    &table::setup::PORT_PROTECTION,
];

/// The class with this id and version.
#[must_use]
pub fn find(id: u16, version: u8) -> Option<&'static Class> {
    ALL.iter().find(|class| (class.id, class.version) == (id, version)).copied()
}

/// The newest version known of a class: what a decoder assumes that has not seen the object list.
#[must_use]
pub fn newest(id: u16) -> Option<&'static Class> {
    ALL.iter().rfind(|class| class.id == id).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_ascending_and_numbers_within_a_class_too() {
        assert!(ALL.is_sorted_by_key(|class| (class.id, class.version)));
        for class in ALL {
            assert!(class.attributes.is_sorted_by_key(|attribute| attribute.id), "{}", class.name);
            assert!(class.attributes.iter().all(|attribute| attribute.id >= 2), "{}", class.name);
            assert!(class.methods.is_sorted_by_key(|method| method.id), "{}", class.name);
        }
        assert_eq!(newest(64).map(|class| class.version), Some(1));
        assert_eq!(find(64, 2), None);
    }
}
