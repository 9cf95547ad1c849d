"""TPM structures and recipes of docs/protocol/keys.md."""

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from . import crypto, must
from .crypto import hmac, same, sha256

STORAGE_EK = "20837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
PREFIX = {
    "ek": bytes.fromhex("0023000b000300b200" + STORAGE_EK + "00060080004300100003 0010"),
    "ek-rsa": bytes.fromhex("0001000b000300b200" + STORAGE_EK + "000600800043001008 0000000000"),
    "sto": bytes.fromhex("0023000b00030472000000060080004300100003 0010"),
    "ak": bytes.fromhex("0023000b00050472000000100018000b0003 0010"),
    "tls": bytes.fromhex("0023000b00040472000000100018000b0003 0010"),
    "sealed": bytes.fromhex("0008000b0000044000000010 0020"),
}
PREFIX["iak"] = PREFIX["ak"]
HIERARCHY = {"owner": bytes.fromhex("40000001"), "lockout": bytes.fromhex("4000000a")}
CHANGE_AUTH = bytes.fromhex("00000129")


def sized(data):
    return len(data).to_bytes(2, "big") + data


class Reader:
    """Reads a structure to its end; what does not fit has the caller's code."""

    def __init__(self, data, code):
        self.data, self.at, self.code = data, 0, code

    def take(self, count):
        must(self.at + count <= len(self.data), self.code, "structure is cut")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count, order="big"):
        return int.from_bytes(self.take(count), order)

    def sized(self):
        return self.take(self.number(2))

    def rest(self):
        return self.take(len(self.data) - self.at)

    def end(self):
        must(self.at == len(self.data), self.code, "bytes left over")


def name(public):
    return b"\x00\x0b" + sha256(public)


def public_area(kind, point):
    return PREFIX[kind] + sized(point[:32]) + sized(point[32:])


def point_of(kind, public, code):
    """x || y of a public area of exactly this kind."""
    must(public.startswith(PREFIX[kind]), code, f"{kind}: not the form of such a key")
    read = Reader(public[len(PREFIX[kind]) :], code)
    x, y = read.sized(), read.sized()
    read.end()
    must(len(x) <= 32 and len(y) <= 32, code, f"{kind}: coordinate")
    point = x.rjust(32, b"\x00") + y.rjust(32, b"\x00")
    must(crypto.on_curve(point), code, f"{kind}: not on the curve")
    return point


def spki(point):
    return bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004") + point


# ---- Derivation and sharing ----


def kdfa(key, label, u, v, bits):
    return hmac(key, b"\x00\x00\x00\x01", label.encode() + b"\x00", u, v, bits.to_bytes(4, "big"))[: bits // 8]


def kdfe(z, use, u, v):
    return sha256(b"\x00\x00\x00\x01", z, use.encode() + b"\x00", u, v)


def one_time_of(secret, code):
    """The point in an encrypted secret that was made for a P-256 key."""
    read = Reader(secret, code)
    inner = Reader(read.sized(), code)
    read.end()
    x, y = inner.sized(), inner.sized()
    inner.end()
    must(len(x) == len(y) == 32 and crypto.on_curve(x + y), code, "one-time point")
    return x + y


def encrypted_secret(one_time):
    return sized(sized(one_time[:32]) + sized(one_time[32:]))


def receive(use, scalar, secret, code):
    """The seed that whoever has the receiving private key gets."""
    one_time = one_time_of(secret, code)
    z = crypto.ecdh(scalar, one_time)
    return kdfe(z, use, one_time[:32], crypto.public_of(scalar)[:32])


def share(use, one_time_scalar, receiver):
    """Seed and encrypted secret, made by whoever has the one-time private key."""
    one_time = crypto.public_of(one_time_scalar)
    z = crypto.ecdh(one_time_scalar, receiver)
    return kdfe(z, use, one_time[:32], receiver[:32]), encrypted_secret(one_time)


def receive_rsa(use, p, q, secret):
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(65537, p * q)
    )
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), use.encode() + b"\x00")
    return numbers.private_key().decrypt(Reader(secret, "E_TPM").sized(), oaep)


# ---- Credentials and imports: the same outer wrapper ----


def _wrapper(seed, object_name):
    return kdfa(seed, "STORAGE", object_name, b"", 128), kdfa(seed, "INTEGRITY", b"", b"", 256)


def wrap(seed, object_name, plain):
    key, integrity = _wrapper(seed, object_name)
    encrypted = crypto.cfb(key, bytes(16), plain)
    return sized(sized(hmac(integrity, encrypted, object_name)) + encrypted)


def unwrap(seed, object_name, blob, code):
    outer = Reader(blob, code)
    inner = Reader(outer.sized(), code)
    outer.end()
    tag, encrypted = inner.sized(), inner.rest()
    key, integrity = _wrapper(seed, object_name)
    must(same(tag, hmac(integrity, encrypted, object_name)), code, "integrity")
    return crypto.cfb(key, bytes(16), encrypted, decrypt=True)


def make_credential(seed, object_name, credential):
    return wrap(seed, object_name, sized(credential))


def activate_credential(scalar, object_name, blob, secret):
    plain = Reader(unwrap(receive("IDENTITY", scalar, secret, "E_TPM"), object_name, blob, "E_TPM"), "E_TPM")
    credential = plain.sized()
    plain.end()
    return credential


def sealed_public(seed_value, secret):
    return PREFIX["sealed"] + sha256(seed_value, secret)


def make_duplicate(seed, seed_value, secret):
    """Public area and duplicate of one delivered secret."""
    public = sealed_public(seed_value, secret)
    sensitive = b"\x00\x08" + sized(b"") + sized(seed_value) + sized(secret)
    return public, wrap(seed, name(public), sized(sensitive))


def import_object(scalar, public, duplicate, secret_seed):
    """Seed value and secret, as the TPM that has STO takes them in."""
    seed = receive("DUPLICATE", scalar, secret_seed, "E_OBJECT")
    outer = Reader(unwrap(seed, name(public), duplicate, "E_OBJECT"), "E_OBJECT")
    read = Reader(outer.sized(), "E_OBJECT")
    outer.end()
    must(read.take(2) == b"\x00\x08" and read.sized() == b"", "E_OBJECT", "sensitive area")
    seed_value, secret = read.sized(), read.sized()
    read.end()
    must(sealed_public(seed_value, secret) == public, "E_OBJECT", "public and sensitive area differ")
    return seed_value, secret


# ---- Tunnelled HierarchyChangeAuth ----


@dataclass
class Tunnel:
    """A salted session, from either end."""

    hierarchy: str
    handle: int
    salt: bytes
    nonce_caller: bytes
    nonce_tpm: bytes
    auth: bytes = b""

    @property
    def session_key(self):
        return kdfa(self.salt, "ATH", self.nonce_tpm, self.nonce_caller, 256)

    def _keystream(self, fresh):
        both = kdfa(self.session_key + self.auth, "CFB", fresh, self.nonce_tpm, 256)
        return both[:16], both[16:]

    def _mac(self, fresh, attributes, parameter):
        parameters = sha256(CHANGE_AUTH, HIERARCHY[self.hierarchy], parameter)
        return hmac(self.session_key + self.auth, parameters, fresh, self.nonce_tpm, attributes)

    def command(self, fresh, new_auth, attributes=b"\x20"):
        parameter = sized(crypto.cfb(*self._keystream(fresh), new_auth))
        mac = self._mac(fresh, attributes, parameter)
        session = self.handle.to_bytes(4, "big") + sized(fresh) + attributes + sized(mac)
        head = b"\x80\x02" + (109).to_bytes(4, "big") + CHANGE_AUTH + HIERARCHY[self.hierarchy]
        return head + len(session).to_bytes(4, "big") + session + parameter

    def execute(self, command):
        """What the TPM does: the nonce of the caller, the attributes and the new authorisation."""
        hierarchy, handle, fresh, attributes, mac, parameter = parse_command(command)
        must(hierarchy == self.hierarchy and handle == self.handle, "E_COMMAND", "another session")
        must(same(mac, self._mac(fresh, attributes, parameter)), "E_TPM", "HMAC of the command")
        return fresh, attributes, crypto.cfb(*self._keystream(fresh), parameter[2:], decrypt=True)

    def response(self, fresh, new_auth, nonce_tpm, attributes):
        """The response that proves the change."""
        result = sha256(bytes(4), CHANGE_AUTH)
        mac = hmac(self.session_key + new_auth, result, nonce_tpm, fresh, attributes)
        body = bytes(4) + sized(nonce_tpm) + attributes + sized(mac)
        return b"\x80\x02" + (len(body) + 10).to_bytes(4, "big") + bytes(4) + body

    def proves(self, response, fresh, new_auth):
        read = Reader(response, "E_TPM")
        must(read.take(2) == b"\x80\x02" and read.number(4) == len(response), "E_TPM", "head of the response")
        must(read.take(8) == bytes(8), "E_TPM", "response code")
        nonce_tpm, attributes, mac = read.sized(), read.take(1), read.sized()
        read.end()
        expected = hmac(self.session_key + new_auth, sha256(bytes(4), CHANGE_AUTH), nonce_tpm, fresh, attributes)
        must(same(mac, expected), "E_TPM", "HMAC of the response")
        return nonce_tpm, attributes


def parse_command(command):
    """The allow-list of a device: hierarchy, handle, nonce, attributes, HMAC, parameter."""
    read = Reader(command, "E_COMMAND")
    must(read.take(2) == b"\x80\x02" and read.number(4) == len(command), "E_COMMAND", "tag or size")
    must(read.take(4) == CHANGE_AUTH, "E_COMMAND", "another command")
    handle = read.take(4)
    found = [word for word, value in HIERARCHY.items() if value == handle]
    must(found, "E_COMMAND", "another hierarchy")
    area = Reader(read.take(read.number(4)), "E_COMMAND")
    session = area.take(4)
    must(session[0] == 2, "E_COMMAND", "not an HMAC session")
    fresh, attributes, mac = area.sized(), area.take(1), area.sized()
    area.end()
    must(attributes in (b"\x20", b"\x21") and len(mac) == 32, "E_COMMAND", "attributes or HMAC")
    parameter = read.rest()
    must(2 <= len(parameter) <= 34 and parameter == sized(parameter[2:]), "E_COMMAND", "parameter")
    return found[0], int.from_bytes(session, "big"), fresh, attributes, mac, parameter


# ---- Statements ----


@dataclass
class Statement:
    """TPMS_ATTEST of Certify or Quote."""

    kind: int
    signer: bytes
    extra: bytes
    clock: bytes
    safe: int
    firmware: bytes
    name: bytes = b""
    qualified: bytes = b""
    selection: bytes = b""
    digest: bytes = b""

    @classmethod
    def parse(cls, data, code):
        read = Reader(data, code)
        must(read.take(4) == b"\xffTCG", code, "magic")
        kind = read.number(2)
        must(kind in (0x8017, 0x8018), code, "type")
        made = cls(kind, read.sized(), read.sized(), read.take(16), read.number(1), read.take(8))
        must(made.safe in (0, 1), code, "safe")
        if kind == 0x8017:
            made.name, made.qualified = read.sized(), read.sized()
        else:
            start = read.at
            for _ in range(read.number(4)):
                read.take(2)
                read.take(read.number(1))
            made.selection = data[start : read.at]
            made.digest = read.sized()
        read.end()
        return made

    def encode(self):
        head = b"\xffTCG" + self.kind.to_bytes(2, "big") + sized(self.signer) + sized(self.extra)
        head += self.clock + bytes([self.safe]) + self.firmware
        if self.kind == 0x8017:
            return head + sized(self.name) + sized(self.qualified)
        return head + self.selection + sized(self.digest)


def signature(r_s):
    return bytes.fromhex("0018000b") + sized(r_s[:32]) + sized(r_s[32:])


def verify_statement(kind, pair, attestation_key, extra, code):
    """A statement that is right, up to what it is about."""
    data, signed = pair
    made = Statement.parse(data, code)
    must(made.kind == kind, code, "another type of statement")
    must(same(made.extra, extra), code, "qualifying data")
    read = Reader(signed, code)
    must(read.take(4) == bytes.fromhex("0018000b"), code, "signature scheme")
    r, s = read.sized(), read.sized()
    read.end()
    must(1 <= len(r) <= 32 and 1 <= len(s) <= 32, code, "signature size")
    whole = r.rjust(32, b"\x00") + s.rjust(32, b"\x00")
    must(crypto.verifies(attestation_key, data, whole), code, "signature")
    return made


def pcr_selection(pcrs):
    bits = bytearray(3)
    for pcr in pcrs:
        bits[pcr // 8] |= 1 << pcr % 8
    return bytes.fromhex("00000001000b03") + bytes(bits)
