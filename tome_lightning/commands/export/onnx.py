"""A merging model as ONNX, with the matching inside."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tome_lightning.commands.export.check import Difference, Probe, compare
from tome_lightning.commands.export.program import trace
from tome_lightning.errors import UsageError
from tome_lightning.screen import quiet
from tome_lightning.tome import ToMeViT
from tome_lightning.tome.static import MergedForInference

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSETS = (18, 23)  # the oldest and the newest that torch writes
IR_VERSION = 10  # of the files that torch writes
ONE_FILE = 1_900_000_000  # bytes of weights; a protobuf ends at 2 GiB
INPUT, OUTPUT = "x", "logits"


def check_packages() -> None:
    """Refuse to begin where packages that ONNX needs are missing.

    Raises:
        UsageError: With the command that installs it.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX needs {', '.join(missing)}, not installed here: "
            'pip install "tome_lightning[export]"'
        )


def check_opset(opset: int | None) -> int:
    """The opset to write; by default the newest that torch writes and ONNX Runtime here runs.

    Raises:
        UsageError: For one that is not written.
    """
    first, last = OPSETS
    if opset is None:
        return next((number for number in range(last, first, -1) if _runs(number)), first)
    if not first <= opset <= last:
        raise UsageError(f"--opset is {first} to {last}, got {opset}. Or leave it out.")
    if not _runs(opset):
        raise UsageError(
            f"The ONNX Runtime installed here does not run opset {opset}, so the file could not be "
            "checked. Leave --opset out, or install a newer onnxruntime."
        )
    return opset


def _runs(opset: int) -> bool:
    """Whether the ONNX Runtime that is installed takes models of an opset."""
    from onnx import TensorProto, helper

    onnxruntime = import_module("onnxruntime")  # has no types
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab")
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "same", [a], [b])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # silent
    try:
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # ONNX Runtime's own, which have no base in common
        return False
    return True


def write_onnx(
    model: ToMeViT,
    shape: Sequence[int],
    batch: int | None,
    about: dict[str, Any],
    file: Path,
    *,
    opset: int | None = None,
    scatter: bool = True,
) -> None:
    """Write the model at its present r: input ``x``, output ``logits``, both float32.

    Weights of 1.9 GB and more go to a second file, named like the first with ``.data`` added.

    Args:
        model: In evaluation mode.
        shape: Of one sample.
        batch: Samples of a batch; ``None`` for any number.
        about: Plain values that go with it, as JSON in the file's ``metadata_props``.
        file: Where to.
        opset: See `check_opset`.
        scatter: See `MergedForInference`.

    Raises:
        UsageError: If packages are missing, or for an opset that is not written.
    """
    check_packages()
    opset = check_opset(opset)
    # the exporter and the rewriter tell of themselves
    talkative = quiet("torch.onnx", "onnxscript", "onnx_ir", most=logging.ERROR)
    with talkative, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = trace(MergedForInference(model, scatter).eval(), shape, batch)
        program: Any = torch.onnx.export(
            traced, dynamo=True, opset_version=opset, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_shapes=None if batch else ({0: "batch"},), verbose=False,
        )  # fmt: skip
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where in which source it was traced
        program.model.metadata_props["tome_lightning"] = json.dumps(about)
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        program.save(str(file), external_data=size > ONE_FILE)


def check_onnx(file: Path, probes: Sequence[Probe]) -> Difference:
    """Run the file in ONNX Runtime, on the CPU, and compare its logits with the model's.

    Raises:
        ExportMismatchError: If they differ by more than rounding explains.
    """
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: x.numpy()})[0])

    return compare(run, probes)
