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
from econ_pyro.training.cutout_lessons import Cutouts, covered, cut_out
from econ_pyro.training.grouping import Layers, Lesson, layers_by_colour, learn_grouping
from econ_pyro.training.shape_clusters import Whole, start_from_clusters, whole_regions
from econ_pyro.training.texture_lessons import textured_leaves


class Start:
    """Teaches attention to group pixels, and starts experts from clusters, as the recipe says.

    Before that, features of a pretrained network are fitted to the images, if there is one.

    Args:
        config: of the run.
        model: whose decoders start from clusters.
        guide: whose attention learns to group.
        regions: takes images apart, ``(B, 3, H, W)`` to ``(B, T, 1, H, W)``.
    """

    def __init__(
        self,
        config: Config,
        model: DeadLeaves,
        guide: AmortizedGuide,
        regions: Callable[[Tensor], Tensor],
    ) -> None:
        assert isinstance(config.model, EconConfig)
        self.config, self.recipe, self.sizes = config, additions(config), config.model
        self.model, self.guide, self.regions = model, guide, regions

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
            how, loss, whole = self._learn_grouping(x)
            done.append(
                f"attention learnt to group pixels from {how} {len(x)} images, "
                f"to {loss:.2f} nats per pixel of a layer"
            )
        if n := recipe.shape_clusters:
            if whole is None:
                # half of the regions that no refinement has seen are parts of objects
                x = images(n)
                whole = whole_regions(self.regions(x), x)
            networks = self.model.decoders, self.guide.encoders
            weights = recipe.clusters_shaded, recipe.clusters_coloured
            start_from_clusters(*networks, whole, self.config.seed, *weights)
            done.append(
                f"experts start from {self.sizes.num_experts - 1} clusters of the shapes of "
                f"{len(whole.region)} whole objects"
            )
        return "; ".join(done)

    def _learn_grouping(self, images: Tensor) -> tuple[str, float, Whole | None]:
        """From what, to which loss, and the whole objects if they were cut out."""
        recipe, slots, seed = self.recipe, self.sizes.num_slots, self.config.seed
        steps = recipe.grouping_steps
        if recipe.grouping_from == "textures":
            lesson: Lesson = partial(textured_leaves, images.float().cpu(), slots)
            return "leaves with textures out of", self._learn(lesson, steps, seed), None
        if recipe.grouping_from == "cutouts":
            loss, whole = self._learn_from_cutouts(images.float().cpu())
            how = f"{len(whole.image)} objects cut out of"
            return how, loss, Whole((whole.opacity > 0.5).float()[:, None], whole.colour)
        attention, noise = self.sizes.expert.attention, self.model.pixel_noise
        assert isinstance(attention, SeededAttention)
        seeds = SeedsAlone(self.guide, attention)
        found = layers_by_colour(images.to(self._device), seeds, slots, noise)
        objects = found.labels.flatten(1).amax(1).float().mean()
        loss = self._learn(Layers(*(a.cpu() for a in found)).some, steps, seed)
        return f"{objects:.1f} objects an image in", loss, None

    def _learn_from_cutouts(self, images: Tensor) -> tuple[float, Cutouts]:
        """A lesson of what is most probably one object, and one of what then is."""
        objects, steps = self.sizes.num_slots - 1, self.recipe.grouping_steps
        seed, first = self.config.seed, steps // 3
        cut = cut_out(images, objects)
        sure = cut.some(cut.sure)
        self._learn(partial(sure.scenes, objects), first, seed)
        whole = cut.some(covered(cut, lambda i: self._grown(images[i])))
        return self._learn(partial(whole.scenes, objects), steps - first, seed + 1), whole

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
