#!/bin/sh
# Start Triton in its container with the current version of a repository and further options.
set -eu

# Refuses an altered version, and engines for another TensorRT or another GPU.
models=$(python3 -m serving.repository "${CPCSAM_MODELS:-/models}")

# Pools that hold the largest batches of this model; later options of the same name win.
pools=$(python3 -m serving.repository --memory-pools "$models")

# The closed interfaces answer only to callers with this secret, which nobody has.
secret=$(od -A n -N 32 -t x1 /dev/urandom | tr -d ' \n')
closed="shared-memory,model-repository,trace,logging:admin=$secret"

# shellcheck disable=SC2086 # words without spaces, one option each
set -- $pools "$@"

# Ends when Triton does, or when a step of it is dead, so that the container is started again.
exec python3 -m serving.watch tritonserver \
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
