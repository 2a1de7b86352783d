import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.commands.secrets import secrets
from cli.secret_files import Hosts, secret_files
from protocol.configuration import Role
from runtime.operator_keys import private_key, public_half, public_keys, shard_key
from runtime.redis_clients import parse_address
from runtime.settings import Settings, load_settings


def _made(folder: Path) -> dict[str, str]:
    done = CliRunner().invoke(secrets, [str(folder)])
    assert done.exit_code == 0, done.output
    return {
        str(file.relative_to(folder)): file.read_text("utf-8") for file in folder.rglob("*") if file.is_file()
    }


def test_making_them_again_changes_nothing(tmp_path: Path) -> None:
    first = _made(tmp_path)
    assert len(first) > 15
    (tmp_path / "gateway/redis-url").unlink()
    assert _made(tmp_path) == first


def test_nobody_has_the_same_as_somebody_else(tmp_path: Path) -> None:
    one, other = _made(tmp_path / "one"), _made(tmp_path / "other")
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if not name.endswith("-previous"))
    assert one["gateway/master-key"] == one["edge/master-key"]
    urls = [text for name, text in one.items() if name.endswith("redis-url")]
    assert len(set(urls)) == len(urls)


def test_what_is_in_the_files_are_settings(tmp_path: Path) -> None:
    _made(tmp_path)
    for user in ("gateway", "edge", "operator"):
        for url in ("redis-url", "redis-sentinel-url"):
            environment = {
                "EXCHANGE_REDIS_URL_FILE": str(tmp_path / user / url),
                "EXCHANGE_DATABASE_URL_FILE": str(tmp_path / user / "database-url"),
                "EXCHANGE_MASTER_KEY_FILE": str(tmp_path / user / "master-key"),
            }
            assert parse_address(load_settings(environment).redis_url)


def test_only_those_who_need_it_get_the_database_and_the_master_key() -> None:
    files = secret_files(b"s" * 32, Hosts())
    assert [path for path in files if path.endswith("-key") and "master" not in path] == [
        "operator/operator-key",
        "operator/treasury-key",
        "gateway/faucet-key",
    ]
    having = {
        name: {path.split("/")[0] for path in files if path.endswith(name)}
        for name in ("database-url", "master-key")
    }
    assert having == {
        "database-url": {"gateway", "edge", "persist", "operator", "migrate"},
        "master-key": {"gateway", "edge", "operator"},
    }
    database_password = files["database/password"]
    assert all(
        database_password not in text
        for path, text in files.items()
        if path.startswith(("engine/", "feeds/", "redis/"))
    )


def test_the_engines_know_the_public_halves_of_the_keys(tmp_path: Path) -> None:
    _made(tmp_path)
    folders = {"operator_key": "operator", "treasury_key": "operator", "faucet_key": "gateway"}
    names = {
        f"EXCHANGE_{name.upper()}_FILE": str(tmp_path / folder / name.replace("_", "-"))
        for name, folder in folders.items()
    }
    holder = load_settings(names)
    engine = load_settings({"EXCHANGE_OPERATOR_KEYS_FILE": str(tmp_path / "engine/operator-keys")})
    known = {key.role: key.public_key for key in public_keys(engine)}
    assert known == {role: public_half(private_key(holder, role)) for role in Role}
    closed = load_settings(
        {
            "EXCHANGE_OPERATOR_KEYS_FILE": str(tmp_path / "engine/operator-keys"),
            "EXCHANGE_FAUCET_ENABLED": "false",
        }
    )
    assert {key.role for key in public_keys(closed)} == {Role.OPERATOR, Role.TREASURY}


def test_a_seed_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator/seed").write_text("short", "ascii")
    done = CliRunner().invoke(secrets, [str(tmp_path)])
    assert done.exit_code == 1
    assert "a seed is 32 bytes in hexadecimal" in done.output


def test_files_can_be_read_by_whoever_gets_the_folder_and_the_seed_by_its_owner(tmp_path: Path) -> None:
    _made(tmp_path)
    assert (tmp_path / "redis/users.acl").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "operator/seed").stat().st_mode & 0o777 == 0o600


def test_a_faucet_is_never_given_limits_that_no_shard_can_read() -> None:
    """Else the command that configures a new shard is a dead letter, and the shard stays without markets."""
    (limit,) = shard_key(Settings(faucet_amount_max=10**15), Role.FAUCET, bytes(32)).limits
    assert (limit.deposit_max, limit.daily_max) == (2**63 - 1, 2**63 - 1)


def _rotated(folder: Path, *options: str) -> dict[str, str]:
    done = CliRunner().invoke(secrets, [str(folder), *options])
    assert done.exit_code == 0, done.output
    return {
        str(file.relative_to(folder)): file.read_text("utf-8") for file in folder.rglob("*") if file.is_file()
    }


def test_redis_takes_both_passwords_until_those_of_before_are_forgotten(tmp_path: Path) -> None:
    before = _made(tmp_path)
    rotated = _rotated(tmp_path, "--rotate", "redis")
    assert _made(tmp_path) == rotated  # what `docker compose up` runs each time
    forgotten = _rotated(tmp_path, "--forget", "redis")
    for user in ("gateway", "edge", "engine", "feeds", "persist", "operator"):
        old, new = (
            hashlib.sha256(files[f"{user}/redis-url"].split(":")[2].partition("@")[0].encode()).hexdigest()
            for files in (before, rotated)
        )
        assert old != new
        lines = [
            next(line for line in files["redis/users.acl"].splitlines() if line.startswith(f"user {user} "))
            for files in (before, rotated, forgotten)
        ]
        assert [(old in line, new in line) for line in lines] == [(True, False), (True, True), (False, True)]
    assert forgotten["gateway/redis-url"] == rotated["gateway/redis-url"]
    assert rotated["redis/sentinel.conf"] == before["redis/sentinel.conf"]
    changed = {name for name in before if before[name] != rotated[name]}
    assert not any("database" in name or "master" in name or "operator-key" in name for name in changed)


def test_the_next_master_key_is_known_before_it_is_used(tmp_path: Path) -> None:
    def keys(files: dict[str, str]) -> tuple[str, str]:
        assert files["gateway/master-key"] == files["edge/master-key"] == files["operator/master-key"]
        return files["gateway/master-key"], files["gateway/master-key-previous"]

    old, nothing = keys(_made(tmp_path))
    assert nothing == ""
    same, new = keys(_rotated(tmp_path, "--rotate", "master-key"))
    assert (same, new != "") == (old, True)
    assert new != old
    assert keys(_rotated(tmp_path, "--rotate", "master-key")) == (new, old)
    done = CliRunner().invoke(secrets, [str(tmp_path), "--rotate", "master-key"])
    assert (done.exit_code, "is not finished" in done.output) == (1, True)
    assert keys(_rotated(tmp_path, "--forget", "master-key")) == (new, "")


def test_each_family_changes_alone_and_the_database_all_at_once(tmp_path: Path) -> None:
    before = _made(tmp_path)
    for family, names in {
        "metrics": ("metrics-password",),
        "database": ("database-url", "database-password", "database-role-passwords", "database/password"),
        "faucet-key": ("faucet-key", "operator-keys"),
        "treasury-key": ("treasury-key", "operator-keys"),
        "operator-key": ("operator/operator-key", "operator-keys"),
    }.items():
        after = _rotated(tmp_path, "--rotate", family)
        changed = {name for name in before if before[name] != after[name]} - {"operator/rotations.json"}
        assert changed
        assert all(name.endswith(names) for name in changed), (family, changed)
        before = after
    assert (tmp_path / "operator/rotations.json").stat().st_mode & 0o777 == 0o600
    seed = bytes.fromhex(before["operator/seed"])
    assert secret_files(seed, Hosts())["gateway/database-url"] != before["gateway/database-url"]


@pytest.mark.parametrize("family", ["master-key", "redis", "database", "metrics"])
def test_what_was_interrupted_is_done_by_the_same_command(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the step after it: a master key would seal that not every process has heard of."""
    folder, other = tmp_path / "one", tmp_path / "other"
    before = _made(folder)
    replace, replaced = Path.replace, list[Path]()

    def interrupted(draft: Path, target: Path) -> Path:
        if len(replaced) == len(before) // 2:
            raise KeyboardInterrupt
        replaced.append(target)
        return replace(draft, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        assert CliRunner().invoke(secrets, [str(folder), "--rotate", family]).exit_code != 0
    for draft in folder.rglob(".*"):
        draft.unlink()
    again = _rotated(folder, "--rotate", family)
    (other / "operator").mkdir(parents=True)
    (other / "operator/seed").write_text(before["operator/seed"])
    assert again == _rotated(other, "--rotate", family)


def test_the_folder_of_all_secrets_is_closed_to_others(tmp_path: Path) -> None:
    _made(tmp_path / "secrets")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
