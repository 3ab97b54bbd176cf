"""Which way imports point, read off the source with `ast`.

Below, `torch` or `tome_lightning.tome` in a rule also stands for what lies under it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tome_lightning", "datamodules", "checkpoints", "recipes")
HEAVY = ("torch", "lightning", "timm", "decord", "torchaudio", "matplotlib")
# Slow to import, missing on some platforms, or in an extra: only where they are used.
EXPORT = ("onnx", "onnxscript", "onnxruntime")
LATE = ("av", "decord", "torchcodec", "torchaudio", "matplotlib", "mlxtend", "pyarrow", *EXPORT)


class Import(NamedTuple):
    importer: str
    target: str  # a module, or a name in one where that is no module of ours
    line: int
    at_import: bool  # runs when the importer is imported, so not in a function or for types only

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def _module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _module_name(file): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")
}


def _targets(node: ast.Import | ast.ImportFrom, importer: str, is_package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:  # one dot is the package one is in: for an __init__.py its own name
        parents = importer.split(".")
        parents = parents[: len(parents) - node.level + is_package]
        base = ".".join(filter(None, [*parents, base]))
    for alias in node.names:
        name = f"{base}.{alias.name}"
        yield name if name in MODULES else base


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(tree: ast.AST, importer: str, is_package: bool, at_import=True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in _targets(node, importer, is_package):
                yield Import(importer, target, node.lineno, at_import)
        else:
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            runs = at_import and not deferred and not _is_type_checking(node)
            yield from _imports(node, importer, is_package, runs)


IMPORTS = [
    found
    for name, file in MODULES.items()
    for found in _imports(ast.parse(file.read_text("utf-8")), name, file.name == "__init__.py")
]


def _under(module: str, *roots: str) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _stdlib(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names


def _refuse(found: Iterator[Import]):
    wrong = [str(one) for one in found]
    assert not wrong, "\n".join(wrong)


def test_the_reader_sees_every_form_of_import():
    source = (
        "from typing import TYPE_CHECKING\nimport a.b, c\nfrom . import d\nfrom ..e import f\n"
        "if TYPE_CHECKING:\n    import g\ntry:\n    import h\nexcept ImportError:\n    pass\n"
        "class K:\n    import i\n    def m(self):\n        from j import k\n"
    )
    seen = {(one.target, one.at_import) for one in _imports(ast.parse(source), "p.q.r", False)}
    assert seen == {
        ("typing", True), ("a.b", True), ("c", True), ("p.q", True), ("p.e", True),
        ("g", False), ("h", True), ("i", True), ("j", False),
    }  # fmt: skip
    (own,) = _imports(ast.parse("from . import d"), "p.q", is_package=True)
    (up,) = _imports(ast.parse("from ..e import f"), "p.q", is_package=True)
    assert (own.target, up.target) == ("p.q", "p.e")


def test_all_four_packages_are_read():
    assert set(PACKAGES) <= set(MODULES)
    assert IMPORTS


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("tome_lightning.tome", ("torch", "timm", "tome_lightning.tome")),
        ("recipes", ("recipes",)),
    ],
)
def test_the_core_imports_little(package, allowed):
    _refuse(
        one
        for one in IMPORTS
        if _under(one.importer, package)
        and not (_stdlib(one.target) or _under(one.target, *allowed))
    )


@pytest.mark.parametrize("package", ["datamodules", "checkpoints"])
def test_data_and_checkpoints_import_nothing_of_tome_lightning(package):
    _refuse(
        one
        for one in IMPORTS
        if _under(one.importer, package) and _under(one.target, "tome_lightning")
    )


def test_the_meter_knows_nothing_of_lightning():
    _refuse(
        one
        for one in IMPORTS
        if one.importer == "tome_lightning.trainer.meter"
        and _under(one.target, "lightning", "pytorch_lightning")
    )


# A room imports from the floors below it, and within its own; those of one floor not from one another.
FLOORS = (
    ("recipes",),
    ("checkpoints", "datamodules"),
    ("version", "errors", "moved", "lazy", "screen", "siblings"),
    ("arguments",),
    ("trust",),
    ("tome", "optim", "metrics"),
    ("trainer", "inputs", "tasks"),
    ("options",),
    ("start",),
    ("finetune",),
    ("callbacks",),
    ("run",),
    ("cli",),
    ("commands",),
    ("__main__",),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FRONT_DOOR = "tome_lightning"  # offers names of all rooms, each imported when it is asked for


def _room(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == FRONT_DOOR and rest else first


def _arrows() -> Iterator[Import]:
    """Imports among our own modules, also those for types only and those inside functions."""
    return (
        one
        for one in IMPORTS
        if one.target in MODULES and FRONT_DOOR not in (one.importer, one.target)
    )


def test_every_module_has_its_floor():
    assert {_room(name) for name in MODULES} - {FRONT_DOOR} == set(FLOOR)


def test_no_import_runs_up():
    _refuse(
        one
        for one in _arrows()
        if _room(one.importer) != _room(one.target)
        and FLOOR[_room(one.importer)] <= FLOOR[_room(one.target)]
    )


def test_the_front_door_is_imported_by_nobody_behind_it():
    _refuse(one for one in IMPORTS if one.target == FRONT_DOOR)


def test_no_circle():
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in _arrows():
        if one.target != one.importer:
            graph[one.importer].add(one.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" <- ".join(cycle.args[1]))


def test_optional_and_slow_packages_are_imported_where_they_are_used():
    _refuse(one for one in IMPORTS if one.at_import and _under(one.target, *LATE))


def test_the_front_door_has_no_heavy_import():
    front = ("tome_lightning", "tome_lightning.__main__")
    _refuse(
        one
        for one in IMPORTS
        if one.importer in front and one.at_import and _under(one.target, *HEAVY)
    )


def test_importing_the_front_door_loads_nothing_heavy():
    """The same by running it: a light module that imports a heavy one would pass the reading."""
    code = (
        "import sys, tome_lightning, tome_lightning.__main__, recipes\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_weights_are_never_unpickled_as_code():
    unsafe = re.compile(r"weights_only[\"']?\s*[=:]\s*false", re.IGNORECASE)
    wrong = [
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.suffix in (".py", ".yaml", ".yml", ".md") and unsafe.search(file.read_text("utf-8"))
    ]
    assert not wrong
