"""Webhook: the door to this package. Made once by the manager's wiring, served under its TLS context."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry

from cloudtaser.operator.webhook.ports import Ports
from cloudtaser.operator.webhook.settings import WebhookSettings


class Webhook:
    """Answers admission reviews; `application` is to be served with TLS on port 9443."""

    def __init__(self, settings: WebhookSettings, ports: Ports, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._ports = ports
        self._registry = registry

    def application(self) -> web.Application:
        """A fresh aiohttp application with the five paths of `configuration`."""
        return web.Application(client_max_size=self._settings.limits.body_bytes)
