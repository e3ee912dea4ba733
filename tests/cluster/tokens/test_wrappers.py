"""Real wrappers, sealed: ready only once they run, unsealed by the operator, and sealed again when their
token is gone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.ports import free_port
from cloudtaser.wire import names
from tests.chain_tools import audited, eventually
from tests.cluster.tokens.world import PATH, PATIENCE, SHOP, Replica, TokenPod, TokenWorld
from tests.integration.sealed.support import Sealed
from tests.integration.wrapper_vault import QUICK
from tests.unit.wrapper.launch import python

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(600),
]

MANY: Final = int(os.environ.get("CLOUDTASER_TOKEN_WRAPPERS", "6"))

PRINT_AND_WAIT = python(
    "import os, time\nprint(os.environ['VALUE'], flush=True)\nwhile True: time.sleep(3600)"
)


async def start(world: TokenWorld, replica: Replica, pod: TokenPod, directory: Path) -> Sealed:
    """The pod's container, with what the webhook sets and the kubelet mounts."""
    file = directory / f"{pod.name}.jwt"
    file.write_text(await world.jwt(pod))
    found = await world.kube.get_config_map(names.SYSTEM_NAMESPACE, names.POD_CA_CONFIGMAP)
    assert found is not None
    settings = {
        "VAULT_ADDR": f"broker://127.0.0.1:{replica.broker_port}",
        "VAULT_AUTH_METHOD": "token",
        "CLOUDTASER_CA": found.data["pod-ca.crt"],
        "CLOUDTASER_SECRET_PATHS": PATH,
        "CLOUDTASER_ENV_MAP": "value=VALUE",
        "CLOUDTASER_POD_UID": pod.uid,
        "CLOUDTASER_CONTAINER": "app",
        "CLOUDTASER_FINGERPRINT": world.fingerprint,
        "CLOUDTASER_LISTEN_ADDR": f"{pod.address}:{pod.port}",
        "CLOUDTASER_OPERATOR_ADDR": f"127.0.0.1:{replica.unseal_port}",
        "CLOUDTASER_UNSEAL_JWT_FILE": str(file),
        "CLOUDTASER_EBPF": "off",
        **QUICK,
    }
    return await asyncio.to_thread(Sealed, *PRINT_AND_WAIT, settings=settings)


async def test_a_real_wrapper_is_ready_only_with_its_token_and_gets_another_when_that_is_revoked(
    world: TokenWorld, replica: Replica, tmp_path: Path
) -> None:
    await replica.manager.stop()  # nobody hears it yet
    pod = await world.add_pod(port=free_port())
    wrapper = await start(world, replica, pod, tmp_path)
    try:
        assert (await asyncio.to_thread(wrapper.ask, "GET", "/readyz"))[0] == 503
        assert (await asyncio.to_thread(wrapper.status))["sealed"] is True
        await world.start(replica)
        assert await asyncio.to_thread(wrapper.line) == "first"

        async def ready() -> bool:
            return (await asyncio.to_thread(wrapper.ask, "GET", "/readyz"))[0] == 200

        await eventually(ready, "the wrapper is ready", timeout=PATIENCE)
        (first,) = await world.tokens_of(pod)
        await audited(world.chain, f'"pod":"{pod.name}","method":"GET","path":"/v1/{PATH}"')
        await setup.write_secret(world.admin, f"{SHOP}/db", {"value": "second"})
        assert await asyncio.to_thread(wrapper.line) == "second", "the token reads what is new"
        await world.admin.request("POST", "auth/token/revoke-accessor", body={"accessor": first})
        await asyncio.to_thread(wrapper.event, "sealed again")
        await asyncio.to_thread(wrapper.event, "unsealed")

        async def replaced() -> bool:
            held = await world.tokens_of(pod)
            return len(held) == 1 and await world.annotation(pod) == f"app={next(iter(held))}"

        await eventually(replaced, "another token is annotated", timeout=PATIENCE, every=0.2)
        assert first not in await world.tokens_of(pod)
        await setup.write_secret(world.admin, f"{SHOP}/db", {"value": "first"})
        assert await asyncio.to_thread(wrapper.line) == "first"
    finally:
        await asyncio.to_thread(wrapper.__exit__)
    assert len(await world.tokens_of(pod)) == 1, "the token is the pod's, not the process's"
    await world.delete(pod)
    await world.until_gone(pod)


async def test_many_real_wrappers_at_once_are_unsealed_and_their_tokens_go_with_their_pods(
    world: TokenWorld, replica: Replica, tmp_path: Path
) -> None:
    pods = [await world.add_pod(port=free_port()) for _ in range(MANY)]
    wrappers = await asyncio.gather(*(start(world, replica, pod, tmp_path) for pod in pods))
    try:
        lines = await asyncio.gather(*(asyncio.to_thread(wrapper.line) for wrapper in wrappers))
        assert lines == ["first"] * MANY
        theirs = {pod.uid for pod in pods}  # a pod of an earlier test may still be on its way out
        held = [token["meta"]["pod_uid"] for token in (await world.tokens()).values()]
        assert sorted(uid for uid in held if uid in theirs) == sorted(theirs), "one token for each"
    finally:
        await asyncio.gather(*(asyncio.to_thread(wrapper.__exit__) for wrapper in wrappers))
    for pod in pods:
        await world.delete(pod)
    for pod in pods:
        await world.until_gone(pod)
