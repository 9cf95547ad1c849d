"""Drives the client of dlms-cosem, unchanged, through its public names.

It knows mechanisms 0, 1, 2 and 5, and, as soon as it has keys, general-glo alone.
Its general-glo takes lengths of one octet, so that what it sends must stay below 128 octets.
"""

import logging

import dlms_lab
import structlog
from dlms_cosem import cosem, dlms_data, enumerations, utils
from dlms_cosem.client import DlmsClient
from dlms_cosem.cosem.capture_object import CaptureObject
from dlms_cosem.cosem.selective_access import RangeDescriptor
from dlms_cosem.io import BlockingTcpIO, HdlcTransport, TcpTransport
from dlms_cosem.parsers import ProfileGenericBufferParser
from dlms_cosem.security import (
    HighLevelSecurityGmacAuthentication,
    LowLevelSecurityAuthentication,
    NoSecurityAuthentication,
)

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
KINDS = enumerations.CosemInterface


def attribute(kind, name: str, number: int) -> cosem.CosemAttribute:
    return cosem.CosemAttribute(kind, cosem.Obis(*map(int, name.split(".")[:5])), number)


ENERGY, UNIT = (attribute(KINDS.REGISTER, "1.0.1.8.0.255", n) for n in (2, 3))
BUFFER, COLUMNS = (attribute(KINDS.PROFILE_GENERIC, "1.0.99.1.0.255", n) for n in (2, 3))
CLOCK = attribute(KINDS.CLOCK, "0.0.1.0.0.255", 2)
WRITABLE = attribute(KINDS.DATA, dlms_lab.WRITABLE[1], 2)
SWITCH = attribute(KINDS.DISCONNECT_CONTROL, "0.0.96.3.10.255", 2)


class Corrected(HighLevelSecurityGmacAuthentication):
    """Our correction: a counter that made a proof is not used again for the APDU that carries it."""

    def hls_generate_reply_data(self, connection) -> bytes:
        proof = super().hls_generate_reply_data(connection)
        connection.client_invocation_counter += 1
        return proof


class Peer:
    """One association of its client, unchanged unless `corrected`."""

    def __init__(self, address, mechanism, carrier, protection, hdlc=False, corrected=False):
        link = BlockingTcpIO(host=address[0], port=address[1], timeout=5)
        transport = (HdlcTransport if hdlc else TcpTransport)(16, 1, link)
        authentication = {
            0: NoSecurityAuthentication,
            1: lambda: LowLevelSecurityAuthentication(dlms_lab.SECRET.encode()),
            5: Corrected if corrected else HighLevelSecurityGmacAuthentication,
        }[mechanism]()
        keys = (dlms_lab.GUEK, dlms_lab.GAK) if protection != "none" else (None, None)
        self.client = DlmsClient(
            transport,
            authentication,
            *(bytes.fromhex(key) if key else None for key in keys),
            client_system_title=bytes.fromhex(dlms_lab.CLIENT_TITLE),
            client_initial_invocation_counter=100,
            max_pdu_size=1024,
        )

    def open(self) -> None:
        self.client.connect()
        self.client.associate()

    def value(self, item, selection=None):
        return utils.parse_as_dlms_data(self.client.get(item, selection))

    def energy(self):
        return self.value(ENERGY)

    def unit(self):
        scaler, unit = self.value(UNIT)
        return 10.0**scaler, unit

    def rows(self):
        """All rows and ten by range; it has no selection by entry."""
        raw = self.client.get(BUFFER)
        whole = ProfileGenericBufferParser([CLOCK] * 1 + [ENERGY] * (len(self.value(COLUMNS)) - 1), 15).parse_bytes(raw)
        first, last = (whole[i][0].value for i in (20, 29))
        span = self.value(BUFFER, RangeDescriptor(CaptureObject(CLOCK, 0), first, last))
        return [[row[2].value for row in whole], None, [row[2] for row in span]]

    def write(self, value: bytes) -> bytes:
        answer = self.client.set(WRITABLE, bytes(dlms_data.OctetStringData(value).to_bytes()))
        if answer.result != enumerations.DataAccessResult.SUCCESS:
            raise RuntimeError(f"result {answer.result}")
        return bytes(self.value(WRITABLE))

    def switch(self) -> list:
        states = []
        for number in (1, 2):
            method = cosem.CosemMethod(SWITCH.interface, SWITCH.instance, number)
            self.client.action(method, bytes(dlms_data.IntegerData(0).to_bytes()))
            states.append(self.value(SWITCH))
        return states

    def close(self) -> None:
        self.client.release_association()
        self.client.disconnect()
