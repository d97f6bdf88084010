import dataclasses
import itertools
import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from econ_pyro.errors import EconError
from econ_pyro.evaluation import matching, metrics, segmentation, specialisation
from econ_pyro.infer.decomposition import Decomposition
from helpers.decompositions import BOXES, CLASSES, TRUE, explained, truth


def scores_of(d: Decomposition, true: SimpleNamespace = TRUE) -> dict[str, float]:
    return {k: v.item() for k, v in metrics.evaluate_scenes(d, true, CLASSES).scores.items()}


PERFECT = (
    "ari",
    "ari_fg",
    "msc",
    "sc",
    "visible_iou",
    "amodal_iou",
    "completed_iou",
    "found",
    "oca",
    "ooa",
)

labels = hnp.arrays(np.int64, (2, 4, 5), elements=st.integers(-1, 4))


# Clustering, against scikit-learn and loops.


@given(pred=labels, true=labels)
@settings(deadline=None, max_examples=25)
def test_ari_agrees_with_scikit_learn(pred, true):
    for foreground in (False, True):
        ours = segmentation.ari(torch.tensor(pred), torch.tensor(true), foreground)
        for b in range(2):
            keep = true[b] >= 0 if foreground else np.ones_like(true[b], dtype=bool)
            if keep.any():
                assert ours[b].item() == pytest.approx(
                    adjusted_rand_score(true[b][keep], pred[b][keep]), abs=1e-12
                )
            else:
                assert math.isnan(ours[b])


@given(pred=labels, true=labels, seed=st.integers(0, 999))
@settings(deadline=None, max_examples=25)
def test_segmentation_scores_ignore_the_names_of_predicted_segments(pred, true, seed):
    names = np.array([0, 9, 3, 77, 5, 500])  # far apart: the path that sorts
    new = np.random.default_rng(seed).permutation(names)
    p, q, renamed = torch.tensor(pred), torch.tensor(true), torch.tensor(new[pred + 1])
    for f in (segmentation.ari, lambda a, b: segmentation.ari(a, b, foreground=True)):
        torch.testing.assert_close(f(p, q), f(renamed, q), equal_nan=True)
    before, after = (segmentation.segmentation_covering(a, q) for a in (p, renamed))
    torch.testing.assert_close(before, after, equal_nan=True)


@given(pred=labels, true=labels)
@settings(deadline=None, max_examples=25)
def test_covering_agrees_with_a_loop(pred, true):
    ours = segmentation.segmentation_covering(torch.tensor(pred), torch.tensor(true))
    for b in range(2):
        best, area = [], []
        for q in set(true[b].flat) - {-1}:
            t = true[b] == q
            ious = [
                (t & (pred[b] == p)).sum() / (t | (pred[b] == p)).sum() for p in set(pred[b].flat)
            ]
            best.append(max(ious))
            area.append(t.sum())
        if best:
            assert ours.mean[b].item() == pytest.approx(np.mean(best))
            assert ours.weighted[b].item() == pytest.approx(np.average(best, weights=area))
            assert 0 <= ours.mean[b] <= 1
        else:
            assert math.isnan(ours.mean[b]) and math.isnan(ours.weighted[b])


def test_ari_of_one_true_segment_is_one_or_zero():
    true = torch.zeros(2, 4, 4, dtype=torch.long)
    pred = true.clone()
    pred[1, 0, 0] = 3
    assert segmentation.ari(pred, true).tolist() == [1, 0]
    assert segmentation.ari(pred, true, foreground=True).tolist() == [1, 0]


def test_ari_stays_exact_in_a_large_image():
    generator = np.random.default_rng(0)
    true = generator.integers(0, 5, (1, 256, 256))
    pred = np.where(generator.random(true.shape) < 0.3, 0, true)
    want = adjusted_rand_score(true.ravel(), pred.ravel())
    assert segmentation.ari(torch.tensor(pred), torch.tensor(true)).item() == pytest.approx(want)


def test_true_segmentation_numbers_slots_and_marks_the_background():
    true = segmentation.true_segmentation(TRUE.region)[0]
    assert Counter(true.flatten().tolist()) == {0: 36, 1: 27, 2: 16, -1: 256 - 79}
    assert true[5, 5] == 0 and true[8, 8] == 1 and true[12, 12] == 2 and true[0, 0] == -1


# Matching, on scenes with known answers.


def test_a_perfect_decomposition_is_right_in_everything():
    result = metrics.evaluate_scenes(explained([*BOXES, None], [2, 0, 1, 3]), TRUE, CLASSES)
    for name in PERFECT:
        assert result.scores[name].item() == 1, name
    assert result.scores["mse"].item() == 0
    assert result.scores["layers"].item() == 4
    assert result.summary()["class_accuracy"] == result.summary()["nmi"] == 1
    assert result.expert_names == ["square", "triangle", "circle", "background"]


def test_a_background_in_front_is_still_the_background():
    # Its hard region, not its place, makes it the background; objects behind it are in order.
    d = explained([*BOXES, None], [0, 1, 2, 3])
    order = [3, 0, 1, 2]
    moved = {
        name: getattr(d, name)[:, order] for name in ("k", "scope", "region", "mean", "shape")
    }
    d = dataclasses.replace(d, **moved)
    scores = scores_of(d)
    assert [scores[name] for name in PERFECT] == [1] * len(PERFECT)


def test_swapped_depth_order_is_wrong_and_costs_the_overlap():
    scores = scores_of(explained([BOXES[1], BOXES[0], BOXES[2], None], [1, 0, 2, 3]))
    assert scores["ooa"] == 0
    assert scores["oca"] == scores["found"] == scores["amodal_iou"] == 1
    # Nine pixels change hands: 27/36 for each of the two, and 1.
    assert scores["visible_iou"] == pytest.approx((0.75 + 0.75 + 1) / 3)


def test_order_does_not_matter_where_nothing_overlaps():
    scores = scores_of(explained([BOXES[2], *BOXES[:2], None], [2, 0, 1, 3]))
    assert [scores[name] for name in PERFECT] == [1] * len(PERFECT)


def test_two_objects_merged_into_one_layer():
    d = explained([BOXES[0], BOXES[2], None], [0, 2, 3])
    r = d.region.clone()
    taken = TRUE.region[:, 1]
    r[:, :, 0] = torch.where(taken, 0.0, r[:, :, 0])
    r[:, 0, 0] = torch.where(taken, 1.0, r[:, 0, 0])
    d = dataclasses.replace(d, region=r)
    scores = scores_of(d)
    assert scores["oca"] == scores["ooa"] == 0  # one of the overlapping pair has no layer
    assert scores["found"] == pytest.approx(2 / 3)
    assert scores["visible_iou"] == pytest.approx((36 / 63 + 0 + 1) / 3)
    assert scores["amodal_iou"] == pytest.approx((1 + 0 + 1) / 3)
    assert scores["msc"] == pytest.approx((36 / 63 + 27 / 63 + 1) / 3)
    assert scores["sc"] == pytest.approx((36 * 36 / 63 + 27 * 27 / 63 + 16) / 79)


def test_a_pair_whose_nearer_object_has_no_layer_is_not_in_order():
    scores = scores_of(explained([BOXES[1], BOXES[2], None], [0, 2, 3]))
    assert scores["found"] == pytest.approx(2 / 3) and scores["ooa"] == 0


def test_layers_that_are_present_are_those_of_the_pixels_asked_for():
    d = explained([*BOXES, None], [0, 1, 2, 3])
    for least, present in ((16, 4), (17, 3), (28, 2), (37, 1)):  # 36, 27 and 16 pixels
        scores = metrics.evaluate_scenes(d, TRUE, CLASSES, least).scores
        assert scores["layers"].item() == present
        assert scores["found"].item() == pytest.approx((present - 1) / 3)


@pytest.mark.parametrize("shift", range(4))
def test_shifted_masks_have_the_iou_of_shifted_squares(shift):
    true = truth([0], [(2, 2, 8, 8)])
    scores = scores_of(explained([(2, 2 + shift, 8, 8 + shift), None], [0, 3]), true)
    both = 6 * (6 - shift)
    assert scores["visible_iou"] == pytest.approx(both / (72 - both))
    assert scores["amodal_iou"] == pytest.approx(both / (72 - both))
    assert math.isnan(scores["ooa"])


def test_amodal_masks_are_scored_apart_from_visible_ones():
    d = explained([*BOXES, None], [0, 1, 2, 3])
    shape = d.shape.clone()
    shape[:, 1] = d.region[:, 1]  # seen right, but not completed: 27 of 36
    d = dataclasses.replace(d, shape=shape)
    assert scores_of(d)["visible_iou"] == 1
    assert scores_of(d)["amodal_iou"] == pytest.approx((1 + 27 / 36 + 1) / 3)
    assert scores_of(d)["completed_iou"] == pytest.approx((1 + 27 / 36 + 1) / 3)


def test_completed_masks_are_as_seen_and_as_drawn_where_hidden():
    d = explained([*BOXES, None], [0, 1, 2, 3])
    drawn = dataclasses.replace(d, shape=d.shape * (1 - d.scope))  # hidden pixels alone
    assert scores_of(drawn)["completed_iou"] == 1
    assert scores_of(drawn)["amodal_iou"] == pytest.approx((0 + 9 / 36 + 0) / 3)
    full = dataclasses.replace(d, shape=torch.ones_like(d.shape))  # more than is hidden
    assert full.completed.sum((2, 3, 4)).tolist() == [[36, 27 + 36, 16 + 36 + 27, 256]]


def test_an_amodal_mask_is_where_the_shape_is_likelier_than_not():
    d = explained([*BOXES, None], [0, 1, 2, 3])
    d = dataclasses.replace(d, shape=0.49 + 0.02 * d.shape)
    assert scores_of(d)["amodal_iou"] == 1


def test_no_object():
    true = truth([-1], [(0, 0, 0, 0)])
    clean, busy = (explained(boxes, k) for boxes, k in [([None], [3]), ([BOXES[0], None], [0, 3])])
    for d, oca, ari in ((clean, 1, 1), (busy, 0, 0)):
        result = metrics.evaluate_scenes(d, true, CLASSES)
        assert result.scores["oca"].item() == oca and result.scores["ari"].item() == ari
        for name in ("ari_fg", "msc", "sc", "visible_iou", "amodal_iou", "found", "ooa"):
            assert math.isnan(result.scores[name]), name
            assert result.summary()[name] is None and result.summary()[f"{name}_n"] == 0
        assert result.confusion.tolist() == [[0] * 4] * 3 + [[0, 0, 0, 1]]


def test_spare_layers_are_those_beyond_objects_and_a_background():
    true, whole, none = truth([0], [(1, 1, 8, 8)]), (1, 1, 8, 8), (0, 0, 0, 0)
    halves = [(1, 1, 8, 4), (1, 4, 8, 8)]
    assert math.isnan(scores_of(explained([whole, None], [0, 3]), true)["spare"])
    assert scores_of(explained([whole, none, None], [0, 1, 3]), true)["spare"] == 1
    assert scores_of(explained([*halves, None], [0, 1, 3]), true)["spare"] == 0
    assert scores_of(explained([*halves, none, None], [0, 1, 2, 3]), true)["spare"] == 0.5
    assert scores_of(explained([none, none, None], [0, 1, 3]), true)["spare"] == 1  # none used


def test_an_object_that_is_hidden_altogether_is_not_asked_for():
    true = truth([0, 1], [(1, 1, 8, 8), (2, 2, 5, 5)])
    scores = scores_of(explained([(1, 1, 8, 8), None], [0, 3]), true)
    assert scores["oca"] == scores["visible_iou"] == scores["found"] == 1
    assert math.isnan(scores["ooa"])


def test_an_image_full_of_objects_has_its_last_layer_as_background():
    true = truth([0, 1], [(0, 0, 16, 8), (0, 8, 16, 16)])
    d = explained([(0, 0, 16, 8), None], [0, 1])
    result = metrics.evaluate_scenes(d, true, CLASSES)
    assert result.scores["found"].item() == 0.5
    assert result.confusion[3].tolist() == [0, 0, 0, 0]  # no true background to count


def test_present_layers_need_eight_pixels_of_a_thousand():
    assert [matching.smallest_area(s, s) for s in (1, 16, 32, 64)] == [1, 2, 8, 33]
    hard = torch.zeros(1, 2, 32, 32, dtype=torch.bool)
    hard[0, 0, 0, :7], hard[0, 1, 0, :8] = True, True
    assert matching.present_layers(hard).tolist() == [[False, True]]
    assert matching.present_layers(hard, min_area=7).tolist() == [[True, True]]
    assert matching.background_layer(hard, matching.present_layers(hard)).tolist() == [1]
    assert matching.background_layer(hard, torch.zeros(1, 2).bool()).tolist() == [-1]


def test_one_pixel_of_background_is_a_background():
    hard = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    hard[0, 0, :2], hard[0, 1, 2:] = True, True
    behind = torch.zeros(1, 4, 4, dtype=torch.bool)
    behind[0, 1, 1] = True
    assert matching.background_layer(hard, torch.ones(1, 2).bool(), behind).tolist() == [0]


@given(
    layers=hnp.arrays(np.int64, (6, 6), elements=st.integers(0, 3)),
    behind=hnp.arrays(np.bool_, (6, 6)),
    least=st.integers(1, 14),
)
@settings(deadline=None, max_examples=40)
def test_the_background_layer_is_the_present_one_that_covers_most_of_it(layers, behind, least):
    hard = torch.tensor(np.stack([layers == t for t in range(4)]))[None]
    present = matching.present_layers(hard, min_area=least)
    sizes = [(layers == t).sum() for t in range(4)]
    there = [t for t in range(4) if sizes[t] >= least]
    assert present[0].nonzero().flatten().tolist() == there
    found = int(matching.background_layer(hard, present, torch.tensor(behind)[None]))
    covered = [((layers == t) & behind).sum() for t in there]
    if not there:
        assert found == matching.UNMATCHED
    elif max(covered) == 0:
        assert found == there[-1]
    else:
        assert found == there[covered.index(max(covered))]


@given(
    layers=hnp.arrays(np.int64, (6, 6), elements=st.integers(0, 3)),
    objects=hnp.arrays(np.int64, (6, 6), elements=st.integers(-1, 2)),
)
@settings(deadline=None, max_examples=25)
def test_the_matching_is_the_best_of_all(layers, objects):
    hard = torch.tensor(np.stack([layers == t for t in range(4)]))[None]
    region = torch.tensor(np.stack([objects == n for n in range(3)]))[None]
    found = matching.match(hard, torch.tensor([[0, 1, 2]]), region, min_area=1)
    iou = np.zeros((4, 3))
    for t, n in itertools.product(range(4), range(3)):
        p, q = layers == t, objects == n
        if found.objects[0, t] and q.any():
            iou[t, n] = (p & q).sum() / (p | q).sum()
    best = max(
        sum(iou[t, n] for n, t in enumerate(ts)) for ts in itertools.permutations(range(4), 3)
    )
    assert found.iou.sum().item() == pytest.approx(best)
    used = [t for t in found.layer[0].tolist() if t >= 0]
    assert len(used) == len(set(used))
    assert int(found.background[0]) not in used
    for n, t in enumerate(found.layer[0].tolist()):
        assert found.iou[0, n].item() == pytest.approx(iou[t, n] if t >= 0 else 0)


def test_scenes_of_a_batch_do_not_mix():
    parts = [
        explained([*BOXES, None], [0, 1, 2, 3]),
        explained([BOXES[1], BOXES[0], BOXES[2], None], [1, 0, 2, 3]),
    ]
    both = SimpleNamespace(**{k: torch.cat([v, v]) for k, v in vars(TRUE).items()})
    result = metrics.evaluate_scenes(Decomposition.cat(parts), both, CLASSES)
    for b, part in enumerate(parts):
        for name, value in scores_of(part).items():
            assert result.scores[name][b].item() == pytest.approx(value, nan_ok=True), name


# Classes.

tables = hnp.arrays(np.int64, (4, 3), elements=st.integers(0, 6))


@given(table=tables)
@settings(deadline=None, max_examples=25)
def test_class_scores_against_permutations_and_scikit_learn(table):
    total = table.sum()
    accuracy = specialisation.class_accuracy(torch.tensor(table))
    nmi = specialisation.normalised_mutual_information(torch.tensor(table))
    if total == 0:
        assert math.isnan(accuracy) and math.isnan(nmi)
        return
    best = max(
        sum(table[row, k] for k, row in enumerate(rows))
        for rows in itertools.permutations(range(4), 3)
    )
    assert accuracy == pytest.approx(best / total)
    rows, columns = (np.repeat(i, table.ravel()) for i in np.indices(table.shape).reshape(2, -1))
    if total > 20:  # scikit-learn warns of few samples with many classes
        assert nmi == pytest.approx(normalized_mutual_info_score(rows, columns), abs=1e-9)
    assert 0 <= nmi <= 1


def test_one_class_and_one_expert_agree():
    alone = torch.zeros(4, 3, dtype=torch.long)
    alone[1, 2] = 7  # as scikit-learn has it
    assert specialisation.normalised_mutual_information(alone) == 1
    assert specialisation.class_accuracy(alone) == 1


def test_names_by_majority():
    table = torch.tensor([[0, 9, 2, 0, 0], [1, 0, 0, 0, 7], [0, 0, 1, 0, 0], [8, 0, 0, 0, 0]])
    names = specialisation.names_by_majority(table, CLASSES)
    assert names == ["background", "circle", "circle-2", "unused-3", "square"]
    with pytest.raises(EconError, match="3 class names"):
        specialisation.names_by_majority(table, CLASSES[:2])


@given(table=tables)
@settings(deadline=None, max_examples=25)
def test_names_are_different(table):
    names = specialisation.names_by_majority(torch.tensor(table), CLASSES)
    assert len(set(names)) == 3
    assert [n.startswith("unused") for n in names] == (table.sum(0) == 0).tolist()


def test_usage_counts_layers_that_are_present():
    k = torch.tensor([[0, 0, 2], [1, 0, 2]])
    present = torch.tensor([[True, False, True], [True, False, True]])
    assert specialisation.expert_usage(k, present, 4).tolist() == [0.25, 0.25, 0.5, 0]


# Summary.


def test_without_ground_truth_only_what_needs_none():
    result = metrics.evaluate_scenes(explained([*BOXES, None], [0, 1, 2, 3]))
    assert set(result.scores) == {"mse", "x", "z", "r", "layers"}
    assert [result.scores[name].item() for name in "xzr"] == [4, 8, 12]
    assert result.expert_names == ["expert-0", "expert-1", "expert-2", "expert-3"]
    assert not {"nmi", "class_accuracy", "ari"} & set(result.summary())


def test_summary_is_json_and_counts_scenes():
    d = explained([BOXES[0], None], [0, 3])
    alone = truth([0, -1, -1], [BOXES[0], (0, 0, 0, 0), (0, 0, 0, 0)])
    both = SimpleNamespace(**{k: torch.cat([v, getattr(TRUE, k)]) for k, v in vars(alone).items()})
    row = metrics.evaluate_scenes(Decomposition.cat([d, d]), both, CLASSES).summary()
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["scenes"] == 2 and row["ooa_n"] == 1 and row["ooa"] == 0
    assert row["found"] == pytest.approx((1 + 1 / 3) / 2) and row["found_n"] == 2
    assert row["usage_0"] == row["usage_3"] == 0.5
    assert row["class_n"] == 2 and row["class_n_with_background"] == 4


def test_mse_is_the_mean_over_pixels_and_channels():
    image = torch.zeros(2, 3, 4, 4)
    other = image.clone()
    other[1, 0] = 0.5
    assert metrics.mse(image, other).tolist() == pytest.approx([0, 0.25 / 3])


def test_mismatched_ground_truth_is_a_users_error():
    d = explained([*BOXES, None], [0, 1, 2, 3])
    with pytest.raises(EconError, match="same scenes"):
        metrics.evaluate_scenes(Decomposition.cat([d, d]), TRUE, CLASSES)
    with pytest.raises(EconError, match="labels below 2"):
        metrics.evaluate_scenes(d, TRUE, CLASSES[:2])
