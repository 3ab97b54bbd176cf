"""A checkpoint of a stranger makes no class and imports nothing, in whatever form it names it."""

import subprocess
from pathlib import Path

import pytest

from .forging import HERE, TOUCH, VERBS, cases, data, forge, model, ours, run, trainer

RE_EXPORT = {**TOUCH, "class_path": "tome_lightning.run.environment.subprocess.Popen"}
SMALL = {"depth": 1, "embed_dim": 24, "num_heads": 2}
CLASSES = {
    # a class-typed field as text
    "data as YAML": ours("data", "class_path: evil.Evil\ninit_args: {}"),
    "data as YAML of a command": ours("data", f"{TOUCH}"),
    "data as YAML of a class in ours": ours(
        "data", "{class_path: datamodules.Digits, init_args: {root: {class_path: evil.Evil}}}"
    ),
    "data as a name": ours("data", "evil.Evil"),
    "input as YAML": model(input="{class_path: evil.Evil}"),
    "task as a name": model(task="evil.Evil"),
    "schedule as YAML": ours("tome", {"schedule": "{class_path: evil.Evil}"}),
    # within what is ours
    "a class in a data module's argument": data(root=TOUCH),
    "a class in a list of its arguments": data(mean=[HERE]),
    "a class in the ViT's arguments": model(vit={"depth": 1, "block_fn": HERE}),
    "a class in r": model(r=HERE),
    # names that reach further than they look
    "dotted keys": trainer(**{"strategy.class_path": "evil.Evil"}),
    "dotted keys of a callback": trainer(**{"callbacks.class_path": "evil.Evil", "callbacks": {}}),
    "a dotted hyper-parameter": model(**{"input.class_path": "evil.Evil"}),
    "a dotted section of data": ours(
        "data", {"class_path": "datamodules.Digits", "init_args.root": HERE}
    ),
    # tuples
    "a tuple of callbacks": trainer(callbacks=(HERE,)),
    "a tuple of loggers": trainer(logger=(HERE,)),
    "data as a tuple": ours("data", ("evil.Evil",)),
    "a tuple of plugins": trainer(plugins=("evil.Evil",)),
    # strings with a file of that name beside
    "strategy": trainer(strategy="evil.Evil"),
    "accelerator": trainer(accelerator="evil.Evil"),
    "profiler": trainer(profiler="evil.Evil"),
    "callbacks": trainer(callbacks=["evil.Evil"]),
    "plugins": trainer(plugins="evil.Evil"),
    # under a prefix that is trusted
    "a re-export of ours": ours("data", RE_EXPORT),
    "a re-export of the data's": ours(
        "data", {**TOUCH, "class_path": "datamodules.cache.os.system"}
    ),
    "a re-export in the ViT's arguments": model(vit={**SMALL, "norm_layer": RE_EXPORT}),
    "a re-export in another of them": model(vit={**SMALL, "act_layer": RE_EXPORT}),
    "a class of ours that is no data": ours(
        "data", {"class_path": "tome_lightning.trainer.peers.Peers"}
    ),
    "a private one": model(
        input={"class_path": "tome_lightning.inputs.base.partial", "init_args": HERE}
    ),
    # Lightning's that take functions
    "a callback of functions": trainer(
        callbacks=[
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"on_fit_start": "evil.Evil"},
            }
        ]
    ),
    "a strategy of objects": trainer(
        strategy={
            "class_path": "lightning.pytorch.strategies.DDPStrategy",
            "init_args": {"x": HERE},
        }
    ),
    "weight averaging of functions": trainer(
        callbacks=[
            {
                "class_path": "lightning.pytorch.callbacks.WeightAveraging",
                "init_args": {"avg_fn": "evil.Evil"},
            }
        ]
    ),
    # Lightning's own ways to make a module
    "an instantiator": model(_instantiator="evil.Evil"),
    "a class to make": model(_class_path="evil.Evil"),
    "another name of the hyper-parameters": lambda saved: saved.update(hparams_name="vit"),
}


@pytest.mark.parametrize(("form", "verb"), cases(CLASSES))
def test_no_class_is_made_because_a_checkpoint_names_it(form, verb, stranger, capfd):
    forge(CLASSES[form])
    run(verb, capfd)
    assert not Path("owned").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_an_honest_run_is_read_by_all_of_them(verb, stranger, capfd):
    """Else the others would say nothing."""
    assert run(verb, capfd)[0] == 0


def test_the_marks_would_be_left(stranger):
    assert not Path("owned").exists()
    subprocess.Popen(**TOUCH["init_args"])
    assert Path("owned").exists()
    Path("owned").unlink()
    __import__("evil")
    assert Path("owned").exists()
