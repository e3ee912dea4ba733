"""Why an image's configuration cannot be had.

Raised by `resolver`; the webhook turns them into a refusal or a warning, and counts them by `reason`. Each is
one line, without a credential: what the registry said, of which image, what to do.
"""

from __future__ import annotations

from typing import ClassVar

from cloudtaser.errors import CloudtaserError


class ImageError(CloudtaserError):
    """An image's configuration cannot be had."""

    reason: ClassVar[str] = "image"
    """A word for metrics and events."""


class ImageReferenceError(ImageError):
    """What the pod calls its image is no reference to one."""

    reason = "reference"


class ImageNotFoundError(ImageError):
    """The registry has no such repository, tag or digest (404), or shows it to nobody whom we can be."""

    reason = "not_found"


class ImageForbiddenError(ImageError):
    """The registry wants other credentials than those that this namespace's pods may use (401, 403)."""

    reason = "forbidden"


class ImageAddressError(ImageError):
    """The registry, or where it sends us, lies at an address that is not allowed."""

    reason = "address"


class ImageUnusableError(ImageError):
    """What the registry sent is no image that we can read, not the one asked for, or for other platforms."""

    reason = "unusable"


class RegistryUnavailableError(ImageError):
    """The registry cannot be reached, is too slow, cut us off, or answered 429 or 5xx; later may help."""

    reason = "unavailable"


class RegistryUnreachableError(RegistryUnavailableError):
    """No connection to it stands: neither this image nor another can be asked for now."""


class RegistryCutOffError(RegistryUnavailableError):
    """The connection broke within an answer; a second attempt is worth it."""


class RegistryBusyError(RegistryUnavailableError):
    """429. `pause`: seconds for which the registry wants to be left alone, 0 when it does not say."""

    def __init__(self, what: str, *, on: str = "", fix: str = "", pause: float = 0.0) -> None:
        super().__init__(what, on=on, fix=fix)
        self.pause = pause
