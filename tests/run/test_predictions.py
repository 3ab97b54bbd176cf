"""`predict` writes one table in one directory, whatever has started its processes."""

import csv
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.run import predictions
from tome_lightning.run.predictions import PredictionWriter
from tome_lightning.run.record import RUN_DIR_VARIABLE, make_run_dir
from tome_lightning.trainer.claim import release
from tome_lightning.trainer.ranks import rank

from ..runs.kill_and_resume import write_some_digits
from ..runs.processes import process

SECOND = {  # what launchers tell the second of two processes
    "torchrun": {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
    "torchrun on two nodes": {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "0"},
    "srun": {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
    "mpirun": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
    "MPICH's mpirun": {"PMI_SIZE": "2", "PMI_RANK": "1"},
    "jsrun": {"JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_RANK": "1"},
    "another": {"RANK": "1", "WORLD_SIZE": "2"},
}


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_", "JSM_")):
            monkeypatch.delenv(name)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", RUN_DIR_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    yield
    release()


def trainer_of(first: Path, process: int) -> Any:
    """One process of two; the first one's directory is broadcast."""
    strategy = SimpleNamespace(broadcast=lambda own: str(first.absolute()), barrier=lambda: None)
    return SimpleNamespace(
        strategy=strategy, world_size=2, global_rank=process, is_global_zero=process == 0
    )


def predict(writer: PredictionWriter, trainer: Any, ids: list[int], monkeypatch: Any) -> None:
    module = SimpleNamespace(task=SimpleNamespace(num_classes=3), class_names=["ant", "bee", "cat"])
    monkeypatch.setattr(predictions, "as_finetune", lambda given: given)
    writer.on_predict_start(trainer, module)
    scores = torch.eye(3)[torch.tensor(ids) % 3]
    writer.on_predict_batch_end(
        trainer, module, {"id": torch.tensor(ids), "scores": scores}, None, 0
    )


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", SECOND)
def test_all_processes_write_into_the_directory_of_the_first(launcher, monkeypatch):
    for expected in ("runs/x/predict/0", "runs/x/predict/1"):
        with (
            monkeypatch.context() as patch
        ):  # the environment is this process's, one after the other
            first = make_run_dir(None, "x", False, verb="predict")
            assert first == Path(expected)
            writer, trainer = PredictionWriter(first), trainer_of(first, 0)
            predict(writer, trainer, [0, 2], patch)
            patch.delenv(RUN_DIR_VARIABLE)  # which only processes that Lightning starts inherit
            for name, value in SECOND[launcher].items():
                patch.setenv(name, value)
            assert rank() == 1
            other = PredictionWriter(make_run_dir(None, "x", False, verb="predict"))
            predict(other, trainer_of(first, 1), [1, 3], patch)
        sizes = [one.path.stat().st_size for one in (writer, other)]
        monkeypatch.setattr(predictions, "of_all", lambda mine, sizes=sizes: sizes)
        other.on_predict_end(trainer_of(first, 1), None)
        writer.on_predict_end(trainer, None)
        rows = rows_of(first / "predictions.csv")
        assert [(row["id"], row["class1"]) for row in rows] == [
            ("0", "ant"), ("1", "bee"), ("2", "cat"), ("3", "ant"),
        ]  # fmt: skip
    assert sorted(str(path) for path in Path("runs").rglob("*.csv")) == [
        f"runs/x/predict/{n}/predictions.csv" for n in (0, 1)
    ]


def test_a_table_of_an_earlier_run_in_the_directory_is_replaced(monkeypatch, tmp_path):
    for _ in range(2):
        writer, trainer = PredictionWriter(tmp_path), trainer_of(tmp_path, 0)
        trainer.world_size = 1
        predict(writer, trainer, [0, 1], monkeypatch)
        writer.on_predict_end(trainer, None)
    assert [row["id"] for row in rows_of(tmp_path / "predictions.csv")] == ["0", "1"]


def test_a_process_that_does_not_see_the_directory_ends_the_run_before_it_starts(monkeypatch):
    """A machine without the disk: nothing is predicted for hours that cannot be put together."""
    writer = PredictionWriter(Path("runs/x/predict"))
    with pytest.raises(
        UsageError, match=r"process 0 on .* does not see the run directory .*nowhere"
    ):
        predict(writer, trainer_of(Path("nowhere"), 1), [1], monkeypatch)
    assert not Path("nowhere").exists()


def test_an_interrupted_run_names_the_parts_of_all(monkeypatch, tmp_path, caplog):
    writer, trainer = PredictionWriter(tmp_path), trainer_of(tmp_path, 0)
    predict(writer, trainer, [0], monkeypatch)
    told = []
    monkeypatch.setattr(predictions, "rank_zero_info", told.append)
    writer.on_exception(trainer, None, KeyboardInterrupt())
    assert told == [f"Predictions so far: {tmp_path}/predictions.*.csv, a file each process"]


def test_scores_are_not_kept_beside_the_table(tmp_path, monkeypatch):
    """Lightning would return those of all samples: 5 kB each of 1,000 classes and more."""
    from lightning.pytorch import Trainer

    asked = {}
    monkeypatch.setattr(Trainer, "predict", lambda self, *_, **given: asked.update(given))
    words = ["predict", "--recipe=quickstart", "--trainer.accelerator=cpu", "--model.vit.depth=1"]
    assert main(words) == 0
    assert asked["return_predictions"] is False
    assert main([*words, "--return_predictions=true"]) == 2


@pytest.mark.slow
def test_two_processes_of_torchrun_write_one_table_in_the_order_of_the_data(tmp_path):
    root, log = tmp_path / "data", tmp_path / "log"
    write_some_digits(root, {"train": 1, "val": 4})
    files = sorted(root.glob("val/*/*.png"))
    files.pop(0).unlink()  # 39: the last batch of the second process is filled up
    files[19].write_text("no image")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "tome_lightning", "predict", "--recipe=quickstart", f"--data.root={root}",
        "--data.eval_batch_size=5", "--model.vit.depth=1", "--model.vit.embed_dim=24",
        "--data.num_workers=0", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.devices=2", "--trainer.strategy=ddp",
    ]  # fmt: skip
    with process(command, log) as child:
        assert child.wait(200) == 0, log.read_text()[-4000:]
    assert log.read_text().count("Predictions: runs/quickstart/predict/0/predictions.csv") == 1
    assert [str(path) for path in Path("runs").rglob("*.csv")] == [
        "runs/quickstart/predict/0/predictions.csv"
    ]
    rows = rows_of(Path("runs/quickstart/predict/0/predictions.csv"))
    readable = [(str(i), str(file)) for i, file in enumerate(files) if i != 19]
    assert [(row["id"], row["file"]) for row in rows] == readable
