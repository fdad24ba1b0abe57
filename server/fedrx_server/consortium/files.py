"""Where things are in a consortium folder, and the keys that are made once.

The signing key decides which sites belong; the authority's key decides which server is the
coordinator. Both can be encrypted. The TLS key cannot: the server reads it when it starts by
itself, and it is replaced without asking any site.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_common.canonical_json import MalformedMessage, from_base64, from_json, to_base64, to_json
from fedrx_common.errors import MisuseError
from fedrx_common.files import FolderDamaged, unusable, write_public
from fedrx_common.key_files import load_ed25519
from fedrx_common.text import fault_in, quoted


@dataclass(frozen=True)
class ConsortiumFiles:
    """The paths inside a consortium folder.

    Attributes:
        folder: the consortium folder, mode 0700.
    """

    folder: Path

    @property
    def about(self) -> Path:
        """Name, public key and time of birth."""
        return self.folder / "consortium.json"

    @property
    def signing_key(self) -> Path:
        """The Ed25519 private key that signs rosters."""
        return self.folder / "consortium.key"

    @property
    def authority_key(self) -> Path:
        """The CA's ECDSA P-384 private key."""
        return self.folder / "ca.key"

    @property
    def authority(self) -> Path:
        """The CA certificate, to hand out."""
        return self.folder / "ca.crt"

    @property
    def roster(self) -> Path:
        """The signed roster, to hand out."""
        return self.folder / "roster.json"

    @property
    def rosters(self) -> Path:
        """Every roster ever signed, one file a serial."""
        return self.folder / "rosters"

    @property
    def requests(self) -> Path:
        """The enrolment requests that were accepted, and their SuperNode keys."""
        return self.folder / "sites"

    @property
    def tls(self) -> Path:
        """A link to the folder of the present TLS key and certificate, swapped in one step."""
        return self.folder / "tls"

    @property
    def server_key(self) -> Path:
        """The SuperLink's TLS private key."""
        return self.tls / "server.key"

    @property
    def server_certificate(self) -> Path:
        """The SuperLink's TLS certificate."""
        return self.tls / "server.crt"

    @property
    def log(self) -> Path:
        """The hash-chained log of what the coordinator did."""
        return self.folder / "coordinator.log"


@dataclass(frozen=True)
class ConsortiumInfo:
    """What is fixed for the life of a consortium.

    Attributes:
        name: what people call it.
        consortium: its raw Ed25519 public key, 32 bytes.
        created: unix second of its birth.
    """

    name: str
    consortium: bytes
    created: int

    def __post_init__(self) -> None:
        # 64 is the upper bound of an X.509 common name.
        fault = fault_in(self.name, least=1, most=64)
        if fault is not None:
            raise MisuseError(
                f"The consortium's name {quoted(self.name)} {fault}; give another with --name."
            )

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return to_json(
            {
                "consortium": to_base64(self.consortium),
                "created": self.created,
                "name": self.name,
            }
        )

    @classmethod
    def read(cls, path: Path) -> "ConsortiumInfo":
        """Read what `to_json` wrote.

        Raises:
            FolderDamaged: it is not such a document.
            FolderUnusable: it is not there.
        """
        with unusable(path):
            data = path.read_bytes()
        try:
            document = from_json(data, source=str(path))
            name, created = document["name"], document["created"]
            if isinstance(name, str) and type(created) is int:
                key = from_base64(document["consortium"], source="The consortium key")
                return cls(name, key, created)
        except (MalformedMessage, MisuseError, KeyError, TypeError):
            pass
        raise FolderDamaged(f"{path}: is no description of a consortium; restore it from a backup.")


def signing_key(
    files: ConsortiumFiles, about: ConsortiumInfo, passphrase: str | None
) -> Ed25519PrivateKey:
    """Read the signing key and see that it is this consortium's.

    Raises:
        KeyUnusable: damaged, or its passphrase is missing or wrong.
        FolderDamaged: it is another consortium's.
    """
    key = load_ed25519(files.signing_key, passphrase)
    if key.public_key().public_bytes_raw() != about.consortium:
        raise FolderDamaged(
            f"{files.signing_key}: is not this consortium's key; restore it from a backup."
        )
    return key


def write_about(files: ConsortiumFiles, about: ConsortiumInfo) -> None:
    """Write name and public key; done once, when the folder is made."""
    write_public(files.about, about.to_json())
