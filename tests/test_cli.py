"""The command line as a user meets it: runs, precedence, and every mistake in one line."""

import inspect
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image as PILImage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.models.vision_transformer import VisionTransformer
from torch.utils.tensorboard import SummaryWriter

from tome_lightning import FineTune, callbacks
from tome_lightning.__main__ import main
from tome_lightning.cli import ToMeCLI

ROOT = Path(__file__).parents[1]
TINY = (
    "--model.vit.depth=3 --model.vit.embed_dim=24 --model.vit.num_heads=2 "
    "--trainer.max_steps=2 --trainer.limit_val_batches=1 --trainer.limit_test_batches=1 "
    "--data.batch_size=8 --data.eval_batch_size=16 --trainer.log_every_n_steps=1 "
    "--trainer.enable_progress_bar=false --trainer.accelerator=cpu --tome.compare_dense=1 "
).split()


@pytest.fixture
def run(tmp_path, monkeypatch, capfd, caplog):
    """``run("fit", ...)`` in an empty working folder: exit code, stdout, stderr with the log."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        caplog.clear()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err + caplog.text

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory, cache_folder) -> Path:
    """The run directory of two steps of the quickstart, with a tiny model."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--recipe", "quickstart", *TINY]) == 0
    return folder / "runs" / "quickstart" / "0"


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A class-folder tree of two classes: red and blue noise."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for channel, name in ((0, "red"), (2, "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 60, (40, 48, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                PILImage.fromarray(pixels).save(folder / f"{i}.png")
    return root


def summary_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text())


def test_a_fit_leaves_config_summary_checkpoints_and_tensorboard_files(trained):
    summary = summary_of(trained)
    assert set(summary) >= {
        "recipe", "metrics", "r", "plan", "step_ms", "data_ms", "peak_mem_mib", "checkpoint",
        "limited_by",
    }  # fmt: skip
    assert summary["recipe"] == "quickstart"
    assert set(summary["metrics"]) == {"top1", "top5"}
    assert 0 <= summary["metrics"]["top1"] <= summary["metrics"]["top5"] <= 1
    assert summary["r"] == 4
    assert summary["plan"] == [4, 4, 4]
    assert summary["step_ms"] > 0
    assert summary["peak_mem_mib"] > 100  # torch alone is more
    assert Path(summary["checkpoint"]).samefile(trained / "checkpoints" / "best.ckpt")
    assert (trained / "checkpoints" / "last.ckpt").is_file()

    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["vit"]["depth"] == 3
    assert f"torch=={torch.__version__}" in (trained / "config.yaml").read_text()

    events = EventAccumulator(str(trained)).Reload()
    assert {"tome/r", "tome/tokens_out", "tome/peak_mem_mib", "val/top1", "train/loss"} <= set(
        events.Tags()["scalars"]
    )
    assert events.Scalars("tome/tokens_out")[0].value == 50 - 12


def test_a_run_directory_is_never_used_again(run):
    for number in range(2):
        code, out, _ = run("fit", "--recipe", "quickstart", *TINY, "--trainer.max_steps", 1)
        assert code == 0
        assert Path("runs", "quickstart", str(number), "summary.json").is_file(), out


def test_the_saved_config_is_a_recipe_of_the_same_run(run, trained):
    code, out, _ = run("fit", "--recipe", trained / "config.yaml", "--print_config")
    assert code == 0
    again = yaml.safe_load(out)
    for name in ("recipe", "resume", "init_from"):  # already part of the values
        assert again.pop(name) is None
    assert again == yaml.safe_load((trained / "config.yaml").read_text())


def test_testing_at_another_r_uses_it_and_says_so(run, trained):
    best = trained / "checkpoints" / "best.ckpt"
    words = ["test", "--ckpt_path", best, "--trainer.limit_test_batches=1"]
    code, out, err = run(*words, "--model.r", 8, "--run-dir", "at8")
    assert code == 0
    assert "model.r=8 (the checkpoint has 4)" in out
    assert "r=8" in err
    assert summary_of(Path("at8"))["plan"] == [8, 8, 8]

    code, out, _ = run(*words, "--run_dir", "own")
    assert code == 0
    assert "model.r=4" in out
    assert "Overruled" not in out
    assert summary_of(Path("own"))["plan"] == [4, 4, 4]


def test_command_line_beats_recipe_beats_checkpoint(run, trained):
    Path("mine.yaml").write_text("model:\n  r: 6\n  prop_attn: false\n")
    best = trained / "checkpoints" / "best.ckpt"
    words = ["validate", "--ckpt_path", best, "--recipe", "mine.yaml"]
    words += ["--trainer.limit_val_batches=1"]
    assert run(*words, "--run_dir", "a")[0] == 0
    assert summary_of(Path("a"))["r"] == 6
    assert run(*words, "--model.r", 2, "--run_dir", "b")[0] == 0
    assert summary_of(Path("b"))["r"] == 2
    assert summary_of(Path("b"))["checkpoint"] == str(best)


def test_later_recipes_win(run):
    Path("mine.yaml").write_text("model:\n  r: 3\n")
    code, out, _ = run("fit", "--recipe", "quickstart", "--recipe", "mine.yaml", "--print_config")
    config = yaml.safe_load(out)
    assert code == 0
    assert config["model"]["r"] == 3
    assert config["model"]["vit"]["embed_dim"] == 96


@pytest.mark.parametrize(("given", "read"), [("1", "1"), ("0.5", "0.5"), ("1.0", "1.0")])
def test_one_batch_is_not_the_whole_data_set_whatever_was_imported_before(
    run, monkeypatch: pytest.MonkeyPatch, given: str, read: str
):
    # as `Optional[Union[int, float]]` is after an import that wrote `Optional[Union[float, int]]`
    hints = inspect.unwrap(Trainer.__init__).__annotations__
    monkeypatch.setitem(hints, "limit_train_batches", float | int | None)
    words = ["fit", "--recipe", "quickstart", "--print_config"]
    code, out, _ = run(*words, f"--trainer.limit_train_batches={given}")
    assert code == 0
    assert f"limit_train_batches: {read}\n" in out


def test_a_run_resumes_from_its_checkpoint(run, trained):
    last = trained / "checkpoints" / "last.ckpt"
    code, _, err = run(
        "fit", "--ckpt_path", last, *TINY, "--trainer.max_steps=3", "--run_dir", "resumed"
    )
    assert code == 0, err
    saved = torch.load("resumed/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 3


def test_a_resumed_run_may_go_on_in_its_own_directory(run, trained):
    shutil.copytree(trained, "mine")
    code, _, err = run(
        "fit", "--ckpt_path", "mine/checkpoints/last.ckpt", *TINY, "--trainer.max_steps=3",
        "--run_dir", "mine",
    )  # fmt: skip
    assert code == 0, err
    assert Path("mine/config.resume-1.yaml").is_file()
    assert (Path("mine/config.yaml")).read_text() == (trained / "config.yaml").read_text()


def test_resume_auto_goes_on_in_the_runs_own_directory(run, trained):
    shutil.copytree(trained, "runs/quickstart/0")
    words = ["fit", "--recipe", "quickstart", *TINY, "--trainer.max_steps=4"]
    code, _, err = run(*words, "--resume", "auto")
    assert code == 0, err
    own = Path("runs/quickstart/0")
    assert sorted(path.name for path in own.glob("*.yaml")) == [
        "config.resume-1.yaml", "config.yaml", "hparams.yaml",
    ]  # fmt: skip
    assert (own / "environment.resume-1.json").is_file()
    assert torch.load(own / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    assert not Path("runs/quickstart/1").exists()
    events = EventAccumulator(str(own)).Reload().Scalars("train/loss")
    assert [event.step for event in events] == [0, 1, 2, 3]  # each once, as if never interrupted


def test_what_a_killed_run_logged_after_its_checkpoint_is_logged_once(run, trained):
    shutil.copytree(trained, "own")
    writer = SummaryWriter("own")
    writer.add_scalar("train/loss", 99.0, 2)
    writer.close()
    words = ["fit", *TINY, "--trainer.max_steps=3"]
    assert run(*words, "--resume", "own")[0] == 0
    events = EventAccumulator("own").Reload().Scalars("train/loss")
    assert [event.step for event in events] == [0, 1, 2]
    assert events[-1].value < 90


def test_resume_auto_starts_a_run_where_there_is_none(run):
    words = ["fit", "--recipe", "quickstart", *TINY, "--trainer.max_steps=1", "--resume", "auto"]
    code, out, err = run(*words)
    assert code == 0, err
    assert "finds no checkpoint to go on from" in out
    assert Path("runs/quickstart/0/checkpoints/last.ckpt").is_file()


def test_an_older_checkpoint_goes_on_in_a_directory_of_its_own(run, trained):
    shutil.copytree(trained, "runs/quickstart/0")
    last = Path("runs/quickstart/0/checkpoints/last.ckpt")
    shutil.copy(last, last.with_name("older.ckpt"))
    saved = torch.load(last, weights_only=True)
    saved["tome_lightning"]["progress"]["steps"] += 1
    torch.save(saved, last)
    before = last.read_bytes()
    code, out, err = run(
        "fit", "--resume", last.with_name("older.ckpt"), *TINY, "--trainer.max_steps=3"
    )
    assert code == 0, err
    assert "not the newest of its run" in out
    assert Path("runs/quickstart/1/checkpoints/last.ckpt").is_file()
    assert last.read_bytes() == before


def test_other_hardware_keeps_the_recipes_batch(run, images):
    words = ["fit", "--recipe", "imagenet_vitb", "--data.root", str(images), *TINY, "--model.r=2"]
    words += ["--model.checkpoint=null", "--data.batch_size=2", "--model.effective_batch=8"]
    words += ["--model.task.num_classes=2"]
    code, _, err = run(*words)
    assert code == 0, err
    assert "effective batch 2 = 2 a process x 1 processes x 1 accumulated; the recipe's is 8" in err
    code, _, err = run(*words, "--keep-effective-batch", "--run_dir", "kept")
    assert code == 0, err
    assert "effective batch 8 = 2 a process x 1 processes x 4 accumulated, as in the recipe" in err


def test_the_checkpoint_alone_rebuilds_the_model_and_exports_to_stock_timm(trained):
    module = FineTune.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    assert module.model.r == 4
    assert module.model.prop_attn is True
    assert module.class_names == [str(digit) for digit in range(10)]
    stock = VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=24, depth=3, num_heads=2,
        global_pool="avg",
    )  # fmt: skip
    stock.load_state_dict(module.vit.state_dict(), strict=True)
    module.eval()
    module.model.r = 0
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(stock.eval()(x), module(x))


def mae_file(path: Path, classes: int | None, depth: int = 2) -> VisionTransformer:
    """A file in MAE's own layout, of random weights; returns the model it was made from."""
    vit = VisionTransformer(
        img_size=32, patch_size=16, num_classes=classes or 0, embed_dim=32, depth=depth,
        num_heads=2, global_pool="avg" if classes else "token",
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in vit.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"model": vit.state_dict(), "epoch": 9}, path)
    return vit


IMAGENET = (
    "--model.vit.depth=2 --model.vit.embed_dim=32 --model.vit.num_heads=2 "
    "--model.input.size=32 --data.size=32 --model.task.num_classes=2 --data.batch_size=2 "
    "--data.num_workers=0 --data.eval_batch_size=6 --trainer.accelerator=cpu "
    "--trainer.enable_progress_bar=false --model.r=1 "
).split()


def test_validate_measures_published_weights_without_training(run, images, tmp_path):
    vit = mae_file(tmp_path / "finetuned.pth", classes=2)
    code, _, err = run(
        "validate", "--recipe", "imagenet_vitl", *IMAGENET, "--data.root", images,
        "--model.checkpoint", "finetuned.pth", "--model.r", 0, "--trainer.precision=32-true",
        "--run_dir", "out",
    )  # fmt: skip
    assert code == 0, err
    from datamodules import ImageNet

    data = ImageNet(str(images), batch_size=2, eval_batch_size=6, num_workers=0, size=32)
    data.setup("validate")
    (x, y, _) = next(iter(data.val_dataloader()))
    with torch.no_grad():
        expected = (vit(data.prepare(x).flatten(0, 1)).argmax(-1) == y).float().mean().item()
    assert summary_of(Path("out"))["metrics"]["top1"] == pytest.approx(expected)
    assert "dense model" in err


def test_fine_tuning_starts_from_an_encoder_and_validate_refuses_it(run, images, tmp_path):
    mae_file(tmp_path / "encoder.pth", classes=None)
    words = [*IMAGENET, "--data.root", images, "--model.checkpoint", "encoder.pth"]
    code, _, err = run("fit", "--recipe", "imagenet_vitl", *words, "--trainer.max_steps=2")
    assert code == 0, err
    assert "mae" in err  # the load report
    code, _, err = run("validate", "--recipe", "imagenet_vitl", *words)
    assert code == 2
    assert "has no head for 2 classes" in err


MISTAKES = {
    "unknown verb": (["fitt"], "Did you mean fit?"),
    "unknown recipe": (["fit", "--recipe", "quikstart"], "quickstart"),
    "missing recipe file": (["fit", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
    "unknown option": (["fit", "--recipe", "quickstart", "--model.layer_decy", "1"], "model.layer_decay"),
    "unknown data option": (
        ["fit", "--recipe", "quickstart", "--data.batchsize", "1"], "data.batch_size"
    ),
    "unknown timm option": (["fit", "--recipe", "quickstart", "--model.vit.dept", "1"], "depth"),
    "negative r": (["fit", "--recipe", "quickstart", "--model.r", "-1"], "0 or more, got -1"),
    "steps below zero": (
        ["fit", "--recipe", "quickstart", "--tome.compare_dense", "-1"], "0 or more, got -1"
    ),
    "r no number": (["fit", "--recipe", "quickstart", "--model.r", "many"], "got 'many'"),
    "r too long": (
        ["fit", "--recipe", "quickstart", "--model.r", "[1,1,1,1,1,1,1]"],
        "7 values but the model has 6 blocks",
    ),
    "r unknown form": (["fit", "--recipe", "quickstart", "--model.r", "{share: 0.5}"], "keep"),
    "image not divisible": (["fit", "--recipe", "quickstart", "--model.input.size", "30"], "28 or 32"),
    "missing data": (
        ["fit", "--recipe", "imagenet_vitb", "--model.checkpoint", "null", "--data.root", "gone"],
        "gone",
    ),
    "unknown weights": (
        ["fit", "--recipe", "quickstart", "--model.checkpoint", "vit_bas_patch16_224.mae"],
        "vit_base_patch16_224.mae",
    ),
    "missing run checkpoint": (["test", "--ckpt_path", "gone.ckpt"], "gone.ckpt"),
    "unsafe loading": (
        ["test", "--ckpt_path", "x.ckpt", "--weights_only", "false"],
        "weights_only",
    ),
    "no GPU": (
        ["fit", "--recipe", "quickstart", "--trainer.accelerator", "gpu"],
        "sees no CUDA device",
    ),
    "unmergeable model": (
        ["fit", "--recipe", "quickstart", "--model.input.timm_model", "swin_tiny_patch4_window7_224",
         "--model.vit", "{}"],
        "windows",
    ),
    "other image size": (
        ["fit", "--recipe", "quickstart", "--model.input.size", "32"],
        "samples of 1x28x28",
    ),
    "head set beside the task": (
        ["fit", "--recipe", "quickstart", "--model.vit.num_classes", "7"],
        "model.task.num_classes",
    ),
    "no learning rate": (["fit", "--recipe", "quickstart", "--model.lr", "0"], "model.lr"),
    "unknown strategy": (
        ["fit", "--recipe", "quickstart", "--trainer.strategy", "ddpp"],
        "trainer options",
    ),
    "class count": (["fit", "--recipe", "quickstart", "--model.task.num_classes", "7"], "num_classes 10"),
    "broken schedule": (
        ["fit", "--recipe", "quickstart", "--tome.schedule.kind", "slope"],
        "constant, ramp or random",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing_behind(run, mistake):
    words, expected = MISTAKES[mistake]
    if mistake == "no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if words[0] == "test" and "x.ckpt" in words:
        Path("x.ckpt").touch()
    code, _, err = run(*words)
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(told) == 1
    assert expected in told[0]
    assert "Traceback" not in err
    assert not list(Path("runs").rglob("*.*"))


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, "train"),
        ({"train/a/x.png": 1, "val/a/x.png": 1}, "one class"),
        ({"train/a": 0, "train/b": 0, "val/a": 0, "val/b": 0}, "train"),
    ],
    ids=["empty folder", "one class", "no images"],
)
def test_a_data_folder_that_teaches_nothing_is_refused(run, tmp_path, layout, expected):
    root = tmp_path / "data"
    root.mkdir()
    for name, is_file in layout.items():
        if is_file:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            PILImage.new("RGB", (8, 8)).save(root / name)
        else:
            (root / name).mkdir(parents=True)
    code, _, err = run(
        "fit", "--recipe", "imagenet_vitb", "--model.checkpoint", "null", *IMAGENET,
        "--data.root", root,
    )  # fmt: skip
    assert code == 2
    assert expected in err
    assert "Traceback" not in err


def test_a_named_run_directory_that_holds_something_is_refused(run, trained):
    before = sorted(trained.rglob("*"))
    code, _, err = run("fit", "--recipe", "quickstart", *TINY, "--run_dir", trained)
    assert code == 2
    assert "is not empty" in err
    assert sorted(trained.rglob("*")) == before


def test_a_run_directory_that_cannot_be_made_is_refused(run):
    Path("file").touch()
    code, _, err = run("fit", "--recipe", "quickstart", *TINY, "--run_dir", "file/run")
    assert code == 2
    assert "file/run cannot be written" in err


class Payload:
    """Unpickled without care, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("option", ["--ckpt_path", "--model.checkpoint"])
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_malicious_checkpoint_is_refused_and_does_not_run(run, tmp_path, option, verb):
    target = tmp_path / "owned"
    torch.save({"model": {"x": Payload(target)}, "state_dict": {}}, "evil.ckpt")
    code, _, err = run(verb, "--recipe", "quickstart", *TINY, option, "evil.ckpt")
    assert code == 2
    assert "evil.ckpt" in err
    assert "Traceback" not in err
    assert not target.exists()


@pytest.mark.parametrize("option", ["--ckpt_path", "--model.checkpoint"])
def test_a_truncated_checkpoint_is_refused(run, trained, option):
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    code, _, err = run("fit", "--recipe", "quickstart", *TINY, option, "cut.ckpt")
    assert code == 2
    assert "cut.ckpt" in err
    assert "Traceback" not in err


def test_a_checkpoint_that_names_a_foreign_class_is_refused(run, trained):
    saved = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    saved["hyper_parameters"]["input"]["class_path"] = "subprocess.Popen"
    torch.save(saved, "foreign.ckpt")
    code, _, err = run("test", "--ckpt_path", "foreign.ckpt")
    assert code == 2
    assert "subprocess.Popen" in err


def test_an_interrupted_fit_leaves_a_checkpoint_that_goes_on(tmp_path, cache_folder):
    words = [sys.executable, "-m", "tome_lightning", "fit", "--recipe", "quickstart", *TINY]
    words += ["--trainer.max_steps=-1", "--trainer.max_epochs=1000", "--run_dir", "run"]
    words += [
        "--trainer.callbacks+=tests.runs.recorder.Recorder",
        "--trainer.callbacks.folder=told",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TOME_LIGHTNING_CACHE": str(cache_folder)}
    process = subprocess.Popen(words, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not any('"train"' in told.read_text() for told in tmp_path.glob("told/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] > 0
    assert summary_of(tmp_path / "run")["r"] == 4
    module = FineTune.load_from_checkpoint(last)
    assert torch.isfinite(module.eval()(torch.zeros(1, 1, 28, 28))).all()


@pytest.fixture
def interrupting(monkeypatch):
    """Ctrl-C where a class gets to a method of that name; Lightning leaves it switched off."""

    def interrupt(owner: type, method: str) -> None:
        monkeypatch.setattr(owner, method, lambda *_, **__: signal.raise_signal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    yield interrupt
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("verb", "owner", "method"),
    [
        ("fit", ToMeCLI, "instantiate_trainer"),
        ("fit", FineTune, "setup"),
        ("test", FineTune, "test_step"),
        ("predict", FineTune, "on_predict_start"),
    ],
)
def test_ctrl_c_outside_of_training_is_one_line_and_130(
    run, trained, interrupting, verb, owner, method
):
    words = ["--recipe", "quickstart", *TINY]
    if verb != "fit":
        words = ["--ckpt_path", trained / "checkpoints" / "best.ckpt", *TINY[-2:-1]]
    interrupting(owner, method)
    code, _, err = run(verb, *words)
    assert code == 130
    assert [line for line in err.splitlines() if "nterrupt" in line or "SIGINT" in line] == [
        "Stopped by SIGINT"
    ]
    assert "Traceback" not in err
    assert not list(Path().glob("runs/*/0")), "the folder of a run that never started is left"


def test_fit_from_python_is_interrupted_as_python_is(tmp_path, monkeypatch, interrupting):
    import tome_lightning

    monkeypatch.chdir(tmp_path)
    interrupting(FineTune, "setup")
    with pytest.raises(KeyboardInterrupt):
        tome_lightning.fit("quickstart", dict(word[2:].split("=", 1) for word in TINY))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_dense_and_merged_steps_are_not_compared_any_longer(run, monkeypatch, signum, expected):
    """What is trained is told and kept: a scheduler need not start it again, a shell's loop ends."""
    real, steps = callbacks._timed_step, []

    def timed(*given):
        steps.append(given)
        if len(steps) == 2:
            signal.raise_signal(signum)
        return real(*given)

    monkeypatch.setattr(callbacks, "_timed_step", timed)
    code, _, err = run("fit", "--recipe", "quickstart", *TINY, "--tome.compare_dense=100",
                       "--run_dir=a run's")  # fmt: skip
    assert (code, len(steps)) == (expected, 2)
    told = next(line for line in err.splitlines() if "Test it: " in line)
    assert shlex.split(told)[-2:] == ["--ckpt_path", "a run's/checkpoints/best.ckpt"]
    assert "dense and merged steps are not compared to the end" in err
    summary = summary_of(Path("a run's"))
    assert summary["ended"] == "finished"
    assert summary["dense_against_merged"] is None
    assert summary["r"] == 4


@pytest.mark.slow
def test_two_processes_share_a_run_directory(tmp_path, cache_folder):
    words = [sys.executable, "-m", "tome_lightning", "fit", "--recipe", "quickstart", *TINY]
    words += ["--trainer.devices=2", "--trainer.strategy=ddp"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TOME_LIGHTNING_CACHE": str(cache_folder)}
    result = subprocess.run(
        words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert [path.name for path in (tmp_path / "runs" / "quickstart").iterdir()] == ["0"]
    assert (tmp_path / "runs" / "quickstart" / "0" / "checkpoints" / "best.ckpt").is_file()


def test_fit_from_python_is_the_same_run(tmp_path, monkeypatch, trained):
    import tome_lightning

    monkeypatch.chdir(tmp_path)
    overrides = dict(word.removeprefix("--").split("=", 1) for word in TINY)
    result = tome_lightning.fit("quickstart", {**overrides, "model.r": [4, 4, 4]})
    assert result.directory == Path("runs/quickstart/0")
    assert result.summary["r"] == [4, 4, 4]
    assert result.summary["metrics"] == summary_of(trained)["metrics"]  # the same seed
    with pytest.raises(ValueError, match=r"model\.layer_decay"):
        tome_lightning.fit("quickstart", {"model.layer_decy": 1})
    with pytest.raises(ValueError, match="0 or more"):
        tome_lightning.fit("quickstart", {"model.r": -1})


def test_predict_writes_the_best_classes_of_every_sample(run, trained):
    import csv

    best = trained / "checkpoints" / "best.ckpt"
    code, _, err = run("predict", "--ckpt_path", best, "--trainer.limit_predict_batches=2")
    assert code == 0, err
    with Path("runs/quickstart/predict/0/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == list(range(2 * 16))
    assert set(rows[0]) == {"id", "file"} | {
        f"{x}{k}" for x in ("class", "score") for k in range(1, 6)
    }
    module = FineTune.load_from_checkpoint(best).eval()
    from datamodules.images.reading import read_image
    from datamodules.images.transforms import EvalTransform
    from datamodules.on_device import DeviceTransform

    view = EvalTransform(28, 1.0, "bicubic")(read_image(rows[7]["file"], 1))
    with torch.no_grad():
        scores = module(DeviceTransform((0.1307,), (0.3081,), 2)(view)).softmax(dim=1)[0]
    assert float(rows[7]["score1"]) == pytest.approx(scores.max().item(), abs=1e-5)
    assert rows[7]["class1"] == str(scores.argmax().item())


def test_a_recipe_file_that_is_no_recipe_is_named(run):
    Path("broken.yaml").write_text("model: {r: 4\n")
    Path("empty.yaml").write_text("")
    Path("typo.yaml").write_text("model:\n  rr: 4\n")
    for name in ("broken.yaml", "empty.yaml"):
        code, _, err = run("fit", "--recipe", name)
        assert (code, name in err) == (2, True)
    code, _, err = run("fit", "--recipe", "quickstart", "--recipe", "typo.yaml")
    assert code == 2
    assert "rr" in err
    assert "model.r" in err


def test_a_linear_probe_trains_the_head_alone(run, trained):
    words = ["--model.freeze", "backbone", "--model.checkpoint", "start.ckpt", "--run_dir", "probe"]
    import shutil

    shutil.copy(trained / "checkpoints" / "best.ckpt", "start.ckpt")
    code, _, err = run("fit", "--recipe", "quickstart", *TINY, *words)
    assert code == 0, err
    before = torch.load("start.ckpt", weights_only=True)["state_dict"]
    after = torch.load("probe/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("model.vit.head.", "model.vit.fc_norm.")) for name in moved)
    assert "trained: " in err


def test_a_run_that_max_steps_ends_is_validated_whatever_the_interval(run):
    words = [*TINY, "--trainer.check_val_every_n_epoch=5", "--run_dir", "short"]
    code, _, err = run("fit", "--recipe", "quickstart", *words)
    assert code == 0, err
    assert Path("short/checkpoints/best.ckpt").is_file()
    assert "top1" in summary_of(Path("short"))["metrics"]


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ('{"r": 4, "inflection": -1.0}', [8, 4, 0]),
        ('{"keep": 0.9}', [4, 4, 4]),
        ("[4,2]", [4, 2, 0]),
        ("5", [5, 5, 5]),
    ],
)
def test_every_form_of_r_can_be_typed(run, trained, given, plan):
    best = trained / "checkpoints" / "best.ckpt"
    words = ["validate", "--ckpt_path", best, "--trainer.limit_val_batches=1"]
    code, _, err = run(*words, "--model.r", given, "--run_dir", "typed")
    assert code == 0, err
    assert summary_of(Path("typed"))["plan"] == plan


def test_an_option_wins_over_a_recipe_that_stands_after_it(run):
    code, out, err = run(
        "fit", "--model.r=2", "--data.batch_size=8", "--recipe", "quickstart", "--print_config"
    )
    assert code == 0, err
    config = yaml.safe_load(out)
    assert (config["model"]["r"], config["data"]["init_args"]["batch_size"]) == (2, 8)


def test_resuming_needs_nothing_but_the_checkpoint(run, trained):
    last = trained / "checkpoints" / "last.ckpt"
    code, out, err = run("fit", "--ckpt_path", last, "--print_config")
    assert code == 0, err
    resumed, first = yaml.safe_load(out), yaml.safe_load((trained / "config.yaml").read_text())
    for section in ("model", "data", "tome", "trainer", "seed_everything"):
        assert resumed[section] == first[section]


def test_a_recipe_may_name_the_classes_that_a_checkpoint_may_not(run, trained):
    saved = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    config = saved["hyper_parameters"]["input"]
    saved["hyper_parameters"]["input"] = {**config, "class_path": "elsewhere.Image"}
    torch.save(saved, "foreign.ckpt")
    words = ["validate", "--ckpt_path", "foreign.ckpt", "--print_config"]
    code, out, err = run(*words, "--recipe", "quickstart")
    assert code == 0, err
    assert yaml.safe_load(out)["model"]["input"]["class_path"] == "tome_lightning.inputs.Image"
    assert run(*words)[0] == 2


def test_another_progress_bar_takes_the_place_of_ours(run):
    words = [word for word in TINY if "progress" not in word]
    bar = "--trainer.callbacks=TQDMProgressBar"
    code, _, err = run("fit", "--recipe", "quickstart", *words, bar)
    assert code == 0, err


def test_the_summary_says_which_r_was_measured_and_which_trained(run):
    words = [*TINY, "--model.r=0", "--tome.train_r=4", "--tome.eval_r=2", "--run_dir=out"]
    code, _, err = run("fit", "--recipe", "quickstart", *words)
    assert code == 0, err
    summary = summary_of(Path("out"))
    assert (summary["r"], summary["train_r"], summary["plan"]) == (2, 4, [2, 2, 2])


@pytest.mark.slow
def test_completion_for_a_shell_names_the_options(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert main(["--print_completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "complete -o" in script
    assert "tome-lightning" in script
    assert "--model.prop_attn" in script
    assert main(["--print_completion=fish"]) == 2
    assert "bash" in capsys.readouterr().err
