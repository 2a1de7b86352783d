"""The processes of the exchange, in the order in which an order passes through them."""

from dataclasses import dataclass, field

from runtime.settings import PREFIX, Settings


@dataclass(frozen=True)
class ProcessSpec:
    """One process: `python -m module arguments`, with settings of its own."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    needs_database: bool = False


def process_specs(settings: Settings) -> list[ProcessSpec]:
    """Return what runs beside the servers."""
    specs = [
        ProcessSpec("gateway", "gateway.main", needs_database=True),
        *(
            ProcessSpec(f"engine-{shard}", "engine_worker.main", environment={f"{PREFIX}SHARD": str(shard)})
            for shard in range(settings.shard_count)
        ),
        ProcessSpec("feeds", "feeds.main"),
        ProcessSpec("persist-nudger", "persist.main", ("nudge",)),
        ProcessSpec("persist-worker", "persist.main", ("work",), needs_database=True),
    ]
    if settings.mm_enabled:
        specs.append(ProcessSpec("mm", "mm.main", needs_database=True))
    if settings.metrics_port:
        return [
            ProcessSpec(
                spec.name,
                spec.module,
                spec.arguments,
                {**spec.environment, f"{PREFIX}METRICS_PORT": str(settings.metrics_port + number)},
                spec.needs_database,
            )
            for number, spec in enumerate(specs)
        ]
    return specs


def urls(settings: Settings) -> dict[str, str]:
    """Return where the exchange can be reached."""
    return {"rest": settings.rest_url(), "api documentation": f"{settings.rest_url()}/schema"}
