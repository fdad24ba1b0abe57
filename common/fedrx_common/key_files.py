"""Private keys on disk: PEM, permissions, passphrases."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from fedrx_common.errors import MisuseError
from fedrx_common.files import unusable
from fedrx_common.text import command

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PASSPHRASE_CHARACTERS = 12
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"


class KeyUnusable(MisuseError):
    """A private key that no party may use.

    It is damaged, of another kind, or readable by others on this machine; or its passphrase is
    missing, wrong, or so short that it can be guessed from a stolen file.
    """


def read_private(path: Path) -> bytes:
    """Read a file of ours, after a check of who else may read it.

    Raises:
        KeyUnusable: the group or others may read it.
        FolderUnusable: it cannot be read.
    """
    with unusable(path):
        if path.stat().st_mode & 0o077:
            raise KeyUnusable(
                f"{path}: others on this machine may read this private key; run "
                f"`{command('chmod', '600', path)}` "
                "and make new keys if anybody did."
            )
        return path.read_bytes()


def pem_of(key: PrivateKey, passphrase: str | None) -> bytes:
    """Write a private key as PKCS #8 PEM, encrypted (PBES2, AES-256) if there is a passphrase.

    Raises:
        KeyUnusable: it is shorter than 12 characters.
    """
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        if len(passphrase) < PASSPHRASE_CHARACTERS:
            raise KeyUnusable(
                f"A passphrase needs at least {PASSPHRASE_CHARACTERS} characters; take a longer "
                "one."
            )
        encryption = BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def openssh_of(key: EllipticCurvePrivateKey) -> bytes:
    """Write a private key as an unencrypted OpenSSH file; Flower's SuperNode reads no other."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def is_encrypted(path: Path) -> bool:
    """Say whether a private key file needs a passphrase.

    Raises:
        KeyUnusable: the group or others may read it.
        FolderUnusable: it cannot be read.
    """
    return read_private(path).startswith(_ENCRYPTED)


def load_ed25519(path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    """Read an Ed25519 private key; a passphrase that is not needed is ignored.

    Raises:
        KeyUnusable: it is damaged, of another kind, or open to the group or others; or its
            passphrase is missing or wrong.
    """
    key = _load(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{path}: is no Ed25519 private key; restore it from a backup.")
    return key


def load_p384(path: Path, passphrase: str | None) -> EllipticCurvePrivateKey:
    """Read an ECDSA P-384 private key, PEM or OpenSSH; an unneeded passphrase is ignored.

    Raises:
        KeyUnusable: it is damaged, of another kind, or open to the group or others; or its
            passphrase is missing or wrong.
    """
    key = _load(path, passphrase)
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise KeyUnusable(f"{path}: is no P-384 private key; restore it from a backup.")
    return key


def _load(path: Path, passphrase: str | None) -> object:
    data = read_private(path)
    if data.startswith(_ENCRYPTED) and passphrase is None:
        raise KeyUnusable(
            f"{path}: is encrypted; give its passphrase with --passphrase-file or in "
            "FEDRX_PASSPHRASE."
        )
    secret = passphrase.encode() if passphrase and data.startswith(_ENCRYPTED) else None
    try:
        if data.startswith(_OPENSSH):
            return load_ssh_private_key(data, None)
        return load_pem_private_key(data, secret)
    except (ValueError, TypeError):
        reason = "the passphrase is wrong" if secret else "the file is damaged"
        raise KeyUnusable(
            f"{path}: cannot be read, {reason}; try again, or restore it from a backup."
        ) from None
