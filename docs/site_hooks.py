"""What the site shows from outside `docs/`, and the list of decisions; MkDocs calls these.

Links in the sources lead to files of the repository, so that they work on GitHub too. Here they are
led to the pages that these files become.
"""

import re
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("deploy/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_STATUS = re.compile(r"^\W*Status\W+(.*?),? (\d{4}-\d{2}-\d{2})", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and example files from outside, and the list of decisions."""
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    for path in sorted((ROOT / "examples").rglob("*.toml")):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=path.read_text("utf-8")))
    files.append(File.generated(config, "decisions/index.md", content=list_of_decisions()))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: object) -> str:
    """Lead links to where a file of the repository is in the site."""
    here = page.file.src_uri
    generated = here in PAGES or here == "decisions/index.md"
    source = here if generated and here in PAGES else f"docs/{here}"

    def led(found: re.Match[str]) -> str:
        target = normpath(f"{source}/../{found[2]}")
        target = target.removeprefix("docs/")
        if files.get_file_from_path(target) is None:
            return found[0] if not (ROOT / target).exists() else _unlinked(found)
        return f"{found[1]}{relpath(target, here.rpartition('/')[0] or '.')}{found[3]}"

    def _unlinked(found: re.Match[str]) -> str:
        raise FileNotFoundError(f"{here}: {found[2]} is not in the site: name it without a link.")

    return _LINK.sub(led, markdown)


def list_of_decisions() -> str:
    """Make a table of all decision notes, with status and date."""
    rows = []
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        text = path.read_text("utf-8")
        title = text.partition("\n")[0].lstrip("# ")
        title = re.sub(r"^\d+\.? ", "", title)
        status, date = _STATUS.findall(text)[0]
        status = re.sub(r"\W*Date\W*$", "", status)
        rows.append(f"| {path.stem[:4]} | [{title}]({path.name}) | {status} | {date} |")
    head = [
        "# Decisions",
        "",
        "What cost thought: the question, what was chosen, what was given up.",
        "",
        "| | decision | status | date |",
        "|---|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])
