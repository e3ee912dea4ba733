"""What is measured, in a process of its own: the webhook as the operator runs it, and one that does nothing.

`compare` starts it. Images are resolved by the real resolver from a real registry, once each; then they are
cached. Prints one line of JSON, where everything is, and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop
from prometheus_client import CollectorRegistry

from cloudtaser.kube.registry.image import ImageRequest
from cloudtaser.operator.webhook import configuration
from cloudtaser.operator.webhook.metrics import WebhookMetrics
from cloudtaser.operator.webhook.ports import NamespaceView
from cloudtaser.operator.webhook.review import Answer, Review
from cloudtaser.operator.webhook.server import build
from cloudtaser.operator.webhook.settings import Limits
from tests.cluster.admission import Served
from tests.cluster.identities import Identities
from tests.image_registry import RegistryServer
from tests.image_registry import configuration as image_configuration
from tests.integration.registry.support import Resolving
from tests.unit.operator.webhook.pods_rig import World


async def nothing(review: Review, seconds: float) -> Answer:
    """A webhook that allows everything."""
    return Answer()


async def serve(directory: Path) -> None:
    """Both, until nobody wants them any more."""
    registry = RegistryServer(directory / "registry")
    await registry.start()
    await registry.push("known:1", image_configuration(["/entry"], ["run"]))
    image = f"{registry.host}/known:1"
    async with Resolving(registry) as resolving:
        await resolving.resolver.resolve(ImageRequest(image, "shop"))
        world = World(images=resolving.resolver)  # type: ignore[arg-type]  # all that is used of it
        world.spaces["shop"] = NamespaceView()
        paths = (
            configuration.MUTATE,
            configuration.MUTATE_REQUIRED,
            configuration.VALIDATE,
            configuration.VALIDATE_REQUIRED,
        )
        noop = build(dict.fromkeys(paths, nothing), Limits(), WebhookMetrics(CollectorRegistry()))
        identities = Identities(directory / "pki")
        served = [
            Served(app, identities, name) for app, name in ((world.webhook().application(), "w"), (noop, "n"))
        ]
        for one in served:
            await one.start()
        print(
            json.dumps(
                {
                    "webhook": served[0].url,
                    "noop": served[1].url,
                    "ca": str(identities.ca),
                    "ca_bundle": served[0].ca_bundle,
                    "image": image,
                }
            ),
            flush=True,
        )
        await asyncio.to_thread(sys.stdin.read)
        for one in served:
            await one.stop()
    await registry.stop()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
