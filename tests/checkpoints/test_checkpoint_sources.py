import contextlib
import dataclasses
import hashlib
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
import torch.multiprocessing as mp
from timm.models import _builder

from checkpoints import SOURCES, CheckpointError, identify, interpolate_positions, load, sources
from checkpoints.queueing import one_at_a_time
from checkpoints.sources import fetch

NAME = "mae_finetuned_vit_base"


@pytest.fixture
def publish(official, save, monkeypatch):
    """Put a small file at the address of NAME, with the hash given (its own when None)."""

    def at_file_url(md5=None):
        origin = save(official("fine-tuned"), "origin.pth")
        digest = hashlib.md5(origin.read_bytes()).hexdigest() if md5 is None else md5
        source = dataclasses.replace(SOURCES[NAME], url=origin.as_uri(), md5=digest[:6])
        monkeypatch.setitem(SOURCES, NAME, source)
        return origin

    return at_file_url


def test_a_named_source_is_downloaded_once_and_kept(publish, build, own_cache):
    origin = publish()
    assert load(build(), NAME).family == "mae"
    assert [path.name for path in own_cache.iterdir()] == [f"{NAME}.pth"]
    origin.unlink()
    assert load(build(), NAME).source == NAME


def test_a_failed_download_says_address_place_and_licence(publish, build, own_cache):
    origin = publish()
    origin.unlink()
    with pytest.raises(CheckpointError) as refused:
        load(build(), NAME)
    line = str(refused.value)
    assert "\n" not in line
    assert origin.as_uri() in line
    assert f"at {own_cache / f'{NAME}.pth'} " in line
    assert "CC-BY-NC-4.0" in line
    assert list(own_cache.iterdir()) == []


def _fetch(number: int, origin: Path, told: Path) -> None:
    def slow_copy(url: str, target: str, progress: bool) -> None:
        with told.open("a") as file:
            file.write("download\n")
        time.sleep(0.3)  # the others ask meanwhile, or find the file
        shutil.copyfile(origin, target)

    torch.hub.download_url_to_file = slow_copy
    path = fetch(SOURCES[NAME])
    with told.open("a") as file:
        file.write(f"{hashlib.md5(path.read_bytes()).hexdigest()}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_of_four_processes_one_downloads_and_all_have_the_file(publish, own_cache, tmp_path):
    origin, told = publish(), tmp_path / "told"
    mp.start_processes(_fetch, (origin, told), nprocs=4, start_method="fork")
    digest = hashlib.md5(origin.read_bytes()).hexdigest()
    assert sorted(told.read_text().split()) == sorted(["download", *[digest] * 4])
    assert [path.name for path in own_cache.iterdir()] == [f"{NAME}.pth"]


def test_who_has_waited_for_a_download_that_failed_does_not_try_again(publish, monkeypatch):
    publish().unlink()
    with pytest.raises(CheckpointError) as first:
        fetch(SOURCES[NAME])

    @contextlib.contextmanager
    def waited(lock):
        with one_at_a_time(lock) as others:
            assert not others
            yield True

    monkeypatch.setattr(sources, "one_at_a_time", waited)
    tried = []
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *args, **how: tried.append(args))
    with pytest.raises(CheckpointError) as second:
        fetch(SOURCES[NAME])
    assert str(second.value) == str(first.value)
    assert not tried


def test_after_a_failure_the_next_run_tries_again(publish, own_cache):
    origin = publish()
    content = origin.read_bytes()
    origin.unlink()
    with pytest.raises(CheckpointError):
        fetch(SOURCES[NAME])
    origin.write_bytes(content)
    assert fetch(SOURCES[NAME]) == own_cache / f"{NAME}.pth"


def test_without_a_folder_for_locks_each_fetches_by_itself(publish, own_cache):
    own_cache.parent.mkdir(parents=True)
    (own_cache.parent / "locks").touch()  # no folder
    publish()
    assert fetch(SOURCES[NAME]) == own_cache / f"{NAME}.pth"


def test_a_download_with_another_hash_is_not_kept(publish, build, own_cache):
    publish(md5="000000")
    with pytest.raises(CheckpointError, match=r"md5 \w{32}.*starts with 000000.*not kept"):
        load(build(), NAME)
    assert list(own_cache.iterdir()) == []


def test_a_file_put_there_by_hand_must_have_the_published_hash(official, build, own_cache, save):
    own_cache.mkdir(parents=True)
    path = save(official("fine-tuned")).rename(own_cache / f"{NAME}.pth")
    with pytest.raises(CheckpointError, match="1b25e9"):
        load(build(), NAME)
    assert load(build(), path).kind == "fine-tuned"  # by its path it is the user's own


def test_a_source_without_published_hash_is_taken_as_it_is(official, build, own_cache, save):
    own_cache.mkdir(parents=True)
    source = SOURCES["tome_vit_base_r16"]
    save(official("fine-tuned")).rename(own_cache / source.file)
    assert load(build(), source.name).family == "tome"


def test_a_source_without_address_says_where_to_put_it(build, own_cache, monkeypatch):
    monkeypatch.setitem(SOURCES, NAME, dataclasses.replace(SOURCES[NAME], url=None))
    with pytest.raises(CheckpointError, match=f"no address.*{re.escape(str(own_cache))}"):
        load(build(), NAME)


def test_every_source_names_its_licence_and_a_model_of_timm():
    assert len({source.file for source in SOURCES.values()}) == len(SOURCES)
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.url is None or source.url.endswith(f"/{source.file}")
        assert "CC-BY-NC-4.0" in source.how
        assert timm.is_model(source.arch)


def test_every_published_family_has_its_sources():
    families = Counter(source.family for source in SOURCES.values())
    assert families == {"mae": 8, "tome": 5, "mae_st": 6 + 3, "videomae": 2 * 9, "audiomae": 2}
    recipes = {"mae_st_vit_large_k400", "mae_st_vit_huge_k400", "pyslowfast_mae_vit_base_k400"}
    recipes |= {"videomae_vit_large_k400", "videomae_vit_large_k400_finetuned"}
    recipes |= {"audiomae_vit_base", "audiomae_vit_base_finetuned"}
    assert recipes <= SOURCES.keys()


def test_a_source_is_what_its_file_will_be_found_to_be(mae_st, videomae, audiomae, save, own_cache):
    own_cache.mkdir(parents=True)
    for name, weights in (
        ("pyslowfast_mae_vit_base_k400", mae_st("full")),
        ("videomae_vit_large_k400", videomae("full")),
        ("videomae_vit_large_k400_finetuned", videomae("fine-tuned")),
        ("audiomae_vit_base", audiomae("full")),
        ("audiomae_vit_base_finetuned", audiomae("fine-tuned")),
    ):
        known = identify(name)
        save(weights).rename(own_cache / SOURCES[name].file)
        classes = known.num_classes and (527 if known.family == "audiomae" else 7)
        sizes = {"depth": 2, "width": 32, "num_classes": classes}
        assert identify(name) == dataclasses.replace(known, **sizes)


def test_a_zoo_file_says_where_it_is_to_be_found(build_video, own_cache):
    name = "videomae_vit_base_k400_800ep_finetuned"
    with pytest.raises(CheckpointError) as refused:
        load(build_video("sinusoid"), name)
    line = str(refused.value)
    assert f"put {name}.pth at {own_cache / name}.pth" in line
    assert "fine-tuned file of the row k400, ViT-B, 800 epochs" in line
    assert "model zoo page of the VideoMAE repository" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "file"),
    [("audiomae_vit_base", "pretrained.pth"), ("audiomae_vit_base_finetuned", "finetuned.pth")],
)
def test_audiomae_says_where_it_is_to_be_found(build_audio, own_cache, name, file):
    with pytest.raises(CheckpointError) as refused:
        load(build_audio(), name)
    line = str(refused.value)
    assert f"put {name}.pth at {own_cache / name}.pth" in line
    assert "model zoo of the AudioMAE repository" in line
    assert file in line
    assert "CC-BY-NC-4.0" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mae_pretrain_vit_bas", "mae_pretrain_vit_base"),
        ("vit_base_patch16_224.maee", "vit_base_patch16_224.mae"),
        ("???", "mae_pretrain_vit_base"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(build, name, near):
    with pytest.raises(CheckpointError) as refused:
        load(build(), name)
    assert near in str(refused.value)


@pytest.mark.parametrize("name", ["runs/last", "last.ckpt"])
def test_a_missing_path_is_called_a_missing_file(build, name):
    with pytest.raises(CheckpointError, match=f"there is no file {name}"):
        load(build(), name)


@pytest.fixture
def hub(monkeypatch):
    """timm's hub with one tiny published model, `test_vit.r160_in1k`, and no network."""
    published = timm.create_model("test_vit").state_dict()
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *_, **__: dict(published))
    return published


def test_a_timm_name_loads_through_timm(hub):
    vit = timm.create_model("test_vit", num_classes=5)
    state = torch.get_rng_state()
    report = load(vit, "test_vit.r160_in1k")
    assert (report.family, report.kind) == ("timm", "fine-tuned")
    assert report.new == report.dropped == ("head.weight", "head.bias")
    assert all(torch.equal(vit.state_dict()[name], hub[name]) for name in report.matched)
    assert torch.equal(torch.get_rng_state(), state)  # a seeded run does not depend on it


def test_timm_files_are_resampled_without_antialiasing_too(hub):
    vit = timm.create_model("test_vit", img_size=224)
    assert load(vit, "test_vit").reshaped == ("pos_embed",)
    assert torch.equal(vit.pos_embed, interpolate_positions(hub["pos_embed"], (14, 14), 1))


def test_an_unreachable_hub_is_explained_in_one_line(build, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", offline)
    told = r"no route\): connect this machine, or download the file model.safetensors of timm/"
    with pytest.raises(CheckpointError, match=told) as e:
        load(build(), "test_vit")
    assert "\n" not in str(e.value)


def test_a_timm_model_that_is_no_plain_vit_is_refused(build):
    with pytest.raises(CheckpointError, match="timm's ResNet"):
        load(build(), "resnet18.a1_in1k")


def test_a_timm_model_without_weights_is_refused(build):
    with pytest.raises(CheckpointError, match="publishes no weights"):
        load(build(), "vit_base_patch16_xp_224")


def test_a_source_pinned_by_its_sha256_takes_no_forged_file(
    publish, build, own_cache, monkeypatch, capsys
):
    origin = publish()
    pinned = dataclasses.replace(
        SOURCES[NAME], sha256=hashlib.sha256(origin.read_bytes()).hexdigest()
    )
    monkeypatch.setitem(SOURCES, NAME, pinned)
    assert load(build(), NAME).source == NAME
    assert "as published" in capsys.readouterr().err
    kept = own_cache / f"{NAME}.pth"
    kept.write_bytes(kept.read_bytes() + b"\0")
    forged = dataclasses.replace(pinned, md5=hashlib.md5(kept.read_bytes()).hexdigest()[:6])
    monkeypatch.setitem(SOURCES, NAME, forged)  # its six digits agree
    with pytest.raises(CheckpointError, match=f"sha256 .*published one is {pinned.sha256}"):
        load(build(), NAME)


def test_six_digits_are_said_to_be_no_protection(publish, build, own_cache, capsys):
    origin = publish()
    load(build(), NAME)
    told = capsys.readouterr().err
    assert hashlib.sha256(origin.read_bytes()).hexdigest() in told
    assert "first 6 digits of its MD5 is all that is published, which is no protection" in told
