"""The security setup of our meter from outside: an owner's certificates, agreement on keys, keys under a new master key.

Client, key agreement and derivation are the reference's (`reference`), certificates those of Python's cryptography; nothing
of the crates is used. Run it with GRIDSEAL naming the program, in the folder of this file:

    python3 dlms_setup.py
"""

import datetime
import os
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dlms_lab import CLIENT_TITLE, SERVER_TITLE, Keys, Report, meter
from reference import codec, security
from reference.client import Client, Denied
from reference.codec import Data, octets, structure
from reference.link import Lab
from reference.security import SUITES, Refused

SETUP = codec.obis("0.0.43.0.0.255")
CLOCK = codec.obis("0.0.1.0.0.255")
GUEK, GAK, KEK = 0, 2, 3


def enum(number: int) -> Data:
    return Data(0x16, number)


def lab_text(suite: int, keys: tuple[bytes, bytes, bytes], counter: int) -> str:
    guek, gak, kek = (key.hex() for key in keys)
    return (
        f"danger_test_keys = true\nsuite = {suite}\nmechanism = 5\ntrusted_clock = true\nmax_pdu = 2048\n"
        f'[client]\nsystem_title = "{CLIENT_TITLE}"\ninvocation_counter = {counter}\n'
        f'[server]\nsystem_title = "{SERVER_TITLE}"\ninvocation_counter = 5000\n'
        f'[keys]\nguek = "{guek}"\ngak = "{gak}"\nkek = "{kek}"\n'
    )


class Authority:
    """Issues certificates on one curve."""

    def __init__(self, suite: int, name: str):
        self.suite, self.name = SUITES[suite], x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(self.suite.curve())

    def issue(self, subject: x509.Name, key, usage: set[str], days: tuple[int, int] = (-1, 30)) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        kinds = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        kinds += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        builder = x509.CertificateBuilder(self.name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(now + datetime.timedelta(days[0]))
        builder = builder.not_valid_after(now + datetime.timedelta(days[1]))
        builder = builder.add_extension(x509.KeyUsage(**{kind: kind in usage for kind in kinds}), True)
        if "key_cert_sign" in usage:
            builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        return builder.sign(self.key, self.suite.hash()).public_bytes(serialization.Encoding.DER)

    def root(self, days: tuple[int, int] = (-1, 30)) -> bytes:
        return self.issue(self.name, self.key.public_key(), {"key_cert_sign", "crl_sign"}, days)

    def party(self, title: str, key, usage: set[str], days: tuple[int, int] = (-1, 30)) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        return self.issue(subject, key, usage, days)


def refused(step) -> bool:
    try:
        step()
    except Denied:
        return True
    return False


def imports(client: Client, der: bytes) -> None:
    client.action(64, SETUP, 6, octets(der))


def certify(report: Report, client: Client, suite: int, owner: Authority) -> bytes:
    """Certificates for the meter's own pairs; gives the point of its signing key."""
    point = b""
    for kind, usage in enumerate([{"digital_signature"}, {"key_agreement"}, {"digital_signature", "key_agreement"}]):
        client.action(64, SETUP, 4, enum(kind))
        request = x509.load_der_x509_csr(client.action(64, SETUP, 5, enum(kind)).value)
        named = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        is_right = request.is_signature_valid and named.upper() == SERVER_TITLE
        report.say(f"suite {suite}: request {kind} proves possession and names the meter", is_right)
        der = owner.party(SERVER_TITLE, request.public_key(), usage)
        imports(client, der)
        name = structure(enum(0), structure(enum(0), enum(kind), octets(bytes.fromhex(SERVER_TITLE))))
        report.say(f"suite {suite}: certificate {kind} comes back", client.action(64, SETUP, 7, name).value == der)
        numbers = request.public_key().public_numbers()
        size = SUITES[suite].coordinate
        point = point or b"".join(n.to_bytes(size, "big") for n in (numbers.x, numbers.y))
    return point


def key_data(suite: int, scalar: bytes, key_id: int, signer: bytes) -> bytes:
    point = security.public_of(SUITES[suite], scalar)
    return point + security.sign(SUITES[suite], signer, bytes([key_id]) + point)


def agrees(client: Client, suite: int, signer: bytes, server_point: bytes, ids: list[int]) -> list[bytes]:
    """Keys that both sides have afterwards."""
    size, parties = SUITES[suite].coordinate, (bytes.fromhex(CLIENT_TITLE), bytes.fromhex(SERVER_TITLE))
    scalars = [bytes([0] * 8) + os.urandom(size - 8) for _ in ids]
    offers = [structure(enum(i), octets(key_data(suite, s, i, signer))) for i, s in zip(ids, scalars)]
    answer = client.action(64, SETUP, 3, Data(1, offers))
    keys = []
    for key_id, scalar, entry in zip(ids, scalars, answer.value):
        told, data = entry.value[0].value, entry.value[1].value
        if told != key_id or len(data) != 4 * size:
            raise Refused("another key, or another size")
        point, signature = data[: 2 * size], data[2 * size :]
        security.verify(SUITES[suite], server_point, bytes([key_id]) + point, signature)
        secret = security.agree(SUITES[suite], scalar, point)
        keys.append(security.derive(suite, secret, *parties, wraps=key_id == KEK))
    return keys


def lies(report: Report, client: Client, suite: int, signer: bytes, owner: Authority) -> None:
    """Everything that is refused."""
    size = SUITES[suite].coordinate
    scalar = bytes([0] * 8) + os.urandom(size - 8)
    good = key_data(suite, scalar, GUEK, signer)
    point, signature = good[: 2 * size], good[2 * size :]
    stranger = bytes([0] * 8) + os.urandom(size - 8)
    der = security.private(SUITES[suite], signer).sign(bytes([GUEK]) + point, ec.ECDSA(SUITES[suite].hash()))
    own = security.public_of(SUITES[suite], signer)
    offers = {
        "a point off the curve": point[:-1] + bytes([point[-1] ^ 1]) + signature,
        "the zero point": bytes(2 * size) + signature,
        "a signature cut short": good[:-1],
        "DER in place of raw": point + der,
        "another signer": key_data(suite, scalar, GUEK, stranger),
        "a signature for another key": key_data(suite, scalar, GAK, signer),
        "the static key": own + security.sign(SUITES[suite], signer, bytes([GUEK]) + own),
    }
    for what, data in offers.items():
        offer = Data(1, [structure(enum(GUEK), octets(data))])
        report.say(f"suite {suite}: {what} is refused", refused(lambda: client.action(64, SETUP, 3, offer)))
    key = security.private(SUITES[suite], stranger).public_key()
    other, weak = Authority(suite, "stranger"), Authority(1 if suite == 2 else 2, "owner")
    certificates = {
        "of an unknown issuer": other.party(CLIENT_TITLE, key, {"digital_signature"}),
        "that is over": owner.party(CLIENT_TITLE, key, {"digital_signature"}, (-9, -2)),
        "of tomorrow": owner.party(CLIENT_TITLE, key, {"digital_signature"}, (2, 9)),
        "for two purposes": owner.party(CLIENT_TITLE, key, {"digital_signature", "key_encipherment"}),
        "without a title": owner.party("client", key, {"digital_signature"}),
        "for the meter, of a key that is not its own": owner.party(SERVER_TITLE, key, {"digital_signature"}),
        "on the other curve": weak.party(CLIENT_TITLE, weak.key.public_key(), {"digital_signature"}),
        "that is none": b"\x30\x03\x02\x01\x01",
    }
    for what, der in certificates.items():
        report.say(f"suite {suite}: a certificate {what} is refused", refused(lambda: imports(client, der)))


def takes_over(report: Report, suite: int, folder: str) -> None:
    size = SUITES[suite].key
    old = tuple(bytes([byte]) * size for byte in (0x11, 0x22, 0x33))
    path = Path(folder) / f"setup-{suite}.toml"
    path.write_text(lab_text(suite, old, 100))
    signer = bytes.fromhex(Keys(suite).client)
    owner = Authority(suite, "owner")
    with meter(str(path), "--dir", f"{folder}/meter-{suite}") as (address, log):
        client = Client(Lab(str(path)), address)
        imports(client, owner.root())
        server_point = certify(report, client, suite, owner)
        key = security.private(SUITES[suite], signer).public_key()
        imports(client, owner.party(CLIENT_TITLE, key, {"digital_signature"}))
        before = client.get(64, SETUP, 6)
        report.say(f"suite {suite}: five certificates are listed", len(before.value) == 5)
        lies(report, client, suite, signer, owner)
        report.say(f"suite {suite}: nothing of it changed anything", client.get(64, SETUP, 6) == before)
        reasons = " ".join(log)
        said = all(reason in reasons for reason in ("not on the curve", "raw signature", "issuer is not known", "expired"))
        report.say(f"suite {suite}: the log says why", said, reasons[-300:])
        new = agrees(client, suite, signer, server_point, [GUEK, GAK, KEK])
        report.say(f"suite {suite}: three keys are agreed upon", len({*new, *old}) == 6)
    path.write_text(lab_text(suite, old, 100))
    with meter(str(path), "--dir", f"{folder}/meter-{suite}") as (address, _):
        report.say(f"suite {suite}: the old keys are over", fails(Lab(str(path)), address))
        path.write_text(lab_text(suite, tuple(new), 0))
        client = Client(Lab(str(path)), address)
        report.say(f"suite {suite}: the new ones hold after a restart", client.get(8, CLOCK, 2).tag == 9)
        last = bytes([0x44]) * size
        wrapped = security.wrap(new[2], last)
        client.action(64, SETUP, 2, Data(1, [structure(enum(GUEK), octets(wrapped))]))
        path.write_text(lab_text(suite, (last, *new[1:]), 0))
        client = Client(Lab(str(path)), address)
        report.say(f"suite {suite}: a key came under the agreed master key", client.get(8, CLOCK, 2).tag == 9)


def fails(lab: Lab, address) -> bool:
    try:
        Client(lab, address)
    except (Refused, EOFError):
        return True
    return False


def main() -> int:
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        for suite in (1, 2):
            report.run(f"suite {suite}: from the first certificate to the last key", lambda: takes_over(report, suite, folder))
    print(f"{report.wrong} wrong" if report.wrong else "all right")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
