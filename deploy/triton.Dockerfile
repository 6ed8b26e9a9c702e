# A TensorRT plan runs only in the TensorRT that built it: build plans in this very image.
FROM nvcr.io/nvidia/tritonserver:25.10-py3

WORKDIR /opt/cpcsam
COPY deploy/triton.lock deploy/
RUN PIP_BREAK_SYSTEM_PACKAGES=1 \
    pip install --no-cache-dir --require-hashes --requirement deploy/triton.lock
# Python bindings of the very TensorRT in the image, which tells its version, to build engines with.
RUN PIP_BREAK_SYSTEM_PACKAGES=1 \
    pip install --no-cache-dir --no-deps "tensorrt-cu13-bindings==${TRT_VERSION%%+*}.*"
# The image's own Python is not 3.11, so the project is not installed but put on the path.
COPY cpcsam/ cpcsam/
COPY serving/ serving/
COPY deploy/triton.sh deploy/
ENV PYTHONPATH=/opt/cpcsam
USER 1000:1000
EXPOSE 8000 8001 8002
CMD ["deploy/triton.sh"]
