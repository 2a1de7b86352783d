"""Redis's users of the development overlays, of the one table of users: `python -m
tests.deploy.development_users` writes the file."""

from typing import Final

from cli.secret_files import REDIS_USERS, password_hash, users_acl
from runtime.unsafe_settings import PUBLISHED
from tests.deploy.rendered import ROOT

FILE: Final = ROOT / "k8s" / "components" / "development-secrets" / "users.acl"


def development_users() -> str:
    """Return the ACL file."""
    return users_acl({user: [password_hash(f"{PUBLISHED}-{user}")] for user in REDIS_USERS})


if __name__ == "__main__":
    FILE.write_text(development_users(), "utf-8")
