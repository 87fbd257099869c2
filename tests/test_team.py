"""Work in parts: every part once, on PyTorch's threads where it can be, and no error lost."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("torch")

import torch

from dpap_neuro import compiled, team
from dpap_neuro.networks.neurons import LIF, CubaLIF, NeuronSettings


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["PyTorch's threads", "a pool"])
def either_way(request, monkeypatch, two_threads):
    if request.param == "a pool":
        monkeypatch.setattr(team, "_openmp", lambda: None)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_part_is_done_once(either_way, parts):
    done = []
    team.share_out(parts, done.append)
    assert sorted(done) == list(range(parts))


def test_two_threads_are_at_work_at_once(either_way):
    both = threading.Barrier(2)
    team.share_out(2, lambda part: both.wait(timeout=30))


def test_an_error_of_any_part_is_raised(either_way):
    def work(part):
        if part == 1:
            raise ZeroDivisionError("of part 1")

    with pytest.raises(ZeroDivisionError, match="of part 1"):
        team.share_out(2, work)


def test_a_part_that_was_not_done_is_no_success(monkeypatch, two_threads):
    class Interrupted:
        """A runtime in which nothing gets into the region."""

        omp_get_max_threads = staticmethod(torch.get_num_threads)
        GOMP_parallel = staticmethod(lambda *_: None)

    monkeypatch.setattr(team, "_openmp", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        team.share_out(2, lambda part: None)


def test_a_team_that_is_smaller_than_asked_does_all_parts(monkeypatch, two_threads):
    class Small:
        omp_get_max_threads = staticmethod(torch.get_num_threads)
        omp_get_num_threads, omp_get_thread_num = (staticmethod(lambda n=n: n) for n in (1, 0))
        GOMP_parallel = staticmethod(lambda region, *_: region(None))

    monkeypatch.setattr(team, "_openmp", Small)
    done = []
    team.share_out(5, done.append)
    assert done == list(range(5))


def test_threads_of_another_runtime_are_not_taken(monkeypatch, two_threads):
    class Other:
        omp_get_max_threads = staticmethod(lambda: torch.get_num_threads() + 1)

    monkeypatch.setattr(team, "_openmp", Other)
    done = []
    team.share_out(3, done.append)
    assert sorted(done) == [0, 1, 2]


@pytest.mark.parametrize("kind", [LIF, CubaLIF])
def test_spikes_and_gradients_do_not_depend_on_threads(either_way, monkeypatch, kind):
    monkeypatch.setattr(compiled, "_EACH", 1000)
    x = torch.randn(6, 3, 1700).requires_grad_()  # parts that differ in size
    weight, found = torch.randn(6, 3, 1700), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = kind(NeuronSettings(dt=1e-3, tau_mem=4e-3))(x)
        found.append((out, *torch.autograd.grad((out * weight).sum(), x)))
    assert found[0][0].any()
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
