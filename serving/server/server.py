"""Puts the server together, runs it until it is told to stop, and lets requests finish."""

import asyncio
import concurrent.futures
import contextlib
import logging
import signal
from collections.abc import Callable

import grpc
import tensorflow as tf
from aiohttp import web
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.config import model_server_config_pb2

from data_pipeline.errors import InputError
from serving.server import grpc_api, model_config, ports, rest_api, status
from serving.server.admission import Admission
from serving.server.answers import Answers
from serving.server.core import Core
from serving.server.flags import Flags
from serving.server.predict import Options
from serving.server.servable import LoadOptions, Servable
from serving.server.versions import Timing, Versions

logger = logging.getLogger(__name__)

# Requests in memory at once, beside those being worked on.
_WAITING_PLACES = 64


def serve(flags: Flags) -> None:
    """Runs the server until SIGTERM or SIGINT.

    Raises:
      InputError: if a file, a port or a model cannot be used.
    """
    asyncio.run(_Server(flags).run())


class _Server:
    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._config = initial_config(flags)
        self._load_options = LoadOptions(
            tags=tuple(flags.saved_model_tags.split(",")), session_config=session_config(flags)
        )
        self._versions = Versions(self._load, _timing(flags))
        self._core = Core(
            self._versions,
            labels_before_available=flags.allow_version_labels_for_unavailable_models,
        )

    def _load(self, name: str, version: int, path: str) -> Servable:
        return Servable(name, version, path, self._load_options)

    def _run_graph(self, servable: Servable, feeds: dict, fetches: list, timeout_s: float) -> list:
        return servable.run(feeds, fetches, timeout_s)

    async def run(self) -> None:
        """The server's life."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        ports.check_free(self._flags.bind_address, self._flags.port)
        ports.check_free(self._flags.bind_address, self._flags.rest_api_port)
        self._versions.start()
        try:
            if await self._load_models(stop):
                async with contextlib.AsyncExitStack() as running:
                    await self._open(running)
                    await stop.wait()
                    logger.info("stopping: no new requests; waiting for those under way")
        finally:
            await asyncio.to_thread(self._versions.close)

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
        flags = self._flags
        answers = Answers(
            self._core,
            self._run_graph,
            Options(
                check_method_names=flags.enable_signature_method_name_check,
                reply_as_content=flags.enable_serialization_as_tensor_content,
            ),
        )
        grpc_threads = running.enter_context(_pool(flags.grpc_max_threads, "grpc"))
        api = grpc_api.Api(
            answers, Admission(flags.grpc_max_threads + _WAITING_PLACES), grpc_threads
        )
        running.callback(api.close)
        server = await self._open_grpc(api)
        running.push_async_callback(server.stop, flags.drain_seconds)
        if flags.rest_api_port:
            await self._open_rest(answers, running)

    async def _open_grpc(self, api: grpc_api.Api) -> grpc.aio.Server:
        flags = self._flags
        server = grpc.aio.server(options=_channel_options(flags))
        server.add_generic_rpc_handlers(tuple(api.handlers()))
        if flags.port:
            address = f"{flags.bind_address}:{flags.port}"
            _bound(lambda: server.add_insecure_port(address), address)
            logger.info("Running gRPC ModelServer at %s ...", address)
        if flags.grpc_socket_path:
            address = f"unix:{flags.grpc_socket_path}"
            _bound(lambda: server.add_insecure_port(address), address)
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", flags.grpc_socket_path)
        await server.start()
        return server

    async def _open_rest(self, answers: Answers, running: contextlib.AsyncExitStack) -> None:
        flags = self._flags
        threads = running.enter_context(_pool(flags.rest_api_num_threads, "rest"))
        options = rest_api.RestOptions(
            timeout_s=flags.rest_api_timeout_in_ms / 1000 or None,
            cors=flags.rest_api_enable_cors_support,
        )
        api = rest_api.Api(
            answers, options, Admission(flags.rest_api_num_threads + _WAITING_PLACES), threads
        )
        running.callback(api.close)
        runner = web.ServerRunner(
            web.Server(api.handle, auto_decompress=False, access_log=None),
            shutdown_timeout=flags.drain_seconds,
        )
        await runner.setup()
        running.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, flags.bind_address, flags.rest_api_port).start()
        logger.info("Exporting HTTP/REST API at:%s:%d ...", flags.bind_address, flags.rest_api_port)


def _pool(threads: int, name: str) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(max(threads, 1), name)


def initial_config(flags: Flags) -> model_server_config_pb2.ModelServerConfig:
    """The models that the command line names."""
    if flags.model_config_file:
        return model_config.read_models(flags.model_config_file)
    return model_config.of_one_model(flags.model_name, flags.model_base_path)


def session_config(flags: Flags) -> config_pb2.ConfigProto:
    """Threads and memory of every session."""
    config = config_pb2.ConfigProto()
    if flags.tensorflow_session_config_file:
        model_config.read_text(flags.tensorflow_session_config_file, config)
    config.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if not intra and not inter:
        intra = inter = flags.tensorflow_session_parallelism
    config.intra_op_parallelism_threads = intra
    config.inter_op_parallelism_threads = inter
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
    ]
    for argument in filter(None, flags.grpc_channel_arguments.split(",")):
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"--grpc_channel_arguments: {argument!r} is not key=value")
        options.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return options


def _bound(bind: Callable[[], int], address: str) -> None:
    try:
        port = bind()
    except RuntimeError as error:
        raise InputError(f"cannot listen on {address}: {error}") from error
    if not port:
        raise InputError(f"cannot listen on {address}")


def version_text() -> str:
    """What --version prints."""
    return f"TensorFlow ModelServer: embedded\nTensorFlow Library: {tf.__version__}"
