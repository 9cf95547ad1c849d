//! Communication: links, addresses, what the modem sees, and the guard on a port.

use crate::class::schema::{Class, NOTHING, Type, dynamic, fixed, method};

pub(crate) const HDLC_SETUP: Class = Class {
    id: 23,
    version: 1,
    name: "iec_hdlc_setup",
    attributes: &[
        fixed(
            2,
            "comm_speed",
            Type::Enum(&[
                (0, "300"),
                (1, "600"),
                (2, "1200"),
                (3, "2400"),
                (4, "4800"),
                (5, "9600"),
                (6, "19200"),
                (7, "38400"),
                (8, "57600"),
                (9, "115200"),
            ]),
        ),
        fixed(3, "window_size_transmit", Type::Unsigned),
        fixed(4, "window_size_receive", Type::Unsigned),
        fixed(5, "max_info_field_length_transmit", Type::LongUnsigned),
        fixed(6, "max_info_field_length_receive", Type::LongUnsigned),
        fixed(7, "inter_octet_time_out", Type::LongUnsigned),
        fixed(8, "inactivity_time_out", Type::LongUnsigned),
        fixed(9, "device_address", Type::LongUnsigned),
    ],
    methods: &[],
};

pub(crate) const TCP_UDP_SETUP: Class = Class {
    id: 41,
    version: 0,
    name: "tcp_udp_setup",
    attributes: &[
        fixed(2, "TCP-UDP_port", Type::LongUnsigned),
        fixed(3, "IP_reference", Type::OctetString(0, 6)),
        fixed(4, "MSS", Type::LongUnsigned),
        fixed(5, "nb_of_sim_conn", Type::Unsigned),
        fixed(6, "inactivity_time_out", Type::LongUnsigned),
    ],
    methods: &[],
};

const IP_OPTION: Type = Type::Structure(&[
    ("IP_option_type", Type::Unsigned),
    ("IP_option_length", Type::Unsigned),
    ("IP_option_data", Type::OctetString(0, 255)),
]);

pub(crate) const IPV4_SETUP: Class = Class {
    id: 42,
    version: 0,
    name: "ipv4_setup",
    attributes: &[
        fixed(2, "DL_reference", Type::OctetString(0, 6)),
        dynamic(3, "IP_address", Type::DoubleLongUnsigned),
        fixed(4, "multicast_IP_address", Type::Array(&Type::DoubleLongUnsigned)),
        fixed(5, "IP_options", Type::Array(&IP_OPTION)),
        dynamic(6, "subnet_mask", Type::DoubleLongUnsigned),
        dynamic(7, "gateway_IP_address", Type::DoubleLongUnsigned),
        fixed(8, "use_DHCP_flag", Type::Boolean),
        dynamic(9, "primary_DNS_address", Type::DoubleLongUnsigned),
        dynamic(10, "secondary_DNS_address", Type::DoubleLongUnsigned),
    ],
    methods: &[
        method(1, "add_mc_IP_address", Type::DoubleLongUnsigned),
        method(2, "delete_mc_IP_address", Type::DoubleLongUnsigned),
        method(3, "get_nbof_mc_IP_addresses", NOTHING),
    ],
};

pub(crate) const GSM_DIAGNOSTIC: Class = Class {
    id: 47,
    version: 0,
    name: "gsm_diagnostic",
    attributes: &[
        dynamic(2, "operator", Type::VisibleString),
        dynamic(
            3,
            "status",
            Type::Enum(&[
                (0, "not_registered"),
                (1, "registered_home_network"),
                (2, "not_registered_searching"),
                (3, "registration_denied"),
                (4, "unknown"),
                (5, "registered_roaming"),
            ]),
        ),
        dynamic(4, "cs_attachment", Type::Enum(&[(0, "inactive"), (1, "incoming_call"), (2, "active")])),
        dynamic(
            5,
            "ps_status",
            Type::Enum(&[
                (0, "inactive"),
                (1, "gprs"),
                (2, "edge"),
                (3, "umts"),
                (4, "hsdpa"),
                (5, "lte"),
                (6, "cdma"),
                (7, "lte_cat_m1"),
                (8, "lte_cat_nb1"),
            ]),
        ),
        dynamic(6, "cell_info", Type::Any),
        dynamic(
            7,
            "adjacent_cells",
            Type::Array(&Type::Structure(&[
                ("cell_id", Type::Choice(&[Type::LongUnsigned, Type::DoubleLongUnsigned])),
                ("signal_quality", Type::Unsigned),
            ])),
        ),
        dynamic(8, "capture_time", Type::DateTime),
    ],
    methods: &[],
};

pub(crate) const PORT_PROTECTION: Class = Class {
    id: 124,
    version: 0,
    name: "port_protection",
    attributes: &[
        fixed(
            2,
            "protection_mode",
            Type::Enum(&[(0, "locked"), (1, "locked_on_failed_attempts"), (2, "unlocked")]),
        ),
        fixed(3, "allowed_failed_attempts", Type::LongUnsigned),
        fixed(4, "initial_lockout_time", Type::DoubleLongUnsigned),
        fixed(5, "steepness_factor", Type::Unsigned),
        fixed(6, "max_lockout_time", Type::DoubleLongUnsigned),
        fixed(7, "port_reference", Type::OctetString(0, 6)),
        dynamic(
            8,
            "protection_status",
            Type::Enum(&[(0, "unlocked"), (1, "temporarily_locked"), (2, "locked")]),
        ),
        dynamic(9, "failed_attempts", Type::DoubleLongUnsigned),
        dynamic(10, "cumulative_failed_attempts", Type::DoubleLongUnsigned),
    ],
    methods: &[method(1, "reset", NOTHING)],
};
