"""The examples are plain files, so that a copied folder, a zip and Windows can use them."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_example_is_a_symbolic_link():
    found = [path for path in (ROOT / "examples").rglob("*") if path.is_symlink()]
    assert found == []


def test_the_warfarin_example_is_the_built_in_study():
    example = (ROOT / "examples" / "warfarin" / "study.toml").read_bytes()
    assert example == (ROOT / "fedrx" / "templates" / "warfarin.toml").read_bytes()
