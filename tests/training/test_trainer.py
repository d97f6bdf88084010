"""Training: bit-exact resumption, schedule, restarts, checkpoints that survive anything."""

import dataclasses
import json
import math

import pyro
import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import FORMAT, PlateauSchedule, to_dict
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import load
from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.infer.elbo import Terms
from econ_pyro.training import checkpoint
from econ_pyro.training.batches import Batches
from econ_pyro.training.callbacks import PlateauRate
from econ_pyro.training.load_balancing import copy_expert, starved
from helpers.trainers import callback, changed, equal, make_trainer, without_clock


def test_resumed_run_is_bit_equal_to_an_unbroken_one(tiny, tmp_path):
    tiny = changed(
        tiny,
        recipe__restart_below=1.0,
        recipe__restart_every=3,
        recipe__load_balancing=0.5,
        recipe__whitening=True,
        recipe__occlusion=0.5,
    )
    whole = make_trainer(tiny, tmp_path / "whole", 8)
    whole.fit()
    make_trainer(tiny, tmp_path / "parts", 4).fit()
    with open(tmp_path / "parts" / checkpoint.METRICS, "a") as f:
        f.write('{"step": 6, "loss": 1}\n{"step": 7, "lo')  # killed while writing
    torch.randn(7)  # another process has another generator
    resumed = make_trainer(tiny, tmp_path / "parts", 8)
    resumed.resume()
    assert resumed.step == 4
    resumed.fit()
    assert equal(without_clock(whole.state()), without_clock(resumed.state()))
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in
         checkpoint.read_metrics(tmp_path / name / checkpoint.METRICS)]
        for name in ("whole", "parts")
    ]  # fmt: skip
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == [2, 4, 6, 8]


def test_best_checkpoint_is_the_one_of_the_lowest_validation_loss(tiny, tmp_path):
    trainer = make_trainer(tiny, tmp_path / "run")
    trainer.fit()
    best = checkpoint.load_checkpoint(tmp_path / "run" / checkpoint.BEST)
    lowest = min(trainer.rows, key=lambda row: row["valid_loss"])
    assert best["step"] == lowest["step"] and best["best"] == lowest["valid_loss"]


def test_rate_falls_after_five_evaluations_without_improvement(tiny, tmp_path):
    schedule = callback(make_trainer(tiny, tmp_path / "run").learner, PlateauRate).schedule
    rates = []
    for loss in [-10.0, -9.0, -9.0, -9.0, -9.0, -9.0, -11.0]:
        schedule.step(loss)
        rates.append(schedule.get_last_lr()[0])
    assert rates[:5] == [1e-3] * 5
    assert rates[5] == pytest.approx(1e-3 / math.sqrt(10))


def test_training_stops_after_the_fifth_decrease(tiny, tmp_path):
    trainer = make_trainer(tiny, tmp_path / "run")
    group = trainer.learner.optim.param_groups[0]
    group["lr"] = 1e-3 * 10 ** (-0.5 * 4)
    assert trainer.done() == ""
    group["lr"] = 1e-3 * 10 ** (-0.5 * 5)
    assert "5 times" in trainer.done()


def test_training_stops_when_the_minutes_are_up(tiny, tmp_path):
    limited = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, minutes=1e-6))
    trainer = make_trainer(limited, tmp_path / "run")
    assert "minutes are up" in trainer.fit()
    assert trainer.step == 1
    assert checkpoint.load_checkpoint(tmp_path / "run" / checkpoint.LAST)["step"] == 1


def test_a_start_that_takes_all_minutes_is_kept_and_told(tiny, tmp_path):
    """It once ended as if training had, without weights to read, and so did each --resume."""
    limited = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, minutes=1.0))
    trainer = make_trainer(limited, tmp_path / "run")
    trainer.seconds = 90.0
    for _ in range(2):
        with pytest.raises(EconError, match="the model's start took 1.5.*--resume and more"):
            trainer.fit()
        trainer = make_trainer(limited, tmp_path / "run")
        trainer.resume()
    more = make_trainer(tiny, tmp_path / "run", 2)
    more.resume()
    assert "2 steps" in more.fit() and more.seconds > 90.0


def test_minutes_are_of_sixty_seconds(tiny, tmp_path):
    limited = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, minutes=2.0))
    trainer = make_trainer(limited, tmp_path / "run")
    trainer.seconds = 119.0
    assert trainer.done() == ""
    trainer.seconds = 120.0
    assert trainer.done() == "2 minutes are up"


def test_a_row_says_what_the_steps_since_the_last_saw(tiny, tmp_path):
    objective = dataclasses.replace(
        tiny.objective, beta=0.5, gamma=1.0, gamma_end=3.0, gamma_until=4
    )
    competition = dataclasses.replace(
        tiny.model.competition, temperature=8.0, temperature_end=2.0, temperature_until=4
    )
    config = changed(tiny, objective=objective, model__competition=competition)
    trainer = make_trainer(config, tmp_path / "run", 5)
    update = trainer.learner.engine.update
    steps, rows, explained = [], [], []

    def watched(x, evidence):
        result = update(x, evidence)
        steps.append([float(term.double().sum(1).mean()) for term in result.terms])
        return result

    trainer.learner.engine.update = watched

    def watch(step, row):
        if row is not None:
            rows.append((row, steps.copy()))
            steps.clear()
            x = trainer.valid.images(torch.arange(len(trainer.valid)))
            explained.append(trainer.learner.engine.decompose(x))

    trainer.fit(watch)
    assert [row["step"] for row, _ in rows] == [2, 4, 5]  # and one at the end
    assert [len(seen) for _, seen in rows] == [2, 2, 1]
    # of the last step before it
    assert [row["gamma"] for row, _ in rows] == [1.5, 2.5, 3.0]
    assert [row["temperature"] for row, _ in rows] == pytest.approx([8 / 2**0.5, 8 / 8**0.5, 2])
    for (row, seen), d in zip(rows, explained, strict=True):
        x, z, r = (sum(terms) / len(seen) for terms in zip(*seen, strict=True))
        assert [row["x"], row["z"], row["r"]] == pytest.approx([x, z, r], rel=1e-5)
        assert row["loss"] == pytest.approx(x + 0.5 * z + row["gamma"] * r, rel=1e-5)
        assert row["beta"] == 0.5 and row["scenes"] == 4 * row["step"]
        # validation losses of all steps are of one objective, the last
        total = sum(float(t.double().sum()) * w for t, w in zip(d.terms, (1, 0.5, 3), strict=True))
        assert row["valid_loss"] == pytest.approx(total / len(d), rel=1e-5)
        wins = [d.k.flatten().tolist().count(k) for k in range(3)]
        assert row["usage"] == pytest.approx([n / sum(wins) for n in wins])
    # p(k_t) back to front: how often each expert won the layer, a little for those who did not
    probs = trainer.learner.model.model.class_probs
    for t in range(3):
        won = explained[-1].k[:, 2 - t].tolist()
        expected = [won.count(k) / len(won) for k in range(3)]
        assert probs[t].tolist() == pytest.approx(expected, abs=1e-3)
        assert (probs[t] > 0).all() and probs[t].sum().item() == pytest.approx(1)


def test_the_seed_says_in_which_order_images_come(tiny):
    firsts = []
    same_images = GeneratedScenes(tiny.scenes, 0, 32)
    for seed in (0, 1):
        config = dataclasses.replace(tiny, seed=seed)
        cpu = torch.device("cpu")
        x, _ = Batches(config, same_images, same_images, cpu, ProcessGroup()).training(0)
        every = same_images.images(torch.arange(32))
        firsts.append([int((every == image).flatten(1).all(1).nonzero()) for image in x])
    assert firsts[0] != firsts[1]


def test_the_rate_falls_in_training_where_nothing_is_learnt(tiny, tmp_path):
    train = dataclasses.replace(tiny.train, validate_every=1, schedule=PlateauSchedule(patience=2))
    trainer = make_trainer(dataclasses.replace(tiny, train=train), tmp_path / "run", 6)
    engine = trainer.learner.engine
    decompose = engine.decompose

    def same(x, evidence):  # whatever is learnt
        d = decompose(x, evidence)
        zeros = torch.zeros_like(d.terms.x)
        return dataclasses.replace(d, terms=Terms(zeros + 7 / 3, zeros, zeros))

    engine.decompose = same
    trainer.fit()
    factors = [row["lr"] / train.lr for row in trainer.rows]
    # a row has the rate of its steps: the first evaluation is the best, two more are not better
    assert factors == pytest.approx([1, 1, 1, 10**-0.5, 10**-0.5, 0.1])


@pytest.mark.parametrize("unknown", [0, 1])
@pytest.mark.parametrize("last", [2, 3])
def test_divergence_stops_and_keeps_the_last_good_checkpoint(tiny, tmp_path, unknown, last):
    trainer = make_trainer(tiny, tmp_path / "run", 20)
    trainer._unknown = unknown  # on a GPU the loss of a step is read in the next one

    def poison(step, row):
        if step == last:
            with torch.no_grad():
                for p in trainer.learner.model.parameters():
                    p.fill_(math.nan)

    diverged = pytest.raises(EconError, match=f"finite loss.*step {last + 1}")
    with pyro.validation_enabled(False), diverged:
        trainer.fit(poison)
    state = checkpoint.load_checkpoint(tmp_path / "run" / checkpoint.LAST)
    assert state["step"] == 2
    assert all(t.isfinite().all() for t in state["weights"].values())


def test_starved_experts_become_noisy_copies_of_the_busiest(tiny, tmp_path):
    wins = torch.tensor([[90, 10, 0, 0], [90, 10, 0, 0], [0, 0, 40, 60]])
    assert starved(wins, below=0.5) == [(1, 0), (2, 0)]  # 2 wins backgrounds only
    assert starved(wins, below=0.2) == [(2, 0)]
    assert starved(torch.tensor([[1, 1, 0], [0, 0, 2]]), below=0.2) == []
    assert starved(torch.tensor([[9, 0, 0], [9, 0, 0]]), below=0.2) == []  # one takes everything
    assert starved(torch.tensor([[95, 5, 0], [100, 0, 0]]), below=0.2) == []  # or nearly
    trainer = make_trainer(tiny, tmp_path / "run")
    trainer.fit()
    ensembles = trainer.learner.model.expert_groups()
    assert len(ensembles) == 3
    copy_expert(ensembles, trainer.learner.optim, source=0, target=2)
    for ensemble in ensembles:
        for a, b in zip(ensemble[0].parameters(), ensemble[2].parameters(), strict=True):
            assert not torch.equal(a, b) or not a.any()
            assert (a - b).square().mean() <= (0.05**2) * a.square().mean()
            assert equal(trainer.learner.optim.state.get(a), trainer.learner.optim.state.get(b))


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_cut_checkpoints_are_named_and_explained(tiny, tmp_path, keep):
    path = tmp_path / "last.pt"
    checkpoint.save_checkpoint(path, {"weights": torch.randn(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(EconError, match="damaged"):
        checkpoint.load_checkpoint(path)


def test_loading_never_executes_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"model": Evil()}, tmp_path / "last.pt")
    with pytest.raises(EconError):
        checkpoint.load_checkpoint(tmp_path / "last.pt")
    assert not (tmp_path / "pwned").exists()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "config.json"
    storage.write_json(path, {"a": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        storage.write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_weights_of_another_configuration_are_refused(tiny, tmp_path):
    run = tmp_path / "run"
    make_trainer(tiny, run, 2).fit()
    other = to_dict(changed(tiny, model__num_experts=2))
    storage.write_json(run / checkpoint.CONFIG, {"format": FORMAT, "config": other})
    with pytest.raises(EconError, match="another configuration"):
        load(run)


def test_single_expert_with_true_regions_trains(tiny, tmp_path):
    scenes = dataclasses.replace(tiny.scenes, objects=2)
    model = dataclasses.replace(tiny.model, num_experts=1)
    config = dataclasses.replace(tiny, scenes=scenes, model=model, gt_masks=True)
    trainer = make_trainer(config, tmp_path / "run", 20)
    trainer.fit()
    assert trainer.rows[-1]["valid_loss"] < trainer.rows[0]["valid_loss"]
