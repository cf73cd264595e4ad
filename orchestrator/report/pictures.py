"""Maps of a sweep as pictures: which of them, into files for a paper or into axes of a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrator.errors import SpecError, StorageError
from orchestrator.spec.filters import instead
from orchestrator.store.metrics import Metric
from workers.files.job import MAIN_SETTING
from workers.files.place import BLOCK_OUTPUT

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.report.heatmap import HeatMap

FORMATS: Final = ("pdf", "svg", "png")


def chosen(
    rows: pd.DataFrame,
    cells: pd.DataFrame,
    *,
    experiments: Sequence[str] = (),
    methods: Sequence[str] = (),
    models: Sequence[str] = (),
    setting: str = "",
    site: str = "",
    metric: Metric = Metric.IIA,
) -> list[HeatMap]:
    """The maps of these experiments (default: all), methods, models, setting (default: as trained) and site (default:
    the blocks' output where there is one). Raises: SpecError."""
    from orchestrator.report.heatmap import Axis, drawn_maps, heat_maps
    from orchestrator.report.measured import measured

    maps = [item for item in heat_maps(measured(rows, cells, metric)) if item.axis is Axis.POSITION]
    asked = {
        "experiment": experiments,
        "method": methods,
        "model": models,
        "setting": [setting or MAIN_SETTING],
        "site": [site] if site else [],
    }
    for name, wanted in asked.items():
        there = {getattr(item, name) for item in maps}
        for value in wanted:
            if value not in there:
                raise SpecError(f"{name}: got {value!r}; {instead(value, there)}")
        maps = [item for item in maps if not wanted or getattr(item, name) in wanted]
    at_blocks = [item for item in maps if item.site == BLOCK_OUTPUT]
    if not maps:
        raise SpecError("figure: no map fits all of these; ask for fewer")
    if not drawn_maps(maps):
        raise SpecError("figure: a set of places has no layers, so that it has no map; its numbers are in the summary")
    return at_blocks or drawn_maps(maps)


def only(rows: pd.DataFrame, cells: pd.DataFrame, asked: Mapping[str, str]) -> HeatMap:
    """The one map of the experiment, method, model, setting and site that `asked` names; empty where all will do.

    Raises: SpecError, which says what tells several apart.
    """
    listed = {name: [value] if value else [] for name, value in asked.items()}
    maps = chosen(
        rows,
        cells,
        experiments=listed["experiment"],
        methods=listed["method"],
        models=listed["model"],
        setting=asked["setting"],
        site=asked["site"],
    )
    if len(maps) == 1:
        return maps[0]
    apart = []
    for name in ("model", "experiment", "method", "site"):
        values = list(dict.fromkeys(getattr(item, name) for item in maps))
        if len(values) > 1:
            apart.append(f"{name}= ({', '.join(map(repr, values))})")
    raise SpecError(f"heatmap: {len(maps)} maps fit; give also {' and '.join(apart)}")


def write(maps: Sequence[HeatMap], folder: Path, *, width_in: float, formats: Sequence[str]) -> list[Path]:
    """The files of `orchestrator.report.paper.write_figures`. Raises: SpecError, StorageError."""
    from orchestrator.report.paper import write_figures

    for form in formats:
        if form not in FORMATS:
            raise SpecError(f"--format: got {form!r}; expected some of {', '.join(FORMATS)}")
    try:
        return write_figures(maps, folder, width_in=width_in, formats=formats)
    except ValueError as error:
        raise SpecError(f"--{error}") from error
    except OSError as error:
        raise StorageError(f"{folder}: cannot write: {error.strerror}") from error


def into(item: HeatMap, axes: Any, *, scale: str, over: str) -> Any:
    """The axes in which the map was drawn, with a colour bar where they are new. Raises: SpecError."""
    from orchestrator.report.heatmap import Over, Scale, value_range
    from orchestrator.report.paper import draw_panel

    for name, value, known in (("scale", scale, Scale), ("over", over, Over)):
        if value not in list(known):
            raise SpecError(f"{name}: got {value!r}; expected one of {', '.join(known)}")
    is_new = axes is None
    if is_new:
        from matplotlib import pyplot

        size = (1.6 + 0.42 * len(item.columns), 1.2 + 0.28 * len(item.layers))
        axes = pyplot.subplots(figsize=size, layout="constrained")[1]
    draw_panel(axes, item, scale=Scale(scale), over=Over(over), limits=value_range([item], Scale(scale)))
    axes.set_ylabel("layer")
    if is_new:
        axes.figure.colorbar(axes.collections[0], ax=axes)
    return axes
