"""What there is over gRPC beside Predict, against the contract's own words."""

import pytest
from contract_server import refused
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    regression_pb2,
)

from serving.server.protos import HealthCheckRequest, HealthCheckResponse


@pytest.fixture(scope="module")
def management(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


# Classify, Regress, MultiInference.


def examples(*values):
    given = input_pb2.Input()
    for value in values:
        example = example_pb2.Example()
        example.features.feature["x"].float_list.value.append(value)
        given.example_list.examples.append(example)
    return given


def test_regress_answers_a_value_an_example(prediction):
    request = regression_pb2.RegressionRequest(input=examples(1, 4))
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "regress"
    reply = prediction.Regress(request)
    assert [one.value for one in reply.result.regressions] == [2.5, 4.0]
    assert reply.model_spec.version.value == 1


def test_classify_answers_labels_and_scores(prediction):
    request = classification_pb2.ClassificationRequest(input=examples(1))
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "classify"
    (result,) = prediction.Classify(request).result.classifications
    assert [(one.label, one.score) for one in result.classes] == [("even", 1.0), ("odd", 2.0)]


def test_a_context_is_part_of_every_example(prediction):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "regress"
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(examples(8).example_list.examples[0])
    listed.examples.add()
    assert prediction.Regress(request).result.regressions[0].value == 6.0


def test_classify_refuses_what_it_cannot_answer(prediction):
    request = classification_pb2.ClassificationRequest(input=examples(1))
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "no"
    assert refused(prediction.Classify, request) == (
        "INVALID_ARGUMENT",
        "No signature was found with the name: no",
    )
    request.model_spec.signature_name = "regress"
    assert refused(prediction.Classify, request)[0] == "INVALID_ARGUMENT"
    request.model_spec.signature_name = "classify"
    request.ClearField("input")
    assert refused(prediction.Classify, request) == ("INVALID_ARGUMENT", "Input is empty.")


def test_multi_inference_runs_several_signatures_on_the_same_examples(prediction):
    request = inference_pb2.MultiInferenceRequest(input=examples(2))
    for method in ("regress", "classify"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "examples"
        task.model_spec.signature_name = method
    regressed, classified = prediction.MultiInference(request).results
    assert regressed.regression_result.regressions[0].value == 3.0
    assert classified.classification_result.classifications[0].classes[1].score == 3.0
    request.tasks[1].CopyFrom(request.tasks[0])
    assert refused(prediction.MultiInference, request) == (
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: regress",
    )
    request.tasks[1].model_spec.name = "half"
    assert "same model name" in refused(prediction.MultiInference, request)[1]


# Status, metadata, health.


def test_status_lists_versions_newest_first(management):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half"
    reply = management.GetModelStatus(request)
    assert [(one.version, one.state) for one in reply.model_version_status] == [(2, 30), (1, 30)]
    request.model_spec.version.value = 9
    assert refused(management.GetModelStatus, request) == (
        "NOT_FOUND",
        "Could not find version 9 of model half",
    )


def test_metadata_describes_the_signatures(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half"
    reply = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(signatures)
    assert sorted(signatures.signature_def) == ["pair", "serving_default"]
    assert signatures.signature_def["pair"].inputs["b"].dtype == types_pb2.DT_INT64
    assert reply.model_spec.version.value == 2
    request.metadata_field[:] = []
    assert "at least one metadata_field" in refused(prediction.GetModelMetadata, request)[1]


def test_reload_refuses_an_empty_configuration(management):
    assert refused(
        management.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()
    )[0] == ("INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["", "PredictionService", "ModelService"])
def test_health_is_serving(channel, name):
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        lambda message: message.SerializeToString(),
        HealthCheckResponse.FromString,
    )
    assert check(HealthCheckRequest(service=name)).status == 1
    assert refused(check, HealthCheckRequest(service="other"))[0] == "NOT_FOUND"
