"""What client and server share: the lab file, the TCP wrapper, and the protection of an association."""

import socket
import tomllib
from pathlib import Path

from .codec import Reader, field
from .layers import Layers
from .security import AUTH, BROADCAST, DEDICATED, ENC, GLOBAL, SUITES, Proofs, Refused, public_of, seal, unseal

PROTECTIONS = {"none": 0, "auth": AUTH, "enc": ENC, "auth+enc": AUTH | ENC}


class Lab:
    """The settings of both sides, from a lab file of `gridseal dlms`."""

    def __init__(self, path: str):
        lab = tomllib.loads(Path(path).read_text())
        keys, sides = lab.get("keys", {}), {"client": lab["client"], "server": lab["server"]}
        self.suite, self.mechanism = lab.get("suite", 0), lab.get("mechanism", 5)
        self.carrier, self.max_pdu = lab.get("carrier", "glo"), lab.get("max_pdu", 1024)
        self.control = PROTECTIONS[lab.get("protection", "auth+enc")] and (
            PROTECTIONS[lab.get("protection", "auth+enc")] | self.suite
        )
        self.saps = {"client": lab.get("client_sap", 16), "server": lab.get("listen_sap", 1)}
        self.objects = lab.get("object", [])
        secret = keys.get("secret", "")
        self.secret = bytes.fromhex(secret[2:]) if secret.startswith("0x") else secret.encode()
        self.ek, self.ak = bytes.fromhex(keys.get("guek", "")), bytes.fromhex(keys.get("gak", ""))
        self.proofs = Proofs(self.mechanism, self.suite, self.ek, self.ak, self.secret)
        self.title = {side: bytes.fromhex(table["system_title"]) for side, table in sides.items()}
        self.counter = {side: table.get("invocation_counter", 0) for side, table in sides.items()}
        self.scalar, self.point = self.keys_of(sides, "signing")
        self.agreement, self.agreement_point = self.keys_of(sides, "agreement")
        self.kek, self.key_info = bytes.fromhex(keys.get("kek", "")), lab.get("key_info", "identified")
        order = lab.get("signing_order", "sign-then-cipher") if lab.get("signing") else ""
        self.signing = {"": "", "sign-then-cipher": "inside", "cipher-then-sign": "outside"}[order]
        quirks = lab.get("peer_quirks", {})
        self.short_aad, self.unsized = (quirks.get(name) == "short" for name in ("aad", "signed"))

    def keys_of(self, sides: dict, kind: str) -> tuple[dict, dict]:
        """Private keys, and public ones as given or made of those, by side."""
        scalar = {side: bytes.fromhex(table.get(f"{kind}_key", "")) for side, table in sides.items()}
        point = {
            side: bytes.fromhex(table.get(f"{kind}_public", ""))
            or (public_of(SUITES[self.suite], scalar[side]) if scalar[side] else b"")
            for side, table in sides.items()
        }
        return scalar, point


class Channel:
    """APDUs over TCP, each in a wrapper."""

    def __init__(self, link: socket.socket, own_sap: int, peer_sap: int, limit: int = 0xFFFF):
        self.link, self.head, self.limit, self.seen = link, b"\0\1", limit, []
        own, peer = own_sap.to_bytes(2, "big"), peer_sap.to_bytes(2, "big")
        self.out, self.back = own + peer, peer + own

    def send(self, apdu: bytes) -> None:
        self.seen.append(apdu)
        self.link.sendall(self.head + self.out + len(apdu).to_bytes(2, "big") + apdu)

    def receive(self) -> bytes:
        reader = Reader(self.exactly(8))
        if reader.take(6) != self.head + self.back:
            raise Refused("wrapper of another version or for somebody else")
        count = reader.uint(2)
        if count > self.limit:
            raise Refused("longer than was agreed")
        self.seen.append(self.exactly(count))
        return self.seen[-1]

    def exactly(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            part = self.link.recv(count - len(taken))
            if not part:
                raise EOFError("the peer hung up")
            taken += part
        return taken


class Protection:
    """Both directions of one side of an association: keys, counters and the way an APDU is carried."""

    def __init__(self, lab: Lab, side: str):
        self.lab, self.own = lab, lab.title[side]
        self.peer, self.last, self.dedicated = b"", -1, b""
        self.mirrors, self.asked_dedicated = side == "server", True
        self.counter, self.dedicated_counter, self.dedicated_last = lab.counter[side], 0, -1
        self.layers = Layers(self, side) if lab.carrier == "general-ciphering" or lab.signing else None

    def next(self) -> int:
        self.counter += 1
        return self.counter - 1

    def close(self, apdu: bytes) -> bytes:
        """Protects an APDU as the lab says; a server answers under the key that it was asked under."""
        lab, tag = self.lab, apdu[0]
        if not lab.control:
            return apdu
        if self.layers and tag not in (0x01, 0x08):
            return self.layers.close(apdu)
        return self.carry(apdu)

    def carry(self, apdu: bytes) -> bytes:
        """One of the four carriers; what is signed has no tag in two of them."""
        lab, tag, signed = self.lab, apdu[0], apdu[0] == 0xDF
        if self.dedicated and (tag in DEDICATED or signed) and tag in DEDICATED and self.asked_dedicated:
            counter, self.dedicated_counter = self.dedicated_counter, self.dedicated_counter + 1
            body = seal(lab.control, self.dedicated, lab.ak, self.own, counter, apdu)
            general = lab.carrier == "general-ded" or signed
            return (b"\xdc" + field(self.own) if general else bytes([DEDICATED[tag]])) + field(body)
        body = seal(lab.control, lab.ek, lab.ak, self.own, self.next(), apdu)
        if signed or lab.carrier == "general-glo" and tag not in (0x01, 0x08):
            return b"\xdb" + field(self.own) + field(body)
        return bytes([GLOBAL[tag]]) + field(body)

    def open(self, apdu: bytes) -> bytes:
        """Opens what the peer protected; anything in clear, twice, or with another protection is refused."""
        if not self.lab.control:
            return apdu
        if self.layers and apdu[0] not in (GLOBAL[0x01], GLOBAL[0x08]):
            return self.layers.open(apdu)
        return self.uncarry(apdu)

    def uncarry(self, apdu: bytes) -> bytes:
        lab, reader = self.lab, Reader(apdu)
        tag = reader.uint()
        if tag in (0xDB, 0xDC) and reader.field() not in (b"", self.peer):
            raise Refused("from somebody else")
        body = reader.field()
        reader.end()
        # An initiate-request may carry a key, so that it and its response may be protected more than the rest.
        allowed = {lab.control, lab.control | ENC} if tag in (GLOBAL[0x01], GLOBAL[0x08]) else {lab.control}
        if len(body) < 17 or body[0] & BROADCAST or body[0] not in allowed:
            raise Refused("not protected as agreed")
        counter = int.from_bytes(body[1:5], "big")
        dedicated = tag == 0xDC or tag in DEDICATED.values()
        if dedicated and not self.dedicated:
            raise Refused("no dedicated key was agreed")
        if counter <= (self.dedicated_last if dedicated else self.last):
            raise Refused("counter was used before")
        plain = unseal(body, self.dedicated if dedicated else lab.ek, lab.ak, self.peer)
        if tag not in (0xDB, 0xDC) and tag != (DEDICATED if dedicated else GLOBAL).get(plain[0]):
            raise Refused("another service than its carrier says")
        if dedicated:
            self.dedicated_last = counter
        else:
            self.last = counter
        self.asked_dedicated = dedicated or not self.mirrors
        return plain
