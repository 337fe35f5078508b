# syntax=docker/dockerfile:1
# The cloud: front door, ingest, store, API and console, supervised by `hearthline up`.
# Build from the root of the project: docker build -f docker/cloud.Dockerfile .
ARG PYTHON=3.12-slim-bookworm

# Everything comes from requirements.lock, by hash; only the part that this image runs.
FROM python:${PYTHON} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock pyproject.toml docker/locked.py ./
RUN python locked.py requirements.lock pyproject.toml build > build.lock \
 && python locked.py requirements.lock pyproject.toml cloud > run.lock \
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
 && install -d -o hearthline -g hearthline -m 0700 /data
COPY --from=build /opt/hearthline /opt/hearthline
ENV PATH=/opt/hearthline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEARTHLINE_DIR=/data HEARTHLINE_HOST=0.0.0.0 HEARTHLINE_MQTT_PORT=1883 HEARTHLINE_API_PORT=8080 NICEGUI_STORAGE_PATH=/data/console
USER hearthline
WORKDIR /data
VOLUME /data
EXPOSE 1883 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=5)"]
CMD ["hearthline", "up"]
