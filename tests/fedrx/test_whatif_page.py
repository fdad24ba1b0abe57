"""docs/whatif.md is worked through as it stands."""

import re
import shlex
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "whatif.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_worked_example_says_what_the_page_shows(fedrx, place):
    (place / "patient.json").write_text(blocks("json")[0], encoding="utf-8")
    commands = [shlex.split(line) for block in blocks("sh")[:2] for line in block.splitlines()]
    made, asked, refused = (fedrx(*words[1:]) for words in commands)
    assert (made.code, asked.code, refused.code) == (0, 0, 2), asked.err
    told = " ".join(asked.out.split())
    for line in blocks("text")[0].splitlines():
        assert line in told
    assert refused.err == blocks("text")[1]
    assert (place / "whatif.png").stat().st_size > 1000
