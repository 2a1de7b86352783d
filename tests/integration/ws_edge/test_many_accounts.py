"""An edge that many accounts listen to is back within seconds after Redis was away, and nobody has missed
anything.

Here it is 10,000; tests/long has 50,000.
"""

from pathlib import Path
from typing import Final

import pytest

from tests.support.own_servers import OwnRedis
from tests.support.returning_accounts import is_back

ACCOUNTS: Final = 10_000


@pytest.mark.timeout(180)
async def test_an_edge_with_10_000_accounts_is_back_within_seconds(
    own_redis: OwnRedis, tmp_path: Path
) -> None:
    await is_back(own_redis, tmp_path, ACCOUNTS)
