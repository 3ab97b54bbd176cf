"""A week with one run: trained, tested, looked at, taken up under other limits, stopped and requeued.

    python -m tests.runs.users_week FOLDER          # the toolkit's commands, one after the other
    python -m tests.runs.users_week FOLDER --long   # with a model and epochs that learn

At the end the run's directory tells one story, which `tell` checks and prints: every step and epoch is
logged once, and the files belong together.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tome_lightning.__main__ import main as tome_lightning

from .kill_and_resume import write_some_digits

BATCHES = 5  # of 8 digits in an epoch
AVERAGES = (
    "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging "
    "--trainer.callbacks.decay=0.9"
)
PATIENT = (
    "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping --trainer.callbacks.monitor=val/top1 "
    "--trainer.callbacks.mode=max --trainer.callbacks.patience=50"
)


class StopsAt(Callback):
    """What a job's time limit does: a signal, once a run comes to this step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGUSR1)


@dataclass
class Week:
    """The folder that all happens in, and the size of what is trained."""

    folder: Path
    long: bool = False

    @property
    def run(self) -> Path:
        return self.folder / "runs/quickstart/0"

    def options(self) -> list[str]:
        small = "--model.vit.depth=2 --model.vit.embed_dim=24 --model.vit.num_heads=2"
        common = "--data.batch_size=8 --trainer.accelerator=cpu --trainer.enable_progress_bar=false"
        common += " --trainer.log_every_n_steps=1"
        return f"--data.root=digits {common} --tome.compare_dense=0 {'' if self.long else small}".split()

    def command(self, *words: str, code: int = 0) -> None:
        """Run one; a user reads its exit code."""
        print("$ tome-lightning", *words, flush=True)
        got = tome_lightning([word for part in words for word in part.split()])
        assert got == code, f"exit code {got} instead of {code}"

    def fit(self, *more: str, code: int = 0) -> None:
        self.command("fit --recipe=quickstart", *self.options(), *more, code=code)


def week(folder: Path, long: bool = False) -> Week:
    """All commands, in an empty folder that is the working directory."""
    this, best = Week(folder, long), "runs/quickstart/0/checkpoints/best.ckpt"
    write_some_digits(Path("digits"), {"train": BATCHES * 8 // 10, "val": 2})
    Path("photos").mkdir()
    for shade in (40, 90, 200):
        Image.new("L", (28, 28), shade).save(f"photos/{shade}.png")

    # Monday: a first run, tested and looked at
    this.fit("--trainer.max_epochs=2 --save.top_k=3")
    this.command(f"test --ckpt_path={best} --data.root=digits")
    this.command(f"visualize --ckpt {best} --input photos/90.png --out groups.png")
    # Tuesday: it goes on; no test is taken for a run
    this.fit("--resume=auto --trainer.max_epochs=3 --save.top_k=3")
    # Wednesday: averages, a patient end, and a job that is stopped and starts again by the same command
    job = "--resume=auto --trainer.max_epochs=5 --save.top_k=3"
    at = 3 * BATCHES + 2
    stops = f"--trainer.callbacks+=tests.runs.users_week.StopsAt --trainer.callbacks.step={at}"
    this.fit(job, PATIENT, stops, code=128 + signal.SIGUSR1)
    this.fit(job, PATIENT, stops)
    this.fit(job, PATIENT, stops)  # there is nothing left to do, which is no error
    # Thursday: larger limits, and half the batch on half the memory
    half = "--data.batch_size=4 --trainer.accumulate_grad_batches=2"
    this.fit("--resume=auto --trainer.max_epochs=7 --save.top_k=3", half, PATIENT, stops)
    # Friday: averages in a run of their own, requeued as well; photos that nobody has labelled
    averaged = f"--resume=auto --run_dir=averaged --trainer.max_epochs=2 {AVERAGES}"
    stops = (
        f"--trainer.callbacks+=tests.runs.users_week.StopsAt --trainer.callbacks.step={BATCHES + 2}"
    )
    this.fit(averaged, stops, code=128 + signal.SIGUSR1)
    this.fit(averaged, stops)
    this.command(f"predict --ckpt_path={best} --data.root=photos")
    return this


def logged(run: Path, tag: str) -> list[tuple[int, float]]:
    """Step and value of what a run's directory has logged, over all of its files."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def tell(this: Week) -> str:
    """The story that the run's directory tells, checked."""
    run = this.run
    assert [path.name for path in sorted(run.parent.iterdir())] == ["0", "predict", "test"]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["ended"]) == (7 * BATCHES, "finished")
    assert Path(summary["checkpoint"]).name == "best.ckpt"

    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert last["tome_lightning"]["progress"]["steps"] == last["global_step"] == 7 * BATCHES
    scores = logged(run, "val/top1")
    best = max(value for _, value in scores)
    assert abs(summary["metrics"]["top1"] - best) < 1e-6
    assert [step for step, _ in scores] == sorted({step for step, _ in scores})  # each epoch once
    assert len(scores) == 7
    for tag in (
        "train/loss",
        "train/lr",
        "tome/r",
    ):  # each step once, whatever stopped and started it
        assert [step for step, _ in logged(run, tag)] == list(range(7 * BATCHES)), tag
    top = sorted(path.name for path in (run / "checkpoints").glob("epoch=*"))
    assert len(top) == 3, top
    kept = sorted(float(name.rpartition("top1=")[2].removesuffix(".ckpt")) for name in top)
    wanted = sorted(value for _, value in scores)[-3:]
    assert all(abs(a - b) < 1e-3 for a, b in zip(kept, wanted, strict=True)), (kept, wanted)

    resumed = sorted(path.name for path in run.glob("config.resume-*.yaml"))
    assert len(resumed) == 5, resumed  # of every command that went on with it
    averaged = torch.load(this.folder / "averaged/checkpoints/last.ckpt", weights_only=True)
    assert averaged["tome_lightning"]["progress"]["steps"] == 2 * BATCHES
    assert "averaging_state" in averaged
    rows = (run.parent / "predict/0/predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 3, rows
    return (
        f"{run}: {summary['steps']} steps in 7 epochs and {1 + len(resumed)} sittings, "
        f"top1 {best:.1%}, {', '.join(top)}"
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="an empty folder, or a new one")
    parser.add_argument("--long", action="store_true", help="the quickstart's own model")
    given = parser.parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parents[2]))  # for the callback, from another folder
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    print(tell(week(folder, given.long)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
