#!/bin/sh
# Start Triton in its container over the current version; further options may follow.
set -eu

# Refuses an altered version, and engines for another TensorRT or another GPU.
models=$(python3 -m serving.repository "${CPCSAM_MODELS:-/models}")

# Who does not know this word gets no answer from the closed interfaces, and nobody knows it.
word=$(od -A n -N 32 -t x1 /dev/urandom | tr -d ' \n')
closed="shared-memory,model-repository,trace,logging:admin=$word"

exec tritonserver \
  --model-repository="$models" \
  --model-control-mode=none \
  --disable-auto-complete-config \
  --strict-readiness=true \
  --exit-on-error=true \
  --exit-timeout-secs=10 \
  --grpc-restricted-protocol="$closed" \
  --http-restricted-api="$closed" \
  --metrics-config=histogram_latencies=true \
  "$@"
