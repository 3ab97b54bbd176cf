"""The verb, on a model of two small blocks."""

import json

import pytest

from tome_lightning.__main__ import main

SMALL = ["benchmark", "--model", "test_vit", "--img-size", "64", "--depth", "2", "--device", "cpu"]


def _run(*words: str) -> int:
    return main([*SMALL, "--rounds", "1", *words])


def test_a_table_rows_and_a_picture(tmp_path, capsys):
    rows, picture = tmp_path / "a.json", tmp_path / "a.png"
    code = _run("--r", "1", "2:-1.0", "--batch_size", "2", "--mode=train", "--prop_attn",
                "--checkpointing", "--json", str(rows), "--plot", str(picture))  # fmt: skip
    assert code == 0
    out = capsys.readouterr().out
    assert "of at most" in out
    assert out.splitlines()[-2:] == [f"written: {rows}", f"written: {picture}"]
    dense, *merged = json.loads(rows.read_text())
    assert (dense["variant"], dense["speedup"], dense["realised"]) == ("dense", 1, 1)
    assert [row["r"] for row in merged] == [1, {"r": 2, "inflection": -1.0}]
    for row in merged:
        assert (row["mode"], row["batch"], row["tokens_in"]) == ("train", 2, 17)
        assert row["prop_attn"]
        assert row["checkpointing"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_cut_off_leaves_the_rounds_it_had(tmp_path, monkeypatch):
    from tome_lightning.commands.benchmark import timing

    calls, unit = [], timing.time_unit

    def cut_off(*args):
        calls.append(args)
        if len(calls) == 2 + 2 * 2 + 1:  # a trial, two rounds
            raise KeyboardInterrupt
        return unit(*args)

    monkeypatch.setattr(timing, "time_unit", cut_off)
    rows = tmp_path / "a.json"
    assert (
        main([*SMALL, "--r", "1", "--batch-size", "1", "--rounds", "9", "--json", str(rows)]) == 130
    )
    assert [row["rounds"] for row in json.loads(rows.read_text())] == [2, 2]


def test_a_recipe_takes_the_options_of_its_model(tmp_path):
    rows = tmp_path / "a.json"
    words = "--recipe quickstart --model.vit.depth 2 --batch-size 2 --rounds 1 --device cpu --json"
    assert main(["benchmark", *words.split(), str(rows)]) == 0
    dense, merged = json.loads(rows.read_text())
    assert (dense["model"], dense["tokens_in"]) == ("quickstart", 50)
    assert (merged["r"], merged["tokens_out"], merged["prop_attn"]) == (4, 42, True)


class _Whole:
    def lines(self):
        return ["limited by the model"]

    def as_dict(self):
        return {"step_ms": 5.0}


def test_the_whole_run_gets_the_recipe_and_all_options(tmp_path, capsys, monkeypatch):
    seen = []

    def measure(argv):
        seen.extend(argv)
        return _Whole()

    monkeypatch.setattr("tome_lightning.commands.benchmark.end_to_end.measure", measure)
    rows = tmp_path / "a.json"
    recipe = "--recipe quickstart --model.vit.depth 1 --data.batch_size 4".split()
    own = "--r keep=0.9 --device cpu --batch-size 2 --rounds 1 --end-to-end --json".split()
    assert main(["benchmark", *recipe, *own, str(rows)]) == 0
    assert seen == [*recipe, '--model.r={"keep": 0.9}', "--trainer.accelerator=cpu"]
    assert json.loads(rows.read_text())[-1] == {"variant": "end_to_end", "step_ms": 5.0}
    assert "limited by the model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "--model NAME (timm's) or --recipe"),
        ("--model vit_tny_patch16_224", "vit_tiny_patch16_224"),
        ("--model resnet50", "resnet50"),
        ("--model swin_tiny_patch4_window7_224", "windows"),
        ("--model test_vit --r 51", "at most 50"),
        ("--model test_vit --r many", "16:-1.0"),
        ("--model test_vit --r", "--r"),
        ("--model test_vit --mode fast", "forward or train"),
        ("--model test_vit --dtype int8", "bfloat16"),
        ("--model test_vit --device cuda:99", "--device cuda:99"),
        ("--model test_vit --img-size 50", "48 or 64"),
        ("--model test_vit --frames 3", "2 or 4"),
        ("--model test_vit --depth 9", "1 to 6"),
        ("--model test_vit --rounds 0", "--rounds"),
        ("--model test_vit --batch-size 0", "--batch-size"),
        ("--model test_vit --json nowhere/a.json", "nowhere"),
        ("--model test_vit --plot a.bmp", ".png"),
        ("--model test_vit --end-to-end", "--recipe"),
        ("--model test_vit --round 2", "--rounds"),
        ("--model test_vit --recipe quickstart", "exclude"),
        ("--recipe quickstat", "quickstart"),
        ("--recipe quickstart --depth 3", "--model.vit.depth"),
        ("--recipe quickstart --data.root x", "--end-to-end"),
        ("--recipe quickstart --model.inputs.size 3", "model.inputs"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(words, told, capsys, monkeypatch):
    def never(*args):
        raise AssertionError("measured")

    monkeypatch.setattr("tome_lightning.commands.benchmark.bench.measure", never)
    assert main(["benchmark", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_picture_without_matplotlib_is_refused_beforehand(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tome_lightning.commands.outputs.find_spec", lambda name: None)
    assert _run("--plot", str(tmp_path / "a.png")) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
