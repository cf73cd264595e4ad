"""What kind of failure ended an attempt, and whose it is: the user's model or task, the machine, or this program.

An exception belongs to whoever's code it was raised in, which its traceback shows. Frames of libraries that somebody
called (torch, numpy) count as the caller's. A model's own code is the user's input where it is run as it is, to be
loaded or to answer prompts; where an engine enters it midway, the engine may be at fault, so that it stays a bug.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Final

import torch

from workers.data.model_info import ModelError
from workers.files.failure import Failure, FailureClass, fingerprint
from workers.files.versions import NewerFile
from workers.tasks import TaskError
from workers.tasks.user_file import MODULE_PREFIX

_RUNS_MODEL_AS_IT_IS: Final = frozenset({"workers.engine.loading", "workers.engine.model"})
_ENGINES: Final = "workers.engine."


def classed(error: Exception) -> Failure:
    """What kind of failure an exception is, by what to do next."""
    trace = "".join(traceback.format_exception(error))
    place = ""
    if isinstance(error, ModelError | TaskError | NewerFile):
        kind = FailureClass.BAD_INPUT
    elif is_out_of_memory(error):
        kind = FailureClass.OUT_OF_MEMORY
    elif is_machines(error):
        kind = FailureClass.NODE
    else:
        place = place_in_input(error)
        kind = FailureClass.BAD_INPUT if place else FailureClass.BUG
    message = f"{place}{type(error).__name__}: {error}"
    return Failure(kind=kind, message=message, traceback=trace, fingerprint=fingerprint(kind, message, trace))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device's or the host's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def is_machines(error: Exception) -> bool:
    """Whether `error` says that the node or its GPU failed."""
    return isinstance(error, OSError) or "CUDA error" in str(error) or "cudaError" in str(error)


def place_in_input(error: Exception) -> str:
    """`FILE:LINE, NAME: ` of the innermost frame of the user's task or model, where the failure is theirs."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in frames]
    own = [at for at, name in enumerate(modules) if name.startswith("workers.")]
    first = own[-1] + 1 if own else 0
    for at in reversed(range(first, len(frames))):
        is_task = modules[at].startswith(MODULE_PREFIX)
        if is_task or (modules[at].startswith("transformers.") and _is_run_as_it_is(modules[:first])):
            return _shown(*frames[at])
    return ""


def _is_run_as_it_is(callers: Sequence[str]) -> bool:
    in_engine = {name for name in callers if name.startswith(_ENGINES)}
    return bool(in_engine) and in_engine <= _RUNS_MODEL_AS_IT_IS


def _shown(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_filename}:{line}, {frame.f_code.co_name}: "
