"""A merging model as a torch.export program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tome_lightning.commands.export.check import Difference, Probe, compare
from tome_lightning.tome import ToMeViT

ABOUT = "tome_lightning.json"  # the extra file in the archive


def trace(
    model: nn.Module, shape: Sequence[int], batch: int | None
) -> torch.export.ExportedProgram:
    """One graph of a model in evaluation mode.

    Args:
        model: At the r it is to have for good.
        shape: Of one sample.
        batch: Samples of a batch; ``None`` for any number.
    """
    example = torch.zeros(batch or 2, *shape)  # 2: a size of 1 would be taken for a constant
    dynamic = None if batch else ({0: torch.export.Dim("batch")},)
    with torch.no_grad():
        program = torch.export.export(model, (example,), dynamic_shapes=dynamic)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # folders of this machine
    return program


def write_program(
    model: ToMeViT, shape: Sequence[int], batch: int | None, about: dict[str, Any], file: Path
) -> None:
    """Write the model, ``tome.ToMeViT`` as it is, for ``torch.export.load``.

    It is traced on the CPU; ``torch.export.passes.move_to_device_pass`` takes it to a GPU.

    Args:
        model, shape, batch: See `trace`.
        about: Plain values that go with it, as the extra file ``tome_lightning.json``.
        file: Ends in ``.pt2``.
    """
    program = trace(model, shape, batch)
    program.example_inputs = None  # a batch of zeros, as large as a batch is
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(about)})


def check_program(file: Path, probes: Sequence[Probe]) -> Difference:
    """Load the program and compare its logits with the model's.

    Raises:
        ExportMismatchError: If they differ by more than rounding explains.
    """
    module = torch.export.load(file).module()

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(x)
        return logits

    return compare(run, probes)
