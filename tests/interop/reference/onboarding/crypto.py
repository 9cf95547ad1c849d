"""Primitives: hashes, AES, P-256 and, where the package knows it, ML-DSA-65.

Everything but AES, curve arithmetic and ML-DSA is written out; deterministic ECDSA (RFC 6979) is, too, because older
releases of `cryptography` do not offer it.
"""

import functools
import hashlib
import hmac as _hmac

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from . import Refused

try:
    from cryptography.hazmat.primitives.asymmetric import mldsa
except ImportError:
    mldsa = None

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hmac(key, *parts):
    return _hmac.digest(key, b"".join(parts), "sha256")


def same(left, right):
    return _hmac.compare_digest(left, right)


def gcm_seal(key, nonce, aad, plain):
    return AESGCM(key).encrypt(nonce, plain, aad)


def gcm_open(key, nonce, aad, box, code):
    try:
        return AESGCM(key).decrypt(nonce, box, aad)
    except InvalidTag:
        raise Refused(code, "box does not open") from None


def cfb(key, iv, data, decrypt=False):
    """AES-128-CFB with whole blocks of feedback; the last may be short."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update
    out, feedback = b"", iv
    for at in range(0, len(data), 16):
        given = data[at : at + 16]
        made = bytes(left ^ right for left, right in zip(given, block(feedback)))
        feedback = given if decrypt else made
        out += made
    return out


def hkdf(secret, info, size=32):
    key, block, out = hmac(bytes(32), secret), b"", b""
    while len(out) < size:
        block = hmac(key, block, info, bytes([len(out) // 32 + 1]))
        out += block
    return out[:size]


# ---- P-256: private keys are 32 bytes, public keys x || y ----


def public_of(scalar):
    numbers = _private(scalar).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def on_curve(point):
    try:
        return len(point) == 64 and bool(_public(point))
    except ValueError:
        return False


def ecdh(scalar, point):
    return _private(scalar).exchange(ec.ECDH(), _public(point))


def sign(scalar, message):
    """r || s of deterministic ECDSA with SHA-256."""
    digest, private = sha256(message), int.from_bytes(scalar, "big")
    z = int.from_bytes(digest, "big")
    seed = scalar + (z % ORDER).to_bytes(32, "big")
    key, value = bytes(32), b"\x01" * 32
    for separator in (b"\x00", b"\x01"):
        key = hmac(key, value, separator, seed)
        value = hmac(key, value)
    while True:
        value = hmac(key, value)
        k = int.from_bytes(value, "big")
        if 0 < k < ORDER:
            r = int.from_bytes(public_of(value)[:32], "big") % ORDER
            s = pow(k, -1, ORDER) * (z + r * private) % ORDER
            if r and s:
                return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        key = hmac(key, value, b"\x00")
        value = hmac(key, value)


def verifies(point, message, signature):
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        _public(point).verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


@functools.lru_cache(256)
def _private(scalar):
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())


@functools.lru_cache(256)
def _public(point):
    x, y = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


# ---- ML-DSA-65: pure, empty context ----


def ml_dsa_verifies(public, message, signature):
    """None where the package cannot tell."""
    if mldsa is None:
        return None
    try:
        mldsa.MLDSA65PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def ml_dsa_public(seed):
    return mldsa.MLDSA65PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw() if mldsa else None
