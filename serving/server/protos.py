"""Messages that the official Python package does not carry.

tensorflow-serving-api has none for the monitoring, TLS and batching files, nor for health
checks. Their fields are declared here, in a pool of their own so that they can never clash
with an official package that has them.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.message import Message

_FieldProto = descriptor_pb2.FieldDescriptorProto

_TYPES = {
    "string": _FieldProto.TYPE_STRING,
    "bool": _FieldProto.TYPE_BOOL,
    "int32": _FieldProto.TYPE_INT32,
    "int64": _FieldProto.TYPE_INT64,
}
_REPEATED = "repeated "

# message -> field -> (number, type); a type with a leading dot is a message.
_CONFIG = {
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {
        "prometheus_config": (1, ".tensorflow.serving.PrometheusConfig"),
    },
    "SSLConfig": {
        "server_key": (1, "string"),
        "server_cert": (2, "string"),
        "custom_ca": (3, "string"),
        "client_verify": (4, "bool"),
    },
    "BatchingParameters": {
        "max_batch_size": (1, ".google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, ".google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, ".google.protobuf.Int64Value"),
        "num_batch_threads": (4, ".google.protobuf.Int64Value"),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, _REPEATED + "int64"),
        "pad_variable_length_inputs": (7, "bool"),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, ".google.protobuf.Int64Value"),
    },
}
_HEALTH = {
    "HealthCheckRequest": {"service": (1, "string")},
    "HealthCheckResponse": {"status": (1, "int32")},  # an enum, the same on the wire
}


def _file(package: str, messages: dict[str, dict]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto",
        package=package,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_FieldProto.LABEL_OPTIONAL)
    if kind.startswith(_REPEATED):
        field.label = _FieldProto.LABEL_REPEATED
    kind = kind.removeprefix(_REPEATED)
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _FieldProto.TYPE_MESSAGE, kind


def _classes(package: str, messages: dict[str, dict]) -> dict[str, type[Message]]:
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(_file(package, messages))
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


_config = _classes("tensorflow.serving", _CONFIG)
MonitoringConfig = _config["MonitoringConfig"]
SSLConfig = _config["SSLConfig"]
BatchingParameters = _config["BatchingParameters"]

_health = _classes("grpc.health.v1", _HEALTH)
HealthCheckRequest = _health["HealthCheckRequest"]
HealthCheckResponse = _health["HealthCheckResponse"]
