"""Content Credentials: what is drawn and served is signed, in every format, and what was changed is told."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("c2pa")

from PIL import Image
from starlette.testclient import TestClient

from bimo.cli import main
from bimo.cli.info import facts
from bimo.core.credentials import SOURCE_TYPE, Credentials, credentials_of, read_credentials
from bimo.core.errors import RequestError
from bimo.core.label import Label
from bimo.serve.app import create_app
from bimo.serve.service import DrawingService
from tests.support.certificates import SIGNER, signer


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials(*signer(tmp_path_factory.mktemp("signer")))


def signed_by(content: bytes) -> tuple[Any, ...]:
    found = read_credentials(content)
    assert found is not None
    return found["state"], found["issuer"], found["sources"]


def test_what_is_served_is_signed_in_every_format(
    make_service: Callable[..., DrawingService], credentials: Credentials
) -> None:
    service = make_service(credentials=credentials, label=Label("Example"))
    expected = ("Valid", SIGNER, [SOURCE_TYPE])
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        body = {"text": "猫", "steps": 1, "seed": 1}
        job = service.wait_here(client.post("/v1/jobs", json=body).json()["id"])
        for kind in ("png", "jpeg", "webp"):
            content = client.get(f"/v1/jobs/{job.id}/pictures/0?format={kind}").content
            assert signed_by(content) == expected
        asked = {"prompt": "猫", "seed": 1, "output_format": "webp"}
        answer = client.post("/v1/images/generations", json=asked | {"response_format": "b64_json"}).json()
        assert signed_by(base64.b64decode(answer["data"][0]["b64_json"])) == expected
    png = job.pictures[0].file.read_bytes()
    changed = bytearray(png)
    changed[png.index(b"IDAT") + 40] ^= 1
    found = read_credentials(bytes(changed))
    assert found is not None
    assert found["state"] == "Invalid"


def test_drawing_signs_and_info_reads_it(
    tiny_folder: Path, tmp_path: Path, credentials: Credentials, capsys: pytest.CaptureFixture[str]
) -> None:
    file, files = tmp_path / "cat.png", [str(credentials.certificates), str(credentials.key)]
    assert (
        main.run(
            ["draw", "猫", "-m", str(tiny_folder), "--steps", "1", "--seed", "1", "-o", str(file), "--c2pa", *files]
        )
        == 0
    )
    capsys.readouterr()
    assert facts(file)["credentials"]["issuer"] == SIGNER
    assert main.run(["info", str(file)]) == 0
    said = capsys.readouterr().out
    assert SIGNER in said
    assert "trainedAlgorithmicMedia" in said
    assert json.loads(json.dumps(facts(file)))["record"]["request"]["text"] == "猫"


def test_who_cannot_sign_is_told_why(tmp_path: Path, credentials: Credentials) -> None:
    (tmp_path / "words.pem").write_text("not a key")
    for wrong, says in (
        (Credentials(tmp_path / "none.pem", credentials.key), "none.pem"),
        (Credentials(credentials.certificates, tmp_path / "words.pem"), "no private key"),
        (Credentials(tmp_path / "words.pem", credentials.key), "do not sign"),
    ):
        with pytest.raises(RequestError, match=says):
            wrong.check()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "GIF")
    with pytest.raises(RequestError, match="GIF"):
        credentials.signed(buffer.getvalue())
    assert read_credentials(buffer.getvalue()) is None


def test_keys_that_c2pa_does_not_sign_with_are_refused(tmp_path: Path, credentials: Credentials) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    pkcs8 = PrivateFormat.PKCS8
    (tmp_path / "bitcoin.pem").write_bytes(
        ec.generate_private_key(ec.SECP256K1()).private_bytes(Encoding.PEM, pkcs8, NoEncryption())
    )
    (tmp_path / "locked.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, pkcs8, BestAvailableEncryption(b"secret"))
    )
    for name, says in (("bitcoin.pem", "no key that C2PA signs with"), ("locked.pem", "no private key")):
        with pytest.raises(RequestError, match=says):
            Credentials(credentials.certificates, tmp_path / name).check()


def test_damaged_credentials_are_invalid_and_name_their_reason(credentials: Credentials) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, "PNG")
    signed = credentials.signed(buffer.getvalue())
    at = signed.index(b"IDAT") + 8
    changed = signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]
    read = read_credentials(changed)
    assert read is not None
    assert read["state"] == "Invalid"
    assert read["why"]
    with pytest.raises(RequestError, match="damaged"):
        read_credentials(signed[: signed.index(b"c2pa") + 40])


def test_no_files_mean_no_credentials(credentials: Credentials, tmp_path: Path) -> None:
    assert credentials_of(None) is None
    assert credentials_of((credentials.certificates, credentials.key)) == credentials
    with pytest.raises(RequestError, match=r"absent\.pem"):
        credentials_of((tmp_path / "absent.pem", credentials.key))
