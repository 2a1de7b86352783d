"""Requests made from the API's own description, by schemathesis, and what is wrong with the answers.

Half of a request's values are what the schema allows, or what it does not allow; the other half are put in by
`World`: markets that there are, orders that were placed, right passwords, signatures. Otherwise hardly any
request would get past the first check. Nothing is raised while requests are made: what is wrong is noted,
with the request, and judged in the end.
"""

import http.client
import itertools
import json
import random
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import hypothesis
import jsonschema_rs
import pyotp
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis.errors import Flaky
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from functions.api.function import Function, Security
from functions.users.session_cookies import COOKIE
from tests.support.api import Api, now_ms, signature_of
from tests.support.newcomers import PASSWORD, Person, newcomer
from tests.support.public_calls import called

CHECKS: Final = [not_a_server_error, status_code_conformance, content_type_conformance]
"""And `Described.why_not`, in place of schemathesis's own check of answers, which cannot read tuples
(`prefixItems`)."""
SYMBOLS: Final = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
ASSETS: Final = ("BTC", "ETH", "SOL", "USDT")
ENDS_SESSIONS: Final = frozenset(
    {
        "POST /api/v1/signout",
        "POST /api/v1/password",
        "DELETE /api/v1/sessions",
        "POST /api/v1/password/reset",
    }
    | {f"POST /api/v1/totp{end}" for end in ("", "/confirm", "/remove")}
)
"""Asked as somebody who is not needed for anything else."""
POOL_MAX: Final = 50
WALKS_AT_ONCE: Final = 10
TIMEOUT_S: Final = 60


class Plain(NamedTuple):
    """An answer to a request that schemathesis has not made."""

    status_code: int
    headers: dict[str, list[str]]
    text: str

    def json(self) -> Any:
        """Return its body."""
        return json.loads(self.text)


def plain_of(answer: requests.Response | httpx.Response) -> Plain:
    """Return an answer that a client library has got."""
    return Plain(answer.status_code, {"content-type": [answer.headers["content-type"]]}, answer.text)


@dataclass
class Seen:
    """What was answered."""

    cases: Counter[str] = field(default_factory=Counter)
    """By operation."""
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    fields: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The fields of answers that were 200, as paths: entries[].amount."""
    violations: list[str] = field(default_factory=list)

    def note(self, label: str, response: Response | Plain) -> None:
        """Note an answer."""
        self.cases[label] += 1
        self.statuses[label][response.status_code] += 1
        if response.status_code == 200 and "json" in response.headers.get("content-type", [""])[0]:
            self.fields[label].update(fields_of(response.json()))


def fields_of(value: object, path: str = "") -> Iterator[str]:
    """Yield the paths of all fields in a JSON value."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield f"{path}.{name}".lstrip(".")
            yield from fields_of(each, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from fields_of(each, f"{path}[]")


def fields_described(document: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """Return the same paths as an operation's description has them.

    Names that are not fixed (assets) are left out.
    """
    answer = operation["responses"].get("200", {}).get("content", {}).get("application/json")
    found: set[str] = set()

    def walk(schema: dict[str, Any], path: str) -> None:
        if "$ref" in schema:
            walk(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], path)
        for each in schema.get("anyOf", ()):
            walk(each, path)
        for name, each in schema.get("properties", {}).items():
            found.add(f"{path}.{name}".lstrip("."))
            walk(each, f"{path}.{name}".lstrip("."))
        if isinstance(schema.get("items"), dict):
            walk(schema["items"], f"{path}[]")

    if answer is not None:
        walk(answer["schema"], "")
    return found


class Described:
    """What the description says of answers."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._validators: dict[tuple[str, int], jsonschema_rs.Draft202012Validator] = {}

    def has(self, label: str, status: int) -> bool:
        """Whether an operation may answer with a status."""
        method, _, path = label.partition(" ")
        return str(status) in self._document["paths"][path][method.lower()]["responses"]

    def why_not(self, label: str, response: Response | Plain) -> str | None:
        """Return what is wrong with an answer in JSON; None: nothing."""
        method, _, path = label.partition(" ")
        status, (media_type, *_) = response.status_code, response.headers.get("content-type", [""])
        if "json" not in media_type:
            return None
        answers = self._document["paths"][path][method.lower()]["responses"]
        if not self.has(label, status):
            return None  # that is said already
        validator = self._validators.get((label, status))
        if validator is None:
            schema = answers[str(status)]["content"]["application/json"]["schema"]
            whole = {
                "$ref": "#/components/answer",
                "components": {**self._document["components"], "answer": schema},
            }
            validator = self._validators[label, status] = jsonschema_rs.Draft202012Validator(whole)
        error = next(validator.iter_errors(response.json()), None)
        return None if error is None else f"{error.message} at {list(error.instance_path)}"


class Signing(requests.auth.AuthBase):
    """Signs what is sent: the query as it is on the wire."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Take signature and time off, and put right ones in their place."""
        assert request.url is not None
        parts = urlsplit(request.url)
        kept = [
            (name, value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
            if name not in ("timestamp", "signature", "recvWindow")
        ]
        query = urlencode([*kept, ("timestamp", str(now_ms()))])
        request.url = parts._replace(
            query=f"{query}&signature={signature_of(self._api.secret, query)}"
        ).geturl()
        request.headers["X-MBX-APIKEY"] = self._api.key
        return request


class Bearer(requests.auth.AuthBase):
    """Says who is signed in."""

    def __init__(self, person: Person) -> None:
        self._person = person

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the session's token."""
        request.headers["Authorization"] = f"Bearer {self._person.token}"
        return request


class WithKey(requests.auth.AuthBase):
    """Shows an API key, and signs nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key."""
        request.headers["X-MBX-APIKEY"] = self._api.key
        return request


AnyCase = schemathesis.Case[Any]
Mails = Callable[[], list[str]]
"""Returns the texts of the newest mails, oldest first."""
_TOKEN: Final = re.compile(r"(verification|reset)=([A-Za-z0-9_\-]+)")


class World:
    """Who asks, and what there is to ask for."""

    def __init__(
        self, url: str, functions: dict[str, Function], document: dict[str, Any], seed: int, mails: Mails
    ) -> None:
        """Sign up a trader and somebody whose session may end."""
        self.url = url
        self._mails = mails
        self._described = Described(document)
        self.seen = Seen()
        self.http = requests.Session()
        self.functions = functions
        self._random = random.Random(seed)
        self._trader = newcomer(url)
        for asset in ASSETS:
            self._trader.ask("POST", "/api/v1/faucet", {"asset": asset, "amount": "10000"}).raise_for_status()
        self.api = self._trader.key(scopes=["read", "trade", "withdraw"], expiresTime=now_ms() + 86_400_000)
        self.account_id: int = self._trader.ask("GET", "/api/v1/me").json()["accountId"]
        self._victim = newcomer(url)
        self._secret = ""
        """Of the victim's second factor."""
        self._pools: defaultdict[str, list[Any]] = defaultdict(list)

    @property
    def token(self) -> str:
        """The trader's session."""
        return self._trader.token

    # What is sent

    def prepare(self, case: AnyCase) -> None:
        """Put values in that mean something, into half of the requests all, into the others some."""
        dice = self._random.random()
        if dice < 0.15:
            return
        part = 1.0 if dice > 0.5 else 0.5
        query: dict[str, Any] = case.query
        for name in list(query):
            if self._random.random() < part and (value := self._value(name)) is not None:
                query[name] = value
        if case.operation.label.startswith("POST /api/v3/order") and self._random.random() < part:
            self._make_order(query)
        elif self._random.random() < part:
            self._drop_what_excludes(query)
        if isinstance(case.body, dict):
            for name in list(case.body):
                if (
                    self._random.random() < part
                    and (value := self._body_value(case.operation.label, name)) is not None
                ):
                    case.body[name] = value
        if isinstance(case.headers, dict) and self._random.random() < part:
            case.headers.pop("Idempotency-Key", None)

    def _value(self, name: str) -> Any:
        chance = self._random
        match name:
            case "symbol":
                return chance.choice(SYMBOLS)
            case "symbols":
                return json.dumps(chance.sample(SYMBOLS, chance.randint(1, 3)), separators=(",", ":"))
            case "coin" | "asset" | "quoteAsset":
                return chance.choice(ASSETS)
            case "symbolStatus":
                return "TRADING"
            case "permissions":
                return chance.choice(("SPOT", '["SPOT","MARGIN"]'))
            case "startTime":
                return now_ms() - chance.randint(3_600_000, 80_000_000)
            case "endTime":
                return now_ms() - chance.randint(0, 3_000_000)
            case "limit":
                return chance.randint(1, 1_000)
            case "fromId" | "beforeId" | "offset" | "fromPreventedMatchId":
                return chance.randint(0, 5)
            case "status":
                return chance.randint(0, 7)
            case "windowSize":
                return chance.choice(("1m", "2h", "7d"))
            case "timeZone":
                return chance.choice(("0", "+08:00", "-3", "5:45"))
            case "orderId" | "listenKey" | "sessionId" | "after" | "preventedMatchId" | "origClientOrderId":
                pool = self._pools["openOrderId" if name == "orderId" and chance.random() < 0.5 else name]
                return chance.choice(pool) if pool else None
            case "apiKey":
                return chance.choice(self._pools["spareKey"]) if self._pools["spareKey"] else None
        return None

    def _make_order(self, query: dict[str, Any]) -> None:
        """Make an order that can be placed, around one price, so that some trade."""
        chance, kind = self._random, self._random.choice(("LIMIT", "LIMIT", "LIMIT_MAKER", "MARKET"))
        for name in (
            "stopPrice",
            "trailingDelta",
            "icebergQty",
            "pegPriceType",
            "pegOffsetType",
            "pegOffsetValue",
        ):
            query.pop(name, None)
        for name in (
            "price",
            "quantity",
            "quoteOrderQty",
            "timeInForce",
            "strategyId",
            "strategyType",
            "newClientOrderId",
        ):
            query.pop(name, None)
        query |= {"symbol": chance.choice(SYMBOLS), "side": chance.choice(("BUY", "SELL")), "type": kind}
        query.pop("idempotencyKey", None)
        if kind == "MARKET":
            query |= {"quoteOrderQty": "20"} if chance.random() < 0.5 else {"quantity": "0.5"}
        else:
            query |= {"price": str(100 + chance.randint(-3, 3)), "quantity": str(chance.randint(1, 5))}
        if kind == "LIMIT":
            query["timeInForce"] = chance.choice(("GTC", "GTC", "IOC", "FOK"))
        if chance.random() < 0.3:
            query |= {"strategyId": chance.randint(1, 9), "strategyType": 1_000_000}
        if chance.random() < 0.1:
            query["idempotencyKey"] = chance.choice("abc")
        query["newOrderRespType"] = chance.choice(("ACK", "RESULT", "FULL"))
        query["selfTradePreventionMode"] = chance.choice(
            ("NONE", "NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH")
        )

    def _drop_what_excludes(self, query: dict[str, Any]) -> None:
        """Leave out what may not be sent together."""
        pairs = (
            ("symbol", ("symbols", "symbolStatus", "permissions")),
            ("symbols", ("symbolStatus", "permissions")),
            ("fromId", ("startTime", "endTime")),
            ("orderId", ("startTime", "endTime", "preventedMatchId", "origClientOrderId")),
            ("preventedMatchId", ("fromPreventedMatchId", "limit")),
        )
        for name, others in pairs:
            if name in query:
                for other in others:
                    query.pop(other, None)

    def _body_value(self, label: str, name: str) -> Any:
        chance = self._random
        match name:
            case "email" if label.endswith("forgotten"):
                return self._victim.email
            case "email":
                return chance.choice(
                    (self._trader.email, self._victim.email, f"{chance.getrandbits(40):x}@example.com")
                )
            case "password":
                return PASSWORD
            case "newPassword":
                return PASSWORD
            case "code":
                return pyotp.TOTP(self._secret).now() if self._secret else ""
            case "asset":
                return chance.choice(ASSETS)
            case "amount":
                return str(chance.randint(1, 5))
            case "networks":
                return ["127.0.0.0/8"]
            case "publicKey":
                return ""
            case "expiresTime":
                return now_ms() + 10_000_000
            case "token":
                return self._token("reset" if label.endswith("reset") else "verification")
            case "label":
                return label
        return None

    def auth_of(self, label: str) -> requests.auth.AuthBase | None:
        """Return what makes it a request of somebody who may, for most requests."""
        function = self.functions[label]
        if self._random.random() < 0.07 or function.security is Security.PUBLIC:
            return None
        if function.security is Security.API_KEY:
            return WithKey(self.api)
        if function.security is Security.SIGNED or (
            function.security is Security.OWNER and self._random.random() < 0.5
        ):
            return Signing(self.api)
        return Bearer(self._victim if label in ENDS_SESSIONS else self._trader)

    # What is answered

    def learn(self, label: str, response: Response) -> None:
        """Remember what can be asked for, and come back where a session has ended."""
        self.seen.note(label, response)
        if label in ENDS_SESSIONS:
            self._begin_again(label, response)
        if response.status_code != 200:
            return
        answer = response.json() if "json" in response.headers["content-type"][0] else None
        found: dict[str, Any] = answer if isinstance(answer, dict) else {}
        match label:
            case "POST /api/v3/order":
                self._pool("orderId", found["orderId"])
                if found.get("status") == "NEW":
                    self._pool("openOrderId", found["orderId"])
                self._pool("origClientOrderId", found["clientOrderId"])
                for each in found.get("preventedMatches", ()):
                    self._pool("preventedMatchId", each["preventedMatchId"])
            case "POST /api/v3/userDataStream":
                self._pool("listenKey", found["listenKey"])
            case "GET /api/v1/statement" if found.get("entries"):
                self._pool("after", found["entries"][-1]["position"])
            case "POST /api/v1/api-keys":
                self._pool("spareKey", found["apiKey"])
            case "POST /api/v1/signin":
                self._pool("sessionId", found["sessionId"])

    def _begin_again(self, label: str, response: Response) -> None:
        """Take somebody else where the victim's session has ended, or there is a second factor that
        hinders.
        """
        if label == "POST /api/v1/totp" and response.status_code == 200:
            self._secret = response.json()["secret"]
        ends = (
            "POST /api/v1/signout",
            "POST /api/v1/totp/remove",
            "POST /api/v1/password",
            "POST /api/v1/password/reset",
        )
        ended = label in ends and response.status_code == 200
        if ended or (
            response.status_code == 401 and self._victim.ask("GET", "/api/v1/me").status_code == 401
        ):
            self._victim, self._secret = newcomer(self.url), ""

    def _token(self, purpose: str) -> str:
        """Return what the newest mail of its kind says, or nothing of the kind."""
        found = [token for kind, token in _TOKEN.findall("\n".join(self._mails())) if kind == purpose]
        return str(found[-1]) if found else "t" * 43

    def _pool(self, name: str, value: Any) -> None:
        pool = self._pools[name]
        pool.append(value)
        if len(pool) > POOL_MAX:
            pool.pop(self._random.randrange(POOL_MAX))

    def judge(self, case: AnyCase, response: Response) -> None:
        """Note what is wrong with an answer."""
        label, sent, wrong = case.operation.label, response.request, list[str]()
        try:
            case.validate_response(response, checks=list(CHECKS))
        except (Failure, FailureGroup) as failure:
            found = failure.exceptions if isinstance(failure, FailureGroup) else [failure]
            wrong += [f"{type(each).__name__} {each}" for each in found]
        if (why := self._described.why_not(label, response)) is not None:
            wrong.append(why)
        for each in wrong:
            answered = f"{response.status_code} {response.text[:300]}"
            asked = f"{sent.method} {str(sent.url)[:600]} {str(sent.body)[:300]}"
            self.seen.violations.append(f"{label}: {each}; {answered} <- {asked}")

    def ask_plainly(
        self,
        label: str,
        url: str,
        target: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> None:
        """Ask for an operation, and note and judge the answer."""
        method = label.partition(" ")[0]
        answer = self.http.request(method, f"{url}{target}", headers=headers, data=content, timeout=TIMEOUT_S)
        self.note_plainly(label, plain_of(answer))

    def note_plainly(self, label: str, answer: Plain) -> None:
        """Note and judge an answer to a request that schemathesis has not made."""
        self.seen.note(label, answer)
        why = self._described.why_not(label, answer)
        if not self._described.has(label, answer.status_code):
            why = "undescribed status"
        if why is not None:
            self.seen.violations.append(f"{label}: {why}; {answer.status_code} {answer.text[:300]}")

    def dawdle(self, url: str) -> None:
        """Begin a request for each operation, and never end it."""
        host, port = urlsplit(url).hostname, urlsplit(url).port
        with ExitStack() as stack:
            begun = []
            for label in self.functions:
                connection = stack.enter_context(socket.create_connection((host, port), TIMEOUT_S))
                connection.sendall(f"{label} HTTP/1.1\r\nHost: {host}\r\n".encode())
                begun.append((label, connection))
            for label, connection in begun:
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                content_type = answer.headers["content-type"]
                self.note_plainly(
                    label, Plain(answer.status, {"content-type": [content_type]}, answer.read().decode())
                )

    def send(self, case: AnyCase) -> Response:
        """Send a request, and note what came of it."""
        self.prepare(case)
        label = case.operation.label
        response = case.call(
            base_url=self.url,
            session=self.http,
            auth=self.auth_of(label),
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        self.judge(case, response)
        self.learn(label, response)
        return response


def _settings(examples: int, **others: Any) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        **others,
    )


def fuzz(world: World, document: dict[str, Any], examples: int, seed: int, rounds: int = 1) -> None:
    """Send `examples` requests to each operation in each round, of which every third breaks the schema.

    In later rounds there is more to ask for than in the first.
    """
    schema = schemathesis.openapi.from_dict(document)
    breaking = examples // 3
    modes = (
        (schemathesis.GenerationMode.POSITIVE, examples - breaking),
        (schemathesis.GenerationMode.NEGATIVE, breaking),
    )
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    for number, operation, (mode, count) in itertools.product(range(rounds), operations, modes):
        if not count or (mode is schemathesis.GenerationMode.NEGATIVE and not _can_break(operation)):
            continue

        @hypothesis.seed(seed + number)
        @_settings(count)
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: AnyCase) -> None:
            world.send(case)

        ask()


def _can_break(operation: Any) -> bool:
    """Whether a request of an operation can break the schema at all: it has something to break."""
    return bool(operation.query) or bool(operation.body)


def fuzz_stateful(world: World, document: dict[str, Any], cases: int, steps: int, seed: int) -> None:
    """Follow links until `cases` requests were sent: walks of up to `steps` requests, each with what the ones
    before were answered."""
    machine: type[APIStateMachine] = schemathesis.openapi.from_dict(document).as_state_machine()

    class Walk(machine):  # type: ignore[misc, valid-type]
        """One walk."""

        def call(self, case: AnyCase, **_kwargs: Any) -> Response:
            """Send it as any other."""
            return world.send(case)

        def validate_response(self, *_arguments: Any, **_others: Any) -> None:
            """It has been judged."""

    wanted = world.seen.cases.total() + cases
    while world.seen.cases.total() < wanted:
        left = wanted - world.seen.cases.total()
        hypothesis.seed(seed)(Walk)
        # The exchange goes on, so what was sent before may be answered otherwise now, and hypothesis be
        # surprised. Nothing is lost by it.
        with suppress(Flaky):
            Walk.run(settings=_settings(min(WALKS_AT_ONCE, 1 + left // steps), stateful_step_count=steps))
        seed += 1


def knock_on_every_door(world: World, url: str, limited_url: str, impatient_url: str) -> None:
    """Ask for every operation in ways that no schema tells: too large, too long, too slow, too often, from a
    page of another origin.

    The gateway at `limited_url` allows hardly any weight, the one at `impatient_url` hardly any time.
    """
    for label in world.functions:
        method, _, path = label.partition(" ")
        world.ask_plainly(label, url, f"{path}?a=1&a=2")
        world.ask_plainly(label, url, f"{path}?{'a' * 9_000}=1")
        world.ask_plainly(label, url, path, headers={"X-Much": "x" * 20_000})
        world.ask_plainly(
            label, url, path, headers={"Origin": "https://evil.test", "Cookie": f"{COOKIE}=nonsense"}
        )
        world.ask_plainly(label, url, path, headers={"X-MBX-APIKEY": "k" * 64})
        if method != "GET":
            world.ask_plainly(label, url, path, content=b"x" * 70_000)
    for label in (*world.functions, *itertools.repeat("GET /api/v3/account", 700), *world.functions):
        world.ask_plainly(label, limited_url, label.partition(" ")[2])
    world.dawdle(impatient_url)


def ask_rightly(world: World, url: str, labels: Iterable[str]) -> None:
    """Ask for operations with the right credentials, at a gateway that lacks something.

    What ends the session comes last.
    """
    api = Api(url, world.api.key, world.api.secret)
    for label in sorted(labels, key=lambda each: each in ENDS_SESSIONS):
        world.note_plainly(label, plain_of(called(api, world.token, world.functions[label])))


def report(document: dict[str, Any], seen: Seen) -> tuple[str, float, float]:
    """Return a table of what was seen of each operation, and the shares of statuses and of fields that
    were.
    """
    lines, statuses, fields = [], [0, 0], [0, 0]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            label = f"{method.upper()} {path}"
            documented = {int(status) for status in operation["responses"]}
            answered = set(seen.statuses[label])
            described, found = fields_described(document, operation), seen.fields[label]
            statuses[0] += len(documented & answered)
            statuses[1] += len(documented)
            fields[0] += len(described & found)
            fields[1] += len(described)
            counts = " ".join(f"{status}x{count}" for status, count in sorted(seen.statuses[label].items()))
            lines.append(
                f"{label}: {counts}; statuses not seen: {sorted(documented - answered)}; "
                f"fields not seen: {sorted(described - found)}"
            )
    return "\n".join(lines), statuses[0] / statuses[1], fields[0] / max(1, fields[1])
