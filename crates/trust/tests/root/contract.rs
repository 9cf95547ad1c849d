//! What every device root does, whatever it is made of: one body of tests for the software root and for a TPM.
//!
//! The other side is played with `gridseal_crypto::tpm`, as the key service does it.

use gridseal_crypto::{
    Key, PublicKey, Rng, random,
    role::{ActivationSecret, AuthValue, DeviceRootSecret, Gak, Guek, OwnerSecret},
    tpm::{
        AuthInForce, ChangeAuth, Clear, SecretLabel, SessionNonces, TpmSessionKey, change_auth_command,
        change_auth_confirmed, clear_audit_digest, clear_command, clear_confirmed, duplicate,
        make_credential, share_secret,
    },
};
use gridseal_trust::{
    root::{
        AttestRequest, Attested, Description, DeviceRoot, ImportObject, KeyBlob, OwnerKeys, OwnerPin,
        QuoteRequest, RenewRequest, RootError, RootReply, RootRequest,
    },
    tpm::{self, PcrSelection, attest},
};
use gridseal_types::{Digest, N16};

/// A root whose power can be cut.
pub(crate) trait Bench {
    /// The root.
    fn root(&mut self) -> &mut dyn DeviceRoot;
    /// Takes the power away without notice and gives it again, as far as firmware does before the application starts.
    fn power_cut(&mut self);
    /// The same, with the button held.
    fn start_for_recovery(&mut self);
    /// Loaded sessions and transient objects.
    fn loaded(&mut self) -> (usize, usize);
}

/// TPM_PT_PERMANENT: fresh, after owner, after both.
const FRESH: u32 = 0x400;
const OWNED: u32 = 0x405;
const OWNER: usize = 0;
const LOCKOUT: usize = 1;
const HIERARCHIES: [u32; 2] = [tpm::RH_OWNER, tpm::RH_LOCKOUT];

/// The owner's side.
pub(crate) struct Owner<'r> {
    pub(crate) rng: &'r mut dyn Rng,
    auth: [Key<AuthValue, 32>; 2],
    /// The same values: what is to be set and what is in force are two keys.
    in_force: [Key<AuthValue, 32>; 2],
}

/// What the owner keeps of one C2.
pub(crate) struct Challenge {
    pub(crate) request: AttestRequest,
    activation: Key<ActivationSecret, 32>,
    seeds: [Key<gridseal_crypto::role::TpmSeed, 32>; 2],
}

macro_rules! reply {
    ($bench:expr, $request:expr, $variant:pat => $value:expr) => {
        match $bench.root().perform($request) {
            Ok($variant) => $value,
            other => panic!("unexpected answer: {other:?}"),
        }
    };
}

pub(crate) fn n_root() -> Key<DeviceRootSecret, 32> {
    Key::take(&mut core::array::from_fn(|index| u8::try_from(index).unwrap()))
}

/// An authorisation value whose last byte is not zero: a TPM drops trailing zeros.
fn draw_auth(rng: &mut dyn Rng) -> [Key<AuthValue, 32>; 2] {
    let mut bytes = random::<32>(rng).unwrap();
    bytes[31] |= 1;
    [Key::take(&mut bytes.clone()), Key::take(&mut bytes)]
}

impl<'r> Owner<'r> {
    pub(crate) fn new(rng: &'r mut dyn Rng) -> Self {
        let [owner, owner_in_force] = draw_auth(rng);
        let [lockout, lockout_in_force] = draw_auth(rng);
        Self { rng, auth: [owner, lockout], in_force: [owner_in_force, lockout_in_force] }
    }

    pub(crate) fn challenge(&mut self, description: &Description, keys: &OwnerKeys) -> Challenge {
        let endorsement = tpm::endorsement_key(&description.ek_public).unwrap();
        tpm::attestation_key(&keys.attestation.public).unwrap();
        let activation = Key::generate(self.rng).unwrap();
        let (seed, secret) = endorsement.share_secret(SecretLabel::Identity, self.rng).unwrap();
        let name = tpm::name(&keys.attestation.public);
        let credential = make_credential(&seed, name.as_bytes(), &activation);
        let (owner_seed, owner_salt) = endorsement.share_secret(SecretLabel::Secret, self.rng).unwrap();
        let (lockout_seed, lockout_salt) = endorsement.share_secret(SecretLabel::Secret, self.rng).unwrap();
        let nonce = |rng: &mut dyn Rng| N16(random(rng).unwrap());
        let request = AttestRequest {
            keys: keys.clone(),
            credential,
            secret,
            salts: [owner_salt, lockout_salt],
            nonce_callers: [nonce(self.rng), nonce(self.rng)],
            qualifying: [1, 2, 3, 4].map(|purpose| Digest([purpose; 32])),
            pcr_selection: tpm::pcr_selection(&[0, 7, 23]),
            ima_next: 0,
        };
        Challenge { request, activation, seeds: [owner_seed, lockout_seed] }
    }

    /// Key and nonces of one of the two sessions.
    fn session(challenge: &Challenge, attested: &Attested, which: usize) -> TpmSessionKey {
        let nonces = SessionNonces {
            caller: challenge.request.nonce_callers[which].0,
            tpm: attested.sessions[which].nonce_tpm.0,
        };
        nonces.session_key(&challenge.seeds[which])
    }

    /// The command that sets the owner's value, and its nonce.
    fn change(
        &mut self,
        which: usize,
        session: &TpmSessionKey,
        attested: &Attested,
        is_set: bool,
    ) -> (Vec<u8>, [u8; 16]) {
        let nonce_caller = random(self.rng).unwrap();
        let in_force = if is_set { AuthInForce::Value(&self.in_force[which]) } else { AuthInForce::Empty };
        let command = change_auth_command(&ChangeAuth {
            hierarchy: HIERARCHIES[which],
            session_handle: attested.sessions[which].handle,
            session,
            in_force,
            new: &self.auth[which],
            nonce_tpm: attested.sessions[which].nonce_tpm.0,
            nonce_caller,
            keep_session: false,
        });
        (command, nonce_caller)
    }

    /// Takes ownership, or takes it again with the value in force.
    fn own(&mut self, bench: &mut dyn Bench, challenge: &Challenge, attested: &Attested, permanent: u32) {
        let handles = attested.sessions.map(|session| session.handle);
        let mut sent = Vec::new();
        for (which, bit) in [(OWNER, 1), (LOCKOUT, 4)] {
            let session = Self::session(challenge, attested, which);
            let (command, nonce) = self.change(which, &session, attested, permanent & bit != 0);
            tpm::check_tunnelled(&command, &handles).unwrap();
            sent.push((command, nonce, session));
        }
        let commands = sent.iter().map(|(command, ..)| command.clone()).collect();
        let responses = reply!(bench, RootRequest::Execute(commands), RootReply::Responses(list) => list);
        assert_eq!(responses.len(), 2);
        for ((response, (_, nonce, session)), auth) in responses.iter().zip(&sent).zip(&self.auth) {
            assert!(change_auth_confirmed(session, auth, nonce, response), "{response:02x?}");
        }
    }
}

pub(crate) fn describe(bench: &mut dyn Bench) -> Description {
    reply!(bench, RootRequest::Describe, RootReply::Described(description) => description)
}

pub(crate) fn create_keys(bench: &mut dyn Bench) -> OwnerKeys {
    reply!(bench, RootRequest::CreateKeys, RootReply::Keys(keys) => keys)
}

fn owner_secret(bench: &mut dyn Bench, epoch: u32) -> Key<OwnerSecret, 32> {
    reply!(bench, RootRequest::OwnerSecret(epoch), RootReply::OwnerSecret(secret) => secret)
}

pub(crate) fn attest_with(bench: &mut dyn Bench, challenge: &Challenge) -> Attested {
    reply!(bench, RootRequest::Attest(challenge.request.clone()), RootReply::Attested(attested) => *attested)
}

fn refusal(bench: &mut dyn Bench, request: RootRequest) -> RootError {
    bench.root().perform(request).expect_err("must be refused")
}

fn check_attested(challenge: &Challenge, attested: &Attested) {
    assert!(bool::from(attested.activation.ct_eq(&challenge.activation)));
    let keys = &challenge.request.keys;
    let key = tpm::attestation_key(&keys.attestation.public).unwrap();
    tpm::storage_key(&keys.storage.public).unwrap();
    tpm::tls_key(&keys.tls.public).unwrap();
    tpm::identity_key(&keys.iak_public).unwrap();
    let certified = [&keys.storage.public, &keys.tls.public, &keys.iak_public];
    let qualifying = &challenge.request.qualifying;
    for ((attest, public), qualifying) in attested.certify.iter().zip(certified).zip(qualifying) {
        attest::verify_certify(attest, &key, qualifying, &tpm::name(public)).unwrap();
    }
    let selection = &challenge.request.pcr_selection;
    // PCRs 0 and 7 of a device that measured nothing are zero; 23 as well.
    let expected = tpm::pcr_digest(&[Digest([0; 32]); 3]);
    attest::verify_quote(&attested.quote, &key, &qualifying[3], selection, Some(&expected)).unwrap();
    assert_eq!(PcrSelection::decode(selection).unwrap().indices().count(), 3);
}

/// Production: described, epoch 0, no pin, nobody's; N_e as the factory computes it.
pub(crate) fn manufacture(bench: &mut dyn Bench) {
    assert!(bench.root().perform(RootRequest::Describe).is_err(), "a blank root has nothing to describe");
    let made = reply!(bench, RootRequest::Manufacture(n_root()), RootReply::Described(made) => made);
    assert_eq!((made.epoch, made.pin, made.permanent), (0, None, FRESH));
    assert_eq!(refusal(bench, RootRequest::Manufacture(n_root())), RootError::Unsuitable);
    // After production firmware closes the platform hierarchy at each start.
    bench.power_cut();
    let described = describe(bench);
    assert!(!described.platform_open);
    assert_eq!((described.epoch, described.pin, described.permanent), (0, None, FRESH));
    assert_eq!(described.ek_public, made.ek_public);
    let expected: Key<OwnerSecret, 32> = n_root().derive(&[b"gs-ndev-v1", &1u64.to_be_bytes()]);
    assert!(bool::from(owner_secret(bench, 1).ct_eq(&expected)));
    assert!(!bool::from(owner_secret(bench, 2).ct_eq(&expected)));
}

/// From first keys to installed secrets; ends with the root owned by `owner`.
pub(crate) fn onboard(bench: &mut dyn Bench, owner: &mut Owner<'_>) -> (OwnerKeys, [KeyBlob; 2]) {
    let before = describe(bench);
    let keys = create_keys(bench);
    let challenge = owner.challenge(&before, &keys);
    let attested = attest_with(bench, &challenge);
    check_attested(&challenge, &attested);
    owner.own(bench, &challenge, &attested, before.permanent);
    assert_eq!(describe(bench).permanent, OWNED);
    assert_eq!(bench.loaded(), (0, 0), "both sessions ended with their command");
    let blobs = deliver(bench, owner, &keys);
    sign(bench, &keys);
    assert_eq!(bench.loaded(), (0, 0));
    (keys, blobs)
}

fn deliver(bench: &mut dyn Bench, owner: &mut Owner<'_>, keys: &OwnerKeys) -> [KeyBlob; 2] {
    let storage = tpm::storage_key(&keys.storage.public).unwrap();
    let guek: Key<Guek, 16> = Key::generate(owner.rng).unwrap();
    let gak: Key<Gak, 16> = Key::generate(owner.rng).unwrap();
    let (seed, in_sym_seed) = share_secret(SecretLabel::Duplicate, &storage, owner.rng).unwrap();
    let made = [duplicate(&seed, &guek, owner.rng).unwrap(), duplicate(&seed, &gak, owner.rng).unwrap()];
    let objects: Vec<ImportObject> = made
        .into_iter()
        .map(|made| ImportObject {
            public: made.public,
            duplicate: made.duplicate,
            in_sym_seed: in_sym_seed.clone(),
        })
        .collect();
    let import = |objects: Vec<ImportObject>| RootRequest::Import { storage: keys.storage.clone(), objects };
    let mut changed = objects.clone();
    *changed[1].duplicate.last_mut().unwrap() ^= 1;
    assert_eq!(refusal(bench, import(changed)), RootError::Refused { command: 0x156, rc: 0x3df });
    let imported = reply!(bench, import(objects.clone()), RootReply::Imported(imported) => imported);
    for ((blob, name), object) in imported.iter().zip(&objects) {
        assert_eq!((&blob.public, *name), (&object.public, tpm::name(&object.public)));
    }
    let blobs: [KeyBlob; 2] =
        imported.into_iter().map(|(blob, _)| blob).collect::<Vec<_>>().try_into().unwrap();
    assert!(bool::from(unseal::<Guek>(bench, keys, &blobs[0]).ct_eq(&guek)));
    assert!(bool::from(unseal::<Gak>(bench, keys, &blobs[1]).ct_eq(&gak)));
    blobs
}

pub(crate) fn unseal<R: gridseal_crypto::role::Role>(
    bench: &mut dyn Bench,
    keys: &OwnerKeys,
    blob: &KeyBlob,
) -> Key<R, 16> {
    let request = RootRequest::Unseal { storage: keys.storage.clone(), object: blob.clone() };
    reply!(bench, request, RootReply::Unsealed(secret) => secret).into_key().unwrap()
}

pub(crate) fn sign(bench: &mut dyn Bench, keys: &OwnerKeys) {
    let key: PublicKey = tpm::tls_key(&keys.tls.public).unwrap();
    let request = || RootRequest::Sign { tls: keys.tls.clone(), message: b"certificate verify".to_vec() };
    let signature = reply!(bench, request(), RootReply::Signature(signature) => signature);
    assert!(key.verifies(b"certificate verify", &signature));
    assert!(!key.verifies(b"something else", &signature));
    // One more key signs alike, and is another one.
    let blob = reply!(bench, RootRequest::CreateSigningKey, RootReply::SigningKey(blob) => blob);
    let other: PublicKey = tpm::tls_key(&blob.public).unwrap();
    let request = RootRequest::Sign { tls: blob, message: b"certificate request".to_vec() };
    let signature = reply!(bench, request, RootReply::Signature(signature) => signature);
    assert!(other.verifies(b"certificate request", &signature) && other != key);
}

/// A new exchange on an owned root, with the values in force: legal, and the same proof.
pub(crate) fn own_again(bench: &mut dyn Bench, owner: &mut Owner<'_>, keys: &OwnerKeys) {
    let described = describe(bench);
    assert_eq!(described.permanent, OWNED);
    let challenge = owner.challenge(&described, keys);
    let attested = attest_with(bench, &challenge);
    check_attested(&challenge, &attested);
    owner.own(bench, &challenge, &attested, described.permanent);
    assert_eq!(describe(bench).permanent, OWNED);
}

/// A wrong owner authorisation is answered as a TPM answers it: nothing changes, and no session is left.
pub(crate) fn wrong_owner_authorisation(bench: &mut dyn Bench, owner: &mut Owner<'_>, keys: &OwnerKeys) {
    let challenge = owner.challenge(&describe(bench), keys);
    let attested = attest_with(bench, &challenge);
    let session = Owner::session(&challenge, &attested, OWNER);
    let (command, _) = owner.change(OWNER, &session, &attested, false);
    let again = command.clone();
    let responses =
        reply!(bench, RootRequest::Execute([command, again].into()), RootReply::Responses(list) => list);
    assert_eq!(responses, [[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0xa2]], "the first failure ends the list");
    assert_eq!(bench.loaded(), (0, 0));
    own_again(bench, owner, keys);
}

/// The other refusal: a wrong lockout authorisation. It disables the lockout hierarchy, so this comes last.
pub(crate) fn wrong_lockout_authorisation(bench: &mut dyn Bench, owner: &mut Owner<'_>, keys: &OwnerKeys) {
    assert_eq!(lockout_code(bench, owner, keys, false), 0x98e);
    assert_eq!(bench.loaded(), (0, 0));
}

/// Response code of the lockout command with the value in force.
pub(crate) fn lockout_code_with_the_right_value(
    bench: &mut dyn Bench,
    owner: &mut Owner<'_>,
    keys: &OwnerKeys,
) -> u32 {
    lockout_code(bench, owner, keys, true)
}

fn lockout_code(bench: &mut dyn Bench, owner: &mut Owner<'_>, keys: &OwnerKeys, is_set: bool) -> u32 {
    let challenge = owner.challenge(&describe(bench), keys);
    let attested = attest_with(bench, &challenge);
    let session = Owner::session(&challenge, &attested, LOCKOUT);
    let (command, _) = owner.change(LOCKOUT, &session, &attested, is_set);
    let responses = reply!(bench, RootRequest::Execute([command].into()), RootReply::Responses(list) => list);
    u32::from_be_bytes(responses[0][6..10].try_into().unwrap())
}

/// Two exchanges without an end: the second closes what the first opened; Flush closes the rest.
pub(crate) fn abandoned_exchanges_leave_no_sessions(
    bench: &mut dyn Bench,
    owner: &mut Owner<'_>,
    keys: &OwnerKeys,
) {
    for _ in 0..4 {
        let challenge = owner.challenge(&describe(bench), keys);
        attest_with(bench, &challenge);
        assert_eq!(bench.loaded(), (2, 0));
    }
    reply!(bench, RootRequest::Flush, RootReply::Done => ());
    assert_eq!(bench.loaded(), (0, 0));
}

/// What does not belong here is refused, and nothing stays loaded.
pub(crate) fn foreign_and_changed_input_is_refused(
    bench: &mut dyn Bench,
    owner: &mut Owner<'_>,
    keys: &OwnerKeys,
    foreign: &OwnerKeys,
) {
    let load_fails = RootError::Refused { command: 0x157, rc: 0x1df };
    let sign = RootRequest::Sign { tls: foreign.tls.clone(), message: Vec::new() };
    assert_eq!(refusal(bench, sign), load_fails);
    let import = RootRequest::Import { storage: foreign.storage.clone(), objects: Vec::new() };
    assert_eq!(refusal(bench, import), load_fails);
    let description = describe(bench);
    let challenge = owner.challenge(&description, keys);
    let mut changed = challenge.request.clone();
    *changed.credential.last_mut().unwrap() ^= 1;
    let activate_fails = RootError::Refused { command: 0x147, rc: 0x1df };
    assert_eq!(refusal(bench, RootRequest::Attest(changed)), activate_fails);
    // The credential of another attestation key of the same root.
    let other = create_keys(bench);
    let mut changed = challenge.request.clone();
    changed.keys.attestation = other.attestation;
    assert_eq!(refusal(bench, RootRequest::Attest(changed)), activate_fails);
    let mut changed = challenge.request;
    changed.keys.attestation = foreign.attestation.clone();
    assert_eq!(refusal(bench, RootRequest::Attest(changed)), load_fails);
    assert_eq!(bench.loaded(), (0, 0));
}

/// Epoch, pin, ownership and blobs survive a power cut; sessions do not.
pub(crate) fn power_cut_keeps_what_is_durable(
    bench: &mut dyn Bench,
    owner: &mut Owner<'_>,
    keys: &OwnerKeys,
    blobs: &[KeyBlob; 2],
) {
    let before = describe(bench);
    let pin = OwnerPin { index: 1, generation: 7, entry: Digest([0xab; 32]) };
    reply!(bench, RootRequest::WritePin(pin), RootReply::Done => ());
    reply!(bench, RootRequest::RaiseEpoch, RootReply::Done => ());
    let challenge = owner.challenge(&before, keys);
    attest_with(bench, &challenge);
    bench.power_cut();
    assert_eq!(bench.loaded(), (0, 0));
    let after = describe(bench);
    assert_eq!((after.epoch, after.pin, after.permanent), (before.epoch + 1, Some(pin), before.permanent));
    assert_eq!(after.ek_public, before.ek_public);
    unseal::<Guek>(bench, keys, &blobs[0]);
    unseal::<Gak>(bench, keys, &blobs[1]);
    sign(bench, keys);
    own_again(bench, owner, keys);
}

/// What an owner orders later: a quote alone while sessions are open, and keys in place of those in use.
pub(crate) fn later_statements(bench: &mut dyn Bench, owner: &mut Owner<'_>, keys: &OwnerKeys) {
    let key = tpm::attestation_key(&keys.attestation.public).unwrap();
    let endorsement = tpm::endorsement_key(&describe(bench).ek_public).unwrap();
    let (_, salt) = endorsement.share_secret(SecretLabel::Secret, owner.rng).unwrap();
    let wanted = vec![(salt.clone(), N16([1; 16])), (salt, N16([2; 16]))];
    let opened = reply!(bench, RootRequest::OpenSessions(wanted), RootReply::Sessions(opened) => opened);
    assert_eq!((opened.len(), bench.loaded()), (2, (2, 0)));
    let selection = tpm::pcr_selection(&[0, 7, 23]);
    let request = QuoteRequest {
        attestation: keys.attestation.clone(),
        qualifying: Digest([5; 32]),
        pcr_selection: selection.clone(),
        ima_next: 0,
    };
    let quote = reply!(bench, RootRequest::Quote(request), RootReply::Quoted { quote, .. } => quote);
    let expected = tpm::pcr_digest(&[Digest([0; 32]); 3]);
    attest::verify_quote(&quote, &key, &Digest([5; 32]), &selection, Some(&expected)).unwrap();
    assert_eq!(bench.loaded(), (2, 0), "the owner's sessions stay open");
    let request = RenewRequest {
        attestation: keys.attestation.clone(),
        tls: Digest([6; 32]),
        storage: Some(Digest([8; 32])),
    };
    let renewed = RootRequest::Renew(request);
    let (tls, storage) =
        reply!(bench, renewed, RootReply::Renewed { tls, storage } => (tls, storage.unwrap()));
    for (made, qualifying) in [(&tls, [6; 32]), (&storage, [8; 32])] {
        let name = tpm::name(&made.key.public);
        attest::verify_certify(&made.certify, &key, &Digest(qualifying), &name).unwrap();
    }
    tpm::tls_key(&tls.key.public).unwrap();
    tpm::storage_key(&storage.key.public).unwrap();
    reply!(bench, RootRequest::Flush, RootReply::Done => ());
    assert_eq!(bench.loaded(), (0, 0));
    let renewed = OwnerKeys { tls: tls.key, storage: storage.key, ..keys.clone() };
    deliver(bench, owner, &renewed);
    sign(bench, &renewed);
    sign(bench, keys);
}

/// The owner clears the root: the response and the identity key's statement prove it, and nothing of the owner is left.
pub(crate) fn cleared_by_its_owner(
    bench: &mut dyn Bench,
    owner: &mut Owner<'_>,
    keys: &OwnerKeys,
    blobs: &[KeyBlob; 2],
) {
    let before = describe(bench);
    let endorsement = tpm::endorsement_key(&before.ek_public).unwrap();
    let (seed, salt) = endorsement.share_secret(SecretLabel::Secret, owner.rng).unwrap();
    let caller = N16(random(owner.rng).unwrap());
    let wanted = RootRequest::OpenSessions(vec![(salt, caller)]);
    let opened = reply!(bench, wanted, RootReply::Sessions(opened) => opened[0]);
    let session = SessionNonces { caller: caller.0, tpm: opened.nonce_tpm.0 }.session_key(&seed);
    let nonce_caller = random(owner.rng).unwrap();
    let command = clear_command(&Clear {
        session_handle: opened.handle,
        session: &session,
        in_force: AuthInForce::Value(&owner.in_force[LOCKOUT]),
        nonce_tpm: opened.nonce_tpm.0,
        nonce_caller,
    });
    let allowed = tpm::check_tunnelled(&command, &[opened.handle]);
    assert_eq!(allowed, Ok(tpm::Tunnelled::Clear { audited: Some(opened.handle) }));
    let nothing_audited = RootRequest::SignAudit { session: opened.handle, qualifying: Digest([9; 32]) };
    assert!(bench.root().perform(nothing_audited).is_err());
    let responses = reply!(bench, RootRequest::Execute([command].into()), RootReply::Responses(list) => list);
    assert!(clear_confirmed(&session, &nonce_caller, &responses[0]), "{:02x?}", responses[0]);
    let sign = RootRequest::SignAudit { session: opened.handle, qualifying: Digest([9; 32]) };
    let audit = reply!(bench, sign, RootReply::Audited(audit) => audit);
    assert!(audit.attest.windows(32).any(|part| part == clear_audit_digest()), "{:02x?}", audit.attest);
    let identity = tpm::identity_key(&keys.iak_public).unwrap();
    assert!(identity.verifies(&audit.attest, &tpm::parse_signature(&audit.signature).unwrap()));
    reply!(bench, RootRequest::Flush, RootReply::Done => ());
    let after = describe(bench);
    assert_eq!((after.permanent, bench.loaded()), (FRESH, (0, 0)));
    assert_eq!((after.epoch, after.pin, &after.ek_public), (before.epoch, before.pin, &before.ek_public));
    assert_eq!((after.generation, &after.iak_public), (before.generation, &before.iak_public));
    let sign = RootRequest::Sign { tls: keys.tls.clone(), message: Vec::new() };
    assert!(matches!(refusal(bench, sign), RootError::Refused { command: 0x157, .. }));
    let unseal = RootRequest::Unseal { storage: keys.storage.clone(), object: blobs[0].clone() };
    assert!(matches!(refusal(bench, unseal), RootError::Refused { command: 0x157, .. }));
    let expected: Key<OwnerSecret, 32> = n_root().derive(&[b"gs-ndev-v1", &2u64.to_be_bytes()]);
    assert!(bool::from(owner_secret(bench, 2).ct_eq(&expected)), "N_root stays");
}

/// Boot firmware that saw the button clears the root without its owner; nobody else does.
pub(crate) fn cleared_by_the_platform(bench: &mut dyn Bench, keys: &OwnerKeys) {
    let before = describe(bench);
    assert_eq!(before.permanent, OWNED);
    assert_eq!(refusal(bench, RootRequest::Clear), RootError::Unsuitable);
    bench.start_for_recovery();
    assert!(!describe(bench).platform_open, "closed for all others");
    for _ in 0..2 {
        reply!(bench, RootRequest::Clear, RootReply::Done => ());
    }
    let after = describe(bench);
    assert_eq!((after.permanent, bench.loaded()), (FRESH, (0, 0)));
    assert_eq!((after.epoch, after.pin, &after.ek_public), (before.epoch, before.pin, &before.ek_public));
    assert_eq!((after.generation, &after.iak_public), (before.generation, &before.iak_public));
    let sign = RootRequest::Sign { tls: keys.tls.clone(), message: Vec::new() };
    assert!(matches!(refusal(bench, sign), RootError::Refused { command: 0x157, .. }));
    bench.power_cut();
    assert_eq!(refusal(bench, RootRequest::Clear), RootError::Unsuitable);
}

/// Everything above in the order of a device's life; `foreign` are keys of another root.
pub(crate) fn whole_life(bench: &mut dyn Bench, rng: &mut dyn Rng, foreign: &OwnerKeys) {
    manufacture(bench);
    let mut owner = Owner::new(rng);
    let (keys, blobs) = onboard(bench, &mut owner);
    own_again(bench, &mut owner, &keys);
    for _ in 0..4 {
        let fresh = create_keys(bench);
        own_again(bench, &mut owner, &fresh);
        deliver(bench, &mut owner, &fresh);
        assert_eq!(bench.loaded(), (0, 0));
    }
    wrong_owner_authorisation(bench, &mut owner, &keys);
    abandoned_exchanges_leave_no_sessions(bench, &mut owner, &keys);
    foreign_and_changed_input_is_refused(bench, &mut owner, &keys, foreign);
    power_cut_keeps_what_is_durable(bench, &mut owner, &keys, &blobs);
    later_statements(bench, &mut owner, &keys);
    cleared_by_its_owner(bench, &mut owner, &keys, &blobs);
    let (keys, _) = onboard(bench, &mut owner);
    cleared_by_the_platform(bench, &keys);
    let (keys, _) = onboard(bench, &mut owner);
    wrong_lockout_authorisation(bench, &mut owner, &keys);
}
