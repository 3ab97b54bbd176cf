"""Published checkpoint files by name: where they are, and the copies kept on this machine."""

import contextlib
import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch

from .errors import CheckpointError
from .layout import Positions
from .queueing import one_at_a_time

LICENCE = "CC-BY-NC-4.0"
_META = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True)
class Source:
    """A published file.

    `url` is None where a browser has to fetch it; `md5` is what is published of its hash, the
    first hex digits or nothing, which tells a damaged copy and not a forged one; `sha256` pins the
    file where its hash is known to us; `arch` is a timm model with its blocks (not all with its patches);
    `how` says where a user gets it and under which licence; `hub` is a repository of the Hugging Face Hub
    with the same weights in another layout, which `hf-hub:` before it loads. The rest is what `Identity`
    calls so.
    """

    name: str
    file: str
    url: str | None
    md5: str
    family: str
    kind: str
    arch: str
    how: str
    num_classes: int | None = None
    pooling: str | None = None
    class_token: bool = True
    positions: Positions | None = None
    tubelet: int | None = None
    sha256: str = ""

    @property
    def hub(self) -> str | None:
        return _HUB.get(self.name)


# By their names there; cards of facebook's say Apache-2.0, of MCG-NJU's CC-BY-NC-4.0.
_HUB = {
    "mae_pretrain_vit_base": "facebook/vit-mae-base",
    "mae_pretrain_vit_large": "facebook/vit-mae-large",
    "mae_pretrain_vit_huge": "facebook/vit-mae-huge",
    "videomae_vit_base_k400": "MCG-NJU/videomae-base",
    "videomae_vit_base_k400_800ep": "MCG-NJU/videomae-base-short",
    "videomae_vit_large_k400": "MCG-NJU/videomae-large",
    "videomae_vit_base_ssv2": "MCG-NJU/videomae-base-ssv2",
    "videomae_vit_base_ssv2_800ep": "MCG-NJU/videomae-base-short-ssv2",
    "videomae_vit_small_k400_finetuned": "MCG-NJU/videomae-small-finetuned-kinetics",
    "videomae_vit_base_k400_finetuned": "MCG-NJU/videomae-base-finetuned-kinetics",
    "videomae_vit_base_k400_800ep_finetuned": "MCG-NJU/videomae-base-short-finetuned-kinetics",
    "videomae_vit_large_k400_finetuned": "MCG-NJU/videomae-large-finetuned-kinetics",
    "videomae_vit_huge_k400_finetuned": "MCG-NJU/videomae-huge-finetuned-kinetics",
    "videomae_vit_small_ssv2_finetuned": "MCG-NJU/videomae-small-finetuned-ssv2",
    "videomae_vit_base_ssv2_finetuned": "MCG-NJU/videomae-base-finetuned-ssv2",
    "videomae_vit_base_ssv2_800ep_finetuned": "MCG-NJU/videomae-base-short-finetuned-ssv2",
    "audiomae_vit_base": "gaunernst/vit_base_patch16_1024_128.audiomae_as2m",
    "audiomae_vit_base_finetuned": "gaunernst/vit_base_patch16_1024_128.audiomae_as2m_ft_as20k",
}


def _mae(folder: str, file: str, md5: str, kind: str, arch: str) -> Source:
    how = f"the MAE release of Meta AI, licence {LICENCE} (no commercial use)"
    url = f"{_META}/mae/{folder}/{file}.pth"
    tuned = (1000, "avg") if kind == "fine-tuned" else (None, None)
    return Source(file, f"{file}.pth", url, md5, "mae", kind, arch, how, *tuned)


def _tome(name: str, file: str, arch: str) -> Source:
    how = f"the ToMe release of Meta AI, licence {LICENCE} (no commercial use)"
    pooling = "token" if arch.startswith("deit") else "avg"
    url = f"{_META}/tome/{file}"
    return Source(name, file, url, "", "tome", "fine-tuned", arch, how, 1000, pooling)


def _mae_st(name: str, path: str, md5: str, size: str, how: str) -> Source:
    return Source(
        name=name,
        file=path.rpartition("/")[2],
        url=f"{_META}/{path}",
        md5=md5,
        family="mae_st",
        kind="full",  # as the layout is described; no published file was at hand
        arch=_ARCHS[size],
        how=how,
        pooling="avg",
        positions="separable",
        tubelet=2,
    )


def _kinetics(size: str, data: str, md5: str) -> Source:
    how = (
        "the mae_st release of Meta AI, which has pre-trained files only (those its FINETUNE.md "
        f"calls fine-tuned are these), licence {LICENCE} (no commercial use)"
    )
    path = f"video-mae/pretrain/mae_pretrain_vit_{size}_{data}.pth"
    return _mae_st(f"mae_st_vit_{size}_{data}", path, md5, size, how)


def _pyslowfast(size: str, file: str) -> Source:
    # Not verified: addresses, layout and terms are second-hand, and whether a decoder is in them.
    how = (
        "the model zoo of PySlowFast, whose terms we have not checked (MAE's own releases are "
        f"{LICENCE}, no commercial use)"
    )
    path = f"pyslowfast/masked_models/{file}"
    return _mae_st(f"pyslowfast_mae_vit_{size}_k400", path, "", size, how)


def _videomae(size: str, data: str, epochs: int, *, tuned: bool) -> Source:
    """A row of VideoMAE's model zoo: two files on Google Drive, which the zoo does not name."""
    which = "fine-tuned" if tuned else "pre-trained"
    name = f"videomae_vit_{size}_{data}" + ("_800ep" if epochs == 800 else "")
    name += "_finetuned" if tuned else ""
    return Source(
        name=name,
        file=f"{name}.pth",
        url=None,
        md5="",
        family="videomae",
        kind="fine-tuned" if tuned else "full",
        arch=_ARCHS[size],
        how=(
            f"the model zoo page of the VideoMAE repository, there the {which} file of the row "
            f"{data}, ViT-{size[0].upper()}, {epochs} epochs, licence {LICENCE} (no commercial use)"
        ),
        num_classes=_CLASSES[data] if tuned else None,
        pooling="avg",
        class_token=False,
        positions="sinusoid",
        tubelet=2,
    )


def _audiomae(*, tuned: bool) -> Source:
    which = "fine-tuned" if tuned else "pre-trained"
    name = "audiomae_vit_base" + ("_finetuned" if tuned else "")
    return Source(
        name=name,
        file=f"{name}.pth",
        url=None,
        md5="",
        family="audiomae",
        kind="fine-tuned" if tuned else "full",  # as described; no published file was at hand
        arch=_BASE,
        how=(
            f"the model zoo of the AudioMAE repository, there the {which} ViT-B of AudioSet-2M on "
            f"Google Drive (its scripts call it {which.replace('-', '')}.pth), licence {LICENCE} by "
            "its LICENSE (no commercial use), CC-BY 4.0 by its README"
        ),
        num_classes=527 if tuned else None,
        pooling="avg" if tuned else None,
    )


_BASE, _LARGE, _HUGE = "vit_base_patch16_224", "vit_large_patch16_224", "vit_huge_patch14_224"
_ARCHS = {"small": "vit_small_patch16_224", "base": _BASE, "large": _LARGE, "huge": _HUGE}
_CLASSES = {"k400": 400, "ssv2": 174, "ucf101": 101}
_ZOO = (  # VideoMAE's rows: size, data, epochs of pre-training
    ("small", "k400", 1600),
    ("base", "k400", 800),
    ("base", "k400", 1600),
    ("large", "k400", 1600),
    ("huge", "k400", 1600),
    ("small", "ssv2", 2400),
    ("base", "ssv2", 800),
    ("base", "ssv2", 2400),
    ("base", "ucf101", 3200),
)

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
        _mae("visualize", "mae_visualize_vit_large_ganloss", "", "full", _LARGE),
        _tome("tome_vit_base_r16", "f367082919_vit_B_16_r16.pth", _BASE),
        _tome("tome_vit_large_r8", "f366894475_vit_L_16_r8.pth", _LARGE),
        _tome("tome_vit_huge_r7", "f366895717_vit_H_14_r7.pth", _HUGE),
        _tome("tome_deit_small_r13", "f367470145_deit_S_r13.pth", "deit_small_patch16_224"),
        _tome("tome_deit_tiny_r13", "f367470145_deit_T_r13.pth", "deit_tiny_patch16_224"),
        _kinetics("large", "k400", "edf3a5"),
        _kinetics("large", "k600", "9a9645"),
        _kinetics("large", "k700", "cdbada"),
        _kinetics("huge", "k400", "3d7f64"),
        _kinetics("huge", "k600", "27495e"),
        _kinetics("huge", "k700", "4c4e3c"),
        _pyslowfast("base", "VIT_B_16x4_MAE_PT.pyth"),
        _pyslowfast("large", "VIT_L_16x4_MAE_PT.pyth"),
        _pyslowfast("huge", "VIT_H_16x4_MAE_PT_400e_85.1.pyth"),
        *(_videomae(*row, tuned=tuned) for row in _ZOO for tuned in (False, True)),
        *(_audiomae(tuned=tuned) for tuned in (False, True)),
    )
}


def weights_dir() -> Path:
    """Where published files are kept: $TOME_LIGHTNING_CACHE/weights or ~/.cache/…/weights."""
    root = os.environ.get("TOME_LIGHTNING_CACHE") or Path.home() / ".cache" / "tome_lightning"
    return Path(root).expanduser() / "weights"


def fetch(source: Source) -> Path:
    """The path of a source's file: the copy in `weights_dir()`, or a fresh download into it.

    Of several processes that ask for it one downloads, and the others wait for it; where it fails, so do
    they. The SHA-256 of a download is printed: of most files no more than six hex digits of an MD5 are
    published, for which a forged file is made in seconds, so that a lab has to pin its own.

    Raises:
        CheckpointError: the file has another hash than the published one, or the download
            failed; says then where to put a copy by hand.
    """
    path = weights_dir() / source.file
    if path.is_file():
        return _checked(path, source)
    if source.url is None:
        raise CheckpointError(
            f"{source.name} has no address to download from: {_by_hand(path, source)}"
        )
    locks = weights_dir().parent / "locks"  # beside the weights: that folder holds nothing else
    failure = locks / f"{source.file}.failed"
    with one_at_a_time(locks / f"{source.file}.lock") as waited:
        if not path.is_file():
            if waited and failure.is_file():  # 64 processes would sit through as many time-outs
                raise CheckpointError(failure.read_text(encoding="utf-8"))
            return _download_or_note(path, source, failure)
    return _checked(path, source)  # not one at a time


def _download_or_note(path: Path, source: Source, failure: Path) -> Path:
    """Download, or leave word for those that wait why not."""
    with contextlib.suppress(OSError):
        failure.unlink()
    try:
        return _download(path, source)
    except CheckpointError as error:
        with contextlib.suppress(OSError):
            failure.write_text(str(error), encoding="utf-8")
        raise


def _download(path: Path, source: Source) -> Path:
    assert source.url is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: where there are no locks the last rename wins.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / source.file
            torch.hub.download_url_to_file(source.url, str(part), progress=sys.stderr.isatty())
            fault = _fault(part, source)
            if fault:
                raise CheckpointError(
                    f"{source.url} gave another file than the published {source.name}: {fault}, so it "
                    f"was not kept: try again, or {_by_hand(path, source)}"
                )
            got = _digest(part, "sha256")
            os.replace(part, path)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f"{source.name} could not be downloaded from {source.url} ({error}): {_by_hand(path, source)}"
        ) from error
    print(f"{source.name}: sha256 {got} ({_protection(source)})", file=sys.stderr)
    return path


def _checked(path: Path, source: Source) -> Path:
    if fault := _fault(path, source):
        raise CheckpointError(
            f"{path} is not the published {source.name}: {fault}: delete it, or load it by its "
            "path if it is meant"
        )
    return path


def _by_hand(path: Path, source: Source) -> str:
    hub = f", or take hf-hub:{source.hub} instead" if source.hub else ""
    return f"put {source.file} at {path} (from {source.how}){hub}"


def _fault(path: Path, source: Source) -> str:
    """In what a file's hash differs from the published one; empty if in nothing."""
    if source.sha256 and (got := _digest(path, "sha256")) != source.sha256:
        return f"it has sha256 {got}, the published one is {source.sha256}"
    if source.md5 and not (got := _digest(path, "md5")).startswith(source.md5):
        return f"it has md5 {got}, the published one starts with {source.md5}"
    return ""


def _protection(source: Source) -> str:
    if source.sha256:
        return "as published"
    known = f"the first {len(source.md5)} digits of its MD5" if source.md5 else "no hash of it"
    return f"{known} is all that is published, which is no protection against a forged file"


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(kind, usedforsecurity=False)
        ).hexdigest()
