//! Application protocol data units, one file each service.
//!
//! Values stay as they are on the wire, as slices that hold exactly one A-XDR value ([`crate::wire::Data`] reads them):
//! a request is taken apart without building what nobody looks at.

pub mod access;
pub mod action;
pub mod carrier;
pub mod ciphered;
pub mod event;
pub mod exception;
pub mod general;
pub mod get;
pub mod notification;
pub mod reference;
pub mod report;
pub mod result;
pub mod set;

mod list;

/// Tags of the plain APDUs that have a ciphered twin or a machine of their own.
pub mod tag {
    /// InitiateRequest.
    pub const INITIATE_REQUEST: u8 = 0x01;
    /// InitiateResponse.
    pub const INITIATE_RESPONSE: u8 = 0x08;
    /// ConfirmedServiceError.
    pub const CONFIRMED_SERVICE_ERROR: u8 = 0x0E;
    /// DataNotification.
    pub const DATA_NOTIFICATION: u8 = 0x0F;
    /// InformationReportRequest.
    pub const INFORMATION_REPORT: u8 = 0x18;
    /// GET request.
    pub const GET_REQUEST: u8 = 0xC0;
    /// SET request.
    pub const SET_REQUEST: u8 = 0xC1;
    /// EventNotification.
    pub const EVENT_NOTIFICATION: u8 = 0xC2;
    /// ACTION request.
    pub const ACTION_REQUEST: u8 = 0xC3;
    /// GET response.
    pub const GET_RESPONSE: u8 = 0xC4;
    /// SET response.
    pub const SET_RESPONSE: u8 = 0xC5;
    /// ACTION response.
    pub const ACTION_RESPONSE: u8 = 0xC7;
    /// exception-response.
    pub const EXCEPTION_RESPONSE: u8 = 0xD8;
    /// ACCESS request.
    pub const ACCESS_REQUEST: u8 = 0xD9;
    /// ACCESS response.
    pub const ACCESS_RESPONSE: u8 = 0xDA;
    /// general-glo-ciphering.
    pub const GENERAL_GLO: u8 = 0xDB;
    /// general-ded-ciphering.
    pub const GENERAL_DED: u8 = 0xDC;
    /// general-ciphering.
    pub const GENERAL_CIPHERING: u8 = 0xDD;
    /// general-signing.
    pub const GENERAL_SIGNING: u8 = 0xDF;
    /// general-block-transfer.
    pub const GENERAL_BLOCK_TRANSFER: u8 = 0xE0;
}
