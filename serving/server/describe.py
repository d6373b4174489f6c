"""What the server tells about its models: states of versions, and signatures."""

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.server import status
from serving.server.core import Core

SIGNATURES_FIELD = "signature_def"


def model_status(
    core: Core, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """States of one version, or of every version ever seen.

    Raises:
      ServingError: NOT_FOUND if there is none.
    """
    if not request.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
    spec = request.model_spec
    states = core.versions.states(spec.name)
    if spec.HasField("version"):
        number = spec.version.value
        if number not in states:
            raise status.not_found(f"Could not find version {number} of model {spec.name}")
        states = {number: states[number]}
    if not states:
        raise status.not_found(f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, (state, error) in states.items():
        entry = response.model_version_status.add(version=number, state=state.value)
        entry.status.SetInParent()
        if error is not None:
            entry.status.error_code = error.code.value[0]
            entry.status.error_message = error.message
    return response


def model_metadata(
    core: Core, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of one version.

    Raises:
      ServingError: if the model is not served or another field is asked for.
    """
    if not request.HasField("model_spec"):
        raise status.invalid("Missing ModelSpec")
    if not request.metadata_field:
        raise status.invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURES_FIELD:
            raise status.invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with core.acquire(request.model_spec) as servable:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata[SIGNATURES_FIELD].Pack(signatures)
    return response
