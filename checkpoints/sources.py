"""Published checkpoint files by name: where they are, and the copies kept on this machine."""

import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from .errors import CheckpointError

LICENCE = "CC-BY-NC-4.0"
_META = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True)
class Source:
    """A published file.

    `md5` is what is published of its hash, the first hex digits or nothing; `kind` is "encoder",
    "full" or "fine-tuned"; `arch` is the timm model it fits; `how` says where a user gets it and
    under which licence.
    """

    name: str
    file: str
    url: str | None
    md5: str
    family: str
    kind: str
    arch: str
    how: str


def _mae(folder: str, file: str, md5: str, kind: str, arch: str) -> Source:
    how = f"the MAE release of Meta AI, licence {LICENCE} (no commercial use)"
    return Source(
        file, f"{file}.pth", f"{_META}/mae/{folder}/{file}.pth", md5, "mae", kind, arch, how
    )


def _tome(name: str, file: str, arch: str) -> Source:
    how = f"the ToMe release of Meta AI, licence {LICENCE} (no commercial use)"
    return Source(name, file, f"{_META}/tome/{file}", "", "tome", "fine-tuned", arch, how)


_BASE, _LARGE, _HUGE = "vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224"

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        _mae("pretrain", "mae_pretrain_vit_base", "8cad7c", "encoder", _BASE),
        _mae("pretrain", "mae_pretrain_vit_large", "b8b06e", "encoder", _LARGE),
        _mae("pretrain", "mae_pretrain_vit_huge", "9bdbb0", "encoder", _HUGE),
        _mae("finetune", "mae_finetuned_vit_base", "1b25e9", "fine-tuned", _BASE),
        _mae("finetune", "mae_finetuned_vit_large", "51f550", "fine-tuned", _LARGE),
        _mae("finetune", "mae_finetuned_vit_huge", "2541f2", "fine-tuned", _HUGE),
        _mae("visualize", "mae_visualize_vit_large", "", "full", _LARGE),
        _tome("tome_vit_base_r16", "f367082919_vit_B_16_r16.pth", _BASE),
        _tome("tome_vit_large_r8", "f366894475_vit_L_16_r8.pth", _LARGE),
        _tome("tome_vit_huge_r7", "f366895717_vit_H_14_r7.pth", _HUGE),
        _tome("tome_deit_small_r13", "f367470145_deit_S_r13.pth", "deit_small_patch16_224"),
        _tome("tome_deit_tiny_r13", "f367470145_deit_T_r13.pth", "deit_tiny_patch16_224"),
    )
}


def weights_dir() -> Path:
    """Where published files are kept: $TOME_LIGHTNING_CACHE/weights or ~/.cache/…/weights."""
    root = os.environ.get("TOME_LIGHTNING_CACHE") or Path.home() / ".cache" / "tome_lightning"
    return Path(root).expanduser() / "weights"


def fetch(source: Source) -> Path:
    """The path of a source's file: the copy in `weights_dir()`, or a fresh download into it.

    Raises:
        CheckpointError: the file has another hash than the published one, or the download
            failed; says then where to put a copy by hand.
    """
    path = weights_dir() / source.file
    if path.is_file():
        got = _md5(path) if source.md5 else ""
        if not got.startswith(source.md5):
            raise CheckpointError(
                f"{path} is not the published {source.name}: its md5 is {got}, the published one "
                f"starts with {source.md5}: delete it, or load it by its path if it is meant"
            )
        return path
    by_hand = f"put {source.file} at {path} (from {source.how})"
    if source.url is None:
        raise CheckpointError(f"{source.name} has no address to download from: {by_hand}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: several processes may fetch the same file, the last rename wins.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / source.file
            torch.hub.download_url_to_file(source.url, str(part), progress=sys.stderr.isatty())
            got = _md5(part)
            if not got.startswith(source.md5):
                raise CheckpointError(
                    f"{source.url} gave a file with md5 {got}, the published {source.name} starts "
                    f"with {source.md5}, so it was not kept: try again, or {by_hand}"
                )
            os.replace(part, path)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f"{source.name} could not be downloaded from {source.url} ({error}): {by_hand}"
        ) from error
    return path


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
