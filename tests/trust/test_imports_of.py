"""The second layer: what the parser may import while a checkpoint's values are parsed."""

from jsonargparse import _common
from jsonargparse._common import denying_import_path_entry

from tome_lightning.trust import imports_of


def test_only_our_packages_lightning_and_what_the_user_names_are_imported(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("data:\n  class_path: my_data.Mine\n")
    before = dict(_common.parsing_settings)
    with imports_of(["--trainer.callbacks+=my_callbacks.Call"], [recipe]):
        for allowed in ("datamodules.Digits", "lightning.pytorch.callbacks.Timer", "my_data.Mine",
                        "my_callbacks.Call"):  # fmt: skip
            assert denying_import_path_entry(allowed) is None
        for denied in ("evil.Evil", "subprocess.Popen", "os.system", "timm.create_model"):
            assert denying_import_path_entry(denied) is not None
        assert _common.parsing_settings["import_paths_enforced"]
    assert _common.parsing_settings == before
