#!/usr/bin/env python3
"""Lets an independent DLMS stack read what our meter sealed, and seal what ours must open.

Run by hand, from anywhere, with Python 3.11 or newer and access to a Python package index:

    python3 tests/interop/dlms_push.py           checks both directions
    python3 tests/interop/dlms_push.py --write   also writes the vectors that the other stack made

It installs the peer (dlms-cosem 25.1.0, used unchanged as a program) into a temporary folder that it removes again.
Our half of the proof is `cargo test -p gridseal-dlms -p gridseal-meter -p gridseal-headend`: the runners open the
vectors written here, and the meter's own test shows that it sends exactly `push-row-sealed.toml`.
Exit status: 0 both agree, 1 they do not.
"""

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

PEER = "dlms-cosem==25.1.0"
VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "dlms"
# The fact sheet's test keys, which every process of ours refuses in production.
GUEK = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
GAK = bytes.fromhex("d0d1d2d3d4d5d6d7d8d9dadbdcdddedf")
TITLE = bytes.fromhex("4d4d4d0000bc614e")
COUNTER = 0x01234568


def main() -> int:
    if "--inside" in sys.argv:
        return inside("--write" in sys.argv)
    with tempfile.TemporaryDirectory(prefix="gridseal-interop-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
        return subprocess.run([python, __file__, "--inside", *sys.argv[1:]]).returncode


def inside(write: bool) -> int:
    outcomes = [ours_is_read(), theirs_is_made(write), changed_tag_is_refused()]
    return 0 if all(outcomes) else 1


def report(what: str, is_right: bool) -> bool:
    print(("ok    " if is_right else "WRONG ") + what)
    return is_right


def load(name: str) -> dict:
    return tomllib.loads((VECTORS / f"{name}.toml").read_text())


def ours_is_read() -> bool:
    """The peer decrypts and decodes the frame of our meter."""
    from dlms_cosem.protocol.xdlms import GeneralGlobalCipher
    from dlms_cosem.protocol.xdlms.data_notification import DataNotification
    from dlms_cosem.utils import parse_as_dlms_data

    cipher = GeneralGlobalCipher.from_bytes(bytes.fromhex(load("push-row-sealed")["input"]))
    plain = bytes(cipher.to_plain_apdu(GUEK, GAK))
    push = DataNotification.from_bytes(plain)
    fields = parse_as_dlms_data(push.body)
    invoke = push.long_invoke_id_and_priority
    print("      peer reads:", invoke, fields)
    return report(
        "peer reads what our meter sealed",
        plain.hex() == load("push-row-plain")["input"]
        and (cipher.system_title, cipher.invocation_counter) == (TITLE, 0)
        and (invoke.long_invoke_id, invoke.confirmed) == (0, True)
        and [bytes(fields[0]).hex(), bytes(fields[1]).hex(), *fields[2:]]
        == ["0000190900ff", "07ea0b19030b0f0000000000", 0, 74565, [0, 30]],
    )


def theirs_is_made(write: bool) -> bool:
    """The peer encodes and encrypts a push of the same form; our runners open it."""
    from datetime import datetime, timedelta, timezone

    from dlms_cosem import dlms_data
    from dlms_cosem.protocol.xdlms import GeneralGlobalCipher
    from dlms_cosem.security import SecurityControlField, encrypt
    from dlms_cosem.time import datetime_to_bytes

    clock = datetime(2026, 11, 25, 12, 30, tzinfo=timezone(timedelta(hours=1)))
    body = dlms_data.DataStructure(
        [
            dlms_data.OctetStringData(bytes.fromhex("0000190900ff")),
            dlms_data.OctetStringData(bytes(datetime_to_bytes(clock))),
            dlms_data.UnsignedIntegerData(0),
            dlms_data.UnsignedLong64Data(4_294_967_296),
            dlms_data.DataStructure([dlms_data.IntegerData(0), dlms_data.EnumData(30)]),
        ]
    ).to_bytes()
    # The peer has no encoder for the notification's own six bytes.
    plain = bytes.fromhex("0f4000000100") + bytes(body)
    control = SecurityControlField(security_suite=0, authenticated=True, encrypted=True)
    sealed = encrypt(control, TITLE, COUNTER, GUEK, plain, GAK)
    apdu = bytes(GeneralGlobalCipher(TITLE, control, COUNTER, sealed).to_bytes())
    changed = apdu[:-1] + bytes([apdu[-1] ^ 0x80])
    peer = PEER.replace("==", " ")
    texts = {
        "push-row-sealed-by-peer": vector(peer, apdu, f"expect = '{plain.hex()}'"),
        "push-row-sealed-by-peer-changed-is-refused": vector(
            f"{peer}, then one bit changed", changed, 'error = "apdu does not open"'
        ),
    }
    for name, text in texts.items():
        if write:
            (VECTORS / f"{name}.toml").write_text(text)
    kept = all((VECTORS / f"{name}.toml").read_text() == text for name, text in texts.items())
    return report("vectors in the repository are what the peer makes", kept)


def vector(made_by: str, apdu: bytes, outcome: str) -> str:
    return f"""source = "tests/interop/dlms_push.py"
clause = "DLMS UA Green Book, clause on ciphered APDUs; IEC 62056-5-3, DataNotification"
made_by = "{made_by}"
kind = "general_glo"
guek = "{GUEK.hex()}"
gak = "{GAK.hex()}"
originator = "{TITLE.hex()}"
input = "{apdu.hex()}"
{outcome}
"""


def changed_tag_is_refused() -> bool:
    """The peer refuses our frame when one bit of it is changed: it does compare the tag."""
    from dlms_cosem.exceptions import DecryptionError
    from dlms_cosem.protocol.xdlms import GeneralGlobalCipher

    apdu = bytearray.fromhex(load("push-row-sealed")["input"])
    apdu[-1] ^= 1
    try:
        GeneralGlobalCipher.from_bytes(bytes(apdu)).to_plain_apdu(GUEK, GAK)
    except DecryptionError:
        return report("peer refuses a changed tag", True)
    return report("peer refuses a changed tag", False)


if __name__ == "__main__":
    sys.exit(main())
