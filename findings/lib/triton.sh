# The real tritonserver of the wheel nvidia-pytriton 0.7.0, without Docker: sourced by triton-*.sh.
# Makes $folder with an environment of $1 (requirements) and $folder/models to be filled, and gives
# start_triton [OPTION ...], which sets $http and $metrics (URLs on 127.0.0.1). It ends on exit.
# start_traced_triton [OPTION ...] does so in OpenTelemetry mode, for requests with a `traceparent`, and
# keeps each body that is posted to its collector as a file of $folder/received.
# copy_model NAME fills in a Python model whose output y is its input x, of 4 float32.
folder=$(mktemp -d)
triton= collector=
clean_up() {
  [ -z "$collector" ] || kill "$collector" 2>/dev/null || true
  [ -z "$triton" ] || { kill -9 -- "-$triton" && wait "$triton"; } 2>/dev/null || true
  rm -rf "$folder"
}
trap clean_up EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "$@"
"$folder/venv/bin/pip" install --quiet --no-deps nvidia-pytriton==0.7.0 2>/dev/null
read -r site version libdir < <("$folder/venv/bin/python" -c \
  'import sys, sysconfig as s; print(s.get_path("purelib"), "%d.%d" % sys.version_info[:2], s.get_config_var("LIBDIR"))')
wheel=$site/pytriton/tritonserver
cp -r "$wheel/backends" "$folder/backends"
cp "$wheel/python_backend_stubs/$version/triton_python_backend_stub" "$folder/backends/python/"
mkdir "$folder/models"

start_triton() {
  local ports
  ports=$("$folder/venv/bin/python" -c 'import socket as s
held = [s.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))')
  http=http://127.0.0.1:${ports% *} metrics=http://127.0.0.1:${ports#* }/metrics
  LD_LIBRARY_PATH="$libdir:$site/nvidia_pytriton.libs" PATH="$folder/venv/bin:$PATH" \
    setsid "$wheel/bin/tritonserver" --model-repository="$folder/models" \
    --backend-directory="$folder/backends" --cache-directory="$wheel/caches" \
    --backend-config="python,shm-region-prefix-name=$(basename "$folder")-" \
    --http-address=127.0.0.1 --http-port="${ports% *}" --allow-grpc=false \
    --metrics-address=127.0.0.1 --metrics-port="${ports#* }" --allow-gpu-metrics=false \
    --disable-auto-complete-config --pinned-memory-pool-byte-size=0 "$@" >"$folder/log" 2>&1 &
  triton=$!
  for _ in $(seq 120); do
    "$folder/venv/bin/python" - "$http/v2/health/ready" 2>/dev/null <<'PROGRAM' && return
import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=2)
PROGRAM
    kill -0 "$triton" || break
    sleep 1
  done
  cat "$folder/log"
  return 1
}

copy_model() {
  mkdir -p "$folder/models/$1/1"
  cat >"$folder/models/$1/config.pbtxt" <<'CONFIG'
backend: "python"
max_batch_size: 1
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
instance_group { kind: KIND_CPU }
CONFIG
  cat >"$folder/models/$1/1/model.py" <<'MODEL'
import triton_python_backend_utils as utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [utils.InferenceResponse([utils.Tensor("y", array)]) for array in arrays]
MODEL
}

start_traced_triton() {
  mkdir "$folder/received"
  # Ends by itself.
  timeout 300 "$folder/venv/bin/python" - "$folder/received" <<'COLLECTOR' &
import http.server
import itertools
import pathlib
import sys

folder, numbers = pathlib.Path(sys.argv[1]), itertools.count()


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (folder / f"body{next(numbers)}").write_bytes(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
(folder / "port").write_text(str(server.server_port))
server.serve_forever()
COLLECTOR
  collector=$!
  until [ -s "$folder/received/port" ]; do sleep 0.1; done
  start_triton --trace-config=mode=opentelemetry --trace-config=level=TIMESTAMPS --trace-config=rate=0 \
    --trace-config=count=-1 --trace-config=opentelemetry,bsp_schedule_delay=200 \
    --trace-config=opentelemetry,url="http://127.0.0.1:$(cat "$folder/received/port")/v1/traces" "$@"
}
