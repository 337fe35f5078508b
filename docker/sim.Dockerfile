# Simulated machines and appliances, for trying things out.
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
 && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin hearthline
COPY --from=build /opt/hearthline /opt/hearthline
ENV PATH=/opt/hearthline/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 5020
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 5020), 3).close()"]
ENTRYPOINT ["fwsim"]
CMD ["line", "--host", "0.0.0.0", "--port", "5020", "--log-dir", "/tmp/line"]
