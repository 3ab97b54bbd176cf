"""Kill real runs at any moment, resume them, and compare them bit for bit with one left alone.

``python -m tests.runs.kill_and_resume --recipe quickstart --kills 10 --workers 2 --accumulate 2 --ema``
prints where each kill fell and every difference it finds; it exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .processes import Child, kill_family, process
from .recorder import KILL

PATIENCE = 240  # seconds that a whole run may take
TINY = (
    "--model.vit.depth=2 --tome.compare_dense=0 --trainer.accelerator=cpu "
    "--trainer.enable_progress_bar=false --trainer.log_every_n_steps=1"
).split()
# Everything that draws numbers in a step is on: mixup, cutmix, drop path, dropout, a random r.
OPTIONS = {
    "quickstart": (
        "--model.vit.embed_dim=24 --model.vit.drop_path_rate=0.2 --model.vit.proj_drop_rate=0.1 "
        "--model.task.mixup=0.8 --model.task.cutmix=1.0 --tome.schedule.kind=random "
        "--tome.schedule.choices=[0,2,4] --data.batch_size=8 --data.eval_batch_size=16 "
        "--trainer.max_epochs=3"
    ),
    "quickstart_video": (
        "--model.vit.embed_dim=32 --model.vit.drop_path_rate=0.2 --data.batch_size=4 "
        "--data.eval_batch_size=6 --trainer.max_epochs=2"
    ),
    "quickstart_audio": (
        "--model.vit.embed_dim=32 --model.vit.drop_path_rate=0.2 --data.batch_size=8 "
        "--data.draws=108 --data.eval_batch_size=8 --trainer.max_epochs=2"
    ),
}
EMA = "lightning.pytorch.callbacks.EMAWeightAveraging"
UNTIMED = ("train/loss", "val/", "tome/r", "tome/tokens_out", "lr")  # of what TensorBoard has
CUTS = {  # cut points that random kills miss: what RECORDER_KILL says
    "before the first step": "train:1",
    "inside an accumulation group": "saved:7",
    "right after a checkpoint": "saved:5",
    "after the last batch of an epoch": "last:1",
    "during validation": "val:2",
    "during a checkpoint's write": "write:3",
    "before a checkpoint's renaming": "rename:3",
}

Line = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run, however many processes and sessions it takes.

    Args:
        recipe: A quickstart.
        data: Folder with its small data, see ``write_data``.
        folder: Where the run directory and the records go.
        devices: Processes, joined by gloo.
        workers: Loader processes of each.
        accumulate: Batches of an optimizer step.
        ema: Whether averaged weights are kept as well.
        every: Optimizer steps between two checkpoints.
        forked: Whether its sessions are forks, which saves the seconds of their imports.
        extra: Further options.
    """

    recipe: str
    data: Path
    folder: Path
    devices: int = 1
    workers: int = 0
    accumulate: int = 1
    ema: bool = False
    every: int = 2
    forked: bool = False
    extra: tuple[str, ...] = ()

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def command(self, *words: str) -> list[str]:
        several = f"--trainer.devices={self.devices} --trainer.strategy=ddp".split()
        return [
            sys.executable, "-m", "tome_lightning", "fit", "--recipe", self.recipe,
            *TINY, *OPTIONS[self.recipe].split(), f"--data.root={self.data}",
            f"--data.num_workers={self.workers}", f"--save.every_n_steps={self.every}",
            f"--trainer.accumulate_grad_batches={self.accumulate}",
            *(several if self.devices > 1 else []),
            *([f"--trainer.callbacks+={EMA}", "--trainer.callbacks.decay=0.9"] if self.ema else []),
            "--trainer.callbacks+=tests.runs.recorder.Recorder",
            f"--trainer.callbacks.folder={self.folder / 'records'}",
            f"--run_dir={self.run_dir}", *self.extra, *words,
        ]  # fmt: skip

    @contextlib.contextmanager
    def session(self, *words: str, **variables: str) -> Iterator[Session]:
        """A process of this run, with ``--resume auto`` from the second on; gone at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("*.log")))
        resume = ["--resume", "auto"] if number else []
        before = set(self.files())
        with process(
            self.command(*resume, *words),
            self.folder / f"{number}.log",
            forked=self.forked,
            **variables,
        ) as child:
            yield Session(child, self, before)

    def run(self, *words: str, **variables: str) -> int:
        """Run a session to its end; returns its exit code."""
        with self.session(*words, **variables) as session:
            return session.wait()

    def files(self) -> list[Path]:
        """The records of all sessions and ranks, oldest first."""
        return sorted(
            (self.folder / "records").glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns
        )


@dataclass
class Session:
    """A running process of a job."""

    child: Child
    job: Job
    before: set[Path] = field(default_factory=set)

    def records(self) -> dict[int, list[Line]]:
        """What each rank has recorded so far, in this session."""
        files = [file for file in self.job.files() if file not in self.before]
        return {int(file.name.split(".")[0][4:]): read_lines(file) for file in files}

    def pid(self, rank: int) -> int:
        """The process of a rank that has recorded something."""
        (file,) = (f for f in self.job.files() if f not in self.before and f"rank{rank}." in f.name)
        return int(file.name.split(".")[1])

    def wait_for(self, lines: int, rank: int = 0) -> bool:
        """Wait until a rank has recorded so many lines; False if the run ended before."""
        deadline = time.monotonic() + PATIENCE
        while len(self.records().get(rank, [])) < lines:
            if self.child.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing happens any more:\n{self.log()}")
            time.sleep(0.005)
        return True

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end; returns the exit code."""
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.log()}") from None

    def log(self) -> str:
        """The end of what it printed."""
        newest = max(self.job.folder.glob("*.log"), key=lambda file: int(file.stem))
        return newest.read_text(errors="replace")[-4000:]

    def kill(self, rank: int | None = None) -> None:
        """SIGKILL to one rank, or to all processes."""
        if rank is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        else:
            os.kill(self.pid(rank), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(60)
        kill_family(self.child)


class Cut(NamedTuple):
    """Where a session was killed, and where it had gone on."""

    how: str
    started: Line | None  # its first training batch
    last: Line | None  # the last thing it did

    def __str__(self) -> str:
        at = "before anything" if self.last is None else told(self.last)
        start = "nothing" if self.started is None else told(self.started)
        return f"{self.how:<34} began with {start:<28} died after {at}"


def told(line: Line) -> str:
    """A recorded line in a few words."""
    place = [f"{name} {line[name]}" for name in ("epoch", "batch", "step") if name in line]
    return f"{line['phase']} {', '.join(place)}"


def reference(job: Job) -> Job:
    """Run the job in one go.

    Raises:
        AssertionError: It does not end with 0.
    """
    code = job.run()
    assert code == 0, (job.folder / "0.log").read_text()[-4000:]
    return job


def kill_at_random(job: Job, kills: int, expected: Job, seed: int) -> list[Cut]:
    """Run a job with so many kills at random moments, and then to its end.

    Args:
        job: What to run.
        kills: How many times it is killed.
        expected: The same, uninterrupted.
        seed: Of the moments.
    """
    moments = random.Random(seed)
    cuts: list[Cut] = []
    (lines,) = by_rank(expected)[0]
    places = {told(line): place for place, line in enumerate(lines)}
    done = 0  # lines of an uninterrupted run before the kill
    while len(cuts) < kills:
        with job.session() as session:
            left = len(lines) - done - 8  # so many that it cannot end before it is killed
            share = 2 * left // (kills - len(cuts) + 1)
            # also before the first batch, where a resumed run reads its checkpoint
            alive = session.wait_for(moments.randrange(max(1, min(share, left))))
            assert alive, f"ended by itself:\n{session.log()}"
            time.sleep(moments.random() * 0.05)
            only = moments.choice([None, None, 0, 1]) if job.devices > 1 else None
            only = only if only in session.records() else None
            whom = "all processes" if only is None else f"rank {only}"
            session.kill(only)
            cuts.append(cut(f"SIGKILL to {whom}", session))
            last = cuts[-1].last
            done = places.get(told(last), done) if last else done
    finish(job)
    return cuts


def kill_at_cuts(job: Job, places: Iterable[str]) -> list[Cut]:
    """Run a job that kills itself at one named cut point after the other, and then to its end."""
    cuts: list[Cut] = []
    for place in places:
        with job.session(**{KILL: CUTS[place]}) as session:
            code = session.wait()
            assert code == -signal.SIGKILL, f"{place}: it ended with {code}\n{session.log()}"
            cuts.append(cut(place, session))
    finish(job)
    return cuts


def finish(job: Job) -> None:
    """The last session."""
    with job.session() as session:
        code = session.wait()
        assert code == 0, f"the last session ended with {code}\n{session.log()}"


def cut(how: str, session: Session) -> Cut:
    """What the killed session has seen, as rank 0 tells it."""
    lines = session.records().get(0, [])
    batches = [line for line in lines if line["phase"] == "train"]
    return Cut(how, batches[0] if batches else None, lines[-1] if lines else None)


def read_lines(file: Path) -> list[Line]:
    """The lines of a record; without the last one if it is not whole."""
    *lines, _ = file.read_text().split("\n")
    return [json.loads(line) for line in lines]


def differences(expected: Job, found: Job) -> list[str]:
    """In what two finished runs differ; timings and paths do not count."""
    return [
        *differing_records(by_rank(expected), by_rank(found)),
        *differing_starts(found),
        *(
            f"{name}: {difference}"
            for name in ("last", "best")
            for difference in unequal(checkpoint(expected, name), checkpoint(found, name))
        ),
        *(f"summary.json {d}" for d in unequal(summary(expected), summary(found))),
        *(f"TensorBoard {d}" for d in unequal(scalars(expected), scalars(found))),
    ]


def by_rank(job: Job) -> dict[int, list[list[Line]]]:
    """What each rank recorded, session by session."""
    ranks: dict[int, list[list[Line]]] = {}
    for file in job.files():
        ranks.setdefault(int(file.name.split(".")[0][4:]), []).append(read_lines(file))
    return ranks


def differing_records(
    expected: Mapping[int, list[list[Line]]], found: Mapping[int, list[list[Line]]]
) -> list[str]:
    """Every batch of every session must be the one of the other run; replayed ones as well."""
    out = []
    for rank, sessions in expected.items():
        theirs = {_key(line): line for lines in sessions for line in lines if _key(line)}
        seen = set()
        for number, lines in enumerate(found.get(rank, [])):
            for line in filter(_key, lines):
                seen.add(_key(line))
                for difference in unequal(theirs.get(_key(line), {}), line):
                    out.append(f"rank {rank}, session {number}, {told(line)}: {difference}")
        missing = sorted(set(theirs) - seen, key=str)
        out += [f"rank {rank}: {key} is missing" for key in missing]
    return out


def _key(line: Line) -> tuple[Any, ...]:
    place = {"train": ("epoch", "batch"), "validated": ("epoch", "step"), "end": ()}
    names = place.get(line["phase"])
    return () if names is None else (line["phase"], *(line[name] for name in names))


def differing_starts(job: Job) -> list[str]:
    """A resumed run goes on from its newest checkpoint, and not from an older one or from the front."""
    out = []
    for rank, sessions in by_rank(job).items():
        length = 1 + max(line["batch"] for lines in sessions for line in lines if "lr" in line)
        done = saved = 0
        for number, lines in enumerate(sessions):
            places = [line["epoch"] * length + line["batch"] for line in lines if "lr" in line]
            # one checkpoint may be lost, and the one before is as much older
            oldest = max(0, done - 2 * job.every * job.accumulate) if saved else 0
            if places and not oldest <= places[0] <= done:
                out.append(
                    f"rank {rank}, session {number} began with batch {places[0]}, not in {oldest}..{done}"
                )
            done = places[-1] + 1 if places else done
            saved += sum(line["phase"] == "save" for line in lines) > 1
    return out


def checkpoint(job: Job, name: str) -> dict[str, Any]:
    """A checkpoint without what tells how often the run was interrupted, and where it lies."""
    saved = torch.load(job.run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
    for key in ("loops", "tome_lightning"):
        saved.pop(key, None)
    for state in saved["callbacks"].values():
        # Lightning's ModelCheckpoint forgets the score of the last file it wrote; best_model_score stays.
        state.pop("current_score", None)
    return _without(saved, str(job.folder))


def _without(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {_without(k, folder): _without(v, folder) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, folder) for item in value]
    return value.replace(folder, "") if isinstance(value, str) else value


def summary(job: Job) -> dict[str, Any]:
    """What ``summary.json`` says of the run but not of its speed."""
    content = json.loads((job.run_dir / "summary.json").read_text())
    return {name: content[name] for name in ("metrics", "measured_on", "r", "plan", "train_plan")}


def scalars(job: Job) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of TensorBoard's curves; of a validation that was repeated each value once."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(job.run_dir), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(UNTIMED)]
    points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
    once = {tag: list(dict.fromkeys(of)) for tag, of in points.items()}
    return {tag: once[tag] if tag.startswith("val/") else points[tag] for tag in tags}


def unequal(a: Any, b: Any, name: str = "") -> list[str]:
    """Where two nested values differ; tensors and floats must be equal to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        out = [f"{name}{key} is only in one of them" for key in sorted(set(a) ^ set(b), key=str)]
        return out + [d for key in a if key in b for d in unequal(a[key], b[key], f"{name}{key}.")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (x, y) in pairs for d in unequal(x, y, f"{name}{i}.")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype
        if same and torch.equal(a.nan_to_num(), b.nan_to_num()):
            return []
        return [f"{name} {_short(a)} is {_short(b)}"]
    return [] if a == b else [f"{name} {_short(a)} is {_short(b)}"]


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) < 120 else f"{text[:60]} ... {text[-40:]}"


def write_data(recipe: str, folder: Path) -> Path:
    """A part of a quickstart's data, whose size no batch divides; returns its root."""
    root = folder / recipe
    if recipe == "quickstart_video":
        from datamodules.videos.moving_digits import write_moving_digits

        write_moving_digits(root, {"train": 9, "val": 3})  # of each of 6 motions
    elif recipe == "quickstart_audio":
        from datamodules.sounds.sound_scenes import write_sound_scenes

        write_sound_scenes(root, {"train": 50, "val": 21})
    else:
        write_some_digits(root, {"train": 22, "val": 4})
    return root


def write_some_digits(root: Path, per_class: Mapping[str, int]) -> None:
    """Write the first real digits of each class as ``root/{train,val}/<0..9>/NNNN.png``."""
    from PIL import Image

    from datamodules.images.digits import load_digits, split_digits

    images, labels = load_digits()
    for split, digit, indices in split_digits(labels):
        folder = root / split / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        for number, index in enumerate(indices[: per_class[split]]):
            Image.fromarray(images[index]).save(folder / f"{number:04d}.png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=list(OPTIONS), default="quickstart")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--every", type=int, default=2, help="steps between checkpoints")
    parser.add_argument("--ema", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--cuts", action="store_true", help="also each cut point that is named")
    parser.add_argument("--folder", type=Path, help="keep everything there")
    options, extra = parser.parse_known_args(argv)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = write_data(options.recipe, folder.absolute() / "data")
        job = Job(
            options.recipe, data, folder.absolute() / "reference", options.devices, options.workers,
            options.accumulate, options.ema, options.every, extra=tuple(extra),
        )  # fmt: skip
        return _report(options, job, folder.absolute())


def _report(options: argparse.Namespace, job: Job, folder: Path) -> int:
    expected = reference(job)
    again = reference(replace(job, folder=folder / "again"))
    found = {"uninterrupted, once more": differences(expected, again)}
    killed = replace(job, folder=folder / "killed")
    cuts = kill_at_random(killed, options.kills, expected, options.seed) if options.kills else []
    if options.kills:
        found[f"{options.kills} kills"] = differences(expected, killed)
    for number, place in enumerate(CUTS if options.cuts else ()):
        alone = replace(job, folder=folder / f"cut{number}")
        cuts += kill_at_cuts(alone, [place])
        found[place] = differences(expected, alone)
    print(*cuts, sep="\n")
    for what, several in found.items():
        print(f"{what}: {len(several)} differences", *several[:20], sep="\n  ")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
