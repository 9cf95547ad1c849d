"""Deterministic CBOR in the one form of docs/protocol.md, "Encodings". Maps are dicts, in the order of the wire."""

from . import Refused

DEEPEST = 8


def encode(item):
    if item is None or isinstance(item, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[item]
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        text = item.encode()
        return head(3, len(text)) + text
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(map(encode, item))
    pairs = sorted((encode(key), encode(value)) for key, value in item.items())
    return head(5, len(pairs)) + b"".join(key + value for key, value in pairs)


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    size = next(size for size in (1, 2, 4, 8) if number < 1 << 8 * size)
    return bytes([major << 5 | 24 + size.bit_length() - 1]) + number.to_bytes(size, "big")


def decode(data):
    """The one item in `data`; Refused("E_FORMAT") for any other form than the deterministic one."""
    item, end = _item(data, 0, 0)
    if end != len(data):
        raise Refused("E_FORMAT", "bytes after the item")
    return item


def _head(data, at):
    if at >= len(data):
        raise Refused("E_FORMAT", "ends early")
    major, low = data[at] >> 5, data[at] & 31
    if low < 24:
        return major, low, at + 1
    if low > 27:
        raise Refused("E_FORMAT", "indefinite or reserved length")
    size = 1 << low - 24
    number = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    if at + 1 + size > len(data) or (number < 24 if size == 1 else number < 1 << 4 * size):
        raise Refused("E_FORMAT", "head is cut or not the shortest")
    return major, number, at + 1 + size


def _item(data, at, depth):
    major, number, body = _head(data, at)
    if major == 0:
        return number, body
    if major == 1:
        return -1 - number, body
    if major in (2, 3):
        if number > len(data) - body:
            raise Refused("E_FORMAT", "string is cut")
        content = data[body : body + number]
        return (content if major == 2 else _text(content)), body + number
    if major in (4, 5):
        if depth == DEEPEST:
            raise Refused("E_FORMAT", "nested too deep")
        return (_array if major == 4 else _map)(data, number, body, depth + 1)
    if data[at] in (0xF4, 0xF5, 0xF6):
        return {0xF4: False, 0xF5: True, 0xF6: None}[data[at]], body
    raise Refused("E_FORMAT", "tag, float or other simple value")


def _text(content):
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refused("E_FORMAT", "text is not UTF-8") from None


def _array(data, count, at, depth):
    items = []
    for _ in range(count):
        item, at = _item(data, at, depth)
        items.append(item)
    return items, at


def _map(data, count, at, depth):
    members, last = {}, b""
    for _ in range(count):
        key, end = _item(data, at, depth)
        if data[at:end] <= last:
            raise Refused("E_FORMAT", "keys do not ascend")
        if not isinstance(key, int) or isinstance(key, bool) or key == 0:
            raise Refused("E_FORMAT", "key is not an integer, or 0")
        last = data[at:end]
        members[key], at = _item(data, end, depth)
    return members, at
