"""Serves SavedModels over gRPC and REST, as tensorflow_model_server does, in one process.

    python -m serving.model_server --model_name=lung_unet --model_base_path=exports/lung_unet \
        --rest_api_port=8501

The flags, the configuration files and both APIs are those of TensorFlow Serving; see
docs/serving_server.md for what differs. It listens on 127.0.0.1 unless --bind_address says
otherwise, and finishes requests under way on SIGTERM.
"""

# ruff: noqa: T201 - a command speaks to its user

import logging
import os

from data_pipeline import (
    errors,
    onednn,  # noqa: F401 - before TensorFlow is imported
    ports,
)
from serving.server import flags as server_flags
from serving.server import model_config


def main(argv: list[str] | None = None) -> None:
    """Runs the server until it is told to stop."""
    with errors.one_line_for_bad_input():
        flags = server_flags.parse(argv)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname).1s %(name)s] %(message)s"
        )
        logging.getLogger("tensorflow").setLevel(logging.WARNING)
        for warning in server_flags.warnings(flags):
            logging.getLogger(__name__).warning(warning)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        if not flags.version:
            _check_quickly(flags)
        # TensorFlow takes seconds to import; to hear of a mistake should not.
        from serving.server import server

        if flags.version:
            print(server.version_text())
            return
        server.serve(flags)


def _check_quickly(flags: server_flags.Flags) -> None:
    """Raises InputError for a port that is taken and a model list that is none."""
    for port in (flags.port, flags.rest_api_port):
        ports.check_free(flags.bind_address, port)
    if flags.model_config_file:
        model_config.read_models(flags.model_config_file)


if __name__ == "__main__":
    main()
