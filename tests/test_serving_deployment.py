"""The deployment folder, read by the parsers of those who will read it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import documented
import numpy as np
import pytest
import tiny_network

from data_pipeline import ports
from data_pipeline.errors import InputError
from serving import batch_fit, client, connection, deployment, golden, rollout, saved_model
from serving.connection import Access

NAME = "lung_unet"
ROW_S = 0.06


def proven(folder: pathlib.Path, equal: bool = True, onednn: bool = True) -> pathlib.Path:
    (folder / "assets.extra").mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").touch()
    told = json.dumps({"masks_equal": equal, "onednn": onednn})
    (folder / "assets.extra" / "parity.json").write_text(told)
    return folder


@pytest.fixture
def export_folder(tmp_path) -> pathlib.Path:
    for version in (1, 2, 10):
        proven(tmp_path / "exports" / NAME / str(version))
    return tmp_path / "exports" / NAME


@pytest.fixture
def texts(export_folder, tmp_path) -> dict[str, str]:
    batches_s = batch_fit.in_turn_s(ROW_S)
    return deployment.files([rollout.survey(export_folder)], tmp_path / "deploy", batches_s, 2)


def test_the_newest_version_is_the_canary_and_the_one_before_it_stable(export_folder):
    served = rollout.survey(export_folder)
    assert (served.name, served.stable, served.canary) == (NAME, 2, 10)
    assert rollout.survey(export_folder, stable=1).versions == [1, 10]


def test_an_only_version_is_both(tmp_path):
    proven(tmp_path / "m" / "4")
    served = rollout.survey(tmp_path / "m")
    assert (served.stable, served.canary, served.versions) == (4, 4, [4])


def test_what_cannot_be_deployed_is_told_of(export_folder, tmp_path):
    with pytest.raises(InputError, match=r"has no version 3; it has \[1, 2, 10\]"):
        rollout.survey(export_folder, stable=3)
    with pytest.raises(InputError, match="has no version folder"):
        rollout.survey(tmp_path / "nowhere")
    proven(export_folder / "11", equal=False)
    with pytest.raises(InputError, match="11 was not proven to give the trained model's masks"):
        rollout.survey(export_folder)
    proven(export_folder / "11")
    (export_folder / "12").mkdir()
    with pytest.raises(InputError, match=r"parity\.json cannot be read"):
        rollout.survey(export_folder)
    proven(tmp_path / "a b" / "1")
    with pytest.raises(InputError, match="cannot be a model's name"):
        rollout.survey(tmp_path / "a b")


def test_the_official_parser_reads_the_models_and_their_labels(texts):
    text_format = pytest.importorskip("google.protobuf.text_format")
    config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    parsed = text_format.Parse(texts["config/models.config"], config_pb2.ModelServerConfig())
    [model] = parsed.model_config_list.config
    assert (model.name, model.base_path) == (NAME, f"/models/{NAME}")
    assert list(model.model_version_policy.specific.versions) == [2, 10]
    assert dict(model.version_labels) == {"stable": 2, "canary": 10}


@pytest.mark.parametrize(
    ("row_s", "size"), [(0.002, 64), (0.06, 16), (0.5, 2), (0.51, 1), (7.0, 1)]
)
def test_a_batch_holds_as_many_rows_as_are_done_in_a_second(row_s, size):
    text = batch_fit.config(batch_fit.in_turn_s(row_s), cores=2)
    assert re.search(r"^max_batch_size { value: (\d+) }$", text, re.MULTILINE)[1] == str(size)


def test_a_full_queue_is_answered_within_the_deadline_of_a_rest_call():
    text = batch_fit.config(batch_fit.in_turn_s(0.06), cores=2)
    queue = int(re.search(r"^max_enqueued_batches { value: (\d+) }$", text, re.MULTILINE)[1])
    assert queue * 16 * 0.06 / 2 <= 30


def test_a_request_waits_for_others_only_where_that_pays():
    def timeout(batches_s):
        text = batch_fit.config(batches_s, cores=2)
        return re.search(r"^batch_timeout_micros { value: (\d+) }$", text, re.MULTILINE)[1]

    assert timeout({1: 0.010, 2: 0.019, 4: 0.036}) == "0"  # 1.11 times as fast by the row
    assert timeout({1: 0.010, 2: 0.012, 4: 0.016}) == "5000"  # as on a GPU
    assert "1: 10.0 ms, 2: 12.0 ms" in batch_fit.config({1: 0.010, 2: 0.012}, cores=2)


def test_no_word_of_a_template_is_left_open(texts):
    for place, text in texts.items():
        assert not re.search("@[A-Z_]+@", text), place


def test_an_unknown_word_of_a_template_is_an_error():
    with pytest.raises(KeyError):
        deployment.fill("@NOTHING@", {})


def test_compose_runs_the_models_behind_a_front(texts):
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load(texts["compose.yaml"])
    serving = compose["services"]["serving"]
    assert "ports" not in serving
    assert f"./../exports/{NAME}:/models/{NAME}:ro" in serving["volumes"]
    assert "--model_config_file=/config/models.config" in serving["command"]
    assert compose["networks"]["inside"]["internal"] is True
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            known = {place.split("/")[0] for place in texts} | {
                "secrets",
                "..",
                *compose["volumes"],
            }
            assert source.removeprefix("./").split("/")[0] in known, volume


def test_compose_follows_the_specification(texts):
    compose_spec = pytest.importorskip("compose_spec")
    compose_spec.PyCompose.from_yaml(texts["compose.yaml"]).validate()
    for right, wrong in (("networks: [inside]", "networks: [insde]"), ("    image:", "    imge:")):
        assert right in texts["compose.yaml"]
        with pytest.raises(ValueError, match=r"insde|imge"):  # so that the check above can fail
            compose_spec.PyCompose.from_yaml(texts["compose.yaml"].replace(right, wrong)).validate()


def kubernetes(texts) -> list[dict]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(texts["kubernetes.yaml"]))


def test_kubernetes_manifests_follow_its_schemas(texts):
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in kubernetes(texts):
        validate.validate(manifest, "1.30", strict=True)
    deployed = next(m for m in kubernetes(texts) if m["kind"] == "Deployment")
    deployed["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(deployed, "1.30", strict=True)


def test_kubernetes_is_given_the_same_configuration(texts):
    maps = {m["metadata"]["name"]: m for m in kubernetes(texts) if m["kind"] == "ConfigMap"}
    for name, text in maps["segmentation-config"]["data"].items():
        assert text == texts[f"config/{name}"], name
    front = maps["segmentation-front"]["data"]["nginx.conf"]
    assert front == texts["front/nginx.conf"].replace("upstream serving;", "upstream 127.0.0.1;")


def test_a_pod_is_ready_when_models_answer_and_goes_after_its_requests(texts):
    pod = next(m for m in kubernetes(texts) if m["kind"] == "Deployment")["spec"]["template"][
        "spec"
    ]
    serving = next(c for c in pod["containers"] if c["name"] == "serving")
    for probe in ("startupProbe", "readinessProbe"):
        assert serving[probe]["exec"]["command"] == ["bash", "/config/is-available.sh"]
    paused_s = {
        c["name"]: int(c["lifecycle"]["preStop"]["exec"]["command"][1]) for c in pod["containers"]
    }
    [ending_s] = re.findall(r"worker_shutdown_timeout (\d+)s;", texts["front/nginx.conf"])
    # The server outlives what the front still passes on to it.
    assert paused_s["front"] + int(ending_s) < paused_s["serving"]
    assert paused_s["serving"] < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(("with_onednn", "value"), [(True, "1"), (False, "0")])
def test_every_server_gets_the_onednn_setting_that_the_models_were_proven_with(
    with_onednn, value, tmp_path
):
    for version in "12":
        proven(tmp_path / NAME / version, onednn=with_onednn)
    batches_s = batch_fit.in_turn_s(ROW_S)
    texts = deployment.files([rollout.survey(tmp_path / NAME)], tmp_path / "d", batches_s, 2)
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load(texts["compose.yaml"])
    assert compose["services"]["serving"]["environment"] == {"TF_ENABLE_ONEDNN_OPTS": value}
    deployed = next(m for m in kubernetes(texts) if m["kind"] == "Deployment")
    serving = deployed["spec"]["template"]["spec"]["containers"][0]
    assert serving["env"] == [{"name": "TF_ENABLE_ONEDNN_OPTS", "value": value}]
    assert f" -e TF_ENABLE_ONEDNN_OPTS={value} " in texts["docker-run.sh"]


@pytest.mark.parametrize("environment", [{}, {"TF_ENABLE_ONEDNN_OPTS": "0"}])
def test_a_container_with_another_onednn_setting_is_not_available(environment, texts):
    asked = subprocess.run(
        ["bash", "-c", texts["config/is-available.sh"]],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 1
    assert asked.stderr == "TF_ENABLE_ONEDNN_OPTS must be 1, as when the models were proven\n"


def expressions(texts) -> list[str]:
    yaml = pytest.importorskip("yaml")
    alerts = yaml.safe_load(texts["prometheus/alerts.yml"])
    dashboard = json.loads(texts["grafana/dashboards/segmentation.json"])
    return [rule["expr"] for group in alerts["groups"] for rule in group["rules"]] + [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ]


def test_alerts_and_panels_are_promql(texts):
    promql = pytest.importorskip("promql_parser")
    assert len(expressions(texts)) > 8
    for expression in expressions(texts):
        # Grafana puts these in before Prometheus sees them.
        promql.parse(expression.replace("$__rate_interval", "5m").replace("$model", ".*"))


def test_prometheus_reads_what_the_server_is_told_to_offer(texts):
    yaml = pytest.importorskip("yaml")
    [job] = yaml.safe_load(texts["prometheus/prometheus.yml"])["scrape_configs"]
    assert f'path: "{job["metrics_path"]}"' in texts["config/monitoring.config"]
    assert "enable: true" in texts["config/monitoring.config"]


@pytest.mark.parametrize("place", ["docker-run.sh", "config/is-available.sh"])
def test_scripts_are_shell(place, texts):
    shell = "bash" if place.startswith("config") else "sh"
    subprocess.run([shell, "-n"], input=texts[place], text=True, check=True)


def test_the_docker_line_is_one_command_with_flags_that_the_server_knows(texts, tmp_path):
    deployment.write(tmp_path / "deploy", texts)
    stand_in = tmp_path / "docker"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    run = subprocess.run(
        [tmp_path / "deploy" / "docker-run.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = run.stdout.splitlines()
    assert words[words.index("--health-cmd") + 1] == "bash /config/is-available.sh"
    flags = words[words.index(deployment.IMAGES["IMAGE"]) + 1 :]
    assert flags == list(deployment._SERVER_FLAGS)
    [models] = [w for w in words if w.endswith(f":/models/{NAME}:ro")]
    assert (pathlib.Path(models.split(":")[0]) / "10" / "saved_model.pb").exists()


def test_the_command_writes_the_folder(export_folder, tmp_path, capsys):
    out = tmp_path / "deploy"
    deployment.main([str(export_folder), "--out", str(out), "--row-ms", "60", "--cores", "2"])
    assert f"{NAME}: stable 2, canary 10" in capsys.readouterr().out
    assert (out / "docker-run.sh").stat().st_mode & 0o111
    assert "value: 10" in (out / "config" / "models.config").read_text()
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("flags", [["--row-ms", "0"], ["--cores", "0"], ["--stable", "9"]])
def test_a_bad_flag_is_one_line(flags, export_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        deployment.main([str(export_folder), "--out", str(tmp_path / "deploy"), *flags])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "deploy").exists()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The embedded server on a generated folder: its ports, and the files as it was given them."""
    folder = tmp_path_factory.mktemp("running")
    for version, seed in ((1, 1), (2, 2)):
        network = tiny_network.build(seed=seed)
        target = folder / "exports" / NAME / str(version)
        _, png = golden.phantom_of(network.spec, 0)
        saved_model.write(network, target, saved_model.warm_up_inputs(network.spec, png))
        proven(target)
    served = rollout.survey(folder / "exports" / NAME)
    texts = deployment.files(
        [served], folder / "deploy", batch_fit.measure_s(served.folder / "2"), 2
    )
    # What containers mount lies elsewhere here.
    texts = {
        place: text.replace('"/models/', f'"{folder}/exports/') for place, text in texts.items()
    }
    deployment.write(folder / "deploy", texts)
    grpc_port, rest_port = ports.free_ports(2)
    flags = [
        flag.replace("/config/", f"{folder}/deploy/config/") for flag in deployment._SERVER_FLAGS
    ]
    flags += [f"--port={grpc_port}", f"--rest_api_port={rest_port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.model_server", *flags],
        cwd=pathlib.Path(__file__).parent.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        available = (folder / "deploy" / "config" / "is-available.sh").read_text()
        available = available.replace("8501", str(rest_port))
        give_up_at = time.monotonic() + 180
        while subprocess.run(["bash", "-c", available], capture_output=True).returncode:
            assert process.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
        # The script is content with one version of a model; the tests need both.
        url = f"http://127.0.0.1:{rest_port}/v1/models/{NAME}"
        while urllib.request.urlopen(url).read().count(b"AVAILABLE") < 2:
            assert time.monotonic() < give_up_at
            time.sleep(0.2)
        yield folder, (grpc_port, rest_port), texts
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_server_with_this_configuration_answers_by_label(running, api):
    _, ports_of, _ = running
    port = dict(zip(("grpc", "rest"), ports_of, strict=True))[api]
    versions = {}
    for label in ("stable", "canary", ""):
        model = client.connect(f"127.0.0.1:{port}", NAME, api=api, label=label)
        assert model.segment(np.arange(64.0 * 64).reshape(64, 64)).planes.shape == (2, 64, 64)
        versions[label] = model.served.version
        model.close()
    assert versions == {"stable": 1, "canary": 2, "": 2}
    with pytest.raises(InputError, match="Unrecognized servable version label: none"):
        client.connect(f"127.0.0.1:{port}", NAME, api=api, label="none")


def test_the_server_offers_the_metrics_that_panels_and_alerts_ask_for(running):
    _, (port, rest_port), texts = running
    model = client.connect(f"127.0.0.1:{port}", NAME)
    model.segment(np.arange(64.0 * 64).reshape(64, 64))
    model.close()
    url = f"http://127.0.0.1:{rest_port}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url) as reply:
        offered = set(re.findall(r"^(:[\w:]+)", reply.read().decode(), re.MULTILINE))
    asked = {n for text in expressions(texts) for n in re.findall(r":tensorflow:[\w:]+", text)}
    assert len(asked) >= 5
    assert asked <= offered


@pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")), reason="needs nginx and openssl"
)
def test_the_front_lets_in_who_has_a_token_over_tls_and_nobody_else(running):
    folder, (port, rest_port), _ = running
    documented.run(documented.example("serving.md", "openssl req"), folder)
    secrets = folder / "deploy" / "secrets"
    [token] = re.findall(r"Bearer (\w+)", (secrets / "tokens.map").read_text())
    [front_port] = ports.free_ports(1)
    conf = (folder / "deploy" / "front" / "nginx.conf").read_text()
    for old, new in {
        "/tmp/": f"{folder}/",  # first: the names below lie in there
        "/etc/secrets": str(secrets),
        "upstream serving;": "upstream 127.0.0.1;",
        "$upstream:8500": f"$upstream:{port}",
        "$upstream:8501": f"$upstream:{rest_port}",
        "listen 8443": f"listen {front_port}",
        "/dev/stdout": str(folder / "access.log"),
    }.items():
        assert old in conf
        conf = conf.replace(old, new)
    (folder / "nginx.conf").write_text(conf)
    command = ["nginx", "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    # As root it would become somebody who may not enter pytest's folder.
    stay = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    process = subprocess.Popen([*command, "-g", stay])
    try:
        address = f"localhost:{front_port}"
        for api in ("grpc", "rest"):
            access = Access(address, str(secrets / "tls.crt"), token, outage_s=60.0)
            model = client.reach(access, NAME, api=api)
            image = np.arange(64.0 * 64).reshape(64, 64)
            assert model.segment(image).planes.any()
            model.close()
            wrong = Access(address, str(secrets / "tls.crt"), "wrong", outage_s=60.0)
            with pytest.raises(connection.Refused, match=r"UNAUTHENTICATED|401"):
                client.reach(wrong, NAME, api=api)
    finally:
        process.terminate()
        process.wait()
    log = (folder / "access.log").read_text()
    assert "/tensorflow.serving.PredictionService/Predict" in log
    assert token not in log
