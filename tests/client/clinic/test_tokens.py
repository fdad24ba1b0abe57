"""The token of a CDS client: whose it is, for what, for how long, and once."""

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fedrx_client.clinic.service.tokens import TokenCheck, TokenRefused
from fedrx_common.errors import MisuseError

AUDIENCE = "https://cds.example.org/cds-services/dose"
ISSUER = "https://ehr.example.org"


@pytest.fixture(scope="module")
def keys():
    """A key of the client, and one of a stranger."""
    return ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())


def jwks(path, key, **more):
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    path.write_text(json.dumps({"keys": [{**public, "kid": "k1", "iss": ISSUER, **more}]}))
    return path


@pytest.fixture
def check(tmp_path, keys):
    return TokenCheck.from_file(jwks(tmp_path / "clients.json", keys[0]))


def header(key, *, kid="k1", algorithm="ES384", **changes):
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 60,
        "jti": str(time.time_ns()),
    }
    claims = {name: v for name, v in {**claims, **changes}.items() if v is not None}
    return "Bearer " + jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


def test_a_known_client_is_let_in_once(check, keys):
    token = header(keys[0])
    assert check.require(token, AUDIENCE) == ISSUER
    with pytest.raises(TokenRefused, match="used before"):
        check.require(token, AUDIENCE)
    assert check.require(header(keys[0], aud=["x", AUDIENCE]), AUDIENCE) == ISSUER


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"aud": "https://cds.example.org/cds-services/other"}, "for another address"),
        ({"iss": "https://stranger.example.org"}, "issuer"),
        ({"exp": int(time.time()) - 3600, "iat": int(time.time()) - 3660}, "expired"),
        ({"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3660}, "not valid yet"),
        ({"exp": int(time.time()) + 86_400}, "longer than 300 s"),
        ({"exp": None}, "must be in it"),
        ({"jti": None}, "must be in it"),
        ({"iat": "soon"}, "not"),
        ({"kid": "k2"}, "does not know"),
    ],
)
def test_a_token_that_does_not_count_is_refused(check, keys, changes, told):
    with pytest.raises(TokenRefused, match=told):
        check.require(header(keys[0], **changes), AUDIENCE)


def test_forged_tokens_are_refused(check, keys):
    with pytest.raises(TokenRefused, match="signature"):
        check.require(header(keys[1]), AUDIENCE)
    none = "Bearer " + jwt.encode({"iss": ISSUER}, None, algorithm="none", headers={"kid": "k1"})
    for forged in (none, "Bearer x.y.z", "Bearer ", "Basic abc", None, "Bearer " + "a" * 9000):
        with pytest.raises(TokenRefused):
            check.require(forged, AUDIENCE)
    # The public key as a shared secret: what it is signed with is not what the key is for.
    shared = "Bearer " + jwt.encode(
        {"iss": ISSUER}, "a secret that is long enough, of 32 bytes", "HS256", {"kid": "k1"}
    )
    with pytest.raises(TokenRefused):
        check.require(shared, AUDIENCE)


def test_what_is_remembered_of_used_tokens_is_bounded_by_their_life(keys, tmp_path, monkeypatch):
    monkeypatch.setattr("fedrx_client.clinic.service.tokens._MOST_REMEMBERED", 2)
    known = TokenCheck.from_file(jwks(tmp_path / "clients.json", keys[0]))
    clock = [time.time()]
    check = TokenCheck(known._keys, now=lambda: clock[0])
    for _ in range(2):
        check.require(header(keys[0]), AUDIENCE)
    with pytest.raises(TokenRefused, match="too many"):
        check.require(header(keys[0]), AUDIENCE)
    clock[0] += 200
    late = int(clock[0])
    assert check.require(header(keys[0], iat=late, exp=late + 60), AUDIENCE) == ISSUER


def test_a_file_of_keys_that_cannot_serve_is_refused(tmp_path, keys):
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(keys[0]))
    hmac = {"kty": "oct", "k": "c2VjcmV0", "kid": "k", "iss": ISSUER}
    nameless = {k: v for k, v in private.items() if k != "d"}
    for content, told in [
        ("{", "JSON"),
        ("[]", "JWK Set"),
        ('{"keys": []}', "JWK Set"),
        (json.dumps({"keys": [nameless]}), "'kid' and 'iss'"),
        (json.dumps({"keys": [{**private, "kid": "k", "iss": ISSUER}]}), "private"),
        (json.dumps({"keys": [hmac]}), "use one of"),
        (json.dumps({"keys": [{"kty": "XX", "kid": "k", "iss": ISSUER}]}), "cannot|not a public"),
    ]:
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(MisuseError, match=told):
            TokenCheck.from_file(tmp_path / "c.json")
    with pytest.raises(MisuseError, match="no such file"):
        TokenCheck.from_file(tmp_path / "none.json")
    twice = jwks(tmp_path / "c.json", keys[0]).read_text()
    (tmp_path / "c.json").write_text(json.dumps({"keys": 2 * json.loads(twice)["keys"]}))
    with pytest.raises(MisuseError, match="already"):
        TokenCheck.from_file(tmp_path / "c.json")


def test_rsa_keys_serve_too(tmp_path):
    key = rsa.generate_private_key(65537, 2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    document = {"keys": [{**public, "kid": "k1", "iss": ISSUER, "alg": "RS384"}]}
    (tmp_path / "c.json").write_text(json.dumps(document))
    check = TokenCheck.from_file(tmp_path / "c.json")
    assert check.require(header(key, algorithm="RS384"), AUDIENCE) == ISSUER
    with pytest.raises(TokenRefused):
        check.require(header(key, algorithm="RS256"), AUDIENCE)
