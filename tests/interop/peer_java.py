"""Runs the client and the server of gurux.dlms.java, unchanged, by the two small programs in `java`."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

from dlms_lab import CLIENT_TITLE, GAK, GUEK, PATIENCE, SECRET, SERVER_TITLE

VERSION = "v4.0.96"
PROGRAMS = Path(__file__).resolve().parent / "java"


@contextlib.contextmanager
def compiled():
    """The folder of classes: GURUX_CLASSES, or made from the source in GURUX_JAVA, or from a clone."""
    with tempfile.TemporaryDirectory(prefix="gridseal-interop-") as folder:
        classes = os.environ.get("GURUX_CLASSES") or str(Path(folder) / "classes")
        if not Path(classes).exists():
            source = os.environ.get("GURUX_JAVA") or cloned(folder)
            files = [
                *(Path(source) / "development" / "src" / "main" / "java").rglob("*.java"),
                *PROGRAMS.glob("*.java"),
            ]
            compiler = ["javac", "-nowarn", "-encoding", "UTF-8", "-d", classes, *map(str, files)]
            subprocess.run(compiler, check=True, stderr=subprocess.DEVNULL)
        yield classes


def cloned(folder: str) -> str:
    source = str(Path(folder) / "source")
    where = "https://github.com/Gurux/gurux.dlms.java"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", "--branch", VERSION, where, source], check=True)
    return source


@contextlib.contextmanager
def server(classes: str, mechanism: int, carrier: str, protection: str, how: str = "unchanged"):
    """The address of its server, which takes whatever carrier the client uses; `how` is `unchanged` or `corrected`."""
    context = "plain" if protection == "none" else "ciphered"
    words = [str(mechanism), context, SERVER_TITLE, GUEK, GAK, SECRET, how]
    command = ["java", "-cp", classes, "GuruxServer", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield "127.0.0.1", int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.terminate()


def client(classes: str, address, mechanism: int, carrier: str, protection: str, what: str):
    """Runs its client to the end; `what` is `everything` or `energy`."""
    words = [str(address[1]), str(mechanism), carrier, protection, CLIENT_TITLE, GUEK, GAK, SECRET, what]
    command = ["java", "-cp", classes, "GuruxClient", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


class Refusal(Exception):
    """Its client stopped with an exception."""


class Peer:
    """Its client as the other peers' are driven, for reading the register only."""

    classes = ""

    def __init__(self, *association):
        self.association, self.values = association, []

    def open(self) -> None:
        done = client(self.classes, *self.association, "energy")
        if done.returncode:
            raise Refusal(done.stderr[:200])
        self.values = done.stdout.split()[1:]

    def energy(self) -> str:
        return self.values.pop(0)
