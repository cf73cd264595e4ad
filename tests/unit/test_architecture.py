"""The direction of imports.

Between packages: causalsweep -> orchestrator -> workers' plain types and cluster; workers and cluster know neither each
other nor the orchestrator; all may use `values`, which knows none of them; each heavy library has its place. Between
the rooms of a package: the arrows of ARROWS. A room may import what its arrows lead to, directly or over other rooms.
Files and functions stay short.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("causalsweep", "orchestrator", "workers", "cluster", "values")
HEAVY = {"torch", "transformers", "ray", "submitit"}
# Where a library may be imported.
HOME = {
    "torch": ("workers/",),
    "transformers": ("workers/",),
    "submitit": ("cluster/slurm/",),
    "ray": ("cluster/ray/",),
    "ruamel": ("orchestrator/spec/text.py",),
}
# What each package may import of the others.
SIBLINGS = {
    "causalsweep": {"orchestrator"},
    "orchestrator": {"workers", "cluster", "values"},
    "workers": {"values"},
    "cluster": {"values"},
    "values": set(),
}
# The rooms of a package and the rooms directly below each. A new room gets a line here.
ARROWS: dict[str, dict[str, set[str]]] = {
    "orchestrator": {
        "__main__": {"cli"},
        "cli": {"listing", "drafting", "audit"},
        "audit": {"sweep"},
        "drafting": {"sweep"},
        "listing": {"sweep"},
        "search": {"sweep"},
        "sweep": {"folder", "jobs", "report", "learned", "export"},
        "export": {"grid"},
        "learned": {"grid"},
        "jobs": {"plan"},
        "plan": {"status"},
        "report": {"status"},
        "status": {"grid", "backends", "store"},
        "folder": {"grid", "store", "folder_readme"},
        "folder_readme": set(),
        "grid": {"spec"},
        "backends": {"spec"},
        "spec": {"store"},
        "store": {"errors"},
        "errors": {"wording"},
        "wording": set(),
    },
    "workers": {
        "__main__": {"job"},
        "job": {"methods"},
        "alignments": {"methods"},
        "methods": {"engine"},
        "engine": {"data"},
        "data": {"tasks"},
        "tasks": {"causal_model"},
        "causal_model": {"files"},
        "files": set(),
    },
    "cluster": {
        "testbed": {"process"},
        "ray": {"slurm"},
        "slurm": {"process", "options"},
        "local": {"process", "options"},
        "registry": {"backend"},
        "process": {"backend"},
        "options": {"backend"},
        "backend": {"files"},
        "files": set(),
    },
}
# What the orchestrator reads of the workers: plain types, without torch.
PLAIN = (
    *("workers.files", "workers.data", "workers.tasks", "workers.causal_model"),
    *("workers.methods.settings", "workers.methods.base_settings", "workers.alignments.learned"),
)
MAX_LINES = 400
MAX_FUNCTION_LINES = 40


def module_of(path: Path) -> str:
    """The dotted name of a file of the project, given relative to the project."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def modules_of(package: str, root: Path = PROJECT) -> dict[str, Path]:
    """The modules of a package: the dotted name and the file."""
    files = sorted((root / package).rglob("*.py"))
    return {module_of(path.relative_to(root)): path for path in files}


def imported_by(path: Path, known: Iterable[str] = (), *, at_load: bool = False) -> set[str]:
    """What a file imports, in functions too: dotted names, that of a module where `known` has it.

    With `at_load` only what loading the file imports: not what functions import, and not what only type checkers see.
    """
    names: set[str] = set()
    known = set(known)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _run_at_load(tree) if at_load else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the package's name"
            base = node.module or ""
            names |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return names


def _run_at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _run_at_load(node)


def top_levels(names: Iterable[str]) -> set[str]:
    """The packages that dotted names begin with."""
    return {name.partition(".")[0] for name in names}


def offenders(package: str, forbidden: set[str]) -> dict[str, set[str]]:
    """The files of a package that import something forbidden, and what."""
    modules = modules_of(package).values()
    found = {str(path.relative_to(PROJECT)): top_levels(imported_by(path)) & forbidden for path in modules}
    return {path: names for path, names in found.items() if names}


def reachable(arrows: Mapping[str, set[str]], room: str) -> set[str]:
    """The rooms that a room's arrows lead to, itself among them."""
    found, waiting = {room}, [room]
    while waiting:
        added = arrows[waiting.pop()] - found
        found |= added
        waiting.extend(added)
    return found


def wrong_arrows(package: str, arrows: Mapping[str, set[str]], root: Path = PROJECT) -> list[str]:
    """Imports between the rooms of a package that no arrow allows, one line each."""
    modules = modules_of(package, root)
    wrong = []
    for module, path in modules.items():
        if module == package:
            continue  # the package's own __init__ offers names of any room
        room = module.split(".")[1]
        if room not in arrows:
            wrong.append(f"{module}: the room {room} is not in ARROWS")
            continue
        inside = {name for name in imported_by(path, modules) if name.startswith(f"{package}.")}
        allowed = reachable(arrows, room)
        wrong += [f"{module} -> {name}" for name in sorted(inside) if name.split(".")[1] not in allowed]
    return wrong


def import_circle(root: Path, packages: Iterable[str]) -> list[str]:
    """Modules that import each other in a circle when they are loaded; empty where there is none."""
    modules = {name: path for package in packages for name, path in modules_of(package, root).items()}
    graph = {name: imported_by(path, modules, at_load=True) & set(modules) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def long_functions(path: Path) -> list[str]:
    """The functions of a file whose body, without its docstring, has more than MAX_FUNCTION_LINES lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            n_lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            if n_lines > MAX_FUNCTION_LINES:
                found.append(f"{path.name}:{node.lineno} {node.name}: {n_lines} lines")
    return found


def heavy_imports(modules: Iterable[str], path: Path = PROJECT) -> dict[str, list[str]]:
    """The `modules` that load a heavy library first, when all are imported in turn in a new process, and which.

    Modules and what they import are looked for in `path`.
    """
    code = f"""
import importlib, json, sys
found, loaded = {{}}, set()
for name in {sorted(modules)}:
    importlib.import_module(name)
    if added := {HEAVY} & set(sys.modules) - loaded:
        found[name], loaded = sorted(added), loaded | added
print(json.dumps(found))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=path, check=True)
    found: dict[str, list[str]] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below(package: str) -> None:
    """Workers and cluster import neither each other nor the orchestrator; nothing imports `causalsweep`."""
    assert offenders(package, set(PACKAGES) - {package} - SIBLINGS[package]) == {}


@pytest.mark.parametrize(("library", "homes"), HOME.items())
def test_heavy_library_stays_at_home(library: str, homes: tuple[str, ...]) -> None:
    """Torch and transformers are the workers' alone; SLURM's and Ray's have a backend each; ruamel a file."""
    found = [path for package in PACKAGES for path in offenders(package, {library})]
    assert [path for path in found if not path.startswith(homes)] == []


@pytest.mark.parametrize("package", ARROWS)
def test_rooms_import_only_along_the_arrows(package: str) -> None:
    """No import runs upward or sideways between the rooms of a package, not even inside a function."""
    assert wrong_arrows(package, ARROWS[package]) == []


@pytest.mark.parametrize("package", ARROWS)
def test_every_arrow_leads_to_a_room(package: str) -> None:
    """The drawing names no room that is gone."""
    rooms = {name.split(".")[1] for name in modules_of(package) if name != package}
    assert set(ARROWS[package]) == rooms


def test_orchestrator_reads_only_plain_types_of_the_workers() -> None:
    """The orchestrator imports no room of the workers that may load torch."""
    workers = modules_of("workers")
    found = [
        f"{module} -> {name}"
        for module, path in modules_of("orchestrator").items()
        for name in imported_by(path, workers)
        if name.startswith("workers.") and not f"{name}.".startswith(tuple(f"{room}." for room in PLAIN))
    ]
    assert found == []


def test_no_import_circle() -> None:
    """Loading any module never comes back to that module."""
    assert import_circle(PROJECT, PACKAGES) == []


def test_orchestrator_loads_nothing_heavy() -> None:
    """Importing every module of the orchestrator, and all that they import in turn, loads no heavy library."""
    modules = [name for package in ("causalsweep", "orchestrator") for name in modules_of(package)]
    assert heavy_imports(name for name in modules if not name.endswith("__main__")) == {}


def test_plain_rooms_load_nothing_heavy() -> None:
    """The workers' plain types load no heavy library, directly or through what they import."""
    modules = [name for name in modules_of("workers") if f"{name}.".startswith(tuple(f"{room}." for room in PLAIN))]
    assert len(modules) > len(PLAIN)
    assert heavy_imports(modules) == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_short(package: str) -> None:
    """No file has more lines than a reader holds in mind."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules_of(package).items()}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_stay_short(package: str) -> None:
    """No function's body, docstring aside, has more lines than fit on a screen."""
    assert [line for path in modules_of(package).values() for line in long_functions(path)] == []


def test_scanner_sees_imports_inside_functions(tmp_path: Path) -> None:
    """The scan behind these tests is not fooled by an import that hides in a function."""
    hidden = tmp_path / "hidden.py"
    hidden.write_text("import os\n\ndef f():\n    from torch.nn import Linear\n    return Linear\n")
    assert top_levels(imported_by(hidden)) == {"os", "torch"}
    assert imported_by(hidden, at_load=True) == {"os"}


def planted(root: Path, **files: str) -> Path:
    """A package `house` with the given modules; `room__module` is module.py in the folder `room`."""
    for name, text in files.items():
        path = (root / "house" / name.replace("__", "/")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


HOUSE = {"roof": {"floor"}, "floor": {"ground"}, "ground": set[str]()}


def test_an_import_that_runs_upward_is_found(tmp_path: Path) -> None:
    """A planted import of a room above, hidden in a function, is named; those along the arrows are not."""
    planted(
        tmp_path,
        roof__a="from house.ground.c import x",
        floor__b="from house.ground import c",
        ground__c="def f():\n    from house.roof import a",
    )
    assert wrong_arrows("house", HOUSE, tmp_path) == ["house.ground.c -> house.roof.a"]


def test_a_room_without_arrows_is_found(tmp_path: Path) -> None:
    """A planted room that the drawing does not know is named."""
    planted(tmp_path, cellar__a="")
    assert wrong_arrows("house", HOUSE, tmp_path) == ["house.cellar.a: the room cellar is not in ARROWS"]


def test_an_import_circle_is_found(tmp_path: Path) -> None:
    """Two planted modules that import each other are a circle; an import in a function breaks it."""
    planted(tmp_path, ground__a="from house.ground import b", ground__b="import house.ground.a")
    assert set(import_circle(tmp_path, ["house"])) == {"house.ground.a", "house.ground.b"}
    planted(tmp_path, ground__b="def f():\n    import house.ground.a")
    assert import_circle(tmp_path, ["house"]) == []


def test_a_long_function_is_found(tmp_path: Path) -> None:
    """A planted function with a line too many is named; one that is long by its docstring only is not."""
    body = "    x = 0\n" * MAX_FUNCTION_LINES
    long_docstring = '    """Docs.\n' + "\n" * MAX_FUNCTION_LINES + '    """\n'
    path = tmp_path / "planted.py"
    path.write_text(f"def long():\n{body}    x = 1\n\ndef short():\n{long_docstring}{body}")
    assert long_functions(path) == [f"planted.py:1 long: {MAX_FUNCTION_LINES + 1} lines"]


def test_a_heavy_import_is_found(tmp_path: Path) -> None:
    """A planted module that loads `ray` only through another one is named with it."""
    planted(tmp_path, ground__a="import house.ground.b", ground__b="import ray")
    (tmp_path / "ray.py").touch()
    assert heavy_imports(["house.ground", "house.ground.a"], tmp_path) == {"house.ground.a": ["ray"]}
