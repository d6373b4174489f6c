import os
import subprocess
import sys

import pytest

from data_pipeline import cache, cases, frames, phantom
from data_pipeline.spec import InputSpec

DAY_S = 24 * 3600


@pytest.fixture
def make(tmp_path):
    """Makes a store of 1000 bytes and a lock, last used so many days before now."""

    def make(digit, days, now_s=1_700_000_000):
        folder = tmp_path / (digit * 16)
        folder.mkdir()
        (folder / "images.f16").write_bytes(bytes(1000))
        os.close(cache.hold(folder))
        os.utime(folder / "in-use.lock", (now_s - days * DAY_S,) * 2)
        return folder

    return make


def names(folder):
    return sorted(path.name[0] for path in folder.iterdir())


def test_what_was_used_longest_ago_goes_until_the_rest_fits(make, tmp_path):
    for digit, days in (("a", 1), ("b", 9), ("c", 5), ("d", 7)):
        make(digit, days)
    deleted = cache.prune(tmp_path, most_bytes=2500)
    assert [one.folder.name[0] for one in deleted] == ["b", "d"]
    assert names(tmp_path) == ["a", "c"]


def test_what_was_not_used_for_long_goes_whatever_its_size(make, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.time, "time", lambda: 1_700_000_000)
    for digit, days in (("a", 1), ("b", 31)):
        make(digit, days)
    cache.prune(tmp_path, most_bytes=float("inf"), unused_s=30 * DAY_S)
    assert names(tmp_path) == ["a"]


def test_what_another_process_uses_stays_until_that_ends(make, tmp_path):
    folder = make("a", 99)
    script = (
        "import pathlib, sys; from data_pipeline import cache;"
        f"lock = cache.hold(pathlib.Path({str(folder)!r})); print('held', flush=True);"
        "sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as user:
        assert user.stdout.readline() == "held\n"
        assert [one.in_use for one in cache.stored(tmp_path)] == [True]
        assert cache.prune(tmp_path, most_bytes=0) == []
        user.kill()  # as a training that is killed: the system gives the lock back
        user.wait()
    assert [one.folder for one in cache.prune(tmp_path, most_bytes=0)] == [folder]


def test_opening_counts_as_use(make, tmp_path):
    make("a", 1)
    os.close(cache.hold(make("b", 9)))
    assert [one.folder.name[0] for one in cache.stored(tmp_path)] == ["a", "b"]


def test_nothing_but_stores_is_ever_deleted(make, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "notes.txt").write_text("years of work")
    make("a", 9)
    cache.prune(tmp_path, most_bytes=0)
    assert names(tmp_path) == ["n", "t"]


def test_what_a_dead_process_left_unfinished_goes_and_what_is_being_written_stays(make, tmp_path):
    dead = make("a", 0).rename(tmp_path / f".{'a' * 16}.123")
    written = make("b", 0).rename(tmp_path / f".{'b' * 16}.456")
    lock = cache.hold(written)
    assert [one.folder for one in cache.prune(tmp_path)] == [dead]
    os.close(lock)


def test_a_store_that_is_deleted_while_it_is_opened_is_told_so(make):
    folder = make("a", 9)
    opened = cache._open(folder)
    cache.prune(folder.parent, most_bytes=0)
    os.close(opened)
    with pytest.raises(cache.Pruned):
        cache.hold(folder)


SPEC = InputSpec("XR", ("lung",), (32, 32))


def test_writing_a_store_makes_room_by_deleting_unused_ones(make, tmp_path):
    make("a", 9)
    chest = cases.load(phantom.write_manifest(tmp_path / "data", count=2))
    store = frames.open_store(chest, SPEC, tmp_path, most_bytes=100)
    assert len(cache.stored(tmp_path)) == 1  # the new one, which is in use
    assert store.image(1).shape == (32, 32, 1)
    del store
    assert [one.in_use for one in cache.stored(tmp_path)] == [False]


def test_the_command_lists_and_deletes(make, tmp_path, capsys):
    make("a", 9)
    cache.main(["--cache", str(tmp_path)])
    assert "aaaaaaaaaaaaaaaa         0.0 MB  last used 20" in capsys.readouterr().out
    cache.main(["--cache", str(tmp_path), "--most-gb", "0"])
    told = capsys.readouterr().out
    assert told.startswith("deleted  aaaaaaaaaaaaaaaa")
    assert told.endswith(f"{tmp_path}: 0 stores, 0.0 MB\n")


def test_a_cache_that_is_not_there_is_empty(tmp_path, capsys):
    cache.main(["--cache", str(tmp_path / "none")])
    assert "0 stores" in capsys.readouterr().out
