"""REST bodies: what is read from them, what is said of wrong ones, and how replies look."""

import itertools
import math

import numpy as np
import pytest
from served_models import tensor_info

from serving.server import json_examples, json_reply, json_request, json_text, status

FLOAT, INT32, STRING, INT64, BOOL, UINT8, HALF = (
    "float32 int32 string int64 bool uint8 float16".split()
)


def inputs_of(body: str, **dtypes: str) -> json_request.PredictBody:
    document = json_request.document_of(body.encode())
    name = json_request.signature_name(document)
    infos = {key: tensor_info(dtype) for key, dtype in dtypes.items()}
    return json_request.predict_inputs(document, infos, name)


def error_of(body: str, **dtypes: str) -> str:
    with pytest.raises(status.ServingError) as caught:
        inputs_of(body, **dtypes)
    return caught.value.message


def test_rows_become_one_array_with_a_batch_dimension():
    body = inputs_of('{"instances": [[1, 2.5], [3, 4]]}', x=FLOAT)
    assert body.rows
    assert body.inputs["x"].dtype == np.float32
    assert body.inputs["x"].tolist() == [[1.0, 2.5], [3.0, 4.0]]


def test_rows_of_objects_give_an_array_for_each_input():
    body = inputs_of('{"instances": [{"a": 1, "b": "x"}, {"b": "y", "a": 2}]}', a=INT32, b=STRING)
    assert body.inputs["a"].tolist() == [1, 2]
    assert body.inputs["b"].tolist() == [b"x", b"y"]


def test_a_column_may_be_a_single_value():
    body = inputs_of('{"inputs": 7}', x=INT64)
    assert not body.rows
    assert body.inputs["x"].shape == ()
    assert body.inputs["x"] == 7


def test_columns_ignore_keys_that_are_no_inputs():
    body = inputs_of('{"inputs": {"a": [1], "b": [2], "c": [3]}}', a=FLOAT, b=FLOAT)
    assert sorted(body.inputs) == ["a", "b"]


def test_a_missing_column_is_named():
    assert (
        error_of('{"inputs": {"a": [1]}}', a=FLOAT, b=FLOAT)
        == "Missing named input: b in 'inputs' object."
    )


def test_both_formats_at_once_are_refused():
    assert "expecting only one of 'inputs' or 'instances'" in error_of(
        '{"inputs": [1], "instances": [1]}', x=FLOAT
    )


def test_neither_format_is_refused():
    assert error_of("{}", x=FLOAT) == "Missing 'inputs' or 'instances' key"


def test_no_rows_are_refused_with_the_document_shown():
    assert (
        error_of('{"instances": []}', x=FLOAT)
        == "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"
    )


def test_plain_rows_for_several_inputs_are_refused():
    assert error_of('{"instances": [1]}', a=FLOAT, b=FLOAT) == (
        "instances is a plain list, but expecting list of objects as multiple input tensors "
        "required as per tensorinfo_map"
    )


def test_a_row_must_have_exactly_the_inputs_as_keys():
    assert error_of('{"instances": [{"a": 1}]}', a=FLOAT, b=FLOAT) == (
        "Failed to process element: 0 of 'instances' list. JSON object: "
        '{\n    "a": 1\n} keys must be equal to: a,b'
    )


def test_an_unknown_key_in_a_row_is_named():
    assert error_of('{"instances": [{"z": 1}]}', a=FLOAT) == (
        "Failed to process element: 0 key: z of 'instances' list. Error: "
        "INVALID_ARGUMENT: JSON object: does not have named input: z"
    )


def test_rows_of_different_kinds_are_told_apart_by_their_place():
    assert (
        error_of('{"instances": [{"a": 1}, 2]}', a=FLOAT)
        == "Expecting object but got list at item 1 of input list"
    )
    assert (
        error_of('{"instances": [2, {"a": 1}]}', a=FLOAT)
        == "Expecting value/list but got object at item 1 of input list"
    )


def test_rows_of_different_sizes_are_refused():
    assert error_of('{"instances": [[1, 2], [3]]}', x=FLOAT) == (
        "Failed to process element: 1 of 'instances' list. Error: "
        "INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"
    )


def test_rows_of_one_size_and_different_shapes_are_refused():
    assert error_of('{"instances": [[[1, 2]], [[3], [4]]]}', x=FLOAT).endswith(
        "INVALID_ARGUMENT: Expecting shape [1,2] but got: [2,1]"
    )


def test_a_ragged_column_says_which_size_at_which_level():
    assert (
        error_of('{"inputs": [[1, 2], [3]]}', x=FLOAT)
        == "Encountered list at unexpected size: 1 at level: 1 expected size: 2"
    )


def test_a_list_that_is_too_deep_says_so():
    assert (
        error_of('{"inputs": [1, [2]]}', x=FLOAT)
        == "Encountered list at unexpected level: 1 expected < 1"
    )


def test_a_value_where_a_list_belongs_says_so():
    assert error_of('{"inputs": [[1], 2]}', x=FLOAT) == (
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"
    )


@pytest.mark.parametrize(
    ("value", "dtype", "kind", "expected"),
    [
        ('"a"', FLOAT, "String", "float"),
        ("1.5", INT32, "Number", "int32"),
        ("3000000000", INT32, "Number", "int32"),
        ("true", FLOAT, "True", "float"),
        ("1", BOOL, "Number", "bool"),
        ("1", STRING, "Number", "string"),
        ("null", FLOAT, "Null", "float"),
        ("-1", "uint64", "Number", "uint64"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_its_type(value, dtype, kind, expected):
    assert error_of(f'{{"inputs": [{value}]}}', x=dtype) == (
        f"JSON Value: {value} Type: {kind} is not of expected type: {expected}"
    )


def test_integers_are_accepted_for_floats():
    assert inputs_of('{"inputs": [1, -2]}', x=FLOAT).inputs["x"].tolist() == [1.0, -2.0]


def test_values_beyond_float32_become_infinite():
    assert math.isinf(inputs_of('{"inputs": 1e300}', x=FLOAT).inputs["x"])


def test_nan_and_infinities_are_numbers():
    values = inputs_of('{"inputs": [NaN, Infinity, -Infinity]}', x=FLOAT).inputs["x"]
    assert math.isnan(values[0])
    assert values[1:].tolist() == [math.inf, -math.inf]


def test_large_integers_keep_every_bit():
    body = inputs_of('{"inputs": [9223372036854775807]}', x=INT64)
    assert body.inputs["x"][0] == 2**63 - 1
    body = inputs_of('{"inputs": [18446744073709551615]}', x="uint64")
    assert body.inputs["x"][0] == 2**64 - 1


def test_b64_stands_for_bytes_in_string_inputs_only():
    body = inputs_of('{"instances": [{"b64": "/wA="}, "a"]}', x=STRING)
    assert body.inputs["x"].tolist() == [b"\xff\x00", b"a"]
    assert "Type: Object is not of expected type: float" in error_of(
        '{"inputs": [{"b64": "/wA="}]}', x=FLOAT
    )


def test_broken_b64_is_refused():
    assert error_of('{"inputs": [{"b64": "?"}]}', x=STRING) == "Unable to base64 decode"


def test_half_floats_have_no_json_form():
    with pytest.raises(status.ServingError) as caught:
        inputs_of('{"inputs": [1]}', x=HALF)
    assert caught.value.code.name == "UNIMPLEMENTED"
    assert caught.value.message == "Conversion of JSON Value: 1 to type: half"
    with pytest.raises(status.ServingError) as caught:
        inputs_of('{"instances": [1]}', x=HALF)
    assert caught.value.code.name == "INVALID_ARGUMENT"


def test_empty_lists_keep_their_shape():
    assert inputs_of('{"inputs": [[], []]}', x=FLOAT).inputs["x"].shape == (2, 0)


def test_the_signature_name_must_be_a_string():
    assert "'signature_name' key must be a string value." in error_of(
        '{"signature_name": 1, "inputs": 1}', x=FLOAT
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("   ", "JSON Parse error: The document is empty. at offset: 3"),
        ('{"a":', "JSON Parse error: Invalid value. at offset: 5"),
        (
            '{"a" 1}',
            "JSON Parse error: Missing a colon after a name of object member. at offset: 5",
        ),
        ("{a: 1}", "JSON Parse error: Missing a name for object member. at offset: 1"),
    ],
)
def test_bad_json_names_the_byte_it_stops_at(body, message):
    with pytest.raises(status.ServingError) as caught:
        json_text.parse(body.encode())
    assert caught.value.message == message


def test_what_follows_the_document_is_not_looked_at():
    assert json_text.parse(b'{"a": 1} and more') == {"a": 1}


def test_a_document_that_is_no_object_is_refused():
    with pytest.raises(status.ServingError, match=r"^JSON Value: \[1\] Is not object$"):
        json_request.document_of(b"[1]")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_endless_nesting_is_an_error_not_a_crash(opening):
    with pytest.raises(status.ServingError, match="JSON Parse error"):
        json_text.parse(opening.encode() * 1_000_000)


def test_values_in_messages_are_cut_after_256_bytes():
    shown = json_text.debug([[1.5] * 1000])
    assert 256 <= len(shown) < 270
    assert shown.startswith("[[1.5, 1.5, ")


def test_one_output_is_listed_on_one_line():
    outputs = {"y": np.array([[1.5, 2.0], [0.1, -3.25]], np.float32)}
    assert json_reply.rows(outputs).decode() == (
        '{\n    "predictions": [[1.5, 2.0], [0.1, -3.25]\n    ]\n}'
    )


def test_several_outputs_give_an_object_a_row():
    outputs = {"b": np.array([1, 2], np.int64), "a": np.array([[True], [False]])}
    assert json_reply.rows(outputs).decode() == (
        "{\n"
        '    "predictions": [\n'
        "        {\n"
        '            "a": [true],\n'
        '            "b": 1\n'
        "        },\n"
        "        {\n"
        '            "a": [false],\n'
        '            "b": 2\n'
        "        }\n"
        "    ]\n"
        "}"
    )


def test_columns_put_every_value_on_its_line():
    outputs = {"y": np.array([[1], [2]], np.int32)}
    assert json_reply.columns(outputs).decode() == (
        '{\n    "outputs": [\n        [\n            1\n        ],\n'
        "        [\n            2\n        ]\n    ]\n}"
    )


def test_a_scalar_column_stands_alone():
    assert json_reply.columns({"y": np.float32(2)}).decode() == '{\n    "outputs": 2.0\n}'


def test_bytes_are_base64_only_under_a_name_that_says_so():
    value = np.array([b"\x00\x01"], object)
    assert '"b64": "AAE="' in json_reply.rows({"mask_bytes": value}).decode()
    assert "\\u0000\\u0001" in json_reply.rows({"mask": value}).decode()


def test_outputs_without_a_common_batch_have_no_rows():
    with pytest.raises(status.ServingError, match="Tensor name: y has no shape information"):
        json_reply.rows({"y": np.float32(1)})
    with pytest.raises(status.ServingError, match="has inconsistent batch size: 2 expecting: 1"):
        json_reply.rows({"a": np.zeros(1), "b": np.zeros(2)})


def test_a_type_without_a_json_form_is_named():
    with pytest.raises(status.ServingError, match="tensor type: half"):
        json_reply.rows({"y": np.zeros(1, np.float16)})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (999999.0, "999999.0"),
        (1e6, "1e+06"),
        (16777216.0, "16777216.0"),
        (0.00003, "3e-05"),
        (1 / 3, "0.333333343"),
        (123456.7, "123456.703"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
    ],
)
def test_float32_is_written_with_six_digits_or_as_many_as_read_back_equal(value, text):
    assert json_reply.decimals(np.array([value], np.float32)) == [text]


def test_every_written_float32_reads_back_equal():
    bits = np.random.default_rng(5).integers(0, 2**32, 20_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    back = np.array([float(text) for text in json_reply.decimals(values)], np.float64)
    np.testing.assert_array_equal(back.astype(np.float32), values)


def test_float64_keeps_its_digits():
    assert json_reply.decimals(np.array([0.1, 1 / 3, 2.0])) == ["0.1", "0.33333333333333331", "2.0"]


def test_classes_are_pairs_of_label_and_score():
    assert json_reply.classifications([[("cat", 0.5), ("dog", 1.0)]]).decode() == (
        '{\n    "results": [[["cat", 0.5], ["dog", 1.0]]\n    ]\n}'
    )


def test_regressions_are_a_list_on_one_line():
    assert json_reply.regressions(np.array([1.0, 2.5])).decode() == (
        '{\n    "results": [1.0, 2.5]\n}'
    )


def test_error_bodies_hold_one_key():
    assert json_text.error_body('a "b"\n').decode() == '{\n    "error": "a \\"b\\"\\n"\n}'


def examples_of(body: str) -> list:
    given = json_examples.examples(json_text.parse(body.encode()))
    return list(given.example_list.examples)


def test_features_take_their_kind_from_their_values():
    (example,) = examples_of('{"examples": [{"f": [1.5], "i": [1, true], "s": ["a"]}]}')
    feature = example.features.feature
    assert list(feature["f"].float_list.value) == [1.5]
    assert list(feature["i"].int64_list.value) == [1, 1]
    assert list(feature["s"].bytes_list.value) == [b"a"]


def test_a_context_holds_for_all_examples():
    given = json_examples.examples(
        json_text.parse(b'{"context": {"c": 1}, "examples": [{"x": 2}, {"x": 3}]}')
    )
    assert len(given.example_list_with_context.examples) == 2
    context = given.example_list_with_context.context
    assert list(context.features.feature["c"].int64_list.value) == [1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": 1}', "Expecting 'examples' value to be an list/array"),
        ("{}", "key 'examples' is expected and was not found"),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"x": [1, 2.5]}]}', "in feature: x expecting type: int64"),
        ('{"examples": [{"x": [[1]]}]}', "Feature: x has element with unexpected JSON type: Array"),
        ('{"examples": [{"x": [null]}]}', "Feature: x has element with unexpected JSON type: Null"),
        ('{"examples": [{"x": [18446744073709551615]}]}', "has uint64_t element"),
    ],
)
def test_wrong_examples_are_told_what_is_wrong(body, message):
    with pytest.raises(status.ServingError) as caught:
        examples_of(body)
    assert message in caught.value.message


def test_half_a_megabyte_of_values_is_read_without_walking_them_in_python():
    value = np.arange(4 * 256 * 256, dtype=np.float64).reshape(4, 256, 256, 1)
    rows = ",".join(itertools.chain.from_iterable([str(value[i].tolist())] for i in range(4)))
    body = inputs_of(f'{{"instances": [{rows}]}}', x=FLOAT)
    np.testing.assert_array_equal(body.inputs["x"], value.astype(np.float32))
