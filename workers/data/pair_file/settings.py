"""What a spec's `task: {name: pairs, ...}` may say beside its file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from workers.tasks.base import TaskError

NAME: Final = "pairs"
SPLITS: Final = ("train", "validation", "test")
# What a row may have, by the name that a file's own column has unless `columns` says otherwise.
COLUMNS: Final = (
    "base",
    "source",
    "sources",
    "label",
    "variable",
    "value",
    "base_answer",
    "source_answer",
    "positions",
    "split",
    "hypothesis",
)

Share = Annotated[float, Field(ge=0, le=1)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class PairFileSettings(BaseModel):
    """`columns`: our name for a column to the file's. `where`: the values that rows must have in columns of the file.
    `answers`: the only texts that labels may be. `match`: which tokens of an answer count, all or the first. `shares`:
    how rows are dealt out that name no split. `hypothesis`: the name of the one hypothesis of a file that has no such
    column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["", "mib", "ravel", "causalgym", "causalab"] = ""
    columns: dict[str, str] = {}
    where: dict[str, Any] = {}
    answers: Texts = ()
    match: Literal["all", "first"] = "all"
    shares: dict[Literal["train", "validation", "test"], Share] = {"train": 0.8, "validation": 0.05, "test": 0.15}
    hypothesis: Annotated[str, Field(min_length=1)] = NAME

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """The settings given. Raises: TaskError naming the first wrong key, its value and what is expected."""
        given = dict(options)
        if isinstance(given.get("answers"), Mapping):
            rules = dict(given.pop("answers"))
            if unknown := sorted(map(str, rules.keys() - {"match", "only"})):
                raise TaskError(f"answers.{unknown[0]}: unknown key; there are match, only")
            if "only" in rules:
                given["answers"] = rules.pop("only")
            given |= rules
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"])) or "columns"
            if problem["type"] == "extra_forbidden":
                known = ", ".join(("file", *cls.model_fields))
                raise TaskError(f"{key}: unknown setting of task {NAME!r}; there are {known}") from None
            raise TaskError(f"{key}: got {problem['input']!r}; {_right(problem)}") from None

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = sorted(columns.keys() - set(COLUMNS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no column of ours; there are {', '.join(COLUMNS)}")
        return columns

    @field_validator("where")
    @classmethod
    def _check_where(cls, where: dict[str, Any]) -> dict[str, Any]:
        for column, value in where.items():
            if isinstance(value, dict):
                raise ValueError(f"{column!r} has a mapping; expected a value or a list of values")
        return where

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        total = sum(self.shares.values())
        if abs(total - 1) > 1e-6 or not self.shares.get("train") or not self.shares.get("test"):
            got = ", ".join(f"{split} {share}" for split, share in self.shares.items())
            raise ValueError(f"shares are {got}; expected `train` and `test` above 0, and all of them 1 together")
        return self

    def science(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as plain JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def columns_of(self, name: str) -> str:
        """The file's column for ours."""
        return self.columns.get(name, name)

    def is_wanted(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has the values that `where` asks for."""
        return all(
            row.get(column) in (value if isinstance(value, (list, tuple)) else (value,))
            for column, value in self.where.items()
        )


def _right(problem: Any) -> str:
    message: str = problem["msg"]
    return message.removeprefix("Value error, ")
