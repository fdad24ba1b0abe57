"""From a VCF and a record's FHIR to a card: `fedrx site serve` as a process, asked over HTTP."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import jwt
import pytest
from bedside import MAPPING, bundle, measurements, person
from cryptography.hazmat.primitives.asymmetric import ec
from spare_ports import free_ports

from fedrx_client.data.privacy.deidentify import pseudonym
from fedrx_client.participation.settings import pseudonym_key
from fedrx_client.records.follow_up import FollowUpStore

COMMAND = Path(sys.executable).with_name("fedrx")
ISSUER = "https://ehr.example.org"
# The record has no genotypes: they are called from the laboratory's VCF.
FROM_VCF = (
    MAPPING.replace('[columns.vkorc1]\nmeasurement = ["loinc:50722-8"]', "")
    .replace('[columns.cyp2c9]\nmeasurement = ["loinc:46724-1"]', "")
    .replace(
        '[features.vkorc1]\nkind = "category"\ncolumn = "vkorc1"',
        '[features.vkorc1]\nkind = "category"\ncolumn = "vkorc1_bases"\n'
        'values = { "C/C" = "G/G", "C/T" = "A/G", "T/T" = "A/A" }',
    )
    .replace('column = "cyp2c9"', 'column = "cyp2c9_called"')
    + """
[genotypes]
file = "laboratory.vcf"
[columns.cyp2c9_called]
gene = "CYP2C9"
[columns.vkorc1_bases]
position = "rs9923231"
"""
)
SERVICES = """
[[service]]
id = "warfarin"
hook = "patient-view"
model = "iwpc.safetensors"
mapping = "record.toml"
guideline = "warfarin"
follow_up = true
"""


def fedrx(*words, cwd):
    command = [COMMAND, *words]
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def laboratory(real_data_root):
    """The public file of a *2/*3, as patient p1, with VKORC1 -1639 A/G."""
    text = (real_data_root / "vcf_pgx" / "cyp2c9" / "s2s3.vcf").read_text()
    lines = [re.sub(r"\tNA12878$", "\tp1", line) for line in text.splitlines()]
    return "\n".join([*lines, "chr16\t31096368\trs9923231\tC\tT\t.\tPASS\t.\tGT\t0/1", ""])


@pytest.fixture
def hospital(tmp_path, real_data_root):
    key = ec.generate_private_key(ec.SECP384R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    fedrx("site", "init", "site", "--site", "charite", "--name", "Charite", cwd=tmp_path)
    fedrx(
        "model", "published", "pharmacogenetic", "--output", "site/iwpc.safetensors", cwd=tmp_path
    )
    (tmp_path / "site" / "record.toml").write_text(FROM_VCF)
    (tmp_path / "site" / "services.toml").write_text(SERVICES)
    (tmp_path / "site" / "laboratory.vcf").write_text(laboratory(real_data_root))
    clients = {"keys": [{**public, "kid": "ehr", "iss": ISSUER}]}
    (tmp_path / "clients.json").write_text(json.dumps(clients))
    (port,) = free_ports(1)
    command = [COMMAND, "site", "serve", "site", "--port", str(port)]
    server = subprocess.Popen(
        [*command, "--clients", "clients.json"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, server.stderr.read()
            try:
                httpx.get(f"{address}/health", timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.3)
        yield tmp_path, address, key
    finally:
        server.terminate()
        server.wait(60)


def signed(key, audience):
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": audience, "iat": now, "exp": now + 60, "jti": uuid.uuid4().hex}
    token = jwt.encode(claims, key, "ES384", {"kid": "ehr"})
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.slow
@pytest.mark.real_data
def test_from_a_vcf_and_fhir_to_a_card_and_the_audit_log(hospital):
    folder, address, key = hospital
    place = f"{address}/cds-services/warfarin"
    (service,) = httpx.get(f"{address}/cds-services", timeout=60).json()["services"]
    assert service["id"] == "warfarin"
    some = [one for one in measurements() if one["id"] not in {"o3", "o4"}]
    queries = {"observation": bundle(*some), "patient": person()}
    question = {
        "hook": "patient-view",
        "hookInstance": str(uuid.uuid4()),
        "context": {"userId": "Practitioner/d1", "patientId": "p1"},
        "prefetch": {name: queries.get(name) for name in service["prefetch"]},
    }
    nobody = httpx.post(place, json=question, timeout=60)
    assert (nobody.status_code, "cards" in nobody.text) == (401, False)
    answer = httpx.post(place, json=question, headers=signed(key, place), timeout=60)
    assert answer.status_code == 200, answer.text
    (card,) = answer.json()["cards"]
    # By hand: 65 years, 170 cm, 80 kg, White, VKORC1 A/G, CYP2C9 *2/*3.
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 80 - 0.8677 - 1.9206
    assert f"{root**2:.3g} (" in card["summary"]
    assert "CYP2C9" in card["detail"]
    assert "FDA label: 0.5 to 2 mg/day" in card["detail"]
    (kept,) = FollowUpStore(folder / "site").all()
    assert kept.value == pytest.approx(root**2, rel=1e-4)
    assert kept.patient == pseudonym("p1", pseudonym_key(folder / "site"))
    told = {"feedback": [{"card": card["uuid"], "outcome": "accepted", "outcomeTimestamp": "now"}]}
    ended = httpx.post(
        f"{place}/feedback", json=told, headers=signed(key, f"{place}/feedback"), timeout=60
    )
    assert ended.status_code == 200, ended.text
    log = fedrx("site", "audit", "site", cwd=folder)
    assert f"card {card['uuid']}" in log
    assert "was accepted at https://ehr.example.org" in log
    everything = b"".join(one.read_bytes() for one in folder.rglob("*") if one.is_file())
    for secret in (b"Zquortmann", b"1961-02-03"):
        assert secret not in everything
