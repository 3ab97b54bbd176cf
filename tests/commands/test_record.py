"""What a stopped scan has found is read back line by line, when it is asked for."""

import tracemalloc

from tome_lightning.commands.file_checks import Outcome
from tome_lightning.commands.record import Record

SETTINGS = {"quick": True}


def outcome(path: str, size: int = 1, hung: bool = False) -> Outcome:
    reason = "TimeoutError: x" if hung else None
    return Outcome(path, size, 5, reason, {"frames": 3, "fps": 30.0}, hung)


def write(path, outcomes, settings=SETTINGS):
    record = Record(path, settings)
    for one in outcomes:
        record.add(one)
    record.close()


def test_the_latest_outcome_of_the_same_settings_is_known(tmp_path):
    path = tmp_path / "made" / "x.partial"
    write(path, [outcome("a"), outcome("b"), outcome("late", hung=True), outcome("a", 2)])
    write(path, [outcome("c")], {"quick": False})
    with path.open("a") as file:
        file.write('{"path": "b", "size": 1, "mti')  # as a power cut leaves it
    write(path, [outcome("\udcff ä")])
    record = Record(path, SETTINGS)
    assert record.known("a") == outcome("a", 2)
    assert record.known("b") == outcome("b")
    assert record.known("\udcff ä") == outcome("\udcff ä")
    assert record.known("c") is record.known("late") is record.known("never") is None
    record.close()


def test_what_is_known_stays_on_the_disk(tmp_path):
    sizes = []
    for count in (1000, 3000):
        path = tmp_path / str(count)
        write(path, [outcome(f"folder/{i}.jpg") for i in range(count)])
        tracemalloc.start()
        record = Record(path, SETTINGS)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert record.known(f"folder/{count - 1}.jpg") == outcome(f"folder/{count - 1}.jpg")
        record.close()
    assert (sizes[1] - sizes[0]) / 2000 < 40  # bytes, and no objects
