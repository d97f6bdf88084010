"""Work on several cores: in order, really side by side, and the same to the last bit."""

import dataclasses
import threading
import time

import pytest
import torch
from torch import nn

from econ_pyro.accel import cpu_cores
from econ_pyro.accel.cpu_cores import available_cores, parallel_map, single_threaded, use_cores
from econ_pyro.accel.parallel_networks import run, separate_graphs
from econ_pyro.accel.timing import count_flops
from econ_pyro.data.synthetic.dataset import write_dataset
from econ_pyro.econ import Econ
from econ_pyro.scene_config import SceneConfig
from helpers.trainers import equal, make_trainer, seeded_tiny, without_clock


@pytest.mark.parametrize(
    ("own", "quota", "expected"),
    [
        ({}, None, 8),
        ({}, "max 100000", 8),
        ({}, "200000 100000", 2),
        ({}, "150000 100000", 1),
        ({}, "50000 100000", 1),
        ({}, "1600000 100000", 8),
        ({}, "", 8),
        ({"OMP_NUM_THREADS": "3"}, "100000 100000", 3),
        ({"OMP_NUM_THREADS": "1"}, None, 1),
        ({"OMP_NUM_THREADS": "0"}, None, 8),
        ({"OMP_NUM_THREADS": "4,2"}, None, 8),
        ({"OMP_NUM_THREADS": ""}, None, 8),
    ],
)
def test_the_number_of_cores_is_the_users_else_what_the_system_allows(
    own, quota, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(cpu_cores.os, "sched_getaffinity", lambda _: range(8), raising=False)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(own, tmp_path / "cpu.max") == expected


def test_pieces_are_side_by_side_and_in_order():
    use_cores(3)
    meeting = threading.Barrier(3, timeout=30)  # passed by three at a time, or by none

    def work(i):
        meeting.wait()
        return i, threading.get_ident(), torch.get_num_threads()

    found = parallel_map(work, range(6))
    assert [i for i, _, _ in found] == [0, 1, 2, 3, 4, 5]
    assert len({ident for _, ident, _ in found}) == 3
    assert {threads for _, _, threads in found} == {1}


def test_pieces_of_pieces_are_done_by_the_thread_that_has_them():
    use_cores(2)

    def outer(i):
        return [(i, j, a == threading.get_ident()) for j, a in parallel_map(inner, range(3))]

    def inner(j):
        return j, threading.get_ident()

    assert parallel_map(outer, range(4)) == [[(i, j, True) for j in range(3)] for i in range(4)]


def test_alone_keeps_work_in_this_thread():
    use_cores(2)
    with single_threaded():
        assert set(parallel_map(lambda _: threading.get_ident(), range(4))) == {
            threading.get_ident()
        }


@pytest.mark.parametrize("bad", range(4))
def test_an_error_comes_out_and_nothing_is_begun_after_it(bad):
    use_cores(2)
    begun = []

    def work(i):
        begun.append(i)
        if i == bad:
            raise ValueError(f"piece {i}")
        time.sleep(1e-4)
        return i

    with pytest.raises(ValueError, match=f"piece {bad}"):
        parallel_map(work, range(1000))
    assert len(begun) < 1000
    assert parallel_map(lambda i: i, range(5)) == list(range(5))  # the threads are there for more


def test_within_operations_there_are_as_many_threads_instead():
    assert use_cores(2, intra_op=True) == 2
    assert (torch.get_num_threads(), cpu_cores.used_cores()) == (2, 1)
    assert "within each operation" in cpu_cores.description()
    assert use_cores(2) == 2
    assert (torch.get_num_threads(), cpu_cores.used_cores()) == (1, 2)
    assert cpu_cores.description().startswith("2 cores, one thread per operation")


def networks(n, dtype=torch.float64):
    torch.manual_seed(5)
    made = [
        nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 3)).to(dtype)
        for _ in range(n)
    ]
    made[1].requires_grad_(False)  # a frozen expert
    return made


def used_twice(made, x, how):
    """A loss in which what networks say is an input of the next use of the same networks."""
    first = how(made, [(x[i : i + 2],) for i in range(len(made))])
    again = [
        (torch.cat([nn.functional.pad(f, (1, 1, 1, 1)), x[i : i + 2, :1]], 1),)
        for i, f in enumerate(first)
    ]
    second = how(made, again)
    pairs = zip(first, second, strict=True)
    return sum((i + 1) * (f.square().sum() + s.sum()) for i, (f, s) in enumerate(pairs))


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_separate_graphs_have_the_gradients_of_one(cores):
    x = torch.rand(6, 2, 6, 6, dtype=torch.float64)
    plain, separate = networks(3), networks(3)
    x_plain, x_separate = (x.clone().requires_grad_() for _ in range(2))
    wanted = used_twice(plain, x_plain, lambda n, g: [f(*a) for f, a in zip(n, g, strict=True)])
    wanted.backward()
    use_cores(cores)
    with separate_graphs():
        loss = used_twice(separate, x_separate, run)
    loss.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(x_separate.grad, x_plain.grad, rtol=1e-13, atol=1e-15)
    for mine, theirs in zip(separate, plain, strict=True):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None) == (not p.requires_grad)
            if p.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-13, atol=1e-15)


def test_a_weight_that_plays_no_part_has_no_gradient():
    made = networks(2)
    made[0].unused = nn.Linear(2, 2)
    made[0].forward = lambda x: made[0][0](x)
    with separate_graphs():
        sum(out.sum() for out in run(made, [(torch.rand(1, 2, 6, 6).double(),)] * 2)).backward()
    assert made[0].unused.weight.grad is None
    assert made[0][0].weight.grad is not None


def test_modes_of_the_calling_thread_hold_in_the_others():
    use_cores(3)

    class Look(nn.Module):
        def forward(self, x):
            assert torch.is_autocast_enabled("cpu")
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
            assert not torch.is_grad_enabled()
            meeting.wait()
            return x @ x

    meeting = threading.Barrier(3, timeout=30)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = run([Look() for _ in range(3)], [(torch.eye(3),)] * 3)
    assert {out.dtype for out in found} == {torch.bfloat16}


@pytest.mark.parametrize(("seeded", "amp"), [(False, True), (True, False)])
def test_training_is_the_same_to_the_last_bit_on_any_number_of_cores(tiny, seeded, amp, tmp_path):
    config = seeded_tiny() if seeded else tiny
    model = dataclasses.replace(config.model, num_experts=4)
    config = dataclasses.replace(config, model=model, amp=amp)
    states = []
    for cores in (1, 3):
        use_cores(cores)
        trainer = make_trainer(config, tmp_path / str(cores))
        trainer.fit()
        states.append(without_clock(trainer.state()))
    assert equal(*states)


def test_decomposing_is_the_same_on_any_number_of_cores(tiny):
    econ, x = Econ(tiny), torch.rand(7, 3, 16, 16)
    found = []
    for cores in (1, 3):
        use_cores(cores)
        found.append(econ.decompose(x, batch=2))
    for name in ("image", "k", "region", "mean", "shape", "z", "competition_losses"):
        assert torch.equal(*(getattr(d, name) for d in found)), name
    torch.testing.assert_close(found[0].image, x)


def test_a_dataset_is_the_same_on_any_number_of_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("econ_pyro.data.synthetic.dataset._CHUNK", 3)
    written = {}
    for cores in (1, 2):
        use_cores(cores)
        out, seen = tmp_path / str(cores), []
        out.mkdir()
        write_dataset(out, SceneConfig(size=16), 4, 10, 7, seen.append)
        assert seen == [3, 3, 3, 1, 3, 3, 1]
        files = sorted(path for path in out.rglob("*.npy"))
        written[cores] = [(path.relative_to(out), path.read_bytes()) for path in files]
    assert written[1] == written[2] and len(written[1]) == 18


def test_operations_of_all_cores_are_counted(tiny):
    econ = Econ(tiny)
    x, k = torch.rand(6, 3, 16, 16), torch.arange(6) % 3
    counted = []
    for cores in (1, 3):
        use_cores(cores)
        counted.append(count_flops(lambda: econ.guide.attend(x, torch.ones_like(x[:, :1]), k)))
    assert counted[0] == counted[1] > 0
