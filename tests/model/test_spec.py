"""The decorator's arguments: each default, each bound, and the sentence of each refusal."""

from __future__ import annotations

import inspect
from collections.abc import Iterator  # noqa: TC003  # resolved at registration
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from thalamus_lite import FileWeight, HFWeight, HTTPWeight, S3Weight, Thalamus
from thalamus_lite.model.spec import BatchPolicy, ModelSpec


class Number(BaseModel):
    x: int


def register(cls: type | None = None, **options: Any) -> ModelSpec:
    app = Thalamus()

    @app.model()
    class Default:
        """What it does.

        More of it.
        """

        def predict(self, inputs: list[Number]) -> list[Number]:
            return inputs

    app = Thalamus()
    app.model(**options)(cls or Default)
    return app.models[0]


def test_defaults_are_the_documented_ones() -> None:
    spec = register()
    assert (spec.id, spec.version, spec.key) == ("Default", "1.0.0", "Default@1.0.0")
    assert spec.description == "What it does.\n\nMore of it."
    assert (spec.declaration.default, spec.declaration.default_version) == (False, False)
    assert (spec.critical, spec.require_gpu, spec.streams) == (True, False, False)
    assert spec.weights == {}
    assert spec.examples is None
    policy = spec.policy
    assert (policy.max_batch_size, policy.most, policy.ideal, policy.merges) == (None, 1, 1, False)
    assert (policy.max_concurrent_requests, policy.lane_count, policy.replicas) == (1, 1, 1)
    assert (policy.max_queue_size, policy.timeout_s, policy.idempotent) == (1024, None, True)


def test_every_argument_is_by_name_only() -> None:
    _, positional, *parameters = inspect.signature(Thalamus.model).parameters.values()
    assert positional.kind is positional.VAR_POSITIONAL
    assert all(one.kind is one.KEYWORD_ONLY for one in parameters)
    assert [one.name for one in parameters] == [
        "model_id", "version", "description", "default", "default_version", "critical", "weights",
        "device", "require_gpu", "input_type", "output_type", "max_batch_size", "ideal_batch_size",
        "max_concurrent_requests", "lanes", "replicas", "max_queue_size", "timeout_s", "examples",
        "idempotent",
    ]  # fmt: skip


@pytest.mark.parametrize("given", [Number, "my-model", None])
def test_argument_without_its_name_is_told_what_to_write(given: Any) -> None:
    with pytest.raises(TypeError, match=r"write @app\.model\(\.\.\.\) above the class"):
        Thalamus().model(given)
    with pytest.raises(TypeError, match=r"write @app\.model"):
        Thalamus().model(given, version="1.0")


def test_docstring_explains_every_argument() -> None:
    said = inspect.getdoc(Thalamus.model) or ""
    for name in list(inspect.signature(Thalamus.model).parameters)[2:]:
        assert f"\n    {name}: " in said


def test_class_is_returned_unchanged() -> None:
    class Model:
        def predict(self, inputs: list[Number]) -> list[Number]:
            return inputs

    before = dict(vars(Model))
    assert Thalamus().model()(Model) is Model
    assert dict(vars(Model)) == before


def test_batching_model_has_one_lane_and_others_their_concurrency() -> None:
    assert BatchPolicy(max_batch_size=8, max_concurrent_requests=4).lane_count == 1
    assert BatchPolicy(max_concurrent_requests=4).lane_count == 4
    assert BatchPolicy(max_batch_size=8, max_concurrent_requests=4, lanes=3).lane_count == 3
    assert BatchPolicy(max_batch_size=32).ideal == 32
    assert BatchPolicy(max_batch_size=32, ideal_batch_size=16).ideal == 16
    assert BatchPolicy(replicas="all").replicas == "all"


class Count:
    """An integer of another library, as numpy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


def test_integers_of_other_libraries_are_plain_ones_from_here_on() -> None:
    options = dict.fromkeys(
        ("max_batch_size", "ideal_batch_size", "max_concurrent_requests", "lanes", "replicas",
         "max_queue_size"),
        4,
    )  # fmt: skip
    policy = register(**{name: Count(value) for name, value in options.items()}).policy
    assert policy == BatchPolicy(**options)  # type: ignore[arg-type]
    assert {type(getattr(policy, name)) for name in options} == {int}
    for name in options:
        with pytest.raises(ValueError, match=f"{name} must be"):
            register(**{name: Count(0)})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_id": ""}, "model_id must be 1 to 128 letters, digits, dots, dashes or"),
        ({"model_id": "a b"}, "model_id must be"),
        ({"model_id": "a/b"}, "model_id must be"),
        ({"model_id": "a@b"}, "model_id must be"),
        ({"model_id": "caf\u00e9"}, "model_id must be"),
        ({"model_id": "a\n"}, "model_id must be"),
        ({"model_id": "x" * 129}, "model_id must be"),
        ({"model_id": 5}, "model_id must be"),
        ({"version": "latest"}, "version must be a PEP 440 version such as '1.0.0', got 'latest'"),
        ({"version": ""}, "version must be a PEP 440 version"),
        ({"version": "1.0-final-2"}, "version must be a PEP 440 version"),
        ({"version": "9" * 5000}, "version must be a PEP 440 version"),
        ({"version": None}, "version must be a PEP 440 version"),
        ({"max_batch_size": 0}, "max_batch_size must be a whole number of at least 1, got 0"),
        ({"max_batch_size": -1}, "max_batch_size must be"),
        ({"max_batch_size": 1.5}, "max_batch_size must be"),
        ({"max_batch_size": 2.0}, "max_batch_size must be"),
        ({"max_batch_size": True}, "max_batch_size must be"),
        ({"max_batch_size": "8"}, "max_batch_size must be"),
        ({"max_batch_size": 4, "ideal_batch_size": 5},
         "ideal_batch_size must be between 1 and max_batch_size (4), got 5"),
        ({"max_batch_size": 4, "ideal_batch_size": 0}, "ideal_batch_size must be"),
        ({"ideal_batch_size": 2}, "ideal_batch_size must be between 1 and max_batch_size (1)"),
        ({"max_batch_size": 4, "ideal_batch_size": 2.0}, "ideal_batch_size must be"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests must be"),
        ({"max_concurrent_requests": None}, "max_concurrent_requests must be"),
        ({"lanes": 0}, "lanes must be"),
        ({"replicas": 0}, 'replicas must be a whole number of at least 1 or "all", got 0'),
        ({"replicas": None}, "replicas must be"),
        ({"max_queue_size": None}, "max_queue_size must be"),
        ({"timeout_s": "5"}, "timeout_s must be a number above 0, got '5'"),
        ({"timeout_s": True}, "timeout_s must be"),
        ({"description": 5}, "Default: description must be text"),
        ({"weights": 5}, "weights must be a dict of names"),
        ({"weights": {1: HFWeight(repo="a/b")}}, "weights must be a dict of names"),
        ({"replicas": "some"}, "replicas must be"),
        ({"max_queue_size": 0}, "max_queue_size must be"),
        ({"timeout_s": 0}, "timeout_s must be a number above 0, got 0"),
        ({"timeout_s": -1}, "timeout_s must be"),
        ({"timeout_s": float("inf")}, "timeout_s must be"),
        ({"timeout_s": float("nan")}, "timeout_s must be"),
        ({"default": "false"}, "default must be True or False, got 'false'"),
        ({"default_version": 1}, "default_version must be True or False, got 1"),
        ({"critical": None}, "critical must be True or False, got None"),
        ({"require_gpu": "false"}, "require_gpu must be True or False, got 'false'"),
        ({"idempotent": "0"}, "idempotent must be True or False, got '0'"),
        ({"require_gpu": True, "device": "cpu"},
         'require_gpu=True is incompatible with device="cpu"'),
        ({"device": "tpu"}, 'Default: device must be "auto"'),
        ({"model_id": "m", "device": None}, 'm: device must be "auto"'),
        ({"weights": {"w": "path"}},
         "weights['w'] must be an S3Weight, HFWeight, HTTPWeight or FileWeight, got str"),
        ({"examples": []}, "examples is empty: leave it out, or give at least one"),
        ({"examples": [{"x": "no"}]}, "['examples', 0, 'x'] does not fit the input type"),
        ({"examples": [{"x": 1}, 5]}, "['examples', 1] does not fit the input type"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_value_that_cannot_be_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the sentence is compared below
        register(**options)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "version", ["1.0", "v2", "1!2.3", "1.0a1", "1.0.post1", "1.0.dev3", "1.0+cu121"]
)
def test_version_is_kept_as_written(version: str) -> None:
    assert register(version=version).version == version


def test_white_space_around_a_version_is_dropped() -> None:
    spec = register(version=" 1.0\n")
    assert spec.version == "1.0"
    assert spec.meta_head == b'{"model":"Default","version":"1.0",'


@pytest.mark.parametrize("thing", [lambda inputs: inputs, 5, "Model", None, object()])
def test_only_a_class_can_be_decorated(thing: Any) -> None:
    with pytest.raises(TypeError, match="decorates a class, got"):
        Thalamus().model(model_id="m")(thing)
    with pytest.raises(TypeError, match="decorates a class, got"):
        Thalamus().model()(thing)


def test_same_version_twice_is_refused_however_it_is_spelled() -> None:
    app = Thalamus()

    class Model:
        def predict(self, inputs: list[Number]) -> list[Number]:
            return inputs

    app.model(model_id="m", version="1.0")(Model)
    for again in ("1.0", "1.0.0", "v1", "1.00"):
        with pytest.raises(ValueError, match=r"is registered already, as 1\.0"):
            app.model(model_id="m", version=again)(Model)
    app.model(model_id="m", version="1.0.1")(Model)
    app.model(model_id="other", version="1.0")(Model)


def test_model_that_yields_is_never_batched() -> None:
    class Streams:
        def predict(self, inputs: list[Number]) -> Iterator[Number]:
            yield from inputs

    with pytest.raises(ValueError, match="a model that yields is never batched"):
        register(Streams, max_batch_size=4)
    assert register(Streams).streams


def test_explicit_types_need_no_annotations() -> None:
    class Untyped:
        def predict(self, inputs):  # type: ignore[no-untyped-def]
            return inputs

    spec = register(Untyped, input_type=Number, output_type=list[int])
    assert (spec.inputs.kind, spec.outputs.kind) == (Number, list[int])


@pytest.mark.parametrize("kind", [Thalamus, list[Thalamus], "Missing", {"x": int}], ids=str)
def test_type_that_pydantic_cannot_read_says_what_to_do(kind: Any) -> None:
    with pytest.raises(TypeError) as caught:
        register(input_type=kind, output_type=int)
    assert "pydantic cannot read the input type" in str(caught.value)
    assert "or pass input_type=" in str(caught.value)
    with pytest.raises(TypeError, match="pydantic cannot read the output type"):
        register(input_type=int, output_type=kind)


@pytest.mark.parametrize("examples", [5, "text", {"x": 1}, {1, 2}])
def test_examples_that_are_no_list_are_refused(examples: Any) -> None:
    with pytest.raises(ValueError, match="examples must be a list of sample inputs"):
        register(input_type=int, output_type=int, examples=examples)


def test_weights_of_every_kind_are_taken() -> None:
    weights = {
        "s3": S3Weight(bucket="bucket", key="k"),
        "hf": HFWeight(repo="o/r"),
        "http": HTTPWeight(urls=["https://host/w"]),
        "file": FileWeight(Path("w.bin")),
    }
    assert register(weights=weights).weights == weights


def test_examples_are_validated_and_shown() -> None:
    spec = register(examples=[{"x": 1}, Number(x=2)])
    assert spec.examples == (Number(x=1), Number(x=2))
    assert spec.schema["examples"] == [{"x": 1}, {"x": 2}]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: date
    count: int = 0
    anything: Any = None


class Stricter(Strict):
    pass


STRICT_DAY = Strict(day=date(2024, 2, 29))


@pytest.mark.parametrize(
    ("kind", "examples", "read"),
    [
        (Strict, [{"day": "2024-02-29"}], [STRICT_DAY]),
        (Strict, [{"day": date(2024, 2, 29)}], [STRICT_DAY]),
        (Strict, [{"day": "2024-02-29"}, STRICT_DAY], [STRICT_DAY, STRICT_DAY]),
        (Strict, [Stricter(day=date(2024, 2, 29))], [Stricter(day=date(2024, 2, 29))]),
        (list[Strict], [[STRICT_DAY], [{"day": "2024-02-29"}]], [[STRICT_DAY], [STRICT_DAY]]),
        (int | None, [None, "5"], [None, 5]),
    ],
)
def test_example_is_an_instance_or_read_as_a_request_is(
    kind: Any, examples: list[Any], read: list[Any]
) -> None:
    assert register(input_type=kind, output_type=Any, examples=examples).examples == tuple(read)


def test_example_that_only_python_can_hold_is_taken_where_its_type_takes_it() -> None:
    thing = object()
    spec = register(
        input_type=Strict,
        output_type=Any,
        examples=[{"day": date(2024, 2, 29), "anything": thing}],
    )
    assert spec.examples is not None
    assert spec.examples[0].anything is thing


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ({"day": "2024-02-29", "count": "5"}, "'count'] does not fit the input type: Input should"),
        ({"day": "2024-02-30"}, "'day'] does not fit the input type: Input should be a valid date"),
        ({"day": object()}, "'day'] does not fit the input type: Input should be a valid date"),
        (5, "] does not fit the input type: Input should be an object"),
    ],
    ids=str,
)
def test_example_of_a_strict_type_that_no_request_may_send_is_refused(
    example: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=r"Default: \['examples', 1") as caught:
        register(input_type=Strict, output_type=Any, examples=[STRICT_DAY, example])
    assert says in str(caught.value)


def test_description_of_the_decorator_wins() -> None:
    assert register(description="  Shorter.").description == "Shorter."
    said = register(description="\n  A list:\n\n      - of\ttwo\n      - things\n").description
    assert said == "A list:\n\n      - of\ttwo\n      - things"

    class Undocumented:
        def predict(self, inputs: list[Number]) -> list[Number]:
            return inputs

    assert register(Undocumented).description == ""


@pytest.mark.parametrize("load", ["sometimes", "", "STARTUP"])
def test_load_mode_is_one_of_three(load: str) -> None:
    if load:
        with pytest.raises(ValueError, match="load must be one of startup, background, lazy"):
            Thalamus(load=load)
    assert Thalamus(lazy_load=True).load_mode == "lazy"
    assert Thalamus().load_mode == "startup"
    assert Thalamus(load="background", lazy_load=True).load_mode == "background"
