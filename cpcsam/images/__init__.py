"""Reader of image files, shared by training, serving, client and command line."""
