import pathlib

import pytest

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
