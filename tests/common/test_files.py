"""Private keys on disk: modes, passphrases, and folders that are whole or not there."""

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from apart import exit_code
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_common.files import (
    FolderUnusable,
    LockHeld,
    locked,
    new_folder,
    release_lock,
    take_lock,
    write_file,
    write_private,
    write_public,
)
from fedrx_common.key_files import (
    KeyUnusable,
    is_encrypted,
    load_ed25519,
    load_p384,
    openssh_of,
    pem_of,
)

ED = Ed25519PrivateKey.from_private_bytes(b"e" * 32)
P384 = ec.derive_private_key(11, ec.SECP384R1())
PASSPHRASE = "correct horse battery"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def key(tmp_path):
    return tmp_path / "some.key"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_private(tmp_path / "a", b"1")
        write_public(tmp_path / "b", b"2")
        with new_folder(tmp_path / "folder") as partial:
            write_private(partial / "c", b"3")
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("a", "b", "folder", "folder/c")] == [
        0o600,
        0o644,
        0o700,
        0o600,
    ]


def test_a_wide_open_file_is_replaced_not_reused(key):
    key.write_bytes(b"old")
    key.chmod(0o666)
    key.with_name("some.key.partial").write_bytes(b"left behind, world-readable")
    write_private(key, b"new")
    assert key.read_bytes() == b"new"
    assert mode(key) == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["some.key"]


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_keys_come_back(key, passphrase):
    write_private(key, pem_of(ED, passphrase))
    assert is_encrypted(key) == (passphrase is not None)
    assert load_ed25519(key, passphrase).private_bytes_raw() == ED.private_bytes_raw()
    write_private(key, pem_of(P384, passphrase))
    assert load_p384(key, passphrase).private_numbers() == P384.private_numbers()


def test_an_encrypted_file_does_not_hold_the_key(key):
    write_private(key, pem_of(ED, PASSPHRASE))
    assert pem_of(ED, None).splitlines()[1] not in key.read_bytes()
    assert key.read_bytes() != pem_of(ED, PASSPHRASE)  # salted


def test_openssh_keys_come_back(key):
    write_private(key, openssh_of(P384))
    assert load_p384(key, None).private_numbers() == P384.private_numbers()


def test_a_passphrase_that_is_not_needed_is_ignored(key):
    write_private(key, pem_of(ED, None))
    assert load_ed25519(key, "whatever it is")
    write_private(key, openssh_of(P384))
    assert load_p384(key, "whatever it is")


def test_a_missing_and_a_wrong_passphrase(key):
    write_private(key, pem_of(ED, PASSPHRASE))
    with pytest.raises(KeyUnusable, match="--passphrase-file"):
        load_ed25519(key, None)
    with pytest.raises(KeyUnusable, match="passphrase is wrong") as caught:
        load_ed25519(key, "another passphrase")
    assert "another" not in str(caught.value)


def test_a_short_passphrase():
    with pytest.raises(KeyUnusable, match="12 characters"):
        pem_of(ED, "eleven char")
    assert pem_of(ED, "twelve chars")


@pytest.mark.parametrize("data", [b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\xff" * 50])
def test_a_damaged_key(key, data):
    write_private(key, data)
    for load in (load_ed25519, load_p384):
        with pytest.raises(KeyUnusable, match="damaged"):
            load(key, None)


def test_a_key_of_another_kind(key):
    write_private(key, pem_of(P384, None))
    with pytest.raises(KeyUnusable, match="no Ed25519"):
        load_ed25519(key, None)
    for other in (ED, ec.derive_private_key(3, ec.SECP256R1())):
        write_private(key, pem_of(other, None))
        with pytest.raises(KeyUnusable, match="no P-384"):
            load_p384(key, None)


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o620, 0o777])
def test_a_key_that_others_may_read(key, wide):
    write_private(key, pem_of(ED, None))
    key.chmod(wide)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        load_ed25519(key, None)


def test_a_file_that_is_not_there(key):
    with pytest.raises(FolderUnusable, match="No such file"):
        load_ed25519(key, None)


def test_an_error_inside_leaves_no_folder(tmp_path):
    def fail():
        with new_folder(tmp_path / "folder") as partial:
            write_private(partial / "a.key", b"secret")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_an_existing_folder_is_left_alone(tmp_path, make):
    path = tmp_path / "folder"
    make(path)
    with pytest.raises(FolderUnusable, match="exists already"), new_folder(path):
        raise AssertionError
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_made(tmp_path):
    with (
        pytest.raises(FolderUnusable, match="No such file"),
        new_folder(tmp_path / "no" / "folder"),
    ):
        raise AssertionError


def killed(path: Path, before: str) -> None:
    """Make the folder in a process that dies like one that lost its power."""

    def die(*_, **__):
        os._exit(9)

    if before == "rename":
        Path.rename = die
    with new_folder(path) as partial:
        write_private(partial / "a.key", b"secret of the dead")
        if before == "end":
            die()


@pytest.mark.parametrize("before", ["end", "rename"])
def test_a_killed_process_leaves_no_folder_and_the_next_one_clears_up(tmp_path, before):
    path = tmp_path / "folder"
    assert exit_code(killed, path, before) == 9
    assert not path.exists()
    left = tmp_path / ".folder.partial"
    assert mode(left) == 0o700
    with new_folder(path) as partial:
        assert list(partial.iterdir()) == []
        write_private(partial / "b.key", b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    assert [each.name for each in path.iterdir()] == ["b.key"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_without_a_mode_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_file(tmp_path / "a", b"1", sync=False)
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == 0o644 & ~umask


@pytest.mark.parametrize("name", ["", "lock"])
@pytest.mark.parametrize("wait_s", [0, 0.12])
def test_a_lock_that_another_holds(tmp_path, name, wait_s):
    with locked(tmp_path, name, wait_s=0):
        begin = time.monotonic()
        with (
            pytest.raises(LockHeld, match="another process holds"),
            locked(tmp_path, name, wait_s=wait_s),
        ):
            raise AssertionError
        assert time.monotonic() - begin >= wait_s
    with locked(tmp_path, name, wait_s=wait_s):
        assert not name or mode(tmp_path / name) == 0o600


def test_a_shared_lock_keeps_out_only_who_wants_it_alone(tmp_path):
    with (
        locked(tmp_path, "lock", shared=True),
        locked(tmp_path, "lock", wait_s=0, shared=True),
        pytest.raises(LockHeld),
        locked(tmp_path, "lock", wait_s=0),
    ):
        raise AssertionError
    with (
        locked(tmp_path, "lock"),
        pytest.raises(LockHeld),
        locked(tmp_path, "lock", wait_s=0, shared=True),
    ):
        raise AssertionError


def test_the_holder_of_a_lock_can_be_named_by_the_caller(tmp_path):
    with locked(tmp_path), pytest.raises(LockHeld, match="runs already"):  # noqa: SIM117
        with locked(tmp_path, wait_s=0, held="a program runs already"):
            raise AssertionError


def test_a_released_lock_is_free_though_a_copy_of_its_descriptor_is_open(tmp_path):
    descriptor = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    copy = os.dup(descriptor)
    try:
        assert take_lock(descriptor, wait_s=0)
        release_lock(descriptor)
        with locked(tmp_path, "lock", wait_s=0):
            pass
    finally:
        os.close(copy)


def test_a_lock_is_waited_for(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path):
            waiting = pool.submit(held_once, tmp_path)
            time.sleep(0.1)
            assert not waiting.done()
        assert waiting.result(timeout=10)


def held_once(folder: Path) -> bool:
    with locked(folder, wait_s=10):
        return True


@pytest.mark.parametrize("name", ["", "lock"])
def test_a_folder_that_is_not_there_has_no_lock(tmp_path, name):
    with pytest.raises(FolderUnusable, match="No such file"), locked(tmp_path / "no", name):
        raise AssertionError


def test_two_processes_at_once(tmp_path):
    path = tmp_path / "folder"
    with (
        new_folder(path),
        pytest.raises(FolderUnusable, match="another process"),
        new_folder(path),
    ):
        raise AssertionError
    assert path.is_dir()
