"""The generated Prometheus files, judged by Prometheus itself where it is installed."""

import json
import pathlib
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import served_models
import tiny_network

from data_pipeline import ports
from serving import batch_fit, deployment, golden, rollout, saved_model

# Keras, saving a network; see setup.cfg.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)"
)
NAME = "lung_unet"
ROW_S = 0.06


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A deployment of one model."""
    folder = tmp_path_factory.mktemp("judged")
    network = tiny_network.build()
    _, png = golden.phantom_of(network.spec, 0)
    version = folder / NAME / "1"
    saved_model.write(network, version, saved_model.warm_up_inputs(network.spec, png))
    (version / "assets.extra" / "parity.json").write_text('{"masks_equal": true, "onednn": true}')
    models = [rollout.survey(folder / NAME)]
    batches_s = batch_fit.in_turn_s(ROW_S)
    deployment.write(
        folder / "deploy", deployment.files(models, folder / "deploy", batches_s, cores=2)
    )
    return folder


def promtool(*arguments: object, cwd: pathlib.Path) -> str:
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_takes_the_configuration_and_its_rules(folder):
    told = promtool("check", "config", "prometheus.yml", cwd=folder / "deploy" / "prometheus")
    assert "prometheus.yml is valid" in told
    assert "3 rules found" in told


COUNT = ':tensorflow:serving:request_count{model_name="lungs",status="%s"}'
BUCKET = ':tensorflow:serving:request_latency_bucket{model_name="lungs",le="%s"}'


def alerts(series: dict[str, str], expected: dict[str, dict]) -> dict:
    """A case for promtool: which alerts these series raise after 20 minutes, with which labels."""
    texts = {
        "ServerGone": "The model server does not answer",
        "RequestsFail": "More than one request in twenty fails",
        "RequestsAreSlow": "One request in twenty takes more than 20 times as long as alone",
    }
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {
                "eval_time": "20m",
                "alertname": name,
                "exp_alerts": [{"exp_labels": expected[name], "exp_annotations": {"summary": text}}]
                if name in expected
                else [],
            }
            for name, text in texts.items()
        ],
    }


@needs_promtool
def test_alerts_are_raised_by_what_they_are_for_and_by_nothing_else(folder):
    up = 'up{job="segmentation"}'
    fast = {BUCKET % le: "0+100x30" for le in ("1000000", "2000000", "+Inf")}
    # 1.2 seconds are 20 times ROW_S; of these requests half take between 1 and 2 seconds.
    slow = fast | {BUCKET % "1000000": "0+50x30"}
    one_in_ten = {COUNT % "OK": "0+90x30", COUNT % "UNAVAILABLE": "0+10x30"}
    one_in_hundred = {COUNT % "OK": "0+99x30", COUNT % "UNAVAILABLE": "0+1x30"}
    cases = {
        "rule_files": [str(folder / "deploy" / "prometheus" / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            alerts({up: "1x30", **fast, **one_in_hundred}, {}),
            alerts({up: "1x10 0x20"}, {"ServerGone": {"job": "segmentation"}}),
            alerts({up: "1x30", **one_in_ten}, {"RequestsFail": {}}),
            alerts({up: "1x30", **slow}, {"RequestsAreSlow": {"model_name": "lungs"}}),
        ],
    }
    (folder / "cases.yml").write_text(json.dumps(cases))  # JSON is YAML
    assert "SUCCESS" in promtool("test", "rules", "cases.yml", cwd=folder)


def ask(port: int, path: str, **query: str) -> dict:
    url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=60) as reply:
        return json.load(reply)["data"]


def until(condition, timeout_s: float = 200.0) -> None:
    end = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except (OSError, urllib.error.URLError):
            pass
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


@pytest.mark.slow
@needs_prometheus
def test_prometheus_reads_the_server_and_every_panel_shows_something(folder, tmp_path):
    deploy = folder / "deploy"
    [port] = ports.free_ports(1)
    with served_models.serving(
        f"--model_base_path={folder}/{NAME}",
        f"--model_name={NAME}",
        "--enable_batching",
        f"--batching_parameters_file={deploy}/config/batching.config",
        f"--monitoring_config_file={deploy}/config/monitoring.config",
        log=tmp_path / "server.log",
    ) as running:
        shutil.copytree(deploy / "prometheus", tmp_path / "prometheus")
        config = tmp_path / "prometheus" / "prometheus.yml"
        text = config.read_text()
        for old, new in (("serving:8501", f"127.0.0.1:{running.rest_port}"), ("15s", "1s")):
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data",
                   f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        with (tmp_path / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: ask(port, "query", query='up{job="segmentation"} == 1')["result"])
            body = json.dumps({"signature_name": "spec", "inputs": {"query": ["spec"]}})

            def every_panel_shows_something() -> bool:
                assert running.post(f"/v1/models/{NAME}:predict", body)[0] == 200
                return all(ask(port, "query", query=text)["result"] for text in panels(deploy))

            until(every_panel_shows_something)
            rules = [r for g in ask(port, "rules")["groups"] for r in g["rules"]]
            assert len(rules) == 3
            until(lambda: {r["health"] for g in ask(port, "rules")["groups"] for r in g["rules"]}
                  == {"ok"})  # fmt: skip
        finally:
            process.terminate()
            process.wait()


def panels(deploy: pathlib.Path) -> list[str]:
    """What the dashboard asks for, as Grafana sends it."""
    dashboard = json.loads((deploy / "grafana/dashboards/segmentation.json").read_text())
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(texts) > 5
    return [
        text.replace("$__rate_interval", "1m").replace("$__range", "5m").replace("$model", NAME)
        for text in texts
    ]
