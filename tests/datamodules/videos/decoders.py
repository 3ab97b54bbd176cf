"""What tests of decoders share: which ones work here, clips of all kinds, a read with a limit."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from datamodules.deadline import Deadline
from datamodules.errors import DataError
from datamodules.videos.decoding import DECODERS, choose_decoder, open_video

from ..clip_files import read_number, write_clip

LIMIT = Deadline(60)  # seconds for one read: only a hang takes longer


def works(decoder: str) -> bool:
    try:
        return choose_decoder(decoder) == decoder
    except DataError:
        return False


WORKING = [
    pytest.param(
        name, marks=pytest.mark.skipif(not works(name), reason=f"{name} does not decode here")
    )
    for name in DECODERS
]
every_decoder = pytest.mark.parametrize("decoder", WORKING)

MEDIUM = {"preset": "medium"}
FIXED_GOP = {"preset": "medium", "x264-params": "scenecut=0"}
OPEN_GOP = {"preset": "medium", "x264-params": "open-gop=1:bframes=3:scenecut=0"}
REFRESH = {"preset": "medium", "x264-params": "intra-refresh=1"}
CLIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "b-frames": ("clip.mp4", {"options": MEDIUM, "b_frames": 3}),
    "no b-frames": ("clip.mp4", {"b_frames": 0}),
    "long groups": ("clip.mp4", {"frames": 300, "gop": 250, "b_frames": 3, "options": MEDIUM}),
    "key frames only": ("clip.mp4", {"gop": 1, "b_frames": 0}),
    "open groups": ("clip.mp4", {"frames": 96, "options": OPEN_GOP, "b_frames": 3}),
    "gradual refresh": ("clip.mp4", {"options": REFRESH, "b_frames": 0}),
    "variable rate": ("clip.mp4", {"times": [2 * n + (n % 3 == 0) for n in range(48)]}),
    "a pause": ("clip.mp4", {"times": [n + 100 * (n > 20) for n in range(48)]}),
    "odd size": ("clip.mp4", {"size": (65, 47), "pix_fmt": "yuv444p"}),
    "odd size, mpeg4": ("clip.avi", {"size": (65, 47), "codec": "mpeg4", "b_frames": 0}),
    "index in front": ("clip.mp4", {"container": {"movflags": "faststart"}}),
    "fragments": ("clip.mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "stream 1": ("clip.mp4", {"audio_first": True}),
    "matroska": ("clip.mkv", {"b_frames": 3}),
    "webm": ("clip.webm", {"codec": "libvpx-vp9", "b_frames": 0}),
    "mpeg4 avi": ("clip.avi", {"codec": "mpeg4", "b_frames": 0}),
    "mpeg4 avi, b-frames": ("clip.avi", {"codec": "mpeg4", "b_frames": 2}),
    "h264 avi": ("clip.avi", {"frames": 96, "options": MEDIUM, "b_frames": 3}),
    "transport stream": ("clip.ts", {"b_frames": 3}),
    "program stream": ("clip.mpg", {"codec": "mpeg1video", "b_frames": 2}),
    "raw": ("clip.h264", {"options": MEDIUM, "b_frames": 3}),
}

FOLDER, OWNER = tempfile.mkdtemp(), os.getpid()


@atexit.register
def _remove() -> None:
    if os.getpid() == OWNER:  # a fork of this process that ends must leave them
        shutil.rmtree(FOLDER, ignore_errors=True)


@cache
def clip(name: str) -> tuple[str, int]:
    """Path and number of frames of one of `CLIPS`, written once."""
    file, settings = CLIPS[name]
    path = write_clip(Path(FOLDER) / name / file, **settings)
    return str(path), settings.get("frames", 48)


def read(path: str, decoder: str, indices: Sequence[int] | None = None) -> Tensor:
    """Frames, all by default, within the limit."""

    def open_and_read() -> Tensor:
        with open_video(path, decoder) as video:
            return video.frames(range(video.num_frames) if indices is None else indices)

    return LIMIT.call(open_and_read)


def numbers(frames: Tensor) -> list[int]:
    return [read_number(frame) for frame in frames]


def run_python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
