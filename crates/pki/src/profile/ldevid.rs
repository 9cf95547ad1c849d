//! Identity that the owner gives a meter.

use const_oid::{
    ObjectIdentifier,
    db::rfc4519::{ORGANIZATIONAL_UNIT_NAME, SERIAL_NUMBER},
};
use der::asn1::OctetString;
use gridseal_crypto::PublicKey;
use x509_cert::ext::pkix::name::{GeneralName, HardwareModuleName, OtherName};

use super::{Draft, DraftError, Profile, Validity, printable, subject, utf8};

/// What the register says of a device.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Serial number, 1 to 64 characters of PrintableString.
    pub serial: &'a str,
    /// Model, 1 to 64 bytes of text.
    pub model: &'a str,
    /// Kind of hardware (hwType of RFC 4108).
    pub hardware_type: ObjectIdentifier,
}

/// An LDevID: subject `OU=<model>, serialNumber=<serial>`, alternative name hardwareModuleName, digitalSignature,
/// clientAuth; at most 8 years.
///
/// There is no common name and no DNS name in it: whoever decides by those can never take a meter for a service. Nor is the
/// endorsement key named: the terminus, which sees this certificate, has no business with it.
///
/// # Errors
/// [`DraftError::Text`] for a serial number or model that does not fit.
///
/// # Source
/// IEEE 802.1AR (subject serialNumber, hardwareModuleName), RFC 4108 section 5.
pub fn ldevid(device: Device<'_>, key: &PublicKey, validity: Validity) -> Result<Draft, DraftError> {
    let name = subject(&[
        (ORGANIZATIONAL_UNIT_NAME, utf8(device.model)?),
        (SERIAL_NUMBER, printable(device.serial)?),
    ])?;
    let module = HardwareModuleName {
        hw_type: device.hardware_type,
        hw_serial_num: OctetString::new(device.serial.as_bytes())?,
    };
    let module = GeneralName::OtherName(OtherName::try_from(&module)?);
    Draft::new(Profile::LDevId, name, &[module], key, validity)
}
