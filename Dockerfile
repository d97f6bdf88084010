# CPU:  docker build -t econ-pyro .
# CUDA: docker build -t econ-pyro:cuda --build-arg BASE=pytorch/pytorch:latest .
# Run:  docker run --rm -v "$PWD/runs:/workspace/runs" econ-pyro train quick --run runs/quick
#       (CUDA: add --gpus all)
# Any base with Python 3.10 or later will do; a torch that it has is kept.
ARG BASE=python:3.11-slim
FROM ${BASE}

# optional packages to install as well: "ui,hub", say
ARG EXTRAS=""
# package index for torch, if the base has none: PyTorch's own index of CPU builds makes a CPU image
# much smaller
ARG TORCH_INDEX=""

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1 \
    PYTHONUNBUFFERED=1

WORKDIR /src
COPY constraints.txt ./
RUN grep -v '^torch==' constraints.txt > /tmp/pins.txt \
    && (python -c "import torch" 2>/dev/null \
        || pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
            "$(grep '^torch==' constraints.txt)")
COPY pyproject.toml README.md LICENSE ./
COPY econ_pyro econ_pyro
COPY models models
COPY guides guides
COPY scripts scripts
RUN pip install -c /tmp/pins.txt ".${EXTRAS:+[$EXTRAS]}" && rm -rf /src/* /tmp/pins.txt

# not root; UID should be that of the owner of the folders that will be mounted
ARG UID=1000
RUN useradd --create-home --uid "$UID" econ 2>/dev/null || useradd --create-home econ \
    && mkdir -p /workspace && chown econ /workspace
USER econ
WORKDIR /workspace
ENTRYPOINT ["econ-pyro"]
CMD ["--help"]
