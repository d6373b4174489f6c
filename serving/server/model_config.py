"""Configuration files in protobuf text format, and what a model list may say."""

import pathlib
from typing import TypeVar
from urllib.parse import urlsplit

from google.protobuf import message, text_format
from tensorflow_serving.config import model_server_config_pb2

from data_pipeline.errors import InputError
from serving.server import status

PLATFORM = "tensorflow"

Parsed = TypeVar("Parsed", bound=message.Message)


def read_text(path: str, into: Parsed) -> Parsed:
    """Fills a message from a text-format file.

    Raises:
      InputError: if the file cannot be read or does not hold such a message.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    try:
        text_format.Parse(text, into)
    except text_format.ParseError as error:
        raise InputError(
            f"Error parsing text-format {into.DESCRIPTOR.full_name}: {path}:{error}"
        ) from error
    return into


def read_models(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Reads a --model_config_file.

    Raises:
      InputError: if it is not one.
    """
    return read_text(path, model_server_config_pb2.ModelServerConfig())


def of_one_model(name: str, base_path: str) -> model_server_config_pb2.ModelServerConfig:
    """The configuration that --model_name and --model_base_path stand for."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=_absolute(base_path), model_platform=PLATFORM
    )
    return config


def _absolute(base_path: str) -> str:
    if urlsplit(base_path).scheme:
        return base_path
    return str(pathlib.Path(base_path).absolute())


def check_transition(
    old: model_server_config_pb2.ModelServerConfig,
    new: model_server_config_pb2.ModelServerConfig,
) -> None:
    """Raises ServingError if the server may not go from one configuration to another."""
    if new.WhichOneof("config") != "model_config_list":
        if old.WhichOneof("config") is None:
            raise status.invalid("This server takes a model_config_list only.")
        raise status.precondition(
            "Cannot transition to requested config. It is only legal to transition from one "
            "ModelConfigList to another."
        )
    _check_list(new.model_config_list)
    platforms = {model.name: _platform(model) for model in old.model_config_list.config}
    for model in new.model_config_list.config:
        platform = _platform(model)
        before = platforms.get(model.name, platform)
        if before != platform:
            raise status.invalid(
                f"Illegal to change a model's platform. For model {model.name} platform was "
                f"{before} and new platform requested is {platform}"
            )
        if platform != PLATFORM:
            raise status.invalid(f"Model {model.name} requests unsupported platform {platform}")


def _check_list(models: model_server_config_pb2.ModelConfigList) -> None:
    seen: set[str] = set()
    for model in models.config:
        if model.name in seen:
            raise status.invalid(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        seen.add(model.name)
    for model in models.config:
        if not urlsplit(model.base_path).scheme and not model.base_path.startswith("/"):
            raise status.invalid(
                f"Expected model {model.name} to have an absolute path or URI; got "
                f"base_path()={model.base_path}"
            )


def _platform(model: model_server_config_pb2.ModelConfig) -> str:
    typed = model.model_type != model_server_config_pb2.MODEL_TYPE_UNSPECIFIED
    if typed and model.model_platform:
        raise status.invalid(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if typed and model.model_type != model_server_config_pb2.TENSORFLOW:
        raise status.invalid(
            f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    if not typed and not model.model_platform:
        raise status.invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    return PLATFORM if typed else model.model_platform
