"""Reads a passphrase: from a file, the environment, or a person at a terminal.

Never from the command line itself, which every user of the machine can read.
"""

import os
import sys
from pathlib import Path

import typer

from fedrx_common.errors import MisuseError

VARIABLE = "FEDRX_PASSPHRASE"


def new_passphrase(file: Path | None, *, ask: bool) -> str | None:
    """Read the passphrase for new keys, or None to leave them unencrypted.

    Raises:
        MisuseError: the file cannot be used, there is no terminal to ask at, or both a file and the
            question were asked for.
    """
    if ask and file is not None:
        raise MisuseError("give --ask-passphrase or --passphrase-file, not both.")
    given = _given(file)
    if given is not None or not ask:
        return given
    _require_terminal()
    return str(typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))


def passphrase_for(*, needed: bool, file: Path | None) -> str | None:
    """Read the passphrase of existing keys; ask at a terminal only if one is needed.

    Raises:
        MisuseError: the file cannot be used, or one is needed and there is none.
    """
    given = _given(file)
    if given is not None or not needed:
        return given
    _require_terminal()
    return str(typer.prompt("Passphrase", hide_input=True, err=True))


def _given(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(VARIABLE) or None
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise MisuseError(
            f"{file}: cannot be read; give a text file with the passphrase in its first line."
        ) from None
    if not lines or not lines[0]:
        raise MisuseError(f"{file}: its first line is empty; write the passphrase there.")
    return lines[0]


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise MisuseError(
            f"A passphrase is needed and no terminal is here to ask at; give --passphrase-file or "
            f"set {VARIABLE}."
        )
