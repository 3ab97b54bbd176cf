"""``recipes``: list, show, copy."""

from pathlib import Path

import pytest
import yaml

import recipes
from tome_lightning.__main__ import main as command_line
from tome_lightning.commands.recipes import copy, table


def main(words: list[str]) -> int:
    return command_line(["recipes", *words])


def test_the_list_names_every_recipe_with_its_numbers(capsys: pytest.CaptureFixture[str]):
    assert main([]) == main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    first_words = {line.split()[0] for line in lines if line[:1].strip()}
    assert set(recipes.names()) <= first_words
    row = next(line for line in lines if line.startswith("imagenet_vitl"))
    assert "MAE ViT-L/16" in row
    assert "85.09 top-1" in row
    assert "8 GPUs of 40 GB or more" in row
    assert "2 CPU cores" in table()


@pytest.mark.parametrize("name", recipes.names())
def test_a_header_is_read_with_what_goes_on_over_lines(name: str):
    told = recipes.header(name)
    text = " ".join(recipes.path(name).read_text().replace("#", " ").split())
    assert told["run"].startswith("python -m tome_lightning fit --recipe")
    assert told.keys() & {"published", "expected"}
    for key, value in told.items():
        assert " ".join(value.split()) in text, key


def test_a_recipe_is_shown_as_it_is_written(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "audioset_vitb"]) == 0  # by its other name
    assert capsys.readouterr().out == recipes.path("audioset2m_vitb").read_text()


def test_a_copy_is_the_recipe_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "my own.yaml"
    assert main(["copy", "quickstart", str(file)]) == 0
    assert f"fit --recipe '{file}'" in capsys.readouterr().out
    assert file.read_bytes() == recipes.path("quickstart").read_bytes()
    assert yaml.safe_load(recipes.path(str(file)).read_text())["model"]["r"] == 4
    file.write_text("mine")
    assert main(["copy", "quickstart", str(file)]) == 2
    assert file.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert main(["copy", "quickstart", str(file), "--force"]) == 0
    assert copy("quickstart", tmp_path).name == "quickstart.yaml"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["show", "imagenet_vit"], "did you mean imagenet_vit"),
        (["shwo", "quickstart"], "Nearest: show"),
        (["copy", "quickstart", "mine.txt"], "Try mine.yaml"),
        (["copy", "quickstart", "nowhere/mine.yaml"], "no folder nowhere"),
        (["copy", "quickstart", "mine.yaml", "--frce"], "Nearest: --force"),
        (["copy", "quickstart"], "required: file"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1
    assert not told.out
    assert not list(tmp_path.iterdir())


def test_a_recipe_onto_itself_or_no_text_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mine = copy("quickstart", tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for argv in (
        ["copy", str(mine), str(mine), "--force"],
        ["show", str(tmp_path / "binary.yaml")],
    ):
        assert main(argv) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert mine.read_bytes() == recipes.path("quickstart").read_bytes()
