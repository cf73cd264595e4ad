"""Our own deprecated calls are errors in every process of a test; those of others are not."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

CALL = "import warnings; warnings.warn('old', {kind}, stacklevel=1)"


def ended(code: str) -> subprocess.CompletedProcess[str]:
    """A Python that a test starts, as workers are."""
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["DeprecationWarning", "FutureWarning", "PendingDeprecationWarning"])
@pytest.mark.parametrize("module", ["workers.engine.model", "orchestrator", "cluster.local", "__main__"])
def test_a_warning_of_our_modules_ends_a_process(module: str, kind: str) -> None:
    """A worker, a dispatcher, a command: the test fails with the traceback."""
    code = f"exec({CALL.format(kind=kind)!r}, {{'__name__': {module!r}}})"
    assert f"{kind}: old" in ended(code).stderr
    assert ended(code).returncode == 1


def test_a_warning_of_others_does_not() -> None:
    """What a library says of itself is not ours to mend."""
    code = f"exec({CALL.format(kind='DeprecationWarning')!r}, {{'__name__': 'workersomething.else'}})"
    assert ended(code).returncode == 0


def test_what_transformers_only_logs_ends_a_process() -> None:
    """It warns of an argument's old name through its logger."""
    code = "import logging; logging.getLogger('transformers.utils').warning('`x` are deprecated. Use `y` instead.')"
    assert ended(code).returncode == 1
    assert ended(code.replace("deprecated", "fine")).returncode == 0


def test_what_transformers_only_logs_is_an_error_here() -> None:
    """In the tests' own process too."""
    with pytest.raises(DeprecationWarning, match="old"):
        logging.getLogger("transformers.models").warning("old and Deprecated")
