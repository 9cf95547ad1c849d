"""PKCS#10 of the TLS key and the certificate that answers it: docs/protocol/keys.md, "Certificate request"."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from . import crypto, must, tpm

ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
HARDWARE_MODULE = "1.3.6.1.5.5.7.8.4"


def der(tag, content):
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def _integer(value):
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def request(serial, tls_scalar):
    """The request as a device makes it."""
    info = _info(serial.encode(), crypto.public_of(tls_scalar))
    return _signed(info, crypto.sign(tls_scalar, info))


def _info(common_name, point):
    name = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403") + der(0x0C, common_name))))
    return der(0x30, _integer(0) + name + tpm.spki(point) + b"\xa0\x00")


def _signed(info, signature):
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    return der(0x30, info + ECDSA_SHA256 + der(3, b"\x00" + utils.encode_dss_signature(r, s)))


def _content(read, tag):
    must(read.number(1) == tag, "E_CSR", "tag")
    size = read.number(1)
    return read.take(size if size < 128 else read.number(size - 128))


def check_request(data, tls_point):
    """A request of exactly the page's form for this key, whatever its common name: that is for people."""
    must(len(data) <= 2048, "E_CSR", "size")
    read = tpm.Reader(_content(tpm.Reader(data, "E_CSR"), 0x30), "E_CSR")
    inner = tpm.Reader(_content(read, 0x30), "E_CSR")
    must(_content(inner, 2) == b"\x00", "E_CSR", "version")
    name = inner
    for tag in (0x30, 0x31, 0x30):
        name = tpm.Reader(_content(name, tag), "E_CSR")
    _content(name, 6)
    common_name = _content(name, 0x0C)
    must(len(common_name) <= 64, "E_CSR", "common name")
    _content(read, 0x30)
    bits = tpm.Reader(_content(read, 3)[1:], "E_CSR")
    pair = tpm.Reader(_content(bits, 0x30), "E_CSR")
    r, s = (_content(pair, 2)[-32:].rjust(32, b"\x00") for _ in range(2))
    info = _info(common_name, tls_point)
    must(data == _signed(info, r + s), "E_CSR", "another form or another key")
    must(crypto.verifies(tls_point, info, r + s), "E_CSR", "signature")


def _point(key):
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def key_of(certificate, code):
    """x || y of the key in a certificate."""
    try:
        return _point(x509.load_der_x509_certificate(certificate).public_key())
    except (ValueError, AttributeError):
        must(False, code, "not a certificate on P-256")


def signed_by(certificate, issuer_key):
    """True when the key signed the certificate (or revocation list)."""
    data = getattr(certificate, "tbs_certificate_bytes", None) or certificate.tbs_certlist_bytes
    try:
        if isinstance(issuer_key, rsa.RSAPublicKey):
            issuer_key.verify(certificate.signature, data, padding.PKCS1v15(), certificate.signature_hash_algorithm)
        else:
            issuer_key.verify(certificate.signature, data, ec.ECDSA(certificate.signature_hash_algorithm))
    except InvalidSignature:
        return False
    return True


def check_chain(chain, root, model, serial, tls_point, issuing_point, root_point):
    """(what, whether it holds) of the chain in C6."""
    leaf, issuing, anchor = (x509.load_der_x509_certificate(data) for data in (*chain, root))
    attributes = [(entry.oid, entry.value) for entry in leaf.subject]
    get = leaf.extensions.get_extension_for_oid
    usage = get(ExtensionOID.KEY_USAGE).value
    extended = get(ExtensionOID.EXTENDED_KEY_USAGE).value
    others = [entry for entry in get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value]
    # Older releases of the package have the names without `_utc` only.
    times = ("not_valid_before", "not_valid_after")
    begins, ends = (getattr(leaf, f"{time}_utc", None) or getattr(leaf, time) for time in times)
    years = (ends - begins).days / 365.25
    return [
        ("key of the certificate", _point(leaf.public_key()) == tls_point),
        ("key of the issuing authority", _point(issuing.public_key()) == issuing_point),
        ("key of the root", _point(anchor.public_key()) == root_point),
        ("signature of the certificate", signed_by(leaf, issuing.public_key()) and leaf.issuer == issuing.subject),
        ("signature of the authority", signed_by(issuing, anchor.public_key()) and issuing.issuer == anchor.subject),
        ("signature of the root", signed_by(anchor, anchor.public_key()) and anchor.issuer == anchor.subject),
        ("algorithms", all(isinstance(c.signature_hash_algorithm, hashes.SHA256) for c in (leaf, issuing, anchor))),
        ("subject", attributes == [(NameOID.ORGANIZATIONAL_UNIT_NAME, model), (NameOID.SERIAL_NUMBER, serial)]),
        ("keyUsage", usage.digital_signature and not usage.key_cert_sign and not usage.key_agreement),
        ("extendedKeyUsage", list(extended) == [ExtendedKeyUsageOID.CLIENT_AUTH]),
        ("hardwareModuleName", len(others) == 1 and isinstance(others[0], x509.OtherName)
            and others[0].type_id.dotted_string == HARDWARE_MODULE and others[0].value.endswith(serial.encode())),
        ("validity", 0 < years <= 8.01),
    ]
