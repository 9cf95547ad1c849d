#!/usr/bin/env python3
"""Writes what the owner's processes need and no subcommand makes yet: configuration files and a signed policy.

    python3 docs/by_hand.py OWNER DEVICES [--port 7441]

OWNER is the directory of `gridseal ceremony owner`, DEVICES that of `gridseal factory make`.
All addresses are on 127.0.0.1; the first port is the one that `ceremony owner --config-listen` was given.
Needs Python 3.11 and openssl, nothing else. Existing configuration files are replaced.
The policy key is made here, apart from the owner key, and kept in OWNER/ceremony/policy.pem.
The policy fits an emulated TPM or a software root without measured boot: PCR 0, 7 and 11 are zero.
"""

import argparse
import hashlib
import os
import subprocess
import time
import tomllib
from pathlib import Path

PCRS = [0, 7, 11]


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def head(major: int, value: int) -> bytes:
    """Head of a deterministic CBOR item."""
    for limit, extra, size in ((24, value, 0), (1 << 8, 24, 1), (1 << 16, 25, 2), (1 << 32, 26, 4), (1 << 64, 27, 8)):
        if value < limit:
            return bytes([major << 5 | extra]) + (value.to_bytes(size, "big") if size else b"")
    raise ValueError(value)


def cbor(item: object) -> bytes:
    """Deterministic CBOR of what a policy and a signature are made of; maps are given in order."""
    if isinstance(item, bool):
        return b"\xf5" if item else b"\xf4"
    if isinstance(item, int):
        return head(0, item) if item >= 0 else head(1, -1 - item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    if isinstance(item, list):
        return head(4, len(item)) + b"".join(cbor(part) for part in item)
    if isinstance(item, dict):
        return head(5, len(item)) + b"".join(cbor(key) + cbor(value) for key, value in item.items())
    raise TypeError(type(item))


def raw_signature(der: bytes) -> bytes:
    """r || s out of an ECDSA signature in DER."""
    numbers, at = b"", 2
    for _ in range(2):
        size = der[at + 1]
        numbers += int.from_bytes(der[at + 2 : at + 2 + size], "big").to_bytes(32, "big")
        at += 2 + size
    return numbers


def policy_key(path: Path) -> bytes:
    """Makes the key unless it is there; returns x || y."""
    if not path.exists():
        made = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made)
    return openssl("pkey", "-in", str(path), "-pubout", "-outform", "DER")[-64:]


def signed_policy(key: Path, point: bytes, model: str) -> bytes:
    policy = {
        1: model,
        2: "1",
        3: [[pcr, [bytes(32)]] for pcr in PCRS],
        4: [],
        5: [],
        6: 1,
        7: 1,
        8: True,
        9: int(time.time()),
    }
    cose_key = cbor({1: 2, -1: 1, -2: point[:32], -3: point[32:]})
    protected = cbor({1: -7, 4: hashlib.sha256(cose_key).digest()})
    to_be_signed = cbor(["Signature1", protected, b"gso1-policy", cbor(policy)])
    signature = raw_signature(openssl("dgst", "-sha256", "-sign", str(key), data=to_be_signed))
    return cbor([protected, {}, cbor(policy), signature])


def to_toml(fields: dict) -> str:
    """Plain fields first, then one table for each service."""

    def text(value: object) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(text(one) for one in value) + "]"
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, int) else f'"{value}"'

    lines = [f"{name} = {text(value)}" for name, value in fields.items() if not isinstance(value, dict)]
    for name, table in fields.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{key} = {text(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def only(paths: list[Path], what: str) -> Path:
    if not paths:
        raise SystemExit(f"by_hand: no {what}")
    return paths[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("owner", type=Path)
    parser.add_argument("devices", type=Path)
    parser.add_argument("--port", type=int, default=7441, help="first of six ports in a row; the config server has it")
    arguments = parser.parse_args()
    owner, devices = arguments.owner, arguments.devices

    firmware = tomllib.loads(only(sorted(devices.glob("*/firmware.toml")), "device in DEVICES").read_text())
    init_server = tomllib.loads((devices / "init-server/config.toml").read_text())
    buyer = tomllib.loads((owner / "owner.toml").read_text())
    certificate = str(owner / "config-server/field.pem")
    public = openssl("x509", "-in", certificate, "-noout", "-pubkey")
    pin = hashlib.sha256(openssl("pkey", "-pubin", "-outform", "DER", data=public)).hexdigest()

    def local(offset: int) -> str:
        return f"127.0.0.1:{arguments.port + offset}"

    relay, relay_inner, headend, headend_inner, keys, pki = (local(offset) for offset in range(6))
    vouchers = init_server["voucher_keys"]
    key_file = owner / "ceremony/policy.pem"
    point = policy_key(key_file)
    (owner / "endpoint-manager/policy.cose").write_bytes(signed_policy(key_file, point, firmware["model"]))
    (owner / "endpoint-manager/init-ca.pem").write_text(firmware["init_server_ca"])
    software = firmware["root"]["kind"] == "software"
    configs = {
        "keys": {"listen": keys, "voucher_keys": vouchers},
        "pki": {"listen": pki, "headend_names": ["127.0.0.1"]},
        "config-server": {"listen": relay, "listen_inner": relay_inner},
        "headend": {
            "listen": headend,
            "listen_inner": headend_inner,
            "interval_s": firmware["interval_s"],
            "keys": {"address": keys},
            "pki": {"address": pki},
        },
        "endpoint-manager": {
            "init_server": firmware["init_servers"][0],
            "init_server_ca": "init-ca.pem",
            "voucher_keys": vouchers,
            "owner_key": buyer["owner_key"],
            "config_urls": [f"https://{relay}"],
            "config_pins": [pin],
            "terminus": [f"tls://{headend}"],
            "policy": "policy.cose",
            "policy_key": point.hex(),
            "danger_accept_software_roots": software,
            "config_server": {"address": relay_inner},
            "keys": {"address": keys},
            "pki": {"address": pki},
            "headend": {"address": headend_inner},
        },
    }
    for name, fields in configs.items():
        path = owner / name / "config.toml"
        path.write_text(to_toml(fields))
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
