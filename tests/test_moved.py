"""What earlier versions offered under another module's name."""

import subprocess
import sys
from importlib import import_module

import pytest

import datamodules
import tome_lightning
from tome_lightning.moved import HOMES

OLD = {  # names that a recipe, a checkpoint or a script of a version before 0.2 may have
    "tome_lightning.inputs": ["Clip", "Image", "Spectrogram", "Input", "InputError"],
    "tome_lightning.tasks": ["MultiLabel", "SingleLabel"],
    "tome_lightning.callbacks": ["ToMeCallback"],
    "tome_lightning.pictures": ["GroupPictures", "Groups", "trace_groups", "visualize"],
    "tome_lightning.speed": ["benchmark", "macs", "counted_macs", "Macs", "Row"],
    "tome_lightning.sweeping": ["sweep", "SweepRow"],
    "tome_lightning.exporting": ["export_model", "ExportMismatchError", "MergedForInference"],
    "tome_lightning.checkup": ["check_machine", "check_recipe", "Finding"],
    "tome_lightning.loaded": ["load_model", "LoadedModel"],
    "tome_lightning.comparison": ["compare"],
    "tome_lightning.inspection": ["inspect_checkpoint"],
    "tome_lightning.notebook": ["fit"],
    "tome_lightning.commands.scanning": ["scan"],
    "datamodules": datamodules.__all__,
    "tome_lightning": tome_lightning.__all__,
}


@pytest.mark.parametrize("module", OLD)
def test_a_name_is_still_where_it_was(module):
    for name in OLD[module]:
        assert getattr(import_module(module), name) is not None, name


def test_an_old_name_is_the_same_object():
    from tome_lightning.commands.visualize.callback import GroupPictures
    from tome_lightning.pictures import GroupPictures as old  # type: ignore[import-not-found]

    assert old is GroupPictures


def test_a_name_that_never_was_is_still_an_error():
    with pytest.raises(AttributeError, match="no attribute 'Pictures'"):
        _ = import_module("tome_lightning.pictures").Pictures
    with pytest.raises(ModuleNotFoundError, match=r"tome_lightning\.picture"):
        import_module("tome_lightning.picture")


def test_what_an_update_leaves_of_an_old_folder_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "pictures" / "__pycache__").mkdir(parents=True)
    monkeypatch.setattr(tome_lightning, "__path__", [*tome_lightning.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tome_lightning.pictures", raising=False)
    assert import_module("tome_lightning.pictures").GroupPictures is not None


def test_old_names_cost_no_import_before_they_are_used():
    code = (
        "import sys, tome_lightning, " + ", ".join(HOMES) + "\n"
        "print('torch' in sys.modules, 'lightning' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.split() == ["False", "False"], run.stderr
