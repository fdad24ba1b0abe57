"""The account of a table reads well and adds up."""

import json

from fedrx_client.data.quality.account import DataQuality

QUALITY = DataQuality(
    source="table.csv",
    rows_read=5700,
    rows_kept=5410,
    dropped={"no stable dose": 275, "no dose": 15, "no target recorded": 0},
    missing={"height_cm": 1047, "race": 0},
    imputed={"vkorc1 by rs9934438": 553},
    unknown={"cyp2c9": 17, "race": 0},
)


def test_the_account_in_words():
    assert QUALITY.text().splitlines() == [
        "table.csv: 5,700 rows read, 5,410 kept.",
        "Dropped: no stable dose 275, no dose 15.",
        "Missing: height_cm 1,047 (19.4 %).",
        "Imputed: vkorc1 by rs9934438 553.",
        "Not understood, taken as missing: cyp2c9 17.",
    ]


def test_nothing_to_say_is_not_said():
    quiet = DataQuality("t.csv", 3, 3, dropped={"no dose": 0}, missing={}, imputed={}, unknown={})
    assert quiet.text() == "t.csv: 3 rows read, 3 kept."


def test_the_account_as_json():
    document = json.loads(json.dumps(QUALITY.to_dict()))
    assert document["dropped"]["no stable dose"] == 275
    assert document["rows_kept"] == document["rows_read"] - sum(document["dropped"].values())


def test_a_loaded_tables_account_adds_up(load):
    quality = load().quality
    assert quality.rows_read - quality.rows_kept == sum(quality.dropped.values())
    assert quality.text().startswith("table.csv: 7 rows read, 5 kept.")
