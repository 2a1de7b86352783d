"""`exchange keys`."""

from collections.abc import Callable

import msgspec
import rich_click as click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.console import CommandError, console, plain_table, print_json, running_settings
from cli.operating import Operator, operating
from protocol.commands import ConfigureShard
from protocol.configuration import OperatorKey, Role
from runtime.key_files import decoded_key, encoded_key
from runtime.operator_keys import key_name, public_half, replace_private_key

_ROLES = [role.name.lower() for role in Role]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: a list of name, role, publicKey, shards.")
@click.pass_context
def keys(context: click.Context, as_json: bool) -> None:
    """Show whose signatures the shards take.

    Whoever configures, freezes, deposits or withdraws signs the command with a private key. The public halves are part of each shard's
    state: another one is taken only after a command that an operator's key has signed.
    """
    if context.invoked_subcommand is not None:
        return
    with operating() as operator:
        known: dict[OperatorKey, list[int]] = {}
        for shard, config in operator.configs.items():
            for key in config.keys:
                known.setdefault(key, []).append(shard)
    rows = [
        {"name": key.name, "role": key.role.name.lower(), "publicKey": encoded_key(key.public_key), "shards": shards}
        for key, shards in known.items()
    ]
    if as_json:
        print_json(rows)
        return
    table = plain_table("name", "role", "public key", "shards")
    for row in rows:
        table.add_row(str(row["name"]), str(row["role"]), str(row["publicKey"]), ", ".join(map(str, row["shards"])))
    console.print(table)


@keys.command()
@click.argument("role", type=click.Choice(_ROLES))
@click.option("--public-key", help="The new public key, in base64url. Without: make a new pair in the data folder.")
@click.option("--keep", is_flag=True, help="Let the old keys of the role count until they are revoked.")
def rotate(role: str, public_key: str | None, keep: bool) -> None:
    """Give the shards a new key of a role, and revoke the old ones.

    First every shard takes the new key, then its private half replaces the old one in the data folder, then the old ones are revoked: who
    is interrupted repeats it. With a public key of your own, give its private half to the processes that need it
    (EXCHANGE_OPERATOR_KEY, EXCHANGE_TREASURY_KEY, EXCHANGE_FAUCET_KEY) before the old one is revoked. Gateways read the faucet's at
    their start, so use --keep, restart them, and revoke then.
    """
    settings, chosen = running_settings(), Role[role.upper()]
    if public_key is None and getattr(settings, f"{role}_key"):
        raise CommandError(f"The settings name the {role}'s key, so a new one cannot be made here; give --public-key.")
    if public_key is not None and chosen is Role.OPERATOR and not keep:
        raise CommandError("Use --keep: the old key signs until EXCHANGE_OPERATOR_KEY is the new one; revoke it then.")
    new = Ed25519PrivateKey.generate() if public_key is None else None
    public = public_half(new) if new is not None else decoded_key(public_key or "", "--public-key")
    name = key_name(chosen, public)
    with operating() as operator:
        old = {key.name: key for config in operator.configs.values() for key in config.keys if key.role is chosen}
        limits = next((key.limits for key in old.values()), ())
        _change(
            operator, lambda known: (*(k for k in known if k.name != name), OperatorKey(name, chosen, public, limits))
        )
        if new is not None:
            replace_private_key(settings, chosen, new)
        if not keep:
            _change(operator, lambda known: tuple(key for key in known if key.name == name or key.name not in old))
    console.print(f"The shards take {name} now{'' if keep else ', and no other key of the role'}.")


@keys.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Let a key count no more. The last key of an operator cannot be revoked."""
    with operating() as operator:
        if not any(key.name == name for config in operator.configs.values() for key in config.keys):
            raise CommandError(f"No shard has a key {name}; `exchange keys` shows them.")
        _change(operator, lambda known: tuple(key for key in known if key.name != name))
    console.print(f"{name} counts no more")


def _change(operator: Operator, change: Callable[[tuple[OperatorKey, ...]], tuple[OperatorKey, ...]]) -> None:
    """Change the keys of every shard that has others."""
    for shard, known in operator.configs.items():
        config = msgspec.structs.replace(known, keys=change(known.keys), version=known.version + 1)
        if config.keys == known.keys:
            continue

        def command(request_id: int, reply_to: str) -> ConfigureShard:
            return ConfigureShard(request_id, reply_to, config)  # noqa: B023 - it is called at once

        operator.tell(shard, Role.OPERATOR, command, "take other keys")
        operator.configs[shard] = config
