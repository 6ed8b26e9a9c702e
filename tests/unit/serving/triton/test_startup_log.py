from __future__ import annotations

from serving.triton.startup_log import failure_cause

MODEL = (
    "E1122 16:53:14.903985 167 model_lifecycle.cc:642] \"failed to load 'image_encoder' version 1: "
    'Internal: TritonModelException: model.onnx: got \\"text\\", expected an ONNX graph\\n\\nAt:\\n'
    '  python_backend.py(40): initialize\\n"\n'
)
ENSEMBLE = (
    'E1122 16:53:17.220901 167 model_repository_manager.cc:703] "Invalid argument: ensemble '
    "'encode' depends on 'image_encoder' which has no loaded version.\"\n"
)
CONFIG = (
    "[libprotobuf ERROR text_format.cc:337] Error parsing text-format inference.ModelConfig: "
    '166:15: Message type "inference.ModelConfig" has no field named "model_metrics".\n'
    'E1122 16:43:39.849070 98 model_repository_manager.cc:1460] "Poll failed for model directory '
    "'decode': failed to read text proto from decode/config.pbtxt\"\n"
    "error: creating server: Internal - failed to load all models\n"
)
PORT = (
    'E1122 16:52:17.395839 153 main.cc:245] "failed to start GRPC service: Unavailable - Socket '
    "'127.0.0.1:18001' already in use \"\n"
)
LIBRARY = (
    "tritonserver: error while loading shared libraries: libz.so.1: cannot open shared object "
    "file: No such file or directory\n"
)


def test_failure_cause_of_a_failed_model_omits_traceback_and_consequences() -> None:
    expected = 'model image_encoder: model.onnx: got "text", expected an ONNX graph'
    assert failure_cause(MODEL + ENSEMBLE + MODEL) == expected


def test_failure_cause_of_two_failed_models_names_both() -> None:
    cause = failure_cause(MODEL + MODEL.replace("image_encoder", "mask_decoder"))
    assert cause.count("expected an ONNX graph") == 2
    assert "; model mask_decoder: " in cause


def test_failure_cause_of_a_rejected_configuration_names_its_line() -> None:
    cause = failure_cause(CONFIG)
    assert cause.startswith("model decode: failed to read text proto")
    assert '166:15: Message type "inference.ModelConfig" has no field' in cause


def test_failure_cause_of_a_busy_port_names_it() -> None:
    assert failure_cause(PORT) == "GRPC port: 127.0.0.1:18001 is in use"


def test_failure_cause_of_a_missing_library_names_it() -> None:
    assert failure_cause(LIBRARY).startswith("missing library: libz.so.1")


def test_failure_cause_otherwise_is_the_last_line() -> None:
    assert failure_cause("error: creating server: no such folder\nbye\n") == (
        "creating server: no such folder"
    )
    assert failure_cause("first\nlast\n\n") == "last"
    assert failure_cause("") == "it wrote nothing"
