"""``fit --help`` and its like: the options that most runs need, without importing anything heavy."""

from __future__ import annotations

from tome_lightning.screen import columns

Rows = tuple[tuple[str, str], ...]

_WHAT: Rows = (
    ("--recipe NAME|FILE", "the values of a run; given again, the later one wins"),
    ("--ckpt_path FILE", "the checkpoint of a run, whose classes, model and data it has"),
)
_START: Rows = (
    ("--model.checkpoint X", "weights to start from: a timm tag, a published name or a file"),
    ("--resume auto|RUN|FILE", "go on with a run, exactly where it stopped"),
    ("--run_dir DIR", "where the run is kept; otherwise runs/RECIPE/N"),
    ("--print_config", "show all values of the run, and do not start it"),
)
_DATA: Rows = (
    ("--data.root DIR", "the folder of the data"),
    ("--data.batch_size N", "training samples in a batch of each process"),
    ("--data.eval_batch_size N", "views that go through the model at once in evaluation"),
    ("--data.num_workers N", "loader processes of each process"),
)
_MODEL: Rows = (
    ("--model.r R", "tokens merged in each block: 16, [16,8,...], or {r: 16, inflection: -1.0}"),
    ("--model.prop_attn BOOL", "proportional attention"),
    ("--model.task.num_classes N", "classes of your own data"),
    ("--model.compile BOOL", "compile the model"),
)
_TRAINING: Rows = (
    ("--tome.train_r R", "another r for training"),
    ("--tome.schedule.kind KIND", "r over training: constant, ramp or random"),
    ("--model.base_lr X", "learning rate at a batch of 256; --model.lr X is taken as it is"),
    ("--model.warmup_epochs N", "epochs over which the rate rises"),
    ("--model.freeze WHAT", "none, positions, or backbone (a linear probe)"),
    ("--model.grad_checkpointing BOOL", "less memory, more time"),
    ("--keep_effective_batch", "accumulate until a step has as many samples as the recipe's"),
    ("--save.every_n_minutes X", "how often last.ckpt is written"),
    ("--seed_everything N", "the seed"),
)
_TRAINER: Rows = (
    ("--trainer.accelerator A", "cpu, gpu or auto"),
    ("--trainer.devices N", "processes of this machine; --trainer.num_nodes N machines"),
    ("--trainer.strategy S", "auto, ddp, ..."),
    ("--trainer.precision P", "32-true, bf16-mixed, 16-mixed, ..."),
)
_LENGTH: Rows = (
    ("--trainer.max_epochs N", "epochs; --trainer.max_steps N, --trainer.max_time 00:12:00:00"),
    ("--trainer.accumulate_grad_batches N", "batches of an optimizer step"),
)
_LIMIT = {
    "validate": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}
_ROOT = "the folder of the data, or of the photos, videos or sounds to predict"


def short_help(verb: str, does: str) -> str:
    """What ``python -m tome_lightning VERB --help`` says.

    Args:
        verb: fit, validate, test or predict.
        does: What it is for.
    """
    if verb == "fit":
        groups = {"run": (_WHAT[0], *_START), "data": _DATA, "model": _MODEL, "training": _TRAINING,
                  "trainer": (*_LENGTH, *_TRAINER)}  # fmt: skip
    else:
        root = ("--data.root DIR", _ROOT) if verb == "predict" else _DATA[0]
        listed = () if verb == "validate" else (("--data.test_list FILE", "a list of other files"),)
        run = (*_WHAT, _START[0], *_START[2:])
        limit = (f"--trainer.{_LIMIT[verb]} N", "batches at most")
        groups = {"run": run, "data": (root, *listed, *_DATA[2:]), "model": _MODEL[:2],
                  "trainer": (*_TRAINER, limit)}  # fmt: skip
    rows = columns([row for group in groups.values() for row in group], left=2)
    lines = [
        f"usage: python -m tome_lightning {verb} --recipe NAME|FILE [--option value ...]",
        "",
        does,
    ]
    for name, group in groups.items():
        lines += ["", f"{name}:", *(f"  {row}" for row in rows[: len(group)])]
        rows = rows[len(group) :]
    return "\n".join([
        *lines, "",
        "These are the most used ones; the values of a recipe are the defaults. All options:",
        f"  python -m tome_lightning {verb} --help all",
        "  python -m tome_lightning recipes show NAME",
    ])  # fmt: skip
