"""Checks who asks: the signed token of a CDS client, against keys that the hospital put in a file.

A client's key is never fetched from an address that the token names (`jku`): the hospital decides
whom it knows. A token counts for one request only.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt

from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_common.errors import FedRxError, MisuseError

ALGORITHMS = ("ES384", "RS384", "ES256", "RS256")
"""The specification asks for the first two; the others are widely used."""
_LONGEST_LIFE_S = 300
_LEEWAY_S = 30
_LONGEST_TOKEN = 8_192
_MOST_REMEMBERED = 100_000


class TokenRefused(FedRxError):
    """A request has no token, or one that does not count; nothing was computed."""


class TokenCheck:
    """Knows the clients of a hospital by their public keys.

    Args:
        keys: by key id, a public key and the issuer that it belongs to.
        now: unix seconds.
    """

    def __init__(
        self, keys: Mapping[str, tuple[jwt.PyJWK, str]], now: Callable[[], float] = time.time
    ) -> None:
        self._keys, self._now = dict(keys), now
        self._seen: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_file(cls, path: Path) -> "TokenCheck":
        """Read a JWK Set in which every key has `kid` and `iss`, the client's issuer.

        Raises:
            MisuseError: it cannot be read, or a key is private, of another kind, or without names.
        """
        try:
            document = read_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MisuseError(f"{path}: there is no such file of clients' keys.") from None
        except (OSError, UnicodeDecodeError, DocumentInvalid) as error:
            raise MisuseError(f"{path}: cannot be read as JSON: {error}.") from None
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list) or not listed:
            raise MisuseError(f'{path}: is not a JWK Set; give {{"keys": [...]}} with one or more.')
        keys: dict[str, tuple[jwt.PyJWK, str]] = {}
        for number, one in enumerate(listed, 1):
            keys.update([_key(one, f"{path}, key {number}", keys)])
        return cls(keys)

    def require(self, header: str | None, audience: str) -> str:
        """Check the token of one request, and remember it.

        Args:
            header: the request's `Authorization` header.
            audience: address of the endpoint that was asked.

        Returns:
            The issuer: which client asks.

        Raises:
            TokenRefused: with a sentence that says why and quotes nothing of the token.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
            raise TokenRefused("the request has no bearer token.")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            if not isinstance(kid, str) or kid not in self._keys:
                raise TokenRefused("the token names a key that this hospital does not know.")
            key, issuer = self._keys[kid]
            claims = self._claims(token, key, audience, issuer)
        except jwt.PyJWTError as error:
            raise TokenRefused(f"the token does not count: {_words(error)}.") from None
        self._once(issuer, claims)
        return issuer

    def _claims(self, token: str, key: jwt.PyJWK, audience: str, issuer: str) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm_name],
            audience=audience,
            issuer=issuer,
            leeway=_LEEWAY_S,
            options={
                "require": ["iss", "aud", "exp", "iat", "jti"],
                # Time is this object's own, so that a test can move it.
                "verify_exp": False,
                "verify_iat": False,
            },
        )
        now, begins, ends = self._now(), claims["iat"], claims["exp"]
        if not all(isinstance(one, int | float) for one in (begins, ends)):
            raise TokenRefused("the token does not count: a time in it is not a number.")
        if ends + _LEEWAY_S < now or begins - _LEEWAY_S > now:
            raise TokenRefused("the token does not count: it is expired, or not valid yet.")
        if ends - begins > _LONGEST_LIFE_S:
            raise TokenRefused(
                f"the token does not count: it is valid for longer than {_LONGEST_LIFE_S} s."
            )
        return claims

    def _once(self, issuer: str, claims: Mapping[str, Any]) -> None:
        """Refuse a token that was used before; what has expired is forgotten."""
        name, now = (issuer, str(claims["jti"])), self._now()
        with self._lock:
            if name in self._seen:
                raise TokenRefused("the token was used before; sign a new one for each request.")
            if len(self._seen) >= _MOST_REMEMBERED:
                self._seen = {one: until for one, until in self._seen.items() if until >= now}
            if len(self._seen) >= _MOST_REMEMBERED:
                raise TokenRefused("too many tokens at once; ask again later.")
            self._seen[name] = float(claims["exp"]) + 2 * _LEEWAY_S


def _key(one: object, where: str, taken: Mapping[str, object]) -> tuple[str, tuple[jwt.PyJWK, str]]:
    """Read one key of a JWK Set."""
    if not isinstance(one, dict) or not all(isinstance(one.get(k), str) for k in ("kid", "iss")):
        raise MisuseError(f"{where}: needs 'kid' and 'iss', the issuer that the client signs as.")
    if "d" in one:
        raise MisuseError(f"{where}: is a private key; give the public one, and keep this secret.")
    if one["kid"] in taken:
        raise MisuseError(f"{where}: its kid is already that of another key.")
    try:
        key = jwt.PyJWK(one)
    except (jwt.PyJWTError, ValueError, TypeError):
        raise MisuseError(f"{where}: is not a public key that can be read.") from None
    if key.algorithm_name not in ALGORITHMS:
        raise MisuseError(
            f"{where}: is for {key.algorithm_name}; use one of {', '.join(ALGORITHMS)}."
        )
    return one["kid"], (key, one["iss"])


def _words(error: jwt.PyJWTError) -> str:
    """Say what is wrong with a token in words of ours: the library's could quote it."""
    kinds: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
        (jwt.InvalidSignatureError, "its signature is not the client's"),
        (jwt.InvalidAudienceError, "it is for another address"),
        (jwt.InvalidIssuerError, "its issuer is not that of its key"),
        (jwt.MissingRequiredClaimError, "iss, aud, exp, iat and jti must be in it"),
        (jwt.InvalidAlgorithmError, "it is signed with an algorithm that its key is not for"),
    )
    return next((told for kind, told in kinds if isinstance(error, kind)), "it is not well formed")
