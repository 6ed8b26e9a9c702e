"""CLIP: texts and image crops embedded in one space, so that a text can name a class."""
