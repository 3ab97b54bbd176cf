"""What every test gets: a seed, a cache of its own, no network, one thread."""

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Read when huggingface_hub and torch are first imported, so set before any test module is. Child
# processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for weights online fails, it does not wait
# The models are so small that a second thread only waits; loaders and runs are processes of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


TESTS = Path(__file__).parent
# What to run first, and while one works on the core: under two minutes on two cores.
CORE = ("tome", "inputs", "test_finetune.py", "test_tasks.py", "test_optim.py", "test_recipes.py")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """What pyproject.toml says to plugins that a machine lent for its GPU lacks: taken, not used."""
    if not pluginmanager.hasplugin("xdist"):
        parser.addoption("--dist", help="pytest-xdist is not installed")
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "pytest-timeout is not installed: no test is cut off")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout(seconds): pytest-timeout's, without effect")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        first = item.path.relative_to(TESTS).parts[0]
        if first in CORE and not item.get_closest_marker("slow"):
            item.add_marker("core")
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # only here: a run without gpu tests need not pay for it

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache a session: the digits are written once, and never to the home folder."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the session, whose processes share the cache
    folder = base / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOME_LIGHTNING_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers whichever tests ran before, and sums in one order.

    torch only once something imported it; each test anew, since a run sets its threads.
    """
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "TOME_LIGHTNING_RUN_DIR"):
        os.environ.pop(name, None)  # a run leaves them to the processes it starts
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_num_threads(1)
