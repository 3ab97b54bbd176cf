"""Members of shards are scanned as files are: named, left out, read again when their shard changes."""

import json
from pathlib import Path

import pytest

from datamodules import ImageNet
from datamodules.shards.member import file_of, member, own_name
from tome_lightning.__main__ import main
from tome_lightning.commands.scan.walk import scan
from tome_lightning.commands.scan.workers import Job, Task, check_one

from ...datamodules.shards.shard_files import png, write_tar

BROKEN = {"ant/cut.png": "OSError", "bee/text.png": "UnidentifiedImageError"}


def write_shards(root: Path) -> Path:
    """Three shards of pictures of two classes, two of them broken."""
    good = [(f"{name}/{n}.png", png(n, 32)) for n in range(3) for name in ("ant", "bee")]
    broken = [("ant/cut.png", png(9, 32)[:500]), ("bee/text.png", b"<html>404</html>")]
    write_tar(root / "train-000000.tar", good)
    write_tar(root / "train-000001.tar", broken)
    write_tar(root / "val-000000.tar", good[:4])
    return root


def images(root: Path, **options: object) -> ImageNet:
    return ImageNet(str(root), batch_size=2, num_workers=0, **options)


@pytest.mark.parametrize("quick", [False, True])
def test_broken_members_are_listed_and_then_left_out(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_shards(tmp_path / "data")
    words = ["--data", "ImageNet", "--data.root", str(root), "--data.num_workers", "0"]
    words += ["--out", "bad.json", "--workers", "1", *["--quick"][: int(quick)]]
    assert main(["scan", *words]) == 0
    content = json.loads(Path("bad.json").read_text())
    found = {place.name: row for row in content["bad"] if (place := member(row["path"]))}
    assert {name: row["reason"].partition(":")[0] for name, row in found.items()} == BROKEN
    assert content["files"] == 12
    assert content["formats"] == {"PNG": 10}
    assert content["bytes"] == sum(path.stat().st_size for path in root.iterdir())  # each once
    assert content["counts"]["train"]["per_class"] == {"ant": 3, "bee": 3}
    told = capsys.readouterr().out
    assert f"1 OSError, e.g. {found['ant/cut.png']['path']}: " in told
    assert "--data.exclude bad.json" in told

    data = images(root, exclude="bad.json")
    data.setup("fit")
    files = data.files("train")
    assert len(files) == 6
    assert not {own_name(files.path(row)) for row in range(6)} & {"cut.png", "text.png"}
    assert not any(data.samples("train").bad.errors() for _ in data.samples("train"))


def test_what_a_run_could_not_read_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    root = write_shards(tmp_path / "data")
    data = images(root, max_corrupt_share=1.0)
    data.setup("fit")
    samples = data.samples("train")
    for row in range(len(samples)):
        samples[row]
    bad = data.bad_files()
    assert {place.name for row in bad if (place := member(row["path"]))} == {*BROKEN}
    report = samples.report() or ""
    assert f"{root}/train-000001.tar::ant/cut.png@" in report
    (tmp_path / "bad_files.json").write_text(json.dumps({"bad": bad}))
    assert len(images(root, exclude=str(tmp_path / "bad_files.json")).files("train")) == 6


def test_members_of_a_changed_shard_are_checked_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def check(path: str) -> dict[str, int]:
        calls.append(path)
        return {}

    root = write_shards(tmp_path / "data")
    job, path = Job(str(root), check), images(root).files("val").path(0)
    known = check_one(job, Task(path))
    assert (known.path, known.size) == (path, (root / file_of(path)).stat().st_size)
    assert check_one(job, Task(path, known)) == known
    assert calls == [str(root / path)]
    with (root / file_of(path)).open("ab") as shard:
        shard.write(bytes(512))
    assert check_one(job, Task(path, known)) != known
    assert len(calls) == 2
    (root / file_of(path)).unlink()
    assert (check_one(job, Task(path)).size, len(calls)) == (None, 3)


def test_a_shard_that_is_gone_is_told_of_each_member(tmp_path: Path) -> None:
    data = images(write_shards(tmp_path / "data"))
    data.files("val")
    (tmp_path / "data/val-000000.tar").unlink()
    content = scan(data, tmp_path / "x.json", ["val"], workers=0, progress=False)
    assert len(content["bad"]) == 4
    assert all("val-000000.tar" in row["reason"] for row in content["bad"])
    assert content["bytes"] == 0
