#!/usr/bin/env python3
"""Checks the evidence of `gridseal sim group --evidence DIR` from the wire format alone (docs/group-keys.md).

    tests/interop/group_check.py DIR

It parses the header, verifies its signature, computes the cover from the list of the evicted, lets every sampled member
open its block, and closes over all labels of all evicted members together. Standard library only: AES and P-256 are here.
"""
import hashlib
import hmac
import json
import sys
from pathlib import Path

# --- AES ---------------------------------------------------------------------------------------------------------------


def _tables():
    sbox, value, inverse = [0] * 256, 1, 1
    while True:
        value = value ^ (value << 1) ^ (0x11B if value & 0x80 else 0)
        value &= 0xFF
        for shift in (1, 2, 4):
            inverse ^= inverse << shift
        inverse &= 0xFF
        if inverse & 0x80:
            inverse ^= 0x09
        rotated = inverse
        for turn in (1, 2, 3, 4):
            rotated ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        sbox[value] = rotated ^ 0x63
        if value == 1:
            break
    sbox[0] = 0x63
    return sbox


SBOX = _tables()


def aes(key: bytes, block: bytes) -> bytes:
    size = len(key) // 4
    rounds = size + 6
    words = [list(key[at : at + 4]) for at in range(0, len(key), 4)]
    constant = 1
    for at in range(size, 4 * rounds + 4):
        word = list(words[-1])
        if at % size == 0:
            word = [SBOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= constant
            constant = constant << 1 ^ (0x11B if constant & 0x80 else 0)
        elif size > 6 and at % size == 4:
            word = [SBOX[byte] for byte in word]
        words.append([one ^ two for one, two in zip(words[at - size], word)])
    keys = [sum(words[4 * turn : 4 * turn + 4], []) for turn in range(rounds + 1)]
    state = [one ^ two for one, two in zip(block, keys[0])]
    double = lambda byte: (byte << 1 ^ (0x1B if byte & 0x80 else 0)) & 0xFF
    for turn in range(1, rounds + 1):
        state = [SBOX[byte] for byte in state]
        state = [state[(4 * column + row + 4 * row) % 16] for column in range(4) for row in range(4)]
        if turn < rounds:
            mixed = []
            for column in range(4):
                a = state[4 * column : 4 * column + 4]
                for row in range(4):
                    mixed.append(double(a[row]) ^ double(a[(row + 1) % 4]) ^ a[(row + 1) % 4] ^ a[(row + 2) % 4] ^ a[(row + 3) % 4])
            state = mixed
        state = [one ^ two for one, two in zip(state, keys[turn])]
    return bytes(state)


assert aes(bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff")).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"
assert aes(bytes(range(32)), bytes.fromhex("00112233445566778899aabbccddeeff")).hex() == "8ea2b7ca516745bfeafc49904b496089"

# --- P-256 signatures ---------------------------------------------------------------------------------------------------

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def add(one, two):
    if one is None or two is None:
        return one or two
    if one[0] == two[0]:
        if (one[1] + two[1]) % P == 0:
            return None
        slope = (3 * one[0] * one[0] - 3) * pow(2 * one[1], -1, P)
    else:
        slope = (two[1] - one[1]) * pow(two[0] - one[0], -1, P)
    x = (slope * slope - one[0] - two[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def times(count, point):
    total = None
    while count:
        if count & 1:
            total = add(total, point)
        point = add(point, point)
        count >>= 1
    return total


def verifies(point: bytes, message: bytes, signature: bytes) -> bool:
    public = int.from_bytes(point[:32], "big"), int.from_bytes(point[32:], "big")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < N and 0 < s < N):
        return False
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    w = pow(s, -1, N)
    found = add(times(digest * w % N, G), times(r * w % N, public))
    return found is not None and found[0] % N == r


# --- header ---------------------------------------------------------------------------------------------------------------


class Bits:
    def __init__(self, data):
        self.data, self.place = data, 0

    def bit(self):
        byte = self.data[self.place // 8]
        self.place += 1
        return byte >> (7 - (self.place - 1) % 8) & 1

    def rice(self, k):
        quotient = 0
        while self.bit():
            quotient += 1
        return quotient << k | sum(self.bit() << (k - 1 - place) for place in range(k))


def need(holds, what):
    if not holds:
        sys.exit(f"refused: {what}")


def parse(header: bytes):
    need(header[:4] == b"GSG1" and header[4] == 1, "not a subset difference header")
    tree, tree_epoch, key_epoch = header[21:29], header[29:33], header[33:37]
    check, length = header[45:53], int.from_bytes(header[53:57], "big")
    body, signature = header[57 : 57 + length], header[57 + length :]
    need(len(signature) == 64, "length")
    height, assigned, salt = body[0], int.from_bytes(body[1:5], "big"), body[5:13]
    runs, gap_bits, run_bits = body[13:16]
    codes, size = int.from_bytes(body[16:20], "big"), int.from_bytes(body[20:24], "big")
    bits, seats, following = Bits(body[24 : 24 + size]), [], 0
    for _ in range(codes):
        seat = following + bits.rice(gap_bits)
        more = bits.rice(run_bits) if runs else 0
        seats += range(seat, seat + more + 1)
        following = seat + more + 1
    blocks = body[24 + size :]
    blocks = [blocks[at : at + 16] for at in range(0, len(blocks), 16)]
    nonce = tree_epoch + key_epoch + salt
    return dict(
        fields=header[:45], covered=header[: 57 + length], signature=signature, check=check, height=height,
        assigned=assigned, evicted=seats, blocks=blocks, nonce=nonce, tree=tree,
    )


def depth(node):
    return node.bit_length() - 1


def common(one, two):
    low = min(depth(one), depth(two))
    one, two = one >> (depth(one) - low), two >> (depth(two) - low)
    while one != two:
        one, two = one >> 1, two >> 1
    return one


def cover(height, assigned, evicted):
    nodes, seat = [(1 << height) + seat for seat in evicted], assigned
    while seat < 1 << height:
        levels = min((seat & -seat).bit_length() - 1, height) if seat else height
        nodes.append(((1 << height) + seat) >> levels)
        seat += 1 << levels
    subsets, stack = [], []

    def merge():
        (left, meets_left), (right, meets) = stack[-2], stack[-1]
        for side, leave in ((2 * meets, left), (2 * meets + 1, right)):
            if side != leave:
                subsets.append((side, leave))
        stack[-2:] = [(meets, meets_left)]

    for node in nodes:
        meets = common(stack[-1][0], node) if stack else 1
        while len(stack) >= 2 and depth(stack[-1][1]) > depth(meets):
            merge()
        stack.append((node, meets))
    while len(stack) >= 2:
        merge()
    if stack and stack[0][0] != 1:
        subsets.append((1, stack[0][0]))
    return subsets


def label_nodes(height, seat):
    leaf, found = (1 << height) + seat, []
    for root_depth in range(height):
        for below in range(root_depth + 1, height + 1):
            found.append((leaf >> (height - root_depth), leaf >> (height - below) ^ 1))
    return found + [(0, 0)]


def open_block(label, start, leave, nonce, block):
    for bit in range(depth(leave) - depth(start) - 1, -1, -1):
        label = aes(label, bytes([leave >> bit & 1]) * 16)
    mask = aes(aes(label, b"\x02" * 16), nonce)
    return bytes(one ^ two for one, two in zip(mask, block))


def main(folder):
    folder = Path(folder)
    facts = json.loads((folder / "facts.json").read_text())
    header = parse((folder / "header.bin").read_bytes())
    wanted = bytes.fromhex(facts["group_key"])
    signed = b"gridseal group header v1" + hashlib.sha256(header["covered"]).digest()
    need(verifies(bytes.fromhex(facts["sender"]), signed, header["signature"]), "signature")
    fields_hash = hashlib.sha256(header["fields"]).digest()
    is_key = lambda key: hmac.new(key, b"gsg-kcv" + fields_hash, hashlib.sha256).digest()[:8] == header["check"]
    need(is_key(wanted), "key check value")
    subsets = cover(header["height"], header["assigned"], header["evicted"])
    everybody = not subsets and len(header["blocks"]) == 1
    need(everybody or len(subsets) == len(header["blocks"]), "one block for each subset")
    by_root = {}
    for place, (root, leave) in enumerate(subsets):
        by_root.setdefault(root, []).append((leave, place))

    evicted, recovered, failed, pool, seen = set(header["evicted"]), 0, 0, {}, {}
    for line in (folder / "labels.jsonl").open():
        member = json.loads(line)
        role, seat = member["role"], member["seat"]
        labels = {}
        for nodes, label in zip(label_nodes(header["height"], seat), member["labels"], strict=True):
            labels[nodes] = bytes.fromhex(label)
            need(pool.get(nodes, labels[nodes]) == labels[nodes], "one label for one place")
        need(seat not in seen, "each seat once")
        seen[seat] = role
        if role != "member":
            pool.update(labels)
            continue
        need(seat < facts["members"] and seat not in evicted, "who remains is a member")
        leaf, key = (1 << header["height"]) + seat, None
        if everybody:
            key = open_block(labels[(0, 0)], 0, 0, header["nonce"], header["blocks"][0])
        for root_depth in range(header["height"]):
            root = leaf >> (header["height"] - root_depth)
            for leave, place in by_root.get(root, []):
                if common(leaf, leave) == leave:
                    continue
                start = leave >> (depth(leave) - depth(common(leaf, leave)) - 1)
                key = open_block(labels[(root, start)], start, leave, header["nonce"], header["blocks"][place])
        if key == wanted and is_key(key):
            recovered += 1
        else:
            failed += 1

    roles = list(seen.values())
    need(roles.count("evicted") == facts["evicted"], "labels of every evicted member")
    need(roles.count("member") == min(1000, facts["members"] - facts["evicted"]), "labels of enough others")
    for seat, role in seen.items():
        # Whom the run evicted and who joins later is revoked in the header, or it fails below by what they open.
        if role == "newcomer":
            need(seat == facts["members"] < 1 << header["height"], "the newcomer has the next seat")

    # What a label leads to lies below its node, under the same root: no pooled label may be at or above what is left out.
    opened = 0
    for place, (root, leave) in enumerate(subsets):
        for below in range(depth(root) + 1, depth(leave) + 1):
            start = leave >> (depth(leave) - below)
            if (root, start) in pool:
                key = open_block(pool[(root, start)], start, leave, header["nonce"], header["blocks"][place])
                opened += is_key(key)
    if everybody and (0, 0) in pool:
        opened += 1
    told = {seat for seat, role in seen.items() if role == "evicted"}
    print(json.dumps(dict(
        header_bytes=len(header["covered"]) + 64, subsets=len(subsets), evicted=len(evicted),
        evicted_as_told=told == evicted, pooled_labels=len(pool), recovered=recovered, failed=failed,
        coalition_opened=opened,
    )))
    return 0 if failed == 0 and opened == 0 and told == evicted else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: group_check.py DIR")
    sys.exit(main(sys.argv[1]))
