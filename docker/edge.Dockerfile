# syntax=docker/dockerfile:1
# The edge agent of a gateway, with what runs its models.
# Build from the root of the project: docker build -f docker/edge.Dockerfile .
ARG PYTHON=3.12-slim-bookworm

# Everything comes from requirements.lock, by hash; only the part that this image runs.
FROM python:${PYTHON} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock pyproject.toml docker/locked.py ./
RUN python locked.py requirements.lock pyproject.toml build > build.lock \
 && python locked.py requirements.lock pyproject.toml edge,inference > run.lock \
 && python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r build.lock \
 && python -m venv /opt/hearthline && /opt/hearthline/bin/pip install --require-hashes -r run.lock
COPY README.md LICENSE ./
COPY protocols ./protocols
COPY edge_agent ./edge_agent
COPY cloud ./cloud
COPY firmware_sim ./firmware_sim
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/hearthline/bin/pip install --no-deps /wheels/*.whl \
 && /opt/hearthline/bin/python -m compileall -q /opt/hearthline/lib

FROM python:${PYTHON}
RUN useradd --system --uid 10001 --user-group --no-create-home hearthline \
 && install -d -o hearthline -g hearthline -m 0700 /config /data
COPY --from=build /opt/hearthline /opt/hearthline
ENV PATH=/opt/hearthline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEARTHLINE_EDGE_CONFIG=/config/edge.toml HEARTHLINE_EDGE_DATA_DIR=/data
USER hearthline
WORKDIR /config
VOLUME /config /data
EXPOSE 1884
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 \
  CMD ["edgectl", "status", "--check"]
CMD ["edgectl", "run"]
