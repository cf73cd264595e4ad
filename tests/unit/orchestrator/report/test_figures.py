"""The pictures: colours for numbers, greys and hatches for states, one scale, and any token as a label."""

from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from orchestrator.report import figures
from orchestrator.report.heatmap import HeatMap, Over, Scale, heat_maps, value_range
from orchestrator.report.measured import measured
from tests.fake_store import fake_grid, fake_rows

STATES = ["running", "failed", "waiting", "missing", "skipped", "left_out"]


def maps_with_states() -> list[HeatMap]:
    """Two experiments of two layers; the upper layer of the second has each state at one position."""
    grid = fake_grid(experiments=["left_boundary", "bracket_identity"], layers=[0, 1], positions=range(6), seeds=[1])
    upper = (grid["experiment"] == "bracket_identity") & (grid["layer"] == 1)
    grid.loc[upper, "state"] = STATES
    return heat_maps(measured(fake_rows(grid), grid))


def draw(maps: list[HeatMap], **options: object) -> object:
    """A figure in raw units with the maximum over seeds."""
    return figures.draw(maps, scale=Scale.RAW, over=Over.MAXIMUM, limits=value_range(maps, Scale.RAW), **options)


def test_only_numbers_have_colours() -> None:
    """The coloured mesh holds the measured numbers, is masked elsewhere, and has the same ends in each panel."""
    maps = maps_with_states()
    meshes = [axes.collections[0] for axes in draw(maps).axes[:2]]
    for mesh, item in zip(meshes, maps, strict=True):
        values = item.values(Scale.RAW, Over.MAXIMUM)
        np.testing.assert_array_equal(np.ma.getmaskarray(mesh.get_array()), np.isnan(values))
        np.testing.assert_array_equal(mesh.get_array().compressed(), values[~np.isnan(values)])
    assert meshes[0].get_clim() == meshes[1].get_clim() == value_range(maps, Scale.RAW)


def test_each_state_looks_different() -> None:
    """Six states, six pairs of grey and hatch, each where its cell is, and a legend that names them."""
    figure = draw(maps_with_states())
    marks = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle) and patch.get_fill()]
    assert [patch.get_xy() for patch in marks] == [(position, 1) for position in range(6)]
    assert len({(patch.get_facecolor(), patch.get_hatch()) for patch in marks}) == 6
    named = [text.get_text() for text in figure.legends[-1].get_texts()]
    assert named == ["running", "failed", "waiting", "missing", "skipped", "left out"]


def test_the_deepest_layer_is_at_the_top() -> None:
    """Layers rise with y, and their labels with them."""
    axes = draw(maps_with_states()).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    assert axes.get_ylim() == (0, 2)


def test_any_token_can_be_a_label(tmp_path: Path) -> None:
    """Dollar signs are no formulas, foreign letters no warnings and no empty boxes, long tokens are cut."""
    tokens = ["$x_1$", "^$", "你好", "🧪", "a" * 60, "<0x0A>", "\\frac", "%"]
    grid = fake_grid(experiments=["left_$boundary$"], layers=[0], positions=range(8), seeds=[1], tokens=tokens)
    figure = draw(heat_maps(measured(fake_rows(grid), grid)))
    figures.save(figure, tmp_path / "odd.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        *("0 $x_1$", "1 ^$", "2 U+4F60U+597D", "3 U+1F9EA", "4 aaaaaaaaaaaaaaa…", "5 \\n", "6 \\frac", "7 %"),
    ]


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    """A picture drawn twice is the same file, PNG and PDF."""
    for suffix in ("png", "pdf"):
        for name in ("first", "second"):
            figures.save(draw(maps_with_states()[1:]), tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()


def test_fonts_are_embedded_in_the_pdf(tmp_path: Path) -> None:
    """The PDF carries its font as TrueType, not as Type 3, which many journals refuse."""
    figures.save(draw(maps_with_states()[1:]), tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_the_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    """Settings of the calling program do not reach the picture."""
    import matplotlib

    figures.save(draw(maps_with_states()[1:]), tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 30}):
        figures.save(draw(maps_with_states()[1:]), tmp_path / "set.png")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "set.png").read_bytes()
