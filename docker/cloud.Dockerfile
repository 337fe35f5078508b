# The whole cloud in one container: front door, ingest, store, API and console, with its NATS server as a child process.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/hearthline
COPY requirements.lock ./
RUN /opt/hearthline/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY protocols protocols
COPY edge_agent edge_agent
COPY cloud cloud
COPY firmware_sim firmware_sim
RUN /opt/hearthline/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm
RUN groupadd --system --gid 10001 hearthline \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/hearthline --shell /usr/sbin/nologin hearthline \
 && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/hearthline
COPY --from=build /opt/hearthline /opt/hearthline
ENV PATH=/opt/hearthline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HEARTHLINE_DIR=/var/lib/hearthline
USER 10001:10001
VOLUME /var/lib/hearthline
EXPOSE 1883 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["hearthline"]
CMD ["up", "--host", "0.0.0.0", "--mqtt-port", "1883", "--api-port", "8080"]
