"""Write a model for other programs, and check the file before it gets its name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

import checkpoints
from tome_lightning.arguments import nearest
from tome_lightning.commands.export import onnx
from tome_lightning.commands.export.architecture import architecture_of
from tome_lightning.commands.export.check import Difference, ExportMismatchError, Probe, draw_probe
from tome_lightning.commands.export.hub_folder import (
    check_hub_folder,
    check_plain,
    write_hub_folder,
)
from tome_lightning.commands.export.program import check_program, write_program
from tome_lightning.commands.export.transformers_folder import (
    check_transformers_folder,
    kind_of,
    write_transformers_folder,
)
from tome_lightning.commands.export.usage import how_to_load
from tome_lightning.commands.export.weights import check_weights, describe, write_weights
from tome_lightning.commands.loaded import LoadedModel, best_metrics, is_run_checkpoint, load_model
from tome_lightning.commands.outputs import check_output
from tome_lightning.errors import UsageError
from tome_lightning.tome import R, token_counts
from tome_lightning.trainer.checkpoint_file import read_header

FOLDER, HF_FOLDER = "timm-hub", "hf-folder"  # folders, which no suffix tells
FOLDERS = (FOLDER, HF_FOLDER)
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
SEEDS = (1, 2)  # of the random batches that a file is checked on


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        file: Where it is; ONNX of 1.9 GB and more has a second one, with ``.data`` added.
        format: safetensors, torch or onnx.
        mib: Size of all of it, in MiB.
        r: Tokens merged per block: in the graph, or, of safetensors, noted beside the weights.
        prop_attn: Likewise.
        tokens: That enter the first block and that leave the last one at that r.
        batch: Samples of a batch; ``None`` for any number.
        difference: Of its logits from the model's on random batches.
        averaged: Whether the weights are an average over training.
        licence: What is known of the weights' licence.
        usage: Python that loads it.
    """

    file: Path
    format: str
    mib: float
    r: R
    prop_attn: bool
    tokens: tuple[int, int]
    batch: int | None
    difference: Difference
    averaged: bool
    licence: str | None
    usage: list[str]

    def lines(self) -> list[str]:
        """What the verb prints."""
        merging = f"r={self.r}, {self.tokens[0]} -> {self.tokens[1]} tokens"
        merging += f", proportional attention {'on' if self.prop_attn else 'off'}"
        if self.format in ("safetensors", *FOLDERS):
            what = "the plain ViT's weights"
            merging = f"noted beside them: {merging}"
            library = "transformers'" if self.format == HF_FOLDER else "timm's own"
            against = f"loaded strictly into {library} model"
        else:
            what = "any batch size" if self.batch is None else f"batches of {self.batch}"
            against = "ONNX Runtime" if self.format == "onnx" else "torch.export.load"
            against = f"run by {against} on {len(SEEDS)} random batches"
        lines = [
            f"Wrote {self.file}: {self.mib:.1f} MiB, {what}",
            f"  {merging}",
            f"  {against}: largest difference {self.difference}",
        ]
        if self.averaged:
            lines.append("  averaged weights: the mean over training, not the last step's")
        if self.licence:
            lines.append(f"  licence: {self.licence}")
        return [*lines, "Load it:", *(f"    {line}" for line in self.usage)]


def export_model(
    out: str | Path,
    *,
    model: str | None = None,
    ckpt: str | Path | None = None,
    recipe: str | None = None,
    r: R | None = None,
    prop_attn: bool | None = None,
    img_size: int | None = None,
    random_weights: bool = False,
    weights: checkpoints.Which | None = None,
    format: str | None = None,
    batch_size: int | None = 1,
    scatter: bool = True,
    opset: int | None = None,
    force: bool = False,
) -> Exported:
    """Write a model as timm weights, as a torch.export program or as ONNX.

    The file is loaded and its logits compared with the model's before it gets its name: a file that
    is there has passed. ``x`` is float32 ``[B, *input.shape]``, normalised as in training; the result
    are logits ``[B, K]``. In a program and in ONNX r is fixed, as is the size of the input.

    Args:
        out: File to write, ``.safetensors``, ``.pt2`` or ``.onnx``; a new folder for ``timm-hub`` and
            ``hf-folder``.
        model, ckpt, recipe, r, prop_attn, img_size, random_weights, weights: As for
            ``tome_lightning.commands.loaded.load_model``.
        format: safetensors, torch, onnx; timm-hub: a folder that ``timm.create_model`` loads by
            ``local-dir:``, or hf-folder: one that transformers loads, dense, where it has such a model:
            both can be uploaded to the Hub. By default what the suffix says.
        batch_size: Samples of a batch; ``None`` for any number. Not for safetensors.
        scatter: ONNX only: False adds up merged tokens by a one-hot matrix, for runtimes without
            ScatterElements.
        opset: ONNX only: 18 to 23; by default the newest that runs here.
        force: Overwrite a file.

    Raises:
        UsageError: For a file that cannot be written, options that do not go together, or missing
            packages.
        ExportMismatchError: If the file computes something else than the model; none is left.
        CheckpointError, InputError, PlanError, UnsupportedModelError: As ``load_model``.
    """
    out = Path(out)
    kind = find_format(out, format)
    _check_options(kind, batch_size, scatter, opset)
    if kind in FOLDERS:
        check_new_folder(out)
    else:
        check_output(out, force)
    loaded = load_model(
        model, ckpt, recipe, r=r, prop_attn=prop_attn, img_size=img_size,
        random_weights=random_weights, weights=weights,
    )  # fmt: skip
    if loaded.no_head:
        raise UsageError(
            f"{ckpt or recipe} has no head for the classes of {recipe}, so random ones would be "
            "exported. Fine-tune it first, or export its features: --model NAME (timm's) --ckpt FILE."
        )
    architecture = architecture_of(loaded)
    about = describe(loaded, architecture)
    if kind == FOLDER:
        check_plain(architecture)
    theirs = kind_of(loaded) if kind == HF_FOLDER else None
    of_run = ckpt is not None and is_run_checkpoint(Path(ckpt))
    metrics = best_metrics(read_header(Path(str(ckpt)))) if of_run else {}

    def write(file: Path) -> Difference:
        if theirs is not None:
            file.mkdir()
            write_transformers_folder(loaded, theirs, about, metrics, file)
            return check_transformers_folder(loaded, theirs, file)
        if kind == FOLDER:
            file.mkdir()
            write_hub_folder(loaded, architecture, about, metrics, file)
            return check_hub_folder(loaded, architecture, file)
        if kind == "safetensors":
            write_weights(loaded, about, file)
            return check_weights(loaded, architecture, file)
        net, shape = loaded.model, loaded.shape
        if kind == "torch":
            write_program(net, shape, batch_size, about, file)
            return check_program(file, _probes(loaded, batch_size))
        onnx.write_onnx(net, shape, batch_size, about, file, opset=opset, scatter=scatter)
        return onnx.check_onnx(file, _probes(loaded, batch_size))

    mib, difference = _in_place(out, write, force)
    net = loaded.model
    return Exported(
        file=out, format=kind, mib=mib, r=net.r, prop_attn=net.prop_attn,
        tokens=_tokens(loaded), batch=batch_size, difference=difference,
        averaged=loaded.averaged, licence=about["licence"],
        usage=how_to_load(out, kind, loaded, architecture, batch_size),
    )  # fmt: skip


def find_format(out: Path, format: str | None = None) -> str:
    """The format of a file, which its suffix says: those who load it go by the suffix, too.

    Raises:
        UsageError: For an unknown one, or one that disagrees with ``format``.
    """
    if format in FOLDERS:
        return str(format)
    known = ", ".join(f"{suffix} ({name})" for name, suffix in SUFFIXES.items())
    if format is not None and format not in SUFFIXES:
        names = [*SUFFIXES, *FOLDERS]
        hint = nearest(format, names) or f"One of: {', '.join(names)}."
        raise UsageError(f"There is no format {format!r}. {hint}")
    of_suffix = {suffix: name for name, suffix in SUFFIXES.items()}.get(out.suffix.lower())
    if of_suffix is None:
        wanted = f"{out.stem}{SUFFIXES[format]}" if format else f"one that ends in {known}"
        raise UsageError(f"{out} says by its suffix no format that is written. Name {wanted}.")
    if format not in (None, of_suffix):
        raise UsageError(
            f"{out} is {of_suffix} by its suffix, not {format}. Leave --format out, or name a file "
            f"that ends in {SUFFIXES[str(format)]}."
        )
    return of_suffix


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that is there already, or cannot be made.

    Raises:
        UsageError: Says why.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already. Name a new folder.")
    if not folder.parent.is_dir():
        raise UsageError(
            f"{folder} cannot be written: there is no folder {folder.parent}. Make it first."
        )


def _check_options(kind: str, batch: int | None, scatter: bool, opset: int | None) -> None:
    if kind != "onnx" and (not scatter or opset is not None):
        option = "--no-scatter" if not scatter else "--opset"
        raise UsageError(f"{option} is for ONNX, and the file is {kind}. Leave it out.")
    if kind in ("safetensors", *FOLDERS) and batch != 1:
        raise UsageError("Weights have no batch size. Leave it out, or name a .pt2 or .onnx file.")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch-size is 1 or more, got {batch}. Any number: --dynamic-batch.")
    if kind == "onnx":
        onnx.check_packages()
        onnx.check_opset(opset)


def _probes(loaded: LoadedModel, batch: int | None) -> list[Probe]:
    batches = (batch, batch) if batch else (1, 3)
    shape = loaded.shape
    return [
        draw_probe(loaded.model, shape, size, seed)
        for size, seed in zip(batches, SEEDS, strict=True)
    ]


def _in_place(
    out: Path, write: Callable[[Path], Difference], force: bool
) -> tuple[float, Difference]:
    """Write beside the final place and move there what has passed: size in MiB, and what it passed."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            difference = write(Path(folder, out.name))
            files = sorted(Path(folder).iterdir())
            written = [file for file in Path(folder).rglob("*") if file.is_file()]
            (plain := Path(folder, "plain")).touch()
            for file in written:
                file.chmod(plain.stat().st_mode)  # safetensors lets nobody else read its files
            for file in files:
                target = out.with_name(file.name)
                check_new_folder(target) if file.is_dir() else check_output(target, force)
            mib = sum(file.stat().st_size for file in written) / 2**20
            for file in files:
                os.replace(file, out.with_name(file.name))
    except ExportMismatchError as error:
        raise ExportMismatchError(f"{error} {out} was not written.") from error
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{out} cannot be written: {reason}. Name another file.") from error
    return mib, difference


def _tokens(loaded: LoadedModel) -> tuple[int, int]:
    net = loaded.model
    counts = token_counts(net.plan(), net.num_tokens)
    return counts[0], counts[-1]
