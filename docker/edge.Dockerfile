# The edge agent on a gateway. Its configuration comes in at /etc/hearthline, its buffer lives at /var/lib/hearthline: keep that volume.
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/hearthline
COPY docker/edge.lock ./
RUN /opt/hearthline/bin/pip install --no-cache-dir --require-hashes -r edge.lock
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
ENV PATH=/opt/hearthline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEARTHLINE_EDGE_CONFIG=/etc/hearthline/edge.toml HEARTHLINE_EDGE_DATA_DIR=/var/lib/hearthline
USER 10001:10001
VOLUME /var/lib/hearthline
EXPOSE 1884
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["edgectl", "status", "-o", "json"]
ENTRYPOINT ["edgectl"]
CMD ["run"]
