import pytest
import torch

from checkpoints import POOLING, PROP_ATTN, SOURCES, CheckpointError, Identity, identify


@pytest.mark.parametrize(
    ("kind", "num_classes", "pooling"),
    [("encoder", None, None), ("full", None, None), ("fine-tuned", 7, "avg")],
)
def test_a_file_is_identified_by_its_content(official, save, kind, num_classes, pooling):
    assert identify(save(official(kind))) == Identity(
        family="mae",
        kind=kind,
        num_classes=num_classes,
        depth=2,
        width=32,
        class_token=True,
        pooling=pooling,
    )


def test_a_class_token_classifier_is_a_timm_file(official, save):
    weights = official("encoder") | {"head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}
    found = identify(save(weights))
    assert (found.family, found.num_classes, found.pooling) == ("timm", 5, "token")


@pytest.mark.parametrize(
    ("kind", "num_classes"), [("encoder", None), ("full", None), ("fine-tuned", 7)]
)
@pytest.mark.parametrize("positions", ["separable", "joint"])
@pytest.mark.parametrize("class_token", [True, False])
def test_a_mae_st_file_is_identified_by_its_content(
    mae_st, save, kind, num_classes, positions, class_token
):
    assert identify(save(mae_st(kind, positions, class_token))) == Identity(
        family="mae_st",
        kind=kind,
        num_classes=num_classes,
        depth=2,
        width=32,
        class_token=class_token,
        pooling="avg",
        positions=positions,
        tubelet=2,
    )


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(("kind", "num_classes"), [("full", None), ("fine-tuned", 7)])
def test_a_videomae_file_is_identified_by_its_content(videomae, save, kind, num_classes, prefix):
    weights = {prefix + name: value for name, value in videomae(kind).items()}
    if kind == "full":  # the decoder has no prefix
        weights = videomae(kind)
    assert identify(save(weights)) == Identity(
        family="videomae",
        kind=kind,
        num_classes=num_classes,
        depth=2,
        width=32,
        class_token=False,
        pooling="avg",
        positions="sinusoid",
        tubelet=2,
    )


def test_a_pyslowfast_head_counts_its_classes(mae_st, save):
    weights = {n.replace("head.", "head.projection."): v for n, v in mae_st("fine-tuned").items()}
    found = identify(save(weights))
    assert (found.family, found.kind, found.num_classes) == ("mae_st", "fine-tuned", 7)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("positions", ["separable", "joint", "sinusoid"])
def test_a_video_checkpoint_of_ours_is_identified(build_video, tmp_path, positions, pool):
    vit = build_video(positions, class_token=True, global_pool=pool)
    state = {f"model.vit.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"state_dict": state, "tome_lightning": {"family": "videomae"}}, tmp_path / "a.ckpt")
    assert identify(tmp_path / "a.ckpt") == Identity(
        "videomae", "fine-tuned", 7, 2, 32, True, pool, positions=positions, tubelet=2
    )


def test_a_videomae_with_learned_positions_says_so(videomae, save):
    weights = videomae("full") | {"encoder.pos_embed": torch.zeros(1, 48, 32)}
    found = identify(save(weights))
    assert (found.family, found.positions, found.class_token) == ("videomae", "joint", False)


@pytest.mark.parametrize("rows", [512, 1212, 320])
@pytest.mark.parametrize(
    ("kind", "num_classes", "pooling"),
    [("encoder", None, None), ("full", None, None), ("fine-tuned", 527, "avg")],
)
def test_an_audiomae_file_is_identified_by_its_content(
    audiomae, save, kind, num_classes, pooling, rows
):
    assert identify(save(audiomae(kind, rows))) == Identity(
        family="audiomae",
        kind=kind,
        num_classes=num_classes,
        depth=2,
        width=32,
        class_token=True,
        pooling=pooling,
        positions=None,
        tubelet=None,
    )


def test_audiomaes_decoder_tells_it_from_a_grey_image_mae(audiomae, save):
    assert identify(save(audiomae("full", rows=256))).family == "audiomae"
    assert identify(save(audiomae("full", rows=256, swin=False))).family == "mae"


@pytest.mark.parametrize("prefix", [1, 0, 2])
def test_a_grey_square_image_model_is_no_audio(official, save, prefix):
    weights = official("fine-tuned") | {
        "patch_embed.proj.weight": torch.zeros(32, 1, 8, 8),
        "pos_embed": torch.zeros(1, 16 + prefix, 32),
    }
    assert identify(save(weights)).family == "mae"


@pytest.mark.parametrize(("family", "found"), [("mae", "audiomae"), ("tome", "tome")])
@pytest.mark.parametrize("size", [(1024, 128), (160, 48)])
def test_sound_of_ours_is_identified_without_its_family(build_audio, tmp_path, family, found, size):
    state = {f"model.vit.{n}": value for n, value in build_audio(*size).state_dict().items()}
    saved = {"state_dict": state, "tome_lightning": {"family": family}}
    torch.save(saved, tmp_path / "a.ckpt")
    assert identify(tmp_path / "a.ckpt") == Identity(found, "fine-tuned", 527, 2, 32, True, "avg")


def test_a_named_source_is_identified_without_its_file(own_cache):
    assert identify("mae_finetuned_vit_large") == Identity(
        "mae", "fine-tuned", 1000, depth=24, width=1024, class_token=True, pooling="avg"
    )
    assert identify("mae_pretrain_vit_huge") == Identity(
        "mae", "encoder", None, depth=32, width=1280, class_token=True, pooling=None
    )
    assert identify("tome_deit_tiny_r13").pooling == "token"
    assert not own_cache.exists()


def test_a_named_video_source_is_identified_without_its_file(own_cache):
    assert identify("mae_st_vit_large_k400") == Identity(
        family="mae_st",
        kind="full",
        num_classes=None,
        depth=24,
        width=1024,
        class_token=True,
        pooling="avg",
        positions="separable",
        tubelet=2,
    )
    base = identify("pyslowfast_mae_vit_base_k400")
    assert (base.family, base.depth, base.width, base.tubelet) == ("mae_st", 12, 768, 2)
    large, tuned = (identify(f"videomae_vit_large_k400{end}") for end in ("", "_finetuned"))
    assert tuned == Identity(
        family="videomae",
        kind="fine-tuned",
        num_classes=400,
        depth=24,
        width=1024,
        class_token=False,
        pooling="avg",
        positions="sinusoid",
        tubelet=2,
    )
    assert (large.kind, large.num_classes) == ("full", None)
    assert identify("videomae_vit_base_ssv2_finetuned").num_classes == 174
    assert not own_cache.exists()


def test_a_named_audio_source_is_identified_without_its_file(own_cache):
    size = {"depth": 12, "width": 768, "class_token": True}
    full = identify("audiomae_vit_base")
    assert full == Identity("audiomae", "full", num_classes=None, pooling=None, **size)
    tuned = identify("audiomae_vit_base_finetuned")
    assert tuned == Identity("audiomae", "fine-tuned", num_classes=527, pooling="avg", **size)
    assert not own_cache.exists()


def test_a_timm_name_is_identified_without_its_file():
    assert identify("vit_base_patch16_224.mae") == Identity(
        "mae", "encoder", None, depth=12, width=768, class_token=True, pooling=None
    )
    assert identify("deit_tiny_patch16_224") == Identity(
        "timm", "fine-tuned", 1000, depth=12, width=192, class_token=True, pooling="token"
    )


def test_the_copy_in_the_cache_is_what_gets_identified(official, save, own_cache):
    source = SOURCES["tome_vit_base_r16"]
    own_cache.mkdir(parents=True)
    save(official("fine-tuned")).rename(own_cache / source.file)
    found = identify(source.name)
    assert (found.family, found.depth) == ("tome", 2)


def test_a_file_without_a_vit_is_refused(save):
    with pytest.raises(CheckpointError, match=r"cannot identify .*no ViT"):
        identify(save({"conv1.weight": torch.ones(1)}))


def test_every_family_has_its_defaults():
    families = {"mae", "mae_st", "audiomae", "videomae", "ast", "dinov2", "tome", "timm"}
    assert set(PROP_ATTN) == set(POOLING) == families
    assert {family for family in families if PROP_ATTN[family]} == {
        "ast",
        "dinov2",
        "tome",
        "timm",
    }
    assert {family for family in families if POOLING[family] == "token"} == {"dinov2", "timm"}
