"""What goes from the host to the device at each step."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tome_lightning import Clip, FineTune, Image, MultiLabel, SingleLabel, Spectrogram
from tome_lightning.trainer.agreement import Agreement, to_device
from tome_lightning.trainer.saving import SaveLast

CUDA = torch.device("cuda")
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}


class Copies(TorchDispatchMode):
    """Notes each copy from the host to a CUDA device, and whether the host goes on meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        sources = [value for value in tree_leaves(args) if isinstance(value, Tensor)]
        name = op._schema.name
        copies = name in ("aten::_to_copy", "aten::copy_")
        if copies and out.is_cuda and not sources[-1].is_cuda:
            self.seen.append((name, bool((kwargs or {}).get("non_blocking"))))
        return out


def test_numbers_reach_a_cuda_device_from_pinned_memory_alone(monkeypatch):
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    with FakeTensorMode(), Copies() as copies:
        sent = to_device([15, True], CUDA)
    assert (sent.device.type, sent.dtype, sent.shape) == ("cuda", torch.float32, (2,))
    assert len(pinned) == 1
    assert copies.seen == [("aten::_to_copy", True)]


def test_a_step_s_question_whether_to_stop_or_save_waits_for_no_copy(monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(Agreement, "exchange", lambda self, numbers: [0.0] * len(numbers))
    with FakeTensorMode(), Copies() as copies:
        assert SaveLast()._agreed(CUDA) == [0, 0]
    assert copies.seen == [("aten::_to_copy", True)]


def test_elsewhere_nothing_is_pinned():
    assert to_device([15, True], torch.device("cpu")).tolist() == [15.0, 1.0]


def _on_cuda(module: FineTune) -> FineTune:
    """Its weights as fake CUDA tensors."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                part._parameters[name] = torch.nn.Parameter(fake, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
    return module


@pytest.mark.parametrize(
    ("read", "task"),
    [
        (Image(size=32, patch=8), SingleLabel(4, mixup=0.8, cutmix=1.0, smoothing=0.1)),
        (Clip(size=16, patch=8, frames=4), SingleLabel(4, mixup=0.8, mix_prob=0.5)),
        (Spectrogram(frames=64, mels=32, mask_time=0.2, mask_freq=0.25), MultiLabel(4)),
    ],
    ids=["image", "video", "audio"],
)
def test_a_training_loss_copies_nothing_from_the_host(read, task):
    """Neither r, sizes and classes nor the draws of mixup, drop path and masking."""
    module = FineTune(read, task, VIT, r=2, prop_attn=True).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(4, *read.shape, device=CUDA)
        y = torch.empty(4, 4, device=CUDA)
        y = y if task.multi_label else torch.empty(4, dtype=torch.long, device=CUDA)
        _on_cuda(module)
        with Copies() as copies:
            assert module.loss(x, y).is_cuda
            assert copies.seen == []
            torch.tensor(1.0, device=CUDA)  # what would be seen
        assert copies.seen == [("aten::_to_copy", False)]
