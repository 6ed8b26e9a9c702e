"""The contract's graphs as torch modules, in traceable, fp16 and int8 form, traced to ONNX."""
