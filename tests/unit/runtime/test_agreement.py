from runtime.agreement import differences
from runtime.settings import ClusterSettings

OWN = ClusterSettings(shard_count=2)


def test_processes_with_the_same_values_agree() -> None:
    assert differences(OWN, {"feeds@host.1": ClusterSettings(shard_count=2)}) == []
    assert differences(OWN, {}) == []


def test_every_setting_that_differs_is_named_with_both_values_and_who_has_the_other() -> None:
    others = {
        "gateway@host.2": ClusterSettings(shard_count=3, lease_ms=5_000),
        "feeds@host.1": ClusterSettings(shard_count=1),
    }
    assert differences(OWN, others) == [
        "EXCHANGE_SHARD_COUNT: 2 here, 1 in feeds@host.1, 3 in gateway@host.2",
        "EXCHANGE_LEASE_MS: 1000 here, 5000 in gateway@host.2",
    ]
