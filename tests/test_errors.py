"""The error tree: what its docstring draws is what is there."""

from __future__ import annotations

import re

import pytest

from thalamus_lite import errors
from thalamus_lite.errors import ThalamusError
from thalamus_lite.starts import StartupFailed

# As the documents promise them; a client may switch on the code.
FIXED_TEXTS = {
    "auth_not_configured": (503, "Service authentication not configured"),
    "invalid_api_key": (401, "Invalid or missing API key"),
    "invalid_json": (400, "The request body is not valid JSON"),
    "validation_error": (422, "The request does not match the schema"),
    "no_default_model": (422, "No default model configured"),
    "too_many_inputs": (422, "The request has more inputs than this model's queue can hold"),
    "model_not_found": (404, "Model not found"),
    "version_not_found": (404, "Model version not found"),
    "not_found": (404, "There is no such route"),
    "method_not_allowed": (405, "This route does not allow that method"),
    "not_acceptable": (
        406,
        "This model does not stream, so it cannot answer with text/event-stream",
    ),
    "body_too_large": (413, "The request body is larger than this server accepts"),
    "unsupported_media_type": (415, "Send application/json without a content encoding"),
    "queue_full": (429, "The model's queue is full"),
    "model_error": (500, "The model failed on this request"),
    "model_loading": (503, "The model is loading"),
    "model_unloading": (503, "The model is being unloaded"),
    "model_load_failed": (503, "The model failed to load"),
    "model_not_ready": (503, "The model is not ready"),
    "lane_hung": (503, "The model is hung and out of service"),
    "device_failed": (503, "The device has failed and this process is going down"),
    "draining": (503, "The server is shutting down"),
    "deadline_exceeded": (504, "The deadline passed before the model answered"),
    "internal_error": (500, "The server failed to answer this request"),
}


def tree(cls: type[ThalamusError]) -> list[type[ThalamusError]]:
    found = [cls]
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            found += tree(child)
    return found


def test_docstring_draws_the_whole_tree() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {cls.__name__ for cls in tree(ThalamusError)} - {"ThalamusError"}


@pytest.mark.parametrize("cls", tree(ThalamusError), ids=lambda cls: cls.__name__)
def test_docstring_gives_status_and_code(cls: type[ThalamusError]) -> None:
    drawn = re.search(rf"── {cls.__name__} +(\d+) (\w+)\n", errors.__doc__ or "")
    if drawn is not None:
        assert (int(drawn[1]), drawn[2]) == (cls.status, cls.code)


@pytest.mark.parametrize("code", FIXED_TEXTS)
def test_sentence_of_a_code_is_fixed(code: str) -> None:
    found = [cls for cls in tree(ThalamusError) if cls.code == code]
    assert [(cls.status, cls.text) for cls in found] == [FIXED_TEXTS[code]]


def test_codes_are_unique() -> None:
    codes = [cls.code for cls in [*tree(ThalamusError), StartupFailed]]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_message_is_for_the_log_and_text_for_the_client() -> None:
    error = errors.ModelError("bert@1 failed: KeyError")
    assert str(error) == "bert@1 failed: KeyError"
    assert error.text == "The model failed on this request"


def test_error_without_a_message_says_its_text() -> None:
    assert str(errors.Draining()) == "The server is shutting down"
    assert errors.Draining(retry_after_s=3.0).retry_after_s == 3.0


def test_configuration_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="THALAMUS_X"):
        raise errors.ConfigurationError("THALAMUS_X must be 1 or 0")


def test_missing_extra_is_an_import_error() -> None:
    assert issubclass(errors.MissingExtra, ImportError)


def test_cache_full_says_what_to_do() -> None:
    error = errors.CacheFull(need=30, free=10, leased=20)
    assert (error.need, error.free, error.leased) == (30, 10, 20)
    assert "THALAMUS_CACHE_MAX_GB" in str(error)


def test_method_not_allowed_carries_what_is_allowed() -> None:
    assert errors.MethodNotAllowed("GET, HEAD").allow == "GET, HEAD"


def test_validation_failed_carries_its_details() -> None:
    details = [{"loc": ["inputs"], "msg": "Field required", "type": "missing"}]
    assert errors.ValidationFailed(details).details is details
