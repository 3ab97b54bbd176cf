"""Data sets of full size from a few files, and what a start costs on them.

    python -m tests.runs.full_size_trees FOLDER [--images 1281167 --clips 240000 --sounds 2020000]

Makes FOLDER/{images,clips,sounds} of hard links where they are not there yet (5 GB of inodes and names,
15 minutes), then measures each part in a process of its own: seconds, CPU seconds with those of children,
and how much memory grew beyond the imports, at most. The figures are in `recipes/BENCHMARKS.md`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

LINKS = 60_000  # of one file: ext4 allows 65,000
CLASSES = {"images": 1000, "clips": 400, "sounds": 527}
ALPHABET = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", dtype="S1"
)


def make_images(root: Path, count: int) -> None:
    """`{train,val}/n01000000/n01000000_17.JPEG`, 25 of train to one of val, in 1000 class folders."""
    one = root / "one.jpg"
    root.mkdir(parents=True)
    pixels = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).resize((256, 256)).save(one, quality=85)
    names = [f"n{1_000_000 + 7919 * n:08d}" for n in range(CLASSES["images"])]
    for split, share in (("train", count), ("val", max(len(names), count // 25))):
        _link_classes(one, root / split, names, share, "{name}_{n}.JPEG")


def make_clips(root: Path, count: int) -> None:
    """`{train,val}/class 017/17_000012_000022.mp4`, 12 of train to one of val, in 400 class folders."""
    from ..datamodules.clip_files import write_clip

    one = root / "one.mp4"
    root.mkdir(parents=True)
    write_clip(one, frames=48)
    names = [f"class {n:03d}" for n in range(CLASSES["clips"])]
    for split, share in (("train", count), ("val", max(len(names), count // 12))):
        _link_classes(one, root / split, names, share, "{n}_000012_000022.mp4")


def make_sounds(root: Path, count: int) -> None:
    """`audio/part17/Y<id>.wav`, 50,000 in a folder, with AudioSet's lists of both kinds.

    `train_all.json` and `unbalanced_train_segments.csv` name all but the balanced, a ninetieth;
    `balanced_train_segments.csv` these and `eval_segments.csv` a hundredth.
    """
    root.mkdir(parents=True)
    one = root / "one.wav"
    with wave.open(str(one), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        noise = np.random.RandomState(0).randint(-3000, 3000, 16_000)
        file.writeframes(noise.astype("<i2").tobytes())
    mids = [f"/m/{n:05x}" for n in range(CLASSES["sounds"])]
    rows = ["index,mid,display_name", *(f'{n},{mid},"Class {n}"' for n, mid in enumerate(mids))]
    (root / "class_labels_indices.csv").write_text("\n".join([*rows, ""]))
    ids = youtube_ids(count)
    paths = [f"audio/part{n // 50_000:02d}/Y{name}.wav" for n, name in enumerate(ids)]
    _link(one, (root / path for path in paths))
    few, held = max(8, count // 90), max(8, count // 100)
    _write_lists(root, ids, paths, _labels(count, mids), few, held)


def youtube_ids(count: int) -> list[str]:
    """`count` different names of 11 characters."""
    letters = np.random.RandomState(1).randint(0, 64, (count, 11))
    letters[:, :4] = np.arange(count)[:, None] // 64 ** np.arange(4) % 64
    return [str(name, "ascii") for name in ALPHABET[letters].view("S11")[:, 0]]


def _labels(count: int, mids: list[str]) -> list[str]:
    """One to four labels a clip, common ones far more often than rare ones, as AudioSet's."""
    draw = np.random.RandomState(2)
    rank = np.minimum(draw.zipf(1.2, (count, 4)) - 1, len(mids) - 1)
    rank[: len(mids), 0] = np.arange(min(len(mids), count))  # every class has a clip
    many = draw.randint(1, 5, count)
    return [
        ",".join(mids[c] for c in dict.fromkeys(row[:n]))
        for row, n in zip(rank.tolist(), many.tolist(), strict=True)
    ]


def _write_lists(
    root: Path, ids: list[str], paths: list[str], labels: list[str], few: int, held: int
) -> None:
    parts = {
        "balanced_train_segments": slice(0, few),
        "eval_segments": slice(few, few + held),
        "unbalanced_train_segments": slice(few + held, None),
    }
    for name, part in parts.items():
        with (root / f"{name}.csv").open("w") as file:
            file.write("# Segments csv\n# num_ytids\n# YTID, start_seconds, end_seconds, labels\n")
            for number, (clip, mine) in enumerate(zip(ids[part], labels[part], strict=True)):
                start = 10 * (number % 60)
                file.write(f'{clip}, {start}.000, {start + 10}.000, "{mine}"\n')
    for name, part in (
        ("train_all", parts["unbalanced_train_segments"]), ("eval", parts["eval_segments"])
    ):  # fmt: skip
        rows = zip(paths[part], labels[part], strict=True)
        data = [{"wav": path, "labels": mine} for path, mine in rows]
        (root / f"{name}.json").write_text(json.dumps({"data": data}))


def _link_classes(one: Path, split: Path, names: list[str], count: int, pattern: str) -> None:
    rows = ((names[n % len(names)], n) for n in range(count))
    _link(one, (split / name / pattern.format(name=name, n=n) for name, n in rows))


def _link(one: Path, places: Iterator[Path]) -> None:
    """Many names of one file, and of copies of it where it has enough."""
    made = set[Path]()
    source = one
    for number, place in enumerate(places):
        if place.parent not in made:
            place.parent.mkdir(parents=True, exist_ok=True)
            made.add(place.parent)
        if number % 1000 == 0:
            source = _with_room(one)
        os.link(source, place)


def _with_room(one: Path) -> Path:
    """The file or the first copy of it that may have more names; made where there is none."""
    for copy in (one, *(one.with_stem(f"{one.stem}{n}") for n in range(10_000))):
        if not copy.exists():
            copy.write_bytes(one.read_bytes())
        if copy.stat().st_nlink < LINKS:
            return copy
    raise OSError(f"no copy of {one} has room for more names")


# Each part runs alone, with FOLDER as its argument: `told` prints figures since `start`.
MEASURE = """
import json, os, resource, sys, time
import torch, torchaudio, torchvision
from datamodules import AudioSet, ImageNet, Kinetics400
folder = sys.argv[1]
def used():
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(who.ru_utime + who.ru_stime for who in (own, children))
    return time.time(), cpu, own.ru_maxrss / 1024
def told(what, start):
    figures = [now - then for now, then in zip(used(), start)]
    print(json.dumps([what, *figures]), flush=True)
start = used()
"""
SET_UP = """
data.setup("fit")
told("set-up", start)
start = used()
next(iter(data.train_dataloader().batch_sampler))
told("an epoch's begin", start)
"""
PARTS = {
    "images": 'data = ImageNet(folder + "/images")' + SET_UP,
    "images, torchvision": """
for split in ("train", "val"):
    torchvision.datasets.ImageFolder(f"{folder}/images/{split}")
told("set-up", start)
""",
    "clips": 'data = Kinetics400(folder + "/clips", class_list=None)' + SET_UP,
    "sounds, JSON": """
data = AudioSet(folder + "/sounds", train_list="train_all.json", val_list="eval.json")
"""
    + SET_UP,
    "sounds, CSV": """
lists = ["unbalanced_train_segments.csv", "balanced_train_segments.csv"]
data = AudioSet(folder + "/sounds", train_list=lists, val_list="eval_segments.csv")
"""
    + SET_UP,
    "sounds, 20K": """
lists = ["balanced_train_segments.csv", "eval_segments.csv"]
data = AudioSet(folder + "/sounds", train_list=lists[0], val_list=lists[1])
"""
    + SET_UP,
    "images, scan --quick": """
from tome_lightning.__main__ import main
start = used()
words = "scan --quick --data ImageNet --workers 2 --out scan.json --data.root".split()
assert main([*words, folder + "/images"]) == 0
told("scan --quick", start)
""",
    "sounds, scan --quick": """
from tome_lightning.__main__ import main
start = used()
words = "scan --quick --data AudioSet --workers 2 --out scan.json --data.train_list=train_all.json"
words += " --data.val_list=eval.json --data.root"
assert main([*words.split(), folder + "/sounds"]) == 0
told("scan --quick", start)
""",
    "clips, scan --quick": """
from tome_lightning.__main__ import main
start = used()
words = "scan --quick --data Kinetics400 --data.class_list null --workers 2 --out scan.json --data.root"
assert main([*words.split(), folder + "/clips"]) == 0
told("scan --quick", start)
""",
    "images, predict": """
from pathlib import Path
from tome_lightning.__main__ import main
Path("small.yaml").write_text(SMALL)
start = used()
words = "predict --recipe small.yaml --run_dir run --data ImageNet --data.size 32 --data.root".split()
assert main([*words, folder + "/images"]) == 0
told("predict", start)
""",
}
# A model that costs next to nothing, with ImageNet's classes.
SMALL = """
model:
  input: {class_path: tome_lightning.inputs.Image, init_args: {size: 32, patch: 16}}
  task: {class_path: tome_lightning.tasks.SingleLabel, init_args: {num_classes: 1000}}
  vit: {embed_dim: 32, depth: 2, num_heads: 1, global_pool: avg}
  r: 1
  lr: 1.0e-3
data: {class_path: ImageNet, init_args: {batch_size: 128, num_workers: 2}}
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, enable_progress_bar: false}
"""


class Figures(NamedTuple):
    """What something took: seconds, CPU seconds, and MB by which the peak grew."""

    part: str
    start: str
    what: str
    seconds: float
    cpu: float
    memory: float


def measure(folder: Path, part: str, start: str, cache: Path) -> Iterator[Figures]:
    """Run a part in a process of its own, with its lists kept in `cache`."""
    code = f"SMALL = {SMALL!r}{MEASURE}{PARTS[part]}"
    words = [sys.executable, "-W", "ignore", "-c", code, str(folder.absolute())]
    variables = {**os.environ, "TOME_LIGHTNING_CACHE": str(cache)}
    variables["PYTHONPATH"] = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(
            words, env=variables, cwd=scratch, capture_output=True, text=True, check=False
        )
    if run.returncode:
        raise RuntimeError(f"{part}: {run.stderr[-2000:]}")
    for line in run.stdout.splitlines():
        if line.startswith("["):
            yield Figures(part, start, *json.loads(line))


def main(argv: list[str]) -> None:
    """Make what is not there yet, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, count in (("images", 1_281_167), ("clips", 240_000), ("sounds", 2_020_000)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    options = parser.parse_args(argv)
    for name, make in (("images", make_images), ("clips", make_clips), ("sounds", make_sounds)):
        if not (options.folder / name).is_dir():
            make(options.folder / name, getattr(options, name))
    print("| part | start | what | seconds | CPU seconds | MB more |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for part in options.parts:
            for start in ("first", "second"):
                for row in measure(options.folder, part, start, Path(cache)):
                    figures = f"{row.seconds:.1f} | {row.cpu:.1f} | {row.memory:.0f}"
                    print(f"| {row.part} | {row.start} | {row.what} | {figures} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
