"""The open demo of eICU as tables of OMOP, and the query and mapping that give its hours again."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import psycopg

# Concepts of https://athena.ohdsi.org; columns of hourly.csv.gz.
CONCEPTS = {
    "hr": 3027018, "sbp": 3004249, "map": 3027598, "glu": 3004501, "crea": 3016723,
    "hgb": 3000963, "dbp": 3012888, "resp": 3024171, "o2sat": 40762499, "temp": 3020891,
    "k": 3023103, "na": 3019550, "bun": 3013682, "plt": 3024929, "wbc": 3000905,
    "bicar": 3016293, "lact": 3047181,
}  # fmt: skip
AGE = 4265453
BEGIN = pd.Timestamp("2014-06-01 00:00:00")  # eICU has no dates, only hours since admission
_TYPES = {
    "person": "person_id integer, gender_concept_id integer, person_source_value varchar(50)",
    "location": "location_id integer, location_source_value varchar(50)",
    "care_site": "care_site_id integer, location_id integer",
    "visit_occurrence": "visit_occurrence_id integer, person_id integer, care_site_id integer, "
    "visit_start_datetime timestamp, visit_end_datetime timestamp",
    "observation": "observation_id integer, visit_occurrence_id integer, "
    "observation_concept_id integer, value_as_number numeric",
    "measurement": "measurement_id integer, person_id integer, visit_occurrence_id integer, "
    "measurement_concept_id integer, measurement_datetime timestamp, value_as_number numeric",
}
# The hours between two moments, as each database counts them.
_HOURS = {
    "sqlite": "CAST(round((julianday({}) - julianday({})) * 24) AS integer)",
    "postgresql": "CAST(round(extract(epoch FROM {} - {}) / 3600) AS integer)",
}
_QUERY = """
WITH RECURSIVE hours(hour) AS (SELECT 0 UNION ALL SELECT hour + 1 FROM hours WHERE hour < 168),
stays AS (
  SELECT visit_occurrence.*, {length} AS hours FROM visit_occurrence
),
grid AS (SELECT stays.*, hour FROM stays JOIN hours ON hour <= stays.hours),
wide AS (
  SELECT m.visit_occurrence_id, {since} AS hour, {markers}
  FROM measurement m JOIN stays USING (visit_occurrence_id)
  GROUP BY 1, 2
)
SELECT person_source_value AS uniquepid, grid.visit_occurrence_id AS stay_id, grid.hour,
  location_source_value AS region, observation.value_as_number AS age,
  CASE gender_concept_id WHEN 8532 THEN 'Female' WHEN 8507 THEN 'Male' END AS gender, {names}
FROM grid JOIN person ON person.person_id = grid.person_id
  LEFT JOIN wide ON wide.visit_occurrence_id = grid.visit_occurrence_id AND wide.hour = grid.hour
  LEFT JOIN observation ON observation.visit_occurrence_id = grid.visit_occurrence_id
    AND observation_concept_id = {age}
  LEFT JOIN care_site ON care_site.care_site_id = grid.care_site_id
  LEFT JOIN location ON location.location_id = care_site.location_id
ORDER BY grid.visit_occurrence_id, grid.hour
"""


def query(dialect: str) -> str:
    """The hours of all stays, in the columns of the CSV files."""
    hours = _HOURS[dialect]
    cases = [
        f"max(CASE WHEN measurement_concept_id = {concept} THEN m.value_as_number END) AS {name}"
        for name, concept in CONCEPTS.items()
    ]
    return _QUERY.format(
        length=hours.format("visit_end_datetime", "visit_start_datetime"),
        since=hours.format("m.measurement_datetime", "visit_start_datetime"),
        markers=", ".join(cases),
        names=", ".join(f"wide.{name}" for name in CONCEPTS),
        age=AGE,
    )


def mapping(example: Path, dialect: str) -> str:
    """The example's mapping, whose join of two files the query takes over."""
    text = re.sub(r"\[join\]\n(.+\n)+", "", example.read_text())
    return f'{text}\n[sql]\nquery = """{query(dialect)}"""\n'


def frames(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of OMOP of the demo's two files."""
    patients = pd.read_csv(folder / "patients.csv", dtype={"uniquepid": str}).set_index("stay_id")
    hourly = pd.read_csv(folder / "hourly.csv.gz")
    stays = hourly.groupby("stay_id", sort=False)["hour"].max().to_frame("hours")
    stays = stays.join(patients).reset_index()
    stays["visit_occurrence_id"] = range(1, len(stays) + 1)
    people = stays.drop_duplicates("uniquepid").reset_index(drop=True)
    number = {one: i for i, one in enumerate(people["uniquepid"], 1)}
    regions = sorted(stays["region"].dropna().unique())
    sites = stays.drop_duplicates("hospitalid")
    visit = stays.set_index("stay_id")["visit_occurrence_id"]
    long = hourly.melt(["stay_id", "hour"], [*CONCEPTS], "name").dropna(subset="value")
    return {
        "person": pd.DataFrame(
            {
                "person_id": people["uniquepid"].map(number),
                "gender_concept_id": people["gender"].map({"Female": 8532, "Male": 8507}).fillna(0),
                "person_source_value": people["uniquepid"],
            }
        ).astype({"gender_concept_id": int}),
        "location": pd.DataFrame(
            {"location_id": range(1, len(regions) + 1), "location_source_value": regions}
        ),
        "care_site": pd.DataFrame(
            {
                "care_site_id": sites["hospitalid"],
                "location_id": sites["region"].map({r: i for i, r in enumerate(regions, 1)}),
            }
        ).astype({"location_id": "Int64"}),
        "visit_occurrence": pd.DataFrame(
            {
                "visit_occurrence_id": stays["visit_occurrence_id"],
                "person_id": stays["uniquepid"].map(number),
                "care_site_id": stays["hospitalid"],
                "visit_start_datetime": BEGIN,
                "visit_end_datetime": BEGIN + pd.to_timedelta(stays["hours"], unit="h"),
            }
        ),
        "observation": pd.DataFrame(
            {
                "observation_id": stays["visit_occurrence_id"],
                "visit_occurrence_id": stays["visit_occurrence_id"],
                "observation_concept_id": AGE,
                "value_as_number": stays["age"],
            }
        ),
        "measurement": pd.DataFrame(
            {
                "measurement_id": range(1, len(long) + 1),
                "person_id": 0,
                "visit_occurrence_id": long["stay_id"].map(visit),
                "measurement_concept_id": long["name"].map(CONCEPTS),
                "measurement_datetime": BEGIN + pd.to_timedelta(long["hour"], unit="h"),
                "value_as_number": long["value"],
            }
        ),
    }


def write_sqlite(path: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write an SQLite file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for name, frame in tables.items():
            connection.execute(f"CREATE TABLE {name} ({_TYPES[name]})")
            text = frame.astype(object).where(frame.notna(), None)
            for column in frame.select_dtypes("datetime"):
                text[column] = frame[column].dt.strftime("%Y-%m-%d %H:%M:%S")
            marks = ", ".join("?" * frame.shape[1])
            rows = text.itertuples(index=False, name=None)
            connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)


def write_postgres(url: str, tables: dict[str, pd.DataFrame]) -> None:
    """Write into a PostgreSQL database."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for name, frame in tables.items():
            cursor.execute(f"CREATE TABLE {name} ({_TYPES[name]})")
            with cursor.copy(f"COPY {name} FROM STDIN (FORMAT csv)") as copy:
                copy.write(frame.to_csv(index=False, header=False))
