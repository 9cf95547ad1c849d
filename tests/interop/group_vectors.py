#!/usr/bin/env python3
"""Makes the vectors in tests/vectors/group from docs/group-keys.md alone.

    tests/interop/group_vectors.py DIR

Standard library only; AES, P-256 and the cover are those of group_check.py beside it.
"""
import hashlib
import hmac
import sys
import zlib
from pathlib import Path

sys.dont_write_bytecode = True
from group_check import G, N, aes, cover, depth, times

MASTER = bytes(range(0x20, 0x40))
GROUP = bytes(range(0x50, 0x60))
SECRET = bytes(range(0x80, 0xA0))
SCALAR = int.from_bytes(bytes(range(1, 33)), "big")
STRANGER = int.from_bytes(bytes(range(2, 34)), "big")
TREE, TREE_EPOCH, DEADLINE = 7, 3, 1_800_000_000


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def point(scalar):
    x, y = times(scalar, G)
    return x.to_bytes(32, "big") + y.to_bytes(32, "big")


def sign(scalar, message):
    digest = hashlib.sha256(message).digest()
    nonce = int.from_bytes(hashlib.sha256(b"vector" + digest).digest(), "big") % N
    r = times(nonce, G)[0] % N
    s = pow(nonce, -1, N) * (int.from_bytes(digest, "big") + r * scalar) % N
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def rice(values, k):
    return "".join("1" * (value >> k) + "0" + (format(value & (1 << k) - 1, f"0{k}b") if k else "") for value in values)


def best(values):
    return min(range(21), key=lambda k: len(rice(values, k)))


def coded(evicted):
    gaps, following, runs = [], 0, []
    for seat in evicted:
        gap, following = seat - following, seat + 1
        gaps.append(gap)
        if runs and gap == 0:
            runs[-1][1] += 1
        else:
            runs.append([gap, 0])
    single, start, length = best(gaps), best([run[0] for run in runs]), best([run[1] for run in runs])
    bits, codes, head = rice(gaps, single), len(gaps), bytes([0, single, 0])
    as_runs = "".join(rice([gap], start) + rice([more], length) for gap, more in runs)
    if len(as_runs) < len(bits):
        bits, codes, head = as_runs, len(runs), bytes([1, start, length])
    bits += "0" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return head + codes.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data


def label(root, below):
    found = aes(MASTER, TREE.to_bytes(8, "big") + TREE_EPOCH.to_bytes(4, "big") + root.to_bytes(4, "big"))
    for bit in range(depth(below) - depth(root) - 1 if root else -1, -1, -1):
        found = aes(found, bytes([below >> bit & 1]) * 16)
    return found


def block(root, leave, nonce, key):
    mask = aes(aes(label(root, leave), b"\x02" * 16), nonce)
    return bytes(one ^ two for one, two in zip(mask, key))


def body(height, assigned, evicted, epoch, salt, key):
    nonce = TREE_EPOCH.to_bytes(4, "big") + epoch.to_bytes(4, "big") + salt
    subsets = cover(height, assigned, evicted)
    blocks = [block(root, leave, nonce, key) for root, leave in subsets]
    if not evicted and assigned == 1 << height:
        blocks = [block(0, 0, nonce, key)]
    return bytes([height]) + assigned.to_bytes(4, "big") + salt + coded(evicted) + b"".join(blocks)


def fields(epoch, scheme=1, group=GROUP, tree=TREE, tree_epoch=TREE_EPOCH):
    return (
        b"GSG1" + bytes([scheme]) + group + tree.to_bytes(8, "big") + tree_epoch.to_bytes(4, "big")
        + epoch.to_bytes(4, "big") + DEADLINE.to_bytes(8, "big")
    )


def header(first, inside, key, scalar=SCALAR):
    check = mac(key, b"gsg-kcv", hashlib.sha256(first).digest())[:8]
    covered = first + check + len(inside).to_bytes(4, "big") + inside
    return covered + sign(scalar, b"gridseal group header v1" + hashlib.sha256(covered).digest())


def command(number, until, apdu, epoch, scalar=SCALAR):
    encoded = b"GRIDSEAL" + number.to_bytes(8, "big") + until.to_bytes(8, "big") + len(apdu).to_bytes(4, "big") + apdu
    context = GROUP + TREE.to_bytes(8, "big") + TREE_EPOCH.to_bytes(4, "big") + epoch.to_bytes(4, "big")
    return encoded + sign(scalar, b"gridseal group command v1" + hashlib.sha256(context + encoded).digest())


def multiply(one, two):
    product = 0
    while two:
        product ^= one if two & 1 else 0
        one = one << 1 ^ (0x11D if one & 0x80 else 0)
        two >>= 1
    return product


def inverse(value):
    return next(other for other in range(1, 256) if multiply(value, other) == 1)


def fragments(message, payload, parity):
    """One stripe: the parity fragment at place p is the value there of the polynomial through the data places."""
    name = hashlib.sha256(message).digest()[:8]
    rows = [message[at : at + payload].ljust(payload, b"\0") for at in range(0, len(message), payload)]
    count, extra = len(rows), []
    for place in range(count, count + parity):
        row = bytearray(payload)
        for known in range(count):
            weight = 1
            for other in range(count):
                if other != known:
                    weight = multiply(weight, multiply(place ^ other, inverse(known ^ other)))
            for at in range(payload):
                row[at] ^= multiply(weight, rows[known][at])
        extra.append(bytes(row))
    head = name + len(message).to_bytes(4, "big") + (0).to_bytes(2, "big")
    shape = payload.to_bytes(2, "big")
    return [head + bytes([place, count]) + shape + row for place, row in enumerate(rows + extra)]


def record(epoch, sealed):
    found = (
        b"GSM1" + bytes([1]) + TREE_EPOCH.to_bytes(4, "big") + epoch.to_bytes(4, "big") + DEADLINE.to_bytes(8, "big")
        + epoch.to_bytes(4, "big") + (17).to_bytes(8, "big") + len(sealed).to_bytes(2, "big") + sealed
    )
    return found + zlib.crc32(found).to_bytes(4, "big")


def write(folder, name, clause, kind, **values):
    lines = ['source = "docs/group-keys.md"', f'clause = "{clause}"', 'made_by = "tests/interop/group_vectors.py"', f'kind = "{kind}"']
    for key, value in values.items():
        key = key.replace("__", ".")
        if isinstance(value, bytes):
            value = value.hex()
        if isinstance(value, list):
            shown = ", ".join(f'"{one.hex()}"' if isinstance(one, bytes) else str(one) for one in value)
            lines.append(f"{key} = [{shown}]")
        else:
            lines.append(f"{key} = {value}" if isinstance(value, int) else f'{key} = "{value}"')
    (folder / f"{name}.toml").write_text("\n".join(lines) + "\n")


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    salt, key, epoch = bytes(range(0xA0, 0xA8)), bytes(range(0xC0, 0xD0)), 5
    shared = dict(
        input__master=MASTER, input__group=GROUP, input__tree=TREE, input__tree_epoch=TREE_EPOCH,
        input__deadline=DEADLINE, input__sender=point(SCALAR),
    )
    context = GROUP + TREE.to_bytes(8, "big") + TREE_EPOCH.to_bytes(4, "big") + epoch.to_bytes(4, "big")
    yields = dict(
        expect__broadcast_key=mac(key, b"gsg-dlms-gbek", context)[:16],
        expect__broadcast_authentication_key=mac(key, b"gsg-dlms-gak", context)[:16],
        expect__content_key=mac(key, b"gsg-content", bytes([8]), b"firmware", context)[:16],
    )
    for name, height, assigned, evicted in [
        ("nobody-revoked", 3, 8, []),
        ("one-evicted", 3, 8, [5]),
        ("free-seats-are-revoked", 4, 11, []),
        ("scattered", 5, 32, [0, 3, 7, 19, 31]),
        ("neighbours-and-free-seats", 6, 50, list(range(9, 30))),
        ("all-but-one", 4, 16, [seat for seat in range(16) if seat != 6]),
        ("everybody-evicted", 3, 8, list(range(8))),
        ("nobody-seated", 2, 0, []),
        ("largest-tree", 20, 1_000_000, [0, 1, 2, 524_287, 524_288, 999_999]),
    ]:
        made = header(fields(epoch), body(height, assigned, evicted, epoch, salt, key), key)
        write(
            folder, f"header-{name}", "Header; Body of subset difference", "header", **shared, input__key_epoch=epoch,
            input__height=height, input__assigned=assigned, input__evicted=evicted, input__salt=salt, input__group_key=key,
            expect__header=made, **yields,
        )

    good = body(3, 8, [5], epoch, salt, key)
    whole = header(fields(epoch), good, key)
    beyond = bytes([3]) + (5).to_bytes(4, "big") + good[5:]
    for name, error, made in [
        ("signed-by-a-stranger", "signature", header(fields(epoch), good, key, STRANGER)),
        ("changed-deadline", "signature", whole[:44] + bytes([whole[44] ^ 1]) + whole[45:]),
        ("cut-short", "truncated", whole[:-1]),
        ("byte-behind", "truncated", whole + b"\0"),
        ("other-version", "format", b"GSG2" + whole[4:]),
        ("scheme-nobody-knows", "format", whole[:4] + b"\x09" + whole[5:]),
        ("body-beyond-the-limit", "too-long", whole[:53] + b"\xFF\xFF\xFF\xFF" + whole[57:]),
        ("other-tree", "other", header(fields(epoch, tree=TREE + 1), good, key)),
        ("other-tree-epoch", "other", header(fields(epoch, tree_epoch=TREE_EPOCH - 1), good, key)),
        ("other-group", "other", header(fields(epoch, group=bytes(16)), good, key)),
        ("same-epoch", "epoch", header(fields(4), body(3, 8, [5], 4, salt, key), key)),
        ("lower-epoch", "epoch", header(fields(1), body(3, 8, [5], 1, salt, key), key)),
        ("member-evicted", "no-key", header(fields(epoch), body(3, 8, [2], epoch, salt, key), key)),
        ("seat-not-yet-given-out", "no-key", header(fields(epoch), body(3, 2, [], epoch, salt, key), key)),
        ("a-block-is-missing", "no-key", header(fields(epoch), good[:-16], key)),
        ("evicted-seat-beyond-the-assigned", "no-key", header(fields(epoch), beyond, key)),
        ("check-of-another-key", "no-key", header(fields(epoch), body(3, 8, [5], epoch, salt, bytes(16)), key)),
    ]:
        write(
            folder, f"refused-{name}", "Header", "header-refused", **shared, input__height=3, input__seat=2,
            input__present=4, input__header=made, error=error,
        )

    apdu, until = bytes.fromhex("c30100080000010000ff02000f00"), DEADLINE + 60
    for name, error, made in [
        ("clock", None, command(18, until, apdu, epoch)),
        ("forged-by-a-member", "signature", command(18, until, apdu, epoch, STRANGER)),
        ("without-signature", "format", command(18, until, apdu, epoch)[:-64]),
        ("of-another-epoch", "signature", command(18, until, apdu, epoch - 1)),
        ("played-back", "replay", command(17, until, apdu, epoch)),
        ("late", "late", command(18, DEADLINE - 1, apdu, epoch)),
        ("byte-behind", "format", command(18, until, apdu, epoch) + b"\0"),
    ]:
        values = dict(shared, input__key_epoch=epoch, input__group_key=key, input__last=17, input__now=DEADLINE, input__command=made)
        if error is None:
            values.update(expect__apdu=apdu, expect__number=18)
        else:
            values["error"] = error
        write(folder, f"command-{name}", "What an epoch yields", "command", **values)

    write(
        folder, "fragments", "Fragments", "fragments", input__message=whole, input__payload=48, input__parity_percent=40,
        expect__fragments=fragments(whole, 48, (-(-len(whole) // 48) * 40 + 99) // 100),
    )
    ticket = b"CONC\0\0\0\x01" + (1).to_bytes(4, "big") + b"\x01"
    write(
        folder, "ticket", "Between two devices", "ticket", input__secret=SECRET, input__other=b"CONC\0\0\0\x01",
        expect__ticket=ticket + mac(SECRET, b"gsg-ticket-v1", ticket),
        expect__pair_key=mac(SECRET, b"gsg-pair-v1", ticket[:12]),
    )
    write(
        folder, "storage", "What a member keeps", "storage", input__tree_epoch=TREE_EPOCH, input__key_epoch=epoch,
        input__deadline=DEADLINE, input__number=17, input__sealed=bytes(range(40)), expect__record=record(epoch, bytes(range(40))),
    )


if __name__ == "__main__":
    main(sys.argv[1])
