//! Application protocol data units, one file each.

pub mod ciphered;
pub mod notification;
