"""ECON: layered generative scene models by competition of experts, in PyTorch and Pyro.

``econ_pyro.load(run)`` gives a trained :class:`~econ_pyro.econ.Econ` with ``decompose``,
``sample`` and ``experts``.
"""

from typing import TYPE_CHECKING, Any

from econ_pyro._version import __version__
from econ_pyro.errors import EconError

if TYPE_CHECKING:
    from econ_pyro.econ import Econ, load, load_expert
    from econ_pyro.evaluation.posterior import to_arviz

__all__ = ["Econ", "EconError", "__version__", "load", "load_expert", "to_arviz"]


def __getattr__(name: str) -> Any:
    # econ_pyro.econ imports torch, Pyro and all networks: it is loaded when first asked for
    if name in ("Econ", "load", "load_expert"):
        from econ_pyro import econ

        return getattr(econ, name)
    if name == "to_arviz":
        from econ_pyro.evaluation.posterior import to_arviz

        return to_arviz
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
