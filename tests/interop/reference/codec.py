"""A-XDR values, BER fields and the DLMS length rule."""

import struct
from typing import NamedTuple

NULL, ARRAY, STRUCTURE, BOOLEAN, BITS, OCTETS, COMPACT = 0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0x13
I8, I16, U8, U16, U32, ENUM = 0x0F, 0x10, 0x11, 0x12, 0x06, 0x16
INTEGERS = {  # tag: (octets, signed); 1C to 21 are deltas
    0x05: (4, True), 0x06: (4, False), 0x0D: (1, False), 0x0F: (1, True), 0x10: (2, True), 0x11: (1, False),
    0x12: (2, False), 0x14: (8, True), 0x15: (8, False), 0x16: (1, False), 0x1C: (1, True), 0x1D: (2, True),
    0x1E: (4, True), 0x1F: (1, False), 0x20: (2, False), 0x21: (4, False),
}  # fmt: skip
FLOATS = {0x17: ">f", 0x18: ">d"}
STRINGS = {0x09, 0x0A, 0x0C}
TIMES = {0x19: 12, 0x1A: 5, 0x1B: 4}
DEEPEST = 16


class Malformed(ValueError):
    """The bytes are not what they should be."""


class Data(NamedTuple):
    """One value: its tag, and a number, bool, bytes, list of Data, or (bits, bytes) of a bit-string."""

    tag: int
    value: object = None


def octets(value: bytes) -> Data:
    return Data(OCTETS, value)


def structure(*parts: Data) -> Data:
    return Data(STRUCTURE, list(parts))


class Reader:
    """Takes fields off the front of bytes; never reads past their end."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise Malformed(f"{count} octets wanted at {self.at} of {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "big")

    def length(self) -> int:
        first = self.uint()
        return first if first < 0x80 else self.uint(first & 0x7F)

    def field(self) -> bytes:
        return self.take(self.length())

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed(f"{len(self.data) - self.at} octets too many")

    def expect(self, wanted: bytes) -> None:
        if self.take(len(wanted)) != wanted:
            raise Malformed(f"not {wanted.hex()}")


def length(count: int) -> bytes:
    if count < 0x80:
        return bytes([count])
    body = count.to_bytes((count.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(body)]) + body


def field(content: bytes) -> bytes:
    return length(len(content)) + content


def encode(data: Data) -> bytes:
    tag, value = data
    if tag == NULL:
        body = b""
    elif tag in (ARRAY, STRUCTURE):
        body = length(len(value)) + b"".join(map(encode, value))
    elif tag == BOOLEAN:
        body = bytes([1 if value else 0])
    elif tag == BITS:
        body = length(value[0]) + value[1]
    elif tag in INTEGERS:
        size, signed = INTEGERS[tag]
        body = value.to_bytes(size, "big", signed=signed)
    elif tag in FLOATS:
        body = struct.pack(FLOATS[tag], value)
    elif tag in STRINGS:
        body = field(value)
    elif tag in TIMES and len(value) == TIMES[tag]:
        body = value
    else:
        raise Malformed(f"no encoding for tag {tag:02X}")
    return bytes([tag]) + body


def decode(reader: Reader, depth: int = 0) -> Data:
    tag = reader.uint()
    if depth > DEEPEST:
        raise Malformed("too deep")
    if tag in (ARRAY, STRUCTURE):
        count = reader.length()
        if count > len(reader.data) - reader.at:
            raise Malformed("more elements than octets")
        return Data(tag, [decode(reader, depth + 1) for _ in range(count)])
    if tag == COMPACT:
        shape = describe(reader, depth + 1)
        contents, rows = Reader(reader.field()), []
        while contents.at < len(contents.data):
            start = contents.at
            rows.append(untagged(contents, shape))
            if contents.at == start:
                raise Malformed("elements of no size")
        return Data(ARRAY, rows)
    return untagged(reader, (tag, None))


def describe(reader: Reader, depth: int) -> tuple:
    """A type description of a compact array: (tag, None) or (tag, element shapes)."""
    tag = reader.uint()
    if depth > DEEPEST:
        raise Malformed("too deep")
    if tag == ARRAY:
        count = reader.uint(2)
        return tag, [describe(reader, depth + 1)] * count
    if tag == STRUCTURE:
        return tag, [describe(reader, depth + 1) for _ in range(reader.length())]
    return tag, None


def untagged(reader: Reader, shape: tuple) -> Data:
    tag, parts = shape
    if parts is not None:
        return Data(tag, [untagged(reader, part) for part in parts])
    if tag in (NULL, 0xFF):
        return Data(tag)
    if tag == BOOLEAN:
        return Data(tag, reader.uint() != 0)
    if tag == BITS:
        bits = reader.length()
        return Data(tag, (bits, reader.take((bits + 7) // 8)))
    if tag in INTEGERS:
        size, signed = INTEGERS[tag]
        return Data(tag, int.from_bytes(reader.take(size), "big", signed=signed))
    if tag in FLOATS:
        return Data(tag, struct.unpack(FLOATS[tag], reader.take(struct.calcsize(FLOATS[tag])))[0])
    if tag in STRINGS:
        return Data(tag, reader.field())
    if tag in TIMES:
        return Data(tag, reader.take(TIMES[tag]))
    raise Malformed(f"unknown tag {tag:02X}")


def whole(data: bytes) -> Data:
    reader = Reader(data)
    value = decode(reader)
    reader.end()
    return value


def obis(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


# BER, as far as an association needs it: tags of one octet.


def ber(tag: int, *parts: bytes) -> bytes:
    return bytes([tag]) + field(b"".join(parts))


def ber_fields(content: bytes) -> dict[int, bytes]:
    reader, found = Reader(content), {}
    while reader.at < len(content):
        tag = reader.uint()
        if tag in found:
            raise Malformed(f"field {tag:02X} twice")
        found[tag] = reader.field()
    return found


def inner(content: bytes, tag: int) -> bytes:
    """The content of the one field of `tag` that `content` is."""
    reader = Reader(content)
    reader.expect(bytes([tag]))
    value = reader.field()
    reader.end()
    return value


OID = bytes.fromhex("6085740508")
CONFORMANCE = 0x405A1D  # general protection, priority, blocks of GET and SET, lists, GET, SET, selective access, ACTION


def associate_request(context: int, mechanism: int, value: bytes, title: bytes, initiate: bytes) -> bytes:
    parts = [ber(0xA1, ber(0x06, OID, bytes([1, context])))]
    if title:
        parts.append(ber(0xA6, ber(0x04, title)))
    if mechanism:
        parts.append(bytes.fromhex("8A020780") + ber(0x8B, OID, bytes([2, mechanism])))
        parts.append(ber(0xAC, ber(0x80, value)))
    return ber(0x60, *parts, ber(0xBE, ber(0x04, initiate)))


def associate_response(
    context: int, result: int, diagnostic: int, title: bytes, mechanism: int, value: bytes, initiate: bytes
) -> bytes:
    parts = [ber(0xA1, ber(0x06, OID, bytes([1, context]))), bytes.fromhex("A2030201") + bytes([result])]
    parts.append(ber(0xA3, bytes.fromhex("A1030201") + bytes([diagnostic])))
    if title:
        parts.append(ber(0xA4, ber(0x04, title)))
    if value:
        parts.append(bytes.fromhex("88020780") + ber(0x89, OID, bytes([2, mechanism])) + ber(0xAA, ber(0x80, value)))
    return ber(0x61, *parts, ber(0xBE, ber(0x04, initiate)) if initiate else b"")


def release(tag: int, initiate: bytes) -> bytes:
    return ber(tag, bytes.fromhex("800100"), ber(0xBE, ber(0x04, initiate)) if initiate else b"")


def initiate_request(max_pdu: int, dedicated: bytes = b"") -> bytes:
    key = b"\x01" + field(dedicated) if dedicated else b"\x00"
    return b"\x01" + key + bytes.fromhex("0000065F1F0400") + CONFORMANCE.to_bytes(3, "big") + max_pdu.to_bytes(2, "big")


def parse_initiate_request(apdu: bytes) -> tuple[bytes, int, int]:
    """Dedicated key, conformance and maximum PDU."""
    reader = Reader(apdu)
    reader.expect(b"\x01")
    dedicated = reader.field() if reader.uint() else b""
    if reader.uint():  # response-allowed, default true
        reader.uint()
    if reader.uint():  # quality of service
        reader.uint()
    reader.expect(bytes.fromhex("065F1F0400"))
    conformance, max_pdu = reader.uint(3), reader.uint(2)
    reader.end()
    return dedicated, conformance, max_pdu


def initiate_response(max_pdu: int, conformance: int) -> bytes:
    return bytes.fromhex("0800065F1F0400") + conformance.to_bytes(3, "big") + max_pdu.to_bytes(2, "big") + b"\x00\x07"


def parse_initiate_response(apdu: bytes) -> tuple[int, int]:
    reader = Reader(apdu)
    reader.expect(b"\x08")
    if reader.uint():
        reader.uint()
    reader.expect(bytes.fromhex("065F1F0400"))
    conformance, max_pdu = reader.uint(3), reader.uint(2)
    reader.expect(b"\x00\x07")
    reader.end()
    return conformance, max_pdu
