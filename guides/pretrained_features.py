r"""Features of a frozen pretrained vision transformer, by which pixels group, too.

A network that has learnt from photographs without labels (DINO, DINOv2) gives the patches of one
object tokens that are alike. Its tokens :math:`t_i` become further channels of the features phi
over which regions grow (:mod:`econ_pyro.guides.region_growing`):

.. math:: \frac{w}{\sigma} \, C^T (t_i - \bar t), \qquad \sigma^2 = \mathrm{tr}(C^T \Sigma C)

where :math:`\bar t` and :math:`\Sigma` are mean and covariance of the tokens of training images,
and the columns of C the first principal components. One scale holds for all of them, so that
distances stay in proportion: scales of their own would give the last components, which are mostly
noise, the weight of the first. :math:`\sigma` is the root mean square distance of a patch from the
mean, so a region ends where these features differ by a ninth of a standard deviation divided by
w, as it ends at a ninth of a channel of colour.

Images are resized so that there is one patch for STRIDE pixels of ours, and the projected tokens
are brought back to the pixels bilinearly. The network learns nothing and is never stored; what is
fitted to training images is, with a checksum of the network's files.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.files.hub import HUB, download
from econ_pyro.files.untrusted import open_regular
from econ_pyro.model_config import SeededAttention

STRIDE = 4  # pixels of an image, in each direction, for which there is one patch
IMAGES = 256  # training images that the features are fitted to, if there are as many
AT_ONCE = 16  # of them
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "model-*.safetensors")
FILES = (CONFIG, PREPROCESSOR, *WEIGHTS, "model.safetensors.index.json")
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
UNUSED = ("pooler", "mask_token")  # weights that tokens do not depend on
OPTION = "model.expert.attention.pretrained"
_LOADING = threading.Lock()


class PretrainedFeatures(nn.Module):
    """Images to channels of phi. It has no parameters; the network is no part of its state.

    Args:
        attention: names the network, and has the weight and the number of components.
        size: height and width of the images in pixels.

    Raises:
        EconError: transformers is missing, or there is no such network, or none of its kind.
    """

    def __init__(self, attention: SeededAttention, size: int) -> None:
        super().__init__()
        self.source, self.weight = attention.pretrained, attention.pretrained_weight
        self.grid = size // STRIDE
        self.folder = _find(self.source)
        self.patch, width = _sizes(self.folder, self.source)
        if attention.pretrained_dim > width:
            expected = f"at most {width} for {OPTION}-dim, the features of {self.source}"
            raise EconError(expected, str(attention.pretrained_dim))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(width, attention.pretrained_dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("checksum", torch.zeros(2))  # zeros: not fitted yet
        for name, values in _normalisation(self.folder).items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.mean: Tensor
        self.components: Tensor
        self.scale: Tensor
        self.checksum: Tensor
        self.image_mean: Tensor
        self.image_std: Tensor
        self._network: tuple[nn.Module] | None = None  # a tuple, so that it is no submodule
        self._verified = False
        self.register_load_state_dict_post_hook(_verify_loaded)

    @torch.no_grad()
    def fit(self, images: Tensor) -> float:
        """Fit mean, components and scale to training images.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            The components' share of the variance of the tokens.

        Raises:
            EconError: the network cannot be loaded, or has the same token everywhere.
        """
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for x in images.split(AT_ONCE):
            tokens = self._tokens(x.to(self.mean)).flatten(0, 2).double().cpu()
            count += tokens.shape[0]
            total, products = total + tokens.sum(0), products + tokens.mT @ tokens
        mean = total / count
        covariance = products / count - torch.outer(mean, mean)
        variances, vectors = (a.flip(-1) for a in torch.linalg.eigh(covariance))
        kept = variances[: self.components.shape[1]].sum()
        if not kept > 1e-8:  # of tokens, which a network brings to a size of about 1
            got = f"the same features everywhere in {len(images)} of them"
            raise EconError(f"training images that differ, for {OPTION}", got)
        self.mean.copy_(mean)
        self.components.copy_(vectors[:, : self.components.shape[1]])
        self.scale.copy_(kept.sqrt())
        self.checksum.copy_(torch.tensor(_checksum(self.folder)))
        return float(kept / variances.sum())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Channels of phi, ``(B, D, H, W)``, of type and device of the images; no gradients.

        Args:
            x: images, ``(B, 3, H, W)`` in [0, 1].

        Raises:
            EconError: nothing has been fitted, or it was with another network.
        """
        if not self._verified:
            self.verify()
        found = (self._tokens(x).to(x) - self.mean) @ self.components * (self.weight / self.scale)
        return F.interpolate(found.movedim(-1, 1), x.shape[2:], mode="bilinear").to(x)

    def verify(self) -> None:
        """Check that the features were fitted, and with the network that is there now.

        Raises:
            EconError: they were not.
        """
        fitted = self.checksum.tolist()
        if not any(fitted):
            hint = "training does so first; in Python, econ.initialise"
            raise EconError(f"{OPTION} fitted to training images", "new weights", hint)
        if fitted != _checksum(self.folder):
            hint = "name the files that the model was trained with; a revision as @REVISION"
            raise EconError(f"the network that {OPTION} was fitted with",
                            f"other weights in {self.source}", hint)  # fmt: skip
        self._verified = True

    def _tokens(self, x: Tensor) -> Tensor:
        """The network's patch tokens, ``(B, H / STRIDE, W / STRIDE, D)``, rows first."""
        network, side = self._on(x.device), (self.grid * self.patch,) * 2
        with torch.autocast(x.device.type, enabled=False):  # the same in whatever precision
            seen = F.interpolate(x.float(), side, mode="bilinear", antialias=True)
            seen = (seen - self.image_mean.to(seen)) / self.image_std.to(seen)
            tokens = _last_hidden_state(network, seen)
        return tokens[:, -(self.grid**2) :].unflatten(1, (self.grid, self.grid))

    def _on(self, device: torch.device) -> nn.Module:
        """The network, which the first call loads and tries."""
        with _LOADING:
            if self._network is None:
                network, side = _load(self.folder, self.source), self.grid * self.patch
                try:
                    found = _last_hidden_state(network, torch.zeros(1, 3, side, side)).shape
                except Exception as error:  # whatever a network of another kind may raise
                    raise _unsuitable(self.source, error) from None
                if found[1] < self.grid**2 or found[2:] != self.mean.shape:
                    raise _unsuitable(self.source, f"output {tuple(found)} for {side}x{side}")
                self._network = (network,)
            (network,) = self._network
            if next(network.parameters()).device != device:
                network.to(device)
            return network


def keep_fitted(old: nn.Module, new: nn.Module) -> None:
    """Have a new model use features as they were fitted for another one of the same options."""
    features = (
        [m for m in net.modules() if isinstance(m, PretrainedFeatures)] for net in (old, new)
    )
    for own, other in zip(*features, strict=True):
        other.load_state_dict(own.state_dict())


def _last_hidden_state(network: Any, seen: Tensor) -> Tensor:
    options = {"interpolate_pos_encoding": True}  # those without the argument always do it
    if "interpolate_pos_encoding" not in inspect.signature(network.forward).parameters:
        options = {}
    with torch.no_grad():
        return network(pixel_values=seen, **options).last_hidden_state


def _verify_loaded(module: PretrainedFeatures, _: Any) -> None:
    module._verified = False
    if module.checksum.any():
        module.verify()


def _find(source: str) -> Path:
    """The folder of a network's files."""
    _transformers(source)
    if source.startswith(HUB):
        return download(source.removeprefix(HUB), FILES, "features")
    if not os.path.isfile(os.path.join(source, CONFIG)):
        expected = f"{HUB}OWNER/NAME, or a folder with {CONFIG}, as {OPTION}"
        raise EconError(expected, source if os.path.isdir(source) else f"no folder {source}")
    return Path(source)


def _transformers(source: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise EconError(
            f"the package transformers, for {OPTION} {source}",
            "none installed",
            "pip install 'econ-pyro[features]'",
        ) from None
    return transformers


def _sizes(folder: Path, source: str) -> tuple[int, int]:
    """Side of a patch in pixels, and width of a token."""
    read = _transformers(source).AutoConfig.from_pretrained
    try:
        config = read(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever is in the file
        raise _unsuitable(source, error) from None
    sizes = getattr(config, "patch_size", None), getattr(config, "hidden_size", None)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise _unsuitable(source, f"{config.model_type}, which has no patch tokens")
    return sizes  # type: ignore[return-value]


def _normalisation(folder: Path) -> dict[str, Any]:
    """Mean and standard deviation of channels, by which the network's images are normalised."""
    path, found = folder / PREPROCESSOR, dict[str, Any](IMAGENET)
    stored = storage.read_json(path) if path.exists() else {}
    for name in found:
        value = found[name] = stored.get(name, found[name])
        listed = isinstance(value, list | tuple) and len(value) == 3
        if not listed or not all(isinstance(v, int | float) for v in value) or 0 in value:
            raise EconError(f"three numbers as {name} in {path}", str(value)[:60])
    return found


def _load(folder: Path, source: str) -> nn.Module:
    """The network, frozen, in float32, on the CPU."""
    transformers = _transformers(source)
    # weights that the files lack are drawn at random first
    with torch.random.fork_rng(devices=[]), _quiet(transformers.utils.logging):
        try:
            network, found = transformers.AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # whatever is in the files
            raise _unsuitable(source, error) from None
    lacking = [n for n in sorted(found["missing_keys"]) if not any(u in n for u in UNUSED)]
    if lacking:
        raise _unsuitable(source, f"weights without {lacking[0]}")
    return network.eval().requires_grad_(False)


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without the library's bars and reports."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _unsuitable(source: str, reason: object) -> EconError:
    text = " ".join(str(reason).split())[:150]
    expected = f"a vision transformer, in safetensors, that transformers can load, as {OPTION}"
    return EconError(expected, f"{source} ({text})", "such as hf:facebook/dinov2-small")


def _checksum(folder: Path) -> list[float]:
    """Of the network's weights, as two numbers that float32 holds exactly."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        with open_regular(path, f"weights of {OPTION}") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return [float(int.from_bytes(total.digest()[i : i + 3], "big")) for i in (0, 3)]
