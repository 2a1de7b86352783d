"""Step-up authentication, for actions for which a stolen session must not suffice."""

from functions.api.errors import ApiError
from functions.api.ports import Call, Ports
from functions.repositories.users import StepUpFacts
from functions.users.attempts import Attempt
from functions.users.second_factor import check_second_factor


async def confirm(ports: Ports, call: Call, password: str, code: str) -> str:
    """Refuse a request without the calling account's password and second factor.

    Return the password's hash.

    Raises:
        ApiError: -1002 the password or the code is wrong, -9001 a code is required, -1003 too many attempts.
    """
    facts = await ports.users.step_up_facts(call.account_id, call.address) or StepUpFacts("", "", False)
    attempt = Attempt(facts.email, call.address, facts.knows_address)
    await ports.attempts.begin(attempt)
    if not await ports.passwords.matches(facts.password_hash, password):
        raise ApiError(-1002, "Password is wrong.", 401)
    await check_second_factor(ports, call, call.account_id, code)
    await ports.attempts.succeeded(attempt)
    return facts.password_hash
