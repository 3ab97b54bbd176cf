"""Short scenes of one to three sounds, as real audio files: an audio data set without a download."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.cache import cache_folder, write_once
from datamodules.errors import DataError
from datamodules.sounds.audioset import AudioSet
from datamodules.sounds.sound_synthesis import SOUNDS, mix

SCENES = {"train": 600, "val": 200}
LISTS = {"train": "train.json", "val": "eval.json"}
LABEL_CSV = "class_labels_indices.csv"
SCENE_SEED = 0  # of the files, fixed: results on them are comparable between users
SECONDS = (1.2, 1.7)
SOUND_COUNTS = (0.4, 0.4, 0.2)  # shares of the scenes with one, two and three sounds
RAREST = 0.5  # how often training has the rarest sound, as a share of the most frequent one
# twenty scenes in turn: container, samples a second, channels; what is resampled takes long to read
KINDS = [
    *12 * [("flac", 16000, 1)],
    *6 * [("ogg", 16000, 1)],
    ("ogg", 44100, 2),
    ("flac", 22050, 2),
]


class SoundScenes(AudioSet):
    """Scenes of one to three of twelve sounds: bells, birds, sirens, engines, ...

    600 scenes to train and 200 to validate, 1.2 to 1.7 seconds long, each with the labels of the
    sounds in it. They overlap, at different times and levels, in rooms of different echo, before
    noise; no two sounds of a class are the same. On first use they are made from numbers and encoded
    as FLAC and Ogg Vorbis files below `root`, most of them mono at 16 kHz, one in ten stereo at 22
    or 44 kHz; later uses read them like any `AudioSet`, whose lists and classes are there as well.
    Training x: `[B, 1, frames, mels]` and y float32 `[B, 12]`; evaluation x: `[B, 1, 1, frames,
    mels]`.

    Args:
        root: Folder for the files; null is `$TOME_LIGHTNING_CACHE/sound_scenes`, by default
            `~/.cache/tome_lightning/sound_scenes`.
        batch_size: Training clips in a batch on each process.
        eval_batch_size: The same in evaluation; `batch_size` if null.
        num_workers: Loader processes per training process.
        frames: Frames of a spectrogram, 10 ms each.
        mels: Mel bins of a spectrogram.
        mean: Mean of the spectrograms; measured on the training clips.
        std: Standard deviation of the same.
        draws: Clips drawn in an epoch by weights that balance the classes; null for every clip once.
        replacement: Whether an epoch may draw a clip more than once.
        mixup: Probability that a training clip is mixed with another.
        roll: Whether training clips are rotated in time (`circular`) or not (`none`).
        gain: Whether training clips are made louder or softer, by 0.5 to 1.5.
        freq_mask: Most mel bins that are masked in training.
        time_mask: Most frames that are masked in training.
        persistent_workers: Keep the workers between epochs.

    Raises:
        DataError: A setting has no meaning, or (from `setup`) the folder cannot be written.
    """

    makes_files = True

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 2,
        frames: int = 160,
        mels: int = 128,
        mean: float = -4.49,
        std: float = 3.89,
        draws: int | None = None,
        replacement: bool = True,
        mixup: float = 0.5,
        roll: Literal["circular", "none"] = "circular",
        gain: bool = True,
        freq_mask: int = 0,
        time_mask: int = 0,
        persistent_workers: bool = True,
    ) -> None:
        super().__init__(
            root=str(cache_folder("sound_scenes") if root is None else root),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_list=LISTS["train"],
            val_list=LISTS["val"],
            label_csv=LABEL_CSV,
            frames=frames,
            mels=mels,
            mean=mean,
            std=std,
            draws=draws,
            replacement=replacement,
            mixup=mixup,
            roll=roll,
            gain=gain,
            freq_mask=freq_mask,
            time_mask=time_mask,
            persistent_workers=persistent_workers,
        )

    def make_files(self) -> None:
        """Write the files unless they are there."""
        write_sound_scenes(Path(self.root))

    def check(self, stage: str | None = None) -> None:
        """Write the files unless they are there, then check them like any others.

        A folder of others may be predicted.
        """
        self.make_unless_given(stage)
        super().check(stage)


@dataclass(frozen=True)
class Scene:
    """What is decided about a scene before it is heard.

    Args:
        split: train or val.
        number: Its number in the split, from 0 on.
        sounds: What is to be heard, without repetition; the labels.
        seconds: Its length.
        suffix: flac or ogg.
        rate: Samples a second.
        channels: 1 or 2.
    """

    split: str
    number: int
    sounds: tuple[str, ...]
    seconds: float
    suffix: str
    rate: int
    channels: int

    @property
    def path(self) -> str:
        """Where it lies below the root, with slashes on every machine."""
        return f"{self.split}/{self.number:04d}.{self.suffix}"

    def render(self) -> np.ndarray:
        """The waveform: float32 `[samples, channels]` within -1 and 1."""
        # a stream of its own, so that no sound's draws move those of another scene
        random = np.random.RandomState([SCENE_SEED, self.split == "val", self.number])
        sounds = [SOUNDS[name] for name in self.sounds]
        return mix(random, sounds, self.seconds, self.rate, self.channels)


def scenes(split: str, count: int) -> Iterator[Scene]:
    """The first `count` scenes of a split, the same on every machine.

    As in AudioSet, some sounds are rarer than others in training; in validation none is.
    """
    # RandomState: numpy keeps its stream the same for ever, which it does not promise of Generator
    random = np.random.RandomState([SCENE_SEED, split == "val"])
    names = np.array(list(SOUNDS))
    chance = np.linspace(1.0, RAREST if split == "train" else 1.0, len(names))
    chance = random.permutation(chance / chance.sum())
    for number in range(count):
        sounds = random.choice(names, 1 + random.choice(3, p=SOUND_COUNTS), replace=False, p=chance)
        seconds = float(random.uniform(*SECONDS))
        yield Scene(split, number, tuple(map(str, sounds)), seconds, *KINDS[number % len(KINDS)])


def write_sound_scenes(root: Path, counts: Mapping[str, int] = SCENES) -> None:
    """Write files, lists and classes below root, all or nothing; do nothing if root has `train`.

    `root/train/NNNN.{flac,ogg}` and `root/val/...`, the lists `train.json` and `eval.json`, and
    `class_labels_indices.csv`, the last three in the formats of AudioMAE and AudioSet.

    Args:
        root: Folder of the data set.
        counts: Scenes of each split.

    Raises:
        DataError: soundfile cannot be imported, `root` holds something else or cannot be written.
    """

    def write(folder: Path) -> None:
        _write_classes(folder / LABEL_CSV)
        for split, count in counts.items():
            (folder / split).mkdir()
            rows = []
            for scene in scenes(split, count):
                (folder / scene.path).write_bytes(encode(scene))
                rows.append({"wav": scene.path, "labels": ",".join(map(mid, scene.sounds))})
            (folder / LISTS[split]).write_text(json.dumps({"data": rows}, indent=1), "utf-8")

    write_once(root, write, "the sound scenes")


def encode(scene: Scene) -> bytes:
    """The file of a scene: FLAC with 16 bits, or Ogg Vorbis.

    Raises:
        DataError: soundfile cannot be imported.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise DataError(
            f"the sound scenes are written with soundfile, which cannot be imported ({error}); "
            "pip install --force-reinstall soundfile"
        ) from None
    file = BytesIO()  # libsndfile's own errors of a full disk are no OSErrors, if it tells of it
    soundfile.write(file, scene.render(), scene.rate, format=scene.suffix.upper())
    return file.getvalue()


def mid(sound: str) -> str:
    """How lists call a sound; AudioSet's own begin with /m/ and the like."""
    return f"/t/{sound}"


def _write_classes(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows([i, mid(name), name.capitalize()] for i, name in enumerate(SOUNDS))
