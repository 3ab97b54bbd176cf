"""Whether a recipe can run here: its options, model, weights, data, devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tome_lightning.commands.doctor.findings import Finding, broken, ok, survive, warning
from tome_lightning.commands.doctor.machine import AUDIO, VIDEO
from tome_lightning.run.failures import users_mistake
from tome_lightning.screen import quiet

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules.base import LabelledData


def check_recipe(words: Sequence[str]) -> tuple[list[Finding], str]:
    """Look at all that ``fit`` would look at before its first step, without running it.

    Args:
        words: ``--recipe NAME`` and further options, as for fit.

    Returns:
        The findings, and which kind of run it is: ``video``, ``audio`` or empty.
    """
    with quiet():
        return _check(list(words))


def _check(words: list[str]) -> tuple[list[Finding], str]:
    try:
        plan = _plan(words)
    except Exception as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        return [
            broken("recipe", " ".join(str(mistake).split()), "correct the option or the recipe")
        ], ""
    found = [ok("recipe", f"{plan.recipe}: its options are valid")]
    for what, check in (
        ("model", _model),
        ("weights", _weights),
        ("data", _data),
        ("trainer", _trainer),
    ):
        found += survive(what, partial(check, plan))
    kind = type(plan.model.input).__name__
    return found, {"Clip": VIDEO, "Spectrogram": AUDIO}.get(kind, "")


def _plan(words: list[str]) -> Any:
    """The command line of ``fit``, parsed, with the model on the meta device."""
    import torch

    from tome_lightning.cli import ToMeCLI
    from tome_lightning.finetune import FineTune

    def without_memory(kind: type[FineTune], /, **options: Any) -> FineTune:
        with torch.device("meta"):  # no memory, no time for a ViT-H
            return kind(**options)

    class Plan(ToMeCLI):
        """All that ``fit`` makes of a command line, but a trainer and a run directory."""

        def before_instantiate_classes(self) -> None:
            pass

        def instantiate_classes(self) -> None:
            # the model alone: the data's own tensors have to hold numbers
            models = [(without_memory, FineTune, False)]
            made = self.parser.instantiate(self.config, instantiators=models)
            self.trainer_options = self.config[self.subcommand].trainer
            self.datamodule = self._get(made, "data")
            self.model = self._get(made, "model")

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    return Plan(["fit", *words])


def _model(plan: Any) -> Iterator[Finding]:
    from tome_lightning.finetune import FineTuneError
    from tome_lightning.tome import PlanError

    try:
        plan.model.follow(plan.datamodule)
    except (FineTuneError, PlanError) as error:
        yield broken("model", str(error), "set model and data to values that fit")
        return
    model = plan.model.model
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    left = model.num_tokens - sum(model.plan())
    words = f"{parameters:.1f} M parameters, {model.num_tokens} -> {left} tokens at r={model.r}"
    yield ok("model", words)


def _weights(plan: Any) -> Iterator[Finding]:
    import checkpoints
    from checkpoints import SOURCES, hub
    from checkpoints.sources import weights_dir
    from tome_lightning.inputs.preprocessing import difference

    name, vit = plan.model.hparams["checkpoint"], plan.model.vit
    if name is None:
        yield ok("weights", "random, as the recipe says")
        return
    if hub.is_hub_name(name) and hub.cached(name) is None:
        remedy = (
            f"the run fetches it; without a network: hf download {hub.parse(name)[0]}, elsewhere"
        )
        yield warning("weights", f"{name} is not in the Hub's cache on this machine", remedy)
        return
    source = SOURCES.get(name)
    kept = weights_dir() / source.file if source else Path(name).expanduser()
    if source is not None and not kept.is_file():
        if source.url is None:
            remedy = f"put {source.file} at {kept} (from {source.how})"
            yield warning("weights", f"{name} has to be fetched by hand before the run", remedy)
            return
        remedy = f"the run fetches it; without a network put it at {kept}"
        yield warning("weights", f"{name} is not here yet: {source.url}", remedy)
        return
    try:
        identity = checkpoints.identify(name)
    except checkpoints.CheckpointError as error:
        yield broken("weights", str(error), "name another with --model.checkpoint")
        return
    if words := difference(name, identity.preprocessing, plan.datamodule):
        yield warning("samples", words, "the named options, unless the difference is meant")
    size, ours = (identity.depth, identity.width), (len(vit.blocks), vit.embed_dim)
    if size != ours:
        words = f"{name} has {size[0]} blocks of {size[1]}, the model {ours[0]} of {ours[1]}"
        yield broken("weights", words, "choose weights of the model's size")
    elif kept.exists() or hub.is_hub_name(name):
        yield ok(
            "weights", f"{name if source is None else kept}: {identity.family}, {identity.kind}"
        )
    else:
        words = f"{name}: timm fetches it from its hub unless it is in its cache"
        yield warning("weights", words, "start the run once where there is a network")


def _data(plan: Any) -> Iterator[Finding]:
    from datamodules.base import DataError, LabelledData
    from tome_lightning.tasks import TaskError

    data, module = plan.datamodule, plan.model
    try:
        data.prepare_data()
        data.setup("fit")
        if hasattr(data, "num_classes"):
            module.task.check(data.num_classes, data.batch_size)
        shape = getattr(data, "sample_shape", None)
        if shape not in (None, module.input.shape) and not module.vit.dynamic_img_size:
            words = f"samples are {shape}, the model reads {module.input.shape}"
            yield broken("data", words, "set model.input and data to the same values")
            return
        if not isinstance(data, LabelledData):
            yield ok("data", f"{type(data).__name__} is set up")
            return
        counts = ", ".join(f"{split} {len(data.samples(split)):,}" for split in ("train", "val"))
        first = {split: _first_batch(data, split) for split in ("train", "val")}
        shape = tuple(first["val"].shape[1:])
    except (DataError, TaskError) as error:
        yield broken(
            "data", str(error), "name the data with --data.root DIR; see recipes show NAME"
        )
        return
    yield ok("data", f"{type(data).__name__}: {counts} samples; the first is read: {shape}")


def _first_batch(data: LabelledData, split: str) -> Tensor:
    """The first sample alone in a batch, as the model would be given it."""
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    x, _, ids = loader.collate_fn([data.samples(split)[0]])
    return data.prepare(x, ids if split == "train" else None)


def _trainer(plan: Any) -> Iterator[Finding]:
    import torch

    from tome_lightning.run.preflight import slow_in_half_precision

    options, module = plan.trainer_options, plan.model
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if options.accelerator in ("gpu", "cuda") and not gpus:
        yield broken(
            "trainer", "the recipe wants GPUs, torch sees none", "--trainer.accelerator auto"
        )
        return
    asked = options.devices
    count = len(asked) if isinstance(asked, list) else int(asked) if str(asked).isdigit() else 0
    if gpus and count > gpus and options.accelerator != "cpu":
        remedy = f"--trainer.devices {gpus}"
        yield broken("trainer", f"{count} devices asked for, {gpus} there", remedy)
        return
    processes = (count or gpus or 1) * int(options.num_nodes)
    many = "1 process" if processes == 1 else f"{processes} processes"
    data = plan.datamodule
    batch = getattr(data, "batch_size", 0) * getattr(data, "repeat_aug", 1)
    batch *= processes * int(options.accumulate_grad_batches)
    if slow_in_half_precision(options):
        words = f"precision {options.precision} is slow on this CPU: the run takes 32-true instead"
        yield warning("trainer", words, "nothing to do, or another machine")
    wanted = module.hparams["effective_batch"]
    if wanted and batch and batch != wanted:
        words = f"{many} would make steps of {batch} samples; the recipe's have {wanted}"
        yield warning("trainer", words, "--keep_effective_batch")
    else:
        yield ok("trainer", f"{many}, steps of {batch or '?'} samples")
