//! Certificates of a device: those of its own keys, of clients and of authorities, and the methods that bring, show and
//! remove them.
//!
//! A certificate is judged when it comes and whenever it is used: an issuer that was removed, or has expired by a clock
//! that is trusted, takes what it issued with it.
//!
//! # Source
//! DLMS fact sheet, section 6.2. Who may bring a trust anchor is not in it \[check\]: here a client that has proven who
//! it is by high level security, in a protected request.

use gridseal_crypto::{Curve, CurvePublic};
use gridseal_dlms::{apdu::result::DataAccessResult, assoc::AccessContext, wire::Data};
use gridseal_trust::party::{
    Authorities, CERTIFICATE_SIZE_MAX, Certificate, Clock, Fault, Purpose, Role, assemble, csr_to_be_signed,
};
use gridseal_types::{SystemTitle, UtcTime};

use super::{
    Device, KeyRefusal, Keyholder, Note,
    object::{items, number},
    profile,
    security::is_proven,
};

/// Certificates that are kept.
pub(super) const CERTIFICATES_MAX: usize = 32;

/// Why a certificate was not taken, given or removed: for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRefusal {
    /// It is not believed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Suite 0 has no certificates.
    #[error("this suite has no certificates")]
    Suite,
    /// The client has not proven who it is.
    #[error("the client has not proven who it is")]
    Client,
    /// Another certificate of this issuer has this serial number.
    #[error("another certificate of this issuer has this serial number")]
    Duplicate,
    /// Its party has another key, and without a clock an expired certificate cannot be told from a new one.
    #[error("its party has another key, and the clock is not set: an expired certificate could not be told")]
    Clock,
    /// No room.
    #[error("there is no room for another certificate")]
    Full,
    /// It names this meter and certifies a key that this meter does not have for this purpose.
    #[error("it certifies a key that this meter does not have")]
    OtherKey,
    /// The key is certified for another purpose or another party already.
    #[error("its key has another purpose or another owner")]
    KeyReused,
    /// No such certificate.
    #[error("there is no such certificate")]
    NotFound,
    /// Key pairs.
    #[error(transparent)]
    Keys(#[from] KeyRefusal),
    /// It could not be made durable.
    #[error("certificates could not be stored")]
    Store,
}

/// A certificate that is kept.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) certificate: Certificate,
    pub(super) is_anchor: bool,
}

/// The certificates of a device.
#[derive(Debug, Clone, Default)]
pub(super) struct Certificates(pub(super) Vec<Held>);

impl Certificates {
    fn authorities(&self) -> Authorities<'_> {
        let mut known = Authorities::default();
        for Held { certificate, is_anchor } in &self.0 {
            match (certificate.role(), is_anchor) {
                (Some(Role::Authority(_)), true) => known.anchors.push(certificate),
                (Some(Role::Authority(_)), false) => known.intermediates.push(certificate),
                _ => {}
            }
        }
        known
    }

    /// Every certified key, believed or not.
    pub(super) fn keys(&self) -> Vec<CurvePublic> {
        self.0.iter().map(|held| held.certificate.key().clone()).collect()
    }

    /// Keys of parties that are believed now, the newest first.
    fn believed(&self, curve: Curve, clock: Clock) -> Vec<(Purpose, SystemTitle, CurvePublic)> {
        let known = self.authorities();
        let parties = self.0.iter().rev().filter_map(|held| {
            let certificate = &held.certificate;
            let (Some(Role::Party(purpose)), Some(title)) = (certificate.role(), certificate.title()) else {
                return None;
            };
            known.judge(certificate, curve, clock).ok()?;
            Some((purpose, title, certificate.key().clone()))
        });
        parties.collect()
    }

    /// Of whom a certificate is held, believed or not.
    fn certified(&self) -> Vec<(Purpose, SystemTitle)> {
        let party = |held: &Held| match held.certificate.role()? {
            Role::Party(purpose) => Some((purpose, held.certificate.title()?)),
            _ => None,
        };
        self.0.iter().filter_map(party).collect()
    }

    /// Whether a validity has begun or ended between two times.
    fn turns(&self, from: UtcTime, to: UtcTime) -> bool {
        self.0.iter().any(|held| {
            let (begins, ends) = held.certificate.validity();
            (from < begins && begins <= to) || (from <= ends && ends < to)
        })
    }

    /// Where the certificate is that `identification` names.
    fn find(&self, identification: &Data<'_>, own: SystemTitle, client: SystemTitle) -> Option<usize> {
        let [kind, value] = items(identification) else { return None };
        match (number(kind)?, items(value)) {
            (0, [entity, kind, Data::OctetString(title)]) => {
                let (entity, kind) = (number(entity)?, number(kind)?);
                // The newest one of several.
                self.0.iter().rposition(|held| {
                    let (of, purpose) = held.describe(own, client);
                    let is_titled = |found: SystemTitle| found.as_bytes() == title;
                    let is_its = of == AUTHORITY || held.certificate.title().is_some_and(is_titled);
                    (i64::from(of), i64::from(purpose)) == (entity, kind) && is_its
                })
            }
            (1, [Data::OctetString(serial), Data::OctetString(issuer)]) => self.0.iter().position(|held| {
                held.certificate.serial() == *serial && held.certificate.issuer() == *issuer
            }),
            _ => None,
        }
    }
}

/// Numbers of entities in class 64.
const SERVER: u8 = 0;
const CLIENT: u8 = 1;
const AUTHORITY: u8 = 2;
const OTHER: u8 = 3;

impl Held {
    /// Entity and type, as class 64 numbers them.
    fn describe(&self, own: SystemTitle, client: SystemTitle) -> (u8, u8) {
        match self.certificate.role() {
            Some(Role::Party(purpose)) => {
                let entity = match self.certificate.title() {
                    Some(title) if title == own => SERVER,
                    Some(title) if title == client => CLIENT,
                    _ => OTHER,
                };
                (entity, purpose.number())
            }
            _ => (AUTHORITY, 3),
        }
    }
}

impl Device {
    /// The curve of the suite that the security setup has.
    pub(super) const fn curve(&self) -> Option<Curve> {
        match self.config.suite {
            1 => Some(Curve::P256),
            2 => Some(Curve::P384),
            _ => None,
        }
    }

    /// What is known about the time.
    pub(super) fn trusted_clock(&self) -> Clock {
        if self.is_clock_trusted {
            Clock::Trusted(self.now())
        } else {
            Clock::Untrusted { floor: self.floor }
        }
    }

    /// A time that is trusted has passed: by a clock that is not trusted, certificates that had ended by then are not believed.
    pub(super) fn raise_floor(&mut self) {
        if self.is_clock_trusted {
            self.floor = self.floor.max(self.now());
        }
    }

    /// Keys with which a peer's signatures are verified, or an agreement with it is made.
    pub(super) fn keys_of(
        &self,
        purpose: Purpose,
        title: SystemTitle,
        keys: &dyn Keyholder,
    ) -> Vec<CurvePublic> {
        let certified = self.believed_keys().into_iter();
        let certified =
            certified.filter(|(of, whose, _)| (*of, *whose) == (purpose, title)).map(|(_, _, key)| key);
        // Whoever has been certified once is not believed without a certificate again.
        let is_closed = self.certificates.certified().contains(&(purpose, title));
        let configured = keys.configured_key(purpose, title).filter(|_| !is_closed);
        certified.chain(configured).collect()
    }

    /// By a trusted clock certificates begin and end without anybody's doing.
    pub(super) fn judge_anew(&mut self, before: UtcTime, keys: &mut dyn Keyholder) {
        if self.is_clock_trusted && self.certificates.turns(before, self.now()) {
            self.raise_floor();
            // Without the floor nothing is believed that was not before.
            let _ = self.keep_setup(keys);
            self.tell_believed(keys);
        }
    }

    /// Tells whose keys are believed, and of whom only certificates count.
    pub(super) fn tell_believed(&self, keys: &mut dyn Keyholder) {
        keys.believe(&self.believed_keys(), &self.certificates.certified());
    }

    pub(super) fn believed_keys(&self) -> Vec<(Purpose, SystemTitle, CurvePublic)> {
        self.curve().map(|curve| self.certificates.believed(curve, self.trusted_clock())).unwrap_or_default()
    }

    /// Attribute 6.
    pub(super) fn certificate_list(&self) -> Vec<u8> {
        let entry = |held: &Held| {
            let (entity, kind) = held.describe(self.config.title, self.config.client_title);
            let certificate = &held.certificate;
            Data::Structure(vec![
                Data::Enum(entity),
                Data::Enum(kind),
                Data::OctetString(certificate.serial()),
                Data::OctetString(certificate.issuer()),
                Data::OctetString(certificate.subject()),
                Data::OctetString(certificate.alt_name()),
            ])
            .to_bytes()
        };
        let entries: Vec<Vec<u8>> = self.certificates.0.iter().map(entry).collect();
        Data::Array(entries.iter().filter_map(|entry| Data::from_bytes(entry).ok()).collect()).to_bytes()
    }

    /// Methods 4 to 8.
    pub(super) fn certificate_method(
        &mut self,
        method: i8,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<Option<Vec<u8>>, DataAccessResult> {
        let done = match method {
            4 => self.generate_pair(value, context, keys).map(|()| None),
            5 => self.request_certificate(value, context, keys).map(Some),
            6 => self.import_certificate(value, context, keys).map(|()| None),
            7 => self.export_certificate(value).map(Some),
            _ => self.remove_certificate(value, context, keys).map(|()| None),
        };
        done.map_err(|refusal| {
            self.note(Note::CertificateRefused(refusal));
            match refusal {
                CertificateRefusal::NotFound => DataAccessResult::ObjectUnavailable,
                CertificateRefusal::Client => DataAccessResult::ReadWriteDenied,
                _ => DataAccessResult::OtherReason,
            }
        })
    }

    fn generate_pair(
        &mut self,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<(), CertificateRefusal> {
        let purpose = self.purpose(value, context)?;
        let root = keys.make_pair(purpose)?;
        self.note(Note::KeyPairMade { purpose, root });
        Ok(())
    }

    fn request_certificate(
        &mut self,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<Vec<u8>, CertificateRefusal> {
        let purpose = self.purpose(value, context)?;
        let pairs = keys.pairs(purpose);
        let key = pairs.waiting.or(pairs.current).ok_or(KeyRefusal::NoPair)?;
        let body = csr_to_be_signed(self.config.title, &key);
        let signature = keys.sign_request(purpose, &key, &body)?;
        Ok(Data::OctetString(&assemble(&body, key.curve(), &signature)).to_bytes())
    }

    /// The purpose that a client asks for, if it may.
    fn purpose(&self, value: &Data<'_>, context: &AccessContext) -> Result<Purpose, CertificateRefusal> {
        self.curve().ok_or(CertificateRefusal::Suite)?;
        if !is_proven(context) {
            return Err(CertificateRefusal::Client);
        }
        number(value).and_then(Purpose::from_number).ok_or(CertificateRefusal::Fault(Fault::Purpose))
    }

    fn import_certificate(
        &mut self,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<(), CertificateRefusal> {
        let curve = self.curve().ok_or(CertificateRefusal::Suite)?;
        if !is_proven(context) {
            return Err(CertificateRefusal::Client);
        }
        let Data::OctetString(der) = value else { return Err(Fault::Format.into()) };
        if der.len() > CERTIFICATE_SIZE_MAX {
            return Err(Fault::Size.into());
        }
        let certificate = Certificate::parse(der)?;
        let same = self.certificates.0.iter().find(|held| {
            let held = &held.certificate;
            (held.serial(), held.issuer()) == (certificate.serial(), certificate.issuer())
        });
        match same {
            // Once more: nothing changes, so an answer that was lost can be asked for again.
            Some(held) if held.certificate == certificate => return Ok(()),
            Some(_) => return Err(CertificateRefusal::Duplicate),
            None => {}
        }
        let clock = self.trusted_clock();
        let is_anchor =
            matches!(certificate.role(), Some(Role::Authority(_))) && certificate.is_self_issued();
        if is_anchor {
            Authorities::judge_anchor(&certificate, curve, clock)?;
        } else {
            self.certificates.authorities().judge(&certificate, curve, clock)?;
        }
        if let (Some(Role::Party(purpose)), Some(title)) = (certificate.role(), certificate.title()) {
            self.check_key(&certificate, purpose, title, keys)?;
        }
        if self.certificates.0.len() >= CERTIFICATES_MAX {
            return Err(CertificateRefusal::Full);
        }
        let own = certificate.role().zip(certificate.title());
        let key = certificate.key().clone();
        let note = Note::CertificateTaken { subject: subject_of(&certificate), is_anchor };
        self.certificates.0.push(Held { certificate, is_anchor });
        self.raise_floor();
        let kept = self.keep_setup(keys).map_err(|_| CertificateRefusal::Store);
        // The pair is in use once its certificate is durable; a power cut between leaves both, and a repeat mends it.
        let used = kept.and_then(|()| match own {
            Some((Role::Party(purpose), title)) if title == self.config.title => {
                keys.use_pair(purpose, &key).map_err(CertificateRefusal::Keys)
            }
            _ => Ok(()),
        });
        if let Err(refusal) = used {
            self.certificates.0.pop();
            let _ = self.keep_setup(keys);
            return Err(refusal);
        }
        self.tell_believed(keys);
        self.note(note);
        self.log_event(profile::EVENT_CERTIFICATES_CHANGED);
        Ok(())
    }

    /// A key has one owner and one purpose; the own one must be there.
    fn check_key(
        &self,
        certificate: &Certificate,
        purpose: Purpose,
        title: SystemTitle,
        keys: &dyn Keyholder,
    ) -> Result<(), CertificateRefusal> {
        let key = certificate.key();
        let is_other = |held: &&Held| {
            let other = &held.certificate;
            other.key() == key && (other.title() != Some(title) || other.role() != Some(Role::Party(purpose)))
        };
        if self.certificates.0.iter().any(|held| is_other(&held)) {
            return Err(CertificateRefusal::KeyReused);
        }
        let has = |purpose| {
            let pairs = keys.pairs(purpose);
            [pairs.current, pairs.waiting].contains(&Some(key.clone()))
        };
        let is_own = title == self.config.title;
        if is_own && !has(purpose) {
            return Err(CertificateRefusal::OtherKey);
        }
        if is_own {
            return Ok(());
        }
        if Purpose::ALL.into_iter().any(has) {
            return Err(CertificateRefusal::KeyReused);
        }
        //= design S14: by a clock that nobody has set no key takes the place of another
        let replaces = self.keys_of(purpose, title, keys).first().is_some_and(|used| used != key);
        if replaces && !self.is_clock_trusted { Err(CertificateRefusal::Clock) } else { Ok(()) }
    }

    fn export_certificate(&self, value: &Data<'_>) -> Result<Vec<u8>, CertificateRefusal> {
        let at = self.certificates.find(value, self.config.title, self.config.client_title);
        let held = at.and_then(|at| self.certificates.0.get(at)).ok_or(CertificateRefusal::NotFound)?;
        Ok(Data::OctetString(held.certificate.der()).to_bytes())
    }

    fn remove_certificate(
        &mut self,
        value: &Data<'_>,
        context: &AccessContext,
        keys: &mut dyn Keyholder,
    ) -> Result<(), CertificateRefusal> {
        if !is_proven(context) {
            return Err(CertificateRefusal::Client);
        }
        let at = self.certificates.find(value, self.config.title, self.config.client_title);
        let at = at.filter(|at| *at < self.certificates.0.len()).ok_or(CertificateRefusal::NotFound)?;
        let removed = self.certificates.0.remove(at);
        if self.keep_setup(keys).is_err() {
            self.certificates.0.insert(at, removed);
            return Err(CertificateRefusal::Store);
        }
        self.tell_believed(keys);
        self.note(Note::CertificateRemoved { subject: subject_of(&removed.certificate) });
        self.log_event(profile::EVENT_CERTIFICATES_CHANGED);
        Ok(())
    }

    /// The clock was set: what is believed may be something else now.
    pub(super) fn clock_was_set(&mut self, keys: &mut dyn Keyholder) {
        self.raise_floor();
        // Without the floor nothing is believed that was not before: no reason to refuse the time.
        let _ = self.keep_setup(keys);
        self.tell_believed(keys);
    }
}

/// For the log: the system title, or that it is an authority.
fn subject_of(certificate: &Certificate) -> Option<SystemTitle> {
    certificate.title().filter(|_| matches!(certificate.role(), Some(Role::Party(_))))
}

/// The floor of the time before anything is known.
pub(super) const NO_FLOOR: UtcTime = UtcTime(0);
