"""Everything that the reference client can do in one association, checked."""

import dlms_lab
from reference import codec
from reference.client import Client, Denied
from reference.codec import Data, obis, octets, structure
from reference.link import Lab

PROFILE, ENERGY, NAME = obis("1.0.99.1.0.255"), obis("1.0.1.8.0.255"), obis("0.0.42.0.0.255")
SWITCH, WRITABLE = obis("0.0.96.3.10.255"), obis(dlms_lab.WRITABLE[1])


def everything(lab: Lab, address: tuple) -> Client:
    """One association with everything the reference client can do; raises where an answer is wrong."""
    client = Client(lab, address)
    check(client.get(1, NAME, 2).tag == codec.OCTETS, "name")
    energy = client.get(3, ENERGY, 2)
    check(isinstance(energy.value, int), "energy")
    both = client.get_list([(3, ENERGY, 3), (1, obis("0.0.96.1.77.255"), 2)])
    check(both[0].tag == codec.STRUCTURE and both[1] == 4, f"list {both}")
    rows = client.get(7, PROFILE, 2).value
    check(len(rows) == 96, f"{len(rows)} rows")
    selectors(client, rows)
    value = octets(bytes(range(200)))
    client.set(1, WRITABLE, 2, octets(b"written"))
    check(client.get(1, WRITABLE, 2) == octets(b"written"), "written")
    client.set(1, WRITABLE, 2, value, block=60)
    check(client.get(1, WRITABLE, 2) == value, "written in blocks")
    for method, state in ((1, False), (2, True)):
        client.action(70, SWITCH, method, Data(codec.I8, 0))
        check(client.get(70, SWITCH, 2).value is state, f"switch, method {method}")
    try:
        client.get(3, obis("1.0.99.77.0.255"), 2)
    except Denied:
        client.release()
        return client
    raise AssertionError("an object that is not there was read")


def selectors(client: Client, rows: list) -> None:
    entries = structure(*(Data(codec.U32, n) for n in (11, 14)), *(Data(codec.U16, n) for n in (1, 0)))
    check(client.get(7, PROFILE, 2, (2, entries)).value == rows[10:14], "entries")
    column = structure(Data(codec.U16, 8), octets(obis("0.0.1.0.0.255")), Data(codec.I8, 2), Data(codec.U16, 0))
    span = structure(column, rows[20].value[0], rows[29].value[0], Data(codec.ARRAY, []))
    check(client.get(7, PROFILE, 2, (1, span)).value == rows[20:30], "range")


def check(is_right: bool, what: str) -> None:
    if not is_right:
        raise AssertionError(what)
