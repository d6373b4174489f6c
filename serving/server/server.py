"""Puts the server together, runs it until it is told to stop, and lets requests finish."""

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
import uvloop
from aiohttp import web
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from data_pipeline.errors import InputError
from serving.server import (
    connections,
    grpc_api,
    memory,
    model_config,
    protos,
    rest_api,
    status,
    warmup,
)
from serving.server.admission import Admission
from serving.server.answers import Answers
from serving.server.batching import Batcher, Parameters, read_parameters
from serving.server.core import Core
from serving.server.deadline import Deadline
from serving.server.flags import Flags
from serving.server.health import Health
from serving.server.predict import Options
from serving.server.servable import LoadOptions, Servable
from serving.server.versions import Timing, Versions

logger = logging.getLogger(__name__)

# Requests in memory at once, beside those being worked on.
_WAITING_PLACES = 64
_MOST_BATCHING_THREADS = 256
# The text, the numbers, the tensor and the reply's text, beside a body of JSON.
_JSON_GROWTH = 6
_TIDY_S = 10.0
# gRPC drops calls that have arrived and not been taken up, so these are still taken up.
_LAST_CALL_S = 0.5
# How long models may take to unload once requests have had --drain_seconds to end.
_UNLOAD_S = 5.0
# How long a connection may be silent before the server asks whether the client still lives.
_KEEPALIVE_MS = 120_000


def serve(flags: Flags) -> None:
    """Runs the server until SIGTERM or SIGINT.

    Raises:
      InputError: if a file, a port or a model cannot be used.
    """
    memory.keep_together()
    # What the imports have left stays: no collection need look through it again.
    gc.freeze()
    # A thread that computes in Python hands over after this long; the default is 5 ms.
    sys.setswitchinterval(0.001)
    uvloop.run(_Server(flags).run())


class _Server:
    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._config = initial_config(flags)
        self._credentials = tls_credentials(flags.ssl_config_file)
        self._metrics_path = metrics_path(flags.monitoring_config_file)
        self._batching = batching_parameters(flags)
        self._batcher: Batcher | None = None
        self._options = Options(
            check_method_names=flags.enable_signature_method_name_check,
            reply_as_content=flags.enable_serialization_as_tensor_content,
        )
        self._load_options = LoadOptions(
            tags=tuple(flags.saved_model_tags.split(",")),
            session_config=session_config(flags, self._batching),
        )
        self._versions = Versions(self._load, _timing(flags))
        self._core = Core(
            self._versions,
            labels_before_available=flags.allow_version_labels_for_unavailable_models,
        )

    def _load(self, name: str, version: int, path: str) -> Servable:
        servable = Servable(name, version, path, self._load_options)
        if self._flags.enable_model_warmup:
            try:
                iterations = self._flags.num_request_iterations_for_warmup
                warmup.replay(servable, self._run_graph, self._options, iterations)
            except status.ServingError:
                servable.close()
                raise
        return servable

    def _run_graph(
        self,
        servable: Servable,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        deadline: Deadline,
    ) -> list[np.ndarray]:
        deadline.check()
        if self._batcher is None:
            return servable.run(feeds, fetches, deadline.left_s())
        return self._batcher.run(servable, feeds, fetches, deadline)

    async def run(self) -> None:
        """The server's life."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if self._batching is not None:
            per_model = self._flags.enable_per_model_batching_parameters
            self._batcher = Batcher(self._batching, per_model=per_model)
        self._versions.start()
        overdue: threading.Timer | None = None
        try:
            if await self._load_models(stop):
                async with contextlib.AsyncExitStack() as running:
                    await self._open(running)
                    await stop.wait()
                    await asyncio.sleep(_LAST_CALL_S)
                    logger.info("stopping: no new requests; waiting for those under way")
                    overdue = threading.Timer(self._flags.drain_seconds + _UNLOAD_S, _end_at_once)
                    overdue.daemon = True
                    overdue.start()
        finally:
            if self._batcher is not None:
                await asyncio.to_thread(self._batcher.close)
            await asyncio.to_thread(self._versions.close)
            if overdue is not None:
                overdue.cancel()

    async def _load_models(self, stop: asyncio.Event) -> bool:
        """Waits for the first models; False if the server was stopped meanwhile."""
        loading = asyncio.ensure_future(asyncio.to_thread(self._core.reload, self._config))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            await asyncio.to_thread(self._versions.close)
            with contextlib.suppress(status.ServingError):
                await loading
            return False
        stopping.cancel()
        try:
            await loading
        except status.ServingError as error:
            raise InputError(f"Failed to start server. Error: {status.absl_text(error)}") from error
        return True

    async def _open(self, running: contextlib.AsyncExitStack) -> None:
        """Opens both APIs; what is put on the stack last is closed first."""
        answers = Answers(self._core, self._run_graph, self._options)
        await self._open_grpc(answers, running)
        if self._flags.rest_api_port:
            await self._open_rest(answers, running)
        tidying = asyncio.ensure_future(_give_memory_back())
        running.callback(tidying.cancel)
        seconds = self._flags.model_config_file_poll_wait_seconds
        if self._flags.model_config_file and seconds > 0:
            polling = asyncio.ensure_future(self._poll_config(seconds))
            running.callback(polling.cancel)

    async def _open_grpc(self, answers: Answers, running: contextlib.AsyncExitStack) -> None:
        flags = self._flags
        threads = self._threads(flags.grpc_max_threads)
        pool = running.enter_context(_pool(threads, "grpc"))
        api = grpc_api.Api(answers, Admission(threads + _WAITING_PLACES), pool)
        running.callback(api.close)
        server = grpc.aio.server(options=_channel_options(flags))
        server.add_generic_rpc_handlers(tuple(api.handlers()))
        health = Health()
        if flags.enable_grpc_healthcheck_service:
            server.add_generic_rpc_handlers((health.handler(),))
        if flags.port:
            self._listen(server, f"{flags.bind_address}:{flags.port}")
        if flags.grpc_socket_path:
            self._listen(server, f"unix:{flags.grpc_socket_path}")
        await server.start()
        running.push_async_callback(server.stop, flags.drain_seconds)
        running.callback(health.stopping)

    def _listen(self, server: grpc.aio.Server, address: str) -> None:
        try:
            if self._credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise InputError(f"cannot listen on {address}: {error}") from error
        logger.info("Running gRPC ModelServer at %s ...", address)

    async def _open_rest(self, answers: Answers, running: contextlib.AsyncExitStack) -> None:
        flags = self._flags
        threads = self._threads(flags.rest_api_num_threads)
        pool = running.enter_context(_pool(threads, "rest"))
        options = rest_api.RestOptions(
            timeout_s=flags.rest_api_timeout_in_ms / 1000 or None,
            cors=flags.rest_api_enable_cors_support,
            metrics_path=self._metrics_path,
        )
        admission = Admission(threads + _WAITING_PLACES, growth=_JSON_GROWTH)
        api = rest_api.Api(answers, options, admission, pool)
        running.callback(api.close)
        runner = web.ServerRunner(
            # A handler is told when its client resets the connection.
            connections.Server(api.handle, handler_cancellation=True),
            shutdown_timeout=flags.drain_seconds,
        )
        await runner.setup()
        running.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, flags.bind_address, flags.rest_api_port).start()
        except OSError as error:  # somebody took the port while the models were loaded
            raise InputError(f"cannot listen on port {flags.rest_api_port}: {error}") from error
        logger.info("Exporting HTTP/REST API at:%s:%d ...", flags.bind_address, flags.rest_api_port)

    def _threads(self, configured: int) -> int:
        """Threads of an API: a request in a batch holds one while it waits for the others."""
        if self._batching is None:
            return configured
        return max(configured, min(2 * self._batching.max_batch_size, _MOST_BATCHING_THREADS))

    async def _poll_config(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                config = model_config.read_models(self._flags.model_config_file)
                await asyncio.to_thread(self._core.reload, config)
            except (InputError, status.ServingError) as error:
                logger.error("the model config file was not taken over: %s", error)


def _end_at_once() -> None:
    """Ends the process although a graph still runs: nothing in TensorFlow could stop it."""
    logger.warning("a request is still running after --drain_seconds; ending without it")
    logging.shutdown()
    os._exit(0)


async def _give_memory_back() -> None:
    """Now and then returns what a burst or a very large request left behind."""
    while True:
        await asyncio.sleep(_TIDY_S)
        # An error in a circle with its request counts as a few objects, however large that was.
        gc.collect()
        await asyncio.to_thread(memory.give_back)


def _pool(threads: int, name: str) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(max(threads, 1), name)


def initial_config(flags: Flags) -> model_server_config_pb2.ModelServerConfig:
    """The models that the command line names."""
    if flags.model_config_file:
        return model_config.read_models(flags.model_config_file)
    return model_config.of_one_model(flags.model_name, flags.model_base_path)


def session_config(flags: Flags, batching: Parameters | None) -> config_pb2.ConfigProto:
    """Threads and memory of every session."""
    config = config_pb2.ConfigProto()
    if flags.tensorflow_session_config_file:
        model_config.read_text(flags.tensorflow_session_config_file, config)
    else:
        # Threads that wait for the next piece of work by spinning take the cores from other
        # requests and from Python: 6.2 ms of CPU a pass of the light network, 4.1 ms without.
        config.experimental.disable_thread_spinning = True
        if batching is not None:
            # Batches that run side by side fill the cores; to share out an operation among threads
            # as well costs more than it gains: 5.7 ms of CPU for that network's pass, 4.4 without.
            shared = (os.cpu_count() or 1) // batching.num_batch_threads
            config.intra_op_parallelism_threads = max(1, shared)
    config.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if not intra and not inter:
        intra = inter = flags.tensorflow_session_parallelism
    config.intra_op_parallelism_threads = intra or config.intra_op_parallelism_threads
    config.inter_op_parallelism_threads = inter or config.inter_op_parallelism_threads
    logger.debug("session: %s", text_format.MessageToString(config, as_one_line=True))
    return config


def _timing(flags: Flags) -> Timing:
    return Timing(
        poll_wait_s=flags.file_system_poll_wait_seconds,
        load_retries=max(flags.max_num_load_retries, 0),
        retry_interval_s=flags.load_retry_interval_micros / 1e6,
        load_threads=flags.num_load_threads,
        unload_threads=flags.num_unload_threads,
    )


def _channel_options(flags: Flags) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", grpc_api.MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", grpc_api.MAX_MESSAGE_BYTES),
        # Without this a second server could share the port and take half of the requests.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ]
    for argument in filter(None, flags.grpc_channel_arguments.split(",")):
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"--grpc_channel_arguments: {argument!r} is not key=value")
        options.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return options


def tls_credentials(path: str) -> grpc.ServerCredentials | None:
    """Keys and certificates of an SSLConfig file; None without one.

    Raises:
      InputError: if they are missing or do not fit.
    """
    if not path:
        return None
    config = model_config.read_text(path, protos.SSLConfig())
    if not config.server_key or not config.server_cert:
        raise InputError(f"{path}: server_key and server_cert are needed, as PEM text")
    if config.client_verify and not config.custom_ca:
        raise InputError(f"{path}: client_verify needs custom_ca, the authority to verify with")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def metrics_path(path: str) -> str | None:
    """Where a MonitoringConfig file wants the metrics page; None for nowhere."""
    if not path:
        return None
    prometheus = model_config.read_text(path, protos.MonitoringConfig()).prometheus_config
    if not prometheus.enable:
        return None
    return prometheus.path or rest_api.DEFAULT_METRICS_PATH


def batching_parameters(flags: Flags) -> Parameters | None:
    """How requests are joined; None if they are not."""
    if not flags.enable_batching:
        return None
    if not flags.batching_parameters_file:
        return Parameters()
    return read_parameters(flags.batching_parameters_file)


def version_text() -> str:
    """What --version prints."""
    return f"TensorFlow ModelServer: embedded\nTensorFlow Library: {tf.__version__}"
