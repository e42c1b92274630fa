from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from thalamus_lite.devices.allocator import DeviceAllocator, Usage
from thalamus_lite.devices.device import CPU, Device, DeviceRequest, GPURequirementError

CUDA0, CUDA1, MPS = Device("cuda", 0), Device("cuda", 1), Device("mps")
AUTO, ANY_CUDA = DeviceRequest("auto"), DeviceRequest("cuda")
GB = 10**9


class Driver:
    """Two GPUs of 10 GB. ``used`` is what all processes hold, this one's loaded models too."""

    def __init__(self, *devices: Device) -> None:
        self.used = dict.fromkeys(devices or (CUDA0, CUDA1), 0)
        self.broken: set[Device] = set()

    def probe(self, device: Device) -> tuple[int, int]:
        if device in self.broken:
            raise RuntimeError("the device has fallen off the bus")
        return 10 * GB - self.used[device], 10 * GB

    def allocator(self) -> DeviceAllocator:
        return DeviceAllocator(tuple(self.used), self.probe)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("request_", [AUTO, ANY_CUDA])
def test_the_device_with_the_most_free_memory_is_taken(request_: DeviceRequest) -> None:
    driver = Driver()
    driver.used[CUDA0] = 3 * GB
    assert driver.allocator().place(request_).device == CUDA1
    driver.used[CUDA1] = 4 * GB
    assert driver.allocator().place(request_).device == CUDA0


def test_other_processes_memory_counts() -> None:
    driver = Driver()
    allocator = driver.allocator()
    allocator.place(AUTO).commit()
    driver.used[CUDA1] = GB
    assert allocator.place(AUTO).device == CUDA0


def test_a_load_in_progress_holds_what_it_will_need() -> None:
    driver = Driver()
    driver.used[CUDA0] = 2 * GB
    allocator = driver.allocator()
    assert allocator.place(AUTO, need_bytes=3 * GB).device == CUDA1
    assert allocator.usage()[CUDA1] == Usage(models=1, loading_bytes=3 * GB)
    assert allocator.place(AUTO, need_bytes=3 * GB).device == CUDA0
    assert allocator.place(AUTO, need_bytes=3 * GB).device == CUDA1


def test_after_commit_the_driver_alone_says_what_a_model_takes() -> None:
    driver = Driver()
    allocator = driver.allocator()
    first = allocator.place(AUTO, need_bytes=9 * GB)
    assert first.device == CUDA0
    driver.used[CUDA0] = GB
    driver.used[CUDA1] = 2 * GB
    first.commit()
    first.commit()
    assert allocator.usage()[CUDA0] == Usage(models=1, loading_bytes=0)
    assert allocator.place(AUTO).device == CUDA0


@pytest.mark.parametrize("loaded", [False, True])
def test_release_gives_everything_back_however_often(loaded: bool) -> None:
    driver = Driver()
    allocator = driver.allocator()
    reservation = allocator.place(AUTO, need_bytes=GB)
    if loaded:
        reservation.commit()
    reservation.release()
    reservation.release()
    reservation.commit()
    assert set(allocator.usage().values()) == {Usage(0, 0)}


def test_releasing_one_of_two_equal_reservations_leaves_the_other() -> None:
    allocator = Driver(CUDA0).allocator()
    first, second = allocator.place(AUTO, need_bytes=1), allocator.place(AUTO, need_bytes=1)
    first.release()
    first.release()
    assert allocator.usage()[CUDA0] == Usage(1, 1)
    second.release()
    assert allocator.usage()[CUDA0] == Usage(0, 0)


def test_ties_go_to_the_device_with_fewest_models_then_to_the_lowest_index() -> None:
    allocator = Driver(CUDA1, CUDA0).allocator()
    assert [allocator.place(AUTO).device for _ in range(4)] == [CUDA0, CUDA1, CUDA0, CUDA1]


def test_of_two_overbooked_devices_the_one_overbooked_less_is_taken() -> None:
    allocator = Driver().allocator()
    assert allocator.place(AUTO, need_bytes=30 * GB).device == CUDA0
    assert allocator.place(AUTO, need_bytes=20 * GB).device == CUDA1
    assert allocator.place(AUTO, need_bytes=GB).device == CUDA1


def test_a_numbered_device_is_taken_however_full() -> None:
    driver = Driver()
    driver.used[CUDA1] = 10 * GB
    assert driver.allocator().place(DeviceRequest("cuda", 1)).device == CUDA1


@pytest.mark.parametrize(
    ("devices", "expected"),
    [((), CPU), ((MPS,), MPS), ((MPS, CUDA0), CUDA0), ((CUDA0,), CUDA0)],
)
def test_auto_prefers_cuda_then_mps_then_the_cpu(
    devices: tuple[Device, ...], expected: Device, caplog: pytest.LogCaptureFixture
) -> None:
    allocator = DeviceAllocator(devices, lambda device: (1, 1))
    assert allocator.place(AUTO).device == expected
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(
    ("text", "devices", "reason"),
    [
        (
            "cuda:9",
            (CUDA0, CUDA1),
            "cuda:9 is not available on this host, which has cuda:0, cuda:1",
        ),
        ("cuda:0", (), "no CUDA or MPS device was detected"),
        ("cuda", (), "no CUDA or MPS device was detected"),
        ("cuda", (MPS,), "cuda is not available on this host, which has mps"),
        ("mps", (CUDA0,), "mps is not available on this host, which has cuda:0"),
    ],
)
def test_a_preference_that_is_not_there_gives_the_cpu_and_one_warning(
    text: str, devices: tuple[Device, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    allocator = DeviceAllocator(devices, lambda device: (1, 1))
    request = DeviceRequest.parse(text)
    assert allocator.check(request) == reason
    assert allocator.place(request, model="ocr@1.0.0").device == CPU
    assert warnings_of(caplog) == [
        f"ocr@1.0.0 asks for device {text} but {reason}: it runs on the CPU"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("auto", "no CUDA or MPS device was detected"),
        ("cuda:2", "no CUDA or MPS device was detected"),
        ("cpu", 'device is pinned to "cpu"'),
    ],
)
def test_a_required_gpu_that_is_not_there_is_refused_by_name(text: str, reason: str) -> None:
    allocator = DeviceAllocator((), lambda device: (1, 1))
    request = DeviceRequest.parse(text)
    assert allocator.check(request) == reason
    with pytest.raises(GPURequirementError) as raised:
        allocator.place(request, model="ocr@1.0.0", require_gpu=True)
    assert str(raised.value) == f"ocr@1.0.0 requires a GPU but {reason}"
    assert allocator.usage() == {}


def test_the_preflight_reserves_nothing_and_asks_no_driver() -> None:
    def probe(device: Device) -> tuple[int, int]:
        raise AssertionError("asked")

    allocator = DeviceAllocator((CUDA0,), probe)
    assert allocator.check(AUTO) is None
    assert allocator.check(DeviceRequest("cuda", 0)) is None
    assert allocator.usage() == {CUDA0: Usage(0, 0)}


def test_the_reason_for_no_device_at_all_is_the_detections_own() -> None:
    allocator = DeviceAllocator((), lambda device: (1, 1), why_none=lambda: "it is Sunday")
    assert allocator.check(ANY_CUDA) == "it is Sunday"


def test_a_host_whose_models_all_want_the_cpu_is_never_searched_for_gpus() -> None:
    def devices() -> tuple[Device, ...]:
        raise AssertionError("searched")

    allocator = DeviceAllocator(devices, lambda device: (1, 1))
    request = DeviceRequest("cpu")
    assert allocator.place(request).device == CPU
    assert allocator.check(request) == 'device is pinned to "cpu"'
    assert allocator.usage() == {CPU: Usage(1, 0)}


def test_gpus_are_searched_for_once() -> None:
    searches = []

    def devices() -> tuple[Device, ...]:
        searches.append(1)
        return (CPU, CUDA0)

    allocator = DeviceAllocator(devices, lambda device: (1, 1))
    allocator.place(AUTO)
    assert allocator.place(AUTO).device == CUDA0
    assert len(searches) == 1


def test_a_gpu_that_does_not_answer_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    driver.broken.add(CUDA0)
    driver.used[CUDA1] = 9 * GB
    assert driver.allocator().place(AUTO).device == CUDA1
    assert len(warnings_of(caplog)) == 1
    assert "cuda:0 is passed over" in warnings_of(caplog)[0]


def test_when_no_gpu_answers_the_cpu_is_taken_with_a_warning_and_a_required_gpu_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = Driver()
    driver.broken.update(driver.used)
    allocator = driver.allocator()
    assert allocator.place(AUTO).device == CPU
    assert "the driver does not answer for cuda:0, cuda:1" in warnings_of(caplog)[-1]
    with pytest.raises(GPURequirementError, match="does not answer"):
        allocator.place(AUTO, require_gpu=True)
    assert allocator.usage()[CPU] == Usage(1, 0)


def test_all_replicas_take_one_of_each_device() -> None:
    driver = Driver()
    driver.used[CUDA0] = GB
    allocator = driver.allocator()
    places = allocator.place_many(AUTO, "all", need_bytes=GB)
    assert [place.device for place in places] == [CUDA1, CUDA0]
    assert set(allocator.usage().values()) == {Usage(1, GB)}


def test_fewer_replicas_than_devices_take_the_freest() -> None:
    driver = Driver()
    driver.used[CUDA0] = GB
    assert [place.device for place in driver.allocator().place_many(AUTO, 1)] == [CUDA1]


@pytest.mark.parametrize(
    ("devices", "replicas", "placed"), [((CUDA0, CUDA1), 5, 2), ((), 2, 1), ((MPS,), 2, 1)]
)
def test_more_replicas_than_devices_are_placed_one_a_device_with_a_warning(
    devices: tuple[Device, ...], replicas: int, placed: int, caplog: pytest.LogCaptureFixture
) -> None:
    allocator = DeviceAllocator(devices, lambda device: (1, 1))
    places = allocator.place_many(AUTO, replicas, model="ocr")
    assert len(places) == len({place.device for place in places}) == placed
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"ocr asks for {replicas} replicas and there is room for {placed}")


def test_all_replicas_of_a_cpu_model_are_one(caplog: pytest.LogCaptureFixture) -> None:
    allocator = Driver().allocator()
    assert [place.device for place in allocator.place_many(DeviceRequest("cpu"), "all")] == [CPU]
    assert warnings_of(caplog) == []


def test_all_replicas_on_a_numbered_device_are_one() -> None:
    places = Driver().allocator().place_many(DeviceRequest("cuda", 1), "all")
    assert [place.device for place in places] == [CUDA1]


@pytest.mark.parametrize("replicas", [0, -1, "some", 1.5])
def test_senseless_replicas_are_refused(replicas: int) -> None:
    with pytest.raises(ValueError, match="replicas must be"):
        Driver().allocator().place_many(AUTO, replicas)


def test_a_negative_need_is_refused() -> None:
    with pytest.raises(ValueError, match="need_bytes"):
        Driver().allocator().place(AUTO, need_bytes=-1)


def test_a_load_that_ends_while_the_driver_is_asked_is_not_lost_between_the_figures() -> None:
    driver = Driver()
    asked: list[Device] = []

    def probe(device: Device) -> tuple[int, int]:
        figures = driver.probe(device)
        asked.append(device)
        if len(asked) == 3:  # the second placement's first question: its answer is stale at once
            driver.used[CUDA0] = 9 * GB
            loading.commit()
        return figures

    allocator = DeviceAllocator((CUDA0, CUDA1), probe)
    loading = allocator.place(DeviceRequest("cuda"), need_bytes=9 * GB)
    assert loading.device == CUDA0
    driver.used[CUDA1] = GB
    assert allocator.place(AUTO).device == CUDA1
    assert len(asked) == 6


def test_no_lock_is_held_while_the_driver_is_asked() -> None:
    asked, answer = threading.Event(), threading.Event()

    def probe(device: Device) -> tuple[int, int]:
        asked.set()
        assert answer.wait(10)
        return 1, 1

    allocator = DeviceAllocator((CUDA0,), probe)
    thread = threading.Thread(target=allocator.place, args=(AUTO,))
    thread.start()
    assert asked.wait(10)
    other = allocator.place(DeviceRequest("cpu"))
    other.commit()
    other.release()
    assert allocator.usage() == {CUDA0: Usage(0, 0)}
    answer.set()
    thread.join()
    assert allocator.usage() == {CUDA0: Usage(1, 0)}


def test_side_by_side_loads_spread_and_give_everything_back() -> None:
    driver = Driver()
    allocator = driver.allocator()
    barrier = threading.Barrier(8)
    devices: list[Device] = []

    def load(number: int) -> None:
        barrier.wait()
        for _ in range(50):
            reservation = allocator.place(AUTO, need_bytes=GB)
            devices.append(reservation.device)
            if number % 2:
                reservation.commit()
            reservation.release()
            reservation.release()

    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(devices) == 400
    assert set(allocator.usage().values()) == {Usage(0, 0)}


STEPS = ("constructor", "download", "load", "warm-up", "unload")


@pytest.mark.parametrize("failing", STEPS)
def test_a_life_that_ends_at_any_step_leaves_nothing_behind(failing: str) -> None:
    allocator = Driver().allocator()
    reservation = allocator.place(AUTO, need_bytes=GB)
    try:
        for step in STEPS:
            if step == failing:
                break
            if step == "load":
                reservation.commit()
    finally:
        reservation.release()
    assert set(allocator.usage().values()) == {Usage(0, 0)}


class Placement(RuleBasedStateMachine):
    """Two GPUs, models that come, load and go in any order, and other processes."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.allocator = self.driver.allocator()
        self.loading: dict[object, int] = {}
        self.loaded: dict[object, int] = {}
        self.gone: list[object] = []

    def free(self, device: Device) -> int:
        promised = sum(need for place, need in self.loading.items() if place.device == device)
        return self.driver.probe(device)[0] - promised

    @rule(need=st.integers(0, 4 * GB))
    def place(self, need: int) -> None:
        best = max(self.free(device) for device in (CUDA0, CUDA1))
        reservation = self.allocator.place(AUTO, need_bytes=need)
        assert self.free(reservation.device) == best
        self.loading[reservation] = need

    @rule(need=st.integers(0, GB), replicas=st.sampled_from([1, 2, "all"]))
    def place_many(self, need: int, replicas: int) -> None:
        places = self.allocator.place_many(AUTO, replicas, need_bytes=need)
        assert len({place.device for place in places}) == (1 if replicas == 1 else 2)
        self.loading |= dict.fromkeys(places, need)

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), took=st.integers(0, GB))
    def load_ends(self, data: st.DataObject, took: int) -> None:
        reservation = data.draw(st.sampled_from(list(self.loading)))
        del self.loading[reservation]
        self.driver.used[reservation.device] += took
        reservation.commit()
        self.loaded[reservation] = took

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def load_fails(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(list(self.loading)))
        del self.loading[reservation]
        reservation.release()
        self.gone.append(reservation)

    @precondition(lambda self: self.loaded)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(list(self.loaded)))
        self.driver.used[reservation.device] -= self.loaded.pop(reservation)
        reservation.release()
        self.gone.append(reservation)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def late_calls_change_nothing(self, data: st.DataObject) -> None:
        reservation = data.draw(st.sampled_from(self.gone))
        reservation.commit()
        reservation.release()

    @rule(device=st.sampled_from([CUDA0, CUDA1]), change=st.integers(-GB, GB))
    def others_come_and_go(self, device: Device, change: int) -> None:
        self.driver.used[device] = max(self.driver.used[device] + change, 0)

    @invariant()
    def the_books_agree(self) -> None:
        for device, usage in self.allocator.usage().items():
            here = [place for place in (*self.loading, *self.loaded) if place.device == device]
            promised = sum(need for place, need in self.loading.items() if place.device == device)
            assert usage == Usage(len(here), promised)

    def teardown(self) -> None:
        for reservation in (*self.loading, *self.loaded):
            reservation.release()
        assert all(usage == Usage(0, 0) for usage in self.allocator.usage().values())


Placement.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_placement_keeps_its_books = Placement.TestCase
