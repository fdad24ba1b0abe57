"""A site's private keys on its disk, and the request that shows their public halves.

Each generation of keys has a folder of its own, made whole or not at all. Private keys are
written with mode 0600 and leave this module only as key objects.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_client.identity.pins import SiteDamaged, read_file
from fedrx_common.errors import FedRxError
from fedrx_common.files import new_folder, write_private, write_public
from fedrx_common.key_files import load_ed25519, load_p384, openssh_of, pem_of
from fedrx_protocol.trust.enrolment import (
    EnrolmentRequest,
    SignedEnrolmentRequest,
    point_of,
    sign_request,
)

REQUEST = "enrolment-request.json"
BACKDATED_S = 86_400  # the coordinator's clock may be behind ours


@dataclass(frozen=True)
class Keys:
    """The two private keys of one generation."""

    identity: Ed25519PrivateKey
    authentication: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class RequestedEntry:
    """What a site asks for, beside its keys.

    Attributes:
        site: id on the roster.
        name: what people call it.
        validity_s: how long the entry shall be valid, in seconds.
    """

    site: str
    name: str
    validity_s: int


@dataclass(frozen=True)
class KeysFolder:
    """The folder of one generation of keys."""

    folder: Path

    @property
    def identity(self) -> Path:
        """The Ed25519 private key."""
        return self.folder / "identity.key"

    @property
    def supernode(self) -> Path:
        """The SuperNode's private key: OpenSSH, or encrypted PEM under a passphrase."""
        return self.folder / "supernode.key"

    def make(
        self, wish: RequestedEntry, *, now: int, passphrase: str | None
    ) -> SignedEnrolmentRequest:
        """Make both keys and their request; all or nothing.

        Raises:
            FolderUnusable: the folder does.
            EnrolmentInvalid: the wish cannot be granted by any roster.
            KeyUnusable: fewer than 12 characters.
        """
        keys = Keys(Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()))
        signed = request_of(keys, wish, now)
        # Flower's SuperNode reads OpenSSH without a passphrase and nothing else.
        supernode = (
            openssh_of(keys.authentication)
            if passphrase is None
            else pem_of(keys.authentication, passphrase)
        )
        with new_folder(self.folder) as partial:
            files = KeysFolder(partial)
            write_private(files.identity, pem_of(keys.identity, passphrase))
            write_private(files.supernode, supernode)
            files.keep(signed)
        return signed

    def load(self, passphrase: str | None) -> Keys:
        """Read both private keys.

        Raises:
            KeyUnusable: they are damaged or open to others on this machine; or the passphrase is
                missing or wrong.
            SiteDamaged: they are not the keys of the request beside them.
        """
        keys = Keys(
            load_ed25519(self.identity, passphrase),
            load_p384(self.supernode, passphrase),
        )
        request = self.request().request
        if _public(keys) != (request.identity, request.authentication):
            raise SiteDamaged(
                f"{self.folder}: the keys are not those of the request beside them; restore the "
                "folder from a backup."
            )
        return keys

    def keep(self, signed: SignedEnrolmentRequest) -> None:
        """Write the request."""
        write_public(self.folder / REQUEST, signed.to_json())

    def request(self) -> SignedEnrolmentRequest:
        """Read our own request, its signatures verified, its age not.

        Raises:
            SiteDamaged: it was changed.
        """
        path = self.folder / REQUEST
        data = read_file(path)
        try:
            signed = SignedEnrolmentRequest.from_json(data)
            signed.verify(signed.request.time)
        except FedRxError as error:
            raise SiteDamaged(f"{path}: {error} Restore it from a backup.") from None
        return signed


def request_of(keys: Keys, wish: RequestedEntry, now: int) -> SignedEnrolmentRequest:
    """A request for these keys, signed with both.

    Raises:
        EnrolmentInvalid: id, name or validity cannot be used.
    """
    identity, authentication = _public(keys)
    request = EnrolmentRequest(
        site=wish.site,
        name=wish.name,
        identity=identity,
        authentication=authentication,
        not_before=max(now - BACKDATED_S, 0),
        not_after=now + wish.validity_s,
        version=version("fedrx"),
        time=now,
    )
    return sign_request(request, keys.identity, keys.authentication)


def _public(keys: Keys) -> tuple[bytes, bytes]:
    identity = keys.identity.public_key().public_bytes_raw()
    return identity, point_of(keys.authentication.public_key())
