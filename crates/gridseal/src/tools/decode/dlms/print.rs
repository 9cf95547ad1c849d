//! Trees as text and as JSON.

use std::fmt::Write as _;

use gridseal_dlms::tree::{Authenticity, Decoded, Fault, Node, Scalar};
use serde_json::{Map, Value, json};

use crate::{
    observe::printable,
    tools::{decode::input::NotHex, dlms::shown::real},
};

/// Octets of one field that text shows.
const OCTETS_SHOWN: usize = 32;

/// Bytes that are no hex.
pub fn not_hex(error: &NotHex, as_json: bool) -> String {
    if as_json {
        let error = json!({"code": "dlms.hex", "offset": error.offset, "message": error.message});
        return json!({"ok": false, "authenticated": "none", "error": error}).to_string();
    }
    format!("error dlms.hex at {}: {}", error.offset, error.message)
}

fn authenticated(authenticity: Authenticity) -> Value {
    match authenticity {
        Authenticity::None => json!("none"),
        Authenticity::Unproven => json!(false),
        Authenticity::Verified => json!(true),
    }
}

/// One frame as an object.
pub fn json(frame: &Decoded) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("ok", json!(frame.fault.is_none()));
    put("form", json!(frame.form));
    put("offset", json!(frame.offset));
    put("length", json!(frame.size));
    put("authenticated", authenticated(frame.authenticity));
    if let Some(fault) = &frame.fault {
        let mut error = json!({"code": fault.code(), "offset": fault.offset, "message": message(fault)});
        if let Some(inside) = fault.inside {
            error["inside"] = json!(inside);
        }
        put("error", error);
    }
    put("tree", Value::Array(frame.nodes.iter().map(node_json).collect()));
    Value::Object(object)
}

fn message(fault: &Fault) -> String {
    match fault.inside {
        None => fault.cause.to_string(),
        Some(inside) => format!("in the {inside}: {}", fault.cause),
    }
}

fn node_json(node: &Node) -> Value {
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    put("field", json!(node.field));
    put("offset", json!(node.offset));
    put("length", json!(node.size));
    match &node.value {
        None => {}
        Some(Scalar::Unsigned(value)) => put("value", json!(value)),
        Some(Scalar::Signed(value)) => put("value", json!(value)),
        Some(Scalar::Real(value)) => put("value", real(*value)),
        Some(Scalar::Boolean(value)) => put("value", json!(value)),
        Some(Scalar::Text(value)) => put("value", json!(value)),
        Some(Scalar::Octets(value)) => put("value", json!(hex::encode(value))),
        Some(_) => {}
    }
    if let Some(meaning) = &node.meaning {
        put("meaning", json!(meaning));
    }
    if node.is_inner {
        put("inner", json!(true));
    }
    if !node.children.is_empty() {
        put("children", Value::Array(node.children.iter().map(node_json).collect()));
    }
    Value::Object(object)
}

/// One frame for people.
pub fn text(frame: &Decoded) -> String {
    let proof = match frame.authenticity {
        Authenticity::None => "",
        Authenticity::Unproven => ", NOT AUTHENTICATED",
        Authenticity::Verified => ", authenticated",
    };
    let mut out = format!("{}, {} bytes at {}{proof}", frame.form, frame.size, frame.offset);
    frame.nodes.iter().for_each(|node| node_text(&mut out, node, 0));
    if let Some(fault) = &frame.fault {
        let _ = write!(out, "\nerror {} at {}: {}", fault.code(), fault.offset, message(fault));
    }
    out
}

fn node_text(out: &mut String, node: &Node, depth: usize) {
    let indent = 2 * depth;
    let _ = write!(out, "\n{:>6} {:>5}  {:indent$}{}", node.offset, node.size, "", node.field);
    let value = match &node.value {
        None => None,
        Some(Scalar::Unsigned(value)) => Some(value.to_string()),
        Some(Scalar::Signed(value)) => Some(value.to_string()),
        Some(Scalar::Real(value)) => Some(value.to_string()),
        Some(Scalar::Boolean(value)) => Some(value.to_string()),
        Some(Scalar::Text(value)) => Some(printable(value)),
        Some(Scalar::Octets(value)) => Some(octets(value)),
        Some(_) => None,
    };
    if let Some(value) = value {
        let _ = write!(out, ": {value}");
    }
    if let Some(meaning) = &node.meaning {
        let _ = write!(out, "  ({})", printable(meaning));
    }
    node.children.iter().for_each(|child| node_text(out, child, depth + 1));
}

fn octets(bytes: &[u8]) -> String {
    match bytes.get(..OCTETS_SHOWN) {
        Some(shown) if bytes.len() > OCTETS_SHOWN => {
            format!("{}... {} bytes", hex::encode(shown), bytes.len())
        }
        _ => hex::encode(bytes),
    }
}
