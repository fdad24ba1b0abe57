"""Writes tables of OMOP, as `four_sources` gives them, into databases and folders."""

import csv
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import psycopg
from four_sources import CDM, Cdm


def statements(
    tables: Cdm, *, schema: str = "", only: Iterable[str] | None = None, mark: str = "?"
) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Statements that make the tables, each with the rows to run it on; none means once."""
    dot = f"{schema}." if schema else ""
    found: list[tuple[str, list[tuple[object, ...]]]] = []
    for name in CDM if only is None else only:
        types = CDM[name]
        columns = ", ".join(f"{column} {kind}" for column, kind in types.items())
        found.append((f"CREATE TABLE {dot}{name} ({columns})", []))
        rows = [tuple(row.get(column) for column in types) for row in tables[name]]
        marks = ", ".join([mark] * len(types))
        found.append((f"INSERT INTO {dot}{name} VALUES ({marks})", rows))
    return found


def write_sqlite(path: Path, tables: Cdm, only: Iterable[str] | None = None) -> Path:
    """Write an SQLite file."""
    with sqlite3.connect(path) as connection:
        for statement, rows in statements(tables, only=only):
            if statement.startswith("INSERT"):
                connection.executemany(statement, rows)
            else:
                connection.execute(statement)
    connection.close()
    return path


def write_postgres(
    url: str, tables: Cdm, schema: str = "", only: Iterable[str] | None = None
) -> None:
    """Write into a PostgreSQL database, whose schema is made anew."""
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        if schema:
            cursor.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            cursor.execute(f"CREATE SCHEMA {schema}")
        for statement, rows in statements(tables, schema=schema, only=only, mark="%s"):
            if statement.startswith("INSERT"):
                cursor.executemany(statement, rows)
            else:
                cursor.execute(statement)


def write_folder(
    folder: Path,
    tables: Cdm,
    *,
    parquet: bool = False,
    upper: bool = False,
    only: Iterable[str] | None = None,
) -> Path:
    """Write a folder of files; `upper` names files and columns in capitals, as some exports do."""
    folder.mkdir()
    for name in CDM if only is None else only:
        types = CDM[name]
        rows = tables[name]
        file, header = (name.upper(), [c.upper() for c in types]) if upper else (name, [*types])
        if parquet:
            cells = {h: [row.get(c) for row in rows] for h, c in zip(header, types, strict=True)}
            frame = pd.DataFrame(cells)
            for column, kind in zip(header, types.values(), strict=True):
                if kind == "integer":
                    frame[column] = frame[column].astype("Int64")
                elif kind == "numeric":
                    frame[column] = frame[column].astype(float)
                elif kind in ("date", "timestamp"):
                    frame[column] = pd.to_datetime(frame[column])
                else:
                    frame[column] = frame[column].astype("string")
            frame.to_parquet(folder / f"{file}.parquet")
            continue
        # The vocabulary as Athena gives it: tabs and no quotes.
        tabs = name.startswith("concept")
        with (folder / f"{file}.csv").open("w", newline="") as out:
            sheet = csv.writer(out, delimiter="\t" if tabs else ",")
            sheet.writerow(header)
            sheet.writerows([cell(row, column) for column in types] for row in rows)
    return folder


def cell(row: Mapping[str, object], column: str) -> object:
    """A cell of a file: empty where there is nothing."""
    return "" if row.get(column) is None else row[column]
