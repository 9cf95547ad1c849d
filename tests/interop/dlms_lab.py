"""What the DLMS checks share: lab files, our meter as a process, our reader as a process."""

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENT_TITLE, SERVER_TITLE = "4D4D4D0000000001", "4D4D4D0000BC614E"
GUEK, GAK = "000102030405060708090A0B0C0D0E0F", "D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF"
SECRET = "DLMSsecret123456"
# Published test keys of P-256.
CLIENT_SCALAR = "418073C239FA6125011DE4D6CD2E645780289F761BB21BFB0835CB5585E8B373"
SERVER_SCALAR = "AE55414FFE079F9FC95649536BD1C2B5653D200813727E07D501A8B550C69207"
CLIENT_AGREEMENT = "A51C16FF5C498FCC89323D4A9267CD71BF81FD6F6A891CD240DA7F3D6F283E65"
SERVER_AGREEMENT = "AAD3FD0732E991CF52A74C66C1F2827DDC53522A2E0A169D7C4FFCC0FB5D6A4D"
# An object of our own that may be written.
WRITABLE = (1, "0.0.96.1.9.255")
PATIENCE = 30


class Keys:
    """The keys of a suite: those of suites 0 and 1, or longer ones of our own."""

    def __init__(self, suite: int):
        long = suite == 2
        self.guek = bytes(range(32 if long else 16)).hex().upper()
        self.gak = bytes(range(0xD0, 0xF0 if long else 0xE0)).hex().upper()
        self.kek = ("4B" * 32) if long else ("4B" * 16)
        scalars = ["11" * 48, "22" * 48, "33" * 48, "44" * 48]
        short = [CLIENT_SCALAR, SERVER_SCALAR, CLIENT_AGREEMENT, SERVER_AGREEMENT]
        self.client, self.server, self.client_agreement, self.server_agreement = scalars if long else short


def binary() -> str:
    """The program under test: GRIDSEAL, or what cargo built last for debugging."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return os.environ.get("GRIDSEAL", str(target / "debug" / "gridseal"))


def write_lab(
    folder: str, mechanism: int = 5, carrier: str = "glo", protection: str = "auth+enc", extra: str = "", **settings
) -> str:
    """Writes a lab file; `settings` are further lines of its first part, `extra` ends it."""
    first = {"suite": 0, "max_pdu": 1024, "client_sap": 16, "listen_sap": 1} | settings
    named = "-".join(str(value) for value in (mechanism, carrier, protection, *settings.values(), len(extra)))
    path, keys = Path(folder) / f"lab-{named}.toml", Keys(first["suite"])
    path.write_text(
        "danger_test_keys = true\n"
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in first.items())
        + f"""mechanism = {mechanism}
protection = "{protection}"
carrier = "{carrier}"
[client]
system_title = "{CLIENT_TITLE}"
invocation_counter = 100
signing_key = "{keys.client}"
agreement_key = "{keys.client_agreement}"
[server]
system_title = "{SERVER_TITLE}"
invocation_counter = 5000
signing_key = "{keys.server}"
agreement_key = "{keys.server_agreement}"
[keys]
guek = "{keys.guek}"
gak = "{keys.gak}"
kek = "{keys.kek}"
secret = "{SECRET}"
[[object]]
class = {WRITABLE[0]}
obis = "{WRITABLE[1]}"
access = "rw"
attribute_2 = "0904AABBCCDD"
{extra}
"""
    )
    return str(path)


@contextlib.contextmanager
def meter(lab: str, *flags: str):
    """`gridseal meter serve` on a free port; yields its address and the lines it writes to stderr."""
    command = [binary(), "meter", "serve", "--listen", "127.0.0.1:0", "--lab", lab, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline().split()
        if line[:1] != ["listening"]:
            reader.join(2)
            raise RuntimeError("meter did not start: " + "".join(log)[-300:])
        host, port = line[-1].rsplit(":", 1)
        yield (host, int(port)), log
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ours_gets(lab: str, address: tuple[str, int], *items: str) -> tuple[int, list, str]:
    """`gridseal dlms get`: its exit status, the objects it printed, and what it said of errors."""
    command = [binary(), "dlms", "get", "--connect", "{}:{}".format(*address), "--lab", lab, "--json", *items]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    text = done.stdout.strip()
    try:
        found = json.loads(text) if text else []
    except json.JSONDecodeError:
        found = [json.loads(line) for line in text.splitlines()]
    return done.returncode, found if isinstance(found, list) else [found], done.stderr.strip()


def ours_does(what: str, lab: str, address: tuple[str, int], *items: str) -> tuple[int, str]:
    """`gridseal dlms set` or `action`, with counters that go on: its exit status and what it printed."""
    connect = ["--connect", "{}:{}".format(*address), "--lab", lab, "--counter-file", f"{lab}.counters"]
    command = [binary(), "dlms", what, *connect, *items]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout + done.stderr


def ours_decodes(lab: str, apdu: bytes) -> tuple[int, str]:
    """`gridseal decode dlms`: its exit status and what it printed."""
    command = [binary(), "decode", "dlms", "--keys", lab, apdu.hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout + done.stderr


class Report:
    """Prints each outcome; knows whether all were right."""

    def __init__(self):
        self.wrong = 0

    def say(self, what: str, is_right: bool, why: str = "") -> bool:
        print(("ok    " if is_right else "WRONG ") + what + ("" if is_right or not why else f": {why}"), flush=True)
        self.wrong += not is_right
        return is_right

    def run(self, what: str, step) -> bool:
        """Runs `step`; an exception is an outcome, too."""
        try:
            return self.say(what, step() is not False)
        except Exception as error:  # noqa: BLE001
            return self.say(what, False, f"{type(error).__name__}: {error}")
