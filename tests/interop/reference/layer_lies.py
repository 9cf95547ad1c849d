"""What a dishonest side can do to the layers of general-ciphering and general-signing.

Each lie is a `Layers` that makes one thing wrong; `LIES` tells for which lab files it is one.
"""

from cryptography.hazmat.primitives.asymmetric import utils

from .layers import AGREED, IDENTIFIED, ONE_PASS, STATIC, WRAPPED, Layers, header
from .codec import field
from .security import BROADCAST, public_of, sign, wrap


def flipped(body: bytes, at: int = -1) -> bytes:
    changed = bytearray(body)
    changed[at] ^= 1
    return bytes(changed)


def der(signature: bytes) -> bytes:
    half = len(signature) // 2
    return utils.encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))


class WrongSigner(Layers):
    def made_signature(self, message):
        return sign(self.suite, self.lab.scalar[self.other], message)


class AgreementSigner(Layers):
    def made_signature(self, message):
        return sign(self.suite, self.lab.agreement[self.side], message)


class Der(Layers):
    def made_signature(self, message):
        return der(super().made_signature(message))


class CutSignature(Layers):
    def made_signature(self, message):
        return super().made_signature(message)[:-1]


class ZeroSignature(Layers):
    def made_signature(self, message):
        return bytes(2 * self.suite.coordinate)


class OtherMessage(Layers):
    def made_signature(self, message):
        return super().made_signature(flipped(message, 3))


class OffCurve(Layers):
    def made_ephemeral(self, point):
        return super().made_ephemeral(flipped(point))


class ZeroPoint(Layers):
    def made_ephemeral(self, point):
        return super().made_ephemeral(bytes(len(point)))


class OtherPoint(Layers):
    """The recipient's own static key as the ephemeral one."""

    def made_ephemeral(self, point):
        return super().made_ephemeral(self.lab.agreement_point[self.other])


class EphemeralUnsigned(Layers):
    def made_ephemeral(self, point):
        return point


class EphemeralByOther(Layers):
    def made_ephemeral(self, point):
        return point + sign(self.suite, self.lab.scalar[self.other], point)


class EphemeralDer(Layers):
    def made_ephemeral(self, point):
        made = super().made_ephemeral(point)
        return point + der(made[len(point) :])


class EphemeralCut(Layers):
    def made_ephemeral(self, point):
        return super().made_ephemeral(point)[:-1]


class BrokenWrapping(Layers):
    def made_wrapping(self, key):
        return flipped(super().made_wrapping(key), 8)


class OtherMaster(Layers):
    def made_wrapping(self, key):
        return wrap(flipped(self.lab.kek), key)


class CutWrapping(Layers):
    def made_wrapping(self, key):
        return super().made_wrapping(key)[:-8]


class Recipient(Layers):
    def made_header(self):
        return header(self.transaction, self.lab.title[self.side], flipped(self.lab.title[self.other]))


class Originator(Layers):
    def made_header(self):
        return header(self.transaction, flipped(self.lab.title[self.side]), self.lab.title[self.other])


class Reflected(Layers):
    """Both ends the other way round."""

    def made_header(self):
        return header(self.transaction, self.lab.title[self.other], self.lab.title[self.side])


class OtherTransaction(Layers):
    """A client takes the last one again, a server one that was not asked with."""

    def made_header(self):
        last = int.from_bytes(self.transaction, "big") - 1
        return header(last.to_bytes(8, "big"), self.lab.title[self.side], self.lab.title[self.other])


class NoTransaction(Layers):
    def made_header(self):
        return header(b"", self.lab.title[self.side], self.lab.title[self.other])


class BroadcastKey(Layers):
    def made_control(self):
        return self.lab.control | BROADCAST


class OtherSuite(Layers):
    def made_control(self):
        return self.lab.control ^ 3


class OtherKind(Layers):
    """A key-info of another kind around the same body."""

    def made_info(self, info):
        point = public_of(self.suite, self.lab.agreement[self.side])
        return {
            IDENTIFIED: bytes([AGREED]) + field(STATIC) + field(b""),
            WRAPPED: bytes([IDENTIFIED, 0]),
            AGREED: bytes([AGREED]) + field(STATIC if info[2:3] == ONE_PASS else ONE_PASS) + field(point),
        }[info[0]]


class BroadcastInfo(Layers):
    def made_info(self, info):
        return bytes([IDENTIFIED, 1])


SIGNING = (WrongSigner, AgreementSigner, Der, CutSignature, ZeroSignature, OtherMessage)
ONE_PASS_KEY = (OffCurve, ZeroPoint, OtherPoint, EphemeralUnsigned, EphemeralByOther, EphemeralDer, EphemeralCut)
WRAPPED_KEY = (BrokenWrapping, OtherMaster, CutWrapping)
ANY = (Recipient, Originator, Reflected, OtherTransaction, NoTransaction)
CIPHERING = (BroadcastKey, OtherSuite, OtherKind, BroadcastInfo)


def of(lab) -> list[type[Layers]]:
    """The lies that are ones under this lab file."""
    kinds = {"agreed-1p": ONE_PASS_KEY, "wrapped": WRAPPED_KEY}
    ciphering = (*CIPHERING, *kinds.get(lab.key_info, ())) if lab.carrier == "general-ciphering" else ()
    return [*ANY, *ciphering, *(SIGNING if lab.signing else ())]


def told(lie: type[Layers], honest: Layers, apdu: bytes) -> bytes:
    """What `lie` makes of an APDU in the place of `honest`, which stays as it is."""
    liar = lie(honest.guard, honest.side)
    liar.next, liar.asked, liar.last = honest.next, honest.asked, honest.last
    return liar.close(apdu)
