r"""Names of the sample sites, and the one convention for the order of layers.

The paper counts layers from the back: t = 1 is the background, t = T the nearest object. Inference
runs the other way. Every stacked tensor in this project (``k``, regions, means, noise) has its
layer axis **front to back**: index i holds layer t = T - i. Site names carry the paper's t, so
``z_4`` is the nearest of four layers whichever program made it.
"""

IMAGE = "x"
"""What the model observes."""
COMPOSED = "image"
"""What the prior paints of its layers, a deterministic site."""
SCENES = "scenes"
MASKS = "masks"
"""To which slot each pixel belongs, of models whose slots share the pixels out (MONet)."""
ATTENTION = "attention"
"""Share of each slot in each pixel in the last iteration, deterministic (Slot Attention)."""
ORDER = "order"
"""Index of the depth order, of models that try all of them (M-RBM)."""
MASK_UNITS = "g"
"""Hidden units of a mask of all layers (the M-RBM's softmax variant)."""


def k(t: int) -> str:
    """Class of layer t (section 2)."""
    return f"k_{t}"


def z(t: int) -> str:
    """Latent properties of layer t (section 2)."""
    return f"z_{t}"


def z_mask(t: int) -> str:
    """Latent of the mask of slot t (GENESIS)."""
    return f"z_mask_{t}"


def z_component(t: int) -> str:
    """Latent of the appearance of slot t (GENESIS)."""
    return f"z_component_{t}"


def z_start(t: int) -> str:
    """Latent of slot t before the first iteration (Slot Attention)."""
    return f"z_start_{t}"


def seed_noise(t: int) -> str:
    """Noise by which the seed pixel of slot t is drawn (GENESIS-V2)."""
    return f"seed_noise_{t}"


def z_draft(t: int, draft: int) -> str:
    """Latent of slot t from which a posterior is refined, counted from 0 (IODINE)."""
    return f"z_{t}_draft_{draft}"


def h(t: int) -> str:
    """Hidden units of the appearance of layer t (M-RBM)."""
    return f"h_{t}"


def g(t: int) -> str:
    """Hidden units of the shape of layer t (M-RBM)."""
    return f"g_{t}"


def latents(t: int) -> tuple[str, ...]:
    """Every name that a latent of layer t has in some model."""
    return z(t), z_mask(t), z_component(t)


def m(t: int) -> str:
    """Unoccluded shape of layer t (Eq. 4)."""
    return f"m_{t}"


def x(t: int) -> str:
    """Appearance of layer t (Eq. 5)."""
    return f"x_{t}"


def r(t: int) -> str:
    """Visible region of layer t (Eqs. 7 and 9)."""
    return f"r_{t}"


def front_to_back(slots: int) -> range:
    """The layers in the order of inference: T, T-1, ..., 1."""
    return range(slots, 0, -1)


def back_to_front(slots: int) -> range:
    """The layers in the order of painting: 1, 2, ..., T."""
    return range(1, slots + 1)
