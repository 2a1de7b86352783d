"""Lua scripts for Redis, each a file in the folder `scripts` of its package."""

from importlib import resources

from runtime.redis_reserve import RESERVE


def load_script(package: str, name: str, *, is_reserved: bool = False, **values: int | str) -> str:
    """Return the text of `package`/scripts/`name`.lua without its comments.

    `values` become local variables of the script. A script that `is_reserved` also writes when Redis's memory
    is full (runtime/redis_reserve.py).
    """
    text = resources.files(package).joinpath("scripts", f"{name}.lua").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("--")]
    arguments = [
        f"local {key} = {value}" if isinstance(value, int) else f"local {key} = '{value}'"
        for key, value in values.items()
    ]
    return (RESERVE if is_reserved else "") + "\n".join([*arguments, *lines, ""])
