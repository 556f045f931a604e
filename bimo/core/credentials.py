"""Content Credentials (C2PA 2.x): a signed statement in a picture's file that a model drew it.

The statement has one action, ``c2pa.created`` with IPTC's source type ``trainedAlgorithmicMedia``, and is bound to the
file's bytes by a hash: whoever changes the picture breaks it. The library of the Content Authenticity Initiative
(c2pa-python) signs and reads; nothing is fetched for either.
"""

# The library has no stubs; what crosses it is named where it is kept.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bimo.core.errors import RequestError
from bimo.core.installing import installed_version, installing

if TYPE_CHECKING:
    from collections.abc import Mapping

EXTRA = "c2pa"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
#: Formats that are signed, by what Pillow calls them.
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
#: Nothing of a file or of a certificate is asked for on the network; a thumbnail would be the picture again.
_SETTINGS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Credentials:
    """Who signs: a chain of certificates as PEM, the signer's first, and its key as PEM."""

    certificates: Path
    key: Path

    def check(self) -> None:
        """Raises RequestError where nothing could be signed: files that are not there, a key that is none, a
        certificate that C2PA does not allow, the library not installed.
        """
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        self.signed(buffer.getvalue())

    def signed(self, content: bytes) -> bytes:
        """A PNG, JPEG or WebP file with the statement in it. Raises RequestError as ``check``, and for a picture in
        another format.
        """
        c2pa = _library()
        mime = _mime(content)
        actions = [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]
        manifest = {
            "claim_generator_info": [{"name": "bimo", "version": installed_version()}],
            "format": mime,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
        }
        made = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(self._algorithm(), _read(self.certificates), _read(self.key), None)
            with (
                c2pa.Signer.from_info(info) as signer,
                c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
                c2pa.Builder(json.dumps(manifest), context) as builder,
            ):
                builder.sign(signer, mime, io.BytesIO(content), made)
        except c2pa.C2paError as error:
            raise RequestError(
                "{certificates} and {key} do not sign: {error}",
                certificates=self.certificates,
                key=self.key,
                error=_first(error),
            ) from None
        return made.getvalue()

    def _algorithm(self) -> str:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_read(self.key), None)
        except (ValueError, TypeError) as error:
            raise RequestError("{key} is no private key as PEM: {error}", key=self.key, error=_first(error)) from None
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return "ed25519"
        if isinstance(key, rsa.RSAPrivateKey):
            return "ps256"
        raise RequestError("{key} is no key that C2PA signs with; make one of P-256, Ed25519 or RSA", key=self.key)


def read_credentials(content: bytes) -> dict[str, Any] | None:
    """What the credentials in a file say, None for a file without any. ``state`` is "Invalid" where the file was
    changed, "Valid" where it was not, and "Trusted" where besides the signer is on a list of trust that the library
    knows. Raises RequestError where there are some, and the library is not installed to read them.
    """
    if b"c2pa" not in content:  # what holds them is called so, in every format
        return None
    c2pa = _library()
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(_SETTINGS)) as context,
            c2pa.Reader(_mime(content), io.BytesIO(content), context=context) as reader,
        ):
            active = cast("Mapping[str, Any]", reader.get_active_manifest() or {})
            state = reader.get_validation_state()
            results = cast("Mapping[str, Any]", reader.get_validation_results() or {})
    except c2pa.C2paError as error:
        if "ManifestNotFound" in str(error):
            return None
        return {"state": "Invalid", "why": [_first(error)]}
    signature: Mapping[str, Any] = active.get("signature_info") or {}
    checked: Mapping[str, Any] = results.get("activeManifest") or {}
    failures: list[Mapping[str, Any]] = checked.get("failure") or []
    actions = [
        action
        for assertion in active.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion["data"].get("actions", ())
    ]
    return {
        "state": str(state),
        "why": sorted({str(failure.get("code")) for failure in failures}),
        "issuer": signature.get("issuer"),
        "generator": " ".join(
            str(part)
            for each in active.get("claim_generator_info", ())[:1]
            for part in (each.get("name"), each.get("version"))
            if part
        ),
        "sources": sorted({str(action["digitalSourceType"]) for action in actions if "digitalSourceType" in action}),
    }


def credentials_of(files: tuple[Path, Path] | None) -> Credentials | None:
    """The credentials of ``--c2pa CERT KEY``, tried once. Raises RequestError as ``Credentials.check``."""
    if files is None:
        return None
    found = Credentials(*files)
    found.check()
    return found


def _library() -> Any:
    try:
        import c2pa
    except ModuleNotFoundError:
        raise RequestError("Content Credentials need c2pa-python: {command}", command=installing(EXTRA)) from None
    return c2pa


def _mime(content: bytes) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            kind = image.format or ""
    except (OSError, SyntaxError) as error:  # what Pillow raises for damaged headers
        raise RequestError("the picture is cut off or damaged: {error}", error=_first(error)) from None
    if kind not in MIME:
        raise RequestError("{kind} carries no credentials; write PNG, JPEG or WebP", kind=kind)
    return MIME[kind]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RequestError("cannot read {path}: {error}", path=file, error=error.strerror or error) from None


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
