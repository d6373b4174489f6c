"""Writes all that it takes to run TensorFlow Serving with exported models.

    python -m serving.deployment exports/lung_unet --out deploy/

Server configuration fitted to the models, a docker line, a compose file with TLS, a token,
Prometheus and Grafana, and Kubernetes manifests. Run it again after an export: a server that
runs takes up the new models.config by itself. It loads the new version first, and says when to
run it once more, which moves the labels.
"""

import argparse
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from rich import console as rich_console

from data_pipeline import machine, onednn
from data_pipeline.errors import InputError, one_line_for_bad_input
from serving import batch_fit, proof, rollout
from serving.rollout import Served

IMAGES = {
    "IMAGE": "tensorflow/serving:2.20.0",
    "FRONT_IMAGE": "nginx:1.28-alpine",
    "PROMETHEUS_IMAGE": "prom/prometheus:v3.5.0",
    "GRAFANA_IMAGE": "grafana/grafana:12.1.0",
}
GRPC_PORT, REST_PORT, FRONT_PORT = 8500, 8501, 8443

MODELS_CONFIG = "config/models.config"
_TEMPLATES = pathlib.Path(__file__).parent / "deploy"
# Where a template of that folder lands; others keep their place.
_PLACES = {
    "monitoring.config": "config/monitoring.config",
    "is-available.sh": "config/is-available.sh",
    "nginx.conf": "front/nginx.conf",
}
_SERVER_FLAGS = (
    "--model_config_file=/config/models.config",
    "--model_config_file_poll_wait_seconds=30",
    # Labels stand in the file from the start, when no version is loaded yet.
    "--allow_version_labels_for_unavailable_models",
    "--enable_batching",
    "--batching_parameters_file=/config/batching.config",
    f"--tensorflow_intra_op_parallelism={batch_fit.THREADS}",
    "--monitoring_config_file=/config/monitoring.config",
    "--enable_grpc_healthcheck_service",
)
_SLOW_FACTOR = 20  # times the latency of a request alone, and an alert is raised


def files(
    models: Sequence[Served], out: pathlib.Path, batches_s: Mapping[int, float], cores: int
) -> dict[str, str]:
    """Returns the text of each file of a deployment folder, by its place in `out`."""
    words = _words(models, out, batches_s, cores)
    written = {
        MODELS_CONFIG: rollout.models_config(models),
        "config/batching.config": batch_fit.config(batches_s, cores),
    }
    for path in sorted(p for p in _TEMPLATES.rglob("*") if p.is_file()):
        place = path.relative_to(_TEMPLATES).as_posix()
        written[_PLACES.get(place, place)] = fill(path.read_text(encoding="utf-8"), words)
    return written


def _words(
    models: Sequence[Served], out: pathlib.Path, batches_s: Mapping[int, float], cores: int
) -> dict[str, str]:
    row_s = batches_s[1]
    with_onednn = proof.common_setting([v for model in models for v in model.version_folders])
    mounts = {m.name: os.path.relpath(m.folder.resolve(), out.resolve()) for m in models}
    words = IMAGES | {
        "GRPC_PORT": str(GRPC_PORT),
        "REST_PORT": str(REST_PORT),
        "FRONT_PORT": str(FRONT_PORT),
        "UPSTREAM": "serving",
        "ONEDNN": onednn.value(with_onednn),
        "SECRETS": "/etc/secrets",
        "MODEL_NAMES": " ".join(model.name for model in models),
        "SERVER_FLAGS": " \\\n  ".join(_SERVER_FLAGS),
        "COMPOSE_FLAGS": _indented("\n".join(f"- {flag}" for flag in _SERVER_FLAGS), 6),
        "KUBERNETES_FLAGS": _indented("\n".join(f"- {flag}" for flag in _SERVER_FLAGS), 12),
        "DOCKER_VOLUMES": "\n".join(
            f'  -v "$PWD/{path}:/models/{name}:ro" \\' for name, path in mounts.items()
        ),
        "COMPOSE_VOLUMES": "\n".join(
            f'      - "./{path}:/models/{name}:ro"' for name, path in mounts.items()
        ),
        "ROW_MS": f"{1000 * row_s:.0f}",
        "SLOW_FACTOR": str(_SLOW_FACTOR),
        "SLOW_MICROSECONDS": str(int(1e6 * row_s * _SLOW_FACTOR)),
        "MODELS_CONFIG": _indented(rollout.models_config(models)),
        "BATCHING_CONFIG": _indented(batch_fit.config(batches_s, cores)),
    }
    words["MONITORING_CONFIG"] = _indented(_template("monitoring.config"))
    words["IS_AVAILABLE"] = _indented(fill(_template("is-available.sh"), words))
    in_pod = words | {"UPSTREAM": "127.0.0.1"}  # nginx and the server share a pod
    return words | {"SIDECAR_NGINX": _indented(fill(_template("nginx.conf"), in_pod))}


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _indented(text: str, by: int = 4) -> str:
    return "\n".join(f"{' ' * by}{line}" if line else "" for line in text.rstrip("\n").split("\n"))


def fill(template: str, words: dict[str, str]) -> str:
    """Returns a template with each @WORD@ replaced.

    Raises:
      KeyError: if a word is not known.
    """
    return re.sub("@([A-Z_]+)@", lambda match: words[match[1]], template)


def write(out: pathlib.Path, texts: dict[str, str]) -> None:
    """Writes files, each whole or not at all; scripts can be run."""
    for place, text in texts.items():
        path = out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.chmod(0o755 if path.suffix == ".sh" else 0o644)
        unfinished.replace(path)


def _slowest_batches_s(models: Sequence[Served]) -> dict[int, float]:
    """Returns what batches of the model take whose rows take longest, measured here."""
    measured = [batch_fit.measure_s(model.folder / str(model.canary)) for model in models]
    return max(measured, key=lambda batches_s: batches_s[1])


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags, writes the folder, and says how to start."""
    parser = argparse.ArgumentParser(prog="serving.deployment", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("exports", type=pathlib.Path, nargs="+", metavar="EXPORT", help="exports/MODEL")
    add("--out", type=pathlib.Path, required=True, help="the deployment folder")
    add("--stable", type=int, help="version labelled stable; default the one before the newest")
    add("--cores", type=int, default=len(machine.cores()), help="of the machine that will serve")
    add("--row-ms", type=float, help="time of one forward pass there; default: measured here")
    flags = parser.parse_args(argv)
    console = rich_console.Console(highlight=False, soft_wrap=True)
    with one_line_for_bad_input():
        wanted = [rollout.survey(folder, flags.stable) for folder in flags.exports]
        models = [rollout.next_step(model, flags.out / MODELS_CONFIG) for model in wanted]
        if len({model.name for model in models}) < len(models):
            raise InputError("two exports have the same name; the last folder's name is served")
        if flags.cores < 1 or (flags.row_ms is not None and flags.row_ms <= 0):
            raise InputError("--cores and --row-ms are above 0")
        with console.status("measuring forward passes"):
            batches_s = (
                _slowest_batches_s(wanted)
                if flags.row_ms is None
                else batch_fit.in_turn_s(flags.row_ms / 1000)
            )
        write(flags.out, files(models, flags.out, batches_s, flags.cores))
    for model in models:
        console.print(f"{model.name}: stable {model.stable}, canary {model.canary}")
        if model.loading:
            console.print(
                f"{model.name}: versions {', '.join(map(str, model.versions))} are loaded first; "
                "run this again once they are AVAILABLE, and the labels move"
            )
    console.print(f"one row takes {1000 * batches_s[1]:.1f} ms; deployment: {flags.out}")
    console.print(f"next: sh {flags.out}/docker-run.sh, or see docs/serving.md for TLS and a token")


if __name__ == "__main__":
    main()
