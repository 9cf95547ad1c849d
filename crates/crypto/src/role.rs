//! What a key is for. A key of one role cannot go where another is wanted.

/// The purpose of a key.
pub trait Role: 'static {
    /// Name as printed in place of the bytes.
    const NAME: &'static str;
    /// Number that binds a wrapped key to its purpose in the envelope's associated data; never reused.
    const KIND: u16;
}

macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident $kind:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub enum $role {}
            impl Role for $role {
                const NAME: &'static str = stringify!($role);
                const KIND: u16 = Number::$role as u16;
            }
        )*

        /// Every role's number: two roles with one number do not compile.
        #[repr(u16)]
        enum Number {
            $($role = $kind,)*
        }
    };
}

roles! {
    /// DLMS global unicast encryption key.
    Guek 1;
    /// DLMS authentication key. It is associated data, not a cipher key: nonces belong to the [`Guek`].
    Gak 2;
    /// DLMS master key: wraps new keys for the meter.
    Kek 3;
    /// DLMS global broadcast encryption key.
    Gbek 4;
    /// A meter's key of the local metering network (OMS): decrypts, and derives the keys of single messages.
    MeterLmn 80;
    /// DLMS dedicated key: encrypts inside one association.
    DedicatedKey 5;
    /// Seals the two keys of a meter's APDUs in the memory of one process.
    PairSealing 51;
    /// A DLMS party's own signing key, for mechanism 7, general-signing and ephemeral keys.
    DlmsSigning 6;
    /// A DLMS party's own static key of key agreement.
    DlmsAgreement 7;
    /// DLMS key of one APDU in general-ciphering: wrapped or agreed upon.
    TransactionKey 8;
    /// N_root: the device's root secret, in its TPM.
    DeviceRootSecret 16;
    /// N_e: what owner number *e* shares with the device.
    OwnerSecret 17;
    /// K_act: the credential that only the TPM with the endorsement key recovers.
    ActivationSecret 18;
    /// Root of one session's seals (K_s).
    SessionSecret 19;
    /// Seals one message or one direction of one session.
    Seal 20;
    /// TPM hierarchy authorisation value.
    AuthValue 21;
    /// Derives the authorisations of TPMs, so that a lost database does not lose the TPMs.
    AuthRoot 24;
    /// Seed or salt shared with a TPM key.
    TpmSeed 22;
    /// Key of a salted TPM session.
    TpmSession 23;
    /// Signing key of the config role (K_config), also signs redirects.
    ConfigSigning 32;
    /// Owner key: signs voucher entries and delegations; may stay offline.
    OwnerSigning 33;
    /// Owner encryption key: opens delivery records.
    OwnerEncryption 34;
    /// Manufacturer's voucher key.
    VoucherSigning 35;
    /// Manufacturer's recovery key: signs entries in place of an owner who has vanished; stays offline.
    RecoverySigning 56;
    /// Seed of the second, post-quantum recovery key.
    RecoverySecond 57;
    /// Signs a witness's word on the heads of a log.
    WitnessSigning 58;
    /// Init server's signing key (K_init).
    InitSigning 36;
    /// Certificate authority's signing key.
    CaSigning 37;
    /// TLS key of one of our own services.
    ServiceTls 38;
    /// Content key of a delivery record.
    Delivery 39;
    /// Seed of the manufacturer's second, post-quantum voucher key.
    VoucherSecond 40;
    /// Seed of the owner's second, post-quantum key.
    OwnerSecond 41;
    /// Signs manifests of firmware images.
    FirmwareSigning 42;
    /// Seed of the second, post-quantum key that signs manifests of firmware images.
    FirmwareSecond 43;
    /// Signs one person's consents.
    ConsentSigning 44;
    /// Wraps data keys: the software keystore's root.
    KeystoreKek 48;
    /// Wraps keys at rest.
    Dek 49;
    /// Master of a group's labels.
    GroupMaster 82;
    /// Key of one epoch of a group.
    GroupKey 83;
    /// Between two devices.
    PairKey 85;
    /// Signs headers and broadcast commands of groups.
    GroupSigning 84;
    /// STS vending key of a supply group.
    StsVending 86;
    /// STS decoder key of one meter.
    StsDecoder 81;
    /// Authenticates the rows of a service's database.
    RecordTag 50;
    /// Private key inside a software device root (endorsement, attestation, storage or TLS key).
    SoftwareRootKey 64;
    /// One-time private key of a key agreement.
    Ephemeral 65;
}
