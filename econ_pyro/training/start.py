"""What an ECON learns before its training: features, which pixels group, clusters of shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from econ_pyro.config import Config, additions
from econ_pyro.guides import pretrained_features
from econ_pyro.guides.amortized import AmortizedGuide
from econ_pyro.guides.seeded import SeededGuide, SeedsAlone
from econ_pyro.model_config import EconConfig, SeededAttention
from econ_pyro.models.dead_leaves import DeadLeaves
from econ_pyro.training.cutout_lessons import covered, cut_out
from econ_pyro.training.grouping import Layers, Lesson, layers_by_colour, learn_grouping
from econ_pyro.training.self_training import self_training
from econ_pyro.training.shape_clusters import Whole, start_from_clusters, whole_regions
from econ_pyro.training.texture_lessons import textured_leaves


class Start:
    """Teaches attention to group pixels, and starts experts from clusters, as the recipe says.

    Before that, features of a pretrained network are fitted to the images, if there is one.

    Args:
        config: of the run.
        model: whose decoders start from clusters.
        guide: whose attention learns to group.
        regions: takes images apart, ``(B, 3, H, W)`` to ``(B, T, 1, H, W)``, so that many objects
            are whole.
        refined: the same, with all that refines regions.
    """

    def __init__(
        self,
        config: Config,
        model: DeadLeaves,
        guide: AmortizedGuide,
        regions: Callable[[Tensor], Tensor],
        refined: Callable[[Tensor], Tensor],
    ) -> None:
        assert isinstance(config.model, EconConfig)
        self.config, self.recipe, self.sizes = config, additions(config), config.model
        self.model, self.guide = model, guide
        self.regions, self.refined = regions, refined

    def __call__(self, images: Callable[[int], Tensor]) -> str:
        """Do all that the recipe asks for, and say what was done.

        Args:
            images: so many training images, ``(B, 3, H, W)`` in [0, 1].

        Raises:
            EconError: the images have too few objects to learn from.
        """
        recipe, done, whole = self.recipe, [], None
        if isinstance(self.guide, SeededGuide) and (features := self.guide.pretrained):
            x = images(pretrained_features.IMAGES)
            share, count = features.fit(x), features.components.shape[1]
            done.append(
                f"{count} principal components of {features.source} fitted to {len(x)} images, "
                f"{share:.0%} of the variance"
            )
        if n := recipe.grouping_images:
            x = images(n)
            lesson, how, loss, whole = self._learn_grouping(x)
            done.append(
                f"attention learnt to group pixels from {how} {len(x)} images, "
                f"to {loss:.2f} nats per pixel of a layer"
            )
            if whole is not None:  # experts that draw objects refine better
                done += self._start_from_clusters(images, whole)
            if n := recipe.self_training_images:
                done.append(self._teach_itself(images(n), lesson))
        if whole is None:
            done += self._start_from_clusters(images)
        return "; ".join(done)

    def _start_from_clusters(
        self, images: Callable[[int], Tensor], whole: Whole | None = None
    ) -> list[str]:
        """Of whole objects, which are looked for if they are not given."""
        recipe, n = self.recipe, self.recipe.shape_clusters
        if not n:
            return []
        if whole is None:
            # half of the regions that no refinement has seen are parts of objects
            x = images(n)
            whole = whole_regions(self.regions(x), x)
        networks = self.model.decoders, self.guide.encoders
        weights = recipe.clusters_shaded, recipe.clusters_coloured
        start_from_clusters(*networks, whole, self.config.seed, *weights)
        clusters = f"{self.sizes.num_experts - 1} clusters of the shapes"
        return [f"experts start from {clusters} of {len(whole.region)} whole objects"]

    def _teach_itself(self, images: Tensor, lesson: Lesson) -> str:
        recipe, rounds, loss = self.recipe, self.recipe.self_training_rounds, 0.0
        for i in range(rounds):
            own = self_training(images, self.refined, lesson)
            loss = self._learn(own, recipe.self_training_steps, self.config.seed + 2 + i)
        times = "once" if rounds == 1 else f"{rounds} times"
        return (
            f"attention learnt {times} more from what refinement made of {len(images)} images, "
            f"to {loss:.2f} nats"
        )

    def _learn_grouping(self, images: Tensor) -> tuple[Lesson, str, float, Whole | None]:
        """The lesson, from what it is, to which loss, and the whole objects if they were cut out.

        What attention has learnt from cutouts of which each is most probably an object decides
        which of the others are.
        """
        recipe, slots, seed = self.recipe, self.sizes.num_slots, self.config.seed
        steps, objects, whole = recipe.grouping_steps, self.sizes.num_slots - 1, None
        if recipe.grouping_from == "textures":
            lesson: Lesson = partial(textured_leaves, images.float().cpu(), slots)
            how = "leaves with textures out of"
        elif recipe.grouping_from == "cutouts":
            images, first = images.float().cpu(), max(1, steps // 3)
            cut = cut_out(images, objects)
            sure = cut.some(cut.sure)
            self._learn(partial(sure.scenes, objects), first, seed)
            cut = cut.some(covered(cut, lambda i: self._grown(images[i])))
            lesson, steps, seed = partial(cut.scenes, objects), max(1, steps - first), seed + 1
            how = f"{len(cut.image)} objects cut out of"
            whole = Whole((cut.opacity > 0.5).float()[:, None], cut.colour)
        else:
            attention, noise = self.sizes.expert.attention, self.model.pixel_noise
            assert isinstance(attention, SeededAttention)
            seeds = SeedsAlone(self.guide, attention)
            found = layers_by_colour(images.to(self._device), seeds, slots, noise)
            lesson = Layers(*(a.cpu() for a in found)).some
            how = f"{found.labels.flatten(1).amax(1).float().mean():.1f} objects an image in"
        return lesson, how, self._learn(lesson, steps, seed), whole

    def _learn(self, lesson: Lesson, steps: int, seed: int) -> float:
        first, *others = self.guide.attentions
        attention = self.sizes.expert.attention
        assert isinstance(attention, SeededAttention)
        means = attention.shifts > 0
        assert isinstance(self.guide, SeededGuide)
        options = (self.config.augment, steps, seed, means, self.guide.with_pretrained)
        loss = learn_grouping(first, lesson, *options)
        for network in others:  # all group alike
            network.load_state_dict(first.state_dict())
        return loss

    def _grown(self, images: Tensor) -> Tensor:
        """Regions that grow from as many seeds as there are layers, ``(B, T, 1, H, W)``."""
        assert isinstance(self.guide, SeededGuide)
        x = images.to(self._device)
        _, grown = self.guide.candidates(x, torch.ones_like(x[:, :1]), self.sizes.num_slots)
        return grown[:, :, 0]

    @property
    def _device(self) -> torch.device:
        return next(self.guide.parameters()).device
