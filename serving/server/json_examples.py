"""REST bodies of `:classify` and `:regress` to lists of tf.Example."""

from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import input_pb2

from serving.server import json_request, json_text, status
from serving.server.json_numbers import Numbers

_MAX_INT64 = 2**63 - 1


def examples(document: dict) -> input_pb2.Input:
    """The body's `examples`, and its `context`, which holds for all of them.

    Raises:
      ServingError: naming the feature that does not fit.
    """
    given = input_pb2.Input()
    with_context = "context" in document
    if with_context:
        _fill(document["context"], given.example_list_with_context.context)
    listed = document.get("examples")
    if isinstance(listed, Numbers):
        listed = listed.as_lists()
    if "examples" not in document:
        raise _wrong(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(listed, list):
        raise _wrong(document, "Expecting 'examples' value to be an list/array")
    if not listed:
        raise _wrong(document, "'examples' value is an empty array")
    target = given.example_list_with_context if with_context else given.example_list
    for value in listed:
        _fill(value, target.examples.add())
    return given


def _wrong(document: dict, complaint: str) -> status.ServingError:
    return status.invalid(f"JSON Value: {json_text.debug(document)} {complaint}")


def _fill(value: object, example: example_pb2.Example) -> None:
    if not isinstance(value, dict):
        raise status.invalid(
            f"Example must be JSON object but got JSON {json_text.type_name(value)}"
        )
    for name, content in value.items():
        if isinstance(content, Numbers):
            content = content.as_lists()
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(item, name, feature)


def _add(value: object, name: str, feature: feature_pb2.Feature) -> None:
    if json_request.is_base64(value):
        _list(feature, name, "bytes_list").append(json_request.from_base64(value))
    elif isinstance(value, bool):
        _list(feature, name, "int64_list").append(int(value))
    elif isinstance(value, str):
        _list(feature, name, "bytes_list").append(value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, float):
        _list(feature, name, "float_list").append(value)
    elif isinstance(value, int):
        values = _list(feature, name, "int64_list")
        if value > _MAX_INT64:
            raise status.invalid(
                f"Feature: {name} has uint64_t element. Only int64_t is supported."
            )
        values.append(value)
    else:
        raise status.invalid(
            f"Feature: {name} has element with unexpected JSON type: {json_text.type_name(value)}"
        )


def _list(feature: feature_pb2.Feature, name: str, kind: str) -> Any:
    """The value list of a feature, which holds one kind of value only."""
    current = feature.WhichOneof("kind")
    if current not in (None, kind):
        held = current.removesuffix("_list")
        raise status.invalid(f"Unexpected element type in feature: {name} expecting type: {held}")
    return getattr(feature, kind).value
