//! The path from a party's certificate to a trust anchor, bounded in depth and in signatures.
#![deny(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "judges bytes from outside"
)]

use alloc::vec::Vec;

use gridseal_crypto::Curve;
use gridseal_types::UtcTime;

use super::{Certificate, Fault, Role};

/// Longest path: the party's certificate, at most two authorities, the anchor.
const PATH_MAX: usize = 4;
/// Most signatures that are verified for one certificate.
const SIGNATURES_MAX: usize = 8;

/// What is known about the time (rule S14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// It was set by somebody who proved to be allowed to.
    Trusted(UtcTime),
    /// Nobody knows. What had ended by the latest time that was once trusted is over; nothing else can be told.
    Untrusted {
        /// The latest time that was once trusted.
        floor: UtcTime,
    },
}

impl Clock {
    fn judge(self, certificate: &Certificate) -> Result<(), Fault> {
        let (not_before, not_after) = certificate.validity();
        let (latest, is_known) = match self {
            Self::Trusted(now) => (now, true),
            Self::Untrusted { floor } => (floor, false),
        };
        //= design S14: without a trusted clock only what is certainly over is refused
        if not_after < latest || not_after < not_before {
            Err(Fault::Expired)
        } else if is_known && latest < not_before {
            Err(Fault::NotYet)
        } else {
            Ok(())
        }
    }
}

/// Whom the judge knows.
#[derive(Debug, Clone, Default)]
pub struct Authorities<'c> {
    /// Authorities that are believed by themselves.
    pub anchors: Vec<&'c Certificate>,
    /// Authorities that an anchor must have certified.
    pub intermediates: Vec<&'c Certificate>,
}

impl Authorities<'_> {
    /// Judges a certificate that is no anchor: a party's, or one of an authority below an anchor. Its key must be on the
    /// curve, and every issuer's key on that curve or a stronger one.
    ///
    /// # Errors
    /// The first [`Fault`] in the order: purpose, subject, curve, extensions, time, path.
    pub fn judge(&self, certificate: &Certificate, curve: Curve, clock: Clock) -> Result<(), Fault> {
        let is_party = match certificate.role() {
            None => return Err(Fault::Purpose),
            Some(Role::Party(_)) => true,
            Some(Role::Authority(_)) => false,
        };
        if is_party && certificate.title().is_none() {
            return Err(Fault::Subject);
        }
        // Curves are in order of strength.
        if certificate.key().curve() < curve || (is_party && certificate.key().curve() != curve) {
            return Err(Fault::Curve);
        }
        if certificate.has_unknown_critical {
            return Err(Fault::CriticalExtension);
        }
        clock.judge(certificate)?;
        let mut search = Search { known: self, curve, clock, signatures: 0, worst: Fault::NoPath };
        let mut path = alloc::vec![certificate];
        if search.extend(&mut path) { Ok(()) } else { Err(search.worst) }
    }

    /// Judges an authority that would be an anchor: it must have signed itself.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn judge_anchor(certificate: &Certificate, curve: Curve, clock: Clock) -> Result<(), Fault> {
        if !matches!(certificate.role(), Some(Role::Authority(_))) || !certificate.is_self_issued() {
            return Err(Fault::Authority);
        }
        if certificate.key().curve() < curve {
            return Err(Fault::Curve);
        }
        if certificate.has_unknown_critical {
            return Err(Fault::CriticalExtension);
        }
        clock.judge(certificate)?;
        if certificate.is_signed_by(certificate.key()) { Ok(()) } else { Err(Fault::Signature) }
    }
}

struct Search<'s, 'c> {
    known: &'s Authorities<'c>,
    curve: Curve,
    clock: Clock,
    signatures: usize,
    /// What stood in the way of the path that came furthest.
    worst: Fault,
}

impl<'c> Search<'_, 'c> {
    /// Extends a path by an issuer until an anchor ends it; whether one was found.
    fn extend<'p>(&mut self, path: &mut Vec<&'p Certificate>) -> bool
    where
        'c: 'p,
    {
        let Some(last) = path.last().copied().filter(|_| path.len() < PATH_MAX) else { return false };
        let known = self.known;
        let is_issuer = |issuer: &&&'c Certificate| issuer.subject() == last.issuer();
        if known.anchors.iter().filter(is_issuer).any(|anchor| self.steps(path, last, anchor)) {
            return true;
        }
        for issuer in known.intermediates.iter().filter(is_issuer) {
            if path.iter().any(|used| used.der() == issuer.der()) || !self.steps(path, last, issuer) {
                continue;
            }
            path.push(issuer);
            if self.extend(path) {
                return true;
            }
            path.pop();
        }
        false
    }

    /// Whether `issuer` may and did issue `last`.
    fn steps(&mut self, path: &[&Certificate], last: &Certificate, issuer: &Certificate) -> bool {
        self.signatures = self.signatures.saturating_add(1);
        if self.signatures > SIGNATURES_MAX {
            return false;
        }
        match self.step(path, last, issuer) {
            Ok(()) => true,
            Err(fault) => {
                self.worst = fault;
                false
            }
        }
    }

    fn step(&self, path: &[&Certificate], last: &Certificate, issuer: &Certificate) -> Result<(), Fault> {
        // Authorities between the issuer and the certificate that is judged, without those that issued to themselves.
        let authorities = path.iter().filter(|one| matches!(one.role(), Some(Role::Authority(_))));
        let below = authorities.filter(|one| !one.is_self_issued()).count();
        match issuer.role() {
            Some(Role::Authority(most)) if most.is_none_or(|most| below <= usize::from(most)) => {}
            _ => return Err(Fault::Authority),
        }
        if issuer.has_unknown_critical {
            return Err(Fault::CriticalExtension);
        }
        if issuer.key().curve() < self.curve {
            return Err(Fault::Curve);
        }
        self.clock.judge(issuer)?;
        if last.is_signed_by(issuer.key()) { Ok(()) } else { Err(Fault::Signature) }
    }
}
