"""The competition that a configuration asks for."""

from __future__ import annotations

from econ_pyro.config import Config, additions
from econ_pyro.infer.competition import Competition, GreedyCompetition
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.mixture import Mixture
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.refined_competition import Refined
from econ_pyro.infer.savings import SavingsCompetition
from econ_pyro.model_config import EconConfig, JointOptions, SavingsOptions


def competition_of(config: Config, evidence: bool | None = None) -> Competition:
    """The competition in training, at its first temperature.

    Args:
        config: of the run.
        evidence: whether true regions are given; as in training if not given.
    """
    model = config.model
    assert isinstance(model, EconConfig)
    options = model.competition
    given = (model.num_slots, options.lam, options.temperature, None, additions(config).occlusion)
    given_regions = config.gt_masks if evidence is None else evidence
    if given_regions:
        return OracleCompetition(*given)
    if isinstance(options, JointOptions):
        ordered = options.depth_order_from is not None
        return JointCompetition(*given, ordered=ordered)
    if isinstance(options, SavingsOptions):
        return SavingsCompetition(*given, lookahead=options.lookahead)
    return GreedyCompetition(*given)


def decomposition_of(config: Config, slots: int, evidence: bool, refine: bool) -> Competition:
    """The competition that takes images apart.

    Args:
        config: of the run.
        slots: number of layers.
        evidence: whether true regions are given.
        refine: whether to refine what the competition finds, where the configuration says so.
    """
    model = config.model
    assert isinstance(model, EconConfig)
    competition = competition_of(config, evidence)
    competition.num_slots, competition.occlusion = slots, 0.0
    refine = refine and model.competition.refine and not evidence
    options = model.competition
    if not refine:
        return competition
    return Refined.of(
        competition,
        rounds=options.refine_rounds,
        steps=options.refine_steps,
        mixture=Mixture(
            options.outliers,
            options.background_noise,
            options.layer_covariance,
            options.covariance_floor,
            options.feature_weight,
        ),
        divide=options.refine_division,
        merge=options.refine_merging,
        twice=options.refine_twice,
    )
