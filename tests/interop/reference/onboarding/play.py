"""The parties of the recorded run, with what they would draw taken from the recording."""

from . import cbor, cose, evidence, papers, tpm
from .session import Device, InitServer, Owner, owner_secret

POINT = "DE-0001.7"
TERMINUS = ["https://meters.example:8443"]


def trusted(vectors):
    return {vectors["key.voucher_id"]: (vectors["key.voucher_public"], vectors["key.voucher_second_id"])}


def owner_of(vectors, shapes):
    payload = cbor.decode(vectors["c2.payload"])
    last = cbor.decode(vectors["c6.payload"])
    hierarchies = ("owner", "lockout")
    register = {
        "secret": owner_secret(vectors["device.n_root"], 1), "ek_name": vectors["device.ek_name"],
        "ek_public": vectors["device.ek_public"], "suite": 1, "redirects": [vectors["init.redirect_hash"]],
        "voucher": papers.verify_voucher(shapes, vectors["paper.voucher"], trusted(vectors)),
        "config_d": vectors["key.config_d"], "delegation": vectors["paper.delegation"],
        "generation": cbor.decode(vectors["paper.delegation_payload"])[4],
        "policies": [cbor.decode(vectors["paper.policy_payload"])], "point": POINT, "serial": "GS-0000001",
        "terminus": TERMINUS,
    }
    sto = vectors["device.sto_d"]
    drawn = {
        "m_em": vectors["derived.m_em"], "k_act": vectors["derived.k_act"],
        "credential_seed": tpm.receive("IDENTITY", vectors["device.ek_d"], payload[7], "E_TPM"),
        "credential_secret": payload[7], "salts": [vectors[f"tunnel.{h}.salt"] for h in hierarchies],
        "salt_secrets": payload[8], "nonce_callers": [vectors[f"tunnel.{h}.nonce_caller_0"] for h in hierarchies],
        "fresh": [tpm.parse_command(vectors[f"tunnel.{h}.command"])[2] for h in hierarchies],
        "new_auths": [vectors[f"tunnel.{h}.new_auth"] for h in hierarchies],
        "duplicate_secret": last[5][0][4], "chain": last[2], "roots": last[3], "now": last[10],
        "duplicate_seed": tpm.receive("DUPLICATE", sto, last[5][0][4], "E_OBJECT"),
        "objects": [tpm.import_object(sto, entry[2], entry[3], entry[4]) for entry in last[5]],
    }
    return Owner(shapes, register, drawn)


def device_of(vectors, shapes):
    body = cbor.decode(vectors["c3.body"])
    kinds = ("ek", "ak", "sto", "tls", "iak")
    listed = evidence.read_ima(body[9])
    ten = bytes(32)
    for entry in listed:
        ten = evidence.extend(ten, entry[0])
    made = {
        "n_root": vectors["device.n_root"], "ek_name": vectors["device.ek_name"], "ek_d": vectors["device.ek_d"],
        "public": {kind: vectors[f"device.{kind}_public"] for kind in kinds},
        "name": {kind: vectors[f"device.{kind}_name"] for kind in kinds},
        "d": {kind: vectors[f"device.{kind}_d"] for kind in kinds},
        "init_keys": {vectors["key.init_id"]: vectors["key.init_public"]}, "trusted": trusted(vectors),
        "pcrs": {0: vectors["device.pcr_0"], 4: vectors["device.pcr_4"], 10: ten}, "point": POINT,
        "serial": "GS-0000001", "events": body[7], "ima": body[9], "permanent": body[11],
    }
    answers = [vectors[f"tunnel.{h}.response"] for h in ("owner", "lockout")]
    drawn = {
        "m_init": cbor.decode(vectors["init.i1"])[2], "m": vectors["derived.m"],
        "handles": [handle for handle, _ in body[2]],
        "nonce_tpms": [vectors[f"tunnel.{h}.nonce_tpm_0"] for h in ("owner", "lockout")],
        "statements": [tpm.Statement.parse(body[n][0], "E_CERTIFY") for n in (3, 4, 5, 6)],
        "answer_nonces": [answer[16:32] for answer in answers], "answer_attributes": answers[0][32:33],
    }
    return Device(shapes, made, drawn)


def init_server_of(vectors, shapes):
    challenge = cbor.decode(vectors["init.i1c"])[3]
    drawn = {"seed": vectors["init.seed"], "k_chal": vectors["init.k_chal"], "secret": challenge[2], "n": challenge[3]}
    return InitServer(shapes, vectors["key.init_d"], trusted(vectors), drawn)


def signed_again(vectors, key, kind, payload):
    """The recorded payload under the recorded key, signed by us."""
    return cose.sign1(vectors[f"key.{key}_d"], kind, vectors[payload])
