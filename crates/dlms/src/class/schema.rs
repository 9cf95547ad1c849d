//! The language in which interface classes are written down: attributes, methods, and the types of their values.

/// Type of a value: what a server accepts in a SET and what a client expects from a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Type {
    /// Any value: the class leaves the type to the manufacturer.
    Any,
    /// Null.
    Null,
    /// Boolean.
    Boolean,
    /// String of bits, of a fixed number where one is given.
    BitString(Option<usize>),
    /// i32.
    DoubleLong,
    /// u32.
    DoubleLongUnsigned,
    /// Octet string with these numbers of octets, both inclusive.
    OctetString(usize, usize),
    /// Visible string (7-bit text).
    VisibleString,
    /// i8.
    Integer,
    /// i16.
    Long,
    /// u8.
    Unsigned,
    /// u16.
    LongUnsigned,
    /// u64.
    Long64Unsigned,
    /// Enumeration: its known values. An unknown one is an error on the server, and shown as a number by a client.
    Enum(&'static [(u8, &'static str)]),
    /// A mask of bits that is sent with the tag of an enumeration.
    EnumMask,
    /// An OBIS code as an octet string of 6.
    LogicalName,
    /// A date-time as an octet string of 12, or with its own tag.
    DateTime,
    /// A date as an octet string of 5, or with its own tag.
    Date,
    /// A time as an octet string of 4, or with its own tag.
    Time,
    /// An octet string that is text for people.
    Text(usize),
    /// Elements of one type.
    Array(&'static Self),
    /// Elements of one type, sent as an array or as a compact array.
    Table(&'static Self),
    /// Named elements in a fixed order.
    Structure(&'static [(&'static str, Self)]),
    /// One of several.
    Choice(&'static [Self]),
}

/// How a value behaves over time, as the standard classes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Set by configuration.
    Static,
    /// Changes by itself, or by a process in the meter.
    Dynamic,
}

/// An attribute of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute {
    /// Number; 1 is the logical name in every class.
    pub id: i8,
    /// Name as in the standard.
    pub name: &'static str,
    /// Type of its value.
    pub value: Type,
    /// Static or dynamic.
    pub kind: Kind,
}

/// A method of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// Number.
    pub id: i8,
    /// Name as in the standard.
    pub name: &'static str,
    /// Type of its parameter.
    pub parameter: Type,
    /// Type of what it returns, if it returns anything.
    pub result: Option<Type>,
}

/// One version of an interface class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Class id.
    pub id: u16,
    /// Version.
    pub version: u8,
    /// Name as in the standard.
    pub name: &'static str,
    /// Attributes from 2 on, ascending; attribute 1 is the logical name.
    pub attributes: &'static [Attribute],
    /// Methods, ascending.
    pub methods: &'static [Method],
}

/// Attribute 1 of every class.
pub const LOGICAL_NAME: Attribute =
    Attribute { id: 1, name: "logical_name", value: Type::LogicalName, kind: Kind::Static };

impl Class {
    /// The attribute with this number.
    #[must_use]
    pub fn attribute(&self, id: i8) -> Option<&'static Attribute> {
        match id {
            1 => Some(&LOGICAL_NAME),
            _ => self.attributes.iter().find(|attribute| attribute.id == id),
        }
    }

    /// The method with this number.
    #[must_use]
    pub fn method(&self, id: i8) -> Option<&'static Method> {
        self.methods.iter().find(|method| method.id == id)
    }

    /// All attributes, the logical name first.
    pub fn all_attributes(&self) -> impl Iterator<Item = &'static Attribute> {
        core::iter::once(&LOGICAL_NAME).chain(self.attributes)
    }
}

/// A static attribute.
pub(super) const fn fixed(id: i8, name: &'static str, value: Type) -> Attribute {
    Attribute { id, name, value, kind: Kind::Static }
}

/// A dynamic attribute.
pub(super) const fn dynamic(id: i8, name: &'static str, value: Type) -> Attribute {
    Attribute { id, name, value, kind: Kind::Dynamic }
}

/// A method that returns nothing.
pub(super) const fn method(id: i8, name: &'static str, parameter: Type) -> Method {
    Method { id, name, parameter, result: None }
}

/// A method that returns a value.
pub(super) const fn function(id: i8, name: &'static str, parameter: Type, result: Type) -> Method {
    Method { id, name, parameter, result: Some(result) }
}

/// The parameter of methods that need none: integer 0.
pub(super) const NOTHING: Type = Type::Integer;
