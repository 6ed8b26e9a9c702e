"""The open-vocabulary systems on CLIP: regions or pixels scored by the texts of classes."""
