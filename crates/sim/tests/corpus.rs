//! Every input that a fuzzer's corpus keeps, through its entry, on the stable toolchain.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::{fs, path::Path};

use gridseal_dlms::fuzz_entry as dlms;
use gridseal_group::fuzz_entry as group;
use gridseal_keys::fuzz_entry as keys;
use gridseal_lmn::mbus::fuzz_entry as mbus;
use gridseal_sts::fuzz_entry as sts;
use gridseal_trust::{
    csr, enrol::fuzz_entry as enrol, enrol::session, measured::fuzz_entry as measured, tpm,
};

type Target = (&'static str, fn(&[u8]));

/// Targets and their entries, as in `fuzz/targets`.
const TARGETS: &[Target] = &[
    ("apdu", dlms::apdu),
    ("assoc_client", dlms::assoc_client),
    ("assoc_server", dlms::assoc_server),
    ("axdr_data", dlms::axdr_data),
    ("ber_aarq", dlms::ber_aarq),
    ("block_transfer", dlms::block_transfer),
    ("certificate_request", csr::fuzz_entry),
    ("ciphered_apdu", dlms::ciphered_apdu),
    ("cosem_server", gridseal_meter::cosem::fuzz_entry),
    ("d0_message", gridseal_lmn::iec62056_21::fuzz_entry),
    ("ek_certificate", gridseal_trust::endorsement::fuzz_entry),
    ("enrol_delivery", enrol::delivery_record),
    ("enrol_device", gridseal_sim::machines::device),
    ("enrol_document", enrol::document),
    ("enrol_init", enrol::init_message),
    ("enrol_label", enrol::label),
    ("enrol_list", enrol::list),
    ("enrol_message", session::fuzz_entry),
    ("enrol_order", enrol::order),
    ("enrol_receipt", enrol::receipt),
    ("enrol_registrar", gridseal_sim::machines::registrar),
    ("enrol_relay", enrol::relay_message),
    ("enrol_shipment", enrol::shipment),
    ("enrol_voucher", enrol::voucher),
    ("est_body", gridseal_pki::est::fuzz_entry),
    ("event_log", measured::event_log),
    ("firmware_image", gridseal_trust::firmware::fuzz_entry),
    ("group_fragment", group::group_fragment),
    ("group_message", group::group_message),
    ("group_receiver", group::group_receiver),
    ("group_storage", group::group_storage),
    ("hdlc_frame", dlms::hdlc_frame),
    ("hdlc_link", dlms::hdlc_link),
    ("ima_log", measured::ima_log),
    ("keys_request", keys::keys_request),
    ("keys_traffic", keys::keys_traffic),
    ("mbus_frame", mbus::mbus_frame),
    ("mbus_layers", mbus::mbus_layers),
    ("mbus_records", mbus::mbus_records),
    ("mbus_telegram", mbus::mbus_telegram),
    ("message_tree", dlms::message_tree),
    ("notification", dlms::notification),
    ("party_certificate", gridseal_trust::party::fuzz_entry),
    ("sml_file", gridseal_lmn::sml::fuzz_entry),
    ("sts_record", sts::sts_record),
    ("sts_token", sts::sts_token),
    ("tpm_structure", tpm::fuzz_entry),
    ("wrapper_frame", dlms::wrapper_frame),
];

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn kept_fuzz_inputs_pass() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (target, entry) in TARGETS {
        let folder = fuzz.join("corpus").join(target);
        for name in names(&folder) {
            let bytes = fs::read(folder.join(name)).unwrap();
            entry(&bytes);
            // What is next to a kept input is as interesting as itself.
            for at in 0..bytes.len().min(300) {
                entry(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                entry(&changed);
            }
        }
    }
}

#[test]
fn every_fuzz_target_is_replayed() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let mut targets = names(&fuzz.join("targets"));
    targets.iter_mut().for_each(|name| *name = name.trim_end_matches(".rs").to_owned());
    assert_eq!(targets, TARGETS.iter().map(|(target, _)| *target).collect::<Vec<_>>());
}
