"""What an audit finds: damage, what is not settled, and remarks that concern no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What a finding means for the sweep."""

    DAMAGE = "damage"  # a file is not whole, or two of them disagree
    UNSETTLED = "unsettled"  # a planned cell is not settled, or not exactly once
    REMARK = "remark"  # no result depends on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found. `where` is a file in the sweep's folder, or what the finding is about."""

    severity: Severity
    where: str
    problem: str
    remedy: str = ""
    is_repairable: bool = False  # `fsck --repair` does so


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What `fsck` found. `n_settled` cells of `n_cells` are settled, `n_done` of them measured."""

    sweep: str
    folder: str
    n_cells: int
    n_done: int
    n_settled: int
    n_rows: int
    n_shards: int
    n_jobs: int
    n_submissions: int
    findings: tuple[Finding, ...]
    repaired: tuple[str, ...] = ()

    @property
    def is_proven(self) -> bool:
        """Whether every planned cell is settled exactly once, and no file speaks against it."""
        return self.n_settled == self.n_cells > 0 and not self.of(Severity.DAMAGE) and not self.of(Severity.UNSETTLED)

    def of(self, severity: Severity) -> Sequence[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity is severity]


def damage(where: str, problem: str, remedy: str = "", *, is_repairable: bool = False) -> Finding:
    """A file that is not whole, or two that disagree."""
    return Finding(severity=Severity.DAMAGE, where=where, problem=problem, remedy=remedy, is_repairable=is_repairable)


def unsettled(where: str, problem: str, remedy: str = "") -> Finding:
    """A cell that is not settled, or not exactly once."""
    return Finding(severity=Severity.UNSETTLED, where=where, problem=problem, remedy=remedy)


def remark(where: str, problem: str, remedy: str = "", *, is_repairable: bool = False) -> Finding:
    """Something on which no result depends."""
    return Finding(severity=Severity.REMARK, where=where, problem=problem, remedy=remedy, is_repairable=is_repairable)
