"""Small SavedModels with answers that can be worked out by hand, and a server to put them in."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import numpy as np

from data_pipeline import ports

ROOT = pathlib.Path(__file__).parent.parent


def half_plus(path: pathlib.Path, offset: float = 2.0) -> pathlib.Path:
    """y = x / 2 + offset for float32 of any shape; `pair`: two inputs and outputs."""
    import tensorflow as tf

    class HalfPlus(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = tf.Variable(offset)

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "x")])
        def half(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x / 2 + self.offset}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float32, "a"),
                tf.TensorSpec([None], tf.int64, "b"),
            ]
        )
        def pair(self, a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"sum": a + tf.cast(b, tf.float32), "twice": b * 2}

    module = HalfPlus()
    signatures = {"serving_default": module.half, "pair": module.pair}
    tf.saved_model.save(module, str(path), signatures)
    return path


def strings(path: pathlib.Path) -> pathlib.Path:
    """`text` -> `text` upper-cased and `raw_bytes` as it came."""
    import tensorflow as tf

    class Upper(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def upper(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"text": tf.strings.upper(text), "raw_bytes": tf.identity(text)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
        def echo(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"mask_bytes": tf.identity(image_bytes)}

    module = Upper()
    tf.saved_model.save(module, str(path), {"serving_default": module.upper, "echo": module.echo})
    return path


def spinning(path: pathlib.Path) -> pathlib.Path:
    """`steps` -> y = steps, after counting to it: a request that takes as long as is wanted."""
    import tensorflow as tf

    class Spinning(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "steps")])
        def spin(self, steps: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), [0])[0]}

    module = Spinning()
    tf.saved_model.save(module, str(path), {"serving_default": module.spin})
    return path


def examples_tf1(path: pathlib.Path) -> pathlib.Path:
    """TF1-style: classify and regress signatures on tf.Example with a float feature x.

    regress: y = x / 2 + 2. classify: labels "even" and "odd", scores x and x + 1.
    predict (serving_default): y = x / 2 + 3 on a float placeholder of shape (None, 1).
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        serialised = v1.placeholder(tf.string, [None], "examples")
        parsed = v1.io.parse_example(serialised, {"x": v1.io.FixedLenFeature([1], tf.float32)})["x"]
        half = v1.get_variable("half", initializer=0.5)
        value = parsed * half + 2.0
        scores = tf.concat([parsed, parsed + 1.0], 1)
        labels = tf.tile(tf.constant([[b"even", b"odd"]]), [tf.shape(parsed)[0], 1])
        x = v1.placeholder(tf.float32, [None, 1], "x")
        y = x * half + 3.0
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info
        define = v1.saved_model.build_signature_def
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": define(
                    {"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict"
                ),
                "regress": define(
                    {"inputs": info(serialised)},
                    {"outputs": info(value)},
                    "tensorflow/serving/regress",
                ),
                "classify": define(
                    {"inputs": info(serialised)},
                    {"classes": info(labels), "scores": info(scores)},
                    "tensorflow/serving/classify",
                ),
            },
        )
        builder.save()
    return path


class Running:
    """An embedded server in a process of its own."""

    def __init__(self, process: subprocess.Popen, port: int, rest_port: int) -> None:
        self.process = process
        self.port = port
        self.rest_port = rest_port

    @property
    def address(self) -> str:
        """Where gRPC listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where REST listens."""
        return f"http://127.0.0.1:{self.rest_port}"

    def get(self, path: str, method: str = "GET", **options: object) -> tuple[int, str]:
        """Status and text of a request without a body."""
        return self.send(method, path, None, **options)

    def post(self, path: str, body: bytes | str, **options: object) -> tuple[int, str]:
        """Status and text of a POST."""
        return self.send("POST", path, body.encode() if isinstance(body, str) else body, **options)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str]:
        """Status and text of any request."""
        request = urllib.request.Request(
            self.url + path, data=body, method=method, headers=headers or {}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self) -> int:
        """Ends the server as an operator would, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(*flags: str, log: pathlib.Path | None = None, wait: bool = True) -> Iterator[Running]:
    """Runs `python -m serving.model_server` on free ports until the block ends."""
    port, rest_port = ports.free_ports(2)
    command = [
        sys.executable,
        "-m",
        "serving.model_server",
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        *flags,
    ]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1"}, stderr=output
        )
        running = Running(process, port, rest_port)
        try:
            if wait:
                wait_listening(running)
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def wait_listening(running: Running, timeout_s: float = 400) -> None:
    """Waits until REST, which opens last, accepts connections."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if running.process.poll() is not None:
            raise RuntimeError(f"the server ended with code {running.process.returncode}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", running.rest_port), 1).close()
            return
        time.sleep(0.05)
    raise TimeoutError("the server did not open its ports")


def tensor(array: np.ndarray) -> object:
    """A TensorProto of an array."""
    import tensorflow as tf

    return tf.make_tensor_proto(array)


def tensor_info(dtype: str) -> object:
    """What a signature says of an input of some dtype."""
    import tensorflow as tf
    from tensorflow.core.protobuf import meta_graph_pb2

    return meta_graph_pb2.TensorInfo(dtype=tf.dtypes.as_dtype(dtype).as_datatype_enum)
