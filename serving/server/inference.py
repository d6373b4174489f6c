"""Classify, Regress and MultiInference: lists of tf.Example in, labels and scores out."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    regression_pb2,
)

from serving.server import metrics, status, tensors
from serving.server.deadline import NEVER, Deadline
from serving.server.predict import Options, Run, reply_spec
from serving.server.servable import DEFAULT_SIGNATURE, Servable

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_INPUTS, _CLASSES, _SCORES, _OUTPUTS = "inputs", "classes", "scores", "outputs"


def classify(
    servable: Servable,
    request: classification_pb2.ClassificationRequest,
    run: Run,
    options: Options,
    deadline: Deadline = NEVER,
) -> classification_pb2.ClassificationResponse:
    """Labels and scores for each example.

    Raises:
      ServingError: if the signature is none of a classifier, or the graph fails.
    """
    signature = _signature(servable, request.model_spec.signature_name)
    names = classifier_outputs(signature, options)
    examples = serialised_examples(request.input)
    outputs = _run(servable, signature, examples, names, run, deadline, "Classify")
    response = classification_pb2.ClassificationResponse(
        model_spec=reply_spec(
            request.model_spec.name, request.model_spec.signature_name, servable.version
        )
    )
    fill_classes(signature, len(examples), outputs, response.result)
    return response


def regress(
    servable: Servable,
    request: regression_pb2.RegressionRequest,
    run: Run,
    options: Options,
    deadline: Deadline = NEVER,
) -> regression_pb2.RegressionResponse:
    """One value for each example.

    Raises:
      ServingError: if the signature is none of a regressor, or the graph fails.
    """
    signature = _signature(servable, request.model_spec.signature_name)
    names = regressor_outputs(signature, options)
    examples = serialised_examples(request.input)
    outputs = _run(servable, signature, examples, names, run, deadline, "Regress")
    response = regression_pb2.RegressionResponse(
        model_spec=reply_spec(
            request.model_spec.name, request.model_spec.signature_name, servable.version
        )
    )
    fill_values(signature, len(examples), outputs, response.result)
    return response


def multi_inference(
    servable: Servable,
    request: inference_pb2.MultiInferenceRequest,
    run: Run,
    options: Options,
    deadline: Deadline = NEVER,
) -> inference_pb2.MultiInferenceResponse:
    """Several signatures of one model on the same examples, in one run of the graph.

    Raises:
      ServingError: if the tasks do not fit together or the model, or the graph fails.
    """
    inputs, names = _plan(servable, request.tasks, options)
    examples = serialised_examples(request.input)
    fetches = sorted(names)
    arrays = run(servable, dict.fromkeys(sorted(inputs), examples), fetches, deadline)
    metrics.EXAMPLE_TOTAL.add((servable.name,), len(examples))
    outputs = dict(zip(fetches, arrays, strict=True))
    response = inference_pb2.MultiInferenceResponse()
    for task in request.tasks:
        spec = task.model_spec
        signature = servable.signatures[spec.signature_name or DEFAULT_SIGNATURE]
        result = response.results.add(
            model_spec=reply_spec(spec.name, spec.signature_name, servable.version)
        )
        if task.method_name == CLASSIFY:
            fill_classes(signature, len(examples), outputs, result.classification_result)
        else:
            fill_values(signature, len(examples), outputs, result.regression_result)
    return response


def common_model(tasks: Sequence[inference_pb2.InferenceTask]) -> None:
    """Raises ServingError unless every task names one and the same model."""
    names = [task.model_spec.name for task in tasks]
    if not all(names):
        raise status.invalid("Found ModelSpec with an empty model name.")
    if len(set(names)) > 1:
        raise status.invalid(
            "All ModelSpecs in a MultiInferenceRequest must access the same model name."
        )


def _plan(
    servable: Servable, tasks: Sequence[inference_pb2.InferenceTask], options: Options
) -> tuple[set[str], set[str]]:
    """The tensors that all tasks together feed and fetch."""
    common_model(tasks)
    seen: set[str] = set()
    inputs: set[str] = set()
    outputs: set[str] = set()
    for task in tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise status.invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in servable.signatures:
            raise status.invalid(f"Requested signature not found in model graph: {name}")
        signature = servable.signatures[name]
        if task.method_name == CLASSIFY:
            outputs |= set(classifier_outputs(signature, options))
        elif task.method_name == REGRESS:
            outputs |= set(regressor_outputs(signature, options))
        else:
            raise status.unimplemented(f"Unsupported signature method_name: {task.method_name}")
        inputs.add(signature.inputs[_INPUTS].name)
    return inputs, outputs


def serialised_examples(given: input_pb2.Input) -> np.ndarray:
    """The examples as strings, each after the context, if there is one.

    Appending the bytes of two messages merges them: fields of the example win.
    """
    kind = given.WhichOneof("kind")
    if kind == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    else:
        context, examples = b"", given.example_list.examples
    if not examples:
        raise status.invalid("Input is empty.")
    strings = np.empty(len(examples), object)
    strings[:] = [context + example.SerializeToString() for example in examples]
    return strings


def _signature(servable: Servable, name: str) -> meta_graph_pb2.SignatureDef:
    name = name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise status.invalid(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _run(
    servable: Servable,
    signature: meta_graph_pb2.SignatureDef,
    examples: np.ndarray,
    names: Sequence[str],
    run: Run,
    deadline: Deadline,
    api: str,
) -> dict[str, np.ndarray]:
    info = signature.inputs[_INPUTS]
    if info.dtype != types_pb2.DT_STRING:
        wanted = tensors.dtype_name(info.dtype)
        raise status.invalid(f"Expects arg[0] to be {wanted} but string is provided")
    start = time.perf_counter()
    arrays = run(servable, {info.name: examples}, names, deadline)
    metrics.RUNTIME_LATENCY.observe((servable.name, api, "TF1"), time.perf_counter() - start)
    return dict(zip(names, arrays, strict=True))


def classifier_outputs(signature: meta_graph_pb2.SignatureDef, options: Options) -> list[str]:
    """The tensors to fetch of a classification signature.

    Raises:
      ServingError: if it is not one.
    """
    _check_method("classification", CLASSIFY, signature, options)
    _check_input("classification", signature)
    if len(signature.outputs) not in (1, 2):
        raise status.invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    _check_has_input("classification", signature)
    names = [signature.outputs[a].name for a in (_CLASSES, _SCORES) if a in signature.outputs]
    if not names:
        raise status.invalid(
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {signature}'
        )
    return names


def regressor_outputs(signature: meta_graph_pb2.SignatureDef, options: Options) -> list[str]:
    """The tensor to fetch of a regression signature.

    Raises:
      ServingError: if it is not one.
    """
    _check_method("regression", REGRESS, signature, options)
    _check_input("regression", signature)
    if len(signature.outputs) != 1:
        raise status.invalid("Expected one output Tensor.")
    _check_has_input("regression", signature)
    if _OUTPUTS not in signature.outputs:
        raise status.invalid(f"No regression outputs found in SignatureDef: {signature}")
    return [signature.outputs[_OUTPUTS].name]


def _check_method(
    kind: str, method: str, signature: meta_graph_pb2.SignatureDef, options: Options
) -> None:
    if options.check_method_names and signature.method_name != method:
        raise status.invalid(
            f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}"
        )


def _check_input(kind: str, signature: meta_graph_pb2.SignatureDef) -> None:
    if len(signature.inputs) != 1:
        raise status.invalid("Expected one input Tensor.")


def _check_has_input(kind: str, signature: meta_graph_pb2.SignatureDef) -> None:
    if _INPUTS not in signature.inputs:
        raise status.invalid(f"No {kind} inputs found in SignatureDef: {signature}")


def fill_classes(
    signature: meta_graph_pb2.SignatureDef,
    count: int,
    outputs: Mapping[str, np.ndarray],
    result: classification_pb2.ClassificationResult,
) -> None:
    """Puts labels and scores of `count` examples into a result.

    Raises:
      ServingError: if the graph's outputs are not (examples, classes) of string and float.
    """
    labels = _matrix(_CLASSES, types_pb2.DT_STRING, signature, count, outputs)
    scores = _matrix(_SCORES, types_pb2.DT_FLOAT, signature, count, outputs)
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise status.invalid(
            "Tensors class and score should match in dim_size(1). Got "
            f"{labels.shape[1]} vs. {scores.shape[1]}"
        )
    columns = next(array.shape[1] for array in (labels, scores) if array is not None)
    for row in range(count):
        entry = result.classifications.add()
        for column in range(columns):
            item = entry.classes.add()
            if labels is not None:
                item.label = labels[row, column].decode("utf-8", "replace")
            if scores is not None:
                item.score = scores[row, column]


def _matrix(
    alias: str,
    dtype: int,
    signature: meta_graph_pb2.SignatureDef,
    count: int,
    outputs: Mapping[str, np.ndarray],
) -> np.ndarray | None:
    if alias not in signature.outputs:
        return None
    array = outputs[signature.outputs[alias].name]
    if array.ndim != 2:
        raise status.invalid(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
        )
    given = tensors.dtype_name_of(array)
    if given != tensors.dtype_name(dtype):
        raise status.invalid(
            f"Expected {alias} Tensor of {types_pb2.DataType.Name(dtype)}. Got: DT_{given.upper()}"
        )
    if len(array) != count:
        raise status.invalid(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
    return array


def fill_values(
    signature: meta_graph_pb2.SignatureDef,
    count: int,
    outputs: Mapping[str, np.ndarray],
    result: regression_pb2.RegressionResult,
) -> None:
    """Puts the values of `count` examples into a result.

    Raises:
      ServingError: if the graph's output is not one float for each example.
    """
    array = outputs[signature.outputs[_OUTPUTS].name]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise status.invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(array)}"
        )
    if len(array) != count:
        raise status.invalid(
            f"Input batch size did not match output batch size: {count} vs. {len(array)}"
        )
    given = tensors.dtype_name_of(array)
    if given != "float":
        raise status.invalid(f"Expected output Tensor of DT_FLOAT.  Got: DT_{given.upper()}")
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(str(size) for size in array.shape) + "]"
