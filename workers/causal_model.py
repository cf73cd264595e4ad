"""High-level causal models: variables, their parents, functions; run one, interchange a variable, read the outcome.

    >>> model = CausalModel(P=lambda X, Z: X <= Z, answer=lambda P, Y, Z: P and Z <= Y)
    >>> model.run({"X": 2, "Y": 5, "Z": 1})["answer"]
    False
    >>> model.interchange({"X": 2, "Y": 5, "Z": 1}, {"P": {"X": 1, "Y": 3, "Z": 3}})["answer"]
    True

Source: Geiger, Lu, Icard, Potts, "Causal Abstractions of Neural Networks", NeurIPS 2021, section 2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any


class CausalModelError(ValueError):
    """A causal model that cannot be run: a cycle, an unreachable variable, an unknown name."""


class CausalModel:
    """A deterministic causal model. Each keyword is a variable, its function's parameters are its parents; names that
    no keyword defines are inputs; the last keyword is the output.

    Raises: CausalModelError for a cycle.
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        if not functions:
            raise CausalModelError("a causal model needs at least one variable with a function (the output)")
        self.functions = functions
        self.parents = {name: tuple(inspect.signature(function).parameters) for name, function in functions.items()}
        self.output = list(functions)[-1]
        named = [parent for parents in self.parents.values() for parent in parents]
        self.inputs = tuple(dict.fromkeys(parent for parent in named if parent not in functions))
        self.order = self._topological_order()

    def _topological_order(self) -> tuple[str, ...]:
        """The variables, each after its parents."""
        inner = {name: [one for one in parents if one in self.functions] for name, parents in self.parents.items()}
        try:
            return tuple(TopologicalSorter(inner).static_order())
        except CycleError as error:
            circle = ", ".join(name for name in self.functions if name in error.args[1])
            raise CausalModelError(f"variables {circle} depend on each other in a circle") from None

    def run(self, inputs: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The value of every variable, those in `fixed` held at the value given (an intervention).

        Raises: KeyError when an input is missing.
        """
        values = {name: inputs[name] for name in self.inputs} | dict(fixed or {})
        for name in self.order:
            if name not in values:
                values[name] = self.functions[name](*(values[parent] for parent in self.parents[name]))
        return values

    def interchange(self, base: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The values of a run on `base` in which each variable named in `sources` has its value from the run on its
        source. The output's value is the counterfactual label."""
        return self.run(base, {variable: self.run(source)[variable] for variable, source in sources.items()})

    def reaches_output(self, variable: str) -> bool:
        """Whether the output depends on `variable` at all."""
        reached, frontier = {variable}, [variable]
        while frontier:
            name = frontier.pop()
            children = [child for child, parents in self.parents.items() if name in parents and child not in reached]
            reached.update(children)
            frontier += children
        return self.output in reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A causal model and the variable(s) of it to align with subspaces of the network, one disjoint subspace each.

    Raises: CausalModelError when a variable is unknown, is the output itself, or does not reach it.
    """

    name: str
    model: CausalModel
    variables: tuple[str, ...]

    def __post_init__(self) -> None:
        for variable in self.variables:
            if variable not in self.model.functions or variable == self.model.output:
                inner = [name for name in self.model.functions if name != self.model.output]
                raise CausalModelError(
                    f"hypothesis {self.name!r}: variable {variable!r} is not an inner variable; there are {inner}"
                )
            if not self.model.reaches_output(variable):
                raise CausalModelError(
                    f"hypothesis {self.name!r}: variable {variable!r} never reaches the output {self.model.output!r}"
                )
        if not self.variables:
            raise CausalModelError(f"hypothesis {self.name!r} aligns no variable")
