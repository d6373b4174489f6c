"""Replays recorded requests before a version is called available.

The first run of a graph compiles and allocates; a client should not wait for that.
"""

import logging
import pathlib
import time
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import prediction_log_pb2

from serving.server import inference, metrics, predict, status
from serving.server.servable import Servable

logger = logging.getLogger(__name__)

FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000


def replay(
    servable: Servable, run: predict.Run, options: predict.Options, iterations: int = 1
) -> int:
    """Sends the records of the model's warm-up file through it.

    Args:
      servable: the version to warm up.
      run: runs the graph as requests will.
      options: as for requests.
      iterations: how often each record is sent.

    Returns:
      The number of records; 0 if there is no file.

    Raises:
      ServingError: if a record fails, cannot be read, or there are more than 1,000.
    """
    path = f"{servable.path.rstrip('/')}/{FILE}"
    if not tf.io.gfile.exists(path):
        return 0
    start = time.perf_counter()
    count = 0
    outcome = "UNKNOWN"
    try:
        for record in _records(path):
            for _ in range(max(iterations, 1)):
                _send(servable, record, run, options)
            count += 1
            if count > MAX_RECORDS:
                raise status.invalid(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                )
        outcome = "OK"
    except status.ServingError as error:
        outcome = error.code.name
        raise
    finally:
        metrics.WARMUP_LATENCY.observe((servable.path, outcome), time.perf_counter() - start)
    logger.info("replayed %d warm-up requests from %s", count, pathlib.PurePath(path))
    return count


def _records(path: str) -> Iterator[prediction_log_pb2.PredictionLog]:
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record)
    except message.DecodeError as error:
        raise status.invalid(f"Failed to parse warmup record from {path}") from error
    except tf.errors.OpError as error:
        raise status.ServingError(status.code_of(error.error_code), error.message) from error


def _send(
    servable: Servable,
    record: prediction_log_pb2.PredictionLog,
    run: predict.Run,
    options: predict.Options,
) -> None:
    kind = record.WhichOneof("log_type")
    if kind == "predict_log":
        answer = predict.predict(servable, record.predict_log.request, run, options)
        predict.serialise(answer, as_content=options.reply_as_content)
    elif kind == "classify_log":
        inference.classify(servable, record.classify_log.request, run, options)
    elif kind == "regress_log":
        inference.regress(servable, record.regress_log.request, run, options)
    elif kind == "multi_inference_log":
        inference.multi_inference(servable, record.multi_inference_log.request, run, options)
    elif kind is not None:
        number = record.DESCRIPTOR.fields_by_name[kind].number
        raise status.unimplemented(f"Unsupported log_type for warmup: {number}")
