import json
import math
import os
import time

import pytest

from data_pipeline import machine
from evaluation.speed import __main__ as speed
from evaluation.speed import server, serving, serving_tables


def served(clients, server, graph, queue=0.0, *, batching=False, send="tile"):
    latency = {"p50": server, "p95": server, "p99": server}
    return {
        "api": "grpc", "send": send, "batching": batching, "clients": clients,
        "latency_ms": latency, "server_ms": latency, "masks_a_second": 1000 * clients / server,
        "mean_ms": {"decode": 1.0, "preprocess": 2.0, "server": server, "postprocess": 3.0},
        "in_server_ms": {"handling": graph + 1, "graph": graph, "queue": queue},
        "cpu_ms": {"server": 20.0, "clients": 5.0},
    }  # fmt: skip


def in_process(runtime, callers, milliseconds, threads=1):
    return {
        "runtime": runtime, "callers": callers, "threads": threads,
        "a_second": 1000 * callers / milliseconds,
        "milliseconds": {"p50": milliseconds, "p95": milliseconds, "p99": milliseconds},
        "different_pixels": 0,
    }  # fmt: skip


MEASURED = {
    "model": "light",
    "tile": [256, 192],
    "cores": 2,
    "in_process": [
        in_process("tensorflow", 1, 24.0, threads=2), in_process("tensorflow", 2, 30.0),
        in_process("tensorflow session", 1, 20.0), in_process("tensorflow session", 2, 25.0),
        in_process("openvino", 1, 25.0, threads=2), in_process("openvino", 1, 30.0),
        in_process("openvino", 2, 40.0),
    ],
    "served": [
        served(1, 22.0, 20.0), served(16, 220.0, 30.0),
        served(16, 200.0, 180.0, 150.0, batching=True),
        served(4, 50.0, 30.0, send="file"),
    ],
}  # fmt: skip


def test_the_steps_of_a_request_add_up_to_what_the_client_waited():
    alone, many, _, _ = MEASURED["served"]
    assert serving_tables.steps(alone, alone) == {
        "decode": 1.0, "preprocess": 2.0, "wire": 2.0, "queue": 0.0, "network": 20.0,
        "postprocess": 3.0,
    }  # fmt: skip
    step = serving_tables.steps(many, alone)
    assert (step["wire"], step["queue"], step["network"]) == (2.0, 188.0, 30.0)


def test_the_queue_of_batches_is_no_part_of_the_network():
    alone, _, batched, _ = MEASURED["served"]
    step = serving_tables.steps(batched, alone)
    assert (step["wire"], step["queue"], step["network"]) == (2.0, 168.0, 30.0)


def test_what_the_numbers_come_to_is_said():
    assert serving_tables.aims(MEASURED) == [
        "TensorFlow against openvino: 0.80 of its time for one pass, 1.60 of its passes a second",
        "gRPC adds 2.0 ms to a pass of 20.0 ms, 10 %",
        "16 clients with batching get 80.0 a second, 100 % of the best in one process (80.0)",
        "of their 25.0 ms of CPU a mask the clients take 5.0; on a machine of their own they would "
        "leave the server CPU for 100.0 a second, 125 %",
        "from PNG to mask: 80.0 a second (4 clients, grpc)",
    ]


def test_the_report_in_markdown_says_where_it_was_measured_and_has_every_table():
    place = {"date": "2026-11-24", "cores": 2, "processor": "AMD", "python": "3.11"}
    text = serving_tables.markdown(
        {"machine": {**place, "versions": {"numpy": "2.4"}}, "models": [MEASURED]}
    )
    assert text.startswith(
        "2026-11-24, 2 cores of AMD, Python 3.11; numpy 2.4.\n\n## light, 256 x 192"
    )
    assert "| openvino | 2 | 1 | 40.00 | 40.00 | 40.00 | 50.0 | 0 |\n" in text
    assert "| grpc | tile | on | 16 | 200.0 | 200.0 | 200.0 | 80.0 | 20.00 | 5.00 |\n" in text
    assert "| grpc | tile | off | 1 | 1.0 | 2.0 | 2.0 | 0.0 | 20.0 | 3.0 |\n" in text
    assert "\n- gRPC adds 2.0 ms to a pass of 20.0 ms, 10 %\n" in text


def test_the_time_that_a_process_has_taken_is_told():
    spent_s = machine.cpu_s(os.getpid())
    assert spent_s == pytest.approx(time.process_time(), abs=0.5)
    assert math.isnan(machine.cpu_s(-1))


def test_a_command_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(server, "_RUN_S", 0.01)
    with pytest.raises(serving.InputError, match="python -m this takes longer than 0 s"):
        server.run("this")


def test_percentiles_are_those_of_all_values():
    values = list(range(101))
    assert serving_tables.percentiles(values) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_a_run_of_another_modality_is_refused(tmp_path, capsys):
    (tmp_path / "spec.json").write_text(
        json.dumps({"modality": "CT", "labels": ["lung"], "shape": [8, 8]})
    )
    with pytest.raises(SystemExit):
        speed.main(["serving", "--clients", "0"])
    assert "at least one client" in capsys.readouterr().err
    with pytest.raises(serving.InputError, match="not of X-rays"):
        speed.main(["serving", str(tmp_path), "--out", str(tmp_path / "out.json")])
