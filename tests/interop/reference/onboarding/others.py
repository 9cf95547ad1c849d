"""The other vector files: framing, orders, TPM structures, certificates, ML-DSA-65."""

from cryptography import x509

from . import Refused, cbor, certificates, cose, crypto, papers, session, tpm
from .crypto import hmac, sha256
from .vectors import Vectors

FILES = {
    "gso_framing": "_framing", "make_credential_ecc_p256": "_credential", "make_credential_rsa_2048": "_credential_rsa",
    "salted_session_hierarchy_change_auth": "_salted", "duplicate_import_ecc_p256": "_duplicate", "certify": "_certify",
    "ek_certificate_rsa_2048": "_ek_certificate", "ml_dsa_65": "_ml_dsa", "gso_recovery": "_recovery",
}


def check(report, folder, shapes):
    """All files; the values of the orders, whose shapes are looked at elsewhere."""
    files = {name: Vectors(folder / f"{name}.toml") for name in (*FILES, "quote", "gso_orders")}
    for name, function in FILES.items():
        report.group(f"{name}.toml" if name != "certify" else "certify.toml, quote.toml")
        _guarded(report, globals()[function], files, shapes)
    report.group("gso_orders.toml")
    _guarded(report, _orders, files, shapes)
    report.group("other values that were looked at")
    for vectors in files.values():
        for path in sorted(vectors.unseen):
            report.check(f"{vectors.name}: {path} was never looked at", False)
    report.check("all", True)
    return {path.removeprefix("value."): files["gso_orders"].raw(path) for path in _values(files["gso_orders"])}


def _values(vectors):
    return [f"value.{name}" for name in vectors.tables["value"]]


def _guarded(report, function, files, shapes):
    try:
        function(report, files, shapes)
    except (Refused, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        report.check(f"stopped: {type(error).__name__} {error}", False)


def _recovery(report, files, shapes):
    """A recovery entry under both keys, what must be refused, and a witness's word."""
    get = _get(files["gso_recovery"])
    voucher_key, owner, recovery, heir, witness = (
        crypto.public_of(get(f"{name}_key_d")) for name in ("voucher", "owner", "recovery", "next", "witness"))

    def trusted(second, recovery_second):
        return {cose.key_id(voucher_key): (voucher_key, second, {cose.key_id(recovery): (recovery, recovery_second)})}

    both = trusted(sha256(get("voucher_second")), sha256(get("recovery_second")))
    voucher = papers.verify_voucher(shapes, get("voucher"), both)
    report.equal("owner, epoch, head", (voucher.owner, voucher.epoch, voucher.head),
                 (heir, files["gso_recovery"].raw("value.epoch"), get("voucher_head")))
    report.check("owner before", owner != heir)
    if not voucher.second_checked:
        report.skip("second signatures: this version of `cryptography` has no ML-DSA-65")
    plain = trusted(None, None)
    report.equal("without second keys", papers.verify_voucher(shapes, get("plain"), plain).epoch, 2)
    for name in ("vendor", "owner", "first", "epoch", "sale", "unknown"):
        said = _code(papers.verify_voucher, shapes, get(f"refused_{name}"), plain)
        report.equal(f"refused: {name}", said, "E_VOUCHER")
    said = _code(papers.verify_voucher, shapes, get("plain"), {cose.key_id(voucher_key): (voucher_key, None)})
    report.equal("no recovery key is trusted", said, "E_VOUCHER")
    head = papers.verify_log_head(shapes, get("log_head"), plain)
    log = cose.key_id(voucher_key)
    report.check("witnessed", papers.witnessed(shapes, get("witness_word"), witness, head, log))
    report.check("another list", not papers.witnessed(shapes, get("witness_other_word"), witness, head, log))
    report.equal("another witness", _code(papers.witnessed, shapes, get("witness_word"), heir, head, log), "E_VOUCHER")


def _code(action, *arguments):
    try:
        action(*arguments)
    except Refused as refused:
        return refused.code
    return None


def _get(vectors):
    return lambda name: vectors[f"value.{name}"]


def _framing(report, files, shapes):
    get = _get(files["gso_framing"])
    voucher_key, owner, config = (crypto.public_of(get(f"{name}_key_d")) for name in ("voucher", "owner", "config"))
    report.equal("owner_cose_key", cbor.encode(cose.key(owner)), get("owner_cose_key"))
    report.equal("owner_key_id", cose.key_id(owner), get("owner_key_id"))
    n_1 = session.owner_secret(get("n_root"), 1)
    report.equal("n_1", n_1, get("n_1"))
    report.equal("n_commit", papers.commitment(n_1), get("n_commit"))
    report.equal("kid", session.pseudonym(n_1), get("kid"))
    voucher = papers.verify_voucher(shapes, get("voucher"), {cose.key_id(voucher_key): (voucher_key, None)})
    header = cbor.decode(get("voucher"))[0]
    report.equal("voucher_header_payload", cose.payload(header), get("voucher_header_payload"))
    report.equal("header", voucher.header[5], get("n_commit"))
    report.equal("voucher_header_hash", voucher.hashes[0], get("voucher_header_hash"))
    report.equal("voucher_head", voucher.head, get("voucher_head"))
    report.equal("owner", voucher.owner, owner)
    delegated, _ = papers.verify_delegation(shapes, get("delegation"), owner, 1, "E_CONFIG_CHAIN")
    report.equal("delegation", delegated, config)
    _, digest = papers.verify_redirect(shapes, get("redirect"), None, voucher)
    report.equal("redirect_hash", digest, get("redirect_hash"))
    m, m_em = get("M"), get("M_em")
    schedule = session.Schedule(n_1).hello(get("c1_wire"), m)
    body = shapes.read("c1-body", get("c1_body"))
    report.equal("c1: Name", tpm.name(body[3]), get("ek_name"))
    report.equal("c1: device", (body[2], body[5], body[10], body[11]), (get("ek_name"), 1, digest, voucher.head))
    report.equal("k_c1", schedule.k_c1, get("k_c1"))
    report.equal("c1_wire", session.seal(schedule.k_c1, [1, 1, get("kid"), m], get("c1_body")), get("c1_wire"))
    report.equal("sid", schedule.sid, get("sid"))
    payload = shapes.read("c2-payload", get("c2_payload"))
    report.equal("c2: bound", (payload[1], payload[2], payload[12], payload[13], payload[14]),
                 (schedule.th[1], get("ek_name"), voucher.head, m, m_em))
    header = cose.protected(cose.key_id(config))
    structure = cose.to_be_signed(header, "gso1-c2", get("c2_payload"))
    report.equal("c2_sig_structure_sha256", sha256(structure), get("c2_sig_structure_sha256"))
    report.check("c2_signature", crypto.verifies(config, structure, get("c2_signature")))
    report.equal("grant", schedule.grant(get("c2_payload")), get("grant"))
    key = schedule.challenge_key(m, m_em)
    report.equal("k_c2", key, get("k_c2"))
    signed = cbor.encode([header, {}, get("c2_payload"), get("c2_signature")])
    c2 = cbor.encode([signed, schedule.grant(get("c2_payload")), get("delegation")])
    report.equal("c2_wire", session.seal(key, [1, 2, schedule.sid, m_em], c2), get("c2_wire"))
    schedule = schedule.add(2, get("c2_wire")).proven(get("k_act"))
    for number in range(3):
        report.equal(f"th{number}", schedule.th[number], get(f"th{number}"))
    for name in ("k_s", "k_m2e", "k_e2m"):
        report.equal(name, getattr(schedule, name), get(name))
    report.equal("act", schedule.act(), get("act"))
    for number, what in enumerate(("sto", "tls", "iak", "quote"), 1):
        report.equal(f"qd_{what}", session.qualifying(number, schedule.th[2]), get(f"qd_{what}"))
    report.equal("c5", schedule.seal(5, get("c5_body_example")), get("c5_wire_example"))
    shapes.read("c5-body", get("c5_body_example"))


def _orders(report, files, shapes):
    get, framing = _get(files["gso_orders"]), _get(files["gso_framing"])
    secret, seq = framing("n_1"), get("seq")
    count = seq.to_bytes(8, "big")
    keys = {
        "order": hmac(secret, b"gs-order-v1", count, get("r")), "poll": hmac(secret, b"gs-poll-v1", get("r3")),
        "result": hmac(secret, b"gs-ores-v1", count, get("r"), get("r2")),
    }
    heads = {"order": [1, 9, seq, get("r")], "result": [1, 10, seq, get("r2")], "poll": [1, 11, framing("kid"), get("r3")]}
    config = crypto.public_of(framing("config_key_d"))
    signed, delegation = shapes.read("order-body", get("order_body"))
    report.equal("order payload", cose.verify(signed, "gso1-order", config, "E_CONFIG_CHAIN"), get("attest_payload"))
    report.equal("delegation", delegation, framing("delegation"))
    for name in ("r", "r2", "r3"):
        report.equal(name, _stand_in(name.upper()), get(name))
    inner = {"order": get("order_body"), "result": get("attest_result_body"), "poll": get("poll_body")}
    for kind, key in keys.items():
        report.equal(f"k_{kind}", key, get(f"k_{kind}"))
        report.equal(f"{kind}_wire", session.seal(key, heads[kind], inner[kind]), get(f"{kind}_wire"))
        shapes.read(kind, get(f"{kind}_wire"))
    for number, (kind, (asked, answer)) in enumerate(_bodies().items(), 1):
        payload = cbor.encode({1: framing("ek_name"), 2: 1, 3: seq, 4: number, 5: asked, 6: 1_767_225_600})
        report.equal(f"{kind}_payload", payload, get(f"{kind}_payload"))
        result = cbor.encode({1: sha256(payload), 2: 0, 3: answer})
        report.equal(f"{kind}_result_body", result, get(f"{kind}_result_body"))
        shapes.read("result-body", result)
    refused = cbor.encode({1: sha256(get("attest_payload")), 2: 26, 3: {}})
    report.equal("refused_result_body", refused, get("refused_result_body"))
    report.equal("poll_body", cbor.encode({1: seq - 1}), get("poll_body"))
    digest = cose.document_hash("gso1-c6", get("provision_payload"))
    report.equal("provision_config_digest", digest, get("provision_config_digest"))


def _stand_in(label):
    """What docs/protocol/vectors.md says stands for a document inside an order."""
    return sha256(b"gso-orders vector", label.encode())


def _bodies():
    """What each kind asks, and its answer."""
    f = _stand_in
    statement, area = [b"\xffTCG" + f("attest") * 2, f("signature") * 2], f("public") * 2
    pin, entry = [2, 7, f("entry")], f("signed entry") * 4
    configuration = {
        2: [f("leaf"), f("issuer")], 3: [f("root")], 4: {1: ["https://head.example:4059"], 2: [f("pin")]},
        5: [{1: 1, 2: area, 3: f("duplicate"), 4: f("seed")}], 6: 4, 7: f("previous"), 8: 1, 9: pin, 10: 1_767_225_600,
    }
    sessions = {1: [f("salt"), f("salt 2")], 2: [f("caller")[:16], f("caller 2")[:16]]}
    opened = {1: [[0x02000000, f("tpm")[:16]], [0x02000001, f("tpm 2")[:16]]], 2: 0x405}
    return {
        "provision": (configuration, {1: [b"\x00\x0b" + f("name")]}),
        "attest": ({1: tpm.pcr_selection(range(12)), 2: 300},
                   {1: statement, 2: f("events"), 3: 300, 4: b"", 5: 0x405, 6: False}),
        "sessions": (sessions, opened),
        "commands": ({1: [f("command")]}, {1: [f("command")[:10]]}),
        "suspend": ({}, {}), "resume": ({}, {}), "release": ({1: entry}, {}), "decommission": ({}, {9: statement}),
        "renew": ({1: 1}, {1: area, 2: statement, 3: f("csr"), 4: area, 5: statement}),
        "rekey": ({1: [entry, entry]}, {1: pin}),
    }


def _shared(report, get, use, parent):
    """Seed, both keys of the wrapper, and what travels, of a one-time key that is known."""
    one_time = crypto.public_of(get("ephemeral_d"))
    report.equal("eph", one_time, get("eph_x") + get("eph_y"))
    report.equal("z_x", crypto.ecdh(get("ephemeral_d"), parent), get("z_x"))
    report.equal("parties", (one_time[:32], parent[:32]), (get("party_u"), get("party_v")))
    seed, secret = tpm.share(use, get("ephemeral_d"), parent)
    report.equal("seed", seed, get("seed"))
    return seed, secret


def _wrapped(report, get, seed, plain, encrypted_name, blob_name):
    key, integrity = tpm._wrapper(seed, get("object_name"))
    report.equal("sym_key", key, get("sym_key"))
    report.equal("hmac_key", integrity, get("hmac_key"))
    encrypted = crypto.cfb(key, bytes(16), plain)
    report.equal(encrypted_name, encrypted, get(encrypted_name))
    report.equal("integrity", hmac(integrity, encrypted, get("object_name")), get("integrity"))
    report.equal(blob_name, tpm.wrap(seed, get("object_name"), plain), get(blob_name))


def _point_at_end(public):
    return public[-66:-34] + public[-32:]


def _credential(report, files, _shapes):
    get = _get(files["make_credential_ecc_p256"])
    parent = crypto.public_of(get("parent_private_d"))
    report.equal("parent_public", _point_at_end(get("parent_public")), parent)
    report.equal("object_name", tpm.name(get("ak_public")), get("object_name"))
    seed, secret = _shared(report, get, "IDENTITY", parent)
    report.equal("secret", secret, get("secret"))
    _wrapped(report, get, seed, tpm.sized(get("credential")), "enc_identity", "credentialBlob")
    opened = tpm.activate_credential(get("parent_private_d"), get("object_name"), get("credentialBlob"), secret)
    report.equal("credential", opened, get("credential"))


def _credential_rsa(report, files, _shapes):
    get = _get(files["make_credential_rsa_2048"])
    p, q = (int.from_bytes(get(name), "big") for name in "pq")
    report.equal("parent_public", get("parent_public")[-256:], (p * q).to_bytes(256, "big"))
    label = b"IDENTITY\x00"
    report.equal("oaep_label", label, get("oaep_label"))
    block = sha256(label) + bytes(256 - 32 - 66) + b"\x01" + get("seed")
    masked = _xor(block, _mgf1(get("oaep_seed"), len(block)))
    whole = b"\x00" + _xor(get("oaep_seed"), _mgf1(masked, 32)) + masked
    secret = tpm.sized(pow(int.from_bytes(whole, "big"), 65537, p * q).to_bytes(256, "big"))
    report.equal("secret", secret, get("secret"))
    report.equal("seed", tpm.receive_rsa("IDENTITY", p, q, secret), get("seed"))
    _wrapped(report, get, get("seed"), tpm.sized(get("credential")), "enc_identity", "credentialBlob")


def _mgf1(seed, size):
    return b"".join(sha256(seed, count.to_bytes(4, "big")) for count in range((size + 31) // 32))[:size]


def _xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right))


def _salted(report, files, _shapes):
    get = _get(files["salted_session_hierarchy_change_auth"])
    ek = tpm.point_of("ek", get("ek_public"), "E_EK")
    report.equal("z_x", crypto.ecdh(get("ephemeral_d"), ek), get("z_x"))
    salt, encrypted = tpm.share("SECRET", get("ephemeral_d"), ek)
    report.equal("salt", salt, get("salt"))
    report.equal("encryptedSalt", encrypted, get("encryptedSalt"))
    handle = int.from_bytes(get("sessionHandle"), "big")
    tunnel = tpm.Tunnel("owner", handle, salt, get("nonceCaller0"), get("nonceTPM0"))
    report.equal("sessionKey", tunnel.session_key, get("sessionKey"))
    fresh, new_auth = get("nonceCaller1"), get("newAuth")
    key, iv = tunnel._keystream(fresh)
    report.equal("cfb_key_iv", key + iv, get("cfb_key_iv"))
    parameter = tpm.sized(crypto.cfb(key, iv, new_auth))
    report.equal("param_encrypted", parameter, get("param_encrypted"))
    report.equal("cpHash", sha256(tpm.CHANGE_AUTH, tpm.HIERARCHY["owner"], parameter), get("cpHash"))
    report.equal("cmdHMAC", tunnel._mac(fresh, b"\x21", parameter), get("cmdHMAC"))
    report.equal("command", tunnel.command(fresh, new_auth, b"\x21"), get("command"))
    report.equal("executed", tunnel.execute(get("command")), (fresh, b"\x21", new_auth))
    nonce_tpm, attributes = tunnel.proves(get("response"), fresh, new_auth)
    report.equal("nonceTPM1", nonce_tpm, get("nonceTPM1"))
    report.equal("rpHash", sha256(bytes(4), tpm.CHANGE_AUTH), get("rpHash"))
    report.equal("response", tunnel.response(fresh, new_auth, nonce_tpm, attributes), get("response"))


def _duplicate(report, files, _shapes):
    get = _get(files["duplicate_import_ecc_p256"])
    parent = _get(files["make_credential_ecc_p256"])
    seed, secret = _shared(report, get, "DUPLICATE", crypto.public_of(parent("parent_private_d")))
    report.equal("inSymSeed", secret, get("inSymSeed"))
    public, _ = tpm.make_duplicate(seed, get("seed_value"), get("secret"))
    report.equal("object_public", public, get("object_public"))
    report.equal("object_name", tpm.name(public), get("object_name"))
    sensitive = b"\x00\x08" + tpm.sized(b"") + tpm.sized(get("seed_value")) + tpm.sized(get("secret"))
    report.equal("sensitive", sensitive, get("sensitive"))
    _wrapped(report, get, seed, tpm.sized(sensitive), "enc_sensitive", "duplicate")
    opened = tpm.import_object(parent("parent_private_d"), public, get("duplicate"), secret)
    report.equal("imported", opened, (get("seed_value"), get("secret")))


def _certify(report, files, _shapes):
    get = _get(files["certify"])
    key = tpm.point_of("ak", get("ak_public"), "E_AK_ATTR")
    pair = [get("attest"), get("signature")]
    statement = tpm.verify_statement(0x8017, pair, key, get("qualifyingData"), "E_CERTIFY")
    report.equal("name", statement.name, tpm.name(get("object_public")))
    report.equal("attest", statement.encode(), get("attest"))
    get = _get(files["quote"])
    pair = [get("attest"), get("signature")]
    statement = tpm.verify_statement(0x8018, pair, key, get("qualifyingData"), "E_QUOTE")
    report.equal("quote", statement.encode(), get("attest"))
    report.equal("selection", statement.selection, tpm.pcr_selection([7, 10]))
    report.equal("digest", statement.digest, sha256(get("pcr7"), get("pcr10")))


def _ek_certificate(report, files, _shapes):
    get = _get(files["ek_certificate_rsa_2048"])
    leaf, issuing, root = (x509.load_der_x509_certificate(get(name)) for name in ("leaf", "issuing", "root"))
    revoked = x509.load_der_x509_crl(get("revocations"))
    report.check("leaf", certificates.signed_by(leaf, issuing.public_key()) and leaf.issuer == issuing.subject)
    report.check("issuing", certificates.signed_by(issuing, root.public_key()) and issuing.issuer == root.subject)
    report.check("root", certificates.signed_by(root, root.public_key()))
    report.check("revocations", certificates.signed_by(revoked, issuing.public_key()))
    report.check("revoked", revoked.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None)
    report.equal("modulus", leaf.public_key().public_numbers().n.to_bytes(256, "big"), get("modulus"))
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    report.check("purpose", "2.23.133.8.1" in [usage.dotted_string for usage in usages])
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    report.check("keyEncipherment", usage.key_encipherment)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    directory = names.get_values_for_type(x509.DirectoryName)
    found = {entry.oid.dotted_string for name in directory for entry in name}
    report.check("attributes", found >= {f"2.23.133.2.{number}" for number in (1, 2, 3)})


def _ml_dsa(report, files, _shapes):
    get = _get(files["ml_dsa_65"])
    public = crypto.ml_dsa_public(get("seed"))
    verdict = crypto.ml_dsa_verifies(get("public_key"), get("message"), get("signature"))
    if verdict is None:
        report.skip("ML-DSA-65: this release of the package cryptography does not know it")
        return
    report.equal("public_key", public, get("public_key"))
    report.check("signature", verdict)
    changed = bytes([get("message")[0] ^ 1]) + get("message")[1:]
    report.check("of another message", not crypto.ml_dsa_verifies(public, changed, get("signature")))
