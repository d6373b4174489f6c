"""Long arrays in JSON: read as the general parser reads them, and refused where it refuses."""

import json
import random

import numpy as np
import pytest
import rapidjson
from served_models import tensor_info

from serving.server import json_numbers, json_request, json_text, status

LONG = 30_000  # numbers; more than the smallest run that is cut out


def array_of(text: str, dtype: str = "float32") -> np.ndarray:
    document = json_text.parse(text.encode())
    infos = {"x": tensor_info(dtype)}
    return json_request.predict_inputs(document, infos, "").inputs["x"]


def found(text: str) -> list[json_numbers.Numbers]:
    return list(json_numbers.cut_out(text.encode())[1].values())


@pytest.mark.parametrize("shape", [(LONG,), (1, LONG), (LONG, 1), (3, 100, 100, 1), (2, 3, 5000)])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_a_long_array_is_read_as_it_was_written(shape, separators):
    values = np.random.default_rng(3).normal(size=shape)
    text = json.dumps({"instances": values.tolist()}, separators=separators)
    (numbers,) = found(text)
    assert numbers.shape == shape
    # RapidJSON reads a double to within its last bit, here as in TensorFlow Serving.
    np.testing.assert_allclose(array_of(text, "float64"), values, rtol=4e-16)
    np.testing.assert_array_equal(array_of(text), values.astype(np.float32))


def test_integers_stay_integers():
    values = np.arange(LONG) * 7 - 5
    text = json.dumps({"inputs": values.tolist()})
    assert found(text)[0].integers
    assert array_of(text, "int64").tolist() == values.tolist()
    assert array_of(text).tolist() == values.tolist()


def test_nan_and_infinity_are_numbers_here_too():
    values = [float("nan"), float("inf"), float("-inf")] * LONG
    text = json.dumps({"inputs": values})
    assert len(found(text)) == 1
    np.testing.assert_array_equal(array_of(text), np.float32(values))


def test_arrays_are_found_wherever_they_stand():
    long = list(range(LONG))
    document = {
        "signature_name": "s",
        "inputs": {"a": [long, long], "b": ["text", long], "c": ["x", long]},
        "more": [{"v": long}, {"v": [long]}],
    }
    shorter, numbers = json_numbers.cut_out(json.dumps(document).encode())
    assert len(shorter) < 1000
    back = json_numbers.put_back(json.loads(shorter), numbers)
    assert back["inputs"]["a"].as_lists() == [long, long]
    assert back["inputs"]["b"][1].as_lists() == long
    assert back["more"][1]["v"].as_lists() == [long]
    assert back["signature_name"] == "s"


def test_rows_of_objects_with_long_arrays_are_stacked():
    rows = [{"x": (np.arange(LONG) + row).tolist()} for row in range(3)]
    array = array_of(json.dumps({"instances": rows}))
    assert array.shape == (3, LONG)
    assert array[2, 0] == 2


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text.replace("[5, ", "[", 1), "unexpected size"),
        (lambda text: text.replace("[5, ", "[", 1).replace(", 9]", "]", 1), "unexpected size"),
        (lambda text: text.replace("5, ", "5 ", 1), "JSON Parse error"),
        (lambda text: text.replace("5, ", "5,, ", 1), "JSON Parse error"),
        (lambda text: text.replace("5, ", "05, ", 1), "JSON Parse error"),
        (lambda text: text.replace("5, ", "+5, ", 1), "JSON Parse error"),
        (lambda text: text.replace("5, ", "5., ", 1), "JSON Parse error"),
        (lambda text: text.replace("[5, ", "5[, ", 1), "JSON Parse error"),
        (lambda text: text.replace("9], [", "9 [", 1), "JSON Parse error"),
        (lambda text: text.replace("[5, ", "[[5, ", 1), "JSON Parse error"),
        (lambda text: text.replace("[5, ", "[[], ", 1), "found at incorrect level"),
        (lambda text: text.replace("5, ", '"5", ', 1), "is not of expected type"),
    ],
)
def test_what_the_parser_refuses_is_refused_in_its_words(spoil, words):
    good = json.dumps({"inputs": [[5, 6, 7, 8, 9]] * LONG})
    assert len(found(good)) == 1
    with pytest.raises(status.ServingError) as caught:
        array_of(spoil(good))
    assert words in caught.value.message


def test_a_fraction_in_a_long_array_of_integers_is_shown():
    text = json.dumps({"inputs": [1] * LONG + [2.5]})
    with pytest.raises(status.ServingError, match=r"JSON Value: 2\.5 .*expected type: int32"):
        array_of(text, "int32")


def test_a_long_array_in_a_message_is_cut_short():
    text = json.dumps({"instances": [1.5] * LONG, "inputs": []})
    with pytest.raises(status.ServingError) as caught:
        array_of(text)
    assert len(caught.value.message) < 500
    assert '"instances": [1.5, 1.5' in caught.value.message


def test_any_damage_gives_what_the_general_parser_gives():
    rng = random.Random(11)
    good = json.dumps({"inputs": [[0.25, -1e3, 7]] * 6_000}).encode()
    for _ in range(150):
        place = rng.randrange(10, len(good) - 2)
        spoilt = good[:place] + rng.choice([b"", b",", b"[", b"]", b"1", b" ", b".", b"N"])
        spoilt += good[place + rng.choice([0, 1]) :]
        shorter, numbers = json_numbers.cut_out(spoilt)
        mode = rapidjson.NM_NATIVE | rapidjson.NM_NAN
        try:
            expected = rapidjson.loads(spoilt, number_mode=mode)
        except rapidjson.JSONDecodeError:
            with pytest.raises(rapidjson.JSONDecodeError):
                rapidjson.loads(shorter, number_mode=mode)
            continue
        document = json_numbers.put_back(rapidjson.loads(shorter, number_mode=mode), numbers)
        read = document["inputs"]
        lists = read.as_lists() if isinstance(read, json_numbers.Numbers) else read
        lists = [v.as_lists() if isinstance(v, json_numbers.Numbers) else v for v in lists]
        assert lists == expected["inputs"]


def test_too_many_values_that_are_no_regular_array_are_refused():
    text = '{"inputs": [' + "[]," * (json_text.MAX_VALUES // 2 + 1) + "[]]}"
    with pytest.raises(status.ServingError, match="values outside regular arrays of numbers"):
        array_of(text)
