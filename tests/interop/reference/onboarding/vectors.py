"""The vector files, what was compared of them, and the report."""

import json
import re
import sys
import time

LINE = re.compile(r'\[(?P<table>[\w.]+)\]|(?P<key>\w+) = (?:"(?P<text>[^"\\]*)"|(?P<number>\d+))|(?:#.*)?')


def read_toml(text):
    """The part of TOML that the vector files use: tables, plain strings, whole numbers."""
    tables = here = {}
    for line in text.splitlines():
        found = LINE.fullmatch(line)
        if not found:
            raise ValueError(f"vector file: {line[:60]!r}")
        if found["table"]:
            here = tables
            for part in found["table"].split("."):
                here = here.setdefault(part, {})
        elif found["key"]:
            here[found["key"]] = found["text"] if found["number"] is None else int(found["number"])
    return tables


class Vectors:
    """One file; remembers which values were looked at, so that none is left out unseen."""

    def __init__(self, path):
        self.tables = read_toml(path.read_text())
        self.name, self.unseen = path.name, set()
        self._collect(self.tables, "")

    def _collect(self, table, prefix):
        for key, value in table.items():
            if isinstance(value, dict):
                self._collect(value, f"{prefix}{key}.")
            elif prefix:
                self.unseen.add(prefix + key)

    def raw(self, path):
        value = self.tables
        for part in path.split("."):
            value = value[part]
        self.unseen.discard(path)
        return value

    def __getitem__(self, path):
        value = self.raw(path)
        return bytes.fromhex(value) if isinstance(value, str) else value


class Report:
    def __init__(self, quiet=False):
        self.groups, self.skipped, self.quiet, self.started = [], [], quiet, time.monotonic()

    def group(self, name):
        self.groups.append({"group": name, "checks": 0, "failed": []})

    def check(self, what, holds):
        group = self.groups[-1]
        group["checks"] += 1
        if not holds:
            group["failed"].append(what)
        return holds

    def equal(self, what, ours, recorded):
        return self.check(what, ours == recorded)

    def skip(self, what):
        if what not in self.skipped:
            self.skipped.append(what)

    def end(self, as_json):
        total = {
            "groups": self.groups, "skipped": self.skipped, "checks": sum(g["checks"] for g in self.groups),
            "failed": sum(len(g["failed"]) for g in self.groups), "seconds": round(time.monotonic() - self.started, 1),
        }
        if as_json:
            print(json.dumps(total))
        else:
            for group in self.groups:
                good = group["checks"] - len(group["failed"])
                print(f"{group['group']}: {good} of {group['checks']}")
                for what in group["failed"][:20]:
                    print(f"  differs: {what}")
            for what in self.skipped:
                print(f"skipped: {what}")
            good = total["checks"] - total["failed"]
            print(f"total: {good} of {total['checks']} checks, {len(self.skipped)} skipped, {total['seconds']} s")
        sys.stdout.flush()
        return 1 if total["failed"] else 0

