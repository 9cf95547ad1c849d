//! What may be sealed for a head-end: default deny (rule S9). Until the classification of commands arrives that is GET of
//! attributes that hold no secret, whole in one APDU.

use gridseal_dlms::wire::{Data, Reader};

/// Most attributes in one GET with a list.
const LIST_MAX: usize = 64;
/// Class and attribute of an association's secret.
const SECRET: (u16, u8) = (15, 7);
/// The same of the association by short names.
const SECRET_SHORT: (u16, u8) = (12, 4);

/// Whether this plain APDU is a GET that the head-end may have sealed.
///
/// # Source
/// DLMS fact sheet, section 7.
#[must_use]
pub fn is_harmless(apdu: &[u8]) -> bool {
    let mut reader = Reader::new(apdu);
    let Ok([tag, choice, _invoke]) = reader.array::<3>("get request") else { return false };
    if tag != 0xC0 {
        return false;
    }
    let harmless = match choice {
        1 => attribute(&mut reader),
        // Next block of an answer that was asked for before.
        2 => reader.u32("block number").is_ok(),
        3 => match reader.length("attributes") {
            Ok(count) if count <= LIST_MAX => (0..count).all(|_| attribute(&mut reader)),
            _ => false,
        },
        _ => false,
    };
    harmless && reader.finish("get request").is_ok()
}

fn attribute(reader: &mut Reader<'_>) -> bool {
    // Class, instance, attribute, and whether a selector follows.
    let Ok([c0, c1, _, _, _, _, _, _, attribute, access]) = reader.array("attribute") else { return false };
    let class = u16::from_be_bytes([c0, c1]);
    // Attribute 0 stands for all of them, the secret included.
    let holds_secret = [SECRET, SECRET_SHORT].contains(&(class, attribute));
    let of_secret_class = attribute == 0 && [SECRET.0, SECRET_SHORT.0].contains(&class);
    if holds_secret || of_secret_class {
        return false;
    }
    match access {
        0 => true,
        1 => reader.u8("selector").is_ok() && Data::skip(reader).is_ok(),
        _ => false,
    }
}
