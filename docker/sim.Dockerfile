# syntax=docker/dockerfile:1
# Simulated appliances and equipment; a production line on Modbus TCP unless told otherwise.
# Build from the root of the project: docker build -f docker/sim.Dockerfile .
ARG PYTHON=3.12-slim-bookworm

# Everything comes from requirements.lock, by hash; only the part that this image runs.
FROM python:${PYTHON} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements.lock pyproject.toml docker/locked.py ./
RUN python locked.py requirements.lock pyproject.toml build > build.lock \
 && python locked.py requirements.lock pyproject.toml sim > run.lock \
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
 && install -d -o hearthline -g hearthline -m 0700 /logs
COPY --from=build /opt/hearthline /opt/hearthline
ENV PATH=/opt/hearthline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER hearthline
WORKDIR /logs
VOLUME /logs
EXPOSE 5020
STOPSIGNAL SIGTERM
# Modbus' own "return query data": the server has to give it back. It reads no register, so no row counts as polled.
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import socket; s = socket.create_connection(('127.0.0.1', 5020), 4); q = bytes.fromhex('000100000006' '01080000a537'); s.sendall(q); assert s.recv(64) == q"]
# A log of rows is never written over: each start has a directory of its own.
CMD ["sh", "-c", "exec fwsim line --host 0.0.0.0 --log-dir /logs/$(date +%Y%m%dT%H%M%S)"]
