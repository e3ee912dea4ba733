"""Clouds: the cloud that an administrator named in `operator.registry.cloudIdentity`.

Used by `resolver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloudtaser.kube.registry import cloud_aws, cloud_google
from cloudtaser.kube.registry.cloud import Cloud, CloudServices
from cloudtaser.kube.registry.cloud_aws import Amazon
from cloudtaser.kube.registry.cloud_azure import Azure
from cloudtaser.kube.registry.cloud_google import Google
from cloudtaser.kube.registry.settings import RegistrySettings
from cloudtaser.net.proxy import DIRECT, Proxies

_METADATA: Final = {"aws": cloud_aws.METADATA, "google": cloud_google.METADATA}


def make_cloud(
    settings: RegistrySettings, environment: Mapping[str, str], proxies: Proxies = DIRECT
) -> tuple[Cloud | None, CloudServices | None]:
    """The cloud, and its services to be closed in the end; neither where none is named."""
    name = settings.cloud_identity
    if not name:
        return None, None
    metadata = _METADATA.get(name, ())
    services = CloudServices(environment, settings.bounds, metadata=metadata, ca=settings.ca, proxies=proxies)
    if name == "aws":
        return Amazon(services), services
    return (Google(services) if name == "google" else Azure(services)), services
