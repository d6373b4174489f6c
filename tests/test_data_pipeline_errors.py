import errno

import pytest

from data_pipeline.errors import InputError, one_line_for_bad_input


def test_a_users_mistake_ends_with_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as leaving, one_line_for_bad_input():
        raise InputError("a.png is empty")
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: a.png is empty\n"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_a_disk_that_takes_nothing_is_told_like_a_users_mistake(capsys, number, reason):
    with pytest.raises(SystemExit) as leaving, one_line_for_bad_input():
        raise OSError(number, reason, "runs/demo/network.keras")
    assert leaving.value.code == 2
    assert capsys.readouterr().err == f"error: cannot write runs/demo/network.keras: {reason}\n"


def test_a_full_disk_told_in_words_only_is_told_like_a_users_mistake(capsys):
    with pytest.raises(SystemExit) as leaving, one_line_for_bad_input():
        raise RuntimeError("Can't write data (errno = 28, message = 'No space left on device')")
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("ours", [ValueError("shapes differ"), OSError(errno.EIO, "I/O error")])
def test_an_error_of_ours_keeps_its_traceback(ours):
    with pytest.raises(type(ours)) as caught, one_line_for_bad_input():
        raise ours
    assert caught.value is ours


def test_nothing_happens_where_nothing_is_wrong(capsys):
    with one_line_for_bad_input():
        pass
    assert capsys.readouterr().err == ""
