"""gRPC gateway in front of Triton."""

import os

# Below errors, gRPC's core logs what peers send, such as the text of their GOAWAY frames. It reads
# this when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
