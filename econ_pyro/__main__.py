"""``python -m econ_pyro``: the console command ``econ-pyro``."""

from econ_pyro.scripts.main import main

if __name__ == "__main__":
    main()
