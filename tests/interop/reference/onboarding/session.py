"""Both machines of docs/protocol/checks.md and the init server, as far as their messages go.

Nothing is drawn at random: what is, comes in as an argument, so that what is made can be compared with what was recorded.
A party is copied before it is asked about a changed message, so its values are replaced, never altered in place.
"""

from dataclasses import dataclass, field

from . import certificates, cbor, cose, crypto, evidence, must, papers, tpm
from .cose import document_hash
from .crypto import hmac, same, sha256
from .papers import EMPTY

LIMITS = {1: 16384, 3: 540672, 20: 16384, 22: 16384}
OBJECTS = ("sto", "tls", "iak")


def owner_secret(n_root, epoch):
    return hmac(n_root, b"gs-ndev-v1", epoch.to_bytes(8, "big"))


def pseudonym(secret):
    return hmac(secret, b"gs-kid-v1")[:16]


def nonce(number):
    return bytes(11) + bytes([number])


def seal(key, head, body):
    """The message with these elements before its box."""
    return cbor.encode([*head, crypto.gcm_seal(key, nonce(head[1]), cbor.encode(head), body)])


def unseal(key, message, code):
    head = message[:-1]
    return crypto.gcm_open(key, nonce(head[1]), cbor.encode(head), message[-1], code)


def qualifying(number, about):
    return sha256(b"gs-qd-v1", bytes([number]), about)


def proof(k_chal, i1, i1c):
    return hmac(k_chal, b"gs-init-proof-v1", sha256(i1, i1c))


def read_message(shapes, wire):
    """A message of the config or init path; anything else is `E_FORMAT`."""
    must(len(wire) <= 540672, "E_SIZE")
    item = cbor.decode(wire)
    must(isinstance(item, list) and len(item) >= 2 and item[0] == 1, "E_FORMAT", "not a message")
    names = {number: f"c{number}" for number in range(1, 9)} | {
        0: "err", 9: "order", 10: "result", 11: "poll", 20: "i1", 21: "i1c", 22: "i1p", 23: "i2", 30: "t1", 31: "t2",
    }
    must(isinstance(item[1], int) and item[1] in names, "E_FORMAT", "unknown number")
    shapes.outside(names[item[1]], item)
    must(len(wire) <= LIMITS.get(item[1], 65536), "E_SIZE")
    return item


@dataclass
class Schedule:
    """Transcript and keys of one session: the same at both ends."""

    secret: bytes
    th: list = field(default_factory=lambda: [sha256(b"GSO-v1")])
    sid: bytes = b""
    k_c1: bytes = b""
    k_c2: bytes = b""
    k_act: bytes = b""
    k_s: bytes = b""
    k_m2e: bytes = b""
    k_e2m: bytes = b""

    def add(self, number, wire):
        """The schedule after this message."""
        return replaced(self, th=[*self.th, sha256(self.th[-1], b"gso1-c%d" % number, wire)])

    def hello(self, wire, m):
        made = replaced(self, sid=sha256(wire)[:16], k_c1=hmac(self.secret, b"gs-seal-c1", m))
        return made.add(1, wire)

    def challenge_key(self, m, m_em):
        return hmac(self.secret, b"gs-seal-c2", m, m_em)

    def grant(self, payload):
        return hmac(self.secret, b"gs-grant-v1", self.th[1], sha256(payload))

    def proven(self, k_act):
        k_s = hmac(self.secret, b"gs-sess-v1", self.th[2], k_act)
        keys = {"k_m2e": hmac(k_s, b"gs-m2e-v1"), "k_e2m": hmac(k_s, b"gs-e2m-v1")}
        return replaced(self, k_act=k_act, k_s=k_s, **keys)

    def act(self):
        return hmac(self.k_act, b"gs-act-v1", self.th[2])

    def receipt(self):
        return hmac(self.k_act, b"gs-done-v1", self.th[6])

    def seal(self, number, body):
        return seal(self.k_m2e if number % 2 else self.k_e2m, [1, number, self.sid], body)


def replaced(made, **changes):
    copy = type(made)(**vars(made))
    for name, value in changes.items():
        setattr(copy, name, value)
    return copy


# ---- Owner: endpoint manager and key service ----


class Owner:
    """`register` is what the owner knows of the device, see `play.owner_of`; `drawn` is what it would draw."""

    def __init__(self, shapes, register, drawn):
        self.shapes, self.register, self.drawn = shapes, register, drawn
        self.schedule, self.phase, self.c1 = Schedule(register["secret"]), 0, None

    def take(self, wire):
        """Checks the device's next message; its opened body."""
        message = read_message(self.shapes, wire)
        number = message[1]
        must(number in (1, 3, 5, 7), "E_STATE", "not of a device")
        if number == 1:
            return self._take_c1(wire, message)
        must(message[2] == self.schedule.sid and self.phase, "E_NONCE", "unknown session")
        must(number == self.phase + 1, "E_STATE", "out of turn")
        opened = unseal(self.schedule.k_m2e, message, "E_ACT" if number == 3 else "E_TRANSCRIPT")
        body = self.shapes.read(f"c{number}-body", opened)
        {3: self._check_c3, 5: self._check_c5, 7: self._check_c7}[number](body)
        self.schedule = self.schedule.add(number, wire)
        return body

    def _take_c1(self, wire, message):
        must(self.phase == 0, "E_STATE", "the session is known")
        known = self.register
        must(message[2] == pseudonym(known["secret"]), "E_UNKNOWN", "kid")
        schedule = self.schedule.hello(wire, message[3])
        body = self.shapes.read("c1-body", unseal(schedule.k_c1, message, "E_GRANT"))
        self._check_c1(body)
        self.schedule, self.c1, self.m = schedule, body, message[3]
        return body

    def _check_c1(self, body):
        known = self.register
        must(body[2] == known["ek_name"], "E_UNKNOWN", "ek_name")
        must(body[5] == known["voucher"].epoch, "E_EPOCH", "epoch")
        must(body[11] == known["voucher"].head, "E_FORK", "voucher head")
        must(body[10] in known["redirects"], "E_REDIRECT_SIG", "redirect hash")
        must(body[3] == known["ek_public"] and tpm.name(body[3]) == body[2], "E_EK", "endorsement key")
        must(body[1] == [known["suite"]], "E_SUITE", "suites")
        points = {tpm.point_of("ak", body[6], "E_AK_ATTR")}
        points |= {tpm.point_of(kind, body[number], "E_CERTIFY") for number, kind in ((7, "sto"), (8, "tls"), (9, "iak"))}
        must(len(points) == 4, "E_AK_ATTR", "one point twice")
        must(known["policies"], "E_POLICY", "no policy for the model")
        must(body.get(-1) in (None, known["point"]), "E_LABEL", "another connection point")

    def c2(self):
        drawn, known = self.drawn, self.register
        blob = tpm.make_credential(drawn["credential_seed"], tpm.name(self.c1[6]), drawn["k_act"])
        pcrs = evidence.covered(known["policies"][0])
        payload = cbor.encode({
            1: self.schedule.th[1], 2: known["ek_name"], 3: known["voucher"].epoch, 4: self.c1[1], 5: self.c1[1][0],
            6: blob, 7: drawn["credential_secret"], 8: drawn["salt_secrets"], 9: drawn["nonce_callers"],
            10: tpm.pcr_selection(pcrs), 11: 0, 12: known["voucher"].head, 13: self.m, 14: drawn["m_em"],
        })
        signed = cose.sign1(known["config_d"], "gso1-c2", payload)
        body = cbor.encode([signed, self.schedule.grant(payload), known["delegation"]])
        wire = self.seal_c2(body)
        self.selection = tpm.pcr_selection(pcrs)
        self.schedule = self.schedule.add(2, wire).proven(drawn["k_act"])
        self.phase = 2
        return wire

    def seal_c2(self, body):
        key = self.schedule.challenge_key(self.m, self.drawn["m_em"])
        return seal(key, [1, 2, self.schedule.sid, self.drawn["m_em"]], body)

    def _check_c3(self, body):
        known, th_2 = self.register, self.schedule.th[2]
        key = tpm.point_of("ak", self.c1[6], "E_AK_ATTR")
        for number, at in ((1, 7), (2, 8), (3, 9)):
            extra = qualifying(number, th_2)
            statement = tpm.verify_statement(0x8017, body[number + 2], key, extra, "E_CERTIFY")
            must(statement.name == tpm.name(self.c1[at]), "E_CERTIFY", "Name of another object")
        quote = tpm.verify_statement(0x8018, body[6], key, qualifying(4, th_2), "E_QUOTE")
        must(quote.selection == self.selection, "E_QUOTE", "selection")
        must(body[8] == 0, "E_POLICY", "first entry of the list")
        evidence.judge(known["policies"], quote.digest, body[7], body[9])
        tls = tpm.point_of("tls", self.c1[8], "E_CERTIFY")
        certificates.check_request(body[10], tls)
        must(body[11] & 0x100 == 0, "E_OWNED", "disableClear")
        must(not body[12], "E_PLATFORM_OPEN", "platform hierarchy")
        must(same(body[1], self.schedule.act()), "E_ACT", "proof of the credential")
        must(body[11] & 0x5 == 0, "E_OWNED", "somebody owns a hierarchy")
        self.tunnels = [
            tpm.Tunnel(hierarchy, handle, salt, caller, nonce_tpm)
            for hierarchy, (handle, nonce_tpm), salt, caller in zip(
                ("owner", "lockout"), body[2], self.drawn["salts"], self.drawn["nonce_callers"]
            )
        ]

    def signed_body(self, number, members):
        return cbor.encode(cose.sign1(self.register["config_d"], f"gso1-c{number}", cbor.encode(members)))

    def _reply(self, number, members):
        wire = self.schedule.seal(number, self.signed_body(number, members))
        self.schedule, self.phase = self.schedule.add(number, wire), number
        return wire

    def c4(self):
        drawn = self.drawn
        commands = [t.command(fresh, auth) for t, fresh, auth in zip(self.tunnels, drawn["fresh"], drawn["new_auths"])]
        return self._reply(4, {1: self.schedule.th[3], 2: commands})

    def _check_c5(self, body):
        must(body[1] == self.schedule.th[4], "E_TRANSCRIPT", "th_4")
        must(len(body[2]) == 2, "E_TPM", "a command failed")
        for tunnel, response, fresh, auth in zip(self.tunnels, body[2], self.drawn["fresh"], self.drawn["new_auths"]):
            tunnel.proves(response, fresh, auth)

    def c6(self):
        drawn, known = self.drawn, self.register
        objects, self.names = [], []
        for number, (seed_value, secret) in enumerate(drawn["objects"], 1):
            public, duplicate = tpm.make_duplicate(drawn["duplicate_seed"], seed_value, secret)
            objects.append({1: number, 2: public, 3: duplicate, 4: drawn["duplicate_secret"]})
            self.names.append(tpm.name(public))
        voucher = known["voucher"]
        pin = [len(voucher.hashes) - 1, known["generation"], voucher.head]
        return self._reply(6, {
            1: self.schedule.th[5], 2: drawn["chain"], 3: drawn["roots"], 4: {1: known["terminus"], 2: []}, 5: objects,
            6: 1, 7: EMPTY, 8: voucher.epoch, 9: pin, 10: drawn["now"],
        })

    def _check_c7(self, body):
        must(body[1] == self.schedule.th[6], "E_TRANSCRIPT", "th_6")
        must(body[3] == self.names, "E_OBJECT", "Names")
        must(same(body[2], self.schedule.receipt()), "E_ACT", "receipt")

    def c8(self):
        return self._reply(8, {1: self.schedule.th[7], 2: self.drawn["now"]})


# ---- Device ----


class Device:
    """`made` is firmware, TPM and keys of the device, see `play.device_of`; `drawn` is what it and its TPM would draw."""

    def __init__(self, shapes, made, drawn):
        self.shapes, self.made, self.drawn = shapes, made, drawn
        self.epoch, self.pin, self.floor, self.seq, self.last = 0, None, 0, 0, (0, EMPTY)

    # With the init server.

    def i1(self):
        made = self.made
        self.sent = cbor.encode([1, 20, self.drawn["m_init"], {
            1: [1], 2: made["ek_name"], 3: self.epoch, 4: made["public"]["iak"], -1: made["public"]["ek"],
        }])
        return self.sent

    def take_i1c(self, wire):
        """I1P, the answer."""
        message = read_message(self.shapes, wire)
        must(message[1] == 21, "E_FORMAT", "not an I1C")
        must(message[2] == self.drawn["m_init"], "E_NONCE", "m")
        body, name = message[3], tpm.name(self.made["public"]["iak"])
        k_chal = tpm.activate_credential(self.made["ek_d"], name, body[1], body[2])
        return cbor.encode([1, 22, message[2], {1: body[3], 2: proof(k_chal, self.sent, wire)}])

    def take_i2(self, wire):
        made = self.made
        message = read_message(self.shapes, wire)
        must(message[1] == 23, "E_FORMAT", "not an I2")
        signer = made["init_keys"].get(cose.signer_id(message[3]))
        must(signer, "E_REDIRECT_SIG", "key of an unknown init server")
        payload = cose.verify(message[3], "gso1-i2", signer, "E_REDIRECT_SIG")
        members = self.shapes.outside("i2-payload", cbor.decode(payload))
        must(message[2] == self.drawn["m_init"] == members[2], "E_NONCE", "m")
        must(members[1] == made["ek_name"], "E_REDIRECT_SIG", "ek_name")
        must(members[3] == 1, "E_SUITE", "suite")
        voucher = papers.verify_voucher(self.shapes, members[6], made["trusted"])
        redirect, digest = papers.verify_redirect(self.shapes, members[4], members.get(5), voucher)
        must(voucher.header[2] == made["ek_name"], "E_REDIRECT_SIG", "voucher of another device")
        must(voucher.epoch >= self.epoch, "E_EPOCH", "voucher of a former owner")
        must(self.pin is None or voucher.contains(self.pin[0], self.pin[2]), "E_PIN", "pin")
        must(redirect[7] >= self.seq, "E_ROLLBACK", "seq")
        must(redirect[6] >= self.floor, "E_TIME", "redirect is expired")
        self.voucher, self.redirect_hash, self.seq = voucher, digest, redirect[7]

    # With the owner.

    def c1(self):
        made = self.made
        secret = owner_secret(made["n_root"], self.voucher.epoch)
        public = made["public"]
        body = cbor.encode({
            1: [1], 2: made["ek_name"], 3: public["ek"], 5: self.voucher.epoch, 6: public["ak"], 7: public["sto"],
            8: public["tls"], 9: public["iak"], 10: self.redirect_hash, 11: self.voucher.head, -1: made["point"],
        })
        wire = self.seal_c1(body)
        self.schedule = Schedule(secret).hello(wire, self.drawn["m"])
        return wire

    def seal_c1(self, body):
        secret = owner_secret(self.made["n_root"], self.voucher.epoch)
        key = hmac(secret, b"gs-seal-c1", self.drawn["m"])
        return seal(key, [1, 1, pseudonym(secret), self.drawn["m"]], body)

    def take_c2(self, wire):
        voucher, m = self.voucher, self.drawn["m"]
        message = read_message(self.shapes, wire)
        must(message[1] == 2, "E_FORMAT", "not a C2")
        must(message[2] == self.schedule.sid, "E_NONCE", "sid")
        m_em = message[3]
        opened = unseal(self.schedule.challenge_key(m, m_em), message, "E_GRANT")
        signed, grant, delegation = self.shapes.outside("c2-body", cbor.decode(opened))
        payload = cose.payload(signed)
        must(same(grant, self.schedule.grant(payload)), "E_GRANT", "grant")
        config, delegated = papers.verify_delegation(self.shapes, delegation, voucher.owner, 1, "E_CONFIG_CHAIN")
        generation = self.pin[1] if self.pin and self.pin[2] == voucher.head else 0
        must(delegated[4] >= generation and delegated[6] >= self.floor, "E_CONFIG_CHAIN", "delegation is outdated")
        cose.verify(signed, "gso1-c2", config, "E_CONFIG_CHAIN")
        members = self.shapes.read("c2-payload", payload)
        must(members[3] == voucher.epoch, "E_EPOCH", "epoch")
        must(members[4] == [1] and members[5] == 1, "E_SUITE", "suites")
        must(members[13] == m and members[14] == m_em, "E_NONCE", "M or M_em")
        right = (self.schedule.th[1], self.made["ek_name"], voucher.head)
        must((members[1], members[2], members[12]) == right, "E_TRANSCRIPT", "th_1, ek_name or voucher head")
        self.pin = (len(voucher.hashes) - 1, delegated[4], voucher.head)
        must(0 <= voucher.epoch - self.epoch <= 32, "E_EPOCH", "too many steps")
        self.epoch, self.config, self.challenge = voucher.epoch, config, members
        schedule = self.schedule.add(2, wire)
        k_act = tpm.activate_credential(self.made["ek_d"], self.made["name"]["ak"], members[6], members[7])
        self.schedule = schedule.proven(k_act)
        return members

    def c3(self):
        body = cbor.encode(self.c3_body())
        wire = self.schedule.seal(3, body)
        self.schedule = self.schedule.add(3, wire)
        return wire

    def c3_body(self):
        made, challenge, th_2 = self.made, self.challenge, self.schedule.th[2]
        salts = [tpm.receive("SECRET", made["ek_d"], secret, "E_TPM") for secret in challenge[8]]
        sessions = [[handle, nonce_tpm] for handle, nonce_tpm in zip(self.drawn["handles"], self.drawn["nonce_tpms"])]
        self.tunnels = [
            tpm.Tunnel(hierarchy, handle, salt, caller, nonce_tpm)
            for hierarchy, (handle, nonce_tpm), salt, caller in zip(("owner", "lockout"), sessions, salts, challenge[9])
        ]
        statements = []
        for number, what in enumerate((*OBJECTS, None), 1):
            read = self.drawn["statements"][number - 1]
            made_here = tpm.Statement(
                0x8017 if what else 0x8018, read.signer, qualifying(number, th_2), read.clock, read.safe, read.firmware
            )
            if what:
                made_here.name, made_here.qualified = made["name"][what], read.qualified
            else:
                made_here.selection = challenge[10]
                made_here.digest = sha256(*(made["pcrs"][pcr] for pcr in sorted(made["pcrs"])))
            data = made_here.encode()
            statements.append([data, tpm.signature(crypto.sign(made["d"]["ak"], data))])
        return {
            1: self.schedule.act(), 2: sessions, 3: statements[0], 4: statements[1], 5: statements[2], 6: statements[3],
            7: made["events"], 8: challenge[11], 9: made["ima"], 10: certificates.request(made["serial"], made["d"]["tls"]),
            11: made["permanent"], 12: False,
        }

    def _take_signed(self, wire, number):
        message = read_message(self.shapes, wire)
        must(message[1] == number and message[2] == self.schedule.sid, "E_NONCE", "number or sid")
        signed = cbor.decode(unseal(self.schedule.k_e2m, message, "E_GRANT"))
        must(isinstance(signed, bytes), "E_FORMAT", "not a signed document")
        payload = cose.verify(signed, f"gso1-c{number}", self.config, "E_CONFIG_CHAIN")
        members = self.shapes.read(f"c{number}-payload", payload)
        must(members[1] == self.schedule.th[number - 1], "E_TRANSCRIPT", f"th_{number - 1}")
        return members, payload

    def take_c4(self, wire):
        members, _ = self._take_signed(wire, 4)
        for command in members[2]:
            parsed = tpm.parse_command(command)
            must(parsed[1] in self.drawn["handles"], "E_COMMAND", "a session of another exchange")
        self.commands, self.schedule = members[2], self.schedule.add(4, wire)
        return members

    def c5(self):
        responses, self.new_auths = [], []
        for tunnel, command, nonce_tpm in zip(self.tunnels, self.commands, self.drawn["answer_nonces"]):
            fresh, attributes, auth = tunnel.execute(command)
            self.new_auths.append(auth)
            responses.append(tunnel.response(fresh, auth, nonce_tpm, self.drawn["answer_attributes"]))
        wire = self.schedule.seal(5, cbor.encode({1: self.schedule.th[4], 2: responses}))
        self.schedule = self.schedule.add(5, wire)
        return wire

    def take_c6(self, wire):
        members, payload = self._take_signed(wire, 6)
        must(members[8] == self.voucher.epoch, "E_EPOCH", "epoch")
        must(tuple(members[9]) == self.pin, "E_PIN", "pin")
        newer = members[6] > self.last[0] and members[7] == self.last[1] and members[10] >= self.floor
        must(newer, "E_ROLLBACK", "version, predecessor or time")
        tls = crypto.public_of(self.made["d"]["tls"])
        must(certificates.key_of(members[2][0], "E_CSR") == tls, "E_CSR", "certificate of another key")
        must(len({entry[1] for entry in members[5]}) == len(members[5]), "E_OBJECT", "one id twice")
        for entry in members[5]:
            public, prefix = entry[2], tpm.PREFIX["sealed"]
            must(public.startswith(prefix) and len(public) == len(prefix) + 32, "E_OBJECT", "public area")
        self.imported = [tpm.import_object(self.made["d"]["sto"], e[2], e[3], e[4]) for e in members[5]]
        self.names = [tpm.name(entry[2]) for entry in members[5]]
        self.configuration, self.configuration_hash = members, document_hash("gso1-c6", payload)
        self.schedule = self.schedule.add(6, wire)
        return members

    def c7(self):
        body = {1: self.schedule.th[6], 2: self.schedule.receipt(), 3: self.names}
        wire = self.schedule.seal(7, cbor.encode(body))
        self.schedule = self.schedule.add(7, wire)
        return wire

    def take_c8(self, wire):
        members, _ = self._take_signed(wire, 8)
        self.schedule = self.schedule.add(8, wire)
        self.floor, self.last = members[2], (self.configuration[6], self.configuration_hash)
        return members


# ---- Init server ----


class InitServer:
    def __init__(self, shapes, key, trusted, drawn):
        self.shapes, self.key, self.trusted, self.drawn = shapes, key, trusted, drawn
        self.devices, self.waiting = {}, {}

    def take_t1(self, wire):
        """T2, the answer."""
        message = read_message(self.shapes, wire)
        must(message[1] == 30, "E_FORMAT", "not a T1")
        members = message[2]
        voucher = papers.verify_voucher(self.shapes, members[3], self.trusted)
        redirect, _ = papers.verify_redirect(self.shapes, members[1], members.get(2), voucher)
        known = self.devices.get(redirect[1])
        if known:
            must(voucher.contains(len(known[0].hashes) - 1, known[0].head), "E_FORK", "another branch")
        if not known or (voucher.epoch, redirect[7]) > known[1]:
            known = (voucher, (voucher.epoch, redirect[7]), members)
            self.devices = self.devices | {redirect[1]: known}
        return cbor.encode([1, 31, {1: known[1][1]}])

    def take_i1(self, wire):
        """I1C, the answer."""
        message = read_message(self.shapes, wire)
        must(message[1] == 20, "E_FORMAT", "not an I1")
        body = message[3]
        must(4 in body and -1 in body, "E_FORMAT", "keys are missing")
        must(tpm.name(body[-1]) == body[2], "E_EK", "Name")
        tpm.point_of("ek", body[-1], "E_EK")
        must(body[1][0] == 1, "E_SUITE", "suite")
        tpm.point_of("iak", body[4], "E_AK_ATTR")
        blob = tpm.make_credential(self.drawn["seed"], tpm.name(body[4]), self.drawn["k_chal"])
        answer = cbor.encode([1, 21, message[2], {1: blob, 2: self.drawn["secret"], 3: self.drawn["n"]}])
        self.waiting = self.waiting | {(message[2], self.drawn["n"]): (wire, answer, body)}
        return answer

    def take_i1p(self, wire):
        """I2, the answer."""
        message = read_message(self.shapes, wire)
        must(message[1] == 22, "E_FORMAT", "not an I1P")
        members = message[3]
        found = self.waiting.get((message[2], members[1]))
        must(found, "E_NONCE", "no such challenge")
        i1, i1c, body = found
        must(same(members[2], proof(self.drawn["k_chal"], i1, i1c)), "E_ACT", "proof")
        known = self.devices.get(body[2])
        must(known, "E_UNKNOWN", "device")
        t1 = known[2]
        payload = {1: body[2], 2: message[2], 3: body[1][0], 4: t1[1], 6: t1[3]} | ({5: t1[2]} if 2 in t1 else {})
        return cbor.encode([1, 23, message[2], cose.sign1(self.key, "gso1-i2", cbor.encode(payload))])
