"""Every shipped recipe is complete, parses, and builds the model its header promises."""

import contextlib
import copy
import functools
import io
import re

import pytest
import torch
import yaml

import checkpoints
import recipes
from datamodules import AudioSet, Kinetics400
from datamodules.videos.clips import VideoMAESampling
from tome_lightning import FineTune
from tome_lightning.__main__ import main
from tome_lightning.callbacks import ToMeCallback
from tome_lightning.run.trusted import trusted_data, trusted_model, trusted_run
from tome_lightning.tome import RSchedule, token_counts
from tome_lightning.tome.projection import KeysWithoutBias

# tokens before the first and after the last block, and multiply-accumulates in G: those of images and
# of MAE-ST's ViT-L as published (ToMe, tables 4 to 7), the others by the same formula
PROMISED = {
    "audioset20k_vitb": (513, 37, 48.5, 24.7),
    "audioset2m_vitb": (513, 37, 48.5, 24.7),
    "imagenet_vitb": (197, 11, 17.6, 8.8),
    "imagenet_vitl": (197, 7, 61.6, 31.0),
    "imagenet_vith": (257, 33, 167.3, 92.8),
    "kinetics_vitb": (1569, 789, 180.5, 129.0),
    "kinetics_vitl": (1569, 38, 597.3, 280.8),
    "kinetics_vith": (1569, 41, 1191.9, 573.9),
    "kinetics_vitl_videomae": (1568, 37, 596.8, 280.4),
    "quickstart": (50, 26, None, None),
    "quickstart_audio": (321, 66, None, None),
    "quickstart_video": (513, 129, None, None),
}


@functools.cache
def printed(name: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["fit", "--recipe", name, "--print_config"]) == 0
    return out.getvalue()


def resolve(name: str) -> dict:
    """All values of a run of a recipe."""
    return yaml.safe_load(printed(name))


@functools.cache
def build(name: str) -> FineTune:
    """Its module, without storage; shared by the tests, which leave it as it is."""
    with torch.device("meta"):
        return FineTune(**resolve(name)["model"])


def macs(vit, plan, tokens: int) -> float:
    """Multiply-accumulates in G: attention before the merge of a block, its MLP after it."""
    width, patches = vit.embed_dim, vit.patch_embed.num_patches
    kernel = vit.patch_embed.proj.weight[0].numel()
    total = patches * width * kernel
    for r in plan:
        total += tokens * width * 4 * width + 2 * tokens * tokens * width
        tokens -= r
        total += tokens * width * 8 * width
    return total / 1e9


def test_every_recipe_is_checked_here():
    assert set(PROMISED) == set(recipes.names())


@pytest.mark.parametrize("name", PROMISED)
def test_a_recipe_builds_the_model_its_header_promises(name):
    tokens, left, dense, merged = PROMISED[name]
    module = build(name)
    plan = module.model.plan()
    assert module.model.num_tokens == tokens
    assert token_counts(plan, tokens)[-1] == left
    if dense is not None:
        # the published figures are rounded to 0.1 G
        assert macs(module.vit, [0] * len(plan), tokens) == pytest.approx(dense, abs=0.06)
        assert macs(module.vit, plan, tokens) == pytest.approx(merged, abs=0.06)


@pytest.mark.parametrize("name", PROMISED)
def test_a_run_of_a_recipe_goes_on_by_its_checkpoint_alone(name):
    """What the checkpoint of an honest run says is trusted whole: nothing is refused or left out."""
    config = resolve(name)
    module = build(name)
    model = trusted_model(dict(module.hparams), len(module.state_dict()))
    data = trusted_data(config["data"])
    run = trusted_run(config)
    assert model.config == dict(module.hparams)
    assert data.config == config["data"]
    trainer = {name: config["trainer"][name] for name in run.config["trainer"]}
    assert run.config["trainer"] == trainer
    assert {name: run.config[name] for name in ("tome", "save", "seed_everything")} == {
        name: config[name] for name in ("tome", "save", "seed_everything")
    }
    assert not model.foreign + data.foreign
    assert not run.left_out


@pytest.mark.parametrize("name", PROMISED)
def test_the_recipes_need_one_graph_for_training_and_one_for_evaluation(name):
    settings = resolve(name)["tome"]
    callback = ToMeCallback(
        RSchedule(**settings["schedule"].get("init_args", settings["schedule"])),
        settings["train_r"],
        settings["eval_r"],
    )
    model = build(name).model
    assert callback.graphs(model, "fit") == 2
    assert callback.graphs(model, "test") == 1


@pytest.mark.parametrize("name", PROMISED)
def test_a_recipe_states_every_value_that_decides_a_result(name):
    text = recipes.path(name).read_text()
    config = yaml.safe_load(text)
    assert f"--recipe {name}" in text  # its header says how to run it
    assert {"checkpoint", "r", "prop_attn", "min_lr", "weight_decay", "layer_decay"} <= set(
        config["model"]
    )
    assert "lr" in config["model"] or "base_lr" in config["model"]
    assert "global_pool" in config["model"]["vit"]
    assert {"max_epochs", "precision"} <= set(config["trainer"])
    assert "batch_size" in config["data"]["init_args"]
    assert isinstance(config["seed_everything"], int)


@pytest.mark.parametrize("name", [name for name in PROMISED if name.startswith("imagenet")])
def test_image_recipes_reach_mae_s_learning_rate_on_eight_gpus(name):
    config = resolve(name)
    effective = (
        config["data"]["init_args"]["batch_size"] * 8 * config["trainer"]["accumulate_grad_batches"]
    )
    peak = {"b": 2e-3, "l": 4e-3, "h": 4e-3}[name[-1]]
    assert effective == 1024
    assert config["model"]["base_lr"] * effective / 256 == pytest.approx(peak)
    assert re.search(rf"= {peak:.1e}".replace("e-03", "e-3"), recipes.path(name).read_text())


@pytest.mark.parametrize("name", [name for name in PROMISED if "h100" in recipes.header(name)])
def test_batches_of_an_h100_make_the_recipe_s_own_step_on_so_many(name):
    """Header and README say the same; where the step is large enough it is not accumulated."""
    config, told = resolve(name), recipes.header(name)["h100"]
    repeats, wanted = (
        config["data"]["init_args"].get("repeat_aug", 1),
        config["model"]["effective_batch"],
    )
    first, gpus = re.search(r"--data.batch_size (\d+) on (\d+) GPUs", told).groups()
    rows = [(first, gpus), *re.findall(r", (\d+) on (\d+)", told)]
    assert config["data"]["init_args"]["batch_size"] <= int(first)
    for batch, processes in rows:
        one = int(batch) * repeats * int(processes)
        assert wanted % one == 0, told
        assert wanted == one or processes != gpus
    readme = (recipes.path(name).parent / "README.md").read_text()
    cells = ", ".join(f"{batch} on {processes}" for batch, processes in rows)
    assert re.search(rf"\| `{name}`.*\| {cells} \|", readme)


@pytest.mark.parametrize("name", [name for name in PROMISED if name.startswith("imagenet")])
def test_image_recipes_have_mae_s_parameter_counts(name):
    published = {"b": 86_567_656, "l": 304_326_632, "h": 632_045_800}[name[-1]]
    module = build(name)
    assert sum(p.numel() for p in module.vit.parameters()) == published


@pytest.mark.parametrize(
    ("name", "peak", "min_lr"),
    [
        ("kinetics_vitb", 2.4e-3, 1e-5),
        ("kinetics_vitl", 2.4e-3, 1e-6),
        ("kinetics_vith", 2.4e-3, 1e-6),
        # 2e-3 and 1e-6 per 256 videos, at 128 videos; each is in the batch twice
        ("kinetics_vitl_videomae", 1e-3, 5e-7),
    ],
)
def test_video_recipes_reach_their_learning_rate_on_eight_gpus(name, peak, min_lr):
    config = resolve(name)
    data = config["data"]["init_args"]
    effective = (
        data["batch_size"] * data["repeat_aug"] * 8 * config["trainer"]["accumulate_grad_batches"]
    )
    assert effective == 256
    assert config["model"]["base_lr"] * effective / 256 == pytest.approx(peak)
    assert config["model"]["min_lr"] == min_lr


@pytest.mark.parametrize("name", [name for name in PROMISED if name.startswith("kinetics")])
def test_video_recipes_start_from_a_named_checkpoint_that_fits(name):
    config = resolve(name)
    identity = checkpoints.identify(config["model"]["checkpoint"])
    module = build(name)
    assert (identity.depth, identity.width) == (len(module.vit.blocks), module.vit.embed_dim)
    assert identity.class_token == module.vit.has_class_token
    assert identity.positions == module.input.positions
    assert identity.tubelet == module.input.tubelet


@pytest.mark.parametrize("name", [name for name in PROMISED if name.startswith("kinetics")])
def test_video_recipes_agree_with_their_data(name):
    config = resolve(name)
    data = Kinetics400(**config["data"]["init_args"])
    module = build(name)
    assert data.sample_shape == module.input.shape == (3, 16, 224, 224)
    assert data.num_classes == module.task.num_classes == 400
    protocol = (5, 3) if isinstance(data.sampling, VideoMAESampling) else (10, 3)
    assert (data.test_clips, data.test_crops) == protocol


@pytest.mark.parametrize("name", [name for name in PROMISED if name.startswith("kinetics")])
def test_videomae_alone_has_its_schedule_and_keys_without_a_bias(name):
    module = build(name)
    videomae = name.endswith("videomae")
    assert module.hparams["lr_schedule"] == ("videomae" if videomae else "mae")
    assert all(
        isinstance(block.attn.qkv, KeysWithoutBias) == videomae for block in module.vit.blocks
    )


AUDIOSET = [name for name in PROMISED if name.startswith("audioset")]


@pytest.mark.parametrize(
    ("name", "clips", "peak", "batches"),
    [("audioset2m_vitb", 256, 2e-4, 781), ("audioset20k_vitb", 32, 1.25e-4, None)],
)
def test_audio_recipes_reach_their_learning_rate_on_eight_gpus(name, clips, peak, batches):
    config = resolve(name)
    data = config["data"]["init_args"]
    assert data["batch_size"] * 8 == clips
    assert config["model"]["base_lr"] * clips / 256 == pytest.approx(peak)
    assert (data["draws"] and data["draws"] // clips) == batches


@pytest.mark.parametrize("name", AUDIOSET)
def test_audio_recipes_start_from_a_named_checkpoint_that_fits(name):
    config = resolve(name)
    identity = checkpoints.identify(config["model"]["checkpoint"])
    module = build(name)
    assert (identity.family, identity.pooling or "avg") == ("audiomae", module.vit.global_pool)
    assert (identity.depth, identity.width) == (len(module.vit.blocks), module.vit.embed_dim)
    assert not module.vit.pos_embed.requires_grad
    trained = sum(p.numel() for p in module.vit.parameters() if p.requires_grad)
    assert trained == 85_659_407  # AudioMAE's log


@pytest.mark.parametrize("name", AUDIOSET)
def test_audio_recipes_agree_with_their_data(name):
    config = resolve(name)
    data, module = AudioSet(**config["data"]["init_args"]), build(name)
    assert data.sample_shape == module.input.shape == (1, 1024, 128)
    assert data.multi_label == module.task.multi_label


@pytest.mark.parametrize("name", AUDIOSET)
def test_audio_recipes_plan_their_training_for_the_masked_tokens(name):
    config = resolve(name)
    model = copy.deepcopy(build(name)).model  # r is set below
    assert model.train_tokens == 307
    model.r = config["tome"]["train_r"]
    counts = token_counts(model.plan(307), 307)
    assert counts[-1] == 22
    assert config["tome"]["train_r"] == round(config["model"]["r"] * 306 / 512)


def test_another_name_of_a_recipe_is_the_same_recipe():
    assert recipes.path("audioset_vitb") == recipes.path("audioset2m_vitb")
    assert resolve("audioset_vitb") == resolve("audioset2m_vitb")
    assert not set(recipes.ALIASES) & set(recipes.names())
    assert set(recipes.ALIASES.values()) <= set(recipes.names())
