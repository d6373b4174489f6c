"""Predict: from a request to arrays, through the graph, and to a reply."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.server import guards, metrics, status, tensors
from serving.server.deadline import NEVER, Deadline
from serving.server.servable import DEFAULT_SIGNATURE, Servable

PREDICT_METHODS = frozenset(
    f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress")
)

_OUTPUTS_FIELD = 1  # of PredictResponse: map<string, TensorProto> outputs


@dataclasses.dataclass(frozen=True)
class Options:
    """Switches of the command line that change how requests are answered."""

    check_method_names: bool = False
    reply_as_content: bool = False


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the graph answered, by output name."""

    outputs: dict[str, np.ndarray]
    spec: model_pb2.ModelSpec


Run = Callable[[Servable, Mapping[str, np.ndarray], Sequence[str], Deadline], list[np.ndarray]]


def predict(
    servable: Servable,
    request: predict_pb2.PredictRequest,
    run: Run,
    options: Options,
    deadline: Deadline = NEVER,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> Prediction:
    """Answers one request.

    Args:
      servable: the version that `request.model_spec` names.
      request: its inputs are taken unless `inputs` is given.
      run: runs the graph, at once or as part of a batch.
      options: switches of the command line.
      deadline: when the caller stops waiting.
      inputs: arrays by input name, where they are already decoded.

    Raises:
      ServingError: if the request does not fit the signature, or the graph fails.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise status.precondition(f'Serving signature key "{name}" not found.')
    _check_method(signature, options)
    feeds = _feeds(servable, signature, request.inputs if inputs is None else inputs)
    aliases = _aliases(signature, request.output_filter)
    start = time.perf_counter()
    outputs = run(servable, feeds, [signature.outputs[alias].name for alias in aliases], deadline)
    metrics.RUNTIME_LATENCY.observe(
        (request.model_spec.name, "Predict", "TF1"), time.perf_counter() - start
    )
    return Prediction(
        dict(zip(aliases, outputs, strict=True)),
        reply_spec(request.model_spec.name, name, servable.version),
    )


def reply_spec(model: str, signature: str, version: int | None) -> model_pb2.ModelSpec:
    """The ModelSpec of a reply: what really answered."""
    spec = model_pb2.ModelSpec(name=model, signature_name=signature or DEFAULT_SIGNATURE)
    if version is not None:
        spec.version.value = version
    return spec


def serialise(prediction: Prediction, *, as_content: bool) -> bytes:
    """The PredictResponse on the wire."""
    parts: list[bytes | memoryview] = []
    for name, array in prediction.outputs.items():
        tensor = tensors.encode_parts(array, as_content=as_content)
        entry = [
            *tensors.length_delimited(1, [name.encode()]),
            *tensors.length_delimited(2, tensor),
        ]
        parts += tensors.length_delimited(_OUTPUTS_FIELD, entry)
    parts.append(predict_pb2.PredictResponse(model_spec=prediction.spec).SerializeToString())
    return b"".join(parts)


def _check_method(signature: meta_graph_pb2.SignatureDef, options: Options) -> None:
    if options.check_method_names and signature.method_name not in PREDICT_METHODS:
        methods = ", ".join(
            f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress")
        )
        raise status.internal(
            f"Expected prediction signature method_name to be one of {{{methods}}}. "
            f"Was: {signature.method_name}"
        )


def _feeds(
    servable: Servable, signature: meta_graph_pb2.SignatureDef, given: Mapping
) -> dict[str, np.ndarray]:
    """Arrays by tensor name, decoded and of the signature's dtypes."""
    _check_names(signature, given)
    feeds = {}
    for position, (alias, info) in enumerate(sorted(signature.inputs.items())):
        value = given[alias] if alias in given else signature.defaults[alias]
        array = value if isinstance(value, np.ndarray) else _decoded(alias, value)
        _check_dtype(position, array, info)
        if servable.checks_ranks:
            guards.check_rank(alias, array, info)
        feeds[info.name] = array
    return feeds


def _check_names(signature: meta_graph_pb2.SignatureDef, given: Mapping) -> None:
    sent, known = set(given), set(signature.inputs)
    missing = known - sent - set(signature.defaults)
    if missing or sent - known:
        raise status.invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({_braced(sent)}) != len({_braced(known)}). "
            f"Sent extra: {_braced(sent - known)}. "
            f"Missing but required: {_braced(known - sent)}."
        )


def _braced(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _decoded(alias: str, proto: object) -> np.ndarray:
    try:
        return tensors.decode(proto)
    except (tensors.TensorParsingError, ValueError, OverflowError, TypeError) as error:
        raise status.invalid(f"tensor parsing error: {alias}") from error


def _check_dtype(position: int, array: np.ndarray, info: meta_graph_pb2.TensorInfo) -> None:
    given, wanted = tensors.dtype_name_of(array), tensors.dtype_name(info.dtype)
    if given != wanted:
        raise status.invalid(f"Expects arg[{position}] to be {wanted} but {given} is provided")


def _aliases(signature: meta_graph_pb2.SignatureDef, wanted: Sequence[str]) -> list[str]:
    """The outputs to fetch: those asked for, or all."""
    seen: set[str] = set()
    for alias in wanted:
        if alias not in signature.outputs:
            raise status.invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be "
                f"in the set {_braced(set(signature.outputs))}."
            )
        if alias in seen:
            raise status.invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return list(wanted) or sorted(signature.outputs)
