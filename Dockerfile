# For machines with a GPU. Weights, runs and the cache of models are the caller's:
#   docker build --tag sae-lens-meta .
#   docker run --rm --gpus all --volume "$PWD:/work" --volume "$HOME/.cache:/home/ubuntu/.cache" sae-lens-meta --help
FROM nvidia/cuda:12.8.1-base-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3=3.12.* python3-venv=3.12.* \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
# torch brings its own CUDA libraries; by itself, so that a change of the package does not fetch it again
RUN pip install --no-cache-dir torch==2.13.0
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY sae_lens_meta ./sae_lens_meta
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[judge,ray,report]"
# the base image's own user, whose number is that of a first user outside
USER 1000
WORKDIR /work
ENTRYPOINT ["sae-lens-meta"]
