"""Multi-view evaluation: every sample counts once, on any number of processes."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from tome_lightning.tasks import SingleLabel

from .processes import run_forks

K = 5

# Nine videos on two processes: the second one's last batch is another's video, repeated. Video 4 has
# no readable file.
SCRIPT = """
import sys
import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from tome_lightning import Clip, FineTune, SingleLabel

devices, out = int(sys.argv[1]), sys.argv[2]
generator = torch.Generator().manual_seed(1)
videos = torch.randn(9, 6, 3, 4, 16, 16, generator=generator)
labels = torch.tensor([0, 1, 2, 3, -1, 0, 1, 2, 3])


class Data(LightningDataModule):
    num_classes, class_names, batch_size, sample_shape = 5, list("abcde"), 2, (3, 4, 16, 16)

    def test_dataloader(self):
        data = TensorDataset(videos, labels, torch.arange(9))
        sampler = DistributedSampler(data, devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size=self.batch_size, sampler=sampler)

    predict_dataloader = test_dataloader


torch.manual_seed(0)
module = FineTune(
    Clip(4, 16, patch=8), SingleLabel(5), vit={"embed_dim": 16, "depth": 2, "num_heads": 2}, r=2
)
torch.nn.init.normal_(module.vit.head.weight)
trainer = Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    precision="64-true", use_distributed_sampler=False,
)
(metrics,) = trainer.test(module, datamodule=Data(), verbose=False)
rows = [row["id"] for row in trainer.predict(module, datamodule=Data())]
with torch.no_grad():
    module.double().eval()
    logits = torch.stack([module(videos[:, v].double()) for v in range(6)], dim=1)
if trainer.is_global_zero:
    torch.save({"metrics": metrics, "logits": logits, "ids": torch.cat(rows)}, out)
"""


def run(devices: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    script, out = folder / "evaluate.py", folder / f"{devices}.pt"
    script.write_text(SCRIPT)
    if devices == 1:
        monkeypatch.setattr(sys, "argv", [str(script), "1", str(out)])
        runpy.run_path(str(script), run_name="__main__")
    else:
        run_forks([sys.executable, str(script), str(devices), str(out)], devices, folder)
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_metrics_are_of_unique_videos_on_one_process_and_on_two(tmp_path, monkeypatch):
    one, two = (run(n, tmp_path, monkeypatch) for n in (1, 2))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    readable = [0, 1, 2, 3, 5, 6, 7, 8]
    probabilities = one["logits"].softmax(dim=-1).mean(dim=1)[readable]
    hits = probabilities.argmax(dim=1) == labels
    assert 0 < hits.sum() < 8  # else the numbers below would say little
    for result in (one, two):
        assert result["metrics"]["test/samples"] == 8
        assert result["metrics"]["test/top1"] == pytest.approx(hits.double().mean().item())
        loss = -probabilities.gather(1, labels[:, None]).log().mean().item()
        # kept in float32 by the metric
        assert result["metrics"]["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert one["ids"].tolist() == readable
    assert two["ids"].tolist() == [0, 2, 6, 8]  # of the first process; 4 cannot be read


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_task_averages_the_probabilities_of_views(dtype):
    logits = (3 * torch.randn(4, 6, K)).to(dtype)
    scores = SingleLabel(K).scores(logits).exp()
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, logits.float().softmax(dim=-1).mean(dim=1))
