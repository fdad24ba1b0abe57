"""Reads `fedrx …` command lines out of prose and scripts, and says what is wrong with one."""

import re
import shlex
from functools import cache

import click
import typer

from fedrx.cli.main import app

COMMAND = re.compile(
    r"(?<![\w/.-])(`?)fedrx ((?:simulate|compare|study|coordinator|site)\b[^`|;&#>)]*)"
)


@cache
def commands():
    return typer.main.get_command(app)


def complaint(words, *, whole=True):
    """What is wrong with a `fedrx` command line, or None; a bare command's name is enough.

    Args:
        words: without `fedrx`; a last "…" stands for whatever may follow.
        whole: whether an argument that is needed must be there; prose leaves out a folder.
    """
    context, command = click.Context(commands(), info_name="fedrx"), commands()
    words = list(words)
    if words and words[-1] == "…" and not words[-2:-1][0].startswith("-"):
        words.pop()
    while isinstance(command, click.Group):
        if not words or words[0] == "--help":
            return None
        inner = command.get_command(context, words[0])
        if inner is None:
            return f"there is no command {words[0]!r}"
        context = click.Context(inner, info_name=words.pop(0), parent=context)
        command = inner
    if not words:
        return None
    try:
        given, left, _ = command.make_parser(context).parse_args(words)
    except click.UsageError as error:
        return error.format_message()
    wanted = [one for one in command.params if isinstance(one, click.Argument) and one.required]
    missing = [one.name for one in wanted if not filled(given.get(one.name))]
    return f"{left} is too much" if left else f"{missing} is missing" if missing and whole else None


def filled(value):
    """Whether an argument was given; click has a marker of its own for one that was not."""
    return isinstance(value, str) or (isinstance(value, tuple) and bool(value))


def command_lines(path):
    """Every `fedrx …` in a file, as (line number, words, whether it stands alone)."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\{\{.*?\}\}|<[^>\n]+>", "VALUE", text)  # what a template or a reader fills in
    text = re.sub(r"\\\n\s*", " ", text)  # one command over several lines
    for number, line in enumerate(text.splitlines(), 1):
        for found in COMMAND.finditer(line):
            words = shlex.split(found.group(2).replace("'", "’"))
            yield number, words, found.group(1) != "`"
