"""COSE as docs/protocol.md and papers.md narrow it: keys, COSE_Sign1, document hashes, COSE_Encrypt of deliveries."""

from . import Refused, cbor, crypto, must


def key(point):
    return {1: 2, -1: 1, -2: point[:32], -3: point[32:]}


def point(cose_key, code):
    found = cose_key[-2] + cose_key[-3]
    must(crypto.on_curve(found), code, "point is not on the curve")
    return found


def key_id(point_bytes):
    return crypto.sha256(cbor.encode(key(point_bytes)))


def protected(signer_id):
    return cbor.encode({1: -7, 4: signer_id})


def to_be_signed(header, kind, payload):
    return cbor.encode(["Signature1", header, kind.encode(), payload])


def sign1(scalar, kind, payload):
    """The encoded COSE_Sign1."""
    header = protected(key_id(crypto.public_of(scalar)))
    signature = crypto.sign(scalar, to_be_signed(header, kind, payload))
    return cbor.encode([header, {}, payload, signature])


def parts(signed):
    """Header, payload and signature of an encoded COSE_Sign1; `E_FORMAT` where it is none."""
    item = cbor.decode(signed)
    fits = (
        isinstance(item, list) and len(item) == 4 and isinstance(item[0], bytes) and len(item[0]) == 38
        and item[0].startswith(bytes.fromhex("a20126045820")) and item[1] == {} and isinstance(item[2], bytes)
        and len(item[2]) <= 65536 and isinstance(item[3], bytes) and len(item[3]) == 64
    )
    must(fits, "E_FORMAT", "not a COSE_Sign1")
    return item[0], item[2], item[3]


def signer_id(signed):
    return parts(signed)[0][6:]


def payload(signed):
    return parts(signed)[1]


def verify(signed, kind, signer, code):
    """The payload, when `signer` (x || y) signed it as `kind`."""
    header, content, signature = parts(signed)
    must(header[6:] == key_id(signer), code, f"{kind}: another signer's id")
    must(crypto.verifies(signer, to_be_signed(header, kind, content), signature), code, f"{kind}: signature")
    return content


def document_hash(kind, content):
    return crypto.sha256(kind.encode(), content)


# ---- Delivery records ----

DELIVERY_INFO = cbor.encode([3, [None, None, None], [None, None, None], [256, b"\xa1\x01\x38\x18"]])


def delivery_aad(kind):
    return cbor.encode(["Encrypt", b"\xa1\x01\x03", kind.encode()])


def delivery_open(scalar, record, kind):
    nonce, ciphertext, [[_, recipient, _]] = record[1][5], record[2], record[3]
    must(recipient[4] == key_id(crypto.public_of(scalar)), "E_LABEL", "another recipient")
    shared = crypto.ecdh(scalar, point(recipient[-1], "E_LABEL"))
    content_key = crypto.hkdf(shared, DELIVERY_INFO)
    return crypto.gcm_open(content_key, nonce, delivery_aad(kind), ciphertext, "E_LABEL")


def delivery_seal(shared, recipient, one_time, nonce, kind, plain):
    """A record for the key id `recipient`; `shared` is the x coordinate that both sides get with `one_time`."""
    box = crypto.gcm_seal(crypto.hkdf(shared, DELIVERY_INFO), nonce, delivery_aad(kind), plain)
    header = {4: recipient, -1: key(one_time)}
    return [b"\xa1\x01\x03", {5: nonce}, box, [[b"\xa1\x01\x38\x18", header, b""]]]


def format_error(code, action, *arguments):
    """Runs `action`; whatever it refuses has this code."""
    try:
        return action(*arguments)
    except Refused as refused:
        raise Refused(code, str(refused)) from None
