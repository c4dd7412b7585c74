"""Schemas of the files in a run's folder (columns, types, ranges, keys), and checks that the files are consistent."""

import math
from functools import cache
from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from lthcore.training.state import Replicate

REPLICATE = list(Replicate._fields)
READ = ["read_1_test_accuracy", "read_2_test_accuracy", "read_3_test_accuracy"]
ADDED = (*READ, "diverged", "skipped", "emptied", "multiply_adds")  # columns that older tables may lack
ROUNDS = [
    *REPLICATE, "weights_left", "percent_left", "es_iteration", "es_val_loss", "es_val_accuracy", "es_test_accuracy",
    "es_train_accuracy", "final_val_accuracy", "final_test_accuracy", "final_train_accuracy", "iterations", "seconds",
    *READ, "diverged", "skipped", "emptied", "multiply_adds",
]  # fmt: skip
CURVES = [*REPLICATE, "percent_left", "iteration", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]
COLUMNS = {"rounds.csv": ROUNDS, "curves.csv": CURVES}
KEYS = {"rounds.csv": REPLICATE, "curves.csv": [*REPLICATE, "iteration"]}


def _accuracy(value: float) -> float:
    if not (0 <= value <= 1 or math.isnan(value)):  # nan if it was not measured
        raise ValueError("an accuracy lies between 0 and 1")
    return value


def _loss(value: float) -> float:
    if value < 0:
        raise ValueError("a loss is not negative")
    return value


Accuracy = Annotated[float, AfterValidator(_accuracy)]
Loss = Annotated[float, AfterValidator(_loss)]  # nan without a validation set, infinite where a training diverged


class RunRecord(BaseModel):
    """Content of run.json. Fields listed here must have these types if present; other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    run_key: str
    complete: bool = False
    trainings_done: NonNegativeInt = 0
    trainings_planned: NonNegativeInt = 0
    n: NonNegativeInt = 0
    seed: int = 0
    wall_seconds: NonNegativeFloat = 0.0
    asked_for: str = ""
    began: str = ""
    first_complete: str = ""
    training_seconds: NonNegativeFloat = 0.0
    settings: dict[str, Any] = {}
    commits: list[str | None] = []
    data_digest: str | None = None
    own_code: dict[str, str] = {}
    digests: dict[str, str] = {}
    writing: dict[str, str] = {}


def check_record(record: object) -> dict:
    """Return the content of a run.json, unchanged. Raises ValueError if it is not a valid record of a run."""
    if not isinstance(record, dict):
        raise ValueError("its content is no mapping of names to values")
    try:
        RunRecord.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return record


def check_table(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return a rounds.csv or curves.csv with all columns. Newer columns are empty if an older version wrote the file.

    Raises ValueError with the reason if the table is invalid.
    """
    columns = COLUMNS[name]
    if [column for column in columns if column in table or column not in ADDED] != list(table):
        raise ValueError(f"its columns are not {', '.join(columns[:5])} ...")
    if len(table):
        _check_values(name, table)
    return table.reindex(columns=columns)


def check_whole(record: dict, rounds: pd.DataFrame, curves: pd.DataFrame) -> None:
    """Raise ValueError if the tables of a run and its run.json do not belong to the same training runs."""
    if len(rounds) != record.get("trainings_done", len(rounds)):
        raise ValueError(f"rounds.csv has {len(rounds)} trainings, run.json {record['trainings_done']}")
    last = curves.groupby(REPLICATE)["iteration"].max() if len(curves) else pd.Series(dtype=int)
    ends = rounds.set_index(REPLICATE)["iterations"] if len(rounds) else pd.Series(dtype=int)
    for one, other, where in ((ends, last, "curves.csv"), (last, ends, "rounds.csv")):
        if len(lost := one.index.difference(other.index)):
            raise ValueError(f"{where} lacks {len(lost)} trainings, {' '.join(map(str, lost[0]))} the first")
    if len(cut := ends.index[ends != last.reindex(ends.index)]):
        raise ValueError(f"curves.csv is cut short: {' '.join(map(str, cut[0]))} does not end where its training did")


def _check_values(name: str, table: pd.DataFrame) -> None:
    from pandera.errors import SchemaErrors  # slow to import (0.5 s), and not needed to train

    try:
        _schema(name).validate(table, lazy=True)
    except SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        row = "" if pd.isna(first["index"]) else f" in row {first['index']}"
        raise ValueError(f"{first['column']}{row}: {first['failure_case']} fails {first['check']}") from None


@cache
def _schema(name: str) -> object:
    from pandera.pandas import Check, Column, DataFrameSchema

    count = Column(int, Check.ge(0))
    seconds = Column(float, Check.ge(0), coerce=True)
    accuracy = Column(float, Check.in_range(0, 1), nullable=True, coerce=True, required=False)
    loss = Column(float, Check.ge(0), nullable=True, coerce=True)
    columns = {
        **dict.fromkeys(("trial", "draw", "round"), count),
        "arm": Column(str, Check.str_matches(r"^\w[\w.+-]*$")),
        "percent_left": Column(float, Check.in_range(0, 100), coerce=True),
    }
    if name == "rounds.csv":
        numbers = dict.fromkeys(("weights_left", "iterations"), count)
        numbers["es_iteration"] = Column(float, Check.ge(0), nullable=True, coerce=True)
        flag = Column(None, Check.isin([True, False, "True", "False"]), nullable=True, required=False)
        columns |= {**numbers, "es_val_loss": loss, "seconds": seconds, "diverged": flag, "skipped": flag}
    else:
        columns |= {"iteration": count, "val_loss": loss, "test_loss": loss}
    columns |= {column: accuracy for column in COLUMNS[name] if column.endswith("_accuracy")}
    return DataFrameSchema(columns, unique=KEYS[name])
