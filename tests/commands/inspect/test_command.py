"""``inspect``: what a checkpoint is, read safely."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

import recipes
from checkpoints import SOURCES
from tome_lightning import fit
from tome_lightning.__main__ import main as command_line
from tome_lightning.commands.inspect.facts import fitting_recipes, format_facts, inspect_checkpoint


def main(words: list[str]) -> int:
    return command_line(["inspect", *words])


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options: dict[str, Any] = {
        "run_dir": str(tmp_path_factory.mktemp("run") / "a"), "trainer.max_steps": 2,
        "trainer.limit_val_batches": 1, "trainer.accelerator": "cpu", "tome.compare_dense": 0,
        "trainer.enable_progress_bar": False, "data.batch_size": 4,
    }  # fmt: skip
    return fit("quickstart", options).directory


def tiny(**changes: Any) -> VisionTransformer:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return VisionTransformer(**{**sizes, "num_classes": 3, **changes})


def test_a_run_s_checkpoint_says_how_it_was_trained(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
):
    file = run_dir / "checkpoints/best.ckpt"
    facts = inspect_checkpoint(file)
    assert (facts["r"], facts["prop_attn"]) == (4, True)
    assert (facts["depth"], facts["width"], facts["num_classes"]) == (6, 96, 10)
    assert (facts["epoch"], facts["step"], facts["recipe"]) == (0, 2, "quickstart")
    assert facts["metrics"].keys() == {"top1", "top5"}
    assert facts["parameters"] == sum(p.numel() for p in saved_weights(file).values())
    assert facts["licence"].startswith("yours")
    assert main([str(file), "--recipe", "quickstart"]) == 0
    told = capsys.readouterr().out
    assert "r=4, prop_attn=True" in told
    assert f"test --ckpt_path {file}" in told
    assert "matched    80" in told  # all of it loads
    assert max(map(len, format_facts(facts).splitlines())) <= 100


def saved_weights(file: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(file, weights_only=True)["state_dict"]
    return {name: value for name, value in saved.items() if name.startswith("model.vit.")}


def test_weights_alone_say_what_their_names_and_shapes_say(tmp_path: Path):
    vit = tiny(global_pool="avg")
    torch.save({"model": vit.state_dict()}, tmp_path / "a.pth")
    save_file(tiny(num_classes=0).half().state_dict(), tmp_path / "b.safetensors")
    tuned, encoder = (inspect_checkpoint(tmp_path / name) for name in ("a.pth", "b.safetensors"))
    assert (tuned["kind"], tuned["num_classes"], tuned["pooling"]) == ("fine-tuned", 3, "avg")
    assert (encoder["kind"], encoder["num_classes"]) == ("encoder", None)
    assert (tuned["dtype"], encoder["dtype"]) == ("float32", "float16")
    assert tuned["parameters"] == sum(p.numel() for p in vit.parameters())
    assert "no head" in format_facts(encoder)


def test_two_sets_of_weights_are_both_named(capsys: pytest.CaptureFixture[str]):
    file = Path(__file__).parents[2] / "data/timm_ema.pth.tar"
    assert inspect_checkpoint(file)["held"] == {"live": "state_dict", "ema": "state_dict_ema"}
    assert main([str(file)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "the live weights are taken (state_dict), not the averaged weights (state_dict_ema)" in told
    )
    assert "--model.weights ema" in told


def test_exported_weights_say_what_export_kept_beside_them(tmp_path: Path):
    about = {
        "family": "tome", "r": {"keep": 0.9}, "prop_attn": True, "class_names": ["cat", "dog", "cow"],
        "recipe": "quickstart", "averaged": True, "licence": "yours", "versions": {"a": "1"},
        "hyper_parameters": {
            "input": {"class_path": "x.Image", "init_args": {"size": 16, "timm_model": None}},
            "task": {"class_path": "x.SingleLabel", "init_args": {"num_classes": 3}},
        },
    }  # fmt: skip
    file = tmp_path / "a.safetensors"
    save_file(tiny().state_dict(), file, metadata={"tome_lightning": json.dumps(about)})
    facts = inspect_checkpoint(file)
    for key in ("r", "prop_attn", "class_names", "recipe", "averaged", "licence"):
        assert facts[key] == about[key]
    assert (facts["input"], facts["num_classes"], facts["depth"]) == ("Image(size=16)", 3, 2)
    assert "3: cat, dog, cow" in format_facts(facts)


@pytest.mark.parametrize("kept", ["[1]", '{"hyper_parameters": [1], "class_names": 3}'])
def test_what_others_wrote_beside_weights_is_no_trouble(kept: str, tmp_path: Path):
    file = tmp_path / "a.safetensors"
    save_file(tiny().state_dict(), file, metadata={"tome_lightning": kept})
    facts = inspect_checkpoint(file)
    assert (facts["depth"], facts["width"]) == (2, 16)
    assert format_facts(facts)


@pytest.mark.parametrize("name", ["mae_pretrain_vit_large", "videomae_vit_base_k400_finetuned"])
def test_a_published_name_is_answered_without_its_file(name: str, capsys: Any):
    assert main([name]) == 0
    told = capsys.readouterr().out
    assert "not on this machine" in told
    assert "CC-BY-NC-4.0" in told
    assert "(fit --recipe NAME" in told or not fitting_recipes(inspect_checkpoint(name))


def test_a_timm_name_has_timm_s_licence():
    facts = inspect_checkpoint("vit_base_patch16_224.mae")
    assert (facts["family"], facts["licence"]) == ("mae", "cc-by-nc-4.0")
    assert "timm/vit_base_patch16_224.mae" in facts["address"]


def test_the_recipes_that_fit_are_those_that_start_from_it():
    for name in recipes.names():
        content = recipes.path(name).read_text()
        start = [source for source in SOURCES if f"checkpoint: {source} " in content + " "]
        for source in start:
            assert name in fitting_recipes(inspect_checkpoint(source))


def test_json_holds_all_of_it(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    file = run_dir / "checkpoints/last.ckpt"
    capsys.readouterr()
    assert main([str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.pop("recipes") == ["quickstart"]
    assert facts == inspect_checkpoint(file)
    assert main([str(file), "--json", "--recipe", "quickstart"]) == 0
    assert "matched    80" in json.loads(capsys.readouterr().out)["loads"]


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_mistakes_are_one_line_and_nothing_is_run(
    run_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, "evil.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    whole = (run_dir / "checkpoints/best.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weight": torch.zeros(3)}, "other.pth")
    torch.save(tiny().state_dict(), "small.pth")
    capsys.readouterr()
    for argv, words in (
        (["evil.pth"], "is refused"),
        (["text.pth"], "no checkpoint"),
        (["half.ckpt"], "truncated"),
        (["other.pth"], "no ViT"),
        (["nowhere.pth"], "no file"),
        (["mae_pretrain_vit_lrge"], "did you mean"),
        ([str(run_dir)], "checkpoints/best.ckpt"),
        (["small.pth", "--recipe", "quickstart"], "2 blocks of width 16"),
        (["small.pth", "--recpie", "quickstart"], "Nearest: --recipe"),
    ):
        assert main(argv) == 2, argv
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
    assert not Path("ran").exists()
