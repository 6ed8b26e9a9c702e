# Triton: the target `cpu` runs the server of the wheel nvidia-pytriton and ONNX Runtime's CPU build,
# the target `gpu` NVIDIA's image with TensorRT. A release renews and pins the digests:
# docker buildx imagetools inspect nvcr.io/nvidia/tritonserver:25.10-py3
ARG PYTHON=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d
ARG TRITON=nvcr.io/nvidia/tritonserver:25.10-py3

FROM ${PYTHON} AS cpu-packages
WORKDIR /opt/cpcsam
RUN python3 -m venv /opt/venv
COPY requirements-no-deps.lock ./
COPY deploy/triton-cpu.lock deploy/
RUN /opt/venv/bin/python3 -m pip install --no-cache-dir --require-hashes --requirement deploy/triton-cpu.lock
RUN /opt/venv/bin/python3 -m pip install --no-cache-dir --require-hashes --no-deps --requirement requirements-no-deps.lock
# That lock also has what only the tests need.
RUN /opt/venv/bin/python3 -m pip uninstall --yes kubernetes-validate stardist pip setuptools

FROM ${PYTHON} AS cpu
# hadolint ignore=DL3008 # Debian keeps no old versions that could be named
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 libstdc++6 zlib1g \
    && rm -rf /var/lib/apt/lists/*
RUN install --directory --owner=1000 --group=1000 /var/cache/cpcsam
COPY --from=cpu-packages /opt/venv /opt/venv
WORKDIR /opt/cpcsam
COPY cpcsam/ cpcsam/
COPY serving/ serving/
COPY deploy/triton.sh deploy/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/cpcsam \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CACHE_HOME=/var/cache/cpcsam
USER 1000:1000
EXPOSE 8000 8001 8002
CMD ["deploy/triton.sh"]

# A TensorRT plan runs only in the TensorRT that built it: build plans in this very image.
FROM ${TRITON} AS gpu-packages
WORKDIR /opt/cpcsam
# Ubuntu's Python has no ensurepip, so its own pip installs into the environment.
RUN python3 -m venv --without-pip /opt/venv
COPY deploy/triton.lock deploy/
RUN python3 -m pip --python /opt/venv/bin/python3 install --no-cache-dir --require-hashes --requirement deploy/triton.lock
# Python bindings of the very TensorRT in the image, which tells its version, to build engines with.
RUN python3 -m pip --python /opt/venv/bin/python3 install --no-cache-dir --no-deps "tensorrt-cu13-bindings==${TRT_VERSION%%+*}.*"

FROM ${TRITON} AS gpu
COPY --from=gpu-packages /opt/venv /opt/venv
WORKDIR /opt/cpcsam
COPY cpcsam/ cpcsam/
COPY serving/ serving/
COPY deploy/triton.sh deploy/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/cpcsam \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 8000 8001 8002
CMD ["deploy/triton.sh"]
