"""Drives the client and the server of gurux-dlms, unchanged, through their public names."""

import contextlib
import io
import socket

import dlms_lab
from gurux_dlms import GXByteBuffer, GXReplyData
from gurux_dlms.ecdsa import GXEcdsa, GXPrivateKey, GXPublicKey
from gurux_dlms.enums import Authentication, Conformance, DataType, InterfaceType, Security
from gurux_dlms.GXDateTime import GXDateTime
from gurux_dlms.objects.enums import SecuritySuite
from gurux_dlms.objects import GXDLMSData, GXDLMSDisconnectControl, GXDLMSProfileGeneric, GXDLMSRegister
from gurux_dlms.secure import GXDLMSSecureClient
from reference.security import SUITES, Refused, public_of, sign, verify

MECHANISMS = {
    0: Authentication.NONE,
    1: Authentication.LOW,
    5: Authentication.HIGH_GMAC,
    6: Authentication.HIGH_SHA256,
    7: Authentication.HIGH_ECDSA,
}
PROTECTIONS = {"none": Security.NONE, "auth": Security.AUTHENTICATION, "auth+enc": Security.AUTHENTICATION_ENCRYPTION}


def quietly(step):
    """The peer prints what it does, private keys included."""

    def quiet(*arguments, **named):
        with contextlib.redirect_stdout(io.StringIO()):
            return step(*arguments, **named)

    return quiet


@contextlib.contextmanager
def corrected():
    """Signatures on P-384, of which this version knows only P-256: it tests for that curve twice."""
    kept = GXEcdsa.sign, GXEcdsa.verify

    def signed(self, data):
        return sign(SUITES[2], bytes(self._GXEcdsa__privateKey.rawValue), bytes(data))

    def is_signed(self, signature, data):
        try:
            verify(SUITES[2], bytes(self._GXEcdsa__publicKey.rawValue)[1:], bytes(data), bytes(signature))
        except Refused:
            return False
        return True

    GXEcdsa.sign, GXEcdsa.verify = signed, is_signed
    try:
        yield
    finally:
        GXEcdsa.sign, GXEcdsa.verify = kept


class Peer:
    """One association of its client. `as_it_comes` leaves the release plain and the challenge at 16 octets."""

    def __init__(self, address, mechanism, carrier, protection, hdlc=False, as_it_comes=False, suite=0):
        password = dlms_lab.SECRET if mechanism in (1, 6) else None
        kind = InterfaceType.HDLC if hdlc else InterfaceType.WRAPPER
        self.hdlc, self.client = hdlc, GXDLMSSecureClient(True, 16, 1, MECHANISMS[mechanism], password, kind)
        cipher, keys = self.client.ciphering, dlms_lab.Keys(suite)
        self.client.securitySuite = SecuritySuite(suite)
        cipher.systemTitle = bytearray.fromhex(dlms_lab.CLIENT_TITLE)
        cipher.blockCipherKey = bytearray.fromhex(keys.guek)
        cipher.authenticationKey = bytearray.fromhex(keys.gak)
        cipher.invocationCounter = 100
        cipher.security = PROTECTIONS[protection]
        self.client.useProtectedRelease = protection != "none" and not as_it_comes
        if not carrier.startswith("general"):
            self.client.proposedConformance &= ~Conformance.GENERAL_PROTECTION
        if carrier.endswith("ded"):
            cipher.dedicatedKey = bytearray(range(len(cipher.blockCipherKey)))
        if mechanism == 7:
            point = b"\x04" + public_of(SUITES[suite], bytes.fromhex(keys.server))
            own = GXPrivateKey.fromRawBytes(bytearray.fromhex(keys.client))
            cipher.signingKeyPair = (GXPublicKey.fromRawBytes(bytearray(point)), own)
            if not as_it_comes:
                self.client.ctoSChallenge = bytearray(range(7, 39))
        self.link = socket.create_connection(address, 5)

    def ask(self, frames) -> GXReplyData:
        reply = GXReplyData()
        for frame in frames if isinstance(frames, list) else [frames]:
            reply.clear()
            self.turn(frame, reply)
            while reply.isMoreData():
                self.turn(self.client.receiverReady(reply), reply)
        if reply.error:
            raise RuntimeError(f"result {reply.error}")
        return reply

    def turn(self, frame, reply) -> None:
        self.link.sendall(bytes(frame))
        received, notify = GXByteBuffer(), GXReplyData()
        while True:
            part = self.link.recv(4096)
            if not part:
                raise EOFError("the server hung up")
            received.set(part)
            if self.client.getData(received, reply, notify):
                return

    @quietly
    def open(self) -> None:
        client = self.client
        if self.hdlc:
            client.parseUAResponse(self.ask(client.snrmRequest()).data)
        client.parseAareResponse(self.ask(client.aarqRequest()).data)
        if client.isAuthenticationRequired:
            answer = self.ask(client.getApplicationAssociationRequest())
            client.parseApplicationAssociationResponse(answer.data)

    def read(self, item, attribute):
        return self.client.updateValue(item, attribute, self.ask(self.client.read(item, attribute)).value)

    @quietly
    def energy(self):
        return self.read(GXDLMSRegister("1.0.1.8.0.255"), 2)

    @quietly
    def unit(self):
        register = GXDLMSRegister("1.0.1.8.0.255")
        self.read(register, 3)
        return register.scaler, int(register.unit)

    @quietly
    def rows(self):
        """All rows, four by entry and ten by range, as numbers of the third column."""
        profile = GXDLMSProfileGeneric("1.0.99.1.0.255")
        self.read(profile, 3)
        whole = list(self.read(profile, 2))
        entry = self.client.updateValue(profile, 2, self.ask(self.client.readRowsByEntry(profile, 11, 4)).value)
        entry = list(entry)
        first, last = (
            GXDateTime(whole[i][0].value if hasattr(whole[i][0], "value") else whole[i][0]) for i in (20, 29)
        )
        span = self.client.updateValue(profile, 2, self.ask(self.client.readRowsByRange(profile, first, last)).value)
        return [[row[2] for row in rows] for rows in (whole, entry, span)]

    @quietly
    def write(self, value: bytes) -> bytes:
        """Writes the writable object and returns what it then holds."""
        data = GXDLMSData(dlms_lab.WRITABLE[1])
        data.value = bytearray(value)
        data.setDataType(2, DataType.OCTET_STRING)
        self.ask(self.client.write(data, 2))
        return bytes(self.read(data, 2))

    @quietly
    def switch(self) -> list:
        """States after switching off and on."""
        item, states = GXDLMSDisconnectControl("0.0.96.3.10.255"), []
        for method in (item.remoteDisconnect, item.remoteReconnect):
            self.ask(method(self.client))
            states.append(bool(self.read(item, 2)))
        return states

    @quietly
    def close(self) -> None:
        self.ask(self.client.releaseRequest())
        if self.hdlc:
            self.ask(self.client.disconnectRequest(True))
        self.link.close()
