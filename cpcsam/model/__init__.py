"""The torch model: segment-anything's SAM, batched over images and prompts, with CaPL and LoRA."""
