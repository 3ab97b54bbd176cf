"""A tiny AudioSet on disk: classes, short tones as wav and flac, and both kinds of lists."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile")

RATE = 16_000
CLASSES = {  # label id and display name, in the order of the index
    "/m/09x0r": "Speech",
    "/m/05zppz": "Male speech, man speaking",
    "/m/04rlf": "Music",
    "/m/0bt9lr": "Dog",
    "/t/dd00125": "Mains hum",
    "/m/0jbk": "Animal",
}
IDS = list(CLASSES)
SPLITS = {"train": 16, "eval": 6}  # clips
SEGMENTS = {"train": "balanced_train_segments.csv", "eval": "eval_segments.csv"}


class Clip(NamedTuple):
    """One clip of the tree: its YouTube id, file below root, and class indices."""

    id: str
    path: str
    labels: tuple[int, ...]


def clips(split: str, count: int) -> list[Clip]:
    """Clip n has class n modulo 6, every third one the next class as well."""
    made = []
    for n in range(count):
        name = f"{'-_Yab'[n % 5]}{split:_<6.6}{n:04d}"  # 11 characters, as YouTube's
        ending = ("wav", "flac")[n % 2]
        labels = (n % 6, (n + 1) % 6) if n % 3 == 0 else (n % 6,)
        made.append(Clip(name, f"audio/{split}/{name}.{ending}", labels))
    return made


def write_sound(path: Path, seconds: float, frequency: float, rate: int = RATE) -> None:
    """Write a tone in noise, mono, as wav or flac."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.RandomState(int(frequency)).standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * time) + 0.01 * noise, rate)


def write_classes(root: Path, classes: Mapping[str, str] = CLASSES) -> None:
    """Write `class_labels_indices.csv`."""
    rows = [f'{index},{mid},"{name}"' for index, (mid, name) in enumerate(classes.items())]
    (root / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *rows, ""]))


def write_json(path: Path, rows: Mapping[str, str]) -> None:
    """Write AudioMAE's list: labels, with commas in between, of each path."""
    data = [{"wav": wav, "labels": labels} for wav, labels in rows.items()]
    path.write_text(json.dumps({"data": data}))


def write_segments(path: Path, rows: Mapping[str, str], start: float = 30.0) -> None:
    """Write AudioSet's list: labels, with commas in between, of each YouTube id."""
    lines = ["# Segments csv created by a test", f"# num_ytids={len(rows)}"]
    lines.append("# YTID, start_seconds, end_seconds, positive_labels")
    lines += [f'{i}, {start:.3f}, {start + 10:.3f}, "{labels}"' for i, labels in rows.items()]
    path.write_text("\n".join([*lines, ""]))


def write_tree(root: Path, counts: Mapping[str, int] = SPLITS) -> Path:
    """Write `audio/{train,eval}/ID.{wav,flac}` of 0.2 to 1 s, classes, JSON and CSV lists.

    The lists are `train.json` and `eval.json` (paths from root on), `balanced_train_segments.csv`
    and `eval_segments.csv` (the same clips by their ids).

    Args:
        root: Folder to write to; made if missing.
        counts: Clips of each split.

    Returns:
        `root`, which is all that `AudioSet` needs.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_classes(root)
    for split, count in counts.items():
        made = clips(split, count)
        for n, clip in enumerate(made):
            frequency = 200.0 * (1 + clip.labels[0]) + 7 * n + (split == "eval")
            write_sound(root / clip.path, 0.2 + 0.8 * n / count, frequency)
        labels = [",".join(IDS[label] for label in clip.labels) for clip in made]
        write_json(root / f"{split}.json", dict(zip([c.path for c in made], labels, strict=True)))
        write_segments(root / SEGMENTS[split], dict(zip([c.id for c in made], labels, strict=True)))
    return root
