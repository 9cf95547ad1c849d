//! `gridseal dlms certify`: the authority of a bench, which issues certificates of DLMS parties.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Curve, CurvePublic, CurveSigner, random, role::CaSigning};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_trust::party::{Certificate, Draft, Purpose, Role, Subject, assemble, parse_csr};
use gridseal_types::{SystemTitle, UtcTime};

use crate::{
    files::{Zone, read_if_there, write_atomic},
    observe::say,
    tools::Usage,
};

/// How far a certificate starts before the moment of issue.
const BACKDATE_S: u64 = 300;
/// Life of the authority itself.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Arguments of `dlms certify`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory of the authority; made, with a self-signed certificate, when it is not there.
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// Security suite: 1 for P-256, 2 for P-384.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    suite: u8,
    /// Certificate request of a meter (PKCS#10, DER in hex), as method 5 of its security setup gives it.
    #[arg(long, value_name = "HEX", conflicts_with_all = ["title", "public"])]
    request: Option<String>,
    /// System title of the party, 16 hex digits.
    #[arg(long, value_name = "HEX", requires = "public")]
    title: Option<String>,
    /// Public key of the party, x || y in hex.
    #[arg(long, value_name = "HEX", requires = "title")]
    public: Option<String>,
    /// What the certificate is for.
    #[arg(long, value_enum, default_value = "signature")]
    purpose: Wanted,
    /// How many days it is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wanted {
    /// Signatures.
    Signature,
    /// Key agreement.
    Agreement,
    /// TLS.
    Tls,
}

impl From<Wanted> for Purpose {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Signature => Self::Signature,
            Wanted::Agreement => Self::Agreement,
            Wanted::Tls => Self::Tls,
        }
    }
}

/// The authority of one curve.
struct Authority {
    name: Subject,
    key: CurveSigner,
    certificate: Vec<u8>,
}

/// Whom the certificate is for, and the key.
fn wanted(arguments: &Arguments, curve: Curve) -> Result<Option<(SystemTitle, CurvePublic)>> {
    let bytes = |text: &str, what: &str| {
        hex::decode(text.trim()).map_err(|_| anyhow::Error::from(Usage(format!("{what} is not hex"))))
    };
    if let Some(request) = &arguments.request {
        let (title, key) = parse_csr(&bytes(request, "--request")?).context("the request is refused")?;
        if key.curve() != curve {
            bail!(Usage("the request is for a key of another suite".into()));
        }
        return Ok(Some((title, key)));
    }
    let (Some(title), Some(public)) = (&arguments.title, &arguments.public) else { return Ok(None) };
    let title = SystemTitle::from_slice(&bytes(title, "--title")?)
        .ok_or_else(|| Usage("--title has not 8 bytes".into()))?;
    let key = CurvePublic::from_point(curve, &bytes(public, "--public")?)
        .ok_or_else(|| Usage("--public is no point of the suite's curve".into()))?;
    Ok(Some((title, key)))
}

/// Prints a certificate, DER in hex.
pub fn run(arguments: &Arguments) -> Result<()> {
    let curve = if arguments.suite == 1 { Curve::P256 } else { Curve::P384 };
    let wanted = wanted(arguments, curve)?;
    let authority = Authority::open_or_found(&Zone::open_or_create(&arguments.authority)?, curve)?;
    let certificate = match wanted {
        None => authority.certificate,
        Some((title, key)) => {
            let life = Duration::from_secs(86_400 * u64::from(arguments.days));
            let role = Role::Party(arguments.purpose.into());
            issue((&authority.name, &authority.key), &Subject::Party(title), &key, (role, life))?
        }
    };
    say(&hex::encode(certificate));
    Ok(())
}

impl Authority {
    fn open_or_found(zone: &Zone, curve: Curve) -> Result<Self> {
        let (name, key) = match curve {
            Curve::P256 => {
                ("p256", CurveSigner::new(&zone.load_or_generate::<CaSigning>("authority-p256")?)?)
            }
            Curve::P384 => {
                ("p384", CurveSigner::new(&zone.load_or_generate_p384::<CaSigning>("authority-p384")?)?)
            }
        };
        let path = zone.dir().join(format!("authority-{name}.der"));
        let subject = Subject::Authority(format!("bench authority {name}"));
        let certificate = match read_if_there(&path)? {
            Some(der) => der,
            None => {
                let role = Role::Authority(Some(0));
                let der = issue((&subject, &key), &subject, &key.public(), (role, AUTHORITY_LIFE))?;
                write_atomic(&path, &der)?;
                der
            }
        };
        let is_its =
            Certificate::parse(&certificate).is_ok_and(|certificate| *certificate.key() == key.public());
        if !is_its {
            bail!("{} is not the certificate of the key beside it", path.display());
        }
        Ok(Self { name: subject, key, certificate })
    }
}

fn issue(
    (issuer, signer): (&Subject, &CurveSigner),
    subject: &Subject,
    key: &CurvePublic,
    (role, life): (Role, Duration),
) -> Result<Vec<u8>> {
    let mut serial: [u8; 16] = random(&mut OsRng)?;
    // Positive, and of full length.
    serial[0] = serial[0] & 0x7F | 0x40;
    let from = utc_now().0.saturating_sub(BACKDATE_S);
    let issuer_key = signer.public();
    let draft = Draft {
        serial: &serial,
        issuer: &issuer.name(),
        issuer_key: &issuer_key,
        subject,
        validity: (UtcTime(from), UtcTime(from.saturating_add(life.as_secs()))),
        key,
        role,
    };
    let body = draft.to_be_signed();
    let signature = signer.sign(&body).context("the authority's key does not sign")?;
    Ok(assemble(&body, issuer_key.curve(), &signature))
}
