//! `gridseal dlms image`: an image into a meter, gone on with where it stopped.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use gridseal_dlms::{
    apdu::{
        reference::{AttributeId, MethodId},
        result::ActionResult,
    },
    assoc::client::{Request, Response},
    wire::Data,
};
use gridseal_trust::firmware::claims;
use gridseal_types::ObisCode;

use super::{
    Peer,
    session::{self, Session},
};
use crate::{files, observe::say, tools::Usage};

const IMAGE: ObisCode = ObisCode::new([0, 0, 44, 0, 0, 255]);
/// State of attribute 6: blocks are taken.
const INITIATED: u64 = 1;
/// How often holes are filled before the transfer is given up.
const ROUNDS_MAX: usize = 3;

/// Arguments of `dlms image`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    pub(super) peer: Peer,
    /// Image, as `gridseal factory image` wrote it.
    #[arg(value_name = "FILE")]
    image: PathBuf,
    /// Go on with a transfer that was interrupted, instead of beginning again. It must have been the same image.
    #[arg(long)]
    resume: bool,
    /// Activate the image once the meter has verified it.
    #[arg(long)]
    activate: bool,
}

/// An image, and what is to be done with it.
pub struct Image {
    bytes: Vec<u8>,
    /// Identification in its manifest.
    identifier: Vec<u8>,
    resume: bool,
    activate: bool,
}

impl Arguments {
    /// Reads the image.
    pub fn read(&self) -> Result<Image> {
        let bytes = files::read(&self.image)?;
        let claims = claims(&bytes)
            .with_context(|| Usage(format!("{} is no image with a manifest", self.image.display())))?;
        Ok(Image { bytes, identifier: claims.identifier, resume: self.resume, activate: self.activate })
    }
}

impl Image {
    /// Sends it, has it verified and, if asked to, activated.
    pub async fn put<const N: usize>(self, session: &mut Session<'_, N>) -> Result<()> {
        let done = transfer(session, &self).await?;
        say(&format!("{done}: {} bytes", self.bytes.len()));
        Ok(())
    }
}

async fn transfer<const N: usize>(session: &mut Session<'_, N>, image: &Image) -> Result<&'static str> {
    let Image { bytes, identifier, resume, activate } = image;
    let block_size = usize::try_from(number(session, 2).await?).unwrap_or(0);
    if block_size == 0 {
        bail!("the meter names no block size");
    }
    let count = bytes.len().div_ceil(block_size);
    let goes_on = *resume && number(session, 6).await? == INITIATED;
    if goes_on {
        //= DLMS 12.18: what goes on is what was begun
        let begun = begun_blocks(session).await?;
        if begun != count {
            bail!(
                "the meter has begun an image of {begun} blocks, and this one has {count}: without --resume it begins \
                 again with this one"
            );
        }
    } else {
        let size = u32::try_from(bytes.len()).context("image is too large")?;
        let named = Data::Structure(vec![Data::OctetString(identifier), Data::DoubleLongUnsigned(size)]);
        invoke(session, 1, &named).await?;
    }
    let mut first = usize::try_from(number(session, 4).await?).unwrap_or(usize::MAX);
    for _ in 0..ROUNDS_MAX {
        for (index, block) in bytes.chunks(block_size).enumerate().skip(first) {
            let index = u32::try_from(index).context("image has too many blocks")?;
            let block = Data::Structure(vec![Data::DoubleLongUnsigned(index), Data::OctetString(block)]);
            invoke(session, 2, &block).await?;
        }
        first = usize::try_from(number(session, 4).await?).unwrap_or(usize::MAX);
        if first >= count {
            break;
        }
    }
    if first < count {
        bail!("the meter goes on missing block {first}");
    }
    invoke(session, 3, &Data::Integer(0)).await?;
    if !activate {
        return Ok("verified");
    }
    invoke(session, 4, &Data::Integer(0)).await?;
    Ok("activated")
}

const OTHER_TYPE: &str = "the meter's image transfer has a value of another type";

async fn number<const N: usize>(session: &mut Session<'_, N>, attribute: i8) -> Result<u64> {
    match Data::from_bytes(&shown(session, attribute).await?) {
        Ok(Data::DoubleLongUnsigned(value)) => Ok(value.into()),
        Ok(Data::Enum(value)) => Ok(value.into()),
        _ => bail!(OTHER_TYPE),
    }
}

/// How many blocks the image has that the meter has begun.
async fn begun_blocks<const N: usize>(session: &mut Session<'_, N>) -> Result<usize> {
    match Data::from_bytes(&shown(session, 3).await?) {
        Ok(Data::BitString(blocks)) => Ok(blocks.bit_count()),
        _ => bail!(OTHER_TYPE),
    }
}

async fn shown<const N: usize>(session: &mut Session<'_, N>, attribute: i8) -> Result<Vec<u8>> {
    let attribute = AttributeId::new(18, IMAGE, attribute);
    match session.ask(Request::Get(attribute, None)).await? {
        Response::Get(Ok(value)) => Ok(value),
        Response::Get(Err(result)) => bail!("the meter does not show its image transfer: {result:?}"),
        other => Err(session::refused(&other)),
    }
}

async fn invoke<const N: usize>(session: &mut Session<'_, N>, method: i8, value: &Data<'_>) -> Result<()> {
    let step = match method {
        1 => "the announcement",
        2 => "a block",
        3 => "the image: it is not verified",
        _ => "to activate the image",
    };
    match session.ask(Request::Action(MethodId::new(18, IMAGE, method), Some(value.to_bytes()))).await? {
        Response::Action(outcome) if outcome.result == ActionResult::Success => Ok(()),
        Response::Action(outcome) => {
            bail!("the meter refuses {step} ({:?}); the cause is in its log", outcome.result)
        }
        other => Err(session::refused(&other)),
    }
}
