"""Every verb on one, two and four processes, with ragged ends: what each of them finds, as JSON.

``python -m tests.runs.every_verb FOLDER``. One process imports torch and forks the others, which
use their group for all verbs. ``<processes>.<rank>.json`` is what each one measured. Then two nodes
have lists of which the second one's are a file short, by way of the command line: exit codes
(``uneven.<rank>.json``) and what was printed (``uneven.<rank>.log``).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from lightning.pytorch import Trainer, seed_everything

from datamodules import Digits
from tome_lightning import FineTune, Image, SingleLabel
from tome_lightning.__main__ import main as command_line

from .kill_and_resume import write_some_digits
from .processes import free_port, torchrun_variables

TRAIN, VAL = 47, 23  # samples: no multiple of anything
BATCH = 8  # of all processes together
VERBS = ("fit", "validate", "test", "predict")


def write_ragged(root: Path, less: int = 0) -> Path:
    """`TRAIN` and `VAL` digits, without the last ones."""
    write_some_digits(root, {"train": 5, "val": 3})
    for split, count in (("train", TRAIN), ("val", VAL)):
        for file in sorted(root.glob(f"{split}/*/*.png"))[count - less :]:
            file.unlink()
    return root


def join(rank: int, processes: int, port: int, nodes: int = 1) -> None:
    """Make this process one that torchrun has started."""
    torch.set_num_threads(1)
    os.environ |= torchrun_variables(rank, processes, port, nodes)


def all_verbs(rank: int, processes: int, port: int, folder: Path) -> None:
    """Fit, validate, test and predict, one after another, and write down what came out."""
    if processes > 1:
        join(rank, processes, port)
    seed_everything(0)
    model = FineTune(
        Image(size=28, patch=4, channels=1), SingleLabel(num_classes=10),
        vit={"embed_dim": 24, "depth": 2, "num_heads": 2, "global_pool": "avg"}, r=4, lr=1e-3,
        warmup_epochs=1, head_init_std=0.1,
    )  # fmt: skip
    data = Digits(
        str(folder / "data"), batch_size=BATCH // processes, eval_batch_size=5, num_workers=0
    )
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=2,
        precision="64-true",  # sums in another order then differ by less than anything else would
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    seed_everything(0)  # as Lightning does for several processes, before the head is drawn
    trainer.fit(model, data)
    found: dict[str, Any] = {"steps": trainer.global_step}
    found["fit"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    del found["fit"]["train/loss"]  # of this process's share
    found["weights"] = [float(p.detach().double().norm()) for p in model.parameters()]
    (found["validate"],) = trainer.validate(model, data, verbose=False)
    (found["test"],) = trainer.test(model, data, verbose=False)
    batches = trainer.predict(model, data) or []
    found["predict"] = {
        int(one): scores.tolist()
        for batch in batches
        for one, scores in zip(batch["id"], batch["scores"], strict=True)
    }
    (folder / f"{processes}.{rank}.json").write_text(json.dumps(found))


def uneven(rank: int, processes: int, port: int, folder: Path) -> None:
    """Every verb from the command line, on nodes of one process each."""
    join(rank, processes, port, nodes=processes)
    words = [
        "--recipe=quickstart", f"--data.root={folder / f'data{rank}'}", "--data.batch_size=2",
        "--model.vit.embed_dim=24", "--model.vit.depth=2", "--trainer.accelerator=cpu",
        "--trainer.strategy=ddp", f"--trainer.num_nodes={processes}", "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    codes = {}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / f"uneven.{rank}.log").open("w"))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        for verb in VERBS:
            codes[verb] = command_line([verb, *words, f"--run_dir={folder / verb}"])
    (folder / f"uneven.{rank}.json").write_text(json.dumps(codes))


def main(folder: Path) -> None:
    write_ragged(folder / "data")
    for rank, less in enumerate((0, 1)):
        shutil.copytree(folder / "data", folder / f"data{rank}")
        write_ragged(folder / f"data{rank}", less)
    for run, processes in ((all_verbs, 1), (all_verbs, 2), (all_verbs, 4), (uneven, 2)):
        # fork: each would import torch and Lightning again, for longer than all the rest takes
        given = (processes, free_port(), folder)
        mp.start_processes(run, given, nprocs=processes, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
