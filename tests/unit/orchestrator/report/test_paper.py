"""Pictures for a paper: the width that was asked for, no letter below 7 pt, values where they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from orchestrator.errors import SpecError
from orchestrator.report import paper, pictures
from orchestrator.report.heatmap import HeatMap, Over, Scale
from orchestrator.report.paper import SMALLEST_PT, draw_row
from tests.fake_store import fake_grid, fake_rows

LIMITS = (0.4, 1.0)


@pytest.fixture(scope="module")
def maps() -> list[HeatMap]:
    """Four experiments, seven layers by thirteen positions, three seeds."""
    grid = fake_grid()
    return pictures.chosen(fake_rows(grid), grid)


def drawn(maps: list[HeatMap], width_in: float) -> Figure:
    """The row of these maps."""
    return draw_row(maps, width_in=width_in, scale=Scale.RAW, over=Over.MEAN, limits=LIMITS)


def texts(figure: Figure) -> list[Text]:
    """Every text that is seen."""
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize(("n_maps", "width_in"), [(1, 3.25), (1, 5.5), (2, 5.5), (4, 7.0)])
def test_the_width_is_kept_and_no_letter_is_small(maps: list[HeatMap], n_maps: int, width_in: float) -> None:
    """Whatever is in the row: the figure's width in inches, and the size of its smallest letter."""
    figure = drawn(maps[:n_maps], width_in)
    assert figure.get_size_inches()[0] == pytest.approx(width_in)
    assert min(text.get_fontsize() for text in texts(figure)) >= SMALLEST_PT


def test_values_are_printed_where_they_fit(maps: list[HeatMap]) -> None:
    """A map of thirteen positions has room for its values at 5.5 in, not at 3.25 in; there it has the dots."""
    (item,) = maps[:1]
    values = {f"{value:.2f}".removeprefix("0") for value in item.values(Scale.RAW, Over.MEAN).ravel()}
    assert values <= {text.get_text() for text in texts(drawn([item], 5.5))}
    assert not values & {text.get_text() for text in texts(drawn([item], 3.25))}


def test_labels_do_not_touch(maps: list[HeatMap]) -> None:
    """In a narrow panel every n-th position is named, the last one among them."""
    axes = drawn(maps[:3], 5.5).axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert 1 < len(labels) < 13
    assert labels[-1].startswith("81")


def test_a_file_for_each_experiment_and_one_row(maps: list[HeatMap], tmp_path: Path) -> None:
    """Each format is written; where the maps have room side by side they are in one file too."""
    paths = pictures.write(maps[:2], tmp_path, width_in=5.5, formats=["pdf", "svg"])
    stems = ["left_boundary_boundless_das", "left_and_right_boundary_boundless_das", "all"]
    assert [path.name for path in paths] == [f"{stem}.{form}" for stem in stems for form in ("pdf", "svg")]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_maps_of_two_metrics_share_neither_a_row_nor_a_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intervention's IIA and a lens's divergence of 8 nats: each has a row and a colour scale of its own."""
    grid = fake_grid(experiments=["a", "b"], layers=[0, 1], positions=[7, 8], seeds=[1], methods=["das", "logit_lens"])
    rows = fake_rows(grid)
    is_lens = rows["method"] == "logit_lens"
    rows.loc[is_lens, "metric"] = "lens_kl"
    rows.loc[is_lens, "sum_kl"] = 8.0 * rows.loc[is_lens, "n_total"]
    drawn: list[tuple[set[str], tuple[float, float]]] = []

    def recorded(maps: list[HeatMap], *, limits: tuple[float, float], **options: Any) -> Figure:
        drawn.append(({item.metric for item in maps}, limits))
        return draw_row(maps, limits=limits, **options)

    monkeypatch.setattr(paper, "draw_row", recorded)
    paths = pictures.write(pictures.chosen(rows, grid), tmp_path, width_in=5.5, formats=["svg"])
    assert [path.stem for path in paths if path.stem.startswith("all")] == ["all_das", "all_logit_lens_lens_kl"]
    assert all(len(metrics) == 1 for metrics, _ in drawn)
    assert {limits[1] for metrics, limits in drawn if metrics == {"iia"}} == {1.0}
    assert {limits for metrics, limits in drawn if metrics == {"lens_kl"}} == {(0.0, 8.0)}


def test_what_cannot_be_drawn_is_named(maps: list[HeatMap], tmp_path: Path) -> None:
    """An experiment, a format and a width that do not go: what was given, and what would be right."""
    grid = fake_grid(layers=[0], seeds=[1])
    with pytest.raises(SpecError, match="did you mean `left_boundary`"):
        pictures.chosen(fake_rows(grid), grid, experiments=["left_bondary"])
    with pytest.raises(SpecError, match="got 'gif'; expected some of pdf, svg, png"):
        pictures.write(maps, tmp_path, width_in=5.5, formats=["gif"])
    with pytest.raises(SpecError, match="--width: 1 in for 1 maps"):
        pictures.write(maps[:1], tmp_path, width_in=1.0, formats=["pdf"])


def test_axes_in_axes_out(maps: list[HeatMap]) -> None:
    """A map is drawn into the axes that are given, which come back; a wrong scale is named."""
    axes = Figure(figsize=(6, 3)).add_subplot()
    assert pictures.into(maps[0], axes, scale="excess", over="mean") is axes
    assert axes.get_title(loc="left") == "left boundary"
    with pytest.raises(SpecError, match="scale: got 'iia'; expected one of value, normalised, excess"):
        pictures.into(maps[0], axes, scale="iia", over="mean")
