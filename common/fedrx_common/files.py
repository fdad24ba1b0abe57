"""Files and folders that hold private keys: readable by their owner alone, whole or not there.

Used by both ends, each for its own folder; nothing here knows what a consortium or a site is.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from fedrx_common.errors import MisuseError
from fedrx_common.text import command

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PASSPHRASE_CHARACTERS = 12
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"


class FolderExists(MisuseError):  # noqa: N818 - named for what happened
    """The folder is there already; overwriting it could destroy keys that nobody else has."""


class FolderUnusable(MisuseError):  # noqa: N818
    """A file or folder of keys cannot be read or written."""


class KeyUnreadable(MisuseError):  # noqa: N818
    """A private key is damaged, of another kind, or its passphrase is missing or wrong."""


class KeyExposed(MisuseError):  # noqa: N818
    """Others on this machine may read a private key; it must be taken for stolen or be closed."""


class PassphraseWeak(MisuseError):  # noqa: N818
    """A passphrase so short that it can be guessed from a stolen file."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder (mode 0700) under another name; it appears at `path` whole, or not at all.

    What a killed process left behind is cleared by the next one that makes the same folder.

    Raises:
        FolderExists: `path` is there already, or is being made.
        FolderUnusable: the disk does not let us.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial")
    with unusable(path):
        _require_absent(path)
        with _claimed(partial):
            try:
                yield partial
                _sync_tree(partial)
                _require_absent(path)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while it is changed; waits for them.

    Raises:
        FolderUnusable: it is not there, or not ours.
    """
    with unusable(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unusable(path: Path) -> Iterator[None]:
    """Name an operating system's error after the file it happened to."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise FolderUnusable(
            f"{where}: cannot be read or written ({error.strerror}); check the path, the disk and "
            "the permissions, then try again."
        ) from None


def write_private(path: Path, data: bytes) -> None:
    """Write a file with mode 0600, all or nothing, and onto the disk."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that may be handed out (mode 0644), all or nothing, and onto the disk."""
    _write(path, data, 0o644)


def read_private(path: Path) -> bytes:
    """Read a file of ours, after a look at who else may.

    Raises:
        KeyExposed: the group or others may read it.
        FolderUnusable: it cannot be read.
    """
    with unusable(path):
        if path.stat().st_mode & 0o077:
            raise KeyExposed(
                f"{path}: others on this machine may read this private key; run "
                f"`{command('chmod', '600', path)}` "
                "and make new keys if anybody did."
            )
        return path.read_bytes()


def pem_of(key: PrivateKey, passphrase: str | None) -> bytes:
    """A private key as PKCS #8 PEM, encrypted (PBES2, AES-256) if there is a passphrase.

    Raises:
        PassphraseWeak: it is shorter than 12 characters.
    """
    return key.private_bytes(
        Encoding.PEM,
        PrivateFormat.PKCS8,
        NoEncryption() if passphrase is None else BestAvailableEncryption(_strong(passphrase)),
    )


def openssh_of(key: EllipticCurvePrivateKey) -> bytes:
    """A private key as an unencrypted OpenSSH file, the only form Flower's SuperNode reads."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def is_encrypted(path: Path) -> bool:
    """Whether a private key file needs a passphrase.

    Raises:
        KeyExposed: the group or others may read it.
        FolderUnusable: it cannot be read.
    """
    return read_private(path).startswith(_ENCRYPTED)


def load_ed25519(path: Path, passphrase: str | None) -> Ed25519PrivateKey:
    """Read an Ed25519 private key; a passphrase that is not needed is ignored.

    Raises:
        KeyUnreadable: damaged, of another kind, or its passphrase is missing or wrong.
        KeyExposed: the group or others may read it.
    """
    key = _load(path, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadable(f"{path}: is no Ed25519 private key; restore it from a backup.")
    return key


def load_p384(path: Path, passphrase: str | None) -> EllipticCurvePrivateKey:
    """Read an ECDSA P-384 private key, PEM or OpenSSH; an unneeded passphrase is ignored.

    Raises:
        KeyUnreadable: damaged, of another kind, or its passphrase is missing or wrong.
        KeyExposed: the group or others may read it.
    """
    key = _load(path, passphrase)
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise KeyUnreadable(f"{path}: is no P-384 private key; restore it from a backup.")
    return key


def sync_folder(folder: Path) -> None:
    """Flush a folder's names, without which a new file may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; the system may take fewer at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _load(path: Path, passphrase: str | None) -> object:
    data = read_private(path)
    if data.startswith(_ENCRYPTED) and passphrase is None:
        raise KeyUnreadable(
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
        raise KeyUnreadable(
            f"{path}: cannot be read, {reason}; try again, or restore it from a backup."
        ) from None


def _strong(passphrase: str) -> bytes:
    if len(passphrase) < PASSPHRASE_CHARACTERS:
        raise PassphraseWeak(
            f"A passphrase needs at least {PASSPHRASE_CHARACTERS} characters; take a longer one."
        )
    return passphrase.encode()


def _require_absent(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FolderExists(f"{path}: exists already; name a folder that does not.")


@contextmanager
def _claimed(partial: Path) -> Iterator[None]:
    """Make `partial` ours; a leftover that no living process holds is cleared first."""
    partial.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderExists(f"{partial}: another process is making this folder.") from None
        _empty(partial)
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    folder.chmod(0o700)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync_tree(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        sync_folder(Path(root))


def _write(path: Path, data: bytes, mode: int) -> None:
    partial = path.with_name(path.name + ".partial")
    with unusable(path):
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        try:
            os.fchmod(descriptor, mode)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        sync_folder(path.parent)
