"""What lies in OpenBao arrives in the program, byte for byte."""

from __future__ import annotations

import json
import string

import pytest

from cloudtaser.demo import setup
from cloudtaser.demo.chain import Chain
from cloudtaser.openbao.client import OpenBao
from tests.chain_tools import delivered, eventually, run_wrapped

pytestmark = pytest.mark.asyncio(loop_scope="session")

BINARY_LOOKING = "".join(chr(code) for code in range(1, 256)) + "\u2028\ufeff\U0010ffff"
SHAPES = {
    "large": "x" * 65_536,
    "binary": BINARY_LOOKING,
    "unicode": "grüße 秘密 🔑 \u0646\u0635",
    "quoted": 'a"b\\c\nd\te\r\u0000'.replace("\u0000", "") + "${HOME} $(id) `id` %s {}",
    "empty": "",
    "equals": "a=b=c",
    "spaces": "  leading and trailing  ",
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_value_of_any_shape_arrives_unchanged(chain: Chain, admin: OpenBao, shape: str) -> None:
    await setup.write_secret(admin, f"shop/{shape}", {"value": SHAPES[shape]})
    found = await delivered(chain, f"secret/data/shop/{shape}", "value=VALUE")
    assert found["VALUE"] == SHAPES[shape]


async def test_five_hundred_fields_arrive(chain: Chain, admin: OpenBao) -> None:
    fields = {f"field_{number}": f"value {number}" for number in range(500)}
    await setup.write_secret(admin, "shop/many", fields)
    found = await delivered(chain, "secret/data/shop/many")
    assert {name: found.get(name.upper()) for name in fields} == fields


async def test_names_that_are_no_variables_are_left_out_with_a_warning(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(
        admin, "shop/odd", {"good": "1", "not-a-name": "2", "1st": "3", "LD_PRELOAD": "4"}
    )
    pod = chain.pod("shop")
    environment = {"CLOUDTASER_SECRET_PATHS": "secret/data/shop/odd"}
    result = await run_wrapped(pod, ["/usr/bin/env", "-0"], environment)
    names = {item.partition("=")[0] for item in result.output.split("\0")}
    assert "GOOD" in names
    assert not names & {"LD_PRELOAD", "NOT-A-NAME", "not-a-name", "1ST"}
    assert "LD_PRELOAD" in result.errors


async def test_an_odd_field_name_can_be_mapped(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "shop/mapped", {"tls.key": "k", "a=b": "e"})
    found = await delivered(chain, "secret/data/shop/mapped", r"tls.key=TLS_KEY,a\=b=AB")
    assert (found["TLS_KEY"], found["AB"]) == ("k", "e")


async def test_several_paths_are_mapped_in_their_order(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "shop/first", {"password": "one"})
    await setup.write_secret(admin, "shop/second", {"password": "two"})
    paths = "secret/data/shop/first,secret/data/shop/second"
    found = await delivered(chain, paths, "password=FIRST;password=SECOND")
    assert (found["FIRST"], found["SECOND"]) == ("one", "two")


async def test_the_program_sees_nothing_of_the_wrapper(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "shop/plain", {"value": "v"})
    found = await delivered(chain, "secret/data/shop/plain", "value=VALUE")
    assert set(found) == {"PATH", "VALUE"}


async def test_a_path_without_a_grant_is_refused_and_the_grant_is_named(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "bank/config", {"value": "v"})
    environment = {"CLOUDTASER_SECRET_PATHS": "secret/data/bank/config"}
    result = await run_wrapped(chain.pod("shop", "web"), ["/bin/true"], environment)
    assert result.status == 77
    assert "source allow" in result.errors
    assert "secret/data/bank/config" in result.errors
    assert "Traceback" not in result.errors


async def test_a_grant_lets_exactly_that_account_read_that_path(chain: Chain, admin: OpenBao) -> None:
    await setup.write_secret(admin, "bank/rates", {"value": "4 %"})
    grant = [chain.fingerprint, "--namespace", "shop", "--serviceaccount", "cashier"]
    await chain.cli("source", "allow", *grant, "--path", "secret/data/bank/rates")
    environment = {"CLOUDTASER_SECRET_PATHS": "secret/data/bank/rates", "CLOUDTASER_ENV_MAP": "value=RATE"}

    async def reads() -> bool:
        pod = chain.pod("shop", "cashier")
        result = await run_wrapped(pod, ["/usr/bin/printenv", "RATE"], environment)
        return (result.status, result.output) == (0, "4 %\n")

    await eventually(reads, "the bridge sees the grant at its next poll")
    other = await run_wrapped(chain.pod("shop", "web"), ["/bin/true"], environment)
    assert other.status == 77


async def test_a_missing_secret_is_one_line_that_names_it(chain: Chain) -> None:
    environment = {"CLOUDTASER_SECRET_PATHS": "secret/data/shop/absent", "CLOUDTASER_STARTUP_TIMEOUT": "2"}
    result = await run_wrapped(chain.pod("shop"), ["/bin/true"], environment)
    assert result.status != 0
    last = json.loads(result.errors.strip().splitlines()[-1])
    assert "secret/data/shop/absent" in json.dumps(last)
    assert set(result.errors) <= set(string.printable)
