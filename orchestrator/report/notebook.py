"""The report's page inside a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The report's page in a notebook; elsewhere its path."""

    path: Path
    height: int

    def __repr__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        content = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{content}" width="100%" height="{self.height}" style="border:0"></iframe>'
