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


def test_video_and_audio_files_are_recognised(official, save):
    weights = official("fine-tuned")
    tubelets = {"patch_embed.proj.weight": torch.zeros(32, 3, 2, 8, 8)}
    videomae = {n: v for n, v in weights.items() if n not in ("cls_token", "pos_embed")}
    videomae |= tubelets | {"blocks.0.attn.q_bias": torch.zeros(32)}
    mae_st = {n.replace("fc_norm", "norm"): v for n, v in weights.items()}
    mae_st |= tubelets | {"pos_embed_spatial": torch.zeros(1, 16, 32)}
    audiomae = weights | {
        "patch_embed.proj.weight": torch.zeros(32, 1, 16, 16),
        "pos_embed": torch.zeros(1, 513, 32),
    }
    found = [identify(save(file)) for file in (videomae, mae_st, audiomae)]
    assert [one.family for one in found] == ["videomae", "mae_st", "audiomae"]
    assert [one.class_token for one in found] == [False, True, True]
    assert [one.pooling for one in found] == ["avg"] * 3


def test_a_pretrained_videomae_is_recognised_under_its_prefix(official, save):
    kept = {n: v for n, v in official("encoder").items() if n not in ("cls_token", "pos_embed")}
    kept["patch_embed.proj.weight"] = torch.zeros(32, 3, 2, 8, 8)
    weights = {f"encoder.{name}": value for name, value in kept.items()}
    weights |= {
        "decoder.norm.weight": torch.ones(8),
        "encoder_to_decoder.weight": torch.ones(8, 32),
    }
    found = identify(save(weights))
    assert (found.family, found.kind, found.depth) == ("videomae", "full", 2)


def test_a_grey_square_image_model_is_no_audio(official, save):
    weights = official("fine-tuned") | {"patch_embed.proj.weight": torch.zeros(32, 1, 8, 8)}
    assert identify(save(weights)).family == "mae"


def test_a_named_source_is_identified_without_its_file(own_cache):
    assert identify("mae_finetuned_vit_large") == Identity(
        "mae", "fine-tuned", 1000, depth=24, width=1024, class_token=True, pooling="avg"
    )
    assert identify("mae_pretrain_vit_huge") == Identity(
        "mae", "encoder", None, depth=32, width=1280, class_token=True, pooling=None
    )
    assert identify("tome_deit_tiny_r13").pooling == "token"
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
    families = {"mae", "mae_st", "audiomae", "videomae", "tome", "timm"}
    assert set(PROP_ATTN) == set(POOLING) == families
    assert {family for family in families if PROP_ATTN[family]} == {"tome", "timm"}
    assert {family for family in families if POOLING[family] == "token"} == {"timm"}
