"""The settings file: what the chart says for every pod, as JSON in a ConfigMap that the manager mounts.

Read once at start by `manager_container`; a change makes new pods. Keys are the fields of the webhook's
settings; what is not said has their defaults.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Final

import msgspec

from cloudtaser.errors import ConfigError
from cloudtaser.operator.webhook.settings import WebhookSettings
from cloudtaser.wire.strict_json import parse_object

MAX_BYTES: Final = 1024 * 1024
"""A ConfigMap holds no more."""
NOT_FROM_A_FILE: Final = ("fingerprint", "namespace")
"""What the cluster itself says."""


def read_settings(path: str, fingerprint: str, namespace: str) -> WebhookSettings:
    """The webhook's settings for this cluster. ConfigError naming the file and what is wrong with it."""
    given = _object(path)
    known = {field.name for field in dataclasses.fields(WebhookSettings)} - set(NOT_FROM_A_FILE)
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(
            f"there is no setting {unknown[0]!r}", on=path, fix=f"there are {', '.join(sorted(known))}"
        )
    try:
        return msgspec.convert(
            {**given, "fingerprint": fingerprint, "namespace": namespace}, WebhookSettings, strict=True
        )
    except msgspec.ValidationError as error:
        raise ConfigError(f"a setting cannot be used: {error}", on=path, fix="correct it") from None


def _object(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return parse_object(file.read(MAX_BYTES + 1), what="the settings file", limit=MAX_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings: {os.strerror(error.errno or 0).lower()}",
            on=path,
            fix="give --settings; the chart mounts it",
        ) from None
