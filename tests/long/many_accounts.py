"""An edge that 50,000 accounts listen to is back within seconds after Redis was away, and ends when it is
told to.

While their connections are opened, the edge looks up the first listenKeys again.
"""

from pathlib import Path

from tests.integration.conftest import own_redis
from tests.support.own_servers import OwnRedis
from tests.support.returning_accounts import is_back

__all__ = ["own_redis"]


async def test_an_edge_with_50_000_accounts_is_back_within_seconds(
    own_redis: OwnRedis, tmp_path: Path
) -> None:
    await is_back(own_redis, tmp_path, 50_000)
