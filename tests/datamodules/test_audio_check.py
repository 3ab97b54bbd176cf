"""What a scan measures of sound files is what the model is given of them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.audio import AudioReader
from datamodules.audio_check import AudioCheck
from datamodules.audio_transforms import centre
from datamodules.facts import FactTable
from datamodules.features import FrontEnd

soundfile = pytest.importorskip("soundfile")

FRONT = FrontEnd(frames=64, mels=16, mean=-4.0, std=4.0)
CHECK = AudioCheck(AudioReader(FRONT.seconds, 30.0), FRONT)


@pytest.fixture
def files(tmp_path):
    random = np.random.RandomState(0)
    settings = [(16000, 1, "PCM_16", 0.3), (44100, 2, "PCM_24", 1.0), (16000, 1, "PCM_16", 0.0)]
    paths = []
    for number, (rate, channels, subtype, seconds) in enumerate(settings):
        paths.append(str(tmp_path / f"{number}.wav"))
        samples = 0.1 * (number + 1) * random.standard_normal((int(seconds * rate), channels))
        soundfile.write(paths[-1], samples, rate, subtype=subtype)
    return paths


def test_mean_and_std_are_those_of_all_cells_the_model_is_given(files):
    content = CHECK.summary(FactTable(map(CHECK, files)))
    cells = torch.stack([FRONT.log_mel(centre(CHECK.reader(path))) for path in files]).double()
    found = content["features"]
    assert found["mean"] == pytest.approx(float(cells.mean()), abs=1e-5)
    assert found["std"] == pytest.approx(float(cells.std(unbiased=False)), abs=1e-5)
    assert (found["recipe_mean"], found["recipe_std"]) == (-4.0, 4.0)
    assert content["rates"] == {"16000": 2, "44100": 1}
    assert content["channels"] == {"1": 2, "2": 1}
    assert content["codecs"] == {"pcm_16": 2, "pcm_24": 1}
    assert content["seconds"] == {"min": 0.0, "median": 0.3, "max": 1.0}


def test_the_recipe_s_own_constants_are_no_warning(files):
    facts = FactTable(map(CHECK, files))
    found = CHECK.summary(facts)["features"]
    own = replace(CHECK, front_end=replace(FRONT, mean=found["mean"], std=found["std"]))
    assert not any("warning" in line for line in own.tell(own.summary(facts)))
    told = CHECK.tell(CHECK.summary(facts))
    assert any(f"--data.mean {found['mean']:.4f}" in line for line in told)


def test_a_quick_check_reads_headers_only(files, monkeypatch):
    quick = replace(CHECK, quick=True)
    monkeypatch.setattr("datamodules.audio.read_waveform", None)
    content = quick.summary(FactTable(map(quick, files)))
    assert content["features"] is None
    assert "16000 Hz (2), 44100 Hz (1)" in quick.tell(content)[0]
    assert quick.settings != CHECK.settings


def test_no_good_file_leaves_nothing_to_tell():
    assert CHECK.tell(CHECK.summary(FactTable())) == []


def test_a_broken_file_raises(tmp_path):
    path = tmp_path / "text.wav"
    path.write_text("no sound")
    with pytest.raises(Exception, match=r"."):
        CHECK(str(path))


def test_it_goes_to_other_processes(files):
    again = pickle.loads(pickle.dumps(CHECK))
    assert again(files[0]) == CHECK(files[0])
