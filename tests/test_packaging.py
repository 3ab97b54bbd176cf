"""The four packages and their data are found the same way, however the project was installed.

Everything is built in-process from a copy of the tree, and looked up by an interpreter started with
`-S`: it has the standard library, the working folder and what the case adds, so an installation in
the environment that runs the tests cannot stand in for the one under test.
"""

import json
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import recipes

building = pytest.importorskip("hatchling.build")

ROOT = Path(__file__).parents[1]
PACKAGES = ("tome_lightning", "datamodules", "checkpoints", "recipes")
FILES = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", ".gitignore")

# find_spec on a top-level name runs no code of the package: needs no torch and takes no seconds.
LOOK_UP = """
import json, site, sys
from importlib.util import find_spec
if sys.argv[1]:
    site.addsitedir(sys.argv[1])  # reads the .pth of an editable install, as start-up would
names = ("tome_lightning", "datamodules", "checkpoints", "recipes")
found = {name: find_spec(name).origin for name in names}  # None for a namespace folder
import recipes
found["quickstart"] = str(recipes.path("quickstart"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone holds, without the .venv and runs/ that lie in a checkout one works in."""
    tree = tmp_path_factory.mktemp("clone").resolve()
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    for name in (*PACKAGES, "tests"):
        shutil.copytree(
            ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.ckpt")
        )
    return tree


def _build(backend, tree: Path, into: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)  # a PEP 517 backend builds the working folder
        return into / backend(str(into))


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(building.build_wheel, tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sites(
    tree: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path | None, Path]]:
    """For each way to install: the site-packages folder it fills, and where the code then lies."""
    installed = tmp_path_factory.mktemp("site").resolve()
    editable = tmp_path_factory.mktemp("editable-site")
    shutil.unpack_archive(wheel, installed, "zip")
    built = _build(building.build_editable, tree, tmp_path_factory.mktemp("editable-wheel"))
    shutil.unpack_archive(built, editable, "zip")
    return {"checkout": (None, tree), "editable": (editable, tree), "wheel": (installed, installed)}


@pytest.mark.parametrize(
    ("install", "folders_in_the_way"),
    [
        ("checkout", False),
        ("editable", False),
        ("editable", True),
        ("wheel", False),
        ("wheel", True),
    ],
)
def test_packages_and_recipes_are_found(sites, tmp_path, install, folders_in_the_way):
    site, home = sites[install]
    if folders_in_the_way:  # a user's own, or the checkpoints/ that Lightning makes
        for name in PACKAGES:
            (tmp_path / name).mkdir()
    run = subprocess.run(
        # -E: no PYTHONPATH; -S: no site-packages, hence none of the .pth files there; -B: no .pyc
        [sys.executable, "-E", "-S", "-B", "-c", LOOK_UP, str(site or "")],
        cwd=home if install == "checkout" else tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    expected = {name: home / name / "__init__.py" for name in PACKAGES}
    expected["quickstart"] = home / "recipes" / "quickstart.yaml"
    assert json.loads(run.stdout) == {name: str(file) for name, file in expected.items()}


@pytest.fixture
def own_packages(tmp_path) -> Path:
    """A working folder with regular packages of the user's, of the names of ours."""
    for name in PACKAGES[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    return tmp_path


@pytest.mark.parametrize("install", ["editable", "wheel"])
def test_packages_of_the_user_s_own_are_not_taken_for_ours(sites, own_packages, install):
    """`python -m` looks in the working folder first."""
    site, home = sites[install]
    start = "from tome_lightning.__main__ import main\nmain(['--version'])\nnames ="
    run = subprocess.run(
        [sys.executable, "-E", "-S", "-B", "-c", LOOK_UP.replace("names =", start), str(site)],
        cwd=own_packages, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[1])
    assert {found[name] for name in PACKAGES} == {str(home / p / "__init__.py") for p in PACKAGES}
    (note,) = run.stderr.splitlines()
    assert note.startswith("note: ")
    assert all(str(own_packages / name) in note for name in PACKAGES[1:])


def test_a_python_process_of_the_user_s_is_told_of_another_package(own_packages):
    """There its own packages are its own: ours must not take their place."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); import tome_lightning; tome_lightning.fit"
    run = subprocess.run(
        [sys.executable, "-E", "-S", "-B", "-c", code],
        cwd=own_packages, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    told = run.stderr.splitlines()[-1]
    first = f"ImportError: {own_packages / 'datamodules'} stands in for tome_lightning's own datamodules"
    assert told.startswith(first)
    assert str(ROOT / "datamodules") in told


def test_wheel_holds_the_four_packages_and_nothing_else(tree, wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    in_tree = {
        file.relative_to(tree).as_posix()
        for package in PACKAGES
        for file in (tree / package).rglob("*")
        if file.is_file()
    }
    assert held == in_tree
    assert {"tome_lightning/py.typed", "recipes/quickstart.yaml"} <= held


def test_wheel_metadata_names_licence_script_and_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "tome-lightning = tome_lightning.__main__:main" in scripts
    assert licence.lstrip().startswith("Apache License")


def test_what_a_run_leaves_behind_is_not_packaged(tree, tmp_path):
    messy = tmp_path / "messy"
    shutil.copytree(tree, messy)
    for left in ("checkpoints/epoch=0.ckpt", "runs/a/metrics.csv", "lightning_logs/a.yaml"):
        (messy / left).parent.mkdir(parents=True, exist_ok=True)
        (messy / left).touch()
    wheel = zipfile.ZipFile(_build(building.build_wheel, messy, tmp_path))
    shutil.unpack_archive(_build(building.build_sdist, messy, tmp_path), tmp_path / "sdist")
    (sdist,) = (tmp_path / "sdist").iterdir()
    shipped = [
        *wheel.namelist(),
        *(file.relative_to(sdist).as_posix() for file in sdist.rglob("*")),
    ]
    assert not [f for f in shipped if f.startswith(("runs", "lightning_logs")) or ".ckpt" in f]
    assert "tests/test_packaging.py" in shipped  # so that a packager can run them


@pytest.mark.parametrize("name", recipes.names())
def test_each_recipe_is_found_by_its_name(name):
    assert recipes.path(name) == ROOT / "recipes" / f"{name}.yaml"


def test_a_recipe_of_ones_own_is_found_by_its_path(tmp_path):
    mine = tmp_path / "mine.yml"
    mine.touch()
    assert recipes.path(str(mine)) == mine


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quikstart", "there is no recipe 'quikstart'; did you mean quickstart"),
        ("gone/quickstart.yaml", "there is no file 'gone/quickstart.yaml'"),
        (__file__, "is not a .yaml or .yml file"),
    ],
)
def test_a_missing_recipe_is_one_line_that_names_the_others(name, told):
    with pytest.raises(recipes.RecipeError) as caught:
        recipes.path(name)
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    assert all(shipped in message for shipped in recipes.names())
