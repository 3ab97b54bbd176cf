"""Versions, devices, attention kernels, decoders, folders of this machine."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from checkpoints.errors import first_line
from tome_lightning.commands.doctor.findings import Finding, broken, ok, survive, warning

KERNELS = ("flash", "efficient", "cudnn")  # of attention, as torch's SDPBackend has them
SMALL_SHM = 1 << 30  # bytes; a container's default of 64 MiB is too little for loader workers
SMALL_CACHE = 5 << 30  # bytes; the largest published file has 2.5 GB
VIDEO, AUDIO = "video", "audio"


def check_machine() -> list[Finding]:
    """All that can be said without a recipe; takes a few seconds."""
    checks = {
        "python": _python,
        "packages": _requirements,
        "torch": _torch,
        "torchvision": _torchvision,
        "devices": _devices,
        "attention": _attention,
        "compile": _compile,
        "processes": _processes,
        "video": _video,
        "audio": _audio,
        "folders": _folders,
    }
    return [finding for what, check in checks.items() for finding in survive(what, check)]


def _python() -> Iterator[Finding]:
    yield ok("python", f"{platform.python_version()}, {platform.platform()}")


def _requirements() -> Iterator[Finding]:
    """What the package itself asks for, extras aside."""
    asked = [Requirement(text) for text in _asked()]
    asked = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = []
    for requirement in asked:
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append((requirement, "not installed"))
            continue
        if not requirement.specifier.contains(Version(found).base_version, prereleases=True):
            wrong.append((requirement, found))
    for requirement, found in wrong:
        install = f"pip install '{requirement.name}{requirement.specifier}'"
        status = warning if requirement.name == "decord" else broken
        words = f"{requirement.name} is {found}, supported is {requirement.specifier or 'any'}"
        yield status("packages", words, install)
    if not wrong:
        yield ok("packages", f"all {len(asked)} required packages are there in supported versions")


def _asked() -> list[str]:
    """The requirements of the installed package, or of the checkout that is run."""
    project = Path(__file__).parents[3] / "pyproject.toml"
    if project.is_file():
        content = tomllib.loads(project.read_text("utf-8"))["project"]
        if content["name"] == "tome_lightning":
            return list(content["dependencies"])
    return list(metadata.requires("tome_lightning") or ())


def _torch() -> Iterator[Finding]:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    words = f"{torch.__version__}, built with {built}, {torch.get_num_threads()} threads"
    if torch.version.cuda is None and Path("/proc/driver/nvidia/version").exists():
        yield warning(
            "torch", f"{words}, but this machine has an NVIDIA driver", "install torch for CUDA"
        )
    else:
        yield ok("torch", words)


def _torchvision() -> Iterator[Finding]:
    """Built for another torch it imports, but its operators are missing."""
    import torch

    try:
        vision: Any = importlib.import_module("torchvision")
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        vision.ops.nms(boxes, torch.ones(1), 0.5)
    except Exception as error:
        pair = f"torch {torch.__version__}, torchvision {_version('torchvision')}"
        remedy = "pip install --force-reinstall torch torchvision (versions of one release)"
        yield broken("torchvision", f"{pair}: {first_line(error)}", remedy)
        return
    yield ok("torchvision", f"{vision.__version__} fits this torch")


def _devices() -> Iterator[Finding]:
    import torch

    from datamodules.workers import usable_cores
    from tome_lightning.run.environment import cpu_model

    capability = torch.backends.cpu.get_cpu_capability()
    half = "" if capability not in ("AVX2", "DEFAULT") else ", no fast bfloat16"
    yield ok("cpu", f"{cpu_model() or 'unknown'}, {len(usable_cores())} cores, {capability}{half}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            yield _gpu(i)
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        yield ok("gpu", "Apple MPS")
    else:
        yield warning(
            "gpu", "none that torch can use", "fine for the quickstarts; recipes want GPUs"
        )


def _gpu(i: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(i)
    words = (
        f"cuda:{i} {properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
        f"{properties.major}.{properties.minor}"
    )
    try:
        x = torch.ones(64, 64, device=f"cuda:{i}")
        right = float((x @ x).sum()) == 64.0**3
    except Exception as error:
        return broken("gpu", f"{words}: {first_line(error)}", "check the driver with nvidia-smi")
    if not right:
        return broken("gpu", f"{words} multiplies wrongly", "test its memory; do not train on it")
    if properties.major < 8:
        return warning("gpu", f"{words}, no bfloat16", "use --trainer.precision 16-mixed")
    return ok("gpu", words)


def _attention() -> Iterator[Finding]:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    q = torch.randn(1, 2, 64, 64, device=device, dtype=dtype)
    works = []
    for name in KERNELS:
        try:
            with sdpa_kernel(getattr(SDPBackend, f"{name.upper()}_ATTENTION")):
                F.scaled_dot_product_attention(q, q, q)
        except Exception:
            continue
        works.append(name)
    words = f"on {device}, {str(dtype).removeprefix('torch.')}: {', '.join([*works, 'math'])}"
    if "flash" in works or "cudnn" in works:
        yield ok("attention", words)
    else:
        yield warning("attention", words, "dense attention is slow without a fused kernel")


def _compile() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        try:
            triton: Any = importlib.import_module("triton")
        except Exception as error:
            remedy = "pip install triton; or leave --model.compile out"
            yield warning("compile", f"no Triton: {first_line(error)}", remedy)
            return
        yield ok("compile", f"Triton {triton.__version__}")
        return
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield ok("compile", f"C++ compiler {compiler}")
    else:
        yield warning("compile", "no C++ compiler", "install g++; or leave --model.compile out")


def _processes() -> Iterator[Finding]:
    from torch import distributed

    if not distributed.is_available():
        yield warning("processes", "torch has no distributed package", "one process only")
        return
    nccl = ", nccl" if distributed.is_nccl_available() else ""
    yield ok("processes", f"gloo{nccl}")
    folder = Path("/dev/shm")
    if folder.is_dir() and (size := shutil.disk_usage(folder).total) < SMALL_SHM:
        words = f"{folder} has {size >> 20} MiB, in which loader workers hand over batches"
        yield warning("processes", words, "start the container with --ipc=host or --shm-size=16g")


def _video() -> Iterator[Finding]:
    from datamodules.errors import DataError
    from datamodules.videos.decoding import DECODERS, choose_decoder, open_video

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "clip.mp4")
        try:
            _write_clip(clip)
        except Exception as error:
            yield broken(
                "video", f"no clip can be made: {first_line(error)}", "pip install av", VIDEO
            )
            return
        for name in DECODERS:
            try:
                choose_decoder(name)
                video = open_video(str(clip), name)
                shape = tuple(video.frames([0, CLIP_FRAMES - 1]).shape)
                video.close()
            except DataError as error:
                what, _, remedy = str(error).partition("; ")
                kind = broken if name == "pyav" else warning
                if name != "pyav":
                    cure = remedy.removesuffix(", or --data.decoder pyav")
                    remedy = f"not needed, others decode; to have it: {cure}"
                yield kind("video", what, remedy, VIDEO)
                continue
            except Exception as error:
                yield broken("video", f"{name}: {first_line(error)}", "--data.decoder pyav", VIDEO)
                continue
            yield ok("video", f"{name} {_version({'pyav': 'av'}.get(name, name))} decodes: {shape}")


CLIP_FRAMES = 8


def _write_clip(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(CLIP_FRAMES):
            frame = np.full((64, 64, 3), 20 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _audio() -> Iterator[Finding]:
    import math

    import torch

    from datamodules.errors import DataError
    from datamodules.sounds.features import fbank
    from datamodules.sounds.reading import read_waveform, require_decoders, require_torchaudio

    try:
        require_torchaudio()
        require_decoders()
    except DataError as error:
        what, _, remedy = str(error).rpartition("; ")
        yield broken("audio", what, remedy, AUDIO)
        return
    soundfile: Any = importlib.import_module("soundfile")
    wave = torch.sin(torch.arange(16_000) * (2 * math.pi * 440 / 16_000)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".flac", ".ogg"):
            sound = Path(folder, f"sound{suffix}")
            try:
                soundfile.write(sound, wave, 16_000)
                shape = tuple(fbank(read_waveform(str(sound)), 16_000).shape)
            except Exception as error:
                remedy = "pip install --force-reinstall soundfile"
                yield broken("audio", f"{suffix}: {first_line(error)}", remedy, AUDIO)
                return
    words = f"torchaudio {_version('torchaudio')}, soundfile {soundfile.__version__}: flac and ogg read, "
    yield ok("audio", f"{words}features {shape}")


def _folders() -> Iterator[Finding]:
    from checkpoints.sources import weights_dir

    cache = weights_dir().parent
    for what, folder in (("cache", cache), ("runs", Path("runs"))):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=existing):
                pass
        except OSError as error:
            remedy = (
                "set TOME_LIGHTNING_CACHE to a folder that can be written"
                if what == "cache"
                else "use --run_dir"
            )
            yield broken(what, f"{folder} cannot be written: {error.strerror}", remedy)
            continue
        free = shutil.disk_usage(existing).free
        words = f"{folder} can be written, {free / 2**30:.0f} GiB free"
        if free < SMALL_CACHE:
            yield warning(what, words, "a ViT-L run keeps about 8 GB of checkpoints: make room")
        else:
            yield ok(what, words)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
