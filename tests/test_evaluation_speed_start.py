import pathlib

import pytest

from data_pipeline.errors import InputError
from evaluation.speed import start

pytestmark = pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


def test_waiting_takes_time_but_no_cpu_and_what_is_held_counts_as_memory():
    _, _, bare_mib = start.measure("pass")
    wall_s, cpu_s, mib = start.measure("held = b'x' * 2**27; time.sleep(0.3)")
    assert wall_s >= 0.3
    assert cpu_s < wall_s - 0.2
    assert 120 < mib - bare_mib < 140


def test_what_cannot_be_imported_is_told_in_a_line():
    with pytest.raises(InputError, match=r"^import no_such: ModuleNotFoundError: No module"):
        start.measure("import no_such")


def test_what_was_killed_is_told_in_a_line():
    with pytest.raises(InputError, match=r"exit code -9$"):
        start.measure("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_no_rounds_are_refused(capsys):
    with pytest.raises(SystemExit) as left:
        start.main(["--rounds", "0"])
    assert left.value.code == 2
    assert "--rounds is 1 or more, not 0" in capsys.readouterr().err
