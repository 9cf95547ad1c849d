//! Every body of a message, requests and responses.

use alloc::vec::Vec;

use crate::{
    sml::element::{DEPTH_MAX, Element, Elements, Signed, Unsigned},
    wire::{DecodeError, Rule},
};

use super::{
    part::{Octets, Part, Raw},
    value::{Time, Value},
};

/// A structure whose fields are the elements of a list, in order.
macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident $label:literal { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $name<'a> {
                $($(#[$field_doc])* pub $field: $kind,)*
            }

            impl<'a> Part<'a> for $name<'a> {
                fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
                    elements.list($label, [$(stringify!($field)),*].len())?;
                    Ok(Self { $($field: Part::decode(elements)?,)* })
                }

                fn encode(&self, out: &mut Vec<u8>) {
                    Element::List([$(stringify!($field)),*].len()).encode(out);
                    $(self.$field.encode(out);)*
                }
            }
        )*
    };
}

lists! {
    /// 0100: opens a file of requests.
    OpenRequest "open request" {
        /// Code page of texts.
        codepage: Option<Octets<'a>>,
        /// Who asks.
        client_id: Octets<'a>,
        /// Names the file.
        request_file_id: Octets<'a>,
        /// Who is asked.
        server_id: Option<Octets<'a>>,
        /// User.
        username: Option<Octets<'a>>,
        /// Password, in clear.
        password: Option<Octets<'a>>,
        /// Version of SML.
        version: Option<Unsigned>,
    }
    /// 0101: opens a file of responses.
    OpenResponse "open response" {
        /// Code page of texts.
        codepage: Option<Octets<'a>>,
        /// Who asked.
        client_id: Option<Octets<'a>>,
        /// Names the file.
        request_file_id: Octets<'a>,
        /// Who answers.
        server_id: Octets<'a>,
        /// Time of the answer.
        reference_time: Option<Time>,
        /// Version of SML.
        version: Option<Unsigned>,
    }
    /// 0200 and 0201: closes a file.
    CloseMessage "close" {
        /// Signature over the file.
        global_signature: Option<Octets<'a>>,
    }
    /// 0300 and 0400: asks for a profile.
    GetProfileRequest "profile request" {
        /// Who is asked.
        server_id: Option<Octets<'a>>,
        /// User.
        username: Option<Octets<'a>>,
        /// Password, in clear.
        password: Option<Octets<'a>>,
        /// Whether raw data are wanted.
        with_rawdata: Option<bool>,
        /// From when.
        begin_time: Option<Time>,
        /// Until when.
        end_time: Option<Time>,
        /// Which profile.
        tree_path: Vec<Octets<'a>>,
        /// Which columns.
        object_list: Option<Vec<Octets<'a>>>,
        /// Details of the reading device.
        details: Option<Tree<'a>>,
    }
    /// 0301: a profile as a table.
    GetProfilePackResponse "profile pack" {
        /// Who answers.
        server_id: Octets<'a>,
        /// Time of the answer.
        act_time: Time,
        /// Length of a period, seconds.
        period_s: Unsigned,
        /// Which profile.
        tree_path: Vec<Octets<'a>>,
        /// Columns.
        headers: Vec<ProfileHeader<'a>>,
        /// Rows.
        rows: Vec<ProfileRow<'a>>,
        /// Raw data.
        rawdata: Option<Octets<'a>>,
        /// Signature over the profile.
        profile_signature: Option<Octets<'a>>,
    }
    /// A column.
    ProfileHeader "profile header" {
        /// OBIS code, 6 octets.
        name: Octets<'a>,
        /// DLMS unit code.
        unit: Unsigned,
        /// Power of ten.
        scaler: Signed,
    }
    /// A row.
    ProfileRow "profile row" {
        /// Its time.
        time: Time,
        /// Status of the meter.
        status: Unsigned,
        /// One value for each column.
        values: Vec<ProfileValue<'a>>,
        /// Signature over the row.
        signature: Option<Octets<'a>>,
    }
    /// A value of a row.
    ProfileValue "profile value" {
        /// Value.
        value: Value<'a>,
        /// Signature over it.
        signature: Option<Octets<'a>>,
    }
    /// 0401: one row of a profile as a list.
    GetProfileListResponse "profile list" {
        /// Who answers.
        server_id: Octets<'a>,
        /// Time of the answer.
        act_time: Time,
        /// Length of a period, seconds.
        period_s: Unsigned,
        /// Which profile.
        tree_path: Vec<Octets<'a>>,
        /// Time of the row.
        time: Time,
        /// Status of the meter.
        status: Unsigned,
        /// Values.
        entries: Vec<PeriodEntry<'a>>,
        /// Raw data.
        rawdata: Option<Octets<'a>>,
        /// Signature over the row.
        signature: Option<Octets<'a>>,
    }
    /// A value of such a list.
    PeriodEntry "period entry" {
        /// OBIS code, 6 octets.
        name: Octets<'a>,
        /// DLMS unit code.
        unit: Unsigned,
        /// Power of ten.
        scaler: Signed,
        /// Value.
        value: Value<'a>,
        /// Signature over it.
        signature: Option<Octets<'a>>,
    }
    /// 0500: asks for parameters.
    GetProcParameterRequest "parameter request" {
        /// Who is asked.
        server_id: Option<Octets<'a>>,
        /// User.
        username: Option<Octets<'a>>,
        /// Password, in clear.
        password: Option<Octets<'a>>,
        /// Which part of the tree.
        tree_path: Vec<Octets<'a>>,
        /// Attribute.
        attribute: Option<Octets<'a>>,
    }
    /// 0501: parameters.
    GetProcParameterResponse "parameter response" {
        /// Who answers.
        server_id: Octets<'a>,
        /// Which part of the tree.
        tree_path: Vec<Octets<'a>>,
        /// The tree.
        tree: Tree<'a>,
    }
    /// 0600: sets parameters; answered by [`Attention`].
    SetProcParameterRequest "set parameter" {
        /// Who is asked.
        server_id: Option<Octets<'a>>,
        /// User.
        username: Option<Octets<'a>>,
        /// Password, in clear.
        password: Option<Octets<'a>>,
        /// Which part of the tree.
        tree_path: Vec<Octets<'a>>,
        /// The tree.
        tree: Tree<'a>,
    }
    /// 0700: asks for a list of values.
    GetListRequest "list request" {
        /// Who asks.
        client_id: Octets<'a>,
        /// Who is asked.
        server_id: Option<Octets<'a>>,
        /// User.
        username: Option<Octets<'a>>,
        /// Password, in clear.
        password: Option<Octets<'a>>,
        /// Which list.
        list_name: Option<Octets<'a>>,
    }
    /// 0701: a list of values. What meters push.
    GetListResponse "list response" {
        /// Who asked.
        client_id: Option<Octets<'a>>,
        /// Who answers.
        server_id: Octets<'a>,
        /// Which list.
        list_name: Option<Octets<'a>>,
        /// Time at the sensor.
        sensor_time: Option<Time>,
        /// Values.
        entries: Vec<ListEntry<'a>>,
        /// Signature over the list.
        list_signature: Option<Octets<'a>>,
        /// Time at the gateway.
        gateway_time: Option<Time>,
    }
    /// One value of a list.
    ListEntry "list entry" {
        /// OBIS code, 6 octets.
        name: Octets<'a>,
        /// Status of the meter; its bits are the manufacturer's.
        status: Option<Unsigned>,
        /// Time of the value.
        time: Option<Time>,
        /// DLMS unit code.
        unit: Option<Unsigned>,
        /// Power of ten.
        scaler: Option<Signed>,
        /// Value.
        value: Value<'a>,
        /// Signature over it.
        signature: Option<Octets<'a>>,
    }
    /// FF01: something is wrong, or done.
    Attention "attention" {
        /// Who answers.
        server_id: Octets<'a>,
        /// What it is about: 81 81 C7 C7 FE for errors, FD for hints.
        number: Octets<'a>,
        /// Text.
        text: Option<Octets<'a>>,
        /// Details.
        details: Option<Tree<'a>>,
    }
}

/// A tree of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree<'a> {
    /// Name, mostly an OBIS code.
    pub name: Octets<'a>,
    /// Value: a list of choice and content, kept as its bytes.
    pub value: Option<Raw<'a>>,
    /// What is below.
    pub children: Option<Vec<Self>>,
}

impl<'a> Tree<'a> {
    fn decode_nested(elements: &mut Elements<'a>, depth: usize) -> Result<Self, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(elements.fail("tree", Rule::TooDeep { limit: DEPTH_MAX }));
        }
        elements.list("tree", 3)?;
        let name = Part::decode(elements)?;
        let value = Part::decode(elements)?;
        if elements.absent() {
            return Ok(Self { name, value, children: None });
        }
        let count = elements.any_list("tree")?;
        let mut children = Vec::new();
        for _ in 0..count {
            children.push(Self::decode_nested(elements, depth.saturating_add(1))?);
        }
        Ok(Self { name, value, children: Some(children) })
    }
}

impl<'a> Part<'a> for Tree<'a> {
    fn decode(elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
        Self::decode_nested(elements, 0)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        Element::List(3).encode(out);
        self.name.encode(out);
        self.value.encode(out);
        self.children.encode(out);
    }
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $variant:ident $tag:literal $name:literal $kind:ty;)*) => {
        /// Body of a message.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Body<'a> {
            $($(#[$doc])* $variant($kind),)*
        }

        impl<'a> Body<'a> {
            pub(super) fn decode(tag: u64, elements: &mut Elements<'a>) -> Result<Self, DecodeError> {
                match tag {
                    $($tag => Part::decode(elements).map(Self::$variant),)*
                    found => {
                        let found = u32::try_from(found).unwrap_or(u32::MAX);
                        Err(elements.fail("kind of body", Rule::Unknown { found }))
                    }
                }
            }

            pub(super) fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(body) => body.encode(out),)*
                }
            }

            /// Its tag.
            #[must_use]
            pub const fn tag(&self) -> u64 {
                match self {
                    $(Self::$variant(_) => $tag,)*
                }
            }

            /// Its name in the words of the standard.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }
        }
    };
}

bodies! {
    /// Opens a file of requests.
    OpenRequest 0x0100 "PublicOpen.Req" OpenRequest<'a>;
    /// Opens a file of responses.
    OpenResponse 0x0101 "PublicOpen.Res" OpenResponse<'a>;
    /// Closes a file of requests.
    CloseRequest 0x0200 "PublicClose.Req" CloseMessage<'a>;
    /// Closes a file of responses.
    CloseResponse 0x0201 "PublicClose.Res" CloseMessage<'a>;
    /// Asks for a profile as a table.
    GetProfilePackRequest 0x0300 "GetProfilePack.Req" GetProfileRequest<'a>;
    /// A profile as a table.
    GetProfilePackResponse 0x0301 "GetProfilePack.Res" GetProfilePackResponse<'a>;
    /// Asks for a profile as lists.
    GetProfileListRequest 0x0400 "GetProfileList.Req" GetProfileRequest<'a>;
    /// One row of a profile.
    GetProfileListResponse 0x0401 "GetProfileList.Res" GetProfileListResponse<'a>;
    /// Asks for parameters.
    GetProcParameterRequest 0x0500 "GetProcParameter.Req" GetProcParameterRequest<'a>;
    /// Parameters.
    GetProcParameterResponse 0x0501 "GetProcParameter.Res" GetProcParameterResponse<'a>;
    /// Sets parameters.
    SetProcParameterRequest 0x0600 "SetProcParameter.Req" SetProcParameterRequest<'a>;
    /// Asks for a list.
    GetListRequest 0x0700 "GetList.Req" GetListRequest<'a>;
    /// A list.
    GetListResponse 0x0701 "GetList.Res" GetListResponse<'a>;
    /// Something is wrong, or done.
    Attention 0xFF01 "Attention.Res" Attention<'a>;
}
