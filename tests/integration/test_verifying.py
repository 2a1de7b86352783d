"""`exchange up` verifies its own market maker, which reads no mails; and nobody else."""

from pathlib import Path

import psycopg
import pytest

from cli.verifying import verify_market_maker
from client.rest import Keys
from mm.accounts import Account, Accounts, accounts_file, keep_accounts
from runtime.settings import Settings

MAKER, TAKER, OTHER = "mm-maker@example.com", "mm-taker@example.com", "ada@example.com"


@pytest.mark.parametrize("is_required", [True, False])
def test_the_market_maker_is_verified_where_that_is_demanded(
    database_url: str, tmp_path: Path, is_required: bool
) -> None:
    settings = Settings(data_dir=tmp_path, database_url=database_url, verification_required=is_required)
    done: set[str] = set()
    with psycopg.connect(database_url, autocommit=True) as database:
        for number, email in enumerate((MAKER, TAKER, OTHER), 1001):
            database.execute(
                "INSERT INTO users (account_id, email, password_hash) VALUES (%s, %s, '')", (number, email)
            )
        verify_market_maker(settings, done)  # which has no accounts yet
        no_keys = Keys("", "")
        keep_accounts(
            accounts_file(tmp_path),
            Accounts(maker=Account(MAKER, "p", no_keys), taker=Account(TAKER, "p", no_keys)),
        )
        for _ in range(2):
            verify_market_maker(settings, done)
        verified = {
            email for (email,) in database.execute("SELECT email FROM users WHERE verified_at IS NOT NULL")
        }
        noted = database.execute("SELECT kind, detail FROM activity").fetchall()
    assert verified == done == ({MAKER, TAKER} if is_required else set())
    assert noted == [("verified", "by an operator")] * len(verified)
