import http.server
import json
import pathlib
import signal
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

import demo

# Says when it is asked to stop, and stops.
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
time.sleep(60)
"""

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def masks(tmp_path):
    """Two paths of PNG masks; a function writes their pixels."""

    def write(served, evaluated):
        paths = tmp_path / "served.png", tmp_path / "evaluated.png"
        for path, pixels in zip(paths, (served, evaluated), strict=True):
            cv2.imwrite(str(path), np.asarray(pixels, np.uint8))
        return paths

    return write


def test_masks_that_are_equal_in_every_pixel_pass(masks):
    demo.check_same_pixels(*masks([[0, 255]], [[0, 255]]))


@pytest.mark.parametrize(
    ("served", "evaluated", "message"),
    [
        ([[0, 255, 0]], [[0, 255, 255]], r"served\.png differs from .* in 1 of 3 pixels"),
        ([[0, 255]], [[0], [255]], "are not two masks on one grid"),
        ([[0, 0]], [[0, 0]], r"served\.png is empty"),
    ],
    ids=["one pixel", "another grid", "nothing to compare"],
)
def test_masks_that_differ_or_say_nothing_fail(masks, served, evaluated, message):
    with pytest.raises(demo.DemoError, match=message):
        demo.check_same_pixels(*masks(served, evaluated))


def test_a_mask_that_is_not_there_fails(tmp_path):
    with pytest.raises(demo.DemoError, match="are not two masks"):
        demo.check_same_pixels(tmp_path / "a.png", tmp_path / "b.png")


def test_a_command_that_fails_ends_the_demo(capfd):
    with pytest.raises(demo.DemoError, match=r"serving\.segment ended with exit code 2"):
        demo.run("serving.segment", "--no-such-flag")
    assert capfd.readouterr().out == "$ python -m serving.segment --no-such-flag\n"


@pytest.fixture
def polite_server(monkeypatch):
    """The process that demo.server starts, in place of a real server."""
    with subprocess.Popen([sys.executable, "-c", POLITE], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        monkeypatch.setattr(demo, "start", lambda *_, **__: process)
        monkeypatch.setattr(demo, "wait_until_available", lambda *_: None)
        yield process


def test_the_server_is_stopped_when_the_work_is_done(polite_server):
    with demo.server() as ports:
        assert ports["grpc"] != ports["rest"]
        assert polite_server.poll() is None
    assert polite_server.poll() == 0


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, demo.DemoError])
def test_the_server_is_stopped_however_the_demo_ends(polite_server, end):
    with pytest.raises(end), demo.server():
        raise end
    assert polite_server.poll() == 0


def test_a_process_that_will_not_stop_is_ended_by_force(monkeypatch):
    monkeypatch.setattr(demo, "SERVER_STOP_S", 0.2)
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        demo.stop(process)
    assert process.returncode == -signal.SIGKILL


def test_a_server_that_ends_is_told_with_the_end_of_its_log(tmp_path):
    (tmp_path / "server.log").write_text("starting\nerror: port in use\n")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(demo.DemoError, match=r"did not come up(.|\n)*error: port in use"):
        demo.wait_until_available(process, 1, tmp_path / "server.log")


def test_a_server_is_waited_for_until_its_model_is_available(capsys):
    states = ["LOADING", "AVAILABLE"]

    class Status(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status = {"version": "2", "state": states.pop(0)}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_version_status": [status]}).encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Status) as status_server:
        threading.Thread(target=status_server.serve_forever, daemon=True).start()
        with subprocess.Popen([sys.executable, "-c", POLITE]) as process:
            demo.wait_until_available(process, status_server.server_port, pathlib.Path("none"))
            process.kill()
        status_server.shutdown()
    assert not states
    assert "version 2 is available" in capsys.readouterr().out
