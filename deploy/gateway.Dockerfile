# The gateway and its HTTP front. A release renews the digest:
# docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${PYTHON} AS packages
WORKDIR /opt/cpcsam
RUN python3 -m venv /opt/venv
COPY deploy/gateway.lock deploy/
RUN /opt/venv/bin/python3 -m pip install --no-cache-dir --require-hashes --requirement deploy/gateway.lock
COPY LICENSE README.md pyproject.toml ./
COPY cpcsam/ cpcsam/
RUN /opt/venv/bin/python3 -m pip install --no-cache-dir --no-deps .
RUN /opt/venv/bin/python3 -m pip uninstall --yes pip setuptools

FROM ${PYTHON} AS gateway
# New volumes take their owner from these folders.
RUN install --directory --owner=1000 --group=1000 /var/lib/cpcsam/classes /var/lib/cpcsam/tokens
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/cpcsam
COPY serving/ serving/
# GLIBC_TUNABLES as serving/supervision/allocator.py says.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/cpcsam \
    PYTHONDONTWRITEBYTECODE=1 \
    GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1048576
USER 1000:1000
EXPOSE 50051 8080 9090 9091
ENTRYPOINT ["python3", "-m", "serving.gateway"]
