"""Signatures and timing, with Binance's own test vectors."""

import base64
import hmac

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from adapters import auth
from functions.api.errors import ApiError
from functions.api.parameters import Parameters, parse_pairs
from functions.users.api_key_record import KeyKind
from protocol.units import AccountId

SECRET = b"NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
PAYLOAD = (
    b"symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
    b"&recvWindow=5000&timestamp=1499827319559"
)
SIGNATURE = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
NON_ASCII = PAYLOAD.replace(b"LTCBTC", b"%EF%BC%91%EF%BC%92%EF%BC%93%EF%BC%94%EF%BC%95%EF%BC%96")
NON_ASCII_SIGNATURE = "e1353ec6b14d888f1164ae9af8228a3dbd508bc82eb867db8ab6046442f33ef3"
SENT_US = 1_499_827_319_559_000
SIGNER = auth.Signer(AccountId(1), auth.HmacVerifier(SECRET))


def check(query: bytes, body: bytes = b"", now_us: int = SENT_US, signer: auth.Signer = SIGNER) -> None:
    parameters = Parameters({**parse_pairs(body), **parse_pairs(query)})
    auth.check_request(signer, query, body, parameters, now_us)


@pytest.mark.parametrize(("payload", "signature"), [(PAYLOAD, SIGNATURE), (NON_ASCII, NON_ASCII_SIGNATURE)])
def test_public_test_vectors(payload: bytes, signature: str) -> None:
    check(payload + b"&signature=" + signature.encode())


def test_hmac_is_taken_in_either_case() -> None:
    check(PAYLOAD + b"&signature=" + SIGNATURE.upper().encode())


def test_signature_may_stand_anywhere() -> None:
    check(b"signature=" + SIGNATURE.encode() + b"&" + PAYLOAD)
    first, _, rest = PAYLOAD.partition(b"&")
    check(first + b"&signature=" + SIGNATURE.encode() + b"&" + rest)


def test_everything_in_the_body() -> None:
    check(b"", PAYLOAD + b"&signature=" + SIGNATURE.encode())


def test_query_and_body_are_signed_without_separator() -> None:
    query, body = PAYLOAD[:45], PAYLOAD[46:]
    verifier = auth.HmacVerifier(SECRET)
    signature = hmac.digest(SECRET, query + body, "sha256").hex()
    assert verifier.is_valid(query + body, signature)
    check(query, body + b"&signature=" + signature.encode())
    check(query + b"&signature=" + signature.encode(), body)


@pytest.mark.parametrize(
    "signature",
    ["", "00", SIGNATURE[:-1] + "0", "not hex at all", "é" * 64, SIGNATURE + "00",
     f"{SIGNATURE[:2]} {SIGNATURE[2:]}", f" {SIGNATURE}", f"{SIGNATURE}\n",
     f"{SIGNATURE[:32]}\t{SIGNATURE[32:]}",
     SIGNATURE.replace("8", "\uff18"), f"0x{SIGNATURE}"],
)  # fmt: skip
def test_wrong_signatures_are_refused(signature: str) -> None:
    assert not auth.HmacVerifier(SECRET).is_valid(PAYLOAD, signature)


def test_a_changed_payload_is_refused() -> None:
    with pytest.raises(ApiError) as refusal:
        check(PAYLOAD.replace(b"quantity=1", b"quantity=2") + b"&signature=" + SIGNATURE.encode())
    assert (refusal.value.code, refusal.value.message) == (-1022, "Signature for this request is not valid.")


def pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_ed25519() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    verifier = auth.verifier_of(KeyKind.ED25519, pem(key))
    signature = base64.b64encode(key.sign(PAYLOAD)).decode()
    assert verifier.is_valid(PAYLOAD, signature)
    assert not verifier.is_valid(PAYLOAD + b"0", signature)
    assert not verifier.is_valid(PAYLOAD, signature.lower())
    assert not verifier.is_valid(PAYLOAD, "é")
    assert_one_text_is_valid(verifier, signature)


def assert_one_text_is_valid(verifier: auth.Verifier, signature: str) -> None:
    """Only the text that base64 makes of the signature is one: no white space, and no bits behind the last
    byte."""
    assert signature[-1] == "="
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = signature.rstrip("=")
    same_bytes = text[:-1] + digits[digits.index(text[-1]) + 1] + signature[len(text) :]
    assert base64.b64decode(same_bytes) == base64.b64decode(signature)
    for other in (
        same_bytes,
        f"{signature} ",
        f" {signature}",
        f"{signature}\n",
        f"{signature[:9]} {signature[9:]}",
        text,
    ):
        assert not verifier.is_valid(PAYLOAD, other)


def test_rsa() -> None:
    key = rsa.generate_private_key(65537, 2048)
    verifier = auth.verifier_of(KeyKind.RSA, pem(key))
    signature = base64.b64encode(key.sign(PAYLOAD, padding.PKCS1v15(), hashes.SHA256())).decode()
    assert verifier.is_valid(PAYLOAD, signature)
    assert not verifier.is_valid(PAYLOAD + b"0", signature)
    assert_one_text_is_valid(verifier, signature)


def test_a_public_key_must_be_of_its_kind() -> None:
    with pytest.raises(ValueError, match="ed25519"):
        auth.verifier_of(KeyKind.ED25519, pem(rsa.generate_private_key(65537, 2048)))


@pytest.mark.parametrize(
    ("timestamp", "window_us", "now_us"),
    [
        (1_000_000, 5_000_000, 1_005_000_000),
        (1_000_999, 5_000_000, 1_000_000_000),
        (1_499_827_319_559_123, 1, 1_499_827_319_559_124),
    ],
)
def test_inside_the_window(timestamp: int, window_us: int, now_us: int) -> None:
    auth.check_timing(timestamp, window_us, now_us)


@pytest.mark.parametrize(
    ("timestamp", "window_us", "now_us", "message"),
    [
        (1_000_000, 5_000_000, 1_005_000_001, "Timestamp for this request is outside of the recvWindow."),
        (
            1_001_000,
            5_000_000,
            1_000_000_000,
            "Timestamp for this request was 1000ms ahead of the server's time.",
        ),
        (
            1_499_827_319_559_123,
            0,
            1_499_827_319_559_124,
            "Timestamp for this request is outside of the recvWindow.",
        ),
    ],
)
def test_outside_the_window(timestamp: int, window_us: int, now_us: int, message: str) -> None:
    with pytest.raises(ApiError) as refusal:
        auth.check_timing(timestamp, window_us, now_us)
    assert (refusal.value.code, refusal.value.message) == (-1021, message)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("5000", 5_000_000), ("6000.346", 6_000_346), ("0.1", 100), ("60000", 60_000_000)],
)
def test_receive_window(text: str, microseconds: int) -> None:
    assert auth.receive_window_us(Parameters({"recvWindow": text})) == microseconds


@pytest.mark.parametrize(
    ("text", "code"), [("60000.001", -1102), ("1e3", -1100), ("-1", -1100), ("1.2345", -1100), ("", -1105)]
)
def test_wrong_receive_windows(text: str, code: int) -> None:
    with pytest.raises(ApiError) as refusal:
        auth.receive_window_us(Parameters({"recvWindow": text}))
    assert refusal.value.code == code


@pytest.mark.parametrize("key", [None, "", "a b", "x" * 129, "ключ"])
def test_api_keys_that_cannot_be_one(key: str | None) -> None:
    with pytest.raises(ApiError) as refusal:
        auth.check_key_format(key)
    assert (refusal.value.code, refusal.value.status) == (-2014, 401)
