//! Names of devices, sessions and documents.

use crate::bytes::byte_id;

byte_id! {
    /// A SHA-256 value: 32 bytes.
    Digest, 32
}
byte_id! {
    /// A single-use random value: 32 bytes from a cryptographic generator.
    Nonce, 32
}
byte_id! {
    /// 16 bytes: a TPM session nonce or a keyed hash of a peer address.
    N16, 16
}
byte_id! {
    /// TPM Name of a device's endorsement key: `000b || SHA-256(TPMT_PUBLIC)`, 34 bytes. Names the device for life.
    EkName, 34
}
byte_id! {
    /// Pseudonym of (device, epoch): `HMAC(N_e, "gs-kid-v1")[0..16]`. The only device name the config server sees.
    Kid, 16
}
byte_id! {
    /// Session identifier: `SHA-256(wire C1)[0..16]`.
    Sid, 16
}
byte_id! {
    /// DLMS system title: three letters of the manufacturer, then five bytes that make it unique. Not a device name
    /// for security decisions before a tag under it was verified.
    SystemTitle, 8
}

/// Ownership epoch: 0 at production, one higher with each transfer or recovery.
pub type Epoch = u32;

/// Sequence number of a redirect or an order: strictly rising per device and epoch.
pub type OrderSeq = u64;
