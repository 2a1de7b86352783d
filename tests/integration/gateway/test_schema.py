"""Some hundred requests that schemathesis makes from the served description.

Tests/long/schema_fuzzing.py has the many.
"""

import pytest

from tests.support.described_api import BY_LABEL, a_world, exchange
from tests.support.gateway_processes import Processes
from tests.support.schema_fuzzing import fuzz, fuzz_stateful, report

SEED = 20_261_129
EXAMPLES, WALKING, STEPS = 6, 60, 8


# Takes long: a thousand generated requests: some for every endpoint.
@pytest.mark.timeout(600)
def test_answers_are_what_the_description_says(processes: Processes) -> None:
    with exchange(processes) as (url, document):
        world = a_world(processes, url, document, SEED)
        fuzz(world, document, EXAMPLES, SEED)
        fuzz_stateful(world, document, WALKING, STEPS, SEED)
    text, _, _ = report(document, world.seen)
    assert world.seen.violations == [], text
    assert world.seen.cases.total() > 400
    assert set(world.seen.cases) == set(BY_LABEL)
    succeeded = [label for label, statuses in world.seen.statuses.items() if statuses[200]]
    assert len(succeeded) > 40, text


def test_an_answer_that_the_description_does_not_have_is_found(processes: Processes) -> None:
    """The control: a description that lacks a field, a status, or has another form of amounts."""
    with exchange(processes) as (url, document):
        schemas = document["components"]["schemas"]
        del schemas["DepthShape"]["properties"]["asks"]
        schemas["TimeShape"]["properties"]["serverTime"] = {"type": "string"}
        del document["paths"]["/api/v3/avgPrice"]["get"]["responses"]["400"]
        only = {
            path: document["paths"][path] for path in ("/api/v3/depth", "/api/v3/time", "/api/v3/avgPrice")
        }
        world = a_world(processes, url, document, SEED)
        fuzz(world, {**document, "paths": only}, 20, SEED)
    found = {violation.partition(":")[0] for violation in world.seen.violations}
    assert found == {"GET /api/v3/depth", "GET /api/v3/time", "GET /api/v3/avgPrice"}
