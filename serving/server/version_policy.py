"""Which of a model's versions are to be served, as its configuration says.

Without TensorFlow, so that the launcher asks the same question as the server.
"""

import logging

from google.protobuf import message
from tensorflow_serving.config import file_system_storage_path_source_pb2 as source_pb2

VersionPolicy = source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy

logger = logging.getLogger(__name__)


def chosen(policy: message.Message, versions: dict[int, str]) -> dict[int, str]:
    """The versions that a policy asks for, of those that exist."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return dict(versions)
    if choice == "specific":
        wanted = set(policy.specific.versions)
        for missing in sorted(wanted - set(versions)):
            logger.warning("version %d was asked for and is not there", missing)
        return {version: path for version, path in versions.items() if version in wanted}
    newest = max(policy.latest.num_versions, 1)
    return {version: versions[version] for version in sorted(versions, reverse=True)[:newest]}
