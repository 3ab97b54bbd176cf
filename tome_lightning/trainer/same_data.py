"""All processes of a run have the same data, or none goes on."""

from __future__ import annotations

import hashlib
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import DataError, LabelledData
from datamodules.workers import cores_of_each, usable_cores
from tome_lightning.errors import UserError
from tome_lightning.trainer.agreement import of_all

FEW = 4  # places that a message names
BOOT = Path("/proc/sys/kernel/random/boot_id")  # of a machine; many containers have one host name


class SharedDataError(DataError, UserError):
    """A mistake in the data that all processes of a run have found out, and end with."""

    of_all = True


class Account(NamedTuple):
    """What a process has set up.

    Attributes:
        place: Its node, in words.
        facts: What has to be the same on all processes, by name.
        fault: Why it could set up nothing; empty if it could.
        known: Whether that is a user's mistake, which needs no traceback.
    """

    place: str
    facts: Mapping[str, str]
    fault: str = ""
    known: bool = True


def set_up_together(module: LightningModule) -> None:
    """Have the data module's next `setup` compare its outcome over all processes, for every verb.

    For `configure_callbacks`: the last hook of a run before the data is set up.
    """
    data = getattr(module.trainer, "datamodule", None)
    if data is not None and module.trainer.world_size > 1:
        data.setup = _Together(module.trainer, data)


class _Together:
    """Takes the place of a data module's `setup` for one call."""

    def __init__(self, trainer: Trainer, data: LightningDataModule) -> None:
        self.trainer = trainer
        self.data = data

    def __call__(self, stage: str) -> None:
        del self.data.setup  # the class's own is back: a user who calls it calls it on one process
        if not torch.distributed.is_initialized():
            self.data.setup(stage)
            return
        share_cores(self.data)
        place = f"node {self.trainer.node_rank} ({socket.gethostname()})"
        error: Exception | None = None
        try:
            self.data.setup(stage)
            account = Account(place, facts_of(self.data))
        except Exception as fault:
            error = fault
            account = Account(place, {}, _in_words(fault), isinstance(fault, DataError))
        compare(of_all(account), error)


def facts_of(data: LightningDataModule) -> dict[str, str]:
    """What of a data module that is set up has to be the same on all processes, in words."""
    if not isinstance(data, LabelledData):
        return {}
    names = "\n".join(data.class_names).encode(errors="surrogateescape")
    digest = hashlib.sha256(names).hexdigest()[:16]
    splits = {
        f"the {split} split": f"{len(data.samples(split))} samples (list {listed})"
        for split, listed in data.facts()["lists"].items()
    }
    return {
        "the list of classes": f"{data.num_classes} classes (list {digest})",
        **splits,
        "data.batch_size": str(data.batch_size),
        "data.eval_batch_size": str(data.eval_batch_size),
    }


def compare(accounts: Sequence[Account], error: Exception | None = None) -> None:
    """End all processes if one of them could not set up its data, or set up other data than the rest.

    Args:
        accounts: Of all processes in the order of their ranks.
        error: What the set-up of this process has raised.

    Raises:
        SharedDataError: The one line that the first process tells.
        SystemExit: With 1, where another process raises what is no user's mistake.
        Exception: `error` itself, if it is none.
    """
    failed = {rank: account for rank, account in enumerate(accounts) if account.fault}
    if any(not account.known for account in failed.values()):
        raise error or SystemExit(1)  # the process that it happened on shows the traceback
    if failed:
        rank, first = next(iter(failed.items()))
        where = "" if len(failed) == len(accounts) else f"process {rank} of {first.place}: "
        raise SharedDataError(f"{where}{first.fault}") from error
    for name in accounts[0].facts:
        values = [account.facts.get(name, "nothing") for account in accounts]
        if len(set(values)) > 1:
            raise SharedDataError(
                f"{name} is not the same on all processes: {_where(values, accounts)}. Give all of them "
                "the same files, lists and options (data.root, data.exclude)."
            )


def share_cores(data: LightningDataModule) -> None:
    """Give a data module of ours its share of this machine's cores; every process has to call it."""
    if not isinstance(data, LabelledData):
        return
    machine = BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()
    masks = of_all((machine, usable_cores()))
    shares = [0] * len(masks)
    for one in {where for where, _ in masks}:
        ranks = [rank for rank, (where, _) in enumerate(masks) if where == one]
        for rank, cores in zip(ranks, cores_of_each([masks[r][1] for r in ranks]), strict=True):
            shares[rank] = cores
    data.cores = shares[torch.distributed.get_rank()]
    if len(set(shares)) > 1:
        fewest = shares.index(min(shares))
        rank_zero_warn(
            f"the processes have {min(shares)} to {max(shares)} cores each for their loaders, process "
            f"{fewest} the fewest: the slowest one sets the pace of all"
        )


def _where(values: Sequence[str], accounts: Sequence[Account]) -> str:
    """Each value and the nodes that have it, or their processes where those of a node differ."""
    on_node = defaultdict(set)
    for value, account in zip(values, accounts, strict=True):
        on_node[account.place].add(value)
    places: dict[str, list[str]] = {}
    for rank, (value, account) in enumerate(zip(values, accounts, strict=True)):
        divided = len(on_node[account.place]) > 1
        place = f"process {rank} of {account.place}" if divided else account.place
        named = places.setdefault(value, [])
        if place not in named:
            named.append(place)
    return "; ".join(f"{value} on {_some(named)}" for value, named in places.items())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
