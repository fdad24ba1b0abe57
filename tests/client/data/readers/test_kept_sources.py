"""What names a source again later: an absolute path, or an address without its password."""

import pytest

from fedrx_client.data.readers.source import Source


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("postgresql://reader:s3cret@db.local:5432/lab", "postgresql://reader@db.local:5432/lab"),
        ("postgresql://reader:a/b?c#d@db.local/lab", "postgresql://reader@db.local/lab"),
        ("postgresql://db.local/lab?user=r&password=s3cret", "postgresql://db.local/lab?user=r"),
        ("https://fhir.local/r4", "https://fhir.local/r4"),
        ("https://u:s3cret@fhir.local/r4?token=abc", "https://u@fhir.local/r4"),
        ("sqlite:////srv/lab.db", "sqlite:////srv/lab.db"),
    ],
)
def test_an_address_is_kept_without_its_password(given, kept):
    assert Source.parse(given).kept == kept
    assert Source.parse(kept).kept == kept


def test_a_path_is_kept_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("id\n1\n")
    assert Source.parse("t.csv").kept == str(tmp_path / "t.csv")
    assert Source.parse("sqlite:///lab.db").kept == f"sqlite:///{tmp_path / 'lab.db'}"
