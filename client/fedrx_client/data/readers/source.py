"""What `--data` names: a file, a folder, a database or a FHIR server."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedrx_common.errors import DataError

SourceKind = Literal["table", "fhir", "vcf", "omop", "sql", "server"]

_TABLES = {".csv", ".tsv", ".txt", ".parquet", ".pq", ".xlsx"}
_BUNDLES = {".json", ".ndjson"}
_DATABASES = {".sqlite", ".sqlite3", ".db"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/\[]*)(:\d+)?(/|\Z)")
_SECRET = re.compile(r"(?i)\w*(passw|pwd|token|secret|key)\w*=")
_PACKED = re.compile(r"\.(gz|bgz)\Z")


@dataclass(frozen=True)
class Source:
    """A place that patients are read from.

    Attributes:
        kind: `table` (CSV, Parquet, Excel), `fhir` (bundles and bulk exports, a file or a folder
            of them), `vcf`, `omop` (a folder of tables), `sql` (a database, OMOP or queried), or
            `server` (of FHIR).
        location: the path or the address, as it was given.
    """

    kind: SourceKind
    location: str

    @property
    def path(self) -> Path | None:
        """The file or folder; None for a database or a server."""
        return None if _URL.match(self.location) else Path(self.location)

    @property
    def name(self) -> str:
        """The source in words, for errors and accounts: no password and no folder above it."""
        if self.path is not None:
            return self.path.name
        scheme, _, rest = self.location.partition("://")
        # A password may hold '/', '?' and '#', so that only the last '@' surely ends it.
        shown = re.split(r"[?#]", rest.rpartition("@")[2])[0]
        if not _HOST.match(shown):  # a name and a password, where the host was forgotten
            shown = shown.partition(":")[0]
        return f"{scheme}://{shown.rpartition('/')[2] if scheme.startswith('sqlite') else shown}"

    @property
    def kept(self) -> str:
        """The text that names the source again later: an absolute path, or no password in it.

        What reads it then takes the password from the environment.
        """
        if self.path is not None:
            return str(self.path.resolve())
        scheme, _, rest = self.location.partition("://")
        if scheme.startswith("sqlite") and rest.startswith("/") and not rest.startswith("//"):
            return f"{scheme}:///{Path(rest[1:]).resolve()}"
        account, at, host = rest.rpartition("@")
        host, _, query = host.partition("?")
        shown = [one for one in query.split("&") if not _SECRET.match(one) and one]
        query = "?" + "&".join(shown) if shown else ""
        return f"{scheme}://{account.partition(':')[0]}{at}{host}{query}"

    @property
    def watchable(self) -> bool:
        """Whether files tell that its patients changed; a database's do not until it is closed."""
        return self.path is not None and self.kind != "sql"

    def beside(self, name: str) -> Path:
        """Return where another file of the mapping is: in the folder that holds the source.

        Raises:
            DataError: the source is a database or a server, and the name is no absolute path.
        """
        if self.path is not None:
            return self.path.parent / name
        if not Path(name).is_absolute():
            raise DataError(
                f"{self.name}: no file is beside it; give the absolute path of '{name}' in the "
                "mapping."
            )
        return Path(name)

    @classmethod
    def parse(cls, text: str | Path) -> "Source":
        """Recognise a source by its name and, for a folder, by what is in it.

        Raises:
            DataError: it is not there, or of no kind that can be read.
        """
        location = str(text)
        if _URL.match(location):
            return cls(
                "server" if location.startswith(("http://", "https://")) else "sql", location
            )
        path = Path(location)
        if path.is_dir():
            return cls(_kind_of_folder(path), location)
        name = _PACKED.sub("", path.name.lower())
        suffix = Path(name).suffix
        if not path.is_file():
            # A database's address with one slash only may hold a password all the same.
            shown = re.sub(r"\A([A-Za-z][\w+.-]+:)/*.*@", r"\1//", location, flags=re.DOTALL)
            raise DataError(f"{shown}: there is no such data file.")
        if suffix == ".vcf":
            return cls("vcf", location)
        if suffix in _BUNDLES:
            return cls("fhir", location)
        if suffix in _DATABASES:
            return cls("sql", location)
        if suffix in _TABLES:
            return cls("table", location)
        raise DataError(
            f"{path}: is of no kind that can be read; give a table (.csv, .parquet, .xlsx), FHIR "
            "(.json, .ndjson), a VCF, a folder of them, a database address or a FHIR address."
        )


def _kind_of_folder(path: Path) -> SourceKind:
    names = {_PACKED.sub("", one.name.lower()) for one in path.iterdir()}
    if any(name.startswith("person.") for name in names):
        return "omop"
    if any(Path(name).suffix in _BUNDLES for name in names):
        return "fhir"
    raise DataError(
        f"{path}: holds neither FHIR files (.json, .ndjson) nor OMOP tables (person.csv or "
        "person.parquet); name the file itself."
    )
