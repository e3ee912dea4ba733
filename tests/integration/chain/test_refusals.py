"""What a pod's user reads when secrets are refused through the whole chain: one line, with the way out."""

from __future__ import annotations

import asyncio

import pytest

from cloudtaser.demo.chain import Chain
from tests.integration.wrapper_vault import error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_refused_path_names_policy_capability_and_the_command_that_permits_it(chain: Chain) -> None:
    settings = chain.pod("shop").environment | {"CLOUDTASER_SECRET_PATHS": "secret/data/payroll/salaries"}
    line = await asyncio.to_thread(error_of, settings, 77)
    assert "secret/data/payroll/salaries" in line
    assert "capability read is missing" in line
    assert "the token's policies are" in line
    assert "cloudtaser-cli source allow" in line
    assert "--path secret/data/payroll/salaries" in line
    assert "\n" not in line


async def test_a_path_with_nothing_there_is_told_from_one_that_is_refused(chain: Chain) -> None:
    settings = chain.pod("shop").environment | {"CLOUDTASER_SECRET_PATHS": "secret/data/shop/nothing"}
    assert "nothing is there" in await asyncio.to_thread(error_of, settings, 78)
