"""The command line: the flags of tensorflow_model_server, and a few of our own.

A flag that the embedded server does not have is an error. One that it has but cannot follow
says so: with an error if ignoring it would change what is served, else with a warning.
"""

import argparse
import dataclasses
import os
from typing import Any, NoReturn

from data_pipeline.errors import InputError

_CPUS = os.cpu_count() or 1


def _flag(default: object, text: str, *, refused: str = "", ignored: str = "") -> Any:
    """A field with its help; `refused` or `ignored` say why it cannot be followed."""
    metadata = {"help": text, "refused": refused, "ignored": ignored}
    return dataclasses.field(default=default, metadata=metadata)


_NO_POOL = "TensorFlow's Python session has no pluggable thread pools"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Every setting of the server."""

    port: int = _flag(8500, "TCP port for gRPC; 0 disables it")
    grpc_socket_path: str = _flag("", "UNIX socket for gRPC")
    rest_api_port: int = _flag(0, "TCP port for REST; 0 disables it")
    bind_address: str = _flag(
        "127.0.0.1", "address that both APIs listen on (embedded server only; 0.0.0.0 for all)"
    )
    drain_seconds: float = _flag(
        25.0, "how long SIGTERM waits for requests under way (embedded server only)"
    )
    rest_api_num_threads: int = _flag(4 * _CPUS, "threads for REST")
    rest_api_timeout_in_ms: int = _flag(30000, "timeout for REST calls; 0 waits for ever")
    rest_api_enable_cors_support: bool = _flag(False, "send CORS headers")
    enable_batching: bool = _flag(False, "join requests into batches")
    batching_parameters_file: str = _flag("", "text-format BatchingParameters")
    enable_per_model_batching_parameters: bool = _flag(
        False, "read batching_params.pbtxt from the SavedModel's folder"
    )
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "allow new labels on versions that are not loaded yet"
    )
    model_config_file: str = _flag("", "text-format ModelServerConfig; overrides --model_name")
    model_config_file_poll_wait_seconds: int = _flag(
        0, "seconds between reads of the model config file; 0 reads it once"
    )
    model_name: str = _flag("default", "name of the one model")
    model_base_path: str = _flag("", "folder with the model's version folders")
    num_load_threads: int = _flag(0, "threads that load versions; 0 chooses")
    num_unload_threads: int = _flag(0, "threads that unload versions; 0 chooses")
    max_num_load_retries: int = _flag(5, "how often a failed load is tried again")
    load_retry_interval_micros: int = _flag(60_000_000, "time between these, in microseconds")
    file_system_poll_wait_seconds: int = _flag(
        1, "seconds between looks for new versions; 0 looks once"
    )
    flush_filesystem_caches: bool = _flag(
        True, "flush file caches after loading", ignored="files are read through the page cache"
    )
    tensorflow_session_parallelism: int = _flag(0, "threads of a session; 0 chooses")
    tensorflow_session_config_file: str = _flag("", "text-format tensorflow.ConfigProto")
    tensorflow_intra_op_parallelism: int = _flag(0, "threads within an operation; 0 chooses")
    tensorflow_inter_op_parallelism: int = _flag(0, "operations at once; 0 chooses")
    use_alts_credentials: bool = _flag(
        False, "use ALTS", refused="ALTS needs Google's infrastructure; use --ssl_config_file"
    )
    ssl_config_file: str = _flag("", "text-format SSLConfig; gRPC then talks TLS only")
    platform_config_file: str = _flag(
        "", "text-format PlatformConfigMap", refused="it serves the platform 'tensorflow' only"
    )
    per_process_gpu_memory_fraction: float = _flag(0.0, "share of GPU memory; 0 chooses")
    saved_model_tags: str = _flag("serve", "tags of the meta graph to load, comma-separated")
    grpc_channel_arguments: str = _flag("", "key=value,... for the gRPC server")
    grpc_max_threads: int = _flag(4 * _CPUS, "threads for gRPC")
    enable_model_warmup: bool = _flag(True, "replay assets.extra/tf_serving_warmup_requests")
    num_request_iterations_for_warmup: int = _flag(0, "times each is replayed; 0 is once")
    version: bool = _flag(False, "print the version and exit")
    monitoring_config_file: str = _flag("", "text-format MonitoringConfig")
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        True, "keep signatures only in memory", ignored="it keeps signatures only, always"
    )
    prefer_tflite_model: bool = _flag(
        False, "serve model.tflite", refused="it runs SavedModels only"
    )
    num_tflite_pools: int = _flag(_CPUS, "TFLite pools", ignored="it runs SavedModels only")
    num_tflite_interpreters_per_pool: int = _flag(
        1, "TFLite interpreters in a pool", ignored="it runs SavedModels only"
    )
    enable_signature_method_name_check: bool = _flag(False, "check method_name of signatures")
    xla_cpu_compilation_enabled: bool = _flag(
        False, "XLA JIT on CPU", ignored="what a SavedModel marks for XLA is always compiled"
    )
    xla_gpu_compilation_enabled: bool = _flag(
        False, "XLA JIT", ignored="what a SavedModel marks for XLA is always compiled"
    )
    enable_profiler: bool = _flag(True, "serve the profiler", ignored="it has no profiler service")
    thread_pool_factory_config_file: str = _flag(
        "", "text-format ThreadPoolConfig", refused=_NO_POOL
    )
    mixed_precision: str = _flag(
        "", "mixed precision mode", refused="precision is fixed when a model is exported"
    )
    skip_initialize_tpu: bool = _flag(False, "do not initialise TPUs", ignored="it has no TPUs")
    enable_grpc_healthcheck_service: bool = _flag(False, "serve grpc.health.v1")
    enable_serialization_as_tensor_content: bool = _flag(
        False, "answer Predict with tensor_content"
    )


def parse(argv: list[str] | None = None, *, check: bool = True) -> Flags:
    """Reads the flags; both --flag=value and --flag value will do.

    Args:
      argv: the arguments; None takes those of the process.
      check: whether they must be complete and such as the embedded server can follow.

    Raises:
      InputError: on an unknown flag, a wrong value or one that cannot be followed.
    """
    parser = _Parser(
        prog="python -m serving.model_server",
        description="Serves SavedModels as tensorflow_model_server does.",
        allow_abbrev=False,
    )
    for field in dataclasses.fields(Flags):
        _add(parser, field)
    flags = Flags(**vars(parser.parse_args(argv)))
    if check and not flags.version:
        check_complete(flags)
        check_honoured(flags)
    return flags


def warnings(flags: Flags) -> list[str]:
    """What is to be said of flags that were set and have no effect here."""
    return [
        f"--{field.name} has no effect in the embedded server: {field.metadata['ignored']}"
        for field in dataclasses.fields(flags)
        if field.metadata["ignored"] and getattr(flags, field.name) != field.default
    ]


class _Parser(argparse.ArgumentParser):
    """Raises InputError instead of printing a usage page."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the flags")


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    text = f"{field.metadata['help']} (default: {field.default!r})"
    if field.type is bool:
        parser.add_argument(
            f"--{field.name}", type=_truth, nargs="?", const=True, default=field.default, help=text
        )
    else:
        parser.add_argument(f"--{field.name}", type=field.type, default=field.default, help=text)


def _truth(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return values[text.lower()]


def check_honoured(flags: Flags) -> None:
    """Raises InputError if a flag asks for what the embedded server cannot do."""
    for field in dataclasses.fields(flags):
        if field.metadata["refused"] and getattr(flags, field.name) != field.default:
            raise InputError(
                f"--{field.name} cannot be honoured by the embedded server: "
                f"{field.metadata['refused']}"
            )


def check_complete(flags: Flags) -> None:
    """Raises InputError if flags are missing or contradict each other."""
    if not flags.port and not flags.grpc_socket_path:
        raise InputError("at least one of --port and --grpc_socket_path must be set")
    if not flags.model_base_path and not flags.model_config_file:
        raise InputError("give --model_base_path, or --model_config_file")
    if flags.batching_parameters_file and not flags.enable_batching:
        raise InputError("--batching_parameters_file is set without --enable_batching")
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        raise InputError(f"--port and --rest_api_port are both {flags.port}; they must differ")
    _check_parallelism(flags)


def _check_parallelism(flags: Flags) -> None:
    separate = flags.tensorflow_intra_op_parallelism > 0, flags.tensorflow_inter_op_parallelism > 0
    if flags.tensorflow_session_parallelism > 0 and all(separate):
        raise InputError(
            "set either --tensorflow_session_parallelism, or --tensorflow_intra_op_parallelism "
            "and --tensorflow_inter_op_parallelism, not all three"
        )
