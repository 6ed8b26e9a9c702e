"""Training stage: data, prompts, losses, pretraining, bi-level training, evaluation."""
