"""Every call of both APIs as a function from a request message to a reply message."""

import dataclasses

from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.server import inference, metrics, predict, status
from serving.server.core import Core
from serving.server.deadline import Deadline


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the server knows how to answer. Thread-safe."""

    core: Core
    run: predict.Run
    options: predict.Options

    def predict(self, request: predict_pb2.PredictRequest, deadline: Deadline) -> bytes:
        """A serialised PredictResponse."""
        _require_spec(request)
        with self.core.acquire(request.model_spec) as servable:
            answer = predict.predict(servable, request, self.run, self.options, deadline)
        return predict.serialise(answer, as_content=self.options.reply_as_content)

    def classify(
        self, request: classification_pb2.ClassificationRequest, deadline: Deadline
    ) -> classification_pb2.ClassificationResponse:
        """Labels and scores."""
        _require_spec(request)
        with self.core.acquire(request.model_spec) as servable:
            return inference.classify(servable, request, self.run, self.options, deadline)

    def regress(
        self, request: regression_pb2.RegressionRequest, deadline: Deadline
    ) -> regression_pb2.RegressionResponse:
        """One value an example."""
        _require_spec(request)
        with self.core.acquire(request.model_spec) as servable:
            return inference.regress(servable, request, self.run, self.options, deadline)

    def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, deadline: Deadline
    ) -> inference_pb2.MultiInferenceResponse:
        """Several signatures on the same examples."""
        if not request.tasks:
            raise status.invalid("MultiInferenceRequest must have at least one task")
        with self.core.acquire(request.tasks[0].model_spec) as servable:
            return inference.multi_inference(servable, request, self.run, self.options, deadline)

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest
    ) -> model_management_pb2.ReloadConfigResponse:
        """Takes a new configuration, and tells by how much the metrics asked for grew."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise status.invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        before = {name: _metric(name) for name in request.metric_names}
        self.core.reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        if "metric" in response.DESCRIPTOR.fields_by_name:
            for name, value in before.items():
                response.metric.add(name=name, int64_value_increase=_metric(name) - value)
        return response


def _metric(name: str) -> int:
    counter = metrics.COUNTERS.get(name)
    return counter.first() if counter else 0


def _require_spec(
    request: predict_pb2.PredictRequest
    | classification_pb2.ClassificationRequest
    | regression_pb2.RegressionRequest,
) -> None:
    if not request.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
