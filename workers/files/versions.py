"""What every reader of a sweep's files says of a file that a later version of this program wrote."""

from __future__ import annotations

from pathlib import Path


class NewerFile(ValueError):
    """A file of a format that this version does not know yet: nothing can be said of what is in it."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        super().__init__(path, found, known)
        self.path, self.found, self.known = path, found, known

    def __str__(self) -> str:
        return (
            f"{self.path}: format version {self.found}, and this causalsweep reads versions up to {self.known}; "
            "a newer one wrote it: use that one for this sweep"
        )
