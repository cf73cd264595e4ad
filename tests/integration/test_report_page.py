"""The report's page in a real browser: it draws the numbers of the store, tells them, and asks the network nothing."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from orchestrator.report.heatmap import HeatMap, Over, Scale, heat_maps, value_range
from orchestrator.report.measured import measured
from orchestrator.report.page import page_content, render
from orchestrator.report.traces import Traces
from tests.browser import Browser, browser
from tests.fake_store import fake_grid, fake_rows

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs Debian's chromium and chromium-driver"),
]

STATES = ["running", "failed", "waiting", "missing", "skipped", "left_out"]
REASON = "loss <b>is not</b> finite"
ARROW_RIGHT = "\ue014"
ESCAPE = "\ue00c"
WATCH = """
window.refused = []
window.failures = []
addEventListener('securitypolicyviolation', event => refused.push(event.blockedURI))
addEventListener('error', event => failures.push(event.message))
"""
CHOOSE = """
const menu = document.getElementById(arguments[0])
menu.value = arguments[1]
menu.dispatchEvent(new Event('change'))
"""
FITS = """
return [...document.querySelectorAll('.plot')].map(plot => plot.querySelector('svg').clientWidth <= plot.clientWidth)
"""
PLACE = """
const [map, layer, position] = arguments
const plot = document.querySelectorAll('.plot')[map]
plot.scrollIntoView({block: 'center', behavior: 'instant'})
const {xaxis, yaxis} = plot._fullLayout
const box = plot.getBoundingClientRect()
return [box.left + xaxis._offset + xaxis.d2p(position), box.top + yaxis._offset + yaxis.d2p(layer),
  xaxis.d2p(1) - xaxis.d2p(0)]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The open page and what it was made from. `maps` are those of the main method and setting."""

    window: Browser
    rows: pd.DataFrame
    maps: list[HeatMap]

    def place(self, index: int, layer: int, position: int) -> tuple[float, float, float]:
        """Where in the window the centre of a place is, and how wide it is."""
        x, y, width = self.window.run(PLACE, index, layer, position)
        return x, y, width

    def card(self, index: int, layer: int, position: int) -> str:
        """What the page says when the mouse comes to a place."""
        x, y, _ = self.place(index, layer, position)
        self.window.point_at(2, 2)
        self.window.point_at(x, y)
        return str(
            self.window.run("const card = document.getElementById('card'); return card.hidden ? '' : card.innerText")
        )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, list[HeatMap]]:
    """A report of two experiments, two seeds, a probe and a setting; layer 1 of the second has every state."""
    grid = fake_grid(
        experiments=["left_boundary", "bracket_identity"],
        layers=[0, 1, 2],
        seeds=[1, 2],
        methods=["boundless_das", "linear_probe"],
    )
    for offset, state in enumerate(STATES):
        here = (grid["experiment"] == "bracket_identity") & (grid["layer"] == 1) & (grid["position"] == 69 + offset)
        grid.loc[here & (grid["method"] == "boundless_das"), ["state", "reason"]] = [state, REASON]
    rows = fake_rows(grid, settings={"other_context": 0.5}, metrics={"linear_probe": "decoding"})
    rows = rows[(rows["method"] == "boundless_das") | (rows["setting"] == "main")]
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(render(page_content(rows, grid, title="A sweep </title><i>")), encoding="utf-8")
    maps = [
        item for item in heat_maps(measured(rows, grid)) if item.method == "boundless_das" and item.setting == "main"
    ]
    return path, rows, maps


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that watches what its pages do."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield opened


@pytest.fixture
def page(window: Browser, written: tuple[Path, pd.DataFrame, list[HeatMap]]) -> Page:
    """The report, freshly opened at 1400 x 900 in light colours."""
    path, rows, maps = written
    resize(window, 1400)
    window.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    window.open(path.as_uri())
    window.wait_for_text("Provenance")
    return Page(window=window, rows=rows, maps=maps)


def resize(window: Browser, width: int) -> None:
    """Make the window `width` CSS pixels wide."""
    window.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)


def best_row(page: Page, *, layer: int, position: int, experiment: str = "left_boundary") -> dict[str, Any]:
    """The row that the highest IIA of a place comes from."""
    rows = page.rows[(page.rows["method"] == "boundless_das") & (page.rows["setting"] == "main")]
    here = rows[(rows["experiment"] == experiment) & (rows["layer"] == layer) & (rows["position"] == position)]
    return here.sort_values("n_correct", ascending=False).iloc[0].to_dict()


def test_the_page_asks_the_network_nothing(page: Page) -> None:
    """No resource is loaded, the page's own policy has nothing to refuse, and no script fails."""
    found = page.window.run(
        "return [performance.getEntriesByType('resource').map(one => one.name), refused, failures, document.title]"
    )
    assert found == [[], [], [], "A sweep </title><i>"]


def test_each_place_has_the_colour_of_its_number(page: Page, tmp_path: Path) -> None:
    """The pixels of measured places are viridis at the IIA; those of places without a number are grey."""
    item = page.maps[1]
    low, high = value_range(page.maps, Scale.RAW)
    values, states = item.values(Scale.RAW, Over.MAXIMUM), item.states(Over.MAXIMUM)
    page.place(1, 0, 0)  # scrolls
    page.window.screenshot(tmp_path / "page.png")
    picture = imread(tmp_path / "page.png")[:, :, :3]
    for layer, position in np.ndindex(values.shape):
        x, y, width = page.place(1, layer, position)
        shown = picture[round(y), round(x - 0.38 * width)]
        if states[layer, position] == "done":
            wanted = matplotlib.colormaps["viridis"]((values[layer, position] - low) / (high - low))[:3]
            np.testing.assert_allclose(shown, wanted, atol=0.03)
        else:
            assert np.ptp(shown) < 0.06, f"{states[layer, position]} is drawn in a colour: {shown}"


def test_pointing_at_a_place_tells_its_numbers(page: Page) -> None:
    """Token, layer, IIA with counts, controls in the same units, both seeds, job, attempt, host and seconds."""
    said = page.card(0, 2, 9)  # layer 2, position 78
    best = best_row(page, layer=2, position=78)
    for wanted in (
        *(
            "left boundary",
            "layer 2",
            "position 78",
            "#",
            f"IIA {best['n_correct'] / 1000:.3f}",
            f"seed {best['seed']}",
        ),
        *(f"{best['n_correct']} of 1,000", "(95 %)", f"no intervention\t{best['n_correct_none'] / 1000:.3f}"),
        *(
            f"whole vector swapped\t{best['n_correct_full'] / 1000:.3f}",
            f"IIA\t{best['iia']:.3f}\t{best['iia_normalized']:.3f}",
        ),
        *(f"random rotation\t{best['n_correct_random'] / 1000:.3f}", "task accuracy\t0.852\t1.000"),
        *(
            f"{int(best['n_only_cell'])} pairs right only with it",
            "(Holm)",
            f"job {best['job']}",
            "attempt 1",
            "node01",
        ),
        *(f"{best['gpu_seconds']:.1f} s", f"{best['subspace_dim']} dimensions"),
    ):
        assert wanted in said


def test_pointing_at_a_failed_place_tells_the_reason(page: Page) -> None:
    """There is a state and a reason, as text, and no number."""
    said = page.card(1, 1, 1)
    assert "failed" in said
    assert REASON in said
    assert "IIA" not in said
    assert "0.0" not in said


def test_units_and_seeds_can_be_chosen(page: Page) -> None:
    """The headline of a map follows the choice: its highest value in each unit, over seeds or of one of them, and the
    place with its token."""
    item = page.maps[0]
    for scale, label in ((Scale.NORMALISED, "Normalised"), (Scale.EXCESS, "Above controls"), (Scale.RAW, "Raw")):
        page.window.click(label, "input")
        for over in (*Over, *item.seeds):
            page.window.run(CHOOSE, "over", str(over))
            values = item.values(scale, over)
            layer, position = np.unravel_index(np.nanargmax(values), values.shape)
            place = f"at layer {item.layers[layer]}, position {item.axis_labels()[position]}"
            assert f"highest {values[layer, position]:.3f} {place}" in page.window.text()


def test_settings_and_probes_can_be_chosen(page: Page) -> None:
    """Another setting has other numbers; a probe's are called decoding accuracy, and have no normalised unit."""
    before = page.window.run("return document.querySelector('.panel .sub').innerText")
    page.window.run(CHOOSE, "setting", "other_context")
    assert page.window.run("return document.querySelector('.panel .sub').innerText") != before
    page.window.run(CHOOSE, "method", "linear_probe")
    assert page.window.run("return document.getElementById('colourbar').innerText").startswith("Decoding accuracy")
    assert page.window.run("return [...document.querySelectorAll('[name=scale]')].map(one => one.disabled)") == [
        *(False, True, True)
    ]
    assert "Decoding accuracy" in page.card(0, 2, 9)


def test_the_keyboard_walks_through_a_map(page: Page) -> None:
    """With a map in focus the arrow keys move from place to place and the card follows."""
    page.window.run("document.querySelector('.plot').focus()")
    for position in ("position 69", "position 70"):
        page.window.press(ARROW_RIGHT)
        assert position in page.window.run("return document.getElementById('card').innerText")


def test_the_key_names_the_states_that_occur(page: Page) -> None:
    """Every state on the maps is in the key, with a mark of its own; where all is measured there is none."""
    marks = page.window.run("return [...document.querySelectorAll('#marks path')].map(one => one.getAttribute('d'))")
    assert len(set(marks)) == len(marks) == 6
    names = page.window.run("return document.getElementById('marks').innerText")
    assert [name for name in names.splitlines() if name][:6] == [*STATES[:5], "left out"]


@pytest.mark.parametrize("width", [400, 1000, 1600])
def test_the_page_fits_any_window(page: Page, width: int) -> None:
    """Nothing is wider than the window, and every map is drawn inside its panel."""
    resize(page.window, width)
    page.window.run("dispatchEvent(new Event('resize'))")
    page.window.open(page.window.run("return location.href"))
    assert page.window.run("return document.documentElement.scrollWidth") <= width
    assert page.window.run(FITS) == [True, True]


def test_light_and_dark(page: Page) -> None:
    """The page follows the system's choice, and its button overrules it."""
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.window.run(paper)
    page.window.click("Dark")
    dark = page.window.run(paper)
    assert sum(map(int, light[4:-1].split(","))) > 600
    assert sum(map(int, dark[4:-1].split(","))) < 150
    page.window.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.window.open(page.window.run("return location.href"))
    assert page.window.run(paper) == dark


def test_a_click_pins_a_place_and_its_address_opens_it_again(page: Page) -> None:
    """The card stays while the mouse is elsewhere, tells the other data, and its link leads to the same place."""
    x, y, _ = page.place(0, 2, 9)
    page.window.point_at(x, y)
    page.window.click_at(x, y)
    page.window.point_at(2, 2)
    said = page.window.run("return document.getElementById('card').innerText")
    assert "position 78" in said
    assert "other context" in said
    there = page.window.run("return location.href")
    page.window.open("about:blank")
    page.window.open(there)
    page.window.wait_for_text("Provenance")
    assert page.window.run("return document.getElementById('card').innerText") == said
    page.window.press(ESCAPE)
    assert page.window.run("return [document.getElementById('card').hidden, location.hash]") == [True, ""]


def test_a_pinned_place_tells_how_it_learned(window: Browser, tmp_path: Path) -> None:
    """Two curves, the pairs with their answers, and the call that loads the alignment; no script fails."""
    grid = fake_grid(experiments=["left_boundary"], layers=[0, 1], seeds=[1])
    key = grid.loc[(grid["layer"] == 1) & (grid["position"] == 78), "cell_key"].iloc[0]
    curve = {"loss_step": [10, 20], "loss": [0.7, 0.25], "iia_step": [10, 20], "iia_n_correct": [90, 180]}
    pair = {"base": ["x 1.00 y"], "source": ["x 2.00 y"], "variable": ["P"], "label": ["Yes"]}
    trace = {**curve, "iia_n_total": 200, **pair, "before": ["No"], "after": ["Yes"]}
    content = page_content(fake_rows(grid), grid, title="demo", traces=Traces(cells={key: trace}, aligned={key}))
    (tmp_path / "index.html").write_text(render(content), encoding="utf-8")
    resize(window, 1400)
    window.open((tmp_path / "index.html").as_uri() + "#experiment=left_boundary&layer=1&column=78")
    window.wait_for_text("Provenance")
    said = window.run("return document.getElementById('card').textContent")
    for wanted in (
        *("Loss: 0.700 after 10, 0.250 after 20 steps", "IIA on 200 validation pairs: 0.450 after 10, 0.900 after 20"),
        *("1 test pairs, as trained: 1 give the label", "says No, under the intervention on P Yes ✓"),
        'Sweep.load("demo").alignment(experiment="left_boundary", layer=1, position=78, seed=1',
    ):
        assert wanted in said
    assert window.run("return [document.querySelectorAll('#card polyline').length, failures, refused]") == [2, [], []]


def test_a_map_can_be_taken_along_as_numbers(page: Page) -> None:
    """The CSV has a line for each place and seed with the numbers of the store."""
    text = page.window.run("return csv_of(maps_now()[0])")
    lines = pd.read_csv(io.StringIO(text))
    item = page.maps[0]
    assert len(lines) == len(item.layers) * len(item.columns) * len(item.seeds)
    best = best_row(page, layer=2, position=78)
    here = lines[(lines["layer"] == 2) & (lines["position"] == 78) & (lines["seed"] == best["seed"])].iloc[0]
    assert (here["experiment"], here["n_correct"], here["job"]) == ("left_boundary", best["n_correct"], best["job"])
